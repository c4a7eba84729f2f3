//! Layer normalisation over the last dimension.

#[cfg(feature = "cuda")]
use super::super::cuda;
use super::super::kernel::maths::{dot_centred, fma, moments, sum};
use super::super::kernel::norm;
use super::super::kernel::rows::map_and_sum_rows;
use super::super::kernel::storage::{slice, values};
use super::super::pass::Form;
use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};

/// `(x - mean) / sqrt(variance + eps) * weight + bias`, with the biased variance, over the last dimension.
///
/// # Shapes
/// `x (.., channels)`, `weight` and `bias (channels)`; the result is as `x`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64, form: Form) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        return cuda::layer_norm(x, weight, bias, eps);
    }
    match form {
        Form::Kernels => x.contiguous()?.apply_op3(weight, bias, LayerNorm { eps: eps as f32 }),
        Form::Composed | Form::Mixed => {
            let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
            let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
            normal.broadcast_mul(weight)?.broadcast_add(bias)
        }
    }
}

struct LayerNorm {
    eps: f32,
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
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
        let mut out = vec![0.0; x.len()];
        norm::layer_norm(x, weight, bias, self.eps, &mut out);
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
        let (xs, ws, gs) = (values(x)?, values(weight)?, values(&grad)?);
        let channels = ws.len();
        let mut dx = vec![0.0; xs.len()];
        // One pass gives dx and, side by side in one row, the gradients of weight and bias.
        let total = map_and_sum_rows(&mut dx, channels, 2 * channels, |row, dx, total| {
            let (x, g) = (&xs[row * channels..][..channels], &gs[row * channels..][..channels]);
            let (dw, db) = total.split_at_mut(channels);
            let (mean, variance) = moments(x);
            let inverse = 1.0 / (variance + self.eps).sqrt();
            for (((((dx, dw), db), x), g), w) in dx.iter_mut().zip(dw).zip(db).zip(x).zip(g).zip(ws.iter()) {
                *dw = fma(*g, (x - mean) * inverse, *dw);
                *db += g;
                *dx = g * w;
            }
            let n = channels as f32;
            let g_mean = sum(dx) / n;
            let gx_mean = inverse * dot_centred(dx, x, mean) / n;
            for (dx, x) in dx.iter_mut().zip(x) {
                *dx = inverse * (*dx - g_mean - (x - mean) * inverse * gx_mean);
            }
        });
        let (dw, db) = (total[..channels].to_vec(), total[channels..].to_vec());
        Ok((Some(super::tensor(dx, x)?), Some(super::tensor(dw, weight)?), Some(super::tensor(db, bias)?)))
    }
}
