//! Finite scalar quantization: FSQ (Mentzer et al., arXiv 2309.15505) behind a frozen random linear layer.
//!
//! A patch is projected to a handful of numbers; each is squashed into an interval and rounded to one of a few levels,
//! and the digits together are the token. There is no codebook to look up.

use super::torch::TorchGenerator;
use super::weights::{DrawNormal, SeededNormal, WeightsFile};
use super::{QuantizeError, Quantizer};

/// How a number is squashed and rounded to one of `n` levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// `round(tanh(z + shift) half - offset)`, the paper's: `half = (n - 1)(1 + 1e-3) / 2`, `offset` one half for even
    /// `n`, `shift = atanh(offset / half)`. Ties round to even.
    Standard,
    /// `floor((n - 1)(tanh z + 1) / 2 + 0.5)`: a number and its negative have opposite levels for even `n` too. The
    /// published FSQ model uses it.
    Symmetric,
}

/// Sizes of a finite-scalar quantizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiniteScalarConfig {
    /// Values in one patch.
    pub input_len: usize,
    /// Levels of each number, 2 or more; their product is at most 65,536. The published model has 6 6 6 6 6.
    pub levels: Vec<usize>,
    /// How numbers are squashed.
    pub bound: Bound,
}

impl FiniteScalarConfig {
    /// Refuses sizes outside their range.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] naming the first of them.
    pub fn check(&self) -> Result<(), QuantizeError> {
        if self.input_len == 0 {
            return Err(QuantizeError::param("input_len", 0, "1 value or more"));
        }
        let too_few = self.levels.is_empty() || self.levels.iter().any(|&n| n < 2);
        let codes = self.levels.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
        if too_few || codes.is_none_or(|codes| codes > 65_536) {
            let expected = "one number or more, each 2 or more, with a product of at most 65536";
            return Err(QuantizeError::param("levels", format!("{:?}", self.levels), expected));
        }
        Ok(())
    }
}

/// A finite-scalar quantizer.
#[derive(Clone)]
pub struct FiniteScalar {
    config: FiniteScalarConfig,
    /// Row-major `(levels, input_len)`.
    weight: Vec<f32>,
    /// `(levels,)`.
    bias: Vec<f32>,
}

impl FiniteScalar {
    /// A quantizer with these weights: row-major `(levels, input_len)` and `(levels,)`.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range, [`QuantizeError::Length`] for weights that do not have
    /// them.
    pub fn new(config: FiniteScalarConfig, weight: Vec<f32>, bias: Vec<f32>) -> Result<Self, QuantizeError> {
        config.check()?;
        QuantizeError::check_len("weight", weight.len(), config.levels.len() * config.input_len)?;
        QuantizeError::check_len("bias", bias.len(), config.levels.len())?;
        Ok(Self { config, weight, bias })
    }

    /// Weights from our own generator: Xavier normal rows of unit length, no bias.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range.
    pub fn seeded(config: FiniteScalarConfig, seed: u64) -> Result<Self, QuantizeError> {
        config.check()?;
        let mut weight = vec![0.0; config.levels.len() * config.input_len];
        SeededNormal::new(seed).draw(&mut weight, xavier(&config));
        unit_rows(&mut weight, config.input_len);
        let bias = vec![0.0; config.levels.len()];
        Self::new(config, weight, bias)
    }

    /// Weights as PyTorch draws them on the CPU after `torch.manual_seed(seed)`, in the order of the published
    /// models: two linear layers, there and back, with their default weights and biases; then both weights anew, Xavier
    /// normal; then rows of unit length. The first layer's bias keeps its default.
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range.
    pub fn torch_seeded(config: FiniteScalarConfig, seed: u64) -> Result<Self, QuantizeError> {
        config.check()?;
        let (inputs, levels) = (config.input_len, config.levels.len());
        let mut rng = TorchGenerator::new(seed);
        let (mut weight, mut bias) = (vec![0.0; levels * inputs], vec![0.0; levels]);
        let (mut back_weight, mut back_bias) = (vec![0.0; inputs * levels], vec![0.0; inputs]);
        // PyTorch's default for a linear layer: uniform within 1 / sqrt(inputs), weights and biases alike.
        let bound = |inputs: usize| 1.0 / (inputs as f64).sqrt();
        let near = bound(inputs) as f32;
        let far = bound(levels) as f32;
        rng.uniform(&mut weight, -near, near);
        rng.uniform(&mut bias, -near, near);
        rng.uniform(&mut back_weight, -far, far);
        rng.uniform(&mut back_bias, -far, far);
        rng.normal(&mut weight, 0.0, xavier(&config));
        unit_rows(&mut weight, inputs);
        Self::new(config, weight, bias)
    }

    /// The weights of a view in a weights file (names: [`super::weights`]).
    ///
    /// # Errors
    /// [`QuantizeError::Param`] for sizes outside their range, [`QuantizeError::Tensor`] for tensors that the file does
    /// not hold.
    pub fn from_file(config: FiniteScalarConfig, file: &WeightsFile, view: &str) -> Result<Self, QuantizeError> {
        config.check()?;
        let levels = config.levels.len();
        let weight = file.tensor(format!("{view}.fsq.weight"), &[levels, config.input_len])?;
        let bias = file.tensor(format!("{view}.fsq.bias"), &[levels])?;
        Self::new(config, weight, bias)
    }

