//! `features`: crops to representations.
//!
//! Input edge `crop`, output edge `features`: one column per view. Any subset of the views can be computed in one node.
//! The transforms are in [`crate::dsp`]; the constants of the published models are the presets `mel_16k` and `mel_24k`.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Float32Type, SchemaRef};
use omar_schemas::{
    Crop, CropSpec, Edge, Features as FeaturesEdge, FeaturesSpec, Origin, ViewSpec, fixed_tensor, fixed_values,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::dsp::DspError;
use crate::dsp::compress::{LogCompress, Standardize};
use crate::dsp::mel::MelConfig;
use crate::dsp::view::{View, ViewConfig, WaveformConfig};
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Parameters of `features`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturesParams {
    /// Which representations to compute, each with its parameters: `{mel: {}, waveform: {}}`.
    pub views: Views,
}

/// The views that exist. A new one is a field here, a variant of [`ViewConfig`] and a line in `configs`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Views {
    /// Mel spectrogram.
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MelParams")]
    pub mel: Option<MelParams>,
    /// The samples themselves, standardised.
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
#[serde(rename_all = "snake_case")]
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
    /// `hop_len`, `mean` and `std` must be given.
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

/// Parameters of the waveform view.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WaveformParams {
    /// Subtracted from the samples.
    pub mean: f64,
    /// Divided by. The published models use 0.1908563740990311.
    pub std: f64,
}

impl Default for WaveformParams {
    fn default() -> Self {
        let Standardize::Global { mean, std } = WaveformConfig::default().standardize else {
            unreachable!("the waveform has one bin")
        };
        Self { mean, std }
    }
}

impl MelParams {
    fn config(&self, sample_rate: u32) -> Result<MelConfig, BindError> {
        let preset = match (self.preset, sample_rate) {
            (Some(MelPreset::Mel16k), _) => MelConfig::mel_16k(),
            (Some(MelPreset::Mel24k), _) | (None, 24_000) => MelConfig::mel_24k(),
            (None, 16_000) => MelConfig::mel_16k(),
            // Mean and deviation follow the rate and the hop: those of another rate would be silently wrong.
            (None, _) if self.hop_len.is_none() || self.mean.is_none() || self.std.is_none() => {
                let message =
                    format!("expected crops at 16000 or 24000 Hz, which have presets, found {sample_rate} Hz");
                let hint = "put `{stage: resample, params: {sample_rate: 24000}}` in front, or give `hop_len`, `mean` \
                            and `std`";
                return Err(BindError::param("views.mel", message).hint(hint));
            }
            (None, _) => MelConfig { sample_rate, f_max: f64::from(sample_rate) / 2.0, ..MelConfig::mel_16k() },
        };
        if preset.sample_rate != sample_rate {
            let message =
                format!("the preset is for audio at {} Hz, the crops are at {sample_rate} Hz", preset.sample_rate);
            let hint = format!(
                "resample to {} Hz with `{{stage: resample, params: {{sample_rate: {}}}}}`, or leave `preset` out",
                preset.sample_rate, preset.sample_rate
            );
            return Err(BindError::param("views.mel.preset", message).hint(hint));
        }
        let Standardize::Global { mean, std } = preset.standardize else {
            unreachable!("presets are standardised as a whole")
        };
        Ok(MelConfig {
            sample_rate,
            n_fft: self.n_fft.unwrap_or(preset.n_fft),
            win_len: self.win_len.unwrap_or(preset.win_len),
            hop_len: self.hop_len.unwrap_or(preset.hop_len),
            n_mels: self.n_mels.unwrap_or(preset.n_mels),
            f_min: self.f_min.unwrap_or(preset.f_min),
            f_max: self.f_max.unwrap_or(preset.f_max),
            compress: LogCompress { gain: self.gain.unwrap_or(preset.compress.gain) },
            standardize: Standardize::Global { mean: self.mean.unwrap_or(mean), std: self.std.unwrap_or(std) },
            ..preset
        })
    }
}

impl Views {
    fn configs(&self, sample_rate: u32) -> Result<Vec<ViewConfig>, BindError> {
        let mel = self.mel.as_ref().map(|mel| mel.config(sample_rate).map(ViewConfig::Mel)).transpose()?;
        let waveform = self.waveform.as_ref().map(|waveform| {
            let standardize = Standardize::Global { mean: waveform.mean, std: waveform.std };
            ViewConfig::Waveform(WaveformConfig { standardize })
        });
        Ok([mel, waveform].into_iter().flatten().collect())
    }
}

/// The stage.
pub struct Features {
    spec: FeaturesSpec,
    views: Vec<ViewConfig>,
    schema: SchemaRef,
}

impl StageKind for Features {
    const NAME: &'static str = "features";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "representations of crops: mel spectrogram, waveform";
    const EXAMPLE: &'static str = "{stage: features, from: crops, params: {views: {mel: {}, waveform: {}}}}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = FeaturesParams;

