//! Attended values, in blocks of queries and keys (FlashAttention, algorithm 1).
//!
//! Queries lie beside each other in the lanes of vectors, keys below each other: what the softmax needs, maxima and sums
//! over the keys, are then operations between vectors, and both products read what they need from the nearest caches.

use super::super::maths::exp2;
use super::super::matmul::LANES;
use super::super::tile::{PANEL, Row, multiply};
use super::Attention;
use crate::model::pass::FactorLanes;
use pulp::{Simd, WithSimd};

/// Queries of a block.
const QUERIES: usize = PANEL;
/// Keys of a block: a multiple of the keys of a tile, whichever it is.
const KEYS: usize = 144;

/// Memory of one thread, reused from task to task.
#[derive(Default)]
pub(super) struct Scratch {
    row: Vec<f32>,
    /// `(tiles, head_dim, keys of a tile)`.
    keys: Vec<f32>,
    /// `(tiles, positions, values of a tile)`.
    values: Vec<f32>,
    /// `(head_dim, QUERIES)`, scaled.
    queries: Vec<Row>,
    /// Scores, then weights, `(KEYS, QUERIES)`.
    weights: Vec<Row>,
    /// `(head_dim, QUERIES)`, up to whole tiles.
    attended: Vec<Row>,
}

/// One head of one example.
pub(super) struct Head<'a> {
    pub(super) attention: &'a Attention<'a>,
    pub(super) qkv: &'a [f32],
    pub(super) task: usize,
    /// `(positions, head_dim)`.
    pub(super) out: &'a mut [f32],
    pub(super) log_totals: &'a mut [f32],
    pub(super) scratch: &'a mut Scratch,
}

/// The softmax of every query of a block, as far as its keys have been seen.
struct Softmax {
    tops: Row,
    totals: Row,
    /// What the attended values so far are multiplied with, now that a larger score has been seen.
    factors: Row,
}

impl Softmax {
    fn new() -> Self {
        Self { tops: Row([f32::NEG_INFINITY; PANEL]), totals: Row::ZERO, factors: Row::ZERO }
    }

    /// Turns the scores of further keys into exponentials relative to the maximum of all so far.
    #[inline(always)]
    fn go_on(&mut self, scores: &mut [Row]) {
        for from in (0..PANEL).step_by(LANES) {
            let lanes = from..from + LANES;
            let mut best = [f32::NEG_INFINITY; LANES];
            best.copy_from_slice(&self.tops.0[lanes.clone()]);
            for row in scores.iter() {
                for (best, score) in best.iter_mut().zip(&row.0[lanes.clone()]) {
                    *best = if *score > *best { *score } else { *best };
                }
            }
            let mut sums = [0.0; LANES];
            for row in scores.iter_mut() {
                for ((sum, score), best) in sums.iter_mut().zip(&mut row.0[lanes.clone()]).zip(&best) {
                    *score = exp2(*score - *best);
                    *sum += *score;
                }
            }
            for (lane, (best, sum)) in lanes.zip(best.iter().zip(&sums)) {
                let factor = exp2(self.tops.0[lane] - best);
                self.factors.0[lane] = factor;
                self.totals.0[lane] = self.totals.0[lane].mul_add(factor, *sum);
                self.tops.0[lane] = *best;
            }
        }
    }
}

