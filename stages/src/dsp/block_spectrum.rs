//! Power spectra of sixteen real frames at a time, one frame in each vector lane.
//!
//! A Fourier transform inside one frame spends much of its time on moving values between lanes. Here all arithmetic
//! runs straight down the lanes: a real transform of `n` samples as a complex one of `n / 2` points, radix 4 with
//! decimation in frequency, in place (Cooley and Tukey; see Numerical Recipes, section 12.3, for the packing of real
//! samples). What happens in one lane does not depend on the others, and multiply-adds are fused on any vector unit:
//! the bits of a spectrum depend on its frame alone.

use std::f64::consts::TAU;

use pulp::{Arch, Simd, WithSimd};

/// Frames in a block: one in each lane of the widest vector register; narrower ones take a block in parts.
pub(super) const LANES: usize = 16;

/// One number of each frame.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C, align(64))]
struct Lanes([f32; LANES]);

/// Planned power spectra of windowed frames of `n_fft` samples, a power of two.
#[derive(Clone)]
pub(super) struct BlockSpectrum {
    arch: Arch,
    window: Vec<f32>,
    /// Per pass over the points: for each butterfly of a group the factors `w`, `w^2`, `w^3`, as real and imaginary part.
    passes: Vec<Vec<[f32; 6]>>,
    /// Where point `k` of the complex transform ends up: its bits reversed.
    places: Vec<usize>,
    /// `exp(-2 pi i k / n_fft)` for `k` up to `n_fft / 4`.
    turns: Vec<[f32; 2]>,
    /// Samples `2 j` and `2 j + 1` are real and imaginary part of point `j`.
    points: Vec<Lanes>,
}

impl BlockSpectrum {
    /// Whether transforms of this length are done here.
    pub(super) fn serves(n_fft: usize) -> bool {
        n_fft.is_power_of_two() && n_fft >= 8
    }

    /// # Shapes
    /// `window`: `(n_fft,)`, for which [`serves`](Self::serves) holds.
    pub(super) fn new(arch: Arch, window: Vec<f32>) -> Self {
        let n_fft = window.len();
        let points = n_fft / 2;
        let turn = |k: usize, n: usize| {
            let (sin, cos) = (TAU * k as f64 / n as f64).sin_cos();
            [cos as f32, -sin as f32]
        };
        let mut passes = Vec::new();
        let mut group = points;
        while group >= 4 {
            let factors = |k| {
                let [a, b, c] = [1, 2, 3].map(|power| turn(power * k, group));
                [a[0], a[1], b[0], b[1], c[0], c[1]]
            };
            passes.push((0..group / 4).map(factors).collect());
            group /= 4;
        }
        let bits = points.trailing_zeros();
        Self {
            arch,
            passes,
            places: (0..points).map(|k| k.reverse_bits() >> (usize::BITS - bits)).collect(),
            turns: (0..=points / 2).map(|k| turn(k, n_fft)).collect(),
            points: vec![Lanes::default(); n_fft],
            window,
        }
    }

    /// Puts the samples of a frame into a lane.
    ///
    /// # Shapes
    /// `frame`: `(n_fft,)`.
    pub(super) fn set(&mut self, lane: usize, frame: impl Iterator<Item = f32>) {
        for ((point, sample), weight) in self.points.iter_mut().zip(frame).zip(&self.window) {
            point.0[lane] = sample * weight;
        }
    }

    /// Puts frames into all lanes: they start `hop_len` samples apart.
    ///
    /// # Shapes
    /// `samples`: `(15 hop_len + n_fft,)` at least.
    pub(super) fn set_all(&mut self, samples: &[f32], hop_len: usize) {
        const STEP: usize = 8;
        let n_fft = self.window.len();
        let frames: [&[f32]; LANES] = std::array::from_fn(|lane| &samples[lane * hop_len..][..n_fft]);
        let windows = self.window.as_chunks::<STEP>().0;
        for (i, (points, window)) in self.points.as_chunks_mut::<STEP>().0.iter_mut().zip(windows).enumerate() {
            for (lane, frame) in frames.iter().enumerate() {
                let frame: &[f32; STEP] = frame[i * STEP..].first_chunk().expect("frames are whole steps");
                for n in 0..STEP {
                    points[n].0[lane] = frame[n] * window[n];
                }
            }
        }
    }

