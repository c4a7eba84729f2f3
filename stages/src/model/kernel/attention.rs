//! Attention of every head, forward and backward, in blocks of query rows.
//!
//! Only one block of scores exists at a time, (48, positions), so memory grows with the length and not with its square.
//! The backward pass computes the scores again. One task is one head of one example, and is sequential inside.

use super::maths::{dot, exponentials};
use super::matmul::{Left, matmul, padded};
use super::rows::map_rows;
use crate::model::pass::Dropout;
use crate::model::rotary::Angles;
use rayon::prelude::*;

/// Query rows per block: a multiple of the rows of a register tile.
const BLOCK: usize = 48;

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

/// Scratch of one task, reused between tasks of one thread.
#[derive(Default)]
struct Scratch {
    panel: Vec<f32>,
    scores: Vec<f32>,
    slopes: Vec<f32>,
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

    /// `(positions, width)` to `(head_dim, padded positions)`.
    fn transposed(&self, rows: &[f32], width: usize) -> Vec<f32> {
        let stride = padded(self.positions);
        let mut out = vec![0.0; self.head_dim * stride];
        for (t, row) in rows.chunks_exact(width).enumerate() {
            for (d, value) in row[..self.head_dim].iter().enumerate() {
                out[d * stride + t] = *value;
            }
        }
        out
    }

