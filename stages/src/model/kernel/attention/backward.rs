//! Gradients, in blocks of query rows: weights and their gradients lie as rows of keys.

use super::super::maths::{dot, exp2, fma, vectorized};
use super::super::matmul::{Left, Panels, Product, padded};
use super::super::pool::Pool;
use super::super::rows::map_rows;
use super::Attention;
use rayon::prelude::*;
use std::f32::consts::LN_2;

/// Query rows per block: a multiple of the rows of a register tile.
const BLOCK: usize = 72;

/// Scratch of one thread, reused from task to task.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    slopes: Vec<f32>,
    /// Keys and values as columns: right factors of scores and of their slopes.
    keys: Panels,
    values: Panels,
    /// Keys, queries and output gradients as rows: right factors of the gradients of queries, keys and values.
    keys_by_row: Panels,
    queries_by_row: Panels,
    grads_by_row: Panels,
}

/// Queries (scaled and rotated), keys (rotated) and values of one head, rows padded to `width`.
struct Head {
    width: usize,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Attention<'_> {
    /// Copies one head of `rows (batch, positions, parts, heads, head_dim)` into padded rows.
    fn gather(&self, rows: &[f32], task: usize, part: usize, parts: usize) -> Vec<f32> {
        let width = padded(self.head_dim);
        let mut out = vec![0.0; self.positions * width];
        for (t, out) in out.chunks_exact_mut(width).enumerate() {
            let from = self.place(task, t, (part, parts));
            out[..self.head_dim].copy_from_slice(&rows[from..from + self.head_dim]);
        }
        out
    }

    fn head(&self, qkv: &[f32], task: usize) -> Head {
        let width = padded(self.head_dim);
        let mut head = Head {
            width,
            queries: self.gather(qkv, task, 0, 3),
            keys: self.gather(qkv, task, 1, 3),
            values: self.gather(qkv, task, 2, 3),
        };
        for t in 0..self.positions {
            let row = t * width..t * width + self.head_dim;
            if let Some(angles) = self.angles {
                angles.rotate(t, &mut head.queries[row.clone()]);
                angles.rotate(t, &mut head.keys[row.clone()]);
            }
            for value in &mut head.queries[row] {
                *value *= self.scale();
            }
        }
        head
    }

