//! Random-projection quantization: BEST-RQ (Chiu et al., arXiv 2202.01855, section 3.1), with one to sixteen codebooks.
//!
//! A patch is projected by a fixed random matrix; its token is the row of a fixed random codebook with the largest
//! cosine to it, which is the nearest row once both have unit length. Every codebook has a projection of its own.

use std::sync::Arc;

use pulp::Arch;

use super::kernel::{NearestScratch, Projection, Rows};
use super::torch::TorchGenerator;
use super::weights::{CodebookWeights, SeededNormal, WeightsFile};
use super::{QuantizeError, Quantizer};

/// Sizes of a random-projection quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomProjectionConfig {
    /// Values in one patch.
    pub input_len: usize,
    /// Codes per patch, 1 to 16.
    pub codebooks: usize,
    /// Rows of each codebook, 2 to 65,536.
    pub codebook_size: usize,
    /// Values of a row, 1 to 1,024.
    pub codebook_dim: usize,
}

impl RandomProjectionConfig {
    /// Refuses sizes outside their range.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] naming the first of them.
    pub fn check(&self) -> Result<(), QuantizeError> {
        QuantizeError::check_limits(&[
            ("input_len", self.input_len, 1..=usize::MAX, "1 value or more"),
            ("codebooks", self.codebooks, 1..=16, "1 to 16"),
            ("codebook_size", self.codebook_size, 2..=65_536, "2 to 65536 codes"),
            ("codebook_dim", self.codebook_dim, 1..=1_024, "1 to 1024 values"),
        ])
    }
}

/// A random-projection quantizer. A clone shares the weights.
pub struct RandomProjection {
    config: RandomProjectionConfig,
    codebooks: Arc<[(Projection, Rows)]>,
    arch: Arch,
    /// Projected patches of one panel.
    directions: Vec<f32>,
    nearest: NearestScratch,
}

impl Clone for RandomProjection {
    fn clone(&self) -> Self {
        let codebooks = Arc::clone(&self.codebooks);
        Self { codebooks, directions: Vec::new(), nearest: NearestScratch::default(), ..*self }
    }
}

/// Patches that are projected before they are looked up together: their state stays in the second-level cache.
const PANEL: usize = 256;

impl RandomProjection {
    /// A quantizer with these weights, one entry per codebook.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range, [`QuantizeError::Length`] for weights that do not have
    /// them.
    pub fn new(config: RandomProjectionConfig, weights: &[CodebookWeights]) -> Result<Self, QuantizeError> {
        config.check()?;
        QuantizeError::check_len("codebooks", weights.len(), config.codebooks)?;
        let dim = config.codebook_dim;
        for one in weights {
            QuantizeError::check_len("projection", one.projection.len(), config.input_len * dim)?;
            QuantizeError::check_len("codebook", one.codebook.len(), config.codebook_size * dim)?;
        }
        let codebooks =
            weights.iter().map(|one| (Projection::new(&one.projection, dim), Rows::unit(&one.codebook, dim))).collect();
        let (directions, nearest) = (Vec::new(), NearestScratch::default());
        Ok(Self { config, codebooks, arch: Arch::new(), directions, nearest })
    }

    /// Weights from our own generator; codebook `i` is drawn from seed `seed + i`.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range.
    pub fn seeded(config: RandomProjectionConfig, seed: u64) -> Result<Self, QuantizeError> {
        Self::drawn(config, |i| Ok(draw(&mut SeededNormal::new(seed.wrapping_add(i as u64)), config)))
    }

    /// Weights as PyTorch's CPU generator draws them; codebook `i` after `torch.manual_seed(seed + i)`. The published
    /// models used seed 0 for every view.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range.
    pub fn torch_seeded(config: RandomProjectionConfig, seed: u64) -> Result<Self, QuantizeError> {
        Self::drawn(config, |i| Ok(draw(&mut TorchGenerator::new(seed.wrapping_add(i as u64)), config)))
    }

    /// The weights of a view in a weights file (names: [`super::weights`]).
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range, [`QuantizeError::Tensor`] for tensors that the file does
    /// not hold.
    pub fn from_file(config: RandomProjectionConfig, file: &WeightsFile, view: &str) -> Result<Self, QuantizeError> {
        let sizes = [config.input_len, config.codebook_size, config.codebook_dim];
        Self::drawn(config, |i| file.codebook(view, i, sizes))
    }

    fn drawn(
        config: RandomProjectionConfig,
        codebook: impl Fn(usize) -> Result<CodebookWeights, QuantizeError>,
    ) -> Result<Self, QuantizeError> {
        // Sizes come from the user: check them before they are allocated.
        config.check()?;
        let weights = (0..config.codebooks).map(codebook).collect::<Result<Vec<_>, _>>()?;
        Self::new(config, &weights)
    }
}

fn draw(rng: &mut impl super::weights::DrawNormal, config: RandomProjectionConfig) -> CodebookWeights {
    CodebookWeights::draw(rng, config.input_len, config.codebook_size, config.codebook_dim)
}

impl Quantizer for RandomProjection {
    fn another(&self) -> Box<dyn Quantizer> {
        Box::new(self.clone())
    }

