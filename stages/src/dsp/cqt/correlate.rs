//! Many filters over many frames: the inner loop of the transform.
//!
//! Filters are mirror-symmetric up to a constant phase, which powers do not see: real parts even, imaginary parts odd.
//! So a frame is folded first, into sums and differences of mirrored samples, and half of the multiplications are left.
//!
//! Lanes hold real and imaginary parts of several filters in turn; a pair of a sum and a difference is repeated over
//! the lanes. Every sum runs over the pairs in one order of fused multiply-adds, and lanes only ever hold different
//! outputs: the result has the same bits with any vector unit and however frames are grouped.

use pulp::bytemuck::cast;
use pulp::{Arch, Simd, WithSimd, c32};
use realfft::num_complex::Complex;

/// Outputs in one block of weights: the widest vector register; narrower ones take a block in parts.
const LANES: usize = 16;
/// Pairs that are summed before the next frames get their turn: the weights of three blocks for so many pairs fill a
/// third of a first-level cache.
const CHUNK: usize = 64;
/// Frames that share one pass over a chunk of weights, with 32 vector registers and with fewer: the sums of three
/// blocks of outputs stay in registers.
const TILE: usize = 8;
const NARROW_TILE: usize = 4;

/// The weights of one pair in one block of outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C, align(64))]
struct Lanes([f32; LANES]);

/// Weights of the filters of one octave.
pub(super) struct Correlator {
    filters: usize,
    /// Length of a frame, samples.
    n_fft: usize,
    /// Whether the filters are mirror-symmetric, so that frames are folded.
    folded: bool,
    /// Pairs of a frame, whole chunks: weights are zero beyond the filters.
    pairs: usize,
    /// `(blocks, pairs, LANES)`; outputs are the real and the imaginary part of each filter in turn.
    weights: Vec<Lanes>,
}

/// The sample that sample `n` of a frame is paired with: the mirror lies between samples `n_fft / 2` and
/// `n_fft / 2 + 1`, because filters have odd lengths and start with a zero.
fn mirrored(n: usize, n_fft: usize) -> usize {
    (n_fft + 1 - n) % n_fft
}

impl Correlator {
    /// From the weights of filters of equal length.
    pub(super) fn new(filters: &[Vec<Complex<f64>>]) -> Self {
        let n_fft = filters[0].len();
        // A filter whose length is an even whole number has its mirror elsewhere: so rare that it gets no loop of its
        // own. Its pairs are a sample and the same sample.
        let symmetric = |filter: &Vec<Complex<f64>>| {
            let largest = filter.iter().map(|weight| weight.norm()).fold(0.0, f64::max);
            (0..n_fft).all(|n| (filter[n] - filter[mirrored(n, n_fft)].conj()).norm() <= 1e-10 * largest)
        };
        let folded = n_fft >= 2 * CHUNK && filters.iter().all(symmetric);
        let used = if folded { 1..n_fft / 2 + 1 } else { 0..n_fft };
        let pairs = used.len().next_multiple_of(CHUNK);
        let mut weights = vec![Lanes::default(); (2 * filters.len()).div_ceil(LANES) * pairs];
        for (i, filter) in filters.iter().enumerate() {
            let block = &mut weights[2 * i / LANES * pairs..];
            for (slot, weight) in block.iter_mut().zip(&filter[used.clone()]) {
                slot.0[2 * i % LANES] = weight.re as f32;
                slot.0[2 * i % LANES + 1] = weight.im as f32;
            }
        }
        Self { filters: filters.len(), n_fft, folded, pairs, weights }
    }

    /// Samples that are read from the start of a frame on.
    pub(super) fn reach(&self) -> usize {
        if self.folded { self.n_fft + 1 } else { self.pairs }
    }

    /// Numbers that come out for one frame; the last of them may mean nothing.
    pub(super) fn outputs(&self) -> usize {
        self.weights.len() / self.pairs * LANES
    }

