//! The short-time Fourier transform of a real signal, centred.
//!
//! Frame `t` looks at `n_fft` samples around sample `t * hop_len`; what lies outside the signal is filled in by the
//! [`Padding`]. That is `torch.stft(center=True)` and `librosa.stft`, and the convention of the published models.

use std::sync::Arc;

use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::DspError;
use super::window::Window;

/// What a frame that reaches over the end of the signal sees there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// The signal mirrored at its first and last sample, which are not repeated. Mirrored as often as needed when the
    /// signal is shorter than half a window.
    Reflect,
    /// Silence.
    Zero,
}

/// Longest transform, samples: far beyond any use in music, and small enough to plan at once.
const LONGEST: usize = 1 << 20;

/// Parameters of a short-time Fourier transform; lengths in samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StftConfig {
    /// Length of the transform.
    pub n_fft: usize,
    /// Length of the window, at most `n_fft`; it is centred in the transform.
    pub win_len: usize,
    /// Distance between two frames, at most `win_len`.
    pub hop_len: usize,
    /// Shape of the window.
    pub window: Window,
    /// What lies outside the signal.
    pub padding: Padding,
}

impl StftConfig {
    /// Refuses lengths that no transform has.
    ///
    /// # Errors
    /// [`DspError::Param`] naming the first parameter outside its range.
    pub fn check(&self) -> Result<(), DspError> {
        if !(2..=LONGEST).contains(&self.n_fft) || !self.n_fft.is_multiple_of(2) {
            let expected = format!("an even number of samples, 2 to {LONGEST}");
            return Err(DspError::param("n_fft", self.n_fft, expected));
        }
        if self.win_len == 0 || self.win_len > self.n_fft {
            return Err(DspError::param("win_len", self.win_len, format!("1 to `n_fft` = {} samples", self.n_fft)));
        }
        if self.hop_len == 0 || self.hop_len > self.win_len {
            let expected = format!("1 to `win_len` = {} samples, so that none is skipped", self.win_len);
            return Err(DspError::param("hop_len", self.hop_len, expected));
        }
        Ok(())
    }
}

/// Frames of a centred transform with hop `hop_len` over `samples` samples: `floor(samples / hop_len) + 1`.
pub fn centred_frames(samples: usize, hop_len: usize) -> usize {
    samples / hop_len + 1
}

