//! What a graph says about views, and what it leaves to the presets.

use std::path::PathBuf;

use omar_schemas::CropSpec;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::normalize::{Constants, Grain, Normalize};
use crate::dsp::compress::{LogCompress, Standardize};
use crate::dsp::cqt::CqtConfig;
use crate::dsp::mel::{MelConfig, MelNorm, MelScale};
use crate::dsp::view::{ViewConfig, WaveformConfig};
use crate::encodec::{EncodecConfig, EncodecViewConfig};
use crate::error::BindError;

/// Parameters of `features`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturesParams {
    /// Which representations to compute, each with its parameters: `{mel: {}, cqt: {}, waveform: {}}`.
    pub views: Views,
    /// Where the means and deviations come from that bring values to mean 0 and deviation 1: `preset` (those of the
    /// published models, or a view's own `mean` and `std`), `{from: FOLDER}` (a `statistics` stage wrote it), or `none`.
    #[serde(default)]
    pub normalize: Normalize,
    /// One mean and deviation for a whole view (`global`), or one for every bin (`per_bin`, which needs
    /// `normalize: {from: FOLDER}`). Per bin spreads tokens over many more codes; the published models have `global`.
    #[serde(default)]
    pub standardize: Grain,
}

/// The views that exist. A new one is a field here, a variant of [`ViewConfig`] and a line in `configs`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Mel spectrogram.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MelParams")]
    pub mel: Option<MelParams>,
    /// Constant-Q transform.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "CqtParams")]
    pub cqt: Option<CqtParams>,
    /// What the encoder of EnCodec gives, before it is quantised. Needs its weights.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "EncodecParams")]
    pub encodec: Option<EncodecParams>,
    /// The samples themselves.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WaveformParams")]
    pub waveform: Option<WaveformParams>,
}

/// Reads a view that is there: `mel:` with nothing behind it is an error, not a view left out.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The published settings of a mel spectrogram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MelPreset {
    /// 16 kHz: window 512, hop 256 (62.5 Hz), 96 bands. The models `base` and `multicodebook`.
    #[serde(rename = "mel_16k")]
    Mel16k,
    /// 24 kHz: window 512, hop 320 (75 Hz), 96 bands. The `multifeature` models.
    #[serde(rename = "mel_24k")]
    Mel24k,
}

/// Parameters of the mel view; what is absent is as in the preset.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MelParams {
    /// Where absent parameters come from; by default the preset of the crops' sample rate. At a rate without a preset,
    /// `hop_len` must be given, and `mean` and `std` unless `normalize` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<MelPreset>,
    /// Length of the transform in samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_fft: Option<usize>,
    /// Length of the Hann window in samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub win_len: Option<usize>,
    /// Samples from one frame to the next, at most `win_len`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_len: Option<usize>,
    /// Number of bands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_mels: Option<usize>,
    /// Lower edge of the lowest band in Hz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_min: Option<f64>,
    /// Upper edge of the highest band in Hz, at most half the sample rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_max: Option<f64>,
    /// How frequency maps to mel: `slaney`, as published, or `htk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<MelScale>,
    /// How the triangles are scaled: `slaney`, to the same area, as published, or `peak`, to the same height.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<MelNorm>,
    /// What power is multiplied by before the logarithm: log10(1 + gain power).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<f32>,
    /// Subtracted from the logarithm: its mean over a corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Divided by: its standard deviation over a corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
}

/// The published settings of a constant-Q transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CqtPreset {
    /// 16 kHz: hop 256 (62.5 Hz), 144 bins, 24 per octave, from 32.703 Hz (C1).
    #[serde(rename = "cqt_16k")]
    Cqt16k,
    /// 24 kHz: hop 320 (75 Hz), 188 bins, 24 per octave, from 32.703 Hz (C1). The `multifeature` models.
    #[serde(rename = "cqt_24k")]
    Cqt24k,
}

