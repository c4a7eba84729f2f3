//! Activations: GELU with dropout, and the gated linear unit.

#[cfg(feature = "cuda")]
use super::super::cuda;
use super::super::kernel::maths::{gelu as gelu_at, gelu_slope, sigmoid};
use super::super::kernel::rows::map_rows;
use super::super::kernel::storage::{slice, values};
use super::super::pass::{Dropout, Form};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor, bail};

/// GELU (exact, with the error function), then dropout where given.
///
/// # Shapes
/// Any; the result is as `x`.
pub fn gelu(x: &Tensor, drop: Option<Dropout>, form: Form) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        return cuda::gelu(x, super::over(drop, x));
    }
    match form {
        Form::Kernels => x.contiguous()?.apply_op1(Gelu { drop: super::over(drop, x) }),
        Form::Composed | Form::Mixed => super::dropout(&x.gelu_erf()?, drop, form),
    }
}

struct Gelu {
    drop: Option<Dropout>,
}

impl Gelu {
    /// `out = f(x)` times the dropout factors.
    fn map(&self, out: &mut [f32], columns: usize, f: impl Fn(usize) -> f32 + Sync) {
        map_rows(out, columns, |row, out| {
            let start = row * columns;
            for (i, out) in out.iter_mut().enumerate() {
                *out = f(start + i);
            }
            if let Some(drop) = self.drop {
                let factors = drop.row(row);
                for (column, out) in out.iter_mut().enumerate() {
                    *out *= factors.at(column);
                }
            }
        });
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(s1, l1)?;
        let mut out = vec![0.0; x.len()];
        self.map(&mut out, super::columns(l1.shape()), |i| gelu_at(x[i]));
        Ok(super::stored(out, l1.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (xs, gs) = (values(x)?, values(&grad)?);
        let (xs, gs): (&[f32], &[f32]) = (&xs, &gs);
        let mut dx = vec![0.0; xs.len()];
        self.map(&mut dx, super::columns(x.shape()), |i| gs[i] * gelu_slope(xs[i]));
        Ok(Some(super::tensor(dx, x)?))
    }
}

/// Gated linear unit: the first half of the last dimension times the logistic function of the second.
///
/// # Shapes
/// `x (.., 2 channels)`; the result is `(.., channels)`.
pub fn glu(x: &Tensor, form: Form) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        return cuda::glu(x);
    }
    match form {
        Form::Kernels => x.contiguous()?.apply_op1(Glu),
        Form::Composed | Form::Mixed => {
            let channels = x.dim(D::Minus1)? / 2;
            let (value, gate) = (x.narrow(D::Minus1, 0, channels)?, x.narrow(D::Minus1, channels, channels)?);
            // 1 / (1 + e^-gate): candle-nn's sigmoid would do, but this needs no second crate.
            value.contiguous()? / (gate.neg()?.exp()? + 1.0)?
        }
    }
}

struct Glu;

impl CustomOp1 for Glu {
    fn name(&self) -> &'static str {
        "glu"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(s1, l1)?;
        let mut shape = l1.dims().to_vec();
        let Some(last) = shape.last_mut() else { bail!("glu: the input has no dimension") };
        if *last % 2 != 0 {
            bail!("glu: the last dimension must be even, found {last}");
        }
        *last /= 2;
        let channels = *last;
        let mut out = vec![0.0; x.len() / 2];
        map_rows(&mut out, channels, |row, out| {
            let (value, gate) = x[2 * row * channels..][..2 * channels].split_at(channels);
            for ((out, value), gate) in out.iter_mut().zip(value).zip(gate) {
                *out = value * sigmoid(*gate);
            }
        });
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (xs, gs) = (values(x)?, values(&grad)?);
        let channels = super::columns(grad.shape());
        let mut dx = vec![0.0; xs.len()];
        map_rows(&mut dx, 2 * channels, |row, dx| {
            let (value, gate) = xs[2 * row * channels..][..2 * channels].split_at(channels);
            let (d_value, d_gate) = dx.split_at_mut(channels);
            let grad = &gs[row * channels..][..channels];
            for ((((dv, dg), value), gate), g) in d_value.iter_mut().zip(d_gate).zip(value).zip(gate).zip(grad) {
                let s = sigmoid(*gate);
                *dv = g * s;
                *dg = g * value * s * (1.0 - s);
            }
        });
        Ok(Some(super::tensor(dx, x)?))
    }
}
