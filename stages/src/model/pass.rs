//! One run of the model over a minibatch: training or evaluation, its dropout, its batch statistics.

use super::random::Stream;
use candle_core::{DType, Device, Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::sync::Arc;

/// How operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By this crate's own kernels with hand-written gradients: f32 on the CPU.
    Kernels,
    /// By candle's operations, on any device.
    Composed,
    /// By candle's operations, on any device, with matrix products of bf16 values; everything else, weights and
    /// gradients included, stays f32.
    Mixed,
}

impl Form {
    /// The faster f32 form that the device has.
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::Kernels } else { Self::Composed }
    }

    /// The form that computes on the device with a precision.
    pub fn for_precision(device: &Device, precision: Precision) -> Self {
        match precision {
            Precision::Bf16 => Self::Mixed,
            Precision::Auto if device.is_cuda() => Self::Mixed,
            Precision::Auto | Precision::F32 => Self::for_device(device),
        }
    }

    /// The type of the factors of matrix products.
    pub(crate) fn factors(self) -> DType {
        if self == Self::Mixed { DType::BF16 } else { DType::F32 }
    }
}

/// What numbers matrix products are made of. Weights, gradients, norms and losses are f32 whatever it is, so it may change
/// between a run and its continuation, as when that goes on on another device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// `bf16` on NVIDIA GPUs, `f32` on the CPU.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// 8 bits of precision, with sums in single precision. GPUs have units for it from compute capability 8.0 on; on a CPU
    /// it is slow and there for tests.
    Bf16,
}

/// Dropout at one site of one step. The same element gets the same decision in the forward and backward pass and for
/// any number of threads, since it is a hash of (seed, step, site, row, column) and nothing is stored.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    stream: Stream,
    probability: f64,
    /// Index of the first example in the step's whole minibatch, of which this pass may see a part.
    first_example: u64,
    first_row: u64,
}

impl Dropout {
    /// The same for a tensor that has this many rows per example: a row then draws what it draws when the whole
    /// minibatch is in one piece.
    #[must_use]
    pub(crate) fn per_example(self, rows: usize) -> Self {
        Self { first_row: self.first_example * rows as u64, ..self }
    }

    /// What [`Dropout::row`] and [`Factors::at`] compute from: key of the stream, first row, threshold, scale.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn words(self) -> (u64, u64, u32, f32) {
        let Factors { threshold, scale, .. } = self.row(0);
        (self.stream.key(), self.first_row, threshold, scale)
    }

    /// Factors of one row.
    #[inline(always)]
    pub(crate) fn row(self, row: usize) -> Factors {
        let bits = self.stream.bits(self.first_row + row as u64);
        Factors {
            low: bits as u32,
            high: (bits >> 32) as u32,
            threshold: (self.probability * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - self.probability)) as f32,
        }
    }

    /// The factors, zero or `1 / (1 - probability)`, of a tensor whose last dimension is the column.
    ///
    /// On the CPU they are those of the kernels; elsewhere another hash of the same key, see [`Dropout::factors_of_rows`].
    pub(crate) fn factors(self, shape: &[usize], device: &Device) -> Result<Tensor> {
        let columns = shape.last().copied().unwrap_or(1);
        let per_example = shape.iter().skip(1).rev().skip(1).product();
        let rows: Vec<u64> = (0..(shape.iter().product::<usize>() / columns.max(1)) as u64).collect();
        self.per_example(per_example).factors_at(&rows, columns, device)?.reshape(shape)
    }
}

impl Dropout {
    /// The factors of some rows, [per example](Dropout::per_example).
    ///
    /// # Shapes
    /// The result is `(rows, columns)`.
    pub(crate) fn factors_at(self, rows: &[u64], columns: usize, device: &Device) -> Result<Tensor> {
        if !device.is_cpu() {
            return self.factors_of_rows(rows, columns, device);
        }
        let mut values = vec![0.0f32; rows.len() * columns];
        super::kernel::rows::map_rows(&mut values, columns, |row, out| {
            let factors = self.row(rows[row] as usize);
            for (column, value) in out.iter_mut().enumerate() {
                *value = factors.at(column);
            }
        });
        Tensor::from_vec(values, (rows.len(), columns), device)
    }

