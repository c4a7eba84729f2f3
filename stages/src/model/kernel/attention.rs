//! Attention of every head, forward and backward, in blocks of query rows.
//!
//! Only one block of scores exists at a time, (72, positions), so memory grows with the length and not with its square.
//! The backward pass computes the scores again. One task is one head of one example, and is sequential inside.

use super::maths::{dot, exp, exponentials, fma, vectorized};
use super::matmul::{Left, Panels, Product, padded};
use super::pool::Pool;
use super::rows::map_rows;
use crate::model::pass::Dropout;
use crate::model::rotary::Angles;
use rayon::prelude::*;

/// Query rows per block: a multiple of the rows of a register tile.
const BLOCK: usize = 72;

/// What attention over `qkv (batch, positions, 3, heads, head_dim)` needs to know.
pub(crate) struct Attention<'a> {
    pub(crate) batch: usize,
    pub(crate) positions: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    /// Position `i` sees positions `0..=i` only.
    pub(crate) causal: bool,
    /// Rotation of queries and keys, where there is one.
    pub(crate) angles: Option<&'a Angles>,
    /// Dropout of the attention weights; element `(b, h, i, j)` is column `j` of row `(b heads + h) positions + i`.
    pub(crate) dropout: Option<Dropout>,
}

/// Scratch of one thread, reused from task to task.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    slopes: Vec<f32>,
    /// Keys as columns: the right factor of scores.
    keys: Panels,
    /// Values as rows (forward) or columns (backward).
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
    fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Copies one head of `rows (batch, positions, parts, heads, head_dim)` into padded rows.
    fn gather(&self, rows: &[f32], task: usize, part: usize, parts: usize) -> Vec<f32> {
        let (b, h, width) = (task / self.heads, task % self.heads, padded(self.head_dim));
        let mut out = vec![0.0; self.positions * width];
        for (t, out) in out.chunks_exact_mut(width).enumerate() {
            let from = ((b * self.positions + t) * parts + part) * self.dim() + h * self.head_dim;
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

    /// The positions that row `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal { i + 1 } else { self.positions }
    }

    /// Row `t` of a head's padded rows.
    fn row<'a>(&self, rows: &'a [f32], width: usize, t: usize) -> &'a [f32] {
        &rows[t * width..t * width + self.head_dim]
    }

    /// Multiplies row `i` of one head's weights by its dropout factors.
    #[inline(always)]
    fn drop_row(&self, task: usize, i: usize, row: &mut [f32]) {
        if let Some(dropout) = self.dropout {
            let factors = dropout.row(task * self.positions + i);
            for (j, value) in row.iter_mut().enumerate() {
                *value *= factors.at(j);
            }
        }
    }

    /// The attended values into `out (batch, positions, heads * head_dim)`, and the logarithm of every row's softmax
    /// denominator, `(batch, heads, positions)`, which is all that the backward pass needs beside them.
    pub(crate) fn forward(&self, qkv: &[f32], out: &mut [f32], pool: &Pool) -> Vec<f32> {
        let width = padded(self.head_dim);
        let mut per_head = pool.take(self.batch * self.heads * self.positions * width);
        let mut log_totals = vec![0.0; self.batch * self.heads * self.positions];
        let tasks = per_head.par_chunks_mut(self.positions * width).zip(log_totals.par_chunks_mut(self.positions));
        tasks.enumerate().for_each_init(Scratch::default, |scratch, (task, (out, log_totals))| {
            self.head_forward(qkv, task, out, log_totals, scratch);
        });
        map_rows(out, self.dim(), |row, out| {
            let (b, t) = (row / self.positions, row % self.positions);
            for (h, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let from = ((b * self.heads + h) * self.positions + t) * width;
                out.copy_from_slice(&per_head[from..from + self.head_dim]);
            }
        });
        log_totals
    }

    /// One head's attended values into `out (positions, width)`.
    fn head_forward(&self, qkv: &[f32], task: usize, out: &mut [f32], log_totals: &mut [f32], scratch: &mut Scratch) {
        let head = self.head(qkv, task);
        let (width, stride) = (head.width, padded(self.positions));
        let Scratch { scores, keys, values, .. } = scratch;
        keys.pack_columns(self.head_dim, self.positions, |t| self.row(&head.keys, width, t));
        values.pack_rows(self.positions, self.head_dim, |t| self.row(&head.values, width, t));
        scores.resize(BLOCK * stride, 0.0);
        let mut factors = [0.0; BLOCK];
        for start in (0..self.positions).step_by(BLOCK) {
            let end = self.positions.min(start + BLOCK);
            let seen = self.seen(end - 1);
            self.scores(&head, keys, (start, end), scores);
            // What the exponentials add up to divides the attended values, which are fewer.
            vectorized(|| {
                for (i, row) in (start..end).zip(scores.chunks_exact_mut(stride)) {
                    let (visible, hidden) = row[..seen].split_at_mut(self.seen(i));
                    let (top, total) = exponentials(visible);
                    log_totals[i] = top + total.ln();
                    factors[i - start] = 1.0 / total;
                    self.drop_row(task, i, visible);
                    hidden.fill(0.0);
                }
            });
            let left = Left { values: scores, row_step: stride, depth_step: 1 };
            let out = &mut out[start * width..end * width];
            let (rows, columns) = (end - start, self.head_dim);
            Product { rows, columns, left, right: values, depth: 0..seen, add: false, out, out_step: width }.run();
            vectorized(|| {
                for (row, factor) in out.chunks_exact_mut(width).zip(&factors) {
                    row.iter_mut().for_each(|value| *value *= factor);
                }
            });
        }
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
            for value in &mut dq[row.clone()] {
                *value *= self.scale();
            }
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
                    let (p, factor) = (exp(*weight - log_total), factors.at(j));
                    *weight = p * factor;
                    *slope = p * fma(factor, *slope, -mean);
                }
            }
            None => {
                for (weight, slope) in weights.iter_mut().zip(slopes) {
                    let p = exp(*weight - log_total);
                    *weight = p;
                    *slope = p * (*slope - mean);
                }
            }
        }
    }
}
