//! Many filters over many frames: the inner loop of the transform.
//!
//! A frame is taken from the signal as it lies there, so the frames of a block form a matrix without being copied. Real
//! and imaginary weights lie side by side in vector lanes, every sum runs over the samples in one order of fused
//! multiply-adds, and lanes only ever hold different outputs: the result has the same bits with any vector unit and
//! however frames are grouped.

use pulp::{Arch, Simd, WithSimd};
use realfft::num_complex::Complex;

/// Outputs in one block of weights: the widest vector register; narrower ones take a block in parts.
const LANES: usize = 16;
/// Samples of a frame that are summed before the next frames get their turn: the weights of three blocks for so many
/// samples fill a third of a first-level cache.
const CHUNK: usize = 64;

/// One block of outputs, or of their weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
pub(super) struct Lanes([f32; LANES]);

/// Weights of the filters of one octave.
#[derive(Clone)]
pub(super) struct Correlator {
    filters: usize,
    /// Samples of a frame, whole chunks: weights are zero beyond the filters.
    taps: usize,
    /// `(blocks, taps, LANES)`; outputs are the real parts of all filters, then the imaginary parts.
    weights: Vec<Lanes>,
}

impl Correlator {
    /// From the weights of filters of equal length.
    pub(super) fn new(filters: &[Vec<Complex<f64>>]) -> Self {
        let taps = filters[0].len().next_multiple_of(CHUNK);
        let outputs = 2 * filters.len();
        let mut weights = vec![Lanes::default(); outputs.div_ceil(LANES) * taps];
        for output in 0..outputs {
            let filter = &filters[output % filters.len()];
            let block = &mut weights[output / LANES * taps..];
            for (slot, weight) in block.iter_mut().zip(filter) {
                slot.0[output % LANES] = if output < filters.len() { weight.re } else { weight.im } as f32;
            }
        }
        Self { filters: filters.len(), taps, weights }
    }

    /// Samples that a frame takes from the signal.
    pub(super) fn taps(&self) -> usize {
        self.taps
    }

    /// Blocks of output for one frame.
    pub(super) fn blocks(&self) -> usize {
        self.weights.len() / self.taps
    }

    /// Applies all filters to frames that start `hop_len` samples apart.
    ///
    /// # Shapes
    /// `signal`: from the first sample of the first frame to at least [`taps`](Self::taps) samples behind the start of
    /// the last; `out`: `(frames, blocks)`.
    pub(super) fn run(&self, arch: Arch, signal: &[f32], hop_len: usize, out: &mut [Lanes]) {
        arch.dispatch(Run { weights: self, signal, hop_len, out });
    }

    /// Squared magnitudes.
    ///
    /// # Shapes
    /// `products`: `(frames, blocks)`; `out`: `(frames, filters)`.
    pub(super) fn power(&self, products: &[Lanes], out: &mut [f32]) {
        for (products, row) in products.chunks_exact(self.blocks()).zip(out.chunks_exact_mut(self.filters)) {
            for (i, slot) in row.iter_mut().enumerate() {
                let [re, im] = [i, i + self.filters].map(|output| products[output / LANES].0[output % LANES]);
                *slot = re * re + im * im;
            }
        }
    }
}

struct Run<'a> {
    weights: &'a Correlator,
    signal: &'a [f32],
    hop_len: usize,
    out: &'a mut [Lanes],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, signal, hop_len, out } = self;
        let blocks = weights.blocks();
        out.fill(Lanes::default());
        for chunk in (0..weights.taps).step_by(CHUNK) {
            let signal = &signal[chunk..];
            let mut block = 0;
            while block < blocks {
                let panel = Panel { weights, signal, hop_len, chunk, block };
                match blocks - block {
                    1 => panel.run::<S, 1>(simd, out),
                    2 => panel.run::<S, 2>(simd, out),
                    _ => panel.run::<S, 3>(simd, out),
                }
                block += 3;
            }
        }
    }
}

/// A chunk of samples, up to three blocks of outputs.
struct Panel<'a> {
    weights: &'a Correlator,
    /// From the chunk in the first frame on.
    signal: &'a [f32],
    hop_len: usize,
    chunk: usize,
    block: usize,
}

impl Panel<'_> {
    /// All frames; as many at once as there are registers for the sums of `B` blocks.
    #[inline(always)]
    fn run<S: Simd, const B: usize>(&self, simd: S, out: &mut [Lanes]) {
        let frames = out.len() / self.weights.blocks();
        let mut frame = 0;
        if S::F32_LANES == LANES {
            while frame + 8 <= frames {
                self.tile::<S, 8, B>(simd, frame, out);
                frame += 8;
            }
        }
        while frame + 4 <= frames {
            self.tile::<S, 4, B>(simd, frame, out);
            frame += 4;
        }
        while frame < frames {
            self.tile::<S, 1, B>(simd, frame, out);
            frame += 1;
        }
    }

    /// Adds the chunk of `F` frames from `first` on to their sums.
    #[inline(always)]
    fn tile<S: Simd, const F: usize, const B: usize>(&self, simd: S, first: usize, out: &mut [Lanes]) {
        let (taps, blocks) = (self.weights.taps, self.weights.blocks());
        let samples: [&[f32; CHUNK]; F] = std::array::from_fn(|f| chunk_at(self.signal, (first + f) * self.hop_len));
        let weights: [&[Lanes; CHUNK]; B] =
            std::array::from_fn(|b| chunk_at(&self.weights.weights, (self.block + b) * taps + self.chunk));
        let at = |f: usize, b: usize| (first + f) * blocks + self.block + b;
        for part in 0..LANES / S::F32_LANES {
            let mut sum: [[S::f32s; B]; F] =
                std::array::from_fn(|f| std::array::from_fn(|b| S::as_simd_f32s(&out[at(f, b)].0).0[part]));
            for i in 0..CHUNK {
                let weight: [S::f32s; B] = std::array::from_fn(|b| S::as_simd_f32s(&weights[b][i].0).0[part]);
                for f in 0..F {
                    let sample = simd.splat_f32s(samples[f][i]);
                    for b in 0..B {
                        sum[f][b] = simd.mul_add_f32s(sample, weight[b], sum[f][b]);
                    }
                }
            }
            for f in 0..F {
                for b in 0..B {
                    S::as_mut_simd_f32s(&mut out[at(f, b)].0).0[part] = sum[f][b];
                }
            }
        }
    }
}

/// The chunk that starts at `start`.
#[inline(always)]
fn chunk_at<T>(values: &[T], start: usize) -> &[T; CHUNK] {
    values[start..].first_chunk().expect("signals and weights end with whole chunks")
}
