//! `torchaudio.functional.resample` with its defaults: `lowpass_filter_width=6`, `rolloff=0.99`, `sinc_interp_hann`.
//!
//! A rational ratio makes the instants of the output grid repeat their position between input samples: every output
//! sample of a period has its own short kernel. The kernels lie behind each other, filled up with zeros to whole vectors,
//! and each output sample is one dot product, summed in an order that doesn't depend on the machine.
//!
//! Source: torchaudio 2.x, `_get_sinc_resample_kernel`, whose kernels also hold the zeros of a whole period.

use std::f64::consts::PI;

use pulp::Arch;

use super::gcd;

const ZERO_CROSSINGS: f64 = 6.0;
const ROLL_OFF: f64 = 0.99;
/// Taps that are multiplied at a time.
const LANES: usize = 8;

pub(super) struct WindowedSinc {
    arch: Arch,
    /// Input samples per period.
    input_unit: usize,
    /// Input samples on either side that a kernel reaches to.
    width: usize,
    /// For each output sample of a period: the first input sample under its kernel.
    firsts: Vec<usize>,
    /// The kernels of a period, `vectors` vectors each.
    taps: Vec<[f32; LANES]>,
    vectors: usize,
    /// Input from `width` samples before the next period on.
    pending: Vec<f32>,
}

impl WindowedSinc {
    pub(super) fn new(input_rate: u32, output_rate: u32) -> Self {
        let divisor = gcd(input_rate, output_rate);
        let (input_unit, output_unit) = (input_rate / divisor, output_rate / divisor);
        let (from, to) = (f64::from(input_unit), f64::from(output_unit));
        let cutoff = from.min(to) * ROLL_OFF;
        let width = (ZERO_CROSSINGS * from / cutoff).ceil();
        let tap = |phase: f64, k: usize| {
            let t = ((k as f64 - width) / from - phase / to) * cutoff;
            let window = (t.clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS) * PI / ZERO_CROSSINGS / 2.0).cos();
            let sinc = if t == 0.0 { 1.0 } else { (t * PI).sin() / (t * PI) };
            if t.abs() < ZERO_CROSSINGS { (sinc * window * window * cutoff / from) as f32 } else { 0.0 }
        };
        let width_taps = 2 * width as usize + 1;
        let vectors = width_taps.div_ceil(LANES);
        let mut firsts = Vec::with_capacity(output_unit as usize);
        let mut taps = Vec::with_capacity(output_unit as usize * vectors);
        for phase in 0..output_unit {
            // Only about `2 * width` of the `2 * width + input_unit` taps differ from zero.
            let first = (u64::from(phase) * u64::from(input_unit) / u64::from(output_unit)) as usize;
            firsts.push(first);
            for vector in 0..vectors {
                taps.push(std::array::from_fn(|lane| {
                    let k = vector * LANES + lane;
                    if k < width_taps { tap(f64::from(phase), first + k) } else { 0.0 }
                }));
            }
        }
        let width = width as usize;
        let pending = vec![0.0; width];
        Self { arch: Arch::new(), input_unit: input_unit as usize, width, firsts, taps, vectors, pending }
    }

    pub(super) fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.pending.extend_from_slice(samples);
        let reach = self.firsts.last().map_or(0, |last| last + self.vectors * LANES);
        let needed = reach.max(self.input_unit);
        let periods = (self.pending.len() + self.input_unit).saturating_sub(needed) / self.input_unit;
        let before = out.len();
        out.resize(before + periods * self.firsts.len(), 0.0);
        let out = &mut out[before..];
        match self.vectors {
            2 => self.arch.dispatch(|| self.convolve::<2>(out)),
            4 => self.arch.dispatch(|| self.convolve::<4>(out)),
            5 => self.arch.dispatch(|| self.convolve::<5>(out)),
            _ => self.arch.dispatch(|| self.convolve::<0>(out)),
        }
        self.pending.drain(..periods * self.input_unit);
    }

    /// Fills whole periods of `out`. `VECTORS` is `self.vectors`, or 0 for a number that the compiler needn't know.
    #[inline(always)]
    fn convolve<const VECTORS: usize>(&self, out: &mut [f32]) {
        let vectors = if VECTORS == 0 { self.vectors } else { VECTORS };
        let starts = (0..).step_by(self.input_unit);
        for (start, period) in starts.zip(out.chunks_exact_mut(self.firsts.len())) {
            let input = &self.pending[start..];
            for ((sample, first), taps) in period.iter_mut().zip(&self.firsts).zip(self.taps.chunks_exact(vectors)) {
                let (under, _) = input[*first..][..vectors * LANES].as_chunks::<LANES>();
                *sample = dot(taps, under);
            }
        }
    }

    pub(super) fn reset(&mut self) {
        self.pending.clear();
        self.pending.resize(self.width, 0.0);
    }
}

/// The sum of products, lane by lane and then in pairs.
#[inline(always)]
fn dot(taps: &[[f32; LANES]], samples: &[[f32; LANES]]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (taps, samples) in taps.iter().zip(samples) {
        for lane in 0..LANES {
            sums[lane] += taps[lane] * samples[lane];
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}