/// Parameters of the constant-Q view; what is absent is as in the preset.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CqtParams {
    /// Where absent parameters come from; by default the preset of the crops' sample rate. At a rate without a preset,
    /// `hop_len` and `n_bins` must be given, and `mean` and `std` unless `normalize` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<CqtPreset>,
    /// Samples from one frame to the next; the more often it can be halved, the cheaper low octaves are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_len: Option<usize>,
    /// Number of bins; the highest must lie below half the sample rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_bins: Option<usize>,
    /// Bins per octave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bins_per_octave: Option<usize>,
    /// Frequency of the lowest bin in Hz.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_min: Option<f64>,
    /// What power is multiplied by before the logarithm: log10(1 + gain power).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gain: Option<f32>,
    /// Subtracted from the logarithm: its mean over a corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Divided by: its standard deviation over a corpus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
}

/// Parameters of the EnCodec view.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EncodecParams {
    /// Folder with `config.json` and `model.safetensors` as published for EnCodec at 24 kHz.
    pub weights: PathBuf,
    /// Subtracted: the mean over a corpus. The published models use -0.5577428463574771.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Divided by: the standard deviation over a corpus. The published models use 5.863781862801963.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
}

/// Parameters of the waveform view.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WaveformParams {
    /// Subtracted from the samples; 0 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Divided by. The published models use 0.1908563740990311, the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
}

/// A view as a graph asks for it, not standardised yet.
pub(super) struct Asked {
    pub(super) view: ViewConfig,
    pub(super) constants: Constants,
}

impl Views {
    /// What is asked for, in the order of the columns.
    pub(super) fn asked(&self, crops: &CropSpec) -> Result<Vec<Asked>, BindError> {
        let rate = crops.sample_rate;
        let views = [
            self.mel.as_ref().map(|mel| mel.asked(rate)),
            self.cqt.as_ref().map(|cqt| cqt.asked(rate)),
            self.encodec.as_ref().map(|encodec| encodec.asked(rate)),
            self.waveform.as_ref().map(|waveform| Ok(waveform.asked())),
        ];
        views.into_iter().flatten().collect()
    }
}

/// The mean and deviation of a preset.
fn preset_constants(standardize: &Standardize) -> Option<(f64, f64)> {
    match standardize {
        Standardize::Global { mean, std } => Some((*mean, *std)),
        Standardize::PerBin { .. } => None,
    }
}

/// A named preset is for another rate than that of the crops.
fn wrong_rate(view: &str, preset: u32, found: u32) -> BindError {
    let message = format!("the preset is for audio at {preset} Hz, the crops are at {found} Hz");
    let hint = format!(
        "resample to {preset} Hz with `{{stage: resample, params: {{sample_rate: {preset}}}}}`, or leave `preset` out"
    );
    BindError::param(format!("views.{view}.preset"), message).hint(hint)
}

/// There is no preset for the rate of the crops, and not enough is said to do without.
fn no_preset(view: &str, found: u32, needed: &str) -> BindError {
    let message = format!("expected crops at 16000 or 24000 Hz, which have presets, found {found} Hz");
    let hint = format!("put `{{stage: resample, params: {{sample_rate: 24000}}}}` in front, or give {needed}");
    BindError::param(format!("views.{view}"), message).hint(hint)
}

impl MelParams {
    fn asked(&self, sample_rate: u32) -> Result<Asked, BindError> {
        let (base, preset) = match (self.preset, sample_rate) {
            (Some(MelPreset::Mel16k), _) | (None, 16_000) => (MelConfig::mel_16k(), true),
            (Some(MelPreset::Mel24k), _) | (None, 24_000) => (MelConfig::mel_24k(), true),
            (None, _) if self.hop_len.is_none() => {
                return Err(no_preset("mel", sample_rate, "`hop_len`, `mean` and `std`"));
            }
            (None, _) => {
                let f_max = f64::from(sample_rate) / 2.0;
                (MelConfig { sample_rate, f_max, ..MelConfig::mel_16k() }, false)
            }
        };
        if base.sample_rate != sample_rate {
            return Err(wrong_rate("mel", base.sample_rate, sample_rate));
        }
        // Mean and deviation follow the rate and the hop: those of another rate would be silently wrong.
        let preset = preset_constants(&base.standardize).filter(|_| preset);
        let config = MelConfig {
            sample_rate,
            n_fft: self.n_fft.unwrap_or(base.n_fft),
            win_len: self.win_len.unwrap_or(base.win_len),
            hop_len: self.hop_len.unwrap_or(base.hop_len),
            n_mels: self.n_mels.unwrap_or(base.n_mels),
            f_min: self.f_min.unwrap_or(base.f_min),
            f_max: self.f_max.unwrap_or(base.f_max),
            scale: self.scale.unwrap_or(base.scale),
            norm: self.norm.unwrap_or(base.norm),
            compress: LogCompress { gain: self.gain.unwrap_or(base.compress.gain) },
            standardize: Standardize::NONE,
        };
        let constants = Constants { mean: self.mean, std: self.std, preset };
        Ok(Asked { view: ViewConfig::Mel(config), constants })
    }
}