    /// The same from another hash, computed where the factors are used.
    ///
    /// Two words per row come from the host; the hash over the columns is made of operations that candle has for `u32`
    /// on every device: sums, products and divisions by powers of two stand in for shifts and exclusive or.
    ///
    /// # Shapes
    /// The result is `(rows, columns)`.
    fn factors_of_rows(self, rows: &[u64], columns: usize, device: &Device) -> Result<Tensor> {
        let words = |half: fn(u64) -> u32| -> Result<Tensor> {
            let words: Vec<u32> = rows.iter().map(|row| half(self.stream.bits(self.first_row + row))).collect();
            Tensor::from_vec(words, (rows.len(), 1), device)
        };
        let (factor, start) = (words(|bits| bits as u32 | 1)?, words(|bits| (bits >> 32) as u32)?);
        let steps: Vec<u32> = (1..=columns as u32).map(|column| column.wrapping_mul(0x9e37_79b9)).collect();
        let one = |value: u32| Tensor::from_vec(vec![value], (1, 1), device);
        let folded = |x: &Tensor, shift: u32| x + x.broadcast_div(&one(1 << shift)?)?;
        let x = factor.broadcast_mul(&Tensor::from_vec(steps, (1, columns), device)?)?.broadcast_add(&start)?;
        let x = folded(&x, 16)?.broadcast_mul(&one(0x7feb_352d)?)?;
        let x = folded(&x, 15)?.broadcast_mul(&one(0x846c_a68b)?)?;
        let kept = folded(&x, 16)?.broadcast_ge(&one((self.probability * 4_294_967_296.0) as u32)?)?;
        kept.to_dtype(DType::F32)? * (1.0 / (1.0 - self.probability))
    }
}

/// The dropout factors of one row.
#[derive(Clone, Copy)]
pub(crate) struct Factors {
    low: u32,
    high: u32,
    threshold: u32,
    scale: f32,
}

impl Factors {
    /// The factor of a column.
    #[inline(always)]
    pub(crate) fn at(self, column: usize) -> f32 {
        if hash(column, self.low, self.high) >= self.threshold { self.scale } else { 0.0 }
    }
}

/// The 32 bits of a column that are held against the threshold: the `lowbias32` of C. Wellons.
#[inline(always)]
fn hash(column: usize, low: u32, high: u32) -> u32 {
    let mut x = (column as u32).wrapping_mul(0x9e37_79b9).wrapping_add(low);
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d) ^ high;
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// The dropout factors of rows one after another, which lie in the lanes of vectors.
pub(crate) struct FactorLanes<const N: usize> {
    low: [u32; N],
    high: [u32; N],
    threshold: u32,
    scale: f32,
}

impl<const N: usize> FactorLanes<N> {
    pub(crate) fn new(dropout: Dropout, first: usize) -> Self {
        let rows: [Factors; N] = std::array::from_fn(|lane| dropout.row(first + lane));
        let Factors { threshold, scale, .. } = dropout.row(first);
        Self { low: rows.map(|row| row.low), high: rows.map(|row| row.high), threshold, scale }
    }

    /// Multiplies values of one column with their factors.
    #[inline(always)]
    pub(crate) fn multiply(&self, column: usize, values: &mut [f32; N]) {
        for ((value, low), high) in values.iter_mut().zip(&self.low).zip(&self.high) {
            *value *= if hash(column, *low, *high) >= self.threshold { self.scale } else { 0.0 };
        }
    }
}

/// Mean and variance of one batch normalisation over a training minibatch.
#[derive(Clone, Debug)]
pub struct BatchStatistics {
    /// Mean per channel, `(channels)`.
    pub mean: Tensor,
    /// Biased variance per channel, `(channels)`.
    pub variance: Tensor,
    /// Values per channel.
    pub count: usize,
}

