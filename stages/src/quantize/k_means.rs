//! k-means quantization: the token of a patch is the nearest of centroids that were fitted to patches like it.
//!
//! HuBERT (arXiv 2106.07447) and MERT (arXiv 2306.00107) predict such tokens. Unlike a random codebook, centroids follow
//! the data: nearly all are used, at the price of a pass over the corpus before training ([`fit`]).

pub mod fit;

use std::sync::Arc;

use pulp::Arch;

use super::kernel::{NearestScratch, Rows};
use super::weights::WeightsFile;
use super::{QuantizeError, Quantizer};

/// Sizes of a k-means quantizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KMeansConfig {
    /// Values in one patch.
    pub input_len: usize,
    /// Codes per patch, 1 to 16.
    pub codebooks: usize,
    /// Centroids of each codebook, 2 to 65,536.
    pub codebook_size: usize,
}

impl KMeansConfig {
    /// Refuses sizes outside their range.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] naming the first of them.
    pub fn check(&self) -> Result<(), QuantizeError> {
        QuantizeError::check_limits(&[
            ("input_len", self.input_len, 1..=usize::MAX, "1 value or more"),
            ("codebooks", self.codebooks, 1..=16, "1 to 16"),
            ("codebook_size", self.codebook_size, 2..=65_536, "2 to 65536 codes"),
        ])
    }
}

/// A k-means quantizer. A clone shares the centroids.
pub struct KMeans {
    config: KMeansConfig,
    codebooks: Arc<[Rows]>,
    arch: Arch,
    nearest: NearestScratch,
}

impl Clone for KMeans {
    fn clone(&self) -> Self {
        Self { codebooks: Arc::clone(&self.codebooks), nearest: NearestScratch::default(), ..*self }
    }
}

/// Patches that are looked up together.
const PANEL: usize = 256;

impl KMeans {
    /// A quantizer with these centroids: one row-major `(codebook_size, input_len)` matrix per codebook.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range, [`QuantizeError::Length`] for centroids that do not have
    /// them.
    pub fn new(config: KMeansConfig, centroids: &[Vec<f32>]) -> Result<Self, QuantizeError> {
        config.check()?;
        QuantizeError::check_len("codebooks", centroids.len(), config.codebooks)?;
        for one in centroids {
            QuantizeError::check_len("centroids", one.len(), config.codebook_size * config.input_len)?;
        }
        let codebooks = centroids.iter().map(|one| Rows::euclidean(one, config.input_len)).collect();
        Ok(Self { config, codebooks, arch: Arch::new(), nearest: NearestScratch::default() })
    }

    /// The centroids of a view in a weights file (names: [`super::weights`]).
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range, [`QuantizeError::Tensor`] for tensors that the file does
    /// not hold.
    pub fn from_file(config: KMeansConfig, file: &WeightsFile, view: &str) -> Result<Self, QuantizeError> {
        config.check()?;
        let shape = [config.codebook_size, config.input_len];
        let centroids = (0..config.codebooks).map(|i| file.tensor(tensor_name(view, i), &shape));
        Self::new(config, &centroids.collect::<Result<Vec<_>, _>>()?)
    }
}

/// The name of a codebook in a weights file.
pub fn tensor_name(view: &str, codebook: usize) -> String {
    format!("{view}.kmeans{codebook}.centroids")
}

/// The index of the first patch that is not finite.
fn check_finite(patches: &[f32], input_len: usize) -> Result<(), QuantizeError> {
    match patches.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(QuantizeError::NonFinite { position: index / input_len }),
        None => Ok(()),
    }
}

impl Quantizer for KMeans {
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
        let KMeansConfig { input_len, codebooks, .. } = self.config;
        let positions = patches.len() / input_len;
        QuantizeError::check_len("patches", patches.len(), positions * input_len)?;
        QuantizeError::check_len("tokens", tokens.len(), positions * codebooks)?;
        check_finite(patches, input_len)?;
        for (patches, tokens) in patches.chunks(PANEL * input_len).zip(tokens.chunks_mut(PANEL * codebooks)) {
            for (book, rows) in self.codebooks.iter().enumerate() {
                rows.best(self.arch, patches, &mut self.nearest, |i, row| {
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

    #[test]
    fn a_patch_takes_the_nearest_centroid_of_every_codebook() {
        let config = KMeansConfig { input_len: 2, codebooks: 2, codebook_size: 3 };
        let first = vec![0.0, 0.0, 10.0, 0.0, 0.0, 10.0];
        let second = vec![5.0, 5.0, -5.0, -5.0, 1.0, 9.0];
        let mut quantizer = KMeans::new(config, &[first, second]).unwrap();
        assert_eq!(quantizer.forward(&[9.0, 1.0, 0.4, 8.0, -3.0, -3.0]).unwrap(), [1, 0, 2, 2, 0, 1]);
        assert_eq!(quantizer.forward(&[0.0, 0.0, 1.0, f32::NAN]), Err(QuantizeError::NonFinite { position: 1 }));
    }

    #[test]
    fn centroids_of_another_shape_are_refused() {
        let config = KMeansConfig { input_len: 2, codebooks: 1, codebook_size: 3 };
        assert!(KMeans::new(config, &[vec![0.0; 4]]).is_err());
        assert!(KMeans::new(config, &[]).is_err());
        assert!(KMeans::new(KMeansConfig { codebook_size: 1, ..config }, &[vec![0.0; 2]]).is_err());
    }
}