    /// The positions that row `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal { i + 1 } else { self.positions }
    }

    /// Attention weights of the query rows `start..end` into `scores`, before dropout, with zeros where nothing is seen.
    fn weights(&self, head: &Head, keys: &[f32], rows: (usize, usize), scores: &mut [f32], panel: &mut Vec<f32>) {
        let (start, end) = rows;
        let stride = padded(self.positions);
        let n = padded(self.seen(end - 1));
        let queries = Left { values: &head.queries[start * head.width..], row_stride: head.width, column_stride: 1 };
        matmul((end - start, n, self.head_dim), queries, keys, stride, scores, stride, false, panel);
        for (i, row) in (start..end).zip(scores.chunks_exact_mut(stride)) {
            let (seen, unseen) = row[..n].split_at_mut(self.seen(i));
            let (_, total) = exponentials(seen);
            for value in seen {
                *value /= total;
            }
            unseen.fill(0.0);
        }
    }

    /// Multiplies row `i` of one head's weights by its dropout factors.
    fn drop_row(&self, task: usize, i: usize, row: &mut [f32]) {
        if let Some(dropout) = self.dropout {
            let factors = dropout.row(task * self.positions + i);
            for (j, value) in row.iter_mut().enumerate() {
                *value *= factors.at(j);
            }
        }
    }

    /// The attended values, `(batch, positions, heads * head_dim)`.
    pub(crate) fn forward(&self, qkv: &[f32]) -> Vec<f32> {
        let width = padded(self.head_dim);
        let stride = padded(self.positions);
        let mut per_head = vec![0.0; self.batch * self.heads * self.positions * width];
        let tasks = per_head.par_chunks_mut(self.positions * width).enumerate();
        tasks.for_each_init(Scratch::default, |scratch, (task, out)| {
            let head = self.head(qkv, task);
            let keys = self.transposed(&head.keys, width);
            scratch.scores.resize(BLOCK * stride, 0.0);
            let (scores, panel) = (&mut scratch.scores, &mut scratch.panel);
            for start in (0..self.positions).step_by(BLOCK) {
                let end = self.positions.min(start + BLOCK);
                self.weights(&head, &keys, (start, end), scores, panel);
                let seen = self.seen(end - 1);
                for (i, row) in (start..end).zip(scores.chunks_exact_mut(stride)) {
                    self.drop_row(task, i, &mut row[..seen]);
                }
                let weights = Left { values: scores, row_stride: stride, column_stride: 1 };
                let out = &mut out[start * width..];
                matmul((end - start, width, seen), weights, &head.values, width, out, width, false, panel);
            }
        });
        let mut out = vec![0.0; self.batch * self.positions * self.dim()];
        map_rows(&mut out, self.dim(), |row, out| {
            let (b, t) = (row / self.positions, row % self.positions);
            for (h, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let from = ((b * self.heads + h) * self.positions + t) * width;
                out.copy_from_slice(&per_head[from..from + self.head_dim]);
            }
        });
        out
    }

    /// The gradient of `qkv`, given that of the attended values.
    pub(crate) fn backward(&self, qkv: &[f32], grad: &[f32]) -> Vec<f32> {
        let width = padded(self.head_dim);
        let plane = self.positions * width;
        let mut per_head = vec![0.0; self.batch * self.heads * 3 * plane];
        let tasks = per_head.par_chunks_mut(3 * plane).enumerate();
        tasks.for_each_init(Scratch::default, |scratch, (task, out)| self.head_backward(qkv, grad, task, out, scratch));
        let mut out = vec![0.0; qkv.len()];
        map_rows(&mut out, 3 * self.dim(), |row, out| {
            let (b, t) = (row / self.positions, row % self.positions);
            for (i, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let (part, h) = (i / self.heads, i % self.heads);
                let from = ((b * self.heads + h) * 3 + part) * plane + t * width;
                out.copy_from_slice(&per_head[from..from + self.head_dim]);
            }
        });
        out
    }

    /// Gradients of one head's queries, keys and values into `out (3, positions, width)`.
    fn head_backward(&self, qkv: &[f32], grad: &[f32], task: usize, out: &mut [f32], scratch: &mut Scratch) {
        let head = self.head(qkv, task);
        let (width, stride) = (head.width, padded(self.positions));
        let grad = self.gather(grad, task, 0, 1);
        let (keys, values) = (self.transposed(&head.keys, width), self.transposed(&head.values, width));
        let (dq, rest) = out.split_at_mut(self.positions * width);
        let (dk, dv) = rest.split_at_mut(self.positions * width);
        scratch.scores.resize(BLOCK * stride, 0.0);
        scratch.slopes.resize(BLOCK * stride, 0.0);
        let Scratch { panel, scores, slopes } = scratch;

        for start in (0..self.positions).step_by(BLOCK) {
            let end = self.positions.min(start + BLOCK);
            let (rows, seen) = (end - start, self.seen(end - 1));
            self.weights(&head, &keys, (start, end), scores, panel);
            let grad_rows = Left { values: &grad[start * width..], row_stride: width, column_stride: 1 };
            matmul((rows, padded(seen), self.head_dim), grad_rows, &values, stride, slopes, stride, false, panel);
            for i in start..end {
                let at = (i - start) * stride..(i - start) * stride + seen;
                let (weights, slopes) = (&mut scores[at.clone()], &mut slopes[at]);
                // Gradient of the scores: softmax backward of the (dropped) gradient of the weights.
                self.drop_row(task, i, slopes);
                let mean = dot(weights, slopes);
                for (slope, weight) in slopes.iter_mut().zip(weights.iter()) {
                    *slope = weight * (*slope - mean);
                }
                self.drop_row(task, i, weights);
            }
            let transposed = |values| Left { values, row_stride: 1, column_stride: stride };
            let grad_rows = &grad[start * width..];
            matmul((seen, width, rows), transposed(&scores[..]), grad_rows, width, dv, width, true, panel);
            let queries = &head.queries[start * width..];
            matmul((seen, width, rows), transposed(&slopes[..]), queries, width, dk, width, true, panel);
            let slopes = Left { values: slopes, row_stride: stride, column_stride: 1 };
            let dq = &mut dq[start * width..];
            matmul((rows, width, seen), slopes, &head.keys, width, dq, width, false, panel);
        }
        for t in 0..self.positions {
            let row = t * width..t * width + self.head_dim;
            for value in &mut dq[row.clone()] {
                *value *= self.scale();
            }
            if let Some(angles) = self.angles {
                angles.rotate_back(t, &mut dq[row.clone()]);
                angles.rotate_back(t, &mut dk[row]);
            }
        }
    }
}
