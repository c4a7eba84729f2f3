//! The self-attention step, with its residual sum and norm.

use super::super::kernel::attention::Attention;
use super::super::kernel::gemm::{Into, Matrix, multiply};
use super::super::kernel::maths::fma;
use super::super::kernel::pool::Buffer;
use super::super::kernel::rows::{map_and_sum_rows, map_rows};
use super::super::kernel::storage::values;
use super::super::pass::{Dropout, Pass};
use super::super::rotary::{Angles, add_sinusoidal};
use super::super::self_attention::SelfAttention;
use super::super::tape::Ready;
use super::{NormRecord, Room, give};
use candle_core::Result;
use std::sync::Arc;

/// What the backward pass needs.
#[derive(Debug)]
pub(in super::super) struct AttentionRecord {
    x: Buffer,
    qkv: Buffer,
    attended: Buffer,
    log_totals: Vec<f32>,
    angles: Option<Arc<Angles>>,
    drop: Option<Dropout>,
    /// The residual sum and its norm's record, with DeepNorm.
    sum: Option<(Buffer, NormRecord)>,
}

impl SelfAttention {
    fn kernel<'a>(&self, room: Room<'_>, angles: Option<&'a Angles>, drop: Option<Dropout>) -> Attention<'a> {
        let (batch, positions) = (room.extents.batch, room.extents.positions);
        let (heads, head_dim) = (self.heads, room.extents.dim / self.heads);
        let dropout = drop.map(|drop| drop.per_example(heads * positions));
        Attention { batch, positions, heads, head_dim, causal: self.causal, angles, dropout }
    }

    /// `LayerNorm(alpha x + a(x))` with DeepNorm, `x + a(x)` without.
    pub(in super::super) fn run(
        &self,
        x: Buffer,
        room: Room<'_>,
        pass: &mut Pass,
    ) -> Result<(Buffer, AttentionRecord)> {
        let (dim, positions) = (room.extents.dim, room.extents.positions);
        let mut qkv = room.take(3 * dim);
        multiply(&mut qkv, Matrix::new(&x, dim), Matrix::new(&values(self.qkv.weight())?, dim).t(), Into::Replace);
        let angles = self.angles(positions)?;
        if angles.is_none() {
            add_sinusoidal(&mut qkv, positions, dim);
        }
        let drop = pass.dropout(self.dropout);
        let mut attended = room.take(dim);
        let log_totals = self.kernel(room, angles.as_deref(), drop).forward(&qkv, &mut attended, room.pool);

        let mut sum = room.take(dim);
        multiply(
            &mut sum,
            Matrix::new(&attended, dim),
            Matrix::new(&values(self.proj.weight())?, dim).t(),
            Into::Replace,
        );
        let bias = self.proj.bias_values()?;
        let alpha = self.deepnorm.as_ref().map_or(1.0, |(alpha, _)| *alpha as f32);
        map_rows(&mut sum, dim, |row, sum| {
            for ((sum, x), b) in sum.iter_mut().zip(&x[row * dim..]).zip(&bias[..]) {
                *sum = fma(alpha, *x, *sum + b);
            }
        });
        let (y, sum) = match &self.deepnorm {
            Some((_, norm)) => {
                let mut y = room.take(dim);
                let record = norm.run(&sum, &mut y)?;
                (y, Some((sum, record)))
            }
            None => (sum, None),
        };
        Ok((y, AttentionRecord { x, qkv, attended, log_totals, angles, drop, sum }))
    }

    /// The gradient of the input.
    pub(in super::super) fn back(
        &self,
        record: AttentionRecord,
        mut grad: Buffer,
        room: Room<'_>,
        ready: &mut Ready<'_>,
    ) -> Result<Buffer> {
        let AttentionRecord { x, qkv, attended, log_totals, angles, drop, sum } = record;
        let dim = room.extents.dim;
        if let (Some((_, norm)), Some((sum, record))) = (&self.deepnorm, sum) {
            let mut d_sum = room.take(dim);
            d_sum.fill(0.0);
            norm.back(&sum, &record, &mut grad, &mut d_sum, ready)?;
            grad = d_sum;
        }
        let mut d_proj = vec![0.0; dim * dim];
        multiply(&mut d_proj, Matrix::new(&grad, dim).t(), Matrix::new(&attended, dim), Into::Replace);
        give(self.proj.weight(), d_proj, ready)?;
        let mut d_attended = room.take(dim);
        multiply(
            &mut d_attended,
            Matrix::new(&grad, dim),
            Matrix::new(&values(self.proj.weight())?, dim),
            Into::Replace,
        );

        let mut d_qkv = room.take(3 * dim);
        let kernel = self.kernel(room, angles.as_deref(), drop);
        kernel.backward((&qkv, &attended, &log_totals), &d_attended, &mut d_qkv, room.pool);
        let mut d_weight = vec![0.0; 3 * dim * dim];
        multiply(&mut d_weight, Matrix::new(&d_qkv, 3 * dim).t(), Matrix::new(&x, dim), Into::Replace);
        give(self.qkv.weight(), d_weight, ready)?;

        // The residual sum's own share, and the bias on the way.
        let alpha = self.deepnorm.as_ref().map_or(1.0, |(alpha, _)| *alpha as f32);
        let mut dx = grad;
        let d_bias = map_and_sum_rows(&mut dx, dim, dim, |_, dx, total| {
            for (dx, total) in dx.iter_mut().zip(total) {
                *total += *dx;
                *dx *= alpha;
            }
        });
        give(self.proj.bias_var()?, d_bias, ready)?;
        multiply(&mut dx, Matrix::new(&d_qkv, 3 * dim), Matrix::new(&values(self.qkv.weight())?, dim), Into::Add);
        Ok(dx)
    }
}