    /// Row `t` of a head's padded rows.
    fn row<'a>(&self, rows: &'a [f32], width: usize, t: usize) -> &'a [f32] {
        &rows[t * width..t * width + self.head_dim]
    }

    /// Scores of the query rows `start..end` against all positions that the last of them sees.
    fn scores(&self, head: &Head, keys: &Panels, (start, end): (usize, usize), scores: &mut [f32]) {
        let left = Left { values: &head.queries[start * head.width..], row_step: head.width, depth_step: 1 };
        let (rows, columns, out_step) = (end - start, self.seen(end - 1), padded(self.positions));
        Product { rows, columns, left, right: keys, depth: 0..self.head_dim, add: false, out: scores, out_step }.run();
    }

    /// The gradient of `qkv` into `out`, given the attended values `attended`, their gradient, and what
    /// [`Attention::forward`] gave.
    pub(crate) fn backward(
        &self,
        (qkv, attended, log_totals): (&[f32], &[f32], &[f32]),
        grad: &[f32],
        out: &mut [f32],
        pool: &Pool,
    ) {
        let width = padded(self.head_dim);
        let plane = self.positions * width;
        let mut per_head = pool.take(self.batch * self.heads * 3 * plane);
        let tasks = per_head.par_chunks_mut(3 * plane).zip(log_totals.par_chunks(self.positions)).enumerate();
        tasks.for_each_init(Scratch::default, |scratch, (task, (out, log_totals))| {
            self.head_backward(qkv, (attended, grad), log_totals, task, out, scratch);
        });
        map_rows(out, 3 * self.dim(), |row, out| {
            let (b, t) = (row / self.positions, row % self.positions);
            for (i, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let (part, h) = (i / self.heads, i % self.heads);
                let from = ((b * self.heads + h) * 3 + part) * plane + t * width;
                out.copy_from_slice(&per_head[from..from + self.head_dim]);
            }
        });
    }

    /// Gradients of one head's queries, keys and values into `out (3, positions, width)`.
    fn head_backward(
        &self,
        qkv: &[f32],
        (attended, grad): (&[f32], &[f32]),
        log_totals: &[f32],
        task: usize,
        out: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let head = self.head(qkv, task);
        let (width, stride, head_dim) = (head.width, padded(self.positions), self.head_dim);
        let (attended, grad) = (self.gather(attended, task, 0, 1), self.gather(grad, task, 0, 1));
        let (dq, rest) = out.split_at_mut(self.positions * width);
        // Queries are written block by block, keys and values added to.
        rest.fill(0.0);
        let (dk, dv) = rest.split_at_mut(self.positions * width);
        let Scratch { scores, slopes, keys, values, keys_by_row, queries_by_row, grads_by_row } = scratch;
        scores.resize(BLOCK * stride, 0.0);
        slopes.resize(BLOCK * stride, 0.0);
        keys.pack_columns(head_dim, self.positions, |t| self.row(&head.keys, width, t));
        values.pack_columns(head_dim, self.positions, |t| self.row(&head.values, width, t));
        keys_by_row.pack_rows(self.positions, head_dim, |t| self.row(&head.keys, width, t));
        queries_by_row.pack_rows(self.positions, head_dim, |t| self.row(&head.queries, width, t));
        grads_by_row.pack_rows(self.positions, head_dim, |t| self.row(&grad, width, t));

        for start in (0..self.positions).step_by(BLOCK) {
            let end = self.positions.min(start + BLOCK);
            let (rows, seen) = (end - start, self.seen(end - 1));
            self.scores(&head, keys, (start, end), scores);
            let left = Left { values: &grad[start * width..], row_step: width, depth_step: 1 };
            let (right, depth): (&Panels, _) = (values, 0..head_dim);
            Product { rows, columns: seen, left, right, depth, add: false, out: slopes, out_step: stride }.run();
            vectorized(|| {
                for (i, log_total) in (start..end).zip(&log_totals[start..end]) {
                    let at = (i - start) * stride..(i - start) * stride + seen;
                    let (weights, slopes) = (&mut scores[at.clone()], &mut slopes[at]);
                    let mean = dot(self.row(&attended, width, i), self.row(&grad, width, i));
                    self.row_backward(task, i, *log_total, mean, weights, slopes);
                }
            });
            let columns = head_dim;
            let turned = |values| Left { values, row_step: 1, depth_step: stride };
            // dv += weights^T grad, dk += slopes^T queries, dq = slopes keys.
            let (left, right, out) = (turned(&scores[..]), &*grads_by_row, &mut dv[..]);
            let depth = start..end;
            Product { rows: seen, columns, left, right, depth, add: true, out, out_step: width }.run();
            let (left, right, out) = (turned(&slopes[..]), &*queries_by_row, &mut dk[..]);
            let depth = start..end;
            Product { rows: seen, columns, left, right, depth, add: true, out, out_step: width }.run();
            let left = Left { values: slopes, row_step: stride, depth_step: 1 };
            let (right, out) = (&*keys_by_row, &mut dq[start * width..end * width]);
            Product { rows, columns, left, right, depth: 0..seen, add: false, out, out_step: width }.run();
        }
        for t in 0..self.positions {
            let row = t * width..t * width + head_dim;
            // What the scores are in units of is left out of the slopes, and in the queries that the keys get.
            let scale = self.scale() * LN_2;
            dq[row.clone()].iter_mut().for_each(|value| *value *= scale);
            dk[row.clone()].iter_mut().for_each(|value| *value *= LN_2);
            if let Some(angles) = self.angles {
                angles.rotate_back(t, &mut dq[row.clone()]);
                angles.rotate_back(t, &mut dk[row]);
            }
        }
    }

    /// Turns the scores of row `i` into its dropped weights, and the gradient of these into that of the scores: softmax
    /// backward, `weight (drop slope - mean)` with `mean` the sum of `weight drop slope`, which is also the product of
    /// the attended values with their gradient (FlashAttention, section 3).
    #[inline(always)]
    fn row_backward(&self, task: usize, i: usize, log_total: f32, mean: f32, weights: &mut [f32], slopes: &mut [f32]) {
        let seen = self.seen(i);
        let (weights, hidden) = weights.split_at_mut(seen);
        let (slopes, hidden_slopes) = slopes.split_at_mut(seen);
        hidden.fill(0.0);
        hidden_slopes.fill(0.0);
        match self.dropout.map(|dropout| dropout.row(task * self.positions + i)) {
            Some(factors) => {
                for (j, (weight, slope)) in weights.iter_mut().zip(slopes).enumerate() {
                    let (p, factor) = (exp2(*weight - log_total), factors.at(j));
                    *weight = p * factor;
                    *slope = p * fma(factor, *slope, -mean);
                }
            }
            None => {
                for (weight, slope) in weights.iter_mut().zip(slopes) {
                    let p = exp2(*weight - log_total);
                    *weight = p;
                    *slope = p * (*slope - mean);
                }
            }
        }
    }
}
