//! Stages that bind like the real ones but do nothing.

#![expect(clippy::needless_pass_by_value, reason = "`bind` takes its parameters by value")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::datatypes::SchemaRef;
use omar_schemas::units::Duration;
use omar_schemas::*;
use omar_stages::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What stands in for every bound stage.
struct Bound {
    schema: SchemaRef,
    files: Vec<PathBuf>,
}

macro_rules! stand_in {
    ($name:ident, $params:ty, $text:literal, $scope:expr, $inputs:expr, $example:literal, $bind:expr) => {
        struct $name(Bound);

        impl Stage for $name {
            fn output(&self) -> SchemaRef {
                self.0.schema.clone()
            }
            fn start(&self, _: &StageContext) -> Result<Box<dyn Operator>, StageError> {
                Err(StageError::Failed("only for show".to_owned()))
            }
            fn files(&self) -> Vec<PathBuf> {
                self.0.files.clone()
            }
        }

        impl StageKind for $name {
            const NAME: &'static str = $text;
            const VERSION: u32 = 1;
            const SUMMARY: &'static str = "stands in for the stage of that name";
            const EXAMPLE: &'static str = $example;
            const SCOPE: Scope = $scope;
            const INPUTS: &'static [&'static str] = $inputs;
            type Params = $params;
            fn bind(params: $params, inputs: &Inputs<'_>) -> Result<Self, BindError> {
                let bind: fn($params, &Inputs<'_>) -> Result<Bound, BindError> = $bind;
                bind(params, inputs).map($name)
            }
        }
    };
}

