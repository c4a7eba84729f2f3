//! Attention of candle's operations, some rows of queries at a time.
//!
//! The scores of all rows, batch x heads x positions x positions, would fill a GPU at the published sizes, several times
//! over in a graph that keeps what its gradient needs. So they exist for a piece of the rows only, outside the graph, and
//! are computed a second time, piece by piece, in the backward pass.

use super::AttentionShape;
use super::given::{given, storage_of};
use crate::model::Form;
use candle_core::{D, DType, Result, Tensor, Var};
use std::ops::Range;

/// [`attention`](super::attention), with at most about `scores_at_a_time` scores in memory. Where all fit, they are kept
/// for the backward pass.
///
/// # Shapes
/// `qkv (batch, positions, 3 dim)` to `(batch, positions, dim)`.
pub(super) fn attention(qkv: &Tensor, shape: &AttentionShape, form: Form, scores_at_a_time: usize) -> Result<Tensor> {
    let (batch, positions, width) = qkv.dims3()?;
    let (heads, head_dim) = (shape.heads, width / 3 / shape.heads);
    let parts = qkv.reshape((batch, positions, 3, heads, head_dim))?;
    let part = |i: usize| parts.narrow(2, i, 1)?.squeeze(2)?.transpose(1, 2)?.contiguous();
    let (mut q, mut k, v) = (part(0)?, part(1)?, part(2)?);
    if let Some(angles) = &shape.angles {
        (q, k) = (angles.apply(&q)?, angles.apply(&k)?);
    }
    let piece = Piece { shape: shape.clone(), form };
    let rows = (scores_at_a_time / (batch * heads * positions).max(1)).max(1);
    let y = if rows >= positions { piece.forward(&q, &k, &v, 0)? } else { piece.in_pieces(&q, &k, &v, rows)? };
    y.transpose(1, 2)?.contiguous()?.reshape((batch, positions, width / 3))
}

/// What is done to a piece. All tensors are `(batch, heads, positions, head_dim)`, queries with some of the positions.
#[derive(Clone)]
struct Piece {
    shape: AttentionShape,
    form: Form,
}

impl Piece {
    fn in_pieces(self, q: &Tensor, k: &Tensor, v: &Tensor, rows: usize) -> Result<Tensor> {
        let (detached_k, detached_v) = (k.detach(), v.detach());
        let mut done = Vec::new();
        for piece in pieces(q.dim(2)?, rows) {
            done.push(self.forward(&rows_of(&q.detach(), &piece)?, &detached_k, &detached_v, piece.start)?);
        }
        let y = Tensor::cat(&done, 2)?;
        drop(done);
        given("attention", &[q, k, v], storage_of(&y)?, y.shape().clone(), move |inputs, grad| {
            self.backward((inputs[0], inputs[1], inputs[2]), grad, rows)
        })
    }

    fn backward(&self, (q, k, v): (&Tensor, &Tensor, &Tensor), grad: &Tensor, rows: usize) -> Result<Vec<Tensor>> {
        let (k, v) = (Var::from_tensor(k)?, Var::from_tensor(v)?);
        let (mut dq, mut dk, mut dv) = (Vec::new(), k.zeros_like()?, v.zeros_like()?);
        for piece in pieces(q.dim(2)?, rows) {
            let q = Var::from_tensor(&rows_of(q, &piece)?)?;
            let y = self.forward(&q, &k, &v, piece.start)?;
            // A scalar whose derivative by the output is the gradient.
            let mut store = (y * rows_of(grad, &piece)?)?.sum_all()?.backward()?;
            let mut gradient = |var: &Var| store.remove(var).map_or_else(|| var.zeros_like(), Ok);
            dq.push(gradient(&q)?);
            (dk, dv) = ((dk + gradient(&k)?)?, (dv + gradient(&v)?)?);
        }
        Ok(vec![Tensor::cat(&dq, 2)?, dk, dv])
    }