impl CqtParams {
    fn asked(&self, sample_rate: u32) -> Result<Asked, BindError> {
        let (base, preset) = match (self.preset, sample_rate) {
            (Some(CqtPreset::Cqt16k), _) | (None, 16_000) => (CqtConfig::cqt_16k(), true),
            (Some(CqtPreset::Cqt24k), _) | (None, 24_000) => (CqtConfig::cqt_24k(), true),
            (None, _) if self.hop_len.is_none() || self.n_bins.is_none() => {
                return Err(no_preset("cqt", sample_rate, "`hop_len`, `n_bins`, `mean` and `std`"));
            }
            (None, _) => (CqtConfig { sample_rate, ..CqtConfig::cqt_16k() }, false),
        };
        if base.sample_rate != sample_rate {
            return Err(wrong_rate("cqt", base.sample_rate, sample_rate));
        }
        let preset = preset_constants(&base.standardize).filter(|_| preset);
        let config = CqtConfig {
            sample_rate,
            hop_len: self.hop_len.unwrap_or(base.hop_len),
            n_bins: self.n_bins.unwrap_or(base.n_bins),
            bins_per_octave: self.bins_per_octave.unwrap_or(base.bins_per_octave),
            f_min: self.f_min.unwrap_or(base.f_min),
            compress: LogCompress { gain: self.gain.unwrap_or(base.compress.gain) },
            standardize: Standardize::NONE,
        };
        let constants = Constants { mean: self.mean, std: self.std, preset };
        Ok(Asked { view: ViewConfig::Cqt(config), constants })
    }
}

impl EncodecParams {
    /// Reads `config.json`, which says how many bins and frames there are. The weights are read when the run starts.
    fn asked(&self, sample_rate: u32) -> Result<Asked, BindError> {
        let folder = self.weights.clone();
        let encoder = EncodecConfig::read(&folder).map_err(|error| {
            let hint = "EnCodec's weights are not part of omar-flow: put `config.json` and `model.safetensors` of the \
                        published 24 kHz model (`encodec_24khz`) into a folder and name it in `weights`, or leave \
                        `encodec` out of the views";
            BindError::param("views.encodec.weights", error.to_string()).hint(hint)
        })?;
        if encoder.sampling_rate != sample_rate as usize {
            let message =
                format!("this encoder takes audio at {} Hz, the crops are at {sample_rate} Hz", encoder.sampling_rate);
            let rate = encoder.sampling_rate;
            let hint = format!("resample with `{{stage: resample, params: {{sample_rate: {rate}}}}}`");
            return Err(BindError::param("views.encodec.weights", message).hint(hint));
        }
        let config = EncodecViewConfig { folder, encoder, standardize: Standardize::NONE };
        let preset = preset_constants(&EncodecViewConfig::PUBLISHED);
        let constants = Constants { mean: self.mean, std: self.std, preset };
        Ok(Asked { view: ViewConfig::Encodec(config), constants })
    }
}

impl WaveformParams {
    fn asked(&self) -> Asked {
        let preset = preset_constants(&WaveformConfig::default().standardize);
        let view = ViewConfig::Waveform(WaveformConfig { standardize: Standardize::NONE });
        Asked { view, constants: Constants { mean: self.mean, std: self.std, preset } }
    }
}
