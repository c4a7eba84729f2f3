//! Many filters over many frames: the inner loop of the transform.
//!
//! A frame is taken from the signal as it lies there, so the frames of a block are a matrix without being copied. Lanes
//! hold real and imaginary parts of several filters in turn. Every sum runs over the samples in one order of fused
//! multiply-adds, and lanes only ever hold different outputs: the result has the same bits with any vector unit and
//! however frames are grouped.

use pulp::{Arch, Simd, WithSimd};
use realfft::num_complex::Complex;

/// Outputs in one block of weights: the widest vector register; narrower ones take a block in parts.
const LANES: usize = 16;
/// Samples of a frame that are summed before the next frames get their turn: the weights of three blocks for so many
/// samples fill a third of a first-level cache.
const CHUNK: usize = 64;
/// Frames that share one pass over a chunk of weights, with 32 vector registers and with fewer: the sums of three
/// blocks of outputs stay in registers.
const TILE: usize = 8;
const NARROW_TILE: usize = 4;

/// The weights of one sample in one block of outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
struct Lanes([f32; LANES]);

/// Weights of the filters of one octave.
#[derive(Clone)]
pub(super) struct Correlator {
    filters: usize,
    /// Samples of a frame, whole chunks: weights are zero beyond the filters.
    taps: usize,
    /// `(blocks, taps, LANES)`; outputs are the real and the imaginary part of each filter in turn.
    weights: Vec<Lanes>,
}

impl Correlator {
    /// From the weights of filters of equal length.
    pub(super) fn new(filters: &[Vec<Complex<f64>>]) -> Self {
        let taps = filters[0].len().next_multiple_of(CHUNK);
        let mut weights = vec![Lanes::default(); (2 * filters.len()).div_ceil(LANES) * taps];
        for (i, filter) in filters.iter().enumerate() {
            let block = &mut weights[2 * i / LANES * taps..];
            for (slot, weight) in block.iter_mut().zip(filter) {
                slot.0[2 * i % LANES] = weight.re as f32;
                slot.0[2 * i % LANES + 1] = weight.im as f32;
            }
        }
        Self { filters: filters.len(), taps, weights }
    }

    /// Samples that are read from the start of a frame on.
    pub(super) fn taps(&self) -> usize {
        self.taps
    }

    /// Numbers that come out for one frame; the last of them may mean nothing.
    pub(super) fn outputs(&self) -> usize {
        self.weights.len() / self.taps * LANES
    }

    /// Applies all filters to frames that start `hop_len` samples apart.
    ///
    /// # Shapes
    /// `signal`: from the first sample of the first frame to [`taps`](Self::taps) samples behind the start of the
    /// last; `out`: `(frames, outputs)`.
    pub(super) fn run(&self, arch: Arch, signal: &[f32], hop_len: usize, out: &mut [f32]) {
        arch.dispatch(Run { weights: self, signal, hop_len, out });
    }

    /// Squared magnitudes.
    ///
    /// # Shapes
    /// `products`: `(frames, outputs)`; `out`: `(frames, filters)`.
    pub(super) fn power(&self, products: &[f32], out: &mut [f32]) {
        for (products, row) in products.chunks_exact(self.outputs()).zip(out.chunks_exact_mut(self.filters)) {
            for (slot, [re, im]) in row.iter_mut().zip(products.as_chunks().0) {
                *slot = re * re + im * im;
            }
        }
    }
}

struct Run<'a> {
    weights: &'a Correlator,
    signal: &'a [f32],
    hop_len: usize,
    out: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { weights, signal, hop_len, out } = self;
        let outputs = weights.outputs();
        let tile = if S::F32_LANES == LANES { TILE } else { NARROW_TILE };
        for chunk in (0..weights.taps).step_by(CHUNK) {
            for (i, out) in out.chunks_mut(tile * outputs).enumerate() {
                let mut frames = Frames { weights, signal: &signal[i * tile * hop_len..], hop_len, chunk };
                match out.len() / outputs {
                    TILE => frames.run::<S, TILE>(simd, out),
                    NARROW_TILE => frames.run::<S, NARROW_TILE>(simd, out),
                    _ => {
                        for out in out.chunks_exact_mut(outputs) {
                            frames.run::<S, 1>(simd, out);
                            frames.signal = frames.signal.get(hop_len..).unwrap_or(&[]);
                        }
                    }
                }
            }
        }
    }
}

/// A few frames and a chunk of their samples.
struct Frames<'a> {
    weights: &'a Correlator,
    /// From the first frame on.
    signal: &'a [f32],
    hop_len: usize,
    chunk: usize,
}

impl Frames<'_> {
    /// Adds the chunk to the sums of all outputs of `F` frames.
    #[inline(always)]
    fn run<S: Simd, const F: usize>(&self, simd: S, out: &mut [f32]) {
        let mut samples = [&[0.0; CHUNK]; F];
        for (frame, samples) in samples.iter_mut().enumerate() {
            *samples = chunk_at(self.signal, frame * self.hop_len + self.chunk);
        }
        let blocks = self.weights.outputs() / LANES;
        for block in (0..blocks).step_by(3) {
            match blocks - block {
                1 => self.add::<S, F, 1>(simd, block, &samples, out),
                2 => self.add::<S, F, 2>(simd, block, &samples, out),
                _ => self.add::<S, F, 3>(simd, block, &samples, out),
            }
        }
    }

    /// Adds the chunk to the sums of `B` blocks from `first` on.
    #[inline(always)]
    fn add<S: Simd, const F: usize, const B: usize>(
        &self,
        simd: S,
        first: usize,
        samples: &[&[f32; CHUNK]; F],
        out: &mut [f32],
    ) {
        let (outputs, width) = (self.weights.outputs(), S::F32_LANES);
        let mut weights = [&[Lanes([0.0; LANES]); CHUNK]; B];
        for (b, weights) in weights.iter_mut().enumerate() {
            *weights = chunk_at(&self.weights.weights, (first + b) * self.weights.taps + self.chunk);
        }
        for part in 0..LANES / width {
            let at = |f: usize, b: usize| f * outputs + (first + b) * LANES + part * width;
            let mut sum = [[simd.splat_f32s(0.0); B]; F];
            if self.chunk > 0 {
                for f in 0..F {
                    for b in 0..B {
                        sum[f][b] = S::as_simd_f32s(&out[at(f, b)..][..width]).0[0];
                    }
                }
            }
            for i in 0..CHUNK {
                let mut weight = [simd.splat_f32s(0.0); B];
                for b in 0..B {
                    weight[b] = S::as_simd_f32s(&weights[b][i].0).0[part];
                }
                for f in 0..F {
                    let sample = simd.splat_f32s(samples[f][i]);
                    for b in 0..B {
                        sum[f][b] = simd.mul_add_f32s(sample, weight[b], sum[f][b]);
                    }
                }
            }
            for f in 0..F {
                for b in 0..B {
                    S::as_mut_simd_f32s(&mut out[at(f, b)..][..width]).0[0] = sum[f][b];
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
