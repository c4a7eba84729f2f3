//! Halving the sample rate: `torchaudio.functional.resample(2, 1)` with its defaults, a Hann-windowed sinc of width 6
//! with roll-off 0.99.

use std::f64::consts::PI;

use pulp::{Arch, Simd, WithSimd};

use super::stretch;

/// Taps on either side of the middle one: as far as the window reaches.
const REACH: usize = 12;
/// Taps on even samples, counted from the middle; one fewer are on odd ones.
const EVEN: usize = REACH + 1;
/// Outputs that are computed together, in four sums.
const TILE: usize = 64;
/// Outputs between two looks at the signal: their inputs stay in the first cache.
const BLOCK: usize = 1024;

/// Halves the rate of a signal.
#[derive(Clone)]
pub(super) struct Halver {
    even_taps: [f32; EVEN],
    odd_taps: [f32; REACH],
    /// Every other sample, from `REACH` before the first output's on.
    even: [f32; BLOCK + EVEN],
    /// The samples between.
    odd: [f32; BLOCK + EVEN],
    /// Samples at the ends of a signal and the silence around it.
    edge: Vec<f32>,
}

impl Halver {
    pub(super) fn new() -> Self {
        let tap = |k: usize| {
            let t = (k as f64 - REACH as f64) / 2.0 * 0.99;
            let sinc = if t == 0.0 { 1.0 } else { (t * PI).sin() / (t * PI) };
            ((t * PI / 12.0).cos().powi(2) * sinc * 0.99 / 2.0) as f32
        };
        Self {
            even_taps: std::array::from_fn(|m| tap(2 * m)),
            odd_taps: std::array::from_fn(|m| tap(2 * m + 1)),
            even: [0.0; BLOCK + EVEN],
            odd: [0.0; BLOCK + EVEN],
            edge: Vec::new(),
        }
    }

    /// Output `i` is centred on sample `2 i`.
    ///
    /// # Shapes
    /// `out`: half as many samples as the signal has, rounded up.
    pub(super) fn run(&mut self, arch: Arch, signal: &[f32], out: &mut [f32]) {
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let pairs = out.len().next_multiple_of(TILE) + REACH;
            let start = (2 * BLOCK * block) as isize - REACH as isize;
            let (pairs, _) = stretch(signal, start, 2 * pairs, &mut self.edge).as_chunks();
            for ((even, odd), pair) in self.even.iter_mut().zip(&mut self.odd).zip(pairs) {
                [*even, *odd] = *pair;
            }
            arch.dispatch(Filter { halver: self, out });
        }
    }
}

struct Filter<'a> {
    halver: &'a Halver,
    out: &'a mut [f32],
}

impl WithSimd for Filter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Halver { even_taps, odd_taps, even, odd, .. } = self.halver;
        for (tile, out) in self.out.chunks_mut(TILE).enumerate() {
            let mut result = [0.0f32; TILE];
            for (part, result) in result.chunks_exact_mut(4 * S::F32_LANES).enumerate() {
                let first = tile * TILE + part * 4 * S::F32_LANES;
                let mut sum = [simd.splat_f32s(0.0); 4];
                for m in 0..EVEN {
                    accumulate(simd, even_taps[m], &even[first + m..], &mut sum);
                }
                for m in 0..REACH {
                    accumulate(simd, odd_taps[m], &odd[first + m..], &mut sum);
                }
                S::as_mut_simd_f32s(result).0.copy_from_slice(&sum);
            }
            out.copy_from_slice(&result[..out.len()]);
        }
    }
}

#[inline(always)]
fn accumulate<S: Simd>(simd: S, tap: f32, samples: &[f32], sum: &mut [S::f32s; 4]) {
    let tap = simd.splat_f32s(tap);
    let (vectors, _) = S::as_simd_f32s(&samples[..4 * S::F32_LANES]);
    for (sum, vector) in sum.iter_mut().zip(vectors) {
        *sum = simd.mul_add_f32s(tap, *vector, *sum);
    }
}