    /// The frozen weight, row-major `(levels, input_len)`, and bias, `(levels,)`.
    pub fn weights(&self) -> (&[f32], &[f32]) {
        (&self.weight, &self.bias)
    }
}

fn xavier(config: &FiniteScalarConfig) -> f64 {
    (2.0 / (config.input_len + config.levels.len()) as f64).sqrt()
}

fn unit_rows(matrix: &mut [f32], columns: usize) {
    for row in matrix.chunks_exact_mut(columns) {
        let norm = pytorch_norm(row);
        for value in row {
            *value /= norm;
        }
    }
}

/// Length of a vector, summed in the order of PyTorch's AVX2 kernel, so that weights drawn from a seed have its bits.
fn pytorch_norm(row: &[f32]) -> f32 {
    let (groups, rest) = row.as_chunks::<8>();
    let mut lanes = [0.0f32; 8];
    for group in groups {
        for lane in 0..8 {
            lanes[lane] += group[lane] * group[lane];
        }
    }
    rest.iter().fold(lanes.iter().sum(), |sum: f32, x| sum + x * x).sqrt()
}

/// The level, 0 to `n - 1`, of a number.
fn level(z: f64, n: usize, bound: Bound) -> usize {
    let top = (n - 1) as f64;
    let level = match bound {
        Bound::Standard => {
            let half = top * (1.0 + 1e-3) / 2.0;
            let offset = if n.is_multiple_of(2) { 0.5 } else { 0.0 };
            let shift = (offset / half).atanh();
            ((z + shift).tanh() * half - offset).round_ties_even() + (n / 2) as f64
        }
        Bound::Symmetric => (top * (z.tanh() + 1.0) / 2.0 + 0.5).floor(),
    };
    level.clamp(0.0, top) as usize
}

impl Quantizer for FiniteScalar {
    fn another(&self) -> Box<dyn Quantizer> {
        Box::new(self.clone())
    }

    fn input_len(&self) -> usize {
        self.config.input_len
    }

    fn codebooks(&self) -> usize {
        1
    }

    fn codebook_size(&self) -> usize {
        self.config.levels.iter().product()
    }

    fn forward_into(&mut self, patches: &[f32], tokens: &mut [u16]) -> Result<(), QuantizeError> {
        let input_len = self.config.input_len;
        QuantizeError::check_len("patches", patches.len(), tokens.len() * input_len)?;
        for (position, (patch, token)) in patches.chunks_exact(input_len).zip(tokens.iter_mut()).enumerate() {
            let (mut code, mut step) = (0, 1);
            for ((row, &bias), &n) in self.weight.chunks_exact(input_len).zip(&self.bias).zip(&self.config.levels) {
                let z = f64::from(bias) + dot(row, patch);
                if !z.is_finite() {
                    return Err(QuantizeError::NonFinite { position });
                }
                code += step * level(z, n, self.config.bound);
                step *= n;
            }
            // `check` keeps the number of codes within 65,536.
            *token = code as u16;
        }
        Ok(())
    }
}

/// A product of two vectors, summed in f64 over eight lanes: exact far below the width of a level.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sum = [0.0f64; 8];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (x, y) in a.iter().zip(b) {
        for lane in 0..8 {
            sum[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    sum.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_run_over_their_whole_range_in_order() {
        for bound in [Bound::Standard, Bound::Symmetric] {
            for n in 2..10 {
                let seen: Vec<usize> = (-400..=400).map(|i| level(f64::from(i) / 100.0, n, bound)).collect();
                assert!(seen.is_sorted(), "{bound:?} {n}");
                assert_eq!((seen[0], seen[800]), (0, n - 1), "{bound:?} {n}");
            }
        }
    }

    #[test]
    fn the_symmetric_bound_is_symmetric_for_even_numbers_of_levels() {
        for i in 1..300 {
            let z = f64::from(i) / 100.0 + 0.001;
            assert_eq!(level(z, 6, Bound::Symmetric) + level(-z, 6, Bound::Symmetric), 5);
        }
    }

    #[test]
    fn the_first_level_is_the_fastest_digit() {
        let config = FiniteScalarConfig { input_len: 2, levels: vec![4, 3], bound: Bound::Symmetric };
        let mut quantizer = FiniteScalar::new(config, vec![1.0, 0.0, 0.0, 1.0], vec![0.0; 2]).unwrap();
        assert_eq!(quantizer.codebook_size(), 12);
        assert_eq!(quantizer.forward(&[9.0, -9.0, -9.0, 9.0]).unwrap(), [3, 8]);
        assert_eq!(quantizer.forward(&[f32::NAN, 0.0]), Err(QuantizeError::NonFinite { position: 0 }));
    }

    #[test]
    fn levels_beyond_a_token_are_refused() {
        for levels in [vec![], vec![6, 1], vec![16; 5], vec![usize::MAX, 2]] {
            let config = FiniteScalarConfig { input_len: 2, levels, bound: Bound::Standard };
            assert!(FiniteScalar::seeded(config, 0).is_err());
        }
    }
}