/// Adds up over all who work on parts of one minibatch at the same time.
pub trait Across: Debug + Send + Sync {
    /// Replaces `values` by their sums over all parts. All call it in the same order.
    ///
    /// # Errors
    /// When the others cannot be reached.
    fn sum(&self, values: &mut [f64]) -> Result<()>;
}

/// One forward run: pass it by `&mut` through the model, which takes dropout sites from it in order and leaves the batch
/// statistics of training runs in it.
#[derive(Clone, Debug)]
pub struct Pass {
    dropout: Option<Stream>,
    first_example: u64,
    form: Form,
    sites: u64,
    statistics: Vec<BatchStatistics>,
    across: Option<Arc<dyn Across>>,
}

impl Pass {
    /// Evaluation: no dropout, running statistics.
    pub fn evaluate(form: Form) -> Self {
        Self { dropout: None, first_example: 0, form, sites: 0, statistics: Vec::new(), across: None }
    }

    /// Training: dropout keyed by seed and step, statistics of the minibatch.
    pub fn train(form: Form, seed: u64, step: u64) -> Self {
        let dropout = Some(Stream::new(seed, "dropout").at(step));
        Self { dropout, first_example: 0, form, sites: 0, statistics: Vec::new(), across: None }
    }

    /// The pass over a part of the minibatch that starts at example `first`: it drops what a pass over the whole drops.
    #[must_use]
    pub fn from_example(self, first: usize) -> Self {
        Self { first_example: first as u64, ..self }
    }

    /// The pass over a part of the minibatch while others pass over the rest of it: batch normalisation is by the
    /// statistics of all parts.
    #[must_use]
    pub fn among(self, across: Arc<dyn Across>) -> Self {
        Self { across: Some(across), ..self }
    }

    /// The others, if there are any.
    pub(crate) fn across(&self) -> Option<&Arc<dyn Across>> {
        self.across.as_ref()
    }

    /// This pass as it stands, to compute what follows a second time.
    pub(crate) fn again(&self) -> Self {
        Self { statistics: Vec::new(), across: self.across.clone(), ..*self }
    }

    /// Whether this is a training run.
    pub fn is_training(&self) -> bool {
        self.dropout.is_some()
    }

    /// How operations are carried out.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Dropout at the next site; `None` in evaluation and for probability zero.
    pub fn dropout(&mut self, probability: f64) -> Option<Dropout> {
        self.sites += 1;
        let stream = self.dropout?.at(self.sites);
        (probability > 0.0).then_some(Dropout { stream, probability, first_example: self.first_example, first_row: 0 })
    }

    /// Takes note of the statistics of the next batch normalisation.
    pub(crate) fn note(&mut self, statistics: BatchStatistics) {
        self.statistics.push(statistics);
    }