    fn input_len(&self) -> usize {
        self.config.input_len
    }

    fn codebooks(&self) -> usize {
        self.config.codebooks
    }

    fn codebook_size(&self) -> usize {
        self.config.codebook_size
    }

    fn forward_into(&mut self, patches: &[f32], tokens: &mut [u16]) -> Result<(), QuantizeError> {
        let RandomProjectionConfig { input_len, codebooks, codebook_dim, .. } = self.config;
        let positions = patches.len() / input_len;
        QuantizeError::check_len("patches", patches.len(), positions * input_len)?;
        QuantizeError::check_len("tokens", tokens.len(), positions * codebooks)?;
        let panels = patches.chunks(PANEL * input_len).zip(tokens.chunks_mut(PANEL * codebooks));
        for (panel, (patches, tokens)) in panels.enumerate() {
            self.directions.resize(patches.len() / input_len * codebook_dim, 0.0);
            for (book, (projection, rows)) in self.codebooks.iter().enumerate() {
                projection.directions(self.arch, patches, &mut self.directions).map_err(|error| match error {
                    QuantizeError::NonFinite { position } => {
                        QuantizeError::NonFinite { position: panel * PANEL + position }
                    }
                    error => error,
                })?;
                rows.best(self.arch, &self.directions, &mut self.nearest, |i, row| {
                    // `check` keeps the codebook within 65,536 rows.
                    tokens[i * codebooks + book] = row as u16;
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::weights::DrawNormal;

    const CONFIG: RandomProjectionConfig =
        RandomProjectionConfig { input_len: 30, codebooks: 3, codebook_size: 100, codebook_dim: 16 };

    fn noise(len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        SeededNormal::new(99).draw(&mut out, 1.0);
        out
    }

    #[test]
    fn tokens_do_not_depend_on_how_patches_are_grouped() {
        let patches = noise(30 * (PANEL + 77));
        let mut quantizer = RandomProjection::seeded(CONFIG, 5).unwrap();
        let together = quantizer.forward(&patches).unwrap();
        for positions in [1, 3, 4, 250] {
            let mut parts = Vec::new();
            for part in patches.chunks(30 * positions) {
                parts.extend(quantizer.forward(part).unwrap());
            }
            assert_eq!(parts, together, "{positions} at a time");
        }
        assert!(together.iter().all(|&token| token < 100));
    }

    #[test]
    fn a_codebook_row_is_its_own_token() {
        // The identity as projection: patches are what the codebook is made of.
        let dim = 16;
        let identity = (0..dim * dim).map(|i| if i % (dim + 1) == 0 { 1.0 } else { 0.0 }).collect();
        let weights = CodebookWeights { projection: identity, codebook: noise(500 * dim) };
        let config = RandomProjectionConfig { input_len: dim, codebooks: 1, codebook_size: 500, codebook_dim: dim };
        let mut quantizer = RandomProjection::new(config, std::slice::from_ref(&weights)).unwrap();
        let scaled: Vec<f32> = weights.codebook.iter().map(|x| x * 0.01).collect();
        let expected: Vec<u16> = (0..500).collect();
        assert_eq!(quantizer.forward(&scaled).unwrap(), expected);
    }

    #[test]
    fn codebook_i_of_seed_n_is_codebook_0_of_seed_n_plus_i() {
        let patches = noise(30 * 10);
        let three = RandomProjection::seeded(CONFIG, 5).unwrap().forward(&patches).unwrap();
        let single = RandomProjectionConfig { codebooks: 1, ..CONFIG };
        for book in 0..3 {
            let one = RandomProjection::seeded(single, 5 + book).unwrap().forward(&patches).unwrap();
            let column: Vec<u16> = three.iter().skip(book as usize).step_by(3).copied().collect();
            assert_eq!(one, column);
        }
    }

    #[test]
    fn silence_takes_the_first_code_and_nan_is_refused() {
        let mut quantizer = RandomProjection::seeded(CONFIG, 0).unwrap();
        assert_eq!(quantizer.forward(&[0.0; 60]).unwrap(), [0; 6]);
        let mut patches = noise(30 * 7);
        patches[30 * 6 + 2] = f32::NAN;
        assert_eq!(quantizer.forward(&patches), Err(QuantizeError::NonFinite { position: 6 }));
    }

    #[test]
    fn sizes_out_of_range_and_wrong_lengths_are_refused() {
        let refused = |config| RandomProjection::seeded(config, 0).err().unwrap().to_string();
        assert_eq!(
            refused(RandomProjectionConfig { codebook_size: 65_537, ..CONFIG }),
            "`codebook_size` is 65537, expected 2 to 65536 codes"
        );
        assert_eq!(refused(RandomProjectionConfig { codebooks: 0, ..CONFIG }), "`codebooks` is 0, expected 1 to 16");
        let mut quantizer = RandomProjection::seeded(CONFIG, 0).unwrap();
        assert!(quantizer.forward_into(&[0.0; 31], &mut [0; 3]).is_err());
        assert!(quantizer.forward_into(&[0.0; 30], &mut [0; 2]).is_err());
    }
}