/// A planned short-time Fourier transform.
#[derive(Clone)]
pub struct Stft {
    config: StftConfig,
    plan: Arc<dyn RealToComplex<f32>>,
    window: Vec<f32>,
    windowed: Vec<f32>,
    spectrum: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Stft {
    /// Plans the transform.
    ///
    /// # Errors
    /// [`DspError::Param`] as in [`StftConfig::check`].
    pub fn new(config: StftConfig) -> Result<Self, DspError> {
        config.check()?;
        let plan = RealFftPlanner::new().plan_fft_forward(config.n_fft);
        Ok(Self {
            window: config.window.centred(config.win_len, config.n_fft),
            windowed: plan.make_input_vec(),
            spectrum: plan.make_output_vec(),
            scratch: plan.make_scratch_vec(),
            plan,
            config,
        })
    }

    /// Bins of one frame: `n_fft / 2 + 1`.
    pub fn bins(&self) -> usize {
        self.config.n_fft / 2 + 1
    }

    /// Frames over `samples` samples.
    pub fn frames(&self, samples: usize) -> usize {
        centred_frames(samples, self.config.hop_len)
    }

    /// The spectrum of frame `frame` of `samples`, valid until the next call.
    ///
    /// # Shapes
    /// `samples`: any length but zero; result: `(bins,)`.
    ///
    /// # Panics
    /// When `samples` is empty: callers check once per signal, not once per frame.
    pub fn frame(&mut self, samples: &[f32], frame: usize) -> &[Complex<f32>] {
        assert!(!samples.is_empty(), "a frame of an empty signal");
        let n_fft = self.config.n_fft;
        let first = (frame * self.config.hop_len) as isize - (n_fft / 2) as isize;
        let inside = usize::try_from(first).ok().and_then(|first| samples.get(first..first + n_fft));
        if let Some(inside) = inside {
            for ((slot, &sample), &weight) in self.windowed.iter_mut().zip(inside).zip(&self.window) {
                *slot = sample * weight;
            }
        } else {
            for (i, (slot, &weight)) in self.windowed.iter_mut().zip(&self.window).enumerate() {
                *slot = weight * padded(samples, first + i as isize, self.config.padding);
            }
        }
        self.plan
            .process_with_scratch(&mut self.windowed, &mut self.spectrum, &mut self.scratch)
            .expect("the buffers were made by the plan");
        &self.spectrum
    }

    /// All frames.
    ///
    /// # Shapes
    /// `samples`: `(samples,)`; `out`: `(frames, bins)`.
    ///
    /// # Errors
    /// [`DspError::Empty`] without samples, [`DspError::Length`] when `out` has another length.
    pub fn forward_into(&mut self, samples: &[f32], out: &mut [Complex<f32>]) -> Result<(), DspError> {
        if samples.is_empty() {
            return Err(DspError::Empty);
        }
        DspError::check_len("spectrum", out.len(), self.frames(samples.len()) * self.bins())?;
        let bins = self.bins();
        for (t, row) in out.chunks_exact_mut(bins).enumerate() {
            row.copy_from_slice(self.frame(samples, t));
        }
        Ok(())
    }

    /// All frames, in a new vector.
    ///
    /// # Errors
    /// [`DspError::Empty`] without samples.
    pub fn forward(&mut self, samples: &[f32]) -> Result<Vec<Complex<f32>>, DspError> {
        let mut out = vec![Complex::default(); self.frames(samples.len()) * self.bins()];
        self.forward_into(samples, &mut out)?;
        Ok(out)
    }
}

/// The sample at `index` of a signal that goes on outside its bounds as `padding` says.
pub(super) fn padded(samples: &[f32], index: isize, padding: Padding) -> f32 {
    let last = samples.len() as isize - 1;
    if (0..=last).contains(&index) {
        return samples[index as usize];
    }
    match padding {
        Padding::Zero => 0.0,
        Padding::Reflect if last == 0 => samples[0],
        Padding::Reflect => {
            // A reflected signal repeats every 2 * last samples, forwards and then backwards.
            let phase = index.rem_euclid(2 * last);
            samples[phase.min(2 * last - phase) as usize]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(n_fft: usize, hop_len: usize) -> StftConfig {
        StftConfig { n_fft, win_len: n_fft, hop_len, window: Window::Hann, padding: Padding::Reflect }
    }

    fn noise(len: usize) -> Vec<f32> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn reflection_repeats_no_edge_sample_and_may_go_round_several_times() {
        let samples = [1.0, 2.0, 3.0];
        let seen: Vec<f32> = (-5..8).map(|i| padded(&samples, i, Padding::Reflect)).collect();
        assert_eq!(seen, [2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0]);
        assert_eq!(padded(&[5.0], -3, Padding::Reflect), 5.0);
        assert_eq!(padded(&samples, -1, Padding::Zero), 0.0);
    }

    #[test]
    fn thirty_seconds_at_24_khz_are_2251_frames() {
        assert_eq!(Stft::new(config(512, 320)).unwrap().frames(720_000), 2251);
    }

    #[test]
    fn energy_is_kept_in_every_frame() {
        let (n_fft, hop) = (64, 16);
        let samples = noise(1000);
        let mut stft = Stft::new(config(n_fft, hop)).unwrap();
        let window = Window::Hann.centred(n_fft, n_fft);
        for t in 0..stft.frames(samples.len()) {
            let start = (t * hop) as isize - 32;
            let time: f64 = (0..n_fft)
                .map(|i| f64::from(padded(&samples, start + i as isize, Padding::Reflect) * window[i]).powi(2))
                .sum();
            let bins = stft.frame(&samples, t);
            // Parseval, with the bins that a real signal has twice counted twice.
            let inner: f64 = bins[1..n_fft / 2].iter().map(|c| 2.0 * f64::from(c.norm_sqr())).sum();
            let outer = f64::from(bins[0].norm_sqr() + bins[n_fft / 2].norm_sqr());
            let frequency = (inner + outer) / n_fft as f64;
            assert!((time - frequency).abs() <= 1e-5 * time.max(1e-3), "frame {t}: {time} against {frequency}");
        }
    }

    #[test]
    fn the_transform_of_a_sum_is_the_sum_of_the_transforms() {
        let (a, b) = (noise(500), noise(900)[400..].to_vec());
        let sum: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x + 0.5 * y).collect();
        let mut stft = Stft::new(config(128, 50)).unwrap();
        let (fa, fb, fs) = (stft.forward(&a).unwrap(), stft.forward(&b).unwrap(), stft.forward(&sum).unwrap());
        for ((x, y), z) in fa.iter().zip(&fb).zip(&fs) {
            assert!((x + y * 0.5 - z).norm() < 2e-5);
        }
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let refused = |change: fn(&mut StftConfig)| {
            let mut config = config(64, 16);
            change(&mut config);
            Stft::new(config).err().unwrap().to_string()
        };
        assert_eq!(
            refused(|c| c.hop_len = 0),
            "`hop_len` is 0, expected 1 to `win_len` = 64 samples, so that none is skipped"
        );
        assert!(refused(|c| c.hop_len = 65).starts_with("`hop_len` is 65"));
        assert_eq!(refused(|c| c.win_len = 65), "`win_len` is 65, expected 1 to `n_fft` = 64 samples");
        assert_eq!(refused(|c| c.n_fft = 63), "`n_fft` is 63, expected an even number of samples, 2 to 1048576");
    }

    #[test]
    fn an_empty_signal_is_an_error() {
        assert_eq!(Stft::new(config(64, 16)).unwrap().forward(&[]), Err(DspError::Empty));
    }
}