    /// Squared magnitudes of the bins of all lanes. What the lanes held is used up.
    ///
    /// # Shapes
    /// `power`: `(n_fft / 2 + 1, LANES)`.
    pub(super) fn power(&mut self, power: &mut [[f32; LANES]]) {
        let Self { arch, passes, places, turns, points, .. } = self;
        arch.dispatch(Transform { passes, places, turns, points, power });
    }
}

struct Transform<'a> {
    passes: &'a [Vec<[f32; 6]>],
    places: &'a [usize],
    turns: &'a [[f32; 2]],
    points: &'a mut [Lanes],
    power: &'a mut [[f32; LANES]],
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for part in 0..LANES / S::F32_LANES {
            let mut group = self.points.len() / 2;
            for factors in self.passes {
                for points in self.points.chunks_exact_mut(2 * group) {
                    quarter(Lane { simd, part }, factors, points);
                }
                group /= 4;
            }
            if group == 2 {
                for points in self.points.as_chunks_mut::<4>().0 {
                    halve(Lane { simd, part }, points);
                }
            }
            self.split(Lane { simd, part });
        }
    }
}

/// The lanes at hand: a whole block, or a part of it.
#[derive(Clone, Copy)]
struct Lane<S> {
    simd: S,
    part: usize,
}

impl<S: Simd> Lane<S> {
    #[inline(always)]
    fn load(self, [re, im]: &[Lanes; 2]) -> Complex<S> {
        Complex { re: S::as_simd_f32s(&re.0).0[self.part], im: S::as_simd_f32s(&im.0).0[self.part] }
    }

    #[inline(always)]
    fn store(self, [re, im]: &mut [Lanes; 2], value: Complex<S>) {
        S::as_mut_simd_f32s(&mut re.0).0[self.part] = value.re;
        S::as_mut_simd_f32s(&mut im.0).0[self.part] = value.im;
    }

    #[inline(always)]
    fn add(self, a: Complex<S>, b: Complex<S>) -> Complex<S> {
        Complex { re: self.simd.add_f32s(a.re, b.re), im: self.simd.add_f32s(a.im, b.im) }
    }

    #[inline(always)]
    fn sub(self, a: Complex<S>, b: Complex<S>) -> Complex<S> {
        Complex { re: self.simd.sub_f32s(a.re, b.re), im: self.simd.sub_f32s(a.im, b.im) }
    }

    #[inline(always)]
    fn mul(self, a: Complex<S>, re: f32, im: f32) -> Complex<S> {
        let (re, im, minus) = (self.simd.splat_f32s(re), self.simd.splat_f32s(im), self.simd.splat_f32s(-im));
        Complex {
            re: self.simd.mul_add_f32s(a.im, minus, self.simd.mul_f32s(a.re, re)),
            im: self.simd.mul_add_f32s(a.im, re, self.simd.mul_f32s(a.re, im)),
        }
    }

    #[inline(always)]
    fn norm_sqr(self, a: Complex<S>) -> S::f32s {
        self.simd.mul_add_f32s(a.im, a.im, self.simd.mul_f32s(a.re, a.re))
    }
}

#[derive(Clone, Copy)]
struct Complex<S: Simd> {
    re: S::f32s,
    im: S::f32s,
}

/// One group of radix-4 butterflies.
#[inline(always)]
fn quarter<S: Simd>(lane: Lane<S>, factors: &[[f32; 6]], points: &mut [Lanes]) {
    let (points, _) = points.as_chunks_mut::<2>();
    let (first, second) = points.split_at_mut(2 * factors.len());
    let (a, b) = first.split_at_mut(factors.len());
    let (c, d) = second.split_at_mut(factors.len());
    for ((((a, b), c), d), w) in a.iter_mut().zip(b).zip(c).zip(d).zip(factors) {
        let [va, vb, vc, vd] = [&*a, &*b, &*c, &*d].map(|point| lane.load(point));
        let (even, odd) = (lane.add(va, vc), lane.sub(va, vc));
        let (sum, difference) = (lane.add(vb, vd), lane.sub(vb, vd));
        // Times -i: what was imaginary is real, what was real is imaginary and negative.
        let turned = |sign: bool| {
            let (re, im) = (difference.im, difference.re);
            let simd = lane.simd;
            if sign {
                Complex { re: simd.add_f32s(odd.re, re), im: simd.sub_f32s(odd.im, im) }
            } else {
                Complex { re: simd.sub_f32s(odd.re, re), im: simd.add_f32s(odd.im, im) }
            }
        };
        lane.store(a, lane.add(even, sum));
        lane.store(b, lane.mul(lane.sub(even, sum), w[2], w[3]));
        lane.store(c, lane.mul(turned(true), w[0], w[1]));
        lane.store(d, lane.mul(turned(false), w[4], w[5]));
    }
}