impl Head<'_> {
    /// A part of position `t`: query, key or value.
    #[inline(always)]
    fn row(&self, t: usize, part: usize, row: &mut [f32]) {
        let from = self.attention.place(self.task, t, (part, 3));
        row.copy_from_slice(&self.qkv[from..from + self.attention.head_dim]);
        if let (0 | 1, Some(angles)) = (part, self.attention.angles) {
            angles.rotate(t, row);
        }
    }

    /// Lays keys out in tiles of `K` and values in tiles of `V`.
    #[inline(always)]
    fn arrange<const K: usize, const V: usize>(&self, scratch: &mut Scratch) {
        let Attention { positions, head_dim, .. } = *self.attention;
        let Scratch { row, keys, values, .. } = scratch;
        row.resize(head_dim, 0.0);
        keys.clear();
        keys.resize(positions.next_multiple_of(K) * head_dim, 0.0);
        values.clear();
        values.resize(positions * head_dim.next_multiple_of(V), 0.0);
        for t in 0..positions {
            self.row(t, 1, row);
            let tile = &mut keys[t / K * K * head_dim..][..K * head_dim];
            for (slot, value) in tile.as_chunks_mut::<K>().0.iter_mut().zip(&*row) {
                slot[t % K] = *value;
            }
            self.row(t, 2, row);
            let (whole, rest) = row.as_chunks::<V>();
            let slots = values.as_chunks_mut::<V>().0;
            for (tile, part) in whole.iter().enumerate() {
                slots[tile * positions + t] = *part;
            }
            if !rest.is_empty() {
                slots[whole.len() * positions + t][..rest.len()].copy_from_slice(rest);
            }
        }
    }

    /// Lays the queries from `start` on beside each other; past the last there are zeros.
    #[inline(always)]
    fn ask(&self, start: usize, Scratch { row, queries, .. }: &mut Scratch) {
        let scale = self.attention.scale();
        queries.clear();
        queries.resize(self.attention.head_dim, Row::ZERO);
        for (lane, t) in (start..self.attention.positions.min(start + QUERIES)).enumerate() {
            self.row(t, 0, row);
            for (query, value) in queries.iter_mut().zip(&*row) {
                query.0[lane] = *value * scale;
            }
        }
    }

    /// Sets what queries from `start` on must not see of the keys from `first` on.
    #[inline(always)]
    fn hide(&self, start: usize, first: usize, weights: &mut [Row], value: f32) {
        if self.attention.causal && first + weights.len() > start + 1 {
            for (key, row) in (first..).zip(weights) {
                row.0[..key.saturating_sub(start).min(QUERIES)].fill(value);
            }
        }
    }

    #[inline(always)]
    fn run<S: Simd, const K: usize, const V: usize>(self, simd: S) {
        let Attention { positions, head_dim, .. } = *self.attention;
        let mut scratch = std::mem::take(self.scratch);
        self.arrange::<K, V>(&mut scratch);
        for start in (0..positions).step_by(QUERIES) {
            self.ask(start, &mut scratch);
            let softmax = self.block::<S, K, V>(simd, start, &mut scratch);
            for (lane, t) in (start..positions.min(start + QUERIES)).enumerate() {
                // What the exponentials add up to divides the attended values, which are fewer.
                let factor = 1.0 / softmax.totals.0[lane];
                self.log_totals[t] = softmax.tops.0[lane] + softmax.totals.0[lane].log2();
                for (out, row) in self.out[t * head_dim..][..head_dim].iter_mut().zip(&scratch.attended) {
                    *out = row.0[lane] * factor;
                }
            }
        }
        *self.scratch = scratch;
    }

    /// What the queries from `start` on attend to, but for the denominator.
    #[inline(always)]
    fn block<S: Simd, const K: usize, const V: usize>(&self, simd: S, start: usize, scratch: &mut Scratch) -> Softmax {
        let Attention { positions, head_dim, .. } = *self.attention;
        let Scratch { keys, values, queries, weights, attended, .. } = scratch;
        attended.clear();
        attended.resize(head_dim.next_multiple_of(V), Row::ZERO);
        weights.resize(KEYS, Row::ZERO);
        let row = self.task * positions + start;
        let dropout = self.attention.dropout.map(|dropout| FactorLanes::<QUERIES>::new(dropout, row));
        let mut softmax = Softmax::new();
        let seen = self.attention.seen(positions.min(start + QUERIES) - 1);
        for first in (0..seen).step_by(KEYS) {
            let count = KEYS.min(seen - first);
            let tiles = keys[first * head_dim..].chunks_exact(K * head_dim).take(count.div_ceil(K));
            for (out, keys) in weights.as_chunks_mut::<K>().0.iter_mut().zip(tiles) {
                multiply(simd, keys.as_chunks::<K>().0, queries, out);
            }
            let weights = &mut weights[..count];
            self.hide(start, first, weights, f32::NEG_INFINITY);
            softmax.go_on(weights);
            self.hide(start, first, weights, 0.0);
            if let Some(dropout) = &dropout {
                for (key, row) in (first..).zip(weights.iter_mut()) {
                    dropout.multiply(key, &mut row.0);
                }
            }
            let mut sums = [Row::ZERO; V];
            let tiles = values.chunks_exact(positions * V);
            for (attended, values) in attended.as_chunks_mut::<V>().0.iter_mut().zip(tiles) {
                multiply(simd, values[first * V..][..count * V].as_chunks::<V>().0, weights, &mut sums);
                for (attended, sums) in attended.iter_mut().zip(&sums) {
                    let terms = softmax.factors.0.iter().zip(&sums.0);
                    for (attended, (factor, sum)) in attended.0.iter_mut().zip(terms) {
                        *attended = attended.mul_add(*factor, *sum);
                    }
                }
            }
        }
        softmax
    }
}

impl WithSimd for Head<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::F32_LANES == LANES { self.run::<S, 9, 8>(simd) } else { self.run::<S, 4, 4>(simd) }
    }
}
