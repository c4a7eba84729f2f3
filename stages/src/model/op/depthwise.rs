//! Depthwise convolution over time, channels last.

#[cfg(feature = "cuda")]
use super::super::cuda;
use super::super::kernel::depthwise::{Extents, convolve, pack_taps, taps_gradient};
use super::super::kernel::rows::sum_rows;
use super::super::kernel::storage::{slice, values};
use super::super::pass::Form;
use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

/// Depthwise convolution (cross-correlation, as `torch.nn.Conv1d(groups=channels, padding="same")`) over positions.
///
/// # Shapes
/// `x (batch, positions, channels)`, `weight (channels, 1, kernel)` with an odd kernel, `bias (channels)`; the result is
/// as `x`.
pub fn depthwise(x: &Tensor, weight: &Tensor, bias: &Tensor, form: Form) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        extents(x.shape(), weight.shape())?;
        return cuda::depthwise(x, weight, bias);
    }
    match form {
        Form::Kernels => x.contiguous()?.apply_op3(weight, bias, Depthwise),
        Form::Composed | Form::Mixed => {
            let e = extents(x.shape(), weight.shape())?;
            let padded = x.pad_with_zeros(1, e.kernel / 2, e.kernel / 2)?;
            let taps = weight.reshape((e.channels, e.kernel))?;
            let mut y = bias.broadcast_as(x.shape())?.contiguous()?;
            for k in 0..e.kernel {
                let tap = taps.narrow(1, k, 1)?.reshape((1, 1, e.channels))?;
                y = (y + padded.narrow(1, k, e.positions)?.broadcast_mul(&tap)?)?;
            }
            Ok(y)
        }
    }
}

/// The extents, once the shapes agree.
fn extents(x: &Shape, weight: &Shape) -> Result<Extents> {
    let ((batch, positions, channels), (outputs, one, kernel)) = (x.dims3()?, weight.dims3()?);
    if outputs != channels || one != 1 || kernel % 2 == 0 {
        bail!("depthwise: weight {weight:?} does not fit {channels} channels with an odd kernel");
    }
    Ok(Extents { batch, positions, channels, kernel })
}

struct Depthwise;

impl CustomOp3 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
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
        let e = extents(l1.shape(), l2.shape())?;
        let taps = pack_taps(slice(s2, l2)?, e.channels, e.kernel, false);
        let x = slice(s1, l1)?;
        let mut out = vec![0.0; x.len()];
        convolve(x, &taps, Some(slice(s3, l3)?), e, &mut out);
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
        let e = extents(x.shape(), weight.shape())?;
        // The gradient of the input is the convolution of the gradient with the kernel turned round.
        let mut dx = vec![0.0; gs.len()];
        convolve(&gs, &pack_taps(&ws, e.channels, e.kernel, true), None, e, &mut dx);
        let dw = taps_gradient(&xs, &gs, e);
        let db = sum_rows(e.batch * e.positions, e.channels, |row, total| {
            for (sum, g) in total.iter_mut().zip(&gs[row * e.channels..]) {
                *sum += g;
            }
        });
        Ok((Some(super::tensor(dx, x)?), Some(super::tensor(dw, weight)?), Some(super::tensor(db, bias)?)))
    }
}
