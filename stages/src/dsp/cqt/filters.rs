//! Which octave runs at which rate, and the weights of its filters.

use std::f32::consts::PI;
use std::ops::Range;
use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};

use super::super::DspError;
use super::super::window::Window;
use super::CqtConfig;

/// Longest transform of a filter, samples: 24 bins per octave from 16 Hz up at 44.1 kHz, never halved.
const LONGEST: usize = 1 << 16;
/// Most weights of all filters together: 64 MiB of complex numbers.
const MOST_WEIGHTS: usize = 1 << 23;
/// Lowest frequency, hertz.
const LOWEST: f64 = 1e-3;
/// Most bins per octave: steps of about twelve cents.
const FINEST: usize = 96;
/// Most octaves: twice what people hear.
const MOST_OCTAVES: usize = 20;
/// Equivalent noise bandwidth of the Hann window, in units of the sample rate over its length.
const HANN_BANDWIDTH: f64 = 1.5;

/// An octave of filters: one number of samples for all of them, one rate, one hop.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OctavePlan {
    pub(super) bins: Range<usize>,
    /// How often the rate was halved.
    pub(super) halvings: usize,
    pub(super) sample_rate: f64,
    pub(super) hop_len: usize,
    pub(super) n_fft: usize,
}

/// Centre frequency over bandwidth: `1 / alpha` with `alpha = (r^2 - 1) / (r^2 + 1)`, `r` the ratio of neighbours.
fn quality(bins_per_octave: usize) -> f64 {
    let square = (2.0 / bins_per_octave as f64).exp2();
    (square + 1.0) / (square - 1.0)
}

/// The octaves from the top down. The top one holds the remainder when the bins are no whole number of octaves.
///
/// # Errors
/// [`DspError::Param`] as in [`CqtConfig::check`].
pub(super) fn plan(config: &CqtConfig) -> Result<Vec<OctavePlan>, DspError> {
    check_ranges(config)?;
    let per_octave = config.bins_per_octave;
    let octaves = config.n_bins.div_ceil(per_octave);
    let q = quality(per_octave);
    let mut plan = Vec::with_capacity(octaves);
    let (mut halvings, mut sample_rate, mut hop_len, mut weights) =
        (0, f64::from(config.sample_rate), config.hop_len, 0);
    for octave in (0..octaves).rev() {
        let bins = octave * per_octave..config.n_bins.min((octave + 1) * per_octave);
        if octave + 1 < octaves && hop_len.is_multiple_of(2) {
            (halvings, sample_rate, hop_len) = (halvings + 1, sample_rate / 2.0, hop_len / 2);
        }
        check_nyquist(config, &bins, sample_rate)?;
        let longest = q * sample_rate / f64::from(config.frequency(bins.start));
        weights += bins.len() * longest.ceil() as usize;
        if longest > LONGEST as f64 || weights > MOST_WEIGHTS {
            return Err(too_long(config, hop_len, longest));
        }
        plan.push(OctavePlan {
            bins,
            halvings,
            sample_rate,
            hop_len,
            n_fft: (longest.ceil() as usize).next_power_of_two(),
        });
    }
    Ok(plan)
}

fn check_ranges(config: &CqtConfig) -> Result<(), DspError> {
    if config.sample_rate == 0 {
        return Err(DspError::param("sample_rate", 0, "1 Hz or more"));
    }
    if config.hop_len == 0 {
        return Err(DspError::param("hop_len", 0, "1 sample or more"));
    }
    if !(1..=FINEST).contains(&config.bins_per_octave) {
        return Err(DspError::param("bins_per_octave", config.bins_per_octave, format!("1 to {FINEST}")));
    }
    let most = MOST_OCTAVES * config.bins_per_octave;
    if !(1..=most).contains(&config.n_bins) {
        return Err(DspError::param("n_bins", config.n_bins, format!("1 to {most}, which are {MOST_OCTAVES} octaves")));
    }
    if !(config.f_min >= LOWEST && config.f_min.is_finite()) {
        return Err(DspError::param("f_min", config.f_min, format!("{LOWEST} Hz or more")));
    }
    Ok(())
}

/// Refuses an octave whose top filter reaches over half its sample rate (librosa has the same rule).
fn check_nyquist(config: &CqtConfig, bins: &Range<usize>, sample_rate: f64) -> Result<(), DspError> {
    let reach = 1.0 + 0.5 * HANN_BANDWIDTH / quality(config.bins_per_octave);
    let centre = f64::from(config.frequency(bins.end - 1));
    if centre * reach <= sample_rate / 2.0 {
        return Ok(());
    }
    let edge = format!("{:.0} Hz, half the rate at which it is computed", sample_rate / 2.0);
    if bins.start == 0 && config.f_min * reach > f64::from(config.sample_rate) / 2.0 {
        return Err(DspError::param("f_min", config.f_min, format!("a filter that stays below {edge}")));
    }
    let expected = format!("so many that the filter at {centre:.0} Hz reaches no higher than {edge}");
    Err(DspError::param("n_bins", config.n_bins, expected))
}

