//! Dropout, and the residual sum that most often follows it.

#[cfg(feature = "cuda")]
use super::super::cuda;
use super::super::kernel::maths::fma;
use super::super::kernel::rows::map_rows;
use super::super::kernel::storage::{slice, values};
use super::super::pass::{Dropout, Form};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};

/// `x` times its dropout factors; `x` itself without dropout.
///
/// # Shapes
/// Any; the result is as `x`.
pub fn dropout(x: &Tensor, drop: Option<Dropout>, form: Form) -> Result<Tensor> {
    let Some(drop) = drop else { return Ok(x.clone()) };
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        return cuda::dropout(x, drop.per_example(super::rows_per_example(x)));
    }
    match form {
        Form::Kernels => x.contiguous()?.apply_op1(Drop { drop: drop.per_example(super::rows_per_example(x)) }),
        Form::Composed | Form::Mixed => x * drop.factors(x.dims(), x.device())?,
    }
}

struct Drop {
    drop: Dropout,
}

impl Drop {
    fn map(&self, x: &[f32], columns: usize) -> Vec<f32> {
        let mut out = vec![0.0; x.len()];
        map_rows(&mut out, columns, |row, out| {
            let factors = self.drop.row(row);
            for (column, (out, x)) in out.iter_mut().zip(&x[row * columns..]).enumerate() {
                *out = x * factors.at(column);
            }
        });
        out
    }
}

impl CustomOp1 for Drop {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok(super::stored(self.map(slice(s1, l1)?, super::columns(l1.shape())), l1.shape()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let dx = self.map(&values(&grad)?, super::columns(x.shape()));
        Ok(Some(super::tensor(dx, x)?))
    }
}

/// `alpha x + factor dropout(y)`: a residual connection, with the weight that DeepNorm gives to the skip.
///
/// # Shapes
/// `x` and `y` alike, and so is the result.
pub fn residual(x: &Tensor, y: &Tensor, alpha: f64, factor: f64, drop: Option<Dropout>, form: Form) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if cuda::serve(x) {
        return cuda::residual(x, y, alpha, factor, super::over(drop, x));
    }
    match form {
        Form::Kernels => {
            let op = Residual { alpha: alpha as f32, factor: factor as f32, drop: super::over(drop, x) };
            x.contiguous()?.apply_op2(&y.contiguous()?, op)
        }
        Form::Composed | Form::Mixed => {
            let y = (dropout(y, drop, form)? * factor)?;
            if alpha == 1.0 { x + y } else { (x * alpha)? + y }
        }
    }
}

struct Residual {
    alpha: f32,
    factor: f32,
    drop: Option<Dropout>,
}

impl CustomOp2 for Residual {
    fn name(&self) -> &'static str {
        "residual"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (slice(s1, l1)?, slice(s2, l2)?);
        if l1.shape() != l2.shape() {
            bail!("residual: shapes {:?} and {:?} differ", l1.shape(), l2.shape());
        }
        let columns = super::columns(l1.shape());
        let mut out = vec![0.0; x.len()];
        map_rows(&mut out, columns, |row, out| {
            let (x, y) = (&x[row * columns..][..columns], &y[row * columns..][..columns]);
            match self.drop.map(|drop| drop.row(row)) {
                Some(factors) => {
                    for (column, ((out, x), y)) in out.iter_mut().zip(x).zip(y).enumerate() {
                        *out = fma(self.factor * factors.at(column), *y, self.alpha * x);
                    }
                }
                None => {
                    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
                        *out = fma(self.factor, *y, self.alpha * x);
                    }
                }
            }
        });
        Ok(super::stored(out, l1.shape()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let gs = values(&grad)?;
        let gs: &[f32] = &gs;
        let columns = super::columns(x.shape());
        let mut dy = vec![0.0; gs.len()];
        map_rows(&mut dy, columns, |row, out| {
            let g = &gs[row * columns..][..columns];
            match self.drop.map(|drop| drop.row(row)) {
                Some(factors) => {
                    for (column, (out, g)) in out.iter_mut().zip(g).enumerate() {
                        *out = self.factor * factors.at(column) * g;
                    }
                }
                None => {
                    for (out, g) in out.iter_mut().zip(g) {
                        *out = self.factor * g;
                    }
                }
            }
        });
        let dx = if self.alpha == 1.0 {
            grad.clone()
        } else {
            let mut dx = vec![0.0; gs.len()];
            map_rows(&mut dx, columns, |row, out| {
                for (out, g) in out.iter_mut().zip(&gs[row * columns..]) {
                    *out = self.alpha * g;
                }
            });
            super::tensor(dx, x)?
        };
        Ok((Some(dx), Some(super::tensor(dy, y)?)))
    }
}