    /// The statistics that a training run left, one for each batch normalisation, in the model's order.
    pub fn into_statistics(self) -> Vec<BatchStatistics> {
        self.statistics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_the_share_and_the_mean() -> Result<()> {
        let dropout = Pass::train(Form::Kernels, 3, 9).dropout(0.2).expect("a training pass has dropout");
        let factors = dropout.factors(&[400, 500], &Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
        let kept = factors.iter().filter(|f| **f > 0.0).count() as f64 / factors.len() as f64;
        assert!((kept - 0.8).abs() < 5e-3, "{kept}");
        let neighbours = factors.windows(2).filter(|w| w[0] > 0.0 && w[1] > 0.0).count() as f64 / factors.len() as f64;
        assert!((neighbours - 0.64).abs() < 5e-3, "{neighbours}");
        let below = (500..factors.len()).filter(|i| factors[*i] > 0.0 && factors[i - 500] > 0.0).count() as f64;
        assert!((below / (factors.len() - 500) as f64 - 0.64).abs() < 5e-3, "{below}");
        Ok(())
    }

    #[test]
    fn a_part_of_a_minibatch_drops_what_the_whole_does() -> Result<()> {
        let draw = |pass: Pass, examples: usize| -> Result<Tensor> {
            let dropout = pass.clone().dropout(0.5).expect("a training pass has dropout");
            dropout.factors(&[examples, 3, 16], &Device::Cpu)
        };
        let whole = draw(Pass::train(Form::Kernels, 1, 1), 4)?;
        let part = draw(Pass::train(Form::Kernels, 1, 1).from_example(2), 2)?;
        assert_eq!(whole.narrow(0, 2, 2)?.flatten_all()?.to_vec1::<f32>()?, part.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    /// The hash of other devices wraps around, which unoptimised builds of candle refuse on the CPU.
    #[cfg(not(debug_assertions))]
    #[test]
    fn dropout_of_other_devices_keeps_the_share_and_has_no_pattern() -> Result<()> {
        let (rows, columns) = (600usize, 700usize);
        for probability in [0.1, 0.5] {
            let dropout = Pass::train(Form::Composed, 3, 9).dropout(probability).expect("a training pass has dropout");
            let draw = |rows: &[u64]| dropout.factors_of_rows(rows, columns, &Device::Cpu)?.to_vec2::<f32>();
            let all: Vec<u64> = (0..rows as u64).collect();
            let factors = draw(&all)?;
            assert_eq!(draw(&all[17..19])?, factors[17..19], "rows depend on nothing but their number");
            let kept: Vec<Vec<bool>> = factors.iter().map(|row| row.iter().map(|f| *f > 0.0).collect()).collect();
            let share = |count: usize, of: usize| count as f64 / of as f64;
            let keep = 1.0 - probability;
            let found = share(kept.iter().flatten().filter(|kept| **kept).count(), rows * columns);
            assert!((found - keep).abs() < 3e-3, "{found} of {keep}");
            // Pairs of elements, along rows and columns and across: kept together as often as independent ones are.
            for (down, right) in [(0, 1), (0, 2), (1, 0), (2, 0), (1, 1), (7, 0), (0, 64), (64, 3)] {
                let pairs = (0..rows - down).flat_map(|r| (0..columns - right).map(move |c| (r, c)));
                let both = pairs.filter(|(r, c)| kept[*r][*c] && kept[r + down][c + right]).count();
                let found = share(both, (rows - down) * (columns - right));
                assert!((found - keep * keep).abs() < 4e-3, "offset {down}, {right}: {found}");
            }
            // Rows and columns differ in how much they keep as much as chance has it.
            let spread = |counts: Vec<usize>, of: usize| {
                let mean = keep * of as f64;
                counts.iter().map(|n| (*n as f64 - mean).powi(2)).sum::<f64>()
                    / counts.len() as f64
                    / (mean * probability)
            };
            let by_row = spread(kept.iter().map(|row| row.iter().filter(|k| **k).count()).collect(), columns);
            let by_column = spread((0..columns).map(|c| kept.iter().filter(|row| row[c]).count()).collect(), rows);
            assert!((0.7..1.4).contains(&by_row) && (0.7..1.4).contains(&by_column), "{by_row} {by_column}");
        }
        Ok(())
    }

    #[test]
    fn sites_and_steps_have_their_own_dropout() -> Result<()> {
        let draw = |pass: &mut Pass| -> Result<Vec<f32>> {
            let dropout = pass.dropout(0.5).expect("a training pass has dropout");
            dropout.factors(&[64], &Device::Cpu)?.to_vec1()
        };
        let (mut first, mut again, mut later) =
            (Pass::train(Form::Kernels, 1, 1), Pass::train(Form::Kernels, 1, 1), Pass::train(Form::Kernels, 1, 2));
        let a = draw(&mut first)?;
        assert_eq!(a, draw(&mut again)?);
        assert_ne!(a, draw(&mut first)?);
        assert_ne!(a, draw(&mut later)?);
        assert!(Pass::evaluate(Form::Kernels).dropout(0.5).is_none());
        Ok(())
    }
}
