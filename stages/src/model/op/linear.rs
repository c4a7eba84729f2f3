//! The affine map `x w^T + b`.

use super::super::kernel::rows::{map_rows, sum_rows};
use super::super::kernel::storage::{slice, values};
use super::super::pass::Form;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Result, Shape, Tensor, bail};

/// `x w^T + b` over the last dimension of `x`. A pointwise convolution is the same map: its weight may keep its third
/// dimension of one.
///
/// # Shapes
/// `x (.., inputs)`, `weight (outputs, inputs)` or `(outputs, inputs, 1)`, `bias (outputs)`; the result is
/// `(.., outputs)`.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, form: Form) -> Result<Tensor> {
    let x = x.contiguous()?;
    match (form, bias) {
        (Form::Kernels, Some(bias)) => x.apply_op3(weight, bias, Linear),
        (Form::Kernels, None) => x.apply_op2(weight, Linear),
        (Form::Composed | Form::Mixed, _) => {
            let (inputs, outputs) = (weight.dim(1)?, weight.dim(0)?);
            let mut shape = x.dims().to_vec();
            let rows = x.elem_count() / inputs;
            if let Some(last) = shape.last_mut() {
                *last = outputs;
            }
            // Two dimensions, so that candle's batched product with its wrong arms is never reached.
            let factor = |t: &Tensor| t.to_dtype(form.factors());
            let y = factor(&x.reshape((rows, inputs))?)?.matmul(&factor(&weight.reshape((outputs, inputs))?)?.t()?)?;
            let y = y.to_dtype(DType::F32)?;
            let y = if let Some(bias) = bias { y.broadcast_add(bias)? } else { y };
            y.reshape(shape)
        }
    }
}

struct Linear;

impl Linear {
    /// Rows, inputs and outputs, once the shapes agree.
    fn extents(x: &Shape, weight: &Shape) -> Result<(usize, usize, usize)> {
        match (weight.dims(), x.dims().last()) {
            ([outputs, inputs] | [outputs, inputs, 1], Some(last)) if last == inputs => {
                Ok((x.elem_count() / inputs, *inputs, *outputs))
            }
            _ => bail!("linear: input {x:?} does not fit weight {weight:?}"),
        }
    }

    fn forward(
        x: (&CpuStorage, &Layout),
        w: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inputs, outputs) = Self::extents(x.1.shape(), w.1.shape())?;
        let (Some((x_start, _)), Some((w_start, _))) = (x.1.contiguous_offsets(), w.1.contiguous_offsets()) else {
            bail!("linear: input and weight must be contiguous")
        };
        let left = Layout::contiguous_with_offset((rows, inputs), x_start);
        let right = Layout::new((inputs, outputs).into(), vec![1, inputs], w_start);
        let CpuStorage::F32(mut y) = x.0.matmul(w.0, (1, rows, outputs, inputs), &left, &right)? else {
            bail!("linear: only f32 is supported on the CPU")
        };
        if let Some(bias) = bias {
            map_rows(&mut y, outputs, |_, row| {
                for (y, b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            });
        }
        let mut shape = x.1.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn backward(x: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, inputs, outputs) = Self::extents(x.shape(), weight.shape())?;
        let grad = grad.reshape((rows, outputs))?;
        // Detached, or the gradients would grow a graph of their own.
        let w = weight.detach().reshape((outputs, inputs))?;
        let dx = if x.track_op() { Some(grad.matmul(&w)?.reshape(x.shape())?) } else { None };
        let dw = if weight.track_op() {
            Some(grad.t()?.matmul(&x.detach().reshape((rows, inputs))?)?.reshape(weight.shape())?)
        } else {
            None
        };
        Ok((dx, dw))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        Self::forward((s1, l1), (s2, l2), None)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Self::backward(x, w, &grad.contiguous()?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        "linear"
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
        Self::forward((s1, l1), (s2, l2), Some(slice(s3, l3)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dw) = Self::backward(x, w, &grad)?;
        let outputs = bias.elem_count();
        let g = values(&grad)?;
        let db = sum_rows(g.len() / outputs, outputs, |row, total| {
            for (sum, g) in total.iter_mut().zip(&g[row * outputs..]) {
                *sum += g;
            }
        });
        Ok((dx, dw, Some(super::tensor(db, bias)?)))
    }
}
