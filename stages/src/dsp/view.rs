//! Views: the representations of a signal that a model reads or predicts.
//!
//! A view turns samples into a `(frames, bins)` matrix. To add one: a file with its transform and `impl View`, a variant
//! of [`ViewConfig`] with its lines below, and what a graph may say about it in `ops/features/params.rs`. Everything else
//! knows views only through these two types.

use std::path::PathBuf;

use candle_core::Device;

use super::DspError;
use super::compress::Standardize;
use super::cqt::{Cqt, CqtConfig};
use super::mel::{MelConfig, MelFilterbank, MelSpectrogram};
use super::stft::centred_frames;
use crate::encodec::{EncodecView, EncodecViewConfig};

/// A planned representation.
pub trait View: Send {
    /// Values per frame.
    fn bins(&self) -> usize;

    /// Frames over `samples` samples.
    fn frames(&self, samples: usize) -> usize;

    /// Computes the representation.
    ///
    /// # Shapes
    /// `samples`: `(samples,)`, mono; `out`: `(frames, bins)`, frame-major.
    ///
    /// # Errors
    /// [`DspError::Empty`] without samples, [`DspError::Length`] when `out` has another length.
    fn forward_into(&mut self, samples: &[f32], out: &mut [f32]) -> Result<(), DspError>;

    /// Another one for another thread; it shares what is large.
    fn another(&self) -> Box<dyn View>;

    /// Crops that are worth computing together. More than one only where a model has weights to read.
    fn batch(&self) -> usize {
        1
    }

    /// Computes the representation of several crops of equal length.
    ///
    /// # Shapes
    /// `crops`: `(batch, samples)`; `out`: `(batch, frames, bins)`.
    ///
    /// # Errors
    /// As [`View::forward_into`].
    fn forward_batch_into(&mut self, crops: &[&[f32]], out: &mut [f32]) -> Result<(), DspError> {
        let Some(first) = crops.first() else { return Ok(()) };
        let len = self.frames(first.len()) * self.bins();
        DspError::check_len("features", out.len(), crops.len() * len)?;
        for (samples, out) in crops.iter().zip(out.chunks_exact_mut(len)) {
            self.forward_into(samples, out)?;
        }
        Ok(())
    }

    /// Computes the representation into a new vector.
    ///
    /// # Errors
    /// [`DspError::Empty`] without samples.
    fn forward(&mut self, samples: &[f32]) -> Result<Vec<f32>, DspError> {
        let mut out = vec![0.0; self.frames(samples.len()) * self.bins()];
        self.forward_into(samples, &mut out)?;
        Ok(out)
    }
}

/// The configuration of any view.
#[derive(Debug, Clone, PartialEq)]
pub enum ViewConfig {
    /// Mel spectrogram.
    Mel(MelConfig),
    /// Constant-Q spectrogram.
    Cqt(CqtConfig),
    /// The encoder of EnCodec, before quantisation.
    Encodec(EncodecViewConfig),
    /// The samples themselves.
    Waveform(WaveformConfig),
}

impl ViewConfig {
    /// The name of the view: its key in a graph and its column on an edge.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mel(_) => "mel",
            Self::Cqt(_) => "cqt",
            Self::Encodec(_) => "encodec",
            Self::Waveform(_) => "waveform",
        }
    }

    /// Every parameter but the standardisation, by name, as text: what statistics of the view depend on.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Mel(mel) => mel.parameters(),
            Self::Cqt(cqt) => cqt.parameters(),
            Self::Encodec(encodec) => encodec.parameters(),
            Self::Waveform(_) => Vec::new(),
        }
    }

    /// How the values are standardised.
    pub fn standardize(&self) -> &Standardize {
        match self {
            Self::Mel(mel) => &mel.standardize,
            Self::Cqt(cqt) => &cqt.standardize,
            Self::Encodec(encodec) => &encodec.standardize,
            Self::Waveform(waveform) => &waveform.standardize,
        }
    }

    /// The same view with another standardisation.
    #[must_use]
    pub fn with_standardize(mut self, standardize: Standardize) -> Self {
        match &mut self {
            Self::Mel(mel) => mel.standardize = standardize,
            Self::Cqt(cqt) => cqt.standardize = standardize,
            Self::Encodec(encodec) => encodec.standardize = standardize,
            Self::Waveform(waveform) => waveform.standardize = standardize,
        }
        self
    }

    /// Samples from one frame to the next.
    pub fn hop_len(&self) -> usize {
        match self {
            Self::Mel(mel) => mel.hop_len,
            Self::Cqt(cqt) => cqt.hop_len,
            Self::Encodec(encodec) => encodec.encoder.hop_len(),
            Self::Waveform(_) => 1,
        }
    }

    /// Values per frame.
    pub fn bins(&self) -> usize {
        match self {
            Self::Mel(mel) => mel.n_mels,
            Self::Cqt(cqt) => cqt.n_bins,
            Self::Encodec(encodec) => encodec.encoder.bins(),
            Self::Waveform(_) => 1,
        }
    }

    /// Frames over `samples` samples.
    pub fn frames(&self, samples: usize) -> usize {
        match self {
            Self::Mel(mel) => centred_frames(samples, mel.hop_len),
            Self::Cqt(cqt) => centred_frames(samples, cqt.hop_len),
            Self::Encodec(encodec) => encodec.encoder.frames(samples),
            Self::Waveform(_) => samples,
        }
    }

    /// Refuses parameters outside their range, and mel bands so narrow that no bin falls into them: they would be
    /// silent for any signal. Plans nothing.
    ///
    /// # Errors
    /// [`DspError::Param`] naming the first such parameter.
    pub fn check(&self) -> Result<(), DspError> {
        match self {
            Self::Mel(mel) => match MelFilterbank::new(mel)?.empty_bands() {
                0 => Ok(()),
                empty => {
                    let expected = format!("fewer bands or a longer `n_fft`: {empty} of them cover no bin");
                    Err(DspError::param("n_mels", mel.n_mels, expected))
                }
            },
            Self::Cqt(cqt) => cqt.check(),
            Self::Encodec(encodec) => encodec.standardize.pairs(encodec.encoder.bins()).map(drop),
            Self::Waveform(waveform) => waveform.standardize.pairs(1).map(drop),
        }
    }

    /// Files whose content decides the values.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Encodec(encodec) => encodec.files(),
            Self::Mel(_) | Self::Cqt(_) | Self::Waveform(_) => Vec::new(),
        }
    }

    /// Plans the view. Models run on `device`; transforms always run where the samples are.
    ///
    /// # Errors
    /// [`DspError::Param`] as in [`ViewConfig::check`], [`DspError::Model`] when a model cannot be loaded.
    pub fn build(&self, device: &Device) -> Result<Box<dyn View>, DspError> {
        Ok(match self {
            Self::Mel(mel) => Box::new(MelSpectrogram::new(mel)?),
            Self::Cqt(cqt) => Box::new(Cqt::new(cqt)?),
            Self::Encodec(encodec) => Box::new(EncodecView::new(encodec, device)?),
            Self::Waveform(waveform) => Box::new(Waveform::new(waveform)?),
        })
    }
}