    fn bind(params: FeaturesParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let CropSpec { sample_rate, samples, .. } = inputs.spec::<Crop>("in")?;
        let views = params.views.configs(sample_rate)?;
        if views.is_empty() {
            return Err(
                BindError::param("views", "expected at least one view, found none").hint("write `views: {mel: {}}`")
            );
        }
        let spec = |view: &ViewConfig| -> Result<ViewSpec, DspError> {
            view.check()?;
            let (frames, bins) = (view.frames(samples as usize), view.bins());
            // Lengths of fixed-size lists are 31 bits.
            if i32::try_from(frames as u64 * bins as u64).is_err() {
                let param = if bins > 1 { "hop_len" } else { "samples" };
                let expected = "few enough frames for 2^31 values a crop";
                return Err(DspError::param(param, view.hop_len(), expected));
            }
            let [bins, frames, hop_len] = [bins, frames, view.hop_len()].map(|value| value as u32);
            Ok(ViewSpec { name: view.name().to_owned(), bins, frames, hop_len })
        };
        let mut specs = Vec::new();
        for view in &views {
            specs.push(spec(view).map_err(|error| refused(view, &error))?);
        }
        let spec = FeaturesSpec { sample_rate, crop_samples: samples, views: specs };
        let schema = FeaturesEdge::schema(&spec);
        Ok(Self { spec, views, schema })
    }
}

/// Points at the parameter that a transform refuses.
fn refused(view: &ViewConfig, error: &DspError) -> BindError {
    let param = match error {
        DspError::Param { param, .. } => format!("views.{}.{param}", view.name()),
        _ => format!("views.{}", view.name()),
    };
    BindError::param(param, error.to_string())
}

impl Stage for Features {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let build = |view: &ViewConfig| view.build().map_err(|error| StageError::Failed(error.to_string()));
        let views = self.views.iter().map(build).collect::<Result<_, _>>()?;
        Ok(Box::new(FeaturesOperator { spec: self.spec.clone(), views, schema: self.schema.clone() }))
    }
}

struct FeaturesOperator {
    spec: FeaturesSpec,
    views: Vec<Box<dyn View>>,
    schema: SchemaRef,
}

impl Operator for FeaturesOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        let mut columns = batch.columns()[..Crop::KEY_COLUMNS].to_vec();
        for (view, spec) in self.views.iter_mut().zip(&self.spec.views) {
            let len = spec.frames as usize * spec.bins as usize;
            let mut values = vec![0.0; batch.num_rows() * len];
            for (row, frames) in values.chunks_exact_mut(len).enumerate() {
                let samples = fixed_values::<Float32Type>(batch, "samples", row)?;
                let computed = view.forward_into(samples, frames);
                if computed.is_err() || !frames.iter().all(|value| value.is_finite()) {
                    let origin = Origin::read(batch, row)?;
                    let reason =
                        computed.err().map_or("values that are not finite".to_owned(), |error| error.to_string());
                    out.reject(origin.track_id, Rejection::new("numeric", format!("view `{}`: {reason}", spec.name)));
                    return Ok(Progress::Idle);
                }
            }
            columns.push(fixed_tensor::<Float32Type>(len, values));
        }
        out.emit(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(Progress::Idle)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::registry::{ParamsError, Registry};

    fn bind(sample_rate: u32, params: serde_json::Value) -> Result<SchemaRef, ParamsError> {
        let crop = Crop::schema(&CropSpec { sample_rate, samples: 2 * sample_rate, policy: "grid".to_owned() });
        let registry = Registry::default().with::<Features>();
        let features = registry.get("features").expect("registered");
        (features.bind)(params, &Inputs::new(vec![("in", &crop)])).map(|bound| bound.stage.output())
    }

    #[test]
    fn the_preset_follows_the_sample_rate() {
        let hop = |rate| {
            let schema = bind(rate, json!({"views": {"mel": {}}})).expect("binds");
            let spec = FeaturesEdge::spec(&schema).expect("features");
            (spec.views[0].hop_len, spec.views[0].frames)
        };
        assert_eq!(hop(16_000), (256, 126));
        assert_eq!(hop(24_000), (320, 151));
    }

    #[test]
    fn what_does_not_fit_is_pointed_at() {
        let at = |params| match bind(24_000, params) {
            Err(ParamsError::Bind(error)) => error.at,
            other => panic!("{other:?}"),
        };
        let param = |path: &str| crate::At::Param(path.to_owned());
        assert_eq!(at(json!({"views": {}})), param("views"));
        assert_eq!(at(json!({"views": {"mel": {"preset": "mel_16k"}}})), param("views.mel.preset"));
        assert_eq!(at(json!({"views": {"mel": {"f_max": 13_000.0}}})), param("views.mel.f_max"));
        assert_eq!(at(json!({"views": {"mel": {"hop_len": 0}}})), param("views.mel.hop_len"));
        assert_eq!(at(json!({"views": {"mel": {"hop_len": 600}}})), param("views.mel.hop_len"));
        assert_eq!(at(json!({"views": {"mel": {"n_mels": 250}}})), param("views.mel.n_mels"));
    }

    #[test]
    fn a_rate_without_a_preset_needs_its_own_constants() {
        let error = bind(22_050, json!({"views": {"mel": {}}})).expect_err("no preset").to_string();
        assert_eq!(error, "expected crops at 16000 or 24000 Hz, which have presets, found 22050 Hz");
        let own = json!({"views": {"mel": {"hop_len": 294, "mean": 2.0, "std": 1.2}}});
        let spec = FeaturesEdge::spec(&bind(22_050, own).expect("binds")).expect("features");
        assert_eq!(spec.views[0].frame_rate(spec.sample_rate), 75.0);
    }

    #[test]
    fn a_view_with_nothing_behind_it_is_an_error() {
        let error = bind(24_000, json!({"views": {"mel": {}, "waveform": null}})).expect_err("null");
        assert!(matches!(&error, ParamsError::Form { path, .. } if path == "views.waveform"), "{error:?}");
    }
}
