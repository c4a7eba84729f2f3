//! A depthwise convolution over time, channels last, "same" padding.
//!
//! Work goes in blocks of positions by [`LANES`] channels: the rows that a block needs are copied beside each other,
//! zeros where the sequence ends, and a tile of outputs stays in registers while it runs over its taps.

use super::rows::in_order;
use pulp::{Arch, Simd, WithSimd};
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

pub(crate) type Lanes = [f32; LANES];

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
        Arch::new().dispatch(Outputs { x, start, taps, bias, e, out, rows });
    });
}

/// The outputs of one task, from position `start` of example `x`.
struct Outputs<'a> {
    x: &'a [f32],
    start: usize,
    taps: &'a [Lanes],
    bias: Option<&'a [f32]>,
    e: Extents,
    out: &'a mut [f32],
    rows: &'a mut Vec<Lanes>,
}

impl WithSimd for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, start, taps, bias, e, out, rows } = self;
        let positions = out.len() / e.channels;
        rows.resize(positions.next_multiple_of(TILE) + e.kernel - 1, [0.0; LANES]);
        let mut sums = [[0.0; LANES]; TILE];
        for (i, taps) in taps.chunks_exact(e.kernel).enumerate() {
            let at = i * LANES;
            let width = LANES.min(e.channels - at);
            e.gather(x, start as isize - e.half(), at, rows);
            let mut first = [0.0; LANES];
            if let Some(bias) = bias {
                first[..width].copy_from_slice(&bias[at..at + width]);
            }
            for t in (0..positions).step_by(TILE) {
                tile(simd, &rows[t..], taps, &first, &mut sums);
                for (i, sums) in sums.iter().take(positions - t).enumerate() {
                    out[(t + i) * e.channels + at..][..width].copy_from_slice(&sums[..width]);
                }
            }
        }
    }
}

/// `sums[i] = first + sum over k of rows[i + k] taps[k]`.
#[inline(always)]
fn tile<S: Simd>(simd: S, rows: &[Lanes], taps: &[Lanes], first: &Lanes, sums: &mut [Lanes; TILE]) {
    let rows = &rows[..taps.len() + TILE - 1];
    for part in 0..LANES / S::F32_LANES {
        let of = |lanes: &Lanes| S::as_simd_f32s(lanes).0[part];
        let mut totals = [of(first); TILE];
        for (k, tap) in taps.iter().enumerate() {
            let (rows, tap) = (&rows[k..k + TILE], of(tap));
            for i in 0..TILE {
                totals[i] = simd.mul_add_f32s(of(&rows[i]), tap, totals[i]);
            }
        }
        for (sums, total) in sums.iter_mut().zip(totals) {
            S::as_mut_simd_f32s(sums).0[part] = total;
        }
    }
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
            |(rows, grads), (x, start, grad)| Arch::new().dispatch(Slopes { x, start, grad, e, rows, grads }),
        )
        .collect();
    in_order(&partials, e.channels * e.kernel)
}

/// One task's part of the gradient of the weight.
struct Slopes<'a> {
    x: &'a [f32],
    start: usize,
    grad: &'a [f32],
    e: Extents,
    rows: &'a mut Vec<Lanes>,
    grads: &'a mut Vec<Lanes>,
}

impl WithSimd for Slopes<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { x, start, grad, e, rows, grads } = self;
        let positions = grad.len() / e.channels;
        let mut out = vec![0.0; e.channels * e.kernel];
        rows.resize(positions + e.kernel.next_multiple_of(TAPS), [0.0; LANES]);
        grads.resize(positions, [0.0; LANES]);
        let of_grad = Extents { positions, ..e };
        let mut sums = [[0.0; LANES]; TAPS];
        for at in (0..e.channels).step_by(LANES) {
            e.gather(x, start as isize - e.half(), at, rows);
            of_grad.gather(grad, 0, at, grads);
            for k in (0..e.kernel).step_by(TAPS) {
                slopes(simd, &rows[k..], grads, &mut sums);
                for (i, sums) in sums.iter().take(e.kernel - k).enumerate() {
                    for (lane, sum) in sums.iter().take(e.channels - at).enumerate() {
                        out[(at + lane) * e.kernel + k + i] = *sum;
                    }
                }
            }
        }
        out
    }
}

/// `sums[i] = sum over t of rows[t + i] grads[t]`.
#[inline(always)]
fn slopes<S: Simd>(simd: S, rows: &[Lanes], grads: &[Lanes], sums: &mut [Lanes; TAPS]) {
    let rows = &rows[..grads.len() + TAPS - 1];
    for part in 0..LANES / S::F32_LANES {
        let of = |lanes: &Lanes| S::as_simd_f32s(lanes).0[part];
        let mut totals = [simd.splat_f32s(0.0); TAPS];
        for (t, grad) in grads.iter().enumerate() {
            let (rows, grad) = (&rows[t..t + TAPS], of(grad));
            for i in 0..TAPS {
                totals[i] = simd.mul_add_f32s(of(&rows[i]), grad, totals[i]);
            }
        }
        for (sums, total) in sums.iter_mut().zip(totals) {
            S::as_mut_simd_f32s(sums).0[part] = total;
        }
    }
}
