//! Batch normalisation over all positions of all examples, followed by GELU.

#[cfg(feature = "cuda")]
use super::super::cuda;
use super::super::kernel::maths::{fma, gelu as gelu_at, gelu_slope};
use super::super::kernel::rows::{map_and_sum_rows, map_rows, sum_rows};
use super::super::kernel::storage::{slice, values};
use super::super::pass::{BatchStatistics, Form};
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

/// GELU of `x` normalised per channel by the minibatch's own mean and biased variance; also gives these statistics.
///
/// # Shapes
/// `x (batch, positions, channels)`, `weight` and `bias (channels)`; the result is as `x`.
pub fn batch_norm_gelu_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    form: Form,
) -> Result<(Tensor, BatchStatistics)> {
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        return cuda::batch_norm_gelu_train(x, weight, bias, eps);
    }
    let channels = weight.elem_count();
    let count = x.elem_count() / channels;
    match form {
        Form::Kernels => {
            let x = x.contiguous()?;
            let (mean, variance) = minibatch_moments(&values(&x)?, channels);
            let statistics = BatchStatistics {
                mean: Tensor::from_slice(&mean, channels, x.device())?,
                variance: Tensor::from_slice(&variance, channels, x.device())?,
                count,
            };
            let op = BatchNormGelu { mean, inverse: inverse_deviation(&variance, eps), from_minibatch: true };
            Ok((x.apply_op3(weight, bias, op)?, statistics))
        }
        Form::Composed | Form::Mixed => {
            let mean = x.mean((0, 1))?;
            let centred = x.broadcast_sub(&mean)?;
            let variance = centred.sqr()?.mean((0, 1))?;
            let normal = centred.broadcast_div(&(&variance + eps)?.sqrt()?)?;
            let y = normal.broadcast_mul(weight)?.broadcast_add(bias)?.gelu_erf()?;
            Ok((y, BatchStatistics { mean: mean.detach(), variance: variance.detach(), count }))
        }
    }
}

/// As [`batch_norm_gelu_train`], by the running `mean` and `variance (channels)`.
pub fn batch_norm_gelu_evaluate(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    (mean, variance): (&Tensor, &Tensor),
    eps: f64,
    form: Form,
) -> Result<Tensor> {
    match form {
        Form::Kernels => {
            let (mean, inverse) = (values(mean)?.to_vec(), inverse_deviation(&values(variance)?, eps));
            x.contiguous()?.apply_op3(weight, bias, BatchNormGelu { mean, inverse, from_minibatch: false })
        }
        Form::Composed | Form::Mixed => {
            let normal = x.broadcast_sub(mean)?.broadcast_div(&(variance + eps)?.sqrt()?)?;
            normal.broadcast_mul(weight)?.broadcast_add(bias)?.gelu_erf()
        }
    }
}

/// Mean and biased variance per channel, in two passes over the rows.
pub(crate) fn minibatch_moments(x: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / channels;
    let scale = 1.0 / rows as f32;
    let mut mean = sum_rows(rows, channels, |row, total| {
        for (sum, x) in total.iter_mut().zip(&x[row * channels..]) {
            *sum += x;
        }
    });
    mean.iter_mut().for_each(|value| *value *= scale);
    let mut variance = sum_rows(rows, channels, |row, total| {
        for ((sum, x), mean) in total.iter_mut().zip(&x[row * channels..]).zip(&mean) {
            *sum = fma(x - mean, x - mean, *sum);
        }
    });
    variance.iter_mut().for_each(|value| *value *= scale);
    (mean, variance)
}

/// `1 / sqrt(variance + eps)`.
pub(crate) fn inverse_deviation(variance: &[f32], eps: f64) -> Vec<f32> {
    variance.iter().map(|variance| 1.0 / (variance + eps as f32).sqrt()).collect()
}

struct BatchNormGelu {
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// Whether mean and variance depend on the input, and hence carry gradient.
    from_minibatch: bool,
}

impl CustomOp3 for BatchNormGelu {
    fn name(&self) -> &'static str {
        "batch_norm_gelu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight, bias) = (slice(s1, l1)?, slice(s2, l2)?, slice(s3, l3)?);
        let channels = self.mean.len();
        let scale: Vec<f32> = weight.iter().zip(&self.inverse).map(|(w, i)| w * i).collect();
        let mut out = vec![0.0; x.len()];
        map_rows(&mut out, channels, |row, out| {
            let x = &x[row * channels..][..channels];
            for ((((out, x), mean), scale), bias) in out.iter_mut().zip(x).zip(&self.mean).zip(&scale).zip(bias) {
                *out = gelu_at(fma(x - mean, *scale, *bias));
            }
        });
        Ok(super::stored(out, l1.shape()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (xs, ws, bs, gs) = (values(x)?, values(weight)?, values(bias)?, values(&grad)?);
        let channels = self.mean.len();
        let rows = xs.len() / channels;
        // First pass: the gradient before GELU, with its sums, plain and against the normalised input.
        let mut dx = vec![0.0; xs.len()];
        let total = map_and_sum_rows(&mut dx, channels, 2 * channels, |row, dx, total| {
            let (x, g) = (&xs[row * channels..][..channels], &gs[row * channels..][..channels]);
            let (dw, db) = total.split_at_mut(channels);
            for c in 0..channels {
                let normal = (x[c] - self.mean[c]) * self.inverse[c];
                let before = g[c] * gelu_slope(fma(normal, ws[c], bs[c]));
                dx[c] = before;
                dw[c] = fma(before, normal, dw[c]);
                db[c] += before;
            }
        });
        let (dw, db) = (total[..channels].to_vec(), total[channels..].to_vec());
        let share = if self.from_minibatch { 1.0 / rows as f32 } else { 0.0 };
        map_rows(&mut dx, channels, |row, dx| {
            let x = &xs[row * channels..][..channels];
            for c in 0..channels {
                let normal = (x[c] - self.mean[c]) * self.inverse[c];
                dx[c] = ws[c] * self.inverse[c] * (dx[c] - share * fma(normal, dw[c], db[c]));
            }
        });
        Ok((Some(super::tensor(dx, x)?), Some(super::tensor(dw, weight)?), Some(super::tensor(db, bias)?)))
    }
}