fn edge(schema: SchemaRef) -> Result<Bound, BindError> {
    Ok(Bound { schema, files: Vec::new() })
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FilesParams {
    /// Folder to search.
    root: String,
    /// Share of the tracks, 0..1, that become split `valid`.
    #[serde(default)]
    valid_fraction: f64,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct None {}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResampleParams {
    /// Rate that every track gets, in Hz: 24000 for the published models, 16000 for the first of them.
    sample_rate: u32,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CropParams {
    /// Length of a crop, with its unit. A whole number of samples.
    duration: Duration,
    /// Which windows of a track become crops.
    #[serde(default)]
    policy: Policy,
}

/// Which windows of a track become crops.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Policy {
    /// One every `hop`.
    #[default]
    Grid,
    /// At places that the seed and the track decide.
    Seeded,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FeaturesParams {
    /// The representations to compute.
    views: Views,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Views {
    /// A mel spectrogram.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mel: Option<Mel>,
    /// The samples themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waveform: Option<None>,
    /// The encoder of EnCodec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encodec: Option<Encodec>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mel {
    /// A published setting.
    #[serde(default)]
    preset: Preset,
    /// Samples from one frame to the next.
    #[serde(default = "hop_len")]
    hop_len: u32,
    /// Bands.
    #[serde(default = "n_mels")]
    n_mels: u32,
}

/// A published setting.
#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preset {
    /// For audio at 24 kHz.
    #[default]
    Mel24k,
    /// For audio at 16 kHz.
    Mel16k,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Encodec {
    /// Folder with the weights.
    weights: String,
}

fn hop_len() -> u32 {
    320
}

fn n_mels() -> u32 {
    96
}

fn features(params: FeaturesParams, inputs: &Inputs<'_>) -> Result<Bound, BindError> {
    let crop = inputs.spec::<Crop>("in")?;
    let view = |name: &str, bins, hop_len| ViewSpec {
        name: name.to_owned(),
        bins,
        frames: crop.samples / hop_len + 1,
        hop_len,
    };
    let mut views = Vec::new();
    let mut files = Vec::new();
    if let Some(mel) = params.views.mel {
        if matches!(mel.preset, Preset::Mel16k) && crop.sample_rate != 16_000 {
            let message = format!("this mel spectrogram is made for audio at 16000 Hz, found {} Hz", crop.sample_rate);
            return Err(BindError::param("views.mel.preset", message)
                .hint("choose `preset: mel24k`, or `sample_rate: 16000` in the `resample` node"));
        }
        if mel.hop_len == 0 {
            return Err(BindError::param("views.mel.hop_len", "expected at least 1 sample, found 0"));
        }
        views.push(view("mel", mel.n_mels, mel.hop_len));
    }
    if params.views.waveform.is_some() {
        views.push(view("waveform", 1, 1));
    }
    if let Some(encodec) = params.views.encodec {
        views.push(view("encodec", 128, 320));
        files.push(PathBuf::from(encodec.weights).join("model.safetensors"));
    }
    let spec = FeaturesSpec { sample_rate: crop.sample_rate, crop_samples: crop.samples, views };
    Ok(Bound { schema: Features::schema(&spec), files })
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenizeParams {
    /// How patches become tokens.
    quantizer: Quantizer,
    /// Tokens per second.
    patch_rate: f64,
}

/// How patches become tokens.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Quantizer {
    /// Nearest row of a random codebook, after a random projection.
    RandomProjection(RandomProjection),
    /// Finite scalar quantization.
    Fsq {
        /// Levels of every dimension.
        levels: Vec<u8>,
    },
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RandomProjection {
    /// Codebooks, each with a projection of its own.
    #[serde(default = "one")]
    codebooks: u32,
    /// Rows of a codebook.
    codebook_size: u32,
    /// Dimensions that are projected to.
    #[serde(default = "sixteen")]
    codebook_dim: u32,
}

fn one() -> u32 {
    1
}

fn sixteen() -> u32 {
    16
}

fn tokenize(params: TokenizeParams, inputs: &Inputs<'_>) -> Result<Bound, BindError> {
    let features = inputs.spec::<Features>("in")?;
    let patch = f64::from(features.sample_rate) / params.patch_rate;
    for view in &features.views {
        let frames = patch / f64::from(view.hop_len);
        if frames.fract() != 0.0 {
            let rate = view.frame_rate(features.sample_rate);
            let message = format!(
                "{} patches a second do not divide the {rate} frames a second of `{}`: a patch would be {frames:.3} frames",
                params.patch_rate, view.name
            );
            return Err(BindError::param("patch_rate", message).hint("choose 25, 15 or 75"));
        }
    }
    let size = match params.quantizer {
        Quantizer::RandomProjection(projection) => projection.codebook_size,
        Quantizer::Fsq { levels } => levels.iter().map(|&level| u32::from(level)).product(),
    };
    let streams =
        features.views.iter().map(|view| StreamSpec { view: view.name.clone(), codebooks: 1, codebook_size: size });
    edge(Tokens::schema(&TokensSpec {
        sample_rate: features.sample_rate,
        crop_samples: features.crop_samples,
        patch_samples: patch as u32,
        positions: (f64::from(features.crop_samples) / patch) as u32,
        streams: streams.collect(),
        quantizer: "stand-in".to_owned(),
    }))
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PretrainParams {
    /// Updates of the weights.
    steps: u64,
    /// Crops in a step.
    #[serde(default = "minibatch")]
    minibatch: u32,
    /// What is hidden from the model.
    #[serde(default)]
    mask: Mask,
    /// How weights are updated.
    #[serde(default)]
    optimizer: Optimizer,
}

/// What is hidden from the model.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Mask {
    /// Share of the positions, 0..1.
    probability: f64,
    /// Length of a hidden stretch, with its unit.
    span: Duration,
}

/// How weights are updated.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Optimizer {
    /// Highest learning rate.
    lr: f64,
    /// Steps until the learning rate is highest.
    warmup: u64,
    /// Decay of the moments.
    betas: BTreeMap<String, f64>,
}

fn minibatch() -> u32 {
    20
}

impl Default for Mask {
    fn default() -> Self {
        Self { probability: 0.6, span: Duration::from_secs(0.4) }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { lr: 1e-4, warmup: 30_000, betas: BTreeMap::new() }
    }
}

fn pretrain(params: PretrainParams, inputs: &Inputs<'_>) -> Result<Bound, BindError> {
    let input = inputs.spec::<Features>("input")?;
    let targets = inputs.spec::<Tokens>("targets")?;
    if !(0.0..=1.0).contains(&params.mask.probability) {
        let found = params.mask.probability;
        return Err(BindError::param("mask.probability", format!("expected a share from 0 to 1, found {found}")));
    }
    if input.crop_samples != targets.crop_samples {
        return Err(BindError::input_spec("targets", "the targets belong to crops of another length"));
    }
    let streams = targets.streams.iter().map(|stream| format!("{}/0", stream.view)).collect();
    edge(Metrics::schema(&MetricsSpec { streams, steps: params.steps, chance: 1.0 / 8192.0 }))
}

stand_in!(Files, FilesParams, "files", Scope::Source, &[], "{stage: files, params: {root: music}}", |params, _| {
    edge(Track::schema(&TrackSpec { root: params.root }))
});
stand_in!(Decode, None, "decode", Scope::Track, &["in"], "{stage: decode, from: tracks}", |_, inputs| {
    inputs.spec::<Track>("in")?;
    edge(Audio::schema(&AudioSpec { sample_rate: Option::None }))
});
stand_in!(
    Resample,
    ResampleParams,
    "resample",
    Scope::Track,
    &["in"],
    "{stage: resample, from: audio, params: {sample_rate: 24000}}",
    |params, inputs| {
        inputs.spec::<Audio>("in")?;
        edge(Audio::schema(&AudioSpec { sample_rate: Some(params.sample_rate) }))
    }
);
stand_in!(
    CropStage,
    CropParams,
    "crop",
    Scope::Track,
    &["in"],
    "{stage: crop, from: mono, params: {duration: 30s}}",
    |params, inputs| {
        let Some(sample_rate) = inputs.spec::<Audio>("in")?.sample_rate else {
            return Err(BindError::input_spec("in", "the tracks still have the sample rates of their files"));
        };
        let samples = params.duration.whole_samples(sample_rate);
        let samples = samples.ok_or_else(|| BindError::param("duration", "expected a whole number of samples"))? as u32;
        edge(Crop::schema(&CropSpec { sample_rate, samples, policy: "grid".to_owned() }))
    }
);
stand_in!(
    FeaturesStage,
    FeaturesParams,
    "features",
    Scope::Track,
    &["in"],
    "{stage: features, from: crops, params: {views: {mel: {}, waveform: {}}}}",
    features
);
stand_in!(
    Tokenize,
    TokenizeParams,
    "tokenize",
    Scope::Track,
    &["in"],
    "{stage: tokenize, from: targets, params: {quantizer: {random_projection: {codebook_size: 8192}}, patch_rate: 25}}",
    tokenize
);
stand_in!(
    Pretrain,
    PretrainParams,
    "pretrain",
    Scope::Corpus { repeats: true },
    &["input", "targets"],
    "{stage: pretrain, from: {input: input, targets: tokens}, params: {steps: 100}}",
    pretrain
);

/// All of them.
pub(crate) fn registry() -> Registry {
    let audio = Registry::default().with::<Files>().with::<Decode>().with::<Resample>().with::<CropStage>();
    audio.with::<FeaturesStage>().with::<Tokenize>().with::<Pretrain>()
}