/// Points at what makes a filter long: a hop that can't be halved, or else a low frequency.
fn too_long(config: &CqtConfig, hop_len: usize, length: f64) -> DspError {
    let limits = format!("{LONGEST} samples for one and {MOST_WEIGHTS} for all");
    if hop_len.is_multiple_of(2) {
        let expected = format!("a frequency whose filters are shorter than {length:.0} samples: at most {limits}");
        return DspError::param("f_min", config.f_min, expected);
    }
    let expected =
        format!("a hop that can be halved more often: filters would be {length:.0} samples long, at most {limits}");
    DspError::param("hop_len", config.hop_len, expected)
}

/// Designs filters; keeps the Fourier transforms between them.
pub(super) struct Designer<'a> {
    config: &'a CqtConfig,
    planner: RealFftPlanner<f64>,
}

impl<'a> Designer<'a> {
    pub(super) fn new(config: &'a CqtConfig) -> Self {
        Self { config, planner: RealFftPlanner::new() }
    }

    /// The filter of `bin` as weights of the samples of a frame: the sum of `weights[n] samples[n]` is the coefficient.
    ///
    /// # Shapes
    /// Result: `(n_fft,)`.
    pub(super) fn weights(&mut self, octave: &OctavePlan, bin: usize) -> Vec<Complex<f64>> {
        let forward = self.planner.plan_fft_forward(octave.n_fft);
        let inverse = self.planner.plan_fft_inverse(octave.n_fft);
        // Signals lose a factor sqrt(2) with every halving, and filters gain another: powers of two, so exact.
        let gain = (octave.halvings as f64).exp2();
        let filter = self.filter(octave, bin);
        let [re, im] = [|z: &Complex<f64>| z.re, |z: &Complex<f64>| z.im]
            .map(|part| spectrum(&forward, filter.iter().map(part).collect()));
        let half = re.iter().zip(&im).map(|(re, im)| (re + im * Complex::I) * gain).collect();
        dual(&inverse, half)
    }

    /// The Hann-windowed exponential, centred in `n_fft` samples, scaled as librosa scales it.
    fn filter(&self, octave: &OctavePlan, bin: usize) -> Vec<Complex<f64>> {
        let hz = self.config.frequency(bin);
        let length = quality(self.config.bins_per_octave) * octave.sample_rate / f64::from(hz);
        let (first, end) = ((-length / 2.0).floor(), (length / 2.0).floor());
        let window = Window::Hann.coefficients((end - first) as usize);
        let norm: f64 = window.iter().sum();
        let scale = length / octave.n_fft as f64 / norm;
        let mut out = vec![Complex::default(); octave.n_fft];
        let start = (octave.n_fft - window.len()) / 2;
        for (i, (slot, weight)) in out[start..].iter_mut().zip(&window).enumerate() {
            let t = first as f32 + i as f32;
            *slot = Complex::from_polar(scale * weight, f64::from(phase(t, hz, octave.sample_rate as f32)));
        }
        out
    }
}

/// `2 pi hz t / sample_rate`, rounded to single precision in the steps of torchaudio's draft (pull request 3804), which
/// the published package follows.
///
/// At a few hundred radians a rounding is up to 1.5e-5 rad. So filters leak a little of every frequency, 100 dB below a
/// tone, and a bin that hears nothing else hears that. The published models learned with it: with exact phases their
/// numbers would be missed by ten times as much.
pub(super) fn phase(t: f32, hz: f32, sample_rate: f32) -> f32 {
    t * 2.0 * PI * hz / sample_rate
}

/// The bins from 0 to half the sample rate of a real signal's spectrum.
fn spectrum(plan: &Arc<dyn RealToComplex<f64>>, mut samples: Vec<f64>) -> Vec<Complex<f64>> {
    let mut out = plan.make_output_vec();
    plan.process(&mut samples, &mut out).expect("the lengths are the plan's");
    out
}

/// `g[n] = sum over k of half[k] exp(-2 pi i k n / n_fft)`, so that the sum of `half[k] X[k]` over the spectrum `X` of
/// a frame `x` is the sum of `g[n] x[n]`.
fn dual(plan: &Arc<dyn ComplexToReal<f64>>, half: Vec<Complex<f64>>) -> Vec<Complex<f64>> {
    let last = half.len() - 1;
    // The inverse transform sums every inner bin and its mirror image: twice the real part of what is wanted, with the
    // sign of the exponent turned. Its outer bins are real and count once.
    let real_part = |factor: Complex<f64>| {
        let mut bins: Vec<_> = half.iter().map(|z| z.conj() * factor * 0.5).collect();
        for outer in [0, last] {
            bins[outer] = Complex::new(2.0 * bins[outer].re, 0.0);
        }
        let mut out = plan.make_output_vec();
        plan.process(&mut bins, &mut out).expect("the lengths are the plan's");
        out
    };
    let re = real_part(Complex::new(1.0, 0.0));
    let im = real_part(Complex::I);
    re.into_iter().zip(im).map(|(re, im)| Complex::new(re, im)).collect()
}