/// One radix-2 butterfly, the last of a transform whose length is no power of four.
#[inline(always)]
fn halve<S: Simd>(lane: Lane<S>, points: &mut [Lanes; 4]) {
    let (pairs, _) = points.as_chunks_mut::<2>();
    let [a, b] = [lane.load(&pairs[0]), lane.load(&pairs[1])];
    lane.store(&mut pairs[0], lane.add(a, b));
    lane.store(&mut pairs[1], lane.sub(a, b));
}

impl Transform<'_> {
    /// From the transform of the packed points to the powers of the real one's bins.
    #[inline(always)]
    fn split<S: Simd>(&mut self, lane: Lane<S>) {
        let simd = lane.simd;
        let (points, _) = self.points.as_chunks::<2>();
        let (last, half) = (points.len(), simd.splat_f32s(0.5));
        for (k, [re, im]) in self.turns.iter().enumerate() {
            let a = lane.load(&points[self.places[k]]);
            let b = lane.load(&points[self.places[(last - k) % last]]);
            // Spectra of the even and of the odd samples: (a + conj b) / 2 and (a - conj b) / 2i.
            let even = Complex::<S> {
                re: simd.mul_f32s(half, simd.add_f32s(a.re, b.re)),
                im: simd.mul_f32s(half, simd.sub_f32s(a.im, b.im)),
            };
            let odd = Complex::<S> {
                re: simd.mul_f32s(half, simd.add_f32s(a.im, b.im)),
                im: simd.mul_f32s(half, simd.sub_f32s(b.re, a.re)),
            };
            let odd = lane.mul(odd, *re, *im);
            S::as_mut_simd_f32s(&mut self.power[k]).0[lane.part] = lane.norm_sqr(lane.add(even, odd));
            S::as_mut_simd_f32s(&mut self.power[last - k]).0[lane.part] = lane.norm_sqr(lane.sub(even, odd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dsp::stft::{Padding, Stft, StftConfig};
    use crate::dsp::window::Window;

    fn noise(len: usize) -> Vec<f32> {
        let mut random = crate::seed::Random::new(3, &[]);
        (0..len).map(|_| random.uniform() as f32 - 0.5).collect()
    }

    #[test]
    fn powers_are_those_of_the_short_time_transform() {
        for n_fft in [8, 16, 32, 64, 512, 1024] {
            let hop_len = n_fft / 2 - 1;
            let samples = noise(40 * n_fft);
            let config = StftConfig { n_fft, win_len: n_fft, hop_len, window: Window::Hann, padding: Padding::Reflect };
            let mut stft = Stft::new(config).unwrap();
            let mut block = BlockSpectrum::new(Arch::new(), Window::Hann.centred(n_fft, n_fft));
            let mut plain = BlockSpectrum::new(Arch::Scalar, Window::Hann.centred(n_fft, n_fft));
            let first = 3;
            let start = first * hop_len - n_fft / 2;
            let mut power = vec![[0.0; LANES]; n_fft / 2 + 1];
            block.set_all(&samples[start..], hop_len);
            block.power(&mut power);
            let mut other = power.clone();
            for lane in 0..LANES {
                plain.set(lane, samples[start + lane * hop_len..].iter().copied());
            }
            plain.power(&mut other);
            assert!(power == other, "the vector unit makes a difference");
            for lane in 0..LANES {
                let spectrum = stft.frame(&samples, first + lane);
                let largest = spectrum.iter().map(realfft::num_complex::Complex::norm_sqr).fold(0.0, f32::max);
                for (k, (ours, exact)) in power.iter().zip(spectrum).enumerate() {
                    let error = (ours[lane] - exact.norm_sqr()).abs();
                    assert!(error <= 2e-6 * largest, "{n_fft}: bin {k} of lane {lane}: {error:e} of {largest}");
                }
            }
        }
    }
}