    /// Applies all filters to frames that start `hop_len` samples apart.
    ///
    /// # Shapes
    /// `signal`: from the first sample of the first frame to [`reach`](Self::reach) samples behind the start of the
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
        let mut pairs = [[c32::default(); CHUNK]; TILE];
        for chunk in (0..weights.pairs).step_by(CHUNK) {
            for (i, out) in out.chunks_mut(tile * outputs).enumerate() {
                let mut frames = Frames { weights, signal: &signal[i * tile * hop_len..], hop_len, chunk };
                match out.len() / outputs {
                    TILE => frames.run::<S, TILE>(simd, &mut pairs, out),
                    NARROW_TILE => frames.run::<S, NARROW_TILE>(simd, &mut pairs, out),
                    _ => {
                        for out in out.chunks_exact_mut(outputs) {
                            frames.run::<S, 1>(simd, &mut pairs, out);
                            frames.signal = frames.signal.get(hop_len..).unwrap_or(&[]);
                        }
                    }
                }
            }
        }
    }
}

/// A few frames and a chunk of their pairs.
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
    fn run<S: Simd, const F: usize>(&self, simd: S, pairs: &mut [[c32; CHUNK]; TILE], out: &mut [f32]) {
        for (frame, pairs) in pairs[..F].iter_mut().enumerate() {
            self.pair_up(&self.signal[frame * self.hop_len..], pairs);
        }
        let blocks = self.weights.outputs() / LANES;
        for block in (0..blocks).step_by(3) {
            match blocks - block {
                1 => self.add::<S, F, 1>(simd, block, pairs, out),
                2 => self.add::<S, F, 2>(simd, block, pairs, out),
                _ => self.add::<S, F, 3>(simd, block, pairs, out),
            }
        }
    }

    /// The sums and differences of one frame.
    #[inline(always)]
    fn pair_up(&self, frame: &[f32], pairs: &mut [c32; CHUNK]) {
        let chunk = self.chunk;
        if !self.weights.folded {
            for (pair, &sample) in pairs.iter_mut().zip(chunk_at(frame, chunk)) {
                *pair = c32::new(sample, sample);
            }
            return;
        }
        let n_fft = self.weights.n_fft;
        let (left, right) = (chunk_at(frame, chunk + 1), chunk_at(frame, n_fft + 1 - chunk - CHUNK));
        for i in 0..CHUNK {
            let (a, b) = (left[i], right[CHUNK - 1 - i]);
            pairs[i] = c32::new(a + b, a - b);
        }
        if chunk == 0 {
            // The spectrum of a frame goes round: what follows its last sample is its first.
            pairs[0] = c32::new(frame[1] + frame[0], frame[1] - frame[0]);
        }
    }

    /// Adds the chunk to the sums of `B` blocks from `first` on.
    #[inline(always)]
    fn add<S: Simd, const F: usize, const B: usize>(
        &self,
        simd: S,
        first: usize,
        pairs: &[[c32; CHUNK]; TILE],
        out: &mut [f32],
    ) {
        let (outputs, width) = (self.weights.outputs(), S::F32_LANES);
        let mut weights = [&[Lanes([0.0; LANES]); CHUNK]; B];
        for (b, weights) in weights.iter_mut().enumerate() {
            *weights = chunk_at(&self.weights.weights, (first + b) * self.weights.pairs + self.chunk);
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
                    let pair = repeat(simd, pairs[f][i], part);
                    for b in 0..B {
                        sum[f][b] = simd.mul_add_f32s(pair, weight[b], sum[f][b]);
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

/// A pair, again and again in the lanes of a register; one number of it where a register has one lane.
#[inline(always)]
fn repeat<S: Simd>(simd: S, pair: c32, part: usize) -> S::f32s {
    if S::F32_LANES == 1 {
        simd.splat_f32s(if part % 2 == 0 { pair.re } else { pair.im })
    } else {
        cast(simd.splat_c32s(pair))
    }
}

/// The chunk that starts at `start`.
#[inline(always)]
fn chunk_at<T>(values: &[T], start: usize) -> &[T; CHUNK] {
    values[start..].first_chunk().expect("signals and weights end with whole chunks")
}
