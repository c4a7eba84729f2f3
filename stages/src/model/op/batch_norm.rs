//! Batch normalisation over all positions of all examples, followed by GELU.

#[cfg(feature = "cuda")]
use super::super::cuda;
use super::super::kernel::maths::{fma, gelu as gelu_at, gelu_slope};
use super::super::kernel::rows::{map_and_sum_rows, map_rows, sum_rows};
use super::super::kernel::storage::{slice, values};
use super::super::pass::{Across, BatchStatistics, Form};
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Device, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// GELU of `x` normalised per channel by the minibatch's own mean and biased variance; also gives these statistics.
///
/// Where `x` is a part of the minibatch, the statistics are those of all parts, added up by `across`: once for the mean
/// and once for the variance, and in the backward pass once for the two sums that the gradient of `x` needs. The
/// gradients of `weight` and `bias` stay those of the part.
///
/// # Shapes
/// `x (batch, positions, channels)`, `weight` and `bias (channels)`; the result is as `x`.
pub fn batch_norm_gelu_train(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
    form: Form,
    across: Option<&Arc<dyn Across>>,
) -> Result<(Tensor, BatchStatistics)> {
    #[cfg(feature = "cuda")]
    if across.is_none() && cuda::serve(x) {
        return cuda::batch_norm_gelu_train(x, weight, bias, eps);
    }
    let channels = weight.elem_count();
    match form {
        Form::Kernels => {
            let x = x.contiguous()?;
            let (mean, variance, count) = minibatch_moments(&values(&x)?, channels, across)?;
            let statistics = BatchStatistics {
                mean: Tensor::from_slice(&mean, channels, x.device())?,
                variance: Tensor::from_slice(&variance, channels, x.device())?,
                count,
            };
            let minibatch = Some(Rows { count, across: across.cloned() });
            let op = BatchNormGelu { mean, inverse: inverse_deviation(&variance, eps), minibatch };
            Ok((x.apply_op3(weight, bias, op)?, statistics))
        }
        Form::Composed | Form::Mixed => {
            let mut count = x.elem_count() / channels;
            if let Some(across) = across {
                let mut counts = [count as f64];
                across.sum(&mut counts)?;
                count = counts[0] as usize;
            }
            let mean_of = |x: &Tensor| {
                let sum = x.sum((0, 1))?;
                let sum = across.map_or(Ok(sum.clone()), |across| sum_across(&sum, across))?;
                sum.affine(1.0 / count as f64, 0.0)
            };
            let mean = mean_of(x)?;
            let centred = x.broadcast_sub(&mean)?;
            let variance = mean_of(&centred.sqr()?)?;
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
            x.contiguous()?.apply_op3(weight, bias, BatchNormGelu { mean, inverse, minibatch: None })
        }
        Form::Composed | Form::Mixed => {
            let normal = x.broadcast_sub(mean)?.broadcast_div(&(variance + eps)?.sqrt()?)?;
            normal.broadcast_mul(weight)?.broadcast_add(bias)?.gelu_erf()
        }
    }
}

/// Mean and biased variance per channel, in two passes over the rows, and the rows of all parts.
pub(crate) fn minibatch_moments(
    x: &[f32],
    channels: usize,
    across: Option<&Arc<dyn Across>>,
) -> Result<(Vec<f32>, Vec<f32>, usize)> {
    let rows = x.len() / channels;
    let mut mean = sum_rows(rows, channels, |row, total| {
        for (sum, x) in total.iter_mut().zip(&x[row * channels..]) {
            *sum += x;
        }
    });
    let count = add_up(&mut mean, rows, across)?;
    let scale = 1.0 / count as f32;
    mean.iter_mut().for_each(|value| *value *= scale);
    let mut variance = sum_rows(rows, channels, |row, total| {
        for ((sum, x), mean) in total.iter_mut().zip(&x[row * channels..]).zip(&mean) {
            *sum = fma(x - mean, x - mean, *sum);
        }
    });
    add_up(&mut variance, rows, across)?;
    variance.iter_mut().for_each(|value| *value *= scale);
    Ok((mean, variance, count))
}

/// Makes the sums of a part those of all parts, and its rows too.
pub(crate) fn add_up(sums: &mut [f32], rows: usize, across: Option<&Arc<dyn Across>>) -> Result<usize> {
    let Some(across) = across else { return Ok(rows) };
    let mut all: Vec<f64> = sums.iter().map(|sum| f64::from(*sum)).chain([rows as f64]).collect();
    across.sum(&mut all)?;
    sums.iter_mut().zip(&all).for_each(|(sum, all)| *sum = *all as f32);
    Ok(all[sums.len()] as usize)
}

/// `1 / sqrt(variance + eps)`.
pub(crate) fn inverse_deviation(variance: &[f32], eps: f64) -> Vec<f32> {
    variance.iter().map(|variance| 1.0 / (variance + eps as f32).sqrt()).collect()
}

struct BatchNormGelu {
    mean: Vec<f32>,
    inverse: Vec<f32>,
    /// Where mean and variance depend on the input, and hence carry gradient: on how many rows.
    minibatch: Option<Rows>,
}

/// The rows of the whole minibatch, and who holds the others.
struct Rows {
    count: usize,
    across: Option<Arc<dyn Across>>,
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
        let (mut all, mut share) = (total, 0.0);
        if let Some(Rows { count, across }) = &self.minibatch {
            add_up(&mut all, 0, across.as_ref())?;
            share = 1.0 / *count as f32;
        }
        let (all_dw, all_db) = all.split_at(channels);
        map_rows(&mut dx, channels, |row, dx| {
            let x = &xs[row * channels..][..channels];
            for c in 0..channels {
                let normal = (x[c] - self.mean[c]) * self.inverse[c];
                dx[c] = ws[c] * self.inverse[c] * (dx[c] - share * fma(normal, all_dw[c], all_db[c]));
            }
        });
        Ok((Some(super::tensor(dx, x)?), Some(super::tensor(dw, weight)?), Some(super::tensor(db, bias)?)))
    }
}

/// The sum over all parts of a few values, which meet on the host wherever they come from.
fn sum_across(x: &Tensor, across: &Arc<dyn Across>) -> Result<Tensor> {
    x.to_device(&Device::Cpu)?.apply_op1(SumAcross(across.clone()))?.to_device(x.device())
}

/// The sum over all parts. What a part's value does to the loss, it does to the losses of all parts, so its gradient is the
/// sum of theirs.
struct SumAcross(Arc<dyn Across>);

impl CustomOp1 for SumAcross {
    fn name(&self) -> &'static str {
        "sum_across"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut sums = slice(storage, layout)?.to_vec();
        add_up(&mut sums, 0, Some(&self.0))?;
        Ok(super::stored(sums, layout.shape()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.contiguous()?.apply_op1_no_bwd(&Self(self.0.clone()))?))
    }
}
