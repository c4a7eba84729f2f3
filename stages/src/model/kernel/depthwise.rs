//! A depthwise convolution over time, channels last, "same" padding.
//!
//! Work goes in blocks of positions by [`LANES`] channels: the rows that a block needs are copied beside each other,
//! zeros where the sequence ends, and a tile of outputs stays in registers while it runs over its taps.

use super::maths::{fma, vectorized};
use super::rows::in_order;
use rayon::prelude::*;

/// Channels of a block.
const LANES: usize = 16;
/// Output positions whose sums are in registers together.
const TILE: usize = 8;
/// Positions of a task.
const BLOCK: usize = 64;
/// Positions of a task that sums gradients.
const GRADIENT_BLOCK: usize = 256;
/// Taps whose gradients are in registers together.
const TAPS: usize = 8;

type Lanes = [f32; LANES];

/// Extents of a depthwise convolution: `(batch, positions, channels)` and the kernel's length, which is odd.
#[derive(Clone, Copy)]
pub(crate) struct Extents {
    pub(crate) batch: usize,
    pub(crate) positions: usize,
    pub(crate) channels: usize,
    pub(crate) kernel: usize,
}

impl Extents {
    /// Rows `first..first + rows.len()` of an example's channels `at..at + LANES`, zero where there are none.
    #[inline(always)]
    fn gather(&self, example: &[f32], first: isize, at: usize, rows: &mut [Lanes]) {
        let width = LANES.min(self.channels - at);
        for (i, lanes) in rows.iter_mut().enumerate() {
            *lanes = [0.0; LANES];
            let t = first + i as isize;
            if (0..self.positions as isize).contains(&t) {
                let from = t as usize * self.channels + at;
                lanes[..width].copy_from_slice(&example[from..from + width]);
            }
        }
    }

    fn half(&self) -> isize {
        (self.kernel / 2) as isize
    }
}

/// `(channels, kernel)` to `(blocks of channels, kernel, LANES)`; `flip` turns the kernel round.
pub(crate) fn pack_taps(weight: &[f32], channels: usize, kernel: usize, flip: bool) -> Vec<Lanes> {
    let mut taps = vec![[0.0; LANES]; channels.div_ceil(LANES) * kernel];
    for c in 0..channels {
        for k in 0..kernel {
            let from = if flip { kernel - 1 - k } else { k };
            taps[c / LANES * kernel + k][c % LANES] = weight[c * kernel + from];
        }
    }
    taps
}

/// Each output row is `bias` (zero where absent) plus tap times input row. `taps` are packed.
pub(crate) fn convolve(x: &[f32], taps: &[Lanes], bias: Option<&[f32]>, e: Extents, out: &mut [f32]) {
    let example = (e.positions * e.channels).max(1);
    let examples = out.chunks_mut(example).zip(x.chunks(example));
    let tasks: Vec<_> = examples
        .flat_map(|(out, x)| out.chunks_mut(BLOCK * e.channels).enumerate().map(move |(i, out)| (x, i * BLOCK, out)))
        .collect();
    tasks.into_par_iter().for_each_init(Vec::new, |rows, (x, start, out)| {
        vectorized(|| block(x, start, taps, bias, e, out, rows));
    });
}

/// The outputs of one task, from position `start`.
#[inline(always)]
fn block(
    x: &[f32],
    start: usize,
    taps: &[Lanes],
    bias: Option<&[f32]>,
    e: Extents,
    out: &mut [f32],
    rows: &mut Vec<Lanes>,
) {
    let positions = out.len() / e.channels;
    rows.resize(positions.next_multiple_of(TILE) + e.kernel - 1, [0.0; LANES]);
    for (i, taps) in taps.chunks_exact(e.kernel).enumerate() {
        let at = i * LANES;
        let width = LANES.min(e.channels - at);
        e.gather(x, start as isize - e.half(), at, rows);
        let mut first = [0.0; LANES];
        if let Some(bias) = bias {
            first[..width].copy_from_slice(&bias[at..at + width]);
        }
        for t in (0..positions).step_by(TILE) {
            let sums = tile(&rows[t..], taps, first);
            for (i, sums) in sums.iter().take(positions - t).enumerate() {
                out[(t + i) * e.channels + at..][..width].copy_from_slice(&sums[..width]);
            }
        }
    }
}

/// `sums[i] = first + sum over k of rows[i + k] taps[k]`.
#[inline(always)]
fn tile(rows: &[Lanes], taps: &[Lanes], first: Lanes) -> [Lanes; TILE] {
    let mut sums = [first; TILE];
    let rows = &rows[..taps.len() + TILE - 1];
    for (k, tap) in taps.iter().enumerate() {
        let rows = &rows[k..k + TILE];
        for i in 0..TILE {
            for lane in 0..LANES {
                sums[i][lane] = fma(rows[i][lane], tap[lane], sums[i][lane]);
            }
        }
    }
    sums
}

/// The gradient of the weight, `(channels, kernel)`, given that of the output: one partial sum per task, added in order.
pub(crate) fn taps_gradient(x: &[f32], grad: &[f32], e: Extents) -> Vec<f32> {
    let example = (e.positions * e.channels).max(1);
    let examples = grad.chunks(example).zip(x.chunks(example));
    let tasks: Vec<_> = examples
        .flat_map(|(grad, x)| {
            let blocks = grad.chunks(GRADIENT_BLOCK * e.channels).enumerate();
            blocks.map(move |(i, grad)| (x, i * GRADIENT_BLOCK, grad))
        })
        .collect();
    let partials: Vec<Vec<f32>> = tasks
        .into_par_iter()
        .map_init(
            || (Vec::new(), Vec::new()),
            |(rows, grads), (x, start, grad)| vectorized(|| gradient_block(x, start, grad, e, rows, grads)),
        )
        .collect();
    in_order(&partials, e.channels * e.kernel)
}

/// One task's part of the gradient.
#[inline(always)]
fn gradient_block(
    x: &[f32],
    start: usize,
    grad: &[f32],
    e: Extents,
    rows: &mut Vec<Lanes>,
    grads: &mut Vec<Lanes>,
) -> Vec<f32> {
    let positions = grad.len() / e.channels;
    let mut out = vec![0.0; e.channels * e.kernel];
    rows.resize(positions + e.kernel.next_multiple_of(TAPS), [0.0; LANES]);
    grads.resize(positions, [0.0; LANES]);
    let of_grad = Extents { positions, ..e };
    for at in (0..e.channels).step_by(LANES) {
        e.gather(x, start as isize - e.half(), at, rows);
        of_grad.gather(grad, 0, at, grads);
        for k in (0..e.kernel).step_by(TAPS) {
            let mut sums = [[0.0; LANES]; TAPS];
            for (t, grad) in grads.iter().enumerate() {
                let rows = &rows[t + k..t + k + TAPS];
                for i in 0..TAPS {
                    for lane in 0..LANES {
                        sums[i][lane] = fma(rows[i][lane], grad[lane], sums[i][lane]);
                    }
                }
            }
            for (i, sums) in sums.iter().take(e.kernel - k).enumerate() {
                for (lane, sum) in sums.iter().take(e.channels - at).enumerate() {
                    out[(at + lane) * e.kernel + k + i] = *sum;
                }
            }
        }
    }
    out
}
