//! Attention of every head, forward and backward. One task is one head of one example, and is sequential inside.
//!
//! Only one block of scores exists at a time, so memory grows with the length and not with its square. The backward pass
//! computes the scores again. They are in units of `ln 2`: an exponential to the base of two needs fewer steps.

mod backward;
mod forward;

use super::pool::Pool;
use super::rows::map_rows;
use crate::model::pass::Dropout;
use crate::model::rotary::Angles;
use pulp::Arch;
use rayon::prelude::*;
use std::f32::consts::LOG2_E;

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

impl Attention<'_> {
    fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// What scores are multiplied with.
    fn scale(&self) -> f32 {
        LOG2_E / (self.head_dim as f32).sqrt()
    }

    /// The positions that row `i` sees.
    fn seen(&self, i: usize) -> usize {
        if self.causal { i + 1 } else { self.positions }
    }

    /// Where a task's part of position `t` begins in rows `(batch, positions, parts, heads, head_dim)`.
    fn place(&self, task: usize, t: usize, (part, parts): (usize, usize)) -> usize {
        let (b, h) = (task / self.heads, task % self.heads);
        ((b * self.positions + t) * parts + part) * self.dim() + h * self.head_dim
    }

    /// The attended values into `out (batch, positions, heads * head_dim)`, and the binary logarithm of every row's softmax
    /// denominator, `(batch, heads, positions)`, which is all that the backward pass needs beside them.
    pub(crate) fn forward(&self, qkv: &[f32], out: &mut [f32], pool: &Pool) -> Vec<f32> {
        let plane = self.positions * self.head_dim;
        let mut per_head = pool.take(self.batch * self.heads * plane);
        let mut log_totals = vec![0.0; self.batch * self.heads * self.positions];
        let tasks = per_head.par_chunks_mut(plane.max(1)).zip(log_totals.par_chunks_mut(self.positions.max(1)));
        tasks.enumerate().for_each_init(Default::default, |scratch, (task, (out, log_totals))| {
            Arch::new().dispatch(forward::Head { attention: self, qkv, task, out, log_totals, scratch });
        });
        map_rows(out, self.dim(), |row, out| {
            let (b, t) = (row / self.positions, row % self.positions);
            for (h, out) in out.chunks_exact_mut(self.head_dim).enumerate() {
                let from = (b * self.heads + h) * plane + t * self.head_dim;
                out.copy_from_slice(&per_head[from..from + self.head_dim]);
            }
        });
        log_totals
    }
}