    /// The rows of queries `first..`, against all keys that they see.
    fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor, first: usize) -> Result<Tensor> {
        let (batch, heads, rows, head_dim) = q.dims4()?;
        let positions = k.dim(2)?;
        let keys = if self.shape.causal { first + rows } else { positions };
        let factor = |t: &Tensor| t.to_dtype(self.form.factors());
        let (k, v) = (rows_of(k, &(0..keys))?, rows_of(v, &(0..keys))?);
        let scores = factor(q)?.matmul(&factor(&k)?.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let mut scores = (scores * (1.0 / (head_dim as f64).sqrt()))?;
        if self.shape.causal {
            let hidden = |i: usize| if i % keys > first + i / keys { f32::NEG_INFINITY } else { 0.0 };
            let hidden: Vec<f32> = (0..rows * keys).map(hidden).collect();
            scores = scores.broadcast_add(&Tensor::from_vec(hidden, (rows, keys), q.device())?)?;
        }
        let top = scores.max_keepdim(D::Minus1)?.detach();
        let weights = scores.broadcast_sub(&top)?.exp()?;
        let mut weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
        if let Some(drop) = self.shape.drop {
            let of_head = |head: usize| (first..first + rows).map(move |row| (head * positions + row) as u64);
            let at: Vec<u64> = (0..batch * heads).flat_map(of_head).collect();
            let factors = drop.per_example(heads * positions).factors_at(&at, keys, q.device())?;
            weights = (weights * factors.reshape((batch, heads, rows, keys))?)?;
        }
        factor(&weights)?.matmul(&factor(&v)?)?.to_dtype(DType::F32)
    }
}

fn pieces(positions: usize, rows: usize) -> impl Iterator<Item = Range<usize>> {
    (0..positions).step_by(rows).map(move |start| start..(start + rows).min(positions))
}

fn rows_of(t: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
    t.narrow(2, rows.start, rows.len())?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Angles, Pass, Stream, rotary_frequencies};
    use candle_core::Device;
    use std::sync::Arc;

    fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
        let stream = Stream::new(4, "pieces").named(name);
        let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i)).collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    /// Value and gradient of an arbitrary functional of attention.
    fn run(qkv: &Var, shape: &AttentionShape, form: Form, scores: usize) -> Result<(Tensor, Tensor)> {
        let y = attention(qkv, shape, form, scores)?;
        let grads = (&y * normal("functional", y.dims())?)?.sum_all()?.backward()?;
        Ok((y.detach(), grads.get(qkv).expect("the input has a gradient").clone()))
    }

    fn distance(a: &Tensor, b: &Tensor) -> Result<f32> {
        let top = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
        Ok(top(&(a - b)?)? / top(b)?)
    }

    #[test]
    fn pieces_give_what_the_whole_gives() -> Result<()> {
        let (batch, heads, head_dim, positions) = (2, 3, 8, 23);
        let qkv = Var::from_tensor(&normal("qkv", &[batch, positions, 3 * heads * head_dim])?)?;
        for (causal, probability) in [(true, 0.0), (false, 0.0), (true, 0.3), (false, 0.3)] {
            let angles = Some(Arc::new(Angles::new(&rotary_frequencies(head_dim), positions)));
            let drop = Pass::train(Form::Composed, 1, 2).from_example(5).dropout(probability);
            let shape = AttentionShape { heads, causal, angles, drop };
            let (whole, gradient) = run(&qkv, &shape, Form::Composed, usize::MAX)?;
            // 5 rows at a time, the last piece being shorter; and one by one.
            for scores in [batch * heads * positions * 5, 1] {
                let (found, found_gradient) = run(&qkv, &shape, Form::Composed, scores)?;
                assert!(distance(&found, &whole)? < 1e-6, "{}", distance(&found, &whole)?);
                let off = distance(&found_gradient, &gradient)?;
                assert!(off < 2e-6, "causal {causal}, dropout {probability}: {off}");
            }
        }
        Ok(())
    }

    #[test]
    fn bf16_products_stay_close() -> Result<()> {
        let (batch, heads, head_dim, positions) = (2, 2, 16, 40);
        let qkv = Var::from_tensor(&normal("qkv", &[batch, positions, 3 * heads * head_dim])?)?;
        let shape = AttentionShape { heads, causal: true, angles: None, drop: None };
        let (exact, gradient) = run(&qkv, &shape, Form::Composed, usize::MAX)?;
        for scores in [usize::MAX, batch * heads * positions * 16] {
            let (found, found_gradient) = run(&qkv, &shape, Form::Mixed, scores)?;
            assert_eq!(found.dtype(), DType::F32);
            let (value, slope) = (distance(&found, &exact)?, distance(&found_gradient, &gradient)?);
            // bf16 rounds to 1 part in 256; sums of rounded products stay below a few of that.
            assert!(value < 0.02 && slope < 0.02, "{value} {slope}");
            assert!(value > 1e-5, "products are not of bf16 values");
        }
        Ok(())
    }
}
