//! One run of the model over a minibatch: training or evaluation, its dropout, its batch statistics.

use super::random::Stream;
use candle_core::{Device, Result, Tensor};

/// How operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// By this crate's own kernels with hand-written gradients: f32 on the CPU.
    Kernels,
    /// By candle's operations, on any device.
    Composed,
}

impl Form {
    /// The faster form that the device has.
    pub fn for_device(device: &Device) -> Self {
        if device.is_cpu() { Self::Kernels } else { Self::Composed }
    }
}

/// Dropout at one site of one step. The same element gets the same decision in the forward and backward pass and for
/// any number of threads, since it is a hash of (seed, step, site, row, column) and nothing is stored.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    stream: Stream,
    probability: f64,
}

impl Dropout {
    /// Factors of one row.
    pub(crate) fn row(self, row: usize) -> Factors {
        let bits = self.stream.bits(row as u64);
        Factors {
            low: bits as u32,
            high: (bits >> 32) as u32,
            threshold: (self.probability * 4_294_967_296.0) as u32,
            scale: (1.0 / (1.0 - self.probability)) as f32,
        }
    }

    /// The factors, zero or `1 / (1 - probability)`, of a tensor whose last dimension is the column.
    ///
    /// On the CPU they are those of the kernels. Elsewhere the device's own generator draws them, which the trainer
    /// seeds at each step: hashing on the host and copying would cost more than the step.
    pub(crate) fn factors(self, shape: &[usize], device: &Device) -> Result<Tensor> {
        let scale = 1.0 / (1.0 - self.probability);
        if !device.is_cpu() {
            let kept = Tensor::rand(0f32, 1f32, shape, device)?.ge(self.probability)?;
            return kept.to_dtype(candle_core::DType::F32)? * scale;
        }
        let columns = shape.last().copied().unwrap_or(1);
        let mut values = vec![0.0f32; shape.iter().product()];
        super::kernel::rows::map_rows(&mut values, columns, |row, out| {
            let factors = self.row(row);
            for (column, value) in out.iter_mut().enumerate() {
                *value = factors.at(column);
            }
        });
        Tensor::from_vec(values, shape, device)
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
    /// The factor of a column: a 32-bit hash (the `lowbias32` of C. Wellons) against the threshold.
    #[inline(always)]
    pub(crate) fn at(self, column: usize) -> f32 {
        let mut x = (column as u32).wrapping_mul(0x9e37_79b9).wrapping_add(self.low);
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d) ^ self.high;
        x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^= x >> 16;
        if x >= self.threshold { self.scale } else { 0.0 }
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

/// One forward run: pass it by `&mut` through the model, which takes dropout sites from it in order and leaves the batch
/// statistics of training runs in it.
#[derive(Debug)]
pub struct Pass {
    dropout: Option<Stream>,
    form: Form,
    sites: u64,
    statistics: Vec<BatchStatistics>,
}

impl Pass {
    /// Evaluation: no dropout, running statistics.
    pub fn evaluate(form: Form) -> Self {
        Self { dropout: None, form, sites: 0, statistics: Vec::new() }
    }

    /// Training: dropout keyed by seed and step, statistics of the minibatch.
    pub fn train(form: Form, seed: u64, step: u64) -> Self {
        Self { dropout: Some(Stream::new(seed, "dropout").at(step)), form, sites: 0, statistics: Vec::new() }
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
        (probability > 0.0).then_some(Dropout { stream, probability })
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
