//! Multi-head attention over a fused projection of queries, keys and values.

use super::super::kernel::attention::Attention as Kernel;
use super::super::kernel::pool::Pool;
use super::super::kernel::storage::{slice, values};
use super::super::pass::{Dropout, Form};
use super::super::rotary::Angles;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use std::sync::{Arc, Mutex, PoisonError};

/// Scores that exist at a time in the composed form.
const SCORES_AT_A_TIME: usize = 1 << 24;

/// What attention is made of, beside its input.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    /// Number of heads.
    pub heads: usize,
    /// Whether position `i` sees positions `0..=i` only.
    pub causal: bool,
    /// Rotation of queries and keys, where there is one; for at least as many positions as the input has.
    pub angles: Option<Arc<Angles>>,
    /// Dropout of the attention weights.
    pub drop: Option<Dropout>,
}

/// `dropout(softmax(q k^T / sqrt(head_dim))) v` for every head.
///
/// # Shapes
/// `qkv (batch, positions, 3 dim)`, the last dimension being (part, head, head_dim); the result is
/// `(batch, positions, dim)`.
pub fn attention(qkv: &Tensor, shape: AttentionShape, form: Form) -> Result<Tensor> {
    match form {
        Form::Kernels => qkv.contiguous()?.apply_op1(Attention { shape, log_totals: Mutex::default() }),
        Form::Composed | Form::Mixed => super::attention_in_pieces::attention(qkv, &shape, form, SCORES_AT_A_TIME),
    }
}

struct Attention {
    shape: AttentionShape,
    /// What the forward pass leaves for the backward pass.
    log_totals: Mutex<Vec<f32>>,
}

impl Attention {
    fn kernel(&self, qkv: &Shape) -> Result<Kernel<'_>> {
        let (batch, positions, width) = qkv.dims3()?;
        let head_dim = width / 3 / self.shape.heads;
        if width != 3 * self.shape.heads * head_dim {
            bail!("attention: width {width} is not three times a multiple of {} heads", self.shape.heads);
        }
        Ok(Kernel {
            batch,
            positions,
            heads: self.shape.heads,
            head_dim,
            causal: self.shape.causal,
            angles: self.shape.angles.as_deref(),
            dropout: self.shape.drop.map(|drop| drop.per_example(self.shape.heads * positions)),
        })
    }
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout) -> Result<(CpuStorage, Shape)> {
        let kernel = self.kernel(l1.shape())?;
        let shape = (kernel.batch, kernel.positions, kernel.heads * kernel.head_dim);
        let mut out = vec![0.0; kernel.batch * kernel.positions * kernel.heads * kernel.head_dim];
        let log_totals = kernel.forward(slice(s1, l1)?, &mut out, &Pool::default());
        *self.log_totals.lock().unwrap_or_else(PoisonError::into_inner) = log_totals;
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, qkv: &Tensor, attended: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let log_totals = self.log_totals.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dqkv = vec![0.0; qkv.elem_count()];
        let kernel = self.kernel(qkv.shape())?;
        let record = (&values(qkv)?[..], &values(attended)?[..], &log_totals[..]);
        kernel.backward(record, &values(&grad)?, &mut dqkv, &Pool::default());
        Ok(Some(super::tensor(dqkv, qkv)?))
    }
}
