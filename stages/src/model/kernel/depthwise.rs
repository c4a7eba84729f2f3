//! A depthwise convolution over time, channels last, "same" padding.

use super::maths::fma;
use super::rows::{in_order, map_rows};
use rayon::prelude::*;

/// Extents of a depthwise convolution: `(batch, positions, channels)` and the kernel's length, which is odd.
#[derive(Clone, Copy)]
pub(crate) struct Extents {
    pub(crate) batch: usize,
    pub(crate) positions: usize,
    pub(crate) channels: usize,
    pub(crate) kernel: usize,
}

impl Extents {
    /// Taps `k` for which position `t + k - kernel / 2` exists, with the first such position.
    fn taps(&self, t: usize) -> (std::ops::Range<usize>, usize) {
        let half = self.kernel / 2;
        let first = half.saturating_sub(t);
        let last = self.kernel.min(self.positions + half - t);
        (first..last, t + first - half)
    }
}

/// `(channels, kernel)` to `(kernel, channels)`, so that taps are rows; `flip` turns the kernel round.
pub(crate) fn taps_as_rows(weight: &[f32], channels: usize, kernel: usize, flip: bool) -> Vec<f32> {
    let mut taps = vec![0.0; weight.len()];
    for c in 0..channels {
        for k in 0..kernel {
            let from = if flip { kernel - 1 - k } else { k };
            taps[k * channels + c] = weight[c * kernel + from];
        }
    }
    taps
}

/// Each output row starts as `bias` (zero where absent) and gains tap times input row. `taps` is `(kernel, channels)`.
pub(crate) fn convolve(x: &[f32], taps: &[f32], bias: Option<&[f32]>, e: Extents) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    map_rows(&mut out, e.channels, |row, out| {
        let (b, t) = (row / e.positions, row % e.positions);
        if let Some(bias) = bias {
            out.copy_from_slice(bias);
        }
        let (range, from) = e.taps(t);
        let inputs = &x[(b * e.positions + from) * e.channels..];
        let taps = &taps[range.start * e.channels..range.end * e.channels];
        for (input, tap) in inputs.chunks_exact(e.channels).zip(taps.chunks_exact(e.channels)) {
            for ((out, x), w) in out.iter_mut().zip(input).zip(tap) {
                *out = fma(*x, *w, *out);
            }
        }
    });
    out
}

/// The gradient of the taps, `(kernel, channels)`: one partial sum per example, added in order.
pub(crate) fn taps_gradient(x: &[f32], grad: &[f32], e: Extents) -> Vec<f32> {
    let example = e.positions * e.channels;
    let partials: Vec<Vec<f32>> = (0..e.batch)
        .into_par_iter()
        .map(|b| {
            let (x, grad) = (&x[b * example..][..example], &grad[b * example..][..example]);
            let mut total = vec![0.0; e.kernel * e.channels];
            for (t, grad) in grad.chunks_exact(e.channels).enumerate() {
                let (range, from) = e.taps(t);
                let totals = total[range.start * e.channels..range.end * e.channels].chunks_exact_mut(e.channels);
                for (total, x) in totals.zip(x[from * e.channels..].chunks_exact(e.channels)) {
                    for ((total, x), g) in total.iter_mut().zip(x).zip(grad) {
                        *total = fma(*x, *g, *total);
                    }
                }
            }
            total
        })
        .collect();
    in_order(&partials, e.kernel * e.channels)
}
