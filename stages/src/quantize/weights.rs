//! Where the frozen weights of a quantizer come from: a seed, PyTorch's generator, or a safetensors file.
//!
//! A weights file names its tensors by view and codebook: `{view}.rq{i}.projection` `(input_len, codebook_dim)` and
//! `{view}.rq{i}.codebook` `(codebook_size, codebook_dim)` for random projection with `i` from 0; `{view}.fsq.weight`
//! `(levels, input_len)` and `{view}.fsq.bias` `(levels,)` for finite scalars; `{view}.kmeans{i}.centroids`
//! `(codebook_size, input_len)` for k-means. All are f32.

use safetensors::{Dtype, SafeTensors};

use super::QuantizeError;
use super::normal::{self, GROUP};
use super::torch::TorchGenerator;
use crate::seed::{self, Random};

/// The frozen weights of one codebook.
#[derive(Debug, Clone, PartialEq)]
pub struct CodebookWeights {
    /// Row-major `(input_len, codebook_dim)`.
    pub projection: Vec<f32>,
    /// Row-major `(codebook_size, codebook_dim)`.
    pub codebook: Vec<f32>,
}

/// Draws normal numbers one tensor after the other.
pub trait DrawNormal {
    /// Fills `out` with numbers of mean 0 and standard deviation `std`.
    fn draw(&mut self, out: &mut [f32], std: f64);
}

impl DrawNormal for TorchGenerator {
    fn draw(&mut self, out: &mut [f32], std: f64) {
        self.normal(out, 0.0, std);
    }
}

/// Our own generator: 24-bit uniform numbers of [`crate::seed`] through Box-Muller. Bits do not depend on the machine.
pub struct SeededNormal {
    random: Random,
}

impl SeededNormal {
    /// A generator for `seed`.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed, &[seed::derive_named(0, "frozen quantizer weights")]) }
    }
}

impl DrawNormal for SeededNormal {
    fn draw(&mut self, out: &mut [f32], std: f64) {
        for chunk in out.chunks_mut(GROUP) {
            let mut group: [f32; GROUP] = std::array::from_fn(|_| (self.random.bits() >> 40) as f32 / (1 << 24) as f32);
            normal::box_muller(&mut group, 0.0, std as f32);
            chunk.copy_from_slice(&group[..chunk.len()]);
        }
    }
}

impl CodebookWeights {
    /// Draws a projection, Xavier normal (standard deviation `sqrt(2 / (input_len + codebook_dim))`), then a codebook,
    /// standard normal: the order and the laws of BEST-RQ (arXiv 2202.01855, section 3.1) as the published models apply
    /// them.
    pub fn draw(rng: &mut impl DrawNormal, input_len: usize, codebook_size: usize, codebook_dim: usize) -> Self {
        let mut projection = vec![0.0; input_len * codebook_dim];
        rng.draw(&mut projection, (2.0 / (input_len + codebook_dim) as f64).sqrt());
        let mut codebook = vec![0.0; codebook_size * codebook_dim];
        rng.draw(&mut codebook, 1.0);
        Self { projection, codebook }
    }
}

/// A weights file in memory.
pub struct WeightsFile<'a> {
    tensors: SafeTensors<'a>,
}

impl<'a> WeightsFile<'a> {
    /// Reads the header of `bytes`, a whole safetensors file.
    ///
    /// # Errors
    /// [`QuantizeError::Weights`] when it is none.
    pub fn new(bytes: &'a [u8]) -> Result<Self, QuantizeError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|error| QuantizeError::Weights(error.to_string()))?;
        Ok(Self { tensors })
    }

    /// A tensor of exactly this shape.
    ///
    /// # Errors
    /// [`QuantizeError::Tensor`] when it is missing or of another type or shape.
    pub fn tensor(&self, name: String, shape: &[usize]) -> Result<Vec<f32>, QuantizeError> {
        let found = match self.tensors.tensor(&name) {
            Ok(view) if view.dtype() == Dtype::F32 && view.shape() == shape => {
                let (words, _) = view.data().as_chunks::<4>();
                return Ok(words.iter().map(|&word| f32::from_le_bytes(word)).collect());
            }
            Ok(view) => format!("{} {:?}", view.dtype().to_string().to_lowercase(), view.shape()),
            Err(_) => "missing".to_string(),
        };
        Err(QuantizeError::Tensor { name, found, expected: shape.to_vec() })
    }

    /// The weights of codebook `index` of a view.
    ///
    /// # Errors
    /// [`QuantizeError::Tensor`] as in [`WeightsFile::tensor`].
    pub fn codebook(
        &self,
        view: &str,
        index: usize,
        [input_len, codebook_size, codebook_dim]: [usize; 3],
    ) -> Result<CodebookWeights, QuantizeError> {
        Ok(CodebookWeights {
            projection: self.tensor(format!("{view}.rq{index}.projection"), &[input_len, codebook_dim])?,
            codebook: self.tensor(format!("{view}.rq{index}.codebook"), &[codebook_size, codebook_dim])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    #[test]
    fn drawn_numbers_have_the_law_they_should_have() {
        let weights = CodebookWeights::draw(&mut SeededNormal::new(7), 288, 4096, 16);
        let moments = |values: &[f32]| {
            let n = values.len() as f64;
            let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            (mean, (values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n).sqrt())
        };
        let (mean, std) = moments(&weights.codebook);
        assert!(mean.abs() < 0.01 && (std - 1.0).abs() < 0.01, "{mean} {std}");
        let (mean, std) = moments(&weights.projection);
        let xavier = (2.0f64 / 304.0).sqrt();
        assert!(mean.abs() < 0.01 && (std / xavier - 1.0).abs() < 0.03, "{mean} {std}");
    }

    #[test]
    fn seeds_give_different_weights_and_the_same_seed_the_same() {
        let draw = |seed| CodebookWeights::draw(&mut SeededNormal::new(seed), 9, 5, 3);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_file_without_the_tensor_or_with_another_shape_says_so() {
        let data: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![2, 2], &data).unwrap();
        let bytes = safetensors::serialize([("mel.rq0.projection", view)], None).unwrap();
        let file = WeightsFile::new(&bytes).unwrap();
        let name = || "mel.rq0.projection".to_string();
        assert_eq!(file.tensor(name(), &[2, 2]).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(
            file.tensor(name(), &[4, 1]).unwrap_err().to_string(),
            "tensor `mel.rq0.projection` is f32 [2, 2], expected f32 [4, 1]"
        );
        assert_eq!(
            file.codebook("cqt", 1, [2, 3, 4]).unwrap_err().to_string(),
            "tensor `cqt.rq1.projection` is missing, expected f32 [2, 4]"
        );
        assert!(WeightsFile::new(b"nonsense").is_err());
    }
}
