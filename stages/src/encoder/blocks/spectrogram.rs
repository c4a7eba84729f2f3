//! Logarithmic mel spectra as the other families compute them: their own edges, filters and logarithms.

use crate::dsp::DspError;
use crate::dsp::stft::{Padding, Stft, StftConfig};
use crate::dsp::window::Window;

/// How the power of a band is compressed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) enum Logarithm {
    /// Decibels, `10 log10(max(power, 1e-10))`, without a limit below the loudest.
    Decibel,
    /// `log10(1 + gain power)`.
    OnePlus(f32),
}

impl Logarithm {
    fn of(self, power: f32) -> f32 {
        match self {
            Self::Decibel => 10.0 * power.max(1e-10).log10(),
            Self::OnePlus(gain) => (1.0 + gain * power).log10(),
        }
    }
}

/// Filters, each as the bins that it covers.
#[derive(Debug, Clone)]
pub(in super::super) struct MelBands(Vec<(usize, Vec<f32>)>);

impl MelBands {
    /// # Shapes
    /// `dense (bands, bins)`, row by row.
    pub(in super::super) fn new(dense: &[f32], bins: usize) -> Self {
        let band = |row: &[f32]| {
            let first = row.iter().position(|weight| *weight != 0.0).unwrap_or(0);
            let end = row.iter().rposition(|weight| *weight != 0.0).map_or(first, |last| last + 1);
            (first, row[first..end].to_vec())
        };
        Self(dense.chunks_exact(bins.max(1)).map(band).collect())
    }
}

/// A planned mel spectrogram with a hop and a periodic Hann window, or the window of a checkpoint.
#[derive(Clone)]
pub(in super::super) struct MelFrames {
    stft: Stft,
    bands: MelBands,
    logarithm: Logarithm,
    mean: f32,
    std: f32,
    power: Vec<f32>,
}

impl MelFrames {
    /// `(log mel - mean) / std` of centred frames.
    pub(in super::super) fn new(
        (n_fft, hop_len, padding): (usize, usize, Padding),
        bands: MelBands,
        logarithm: Logarithm,
        (mean, std): (f64, f64),
    ) -> Result<Self, DspError> {
        let stft = Stft::new(StftConfig { n_fft, win_len: n_fft, hop_len, window: Window::Hann, padding })?;
        let power = vec![0.0; stft.bins()];
        Ok(Self { stft, bands, logarithm, mean: mean as f32, std: std as f32, power })
    }

    /// Bands of a frame.
    pub(in super::super) fn bands(&self) -> usize {
        self.bands.0.len()
    }

    /// The first `frames` frames, `(frames, bands)`.
    pub(in super::super) fn forward(&mut self, samples: &[f32], frames: usize) -> Vec<f32> {
        let width = self.bands();
        let mut out = vec![0.0; if samples.is_empty() { 0 } else { frames * width }];
        for (t, row) in out.chunks_exact_mut(width).enumerate() {
            for (power, value) in self.power.iter_mut().zip(self.stft.frame(samples, t)) {
                *power = value.norm_sqr();
            }
            for (slot, (first, weights)) in row.iter_mut().zip(&self.bands.0) {
                let sum: f32 = weights.iter().zip(&self.power[*first..]).map(|(weight, power)| weight * power).sum();
                *slot = (self.logarithm.of(sum) - self.mean) / self.std;
            }
        }
        out
    }
}
