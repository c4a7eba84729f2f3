//! Patches to tokens.
//!
//! A [`Quantizer`] maps each patch to one code per codebook. The weights of random projection and finite scalars are
//! drawn once, from a seed, or read from a file ([`weights`]), and never trained; those of [`k_means`] are fitted to
//! patches. [`usage`] counts which codes are used, the measure of
//! whether a quantizer suits the data.

mod error;
mod kernel;
mod normal;

pub mod finite_scalar;
pub mod k_means;
pub mod random_projection;
pub mod torch;
pub mod usage;
pub mod weights;

pub use error::QuantizeError;
pub use finite_scalar::{FiniteScalar, FiniteScalarConfig};
pub use k_means::{KMeans, KMeansConfig};
pub use random_projection::{RandomProjection, RandomProjectionConfig};
pub use usage::CodeUsage;

/// Maps patches to codes.
pub trait Quantizer: Send + Sync {
    /// Another one with the same weights, which both share, for another thread.
    fn another(&self) -> Box<dyn Quantizer>;

    /// Values in one patch.
    fn input_len(&self) -> usize;

    /// Codes per patch.
    fn codebooks(&self) -> usize;

    /// Codes that each codebook knows; every token is below it.
    fn codebook_size(&self) -> usize;

    /// Quantizes patches.
    ///
    /// # Shapes
    /// `patches`: `(positions, input_len)`; `tokens`: `(positions, codebooks)`.
    ///
    /// # Errors
    /// [`QuantizeError::Length`] when a slice has another length, [`QuantizeError::NonFinite`] when a patch holds
    /// infinities or NaN, which no code is nearest to.
    fn forward_into(&mut self, patches: &[f32], tokens: &mut [u16]) -> Result<(), QuantizeError>;

    /// Quantizes patches into a new vector.
    ///
    /// # Errors
    /// As [`Quantizer::forward_into`].
    fn forward(&mut self, patches: &[f32]) -> Result<Vec<u16>, QuantizeError> {
        let mut tokens = vec![0; patches.len() / self.input_len() * self.codebooks()];
        self.forward_into(patches, &mut tokens)?;
        Ok(tokens)
    }
}