/// Parameters of the waveform view.
#[derive(Debug, Clone, PartialEq)]
pub struct WaveformConfig {
    /// Standardisation of the samples. There is one bin.
    pub standardize: Standardize,
}

impl Default for WaveformConfig {
    /// The constants of the published 24 kHz models.
    fn default() -> Self {
        Self { standardize: Standardize::Global { mean: 0.0, std: 0.190_856_374_099_031_1 } }
    }
}

/// The samples themselves, standardised: one bin, one frame per sample.
#[derive(Debug, Clone)]
pub struct Waveform {
    mean: f32,
    std: f32,
}

impl Waveform {
    /// A waveform view.
    ///
    /// # Errors
    /// [`DspError::Param`] as in [`Standardize::pairs`].
    pub fn new(config: &WaveformConfig) -> Result<Self, DspError> {
        let (mean, std) = config.standardize.pairs(1)?[0];
        Ok(Self { mean, std })
    }
}

impl View for Waveform {
    fn bins(&self) -> usize {
        1
    }

    fn frames(&self, samples: usize) -> usize {
        samples
    }

    fn another(&self) -> Box<dyn View> {
        Box::new(self.clone())
    }

    fn forward_into(&mut self, samples: &[f32], out: &mut [f32]) -> Result<(), DspError> {
        if samples.is_empty() {
            return Err(DspError::Empty);
        }
        DspError::check_len("features", out.len(), samples.len())?;
        for (slot, sample) in out.iter_mut().zip(samples) {
            *slot = (sample - self.mean) / self.std;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_view_says_how_long_its_output_is() {
        for config in [
            ViewConfig::Mel(MelConfig::mel_24k()),
            ViewConfig::Cqt(CqtConfig::cqt_24k()),
            ViewConfig::Waveform(WaveformConfig::default()),
        ] {
            config.check().unwrap();
            let mut view = config.build(&Device::Cpu).unwrap();
            assert_eq!(view.bins(), config.bins());
            assert_eq!(view.frames(4_000), config.frames(4_000));
            for samples in [1, 319, 320, 4_000] {
                let out = view.forward(&vec![0.1; samples]).unwrap();
                assert_eq!(out.len(), view.frames(samples) * view.bins(), "{}", config.name());
            }
            assert_eq!(view.forward(&[]), Err(DspError::Empty));
            assert!(matches!(view.forward_into(&[0.0; 640], &mut [0.0; 5]), Err(DspError::Length { found: 5, .. })));
        }
    }

    #[test]
    fn bands_that_no_bin_falls_into_are_refused() {
        let mel = MelConfig { n_mels: 200, ..MelConfig::mel_16k() };
        let message = ViewConfig::Mel(mel).check().unwrap_err().to_string();
        assert!(message.starts_with("`n_mels` is 200, expected fewer bands or a longer `n_fft`"), "{message}");
    }

    #[test]
    fn the_waveform_is_standardised() {
        let config = WaveformConfig { standardize: Standardize::Global { mean: 1.0, std: 2.0 } };
        assert_eq!(Waveform::new(&config).unwrap().forward(&[1.0, 5.0]).unwrap(), [0.0, 2.0]);
    }
}
