//! `tokenize`: representations to training targets.
//!
//! Input edge `features`, output edge `tokens`: one column per view, `(positions, codebooks)`. A patch is all bins of a
//! view over one position (paper, section 3.2); views are trimmed to the shortest. The quantizers are in
//! [`crate::quantize`]; every view starts from the same seed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Float32Type, SchemaRef, UInt16Type};
use omar_schemas::{
    Crop, Edge, Features, FeaturesSpec, Origin, StreamSpec, Tokens, TokensSpec, ViewSpec, fixed_tensor, fixed_values,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dsp::patch::PatchShape;
use crate::error::{BindError, Rejection, StageError};
use crate::quantize::finite_scalar::Bound;
use crate::quantize::weights::WeightsFile;
use crate::quantize::{
    FiniteScalar, FiniteScalarConfig, QuantizeError, Quantizer, RandomProjection, RandomProjectionConfig,
};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Positions by which views may differ, from how transforms treat the ends of a crop.
const SLACK: u32 = 2;

/// Parameters of `tokenize`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeParams {
    /// How a patch becomes a code: `{random_projection: {...}}` or `{finite_scalar: {...}}`.
    pub quantizer: QuantizerParams,
    /// Tokens per second, in Hz; divides the frame rate of every view. The published models have 15.625, 18.75 and 25.
    pub patch_rate: f64,
}

/// The quantizers that exist.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QuantizerParams {
    /// BEST-RQ: the nearest row of a random codebook to a random projection of the patch.
    RandomProjection(RandomProjectionParams),
    /// FSQ: every value of a random projection rounded to one of a few levels.
    FiniteScalar(FiniteScalarParams),
}

/// Parameters of random projection.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomProjectionParams {
    /// Codes per position, 1 to 16.
    pub codebooks: usize,
    /// Codes of a codebook, 2 to 65536.
    pub codebook_size: usize,
    /// Values that a patch is projected to.
    pub codebook_dim: usize,
    /// Where the weights come from.
    pub weights: WeightsParams,
}

/// Parameters of finite scalar quantization.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FiniteScalarParams {
    /// Levels of each value; their product is the number of codes.
    pub levels: Vec<usize>,
    /// Whether rounding keeps the symmetry of the levels, as the published model does.
    pub preserve_symmetry: bool,
    /// Where the weights come from.
    pub weights: WeightsParams,
}

/// Where frozen weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightsParams {
    /// Drawn from the seed of the graph.
    #[default]
    Graph,
    /// Drawn from this seed.
    Seed(u64),
    /// As PyTorch draws them after `torch.manual_seed` of this; the published models used 0.
    TorchSeed(u64),
    /// Read from this safetensors file.
    File(PathBuf),
}

impl Default for RandomProjectionParams {
    fn default() -> Self {
        Self { codebooks: 1, codebook_size: 8192, codebook_dim: 16, weights: WeightsParams::Graph }
    }
}

impl Default for FiniteScalarParams {
    fn default() -> Self {
        Self { levels: vec![6; 5], preserve_symmetry: true, weights: WeightsParams::Graph }
    }
}

impl QuantizerParams {
    fn weights(&self) -> &WeightsParams {
        match self {
            Self::RandomProjection(params) => &params.weights,
            Self::FiniteScalar(params) => &params.weights,
        }
    }

    fn key(&self) -> &'static str {
        match self {
            Self::RandomProjection(_) => "quantizer.random_projection",
            Self::FiniteScalar(_) => "quantizer.finite_scalar",
        }
    }

    fn check(&self) -> Result<(), QuantizeError> {
        match self {
            Self::RandomProjection(params) => params.config(1).check(),
            Self::FiniteScalar(params) => params.config(1).check(),
        }
    }

    /// Codes per position and codes per codebook.
    fn sizes(&self) -> (u32, u32) {
        match self {
            Self::RandomProjection(params) => (params.codebooks as u32, params.codebook_size as u32),
            Self::FiniteScalar(params) => (1, params.levels.iter().product::<usize>() as u32),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::RandomProjection(p) => {
                format!(
                    "random projection to {} values, {} codebooks of {}",
                    p.codebook_dim, p.codebooks, p.codebook_size
                )
            }
            Self::FiniteScalar(p) => format!("finite scalar quantization, levels {:?}", p.levels),
        }
    }

    fn build(&self, view: &str, input_len: usize, seed: u64) -> Result<Box<dyn Quantizer>, StageError> {
        let bytes = match self.weights() {
            WeightsParams::File(path) => std::fs::read(path).map_err(|error| StageError::io(path, error))?,
            _ => Vec::new(),
        };
        let quantizer: Result<Box<dyn Quantizer>, QuantizeError> = match self {
            Self::RandomProjection(params) => {
                let config = params.config(input_len);
                match params.weights {
                    WeightsParams::Graph => RandomProjection::seeded(config, seed),
                    WeightsParams::Seed(seed) => RandomProjection::seeded(config, seed),
                    WeightsParams::TorchSeed(seed) => RandomProjection::torch_seeded(config, seed),
                    WeightsParams::File(_) => {
                        WeightsFile::new(&bytes).and_then(|file| RandomProjection::from_file(config, &file, view))
                    }
                }
                .map(|quantizer| Box::new(quantizer) as Box<dyn Quantizer>)
            }
            Self::FiniteScalar(params) => {
                let config = params.config(input_len);
                match params.weights {
                    WeightsParams::Graph => FiniteScalar::seeded(config, seed),
                    WeightsParams::Seed(seed) => FiniteScalar::seeded(config, seed),
                    WeightsParams::TorchSeed(seed) => FiniteScalar::torch_seeded(config, seed),
                    WeightsParams::File(_) => {
                        WeightsFile::new(&bytes).and_then(|file| FiniteScalar::from_file(config, &file, view))
                    }
                }
                .map(|quantizer| Box::new(quantizer) as Box<dyn Quantizer>)
            }
        };
        quantizer.map_err(|error| StageError::Failed(format!("quantizer of view `{view}`: {error}")))
    }
}

impl RandomProjectionParams {
    fn config(&self, input_len: usize) -> RandomProjectionConfig {
        let Self { codebooks, codebook_size, codebook_dim, .. } = *self;
        RandomProjectionConfig { input_len, codebooks, codebook_size, codebook_dim }
    }
}

impl FiniteScalarParams {
    fn config(&self, input_len: usize) -> FiniteScalarConfig {
        let bound = if self.preserve_symmetry { Bound::Symmetric } else { Bound::Standard };
        FiniteScalarConfig { input_len, levels: self.levels.clone(), bound }
    }
}

/// The stage.
pub struct Tokenize {
    quantizer: QuantizerParams,
    patches: Vec<(ViewSpec, PatchShape)>,
    positions: usize,
    schema: SchemaRef,
    /// One per view, made by the first thread that starts, shared with the others.
    made: Mutex<Vec<Box<dyn Quantizer>>>,
}

impl StageKind for Tokenize {
    const NAME: &'static str = "tokenize";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "representations to tokens, the targets of pre-training";
    const EXAMPLE: &'static str = "{stage: tokenize, from: mel, params: {quantizer: {random_projection: \
         {codebooks: 4, codebook_size: 8192}}, patch_rate: 15.625}, cache: runs/tokens}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = TokenizeParams;

    fn bind(params: TokenizeParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let spec = inputs.spec::<Features>("in")?;
        let TokenizeParams { quantizer, patch_rate } = params;
        quantizer.check().map_err(|error| refused(&quantizer, &error))?;
        let patch_samples = patch_samples(&spec, patch_rate)?;
        let mut patches = Vec::new();
        let mut counts = Vec::new();
        for view in &spec.views {
            let shape = PatchShape { frames: (patch_samples / view.hop_len) as usize, bins: view.bins as usize };
            counts.push(shape.positions(view.frames as usize) as u32);
            patches.push((view.clone(), shape));
        }
        let shortest = counts.iter().copied().min().unwrap_or(0);
        let longest = counts.iter().copied().max().unwrap_or(0);
        if shortest == 0 {
            let message = format!("a crop of {} samples is shorter than one position", spec.crop_samples);
            return Err(BindError::param("patch_rate", message).hint("use longer crops or a higher rate"));
        }
        if longest - shortest > SLACK {
            let message = format!("the views give {counts:?} positions per crop, which differ by more than {SLACK}");
            return Err(BindError::input_spec("in", message));
        }
        let (codebooks, codebook_size) = quantizer.sizes();
        let stream = |view: &ViewSpec| StreamSpec { view: view.name.clone(), codebooks, codebook_size };
        let schema = Tokens::schema(&TokensSpec {
            sample_rate: spec.sample_rate,
            crop_samples: spec.crop_samples,
            patch_samples,
            positions: shortest,
            streams: spec.views.iter().map(stream).collect(),
            quantizer: quantizer.words(),
        });
        Ok(Self { quantizer, patches, positions: shortest as usize, schema, made: Mutex::default() })
    }
}

/// Samples per position, or why the rate does not fit, with the rates that do.
fn patch_samples(spec: &FeaturesSpec, patch_rate: f64) -> Result<u32, BindError> {
    let fits = |samples: u32| spec.views.iter().all(|view| samples.is_multiple_of(view.hop_len));
    let samples = f64::from(spec.sample_rate) / patch_rate;
    let whole = (samples.round() >= 1.0 && (samples - samples.round()).abs() < 1e-6).then_some(samples.round() as u32);
    if let Some(samples) = whole.filter(|&samples| patch_rate > 0.0 && fits(samples)) {
        return Ok(samples);
    }
    let frame_rate = |view: &ViewSpec| format!("{} {} Hz", view.name, view.frame_rate(spec.sample_rate));
    let rates: Vec<String> = spec.views.iter().map(frame_rate).collect();
    let message = format!("{patch_rate} Hz does not divide the frame rate of every view ({})", rates.join(", "));
    // Multiples of the longest hop that all views share; near the wanted rate first.
    let base = spec.views.iter().map(|view| view.hop_len).max().unwrap_or(1);
    let mut choices: Vec<f64> = (1..=64u32)
        .map(|multiple| multiple * base)
        .filter(|&samples| fits(samples))
        .map(|samples| f64::from(spec.sample_rate) / f64::from(samples))
        .collect();
    choices.sort_by(|a, b| (a - patch_rate).abs().total_cmp(&(b - patch_rate).abs()));
    choices.truncate(4);
    let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
    Err(BindError::param("patch_rate", message).hint(format!("rates that fit: {}", choices.join(", "))))
}

/// Points at the parameter that a quantizer refuses.
fn refused(quantizer: &QuantizerParams, error: &QuantizeError) -> BindError {
    let param = match error {
        QuantizeError::Param { param, .. } => format!("{}.{param}", quantizer.key()),
        _ => quantizer.key().to_owned(),
    };
    BindError::param(param, error.to_string())
}

impl Stage for Tokenize {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.is_empty() {
            let build =
                |(view, shape): &(ViewSpec, PatchShape)| self.quantizer.build(&view.name, shape.values(), context.seed);
            *made = self.patches.iter().map(build).collect::<Result<_, _>>()?;
        }
        #[expect(clippy::borrowed_box, reason = "it is what the iterator gives")]
        let view = |((view, shape), quantizer): (&(ViewSpec, PatchShape), &Box<dyn Quantizer>)| {
            let quantizer = quantizer.another();
            ViewQuantizer { name: view.name.clone(), shape: *shape, quantizer, patches: Vec::new() }
        };
        let views = self.patches.iter().zip(made.iter()).map(view).collect();
        Ok(Box::new(TokenizeOperator { views, positions: self.positions, schema: self.schema.clone() }))
    }

    fn files(&self) -> Vec<PathBuf> {
        match self.quantizer.weights() {
            WeightsParams::File(path) => vec![path.clone()],
            _ => Vec::new(),
        }
    }
}

struct TokenizeOperator {
    views: Vec<ViewQuantizer>,
    positions: usize,
    schema: SchemaRef,
}

/// A view's quantizer and its scratch.
struct ViewQuantizer {
    name: String,
    shape: PatchShape,
    quantizer: Box<dyn Quantizer>,
    patches: Vec<f32>,
}

impl ViewQuantizer {
    /// Tokens of one crop, `(positions, codebooks)`.
    fn tokens(&mut self, features: &[f32], tokens: &mut [u16]) -> Result<(), String> {
        let all = self.shape.positions(features.len() / self.shape.bins);
        self.patches.resize(all * self.shape.values(), 0.0);
        self.shape.cut_into(features, &mut self.patches).map_err(|error| error.to_string())?;
        let used = tokens.len() / self.quantizer.codebooks() * self.shape.values();
        self.quantizer.forward_into(&self.patches[..used], tokens).map_err(|error| error.to_string())
    }
}

impl Operator for TokenizeOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        let mut columns = batch.columns()[..Crop::KEY_COLUMNS].to_vec();
        for view in &mut self.views {
            let len = self.positions * view.quantizer.codebooks();
            let mut values = vec![0; batch.num_rows() * len];
            for (row, tokens) in values.chunks_exact_mut(len).enumerate() {
                let features = fixed_values::<Float32Type>(batch, &view.name, row)?;
                if let Err(reason) = view.tokens(features, tokens) {
                    let origin = Origin::read(batch, row)?;
                    let message = format!("view `{}`: {reason}", view.name);
                    out.reject(origin.track_id, Rejection::new("numeric", message));
                    return Ok(Progress::Idle);
                }
            }
            columns.push(fixed_tensor::<UInt16Type>(len, values));
        }
        out.emit(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(Progress::Idle)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Float64Array, UInt32Array};
    use omar_schemas::{Split, TrackId};
    use serde_json::{Value, json};

    use super::*;
    use crate::registry::{Bound as BoundStage, ParamsError, Registry};

    const FRAMES: usize = 151;

    fn spec() -> FeaturesSpec {
        let view = |name: &str, bins, frames, hop_len| ViewSpec { name: name.to_owned(), bins, frames, hop_len };
        let views = vec![view("mel", 8, FRAMES as u32, 320), view("waveform", 1, 48_000, 1)];
        FeaturesSpec { sample_rate: 24_000, crop_samples: 48_000, views }
    }

    fn bind(params: Value) -> Result<BoundStage, ParamsError> {
        let schema = Features::schema(&spec());
        let registry = Registry::default().with::<Tokenize>();
        (registry.get("tokenize").expect("registered").bind)(params, &Inputs::new(vec![("in", &schema)]))
    }

    fn noise(len: usize) -> Vec<f32> {
        let mut random = crate::seed::Random::new(3, &[]);
        (0..len).map(|_| random.normal() as f32).collect()
    }

    fn batch(mel: Vec<f32>, waveform: Vec<f32>) -> RecordBatch {
        let origin = Origin { track_id: TrackId(7), path: "7.wav".to_owned(), split: Split::Train };
        let mut columns = origin.columns(1);
        columns.push(Arc::new(UInt32Array::from(vec![0])) as ArrayRef);
        columns.push(Arc::new(Float64Array::from(vec![0.0])));
        columns.push(Arc::new(Float64Array::from(vec![2.0])));
        columns.push(fixed_tensor::<Float32Type>(mel.len(), mel));
        columns.push(fixed_tensor::<Float32Type>(waveform.len(), waveform));
        RecordBatch::try_new(Features::schema(&spec()), columns).expect("columns of the schema")
    }

    #[derive(Default)]
    struct Collected {
        batches: Vec<RecordBatch>,
        rejected: Vec<(TrackId, Rejection)>,
    }

    impl Output for Collected {
        fn emit(&mut self, batch: RecordBatch) {
            self.batches.push(batch);
        }
        fn reject(&mut self, track: TrackId, reason: Rejection) {
            self.rejected.push((track, reason));
        }
    }

    fn run(stage: &dyn Stage, batch: &RecordBatch) -> Collected {
        let mut out = Collected::default();
        let mut operator = stage.start(&StageContext::detached("tokens")).expect("starts");
        let progress = operator.push(0, batch, &mut out).expect("pushes");
        assert_eq!(progress, Progress::Idle);
        out
    }

    fn params(weights: Value) -> Value {
        let sizes = json!({"codebooks": 2, "codebook_size": 50, "weights": weights});
        json!({"quantizer": {"random_projection": sizes}, "patch_rate": 25})
    }

    #[test]
    fn tokens_are_those_of_the_quantizer_on_every_thread() {
        let bound = bind(params(json!({"torch_seed": 4}))).expect("binds");
        let (mel, waveform) = (noise(FRAMES * 8), noise(48_000));
        let out = run(bound.stage.as_ref(), &batch(mel.clone(), waveform));
        let spec = Tokens::spec(&bound.stage.output()).expect("tokens");
        assert_eq!((spec.positions, spec.patch_samples, spec.token_rate()), (50, 960, 25.0));
        let config = RandomProjectionConfig { input_len: 24, codebooks: 2, codebook_size: 50, codebook_dim: 16 };
        let patches = PatchShape::new(3, 8).expect("shape").cut(&mel).expect("patches");
        let expected = RandomProjection::torch_seeded(config, 4).expect("drawn").forward(&patches).expect("tokens");
        assert_eq!(fixed_values::<UInt16Type>(&out.batches[0], "mel", 0).expect("tokens"), expected);
        let again = run(bound.stage.as_ref(), &batch(mel, noise(48_000)));
        assert_eq!(again.batches, out.batches, "a second thread shares the weights of the first");
    }

    #[test]
    fn a_crop_that_is_not_finite_rejects_its_track() {
        let bound = bind(params(json!("graph"))).expect("binds");
        let mut mel = noise(FRAMES * 8);
        mel[100] = f32::NAN;
        let out = run(bound.stage.as_ref(), &batch(mel, noise(48_000)));
        assert!(out.batches.is_empty());
        assert_eq!(out.rejected[0].0, TrackId(7));
        assert_eq!(out.rejected[0].1.message, "view `mel`: position 4 holds values that are not finite");
    }

    #[test]
    fn a_rate_that_cuts_frames_is_refused_with_those_that_do_not() {
        let with_rate = |rate: Value| {
            let params = json!({"quantizer": {"finite_scalar": {}}, "patch_rate": rate});
            match bind(params) {
                Err(ParamsError::Bind(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        let error = with_rate(json!(20));
        assert_eq!(error.at, crate::At::Param("patch_rate".to_owned()));
        assert_eq!(error.hint.as_deref(), Some("rates that fit: 18.75, 25, 15, 12.5"));
        for rate in [json!(0), json!(-25), json!(1e-9), json!(1e9)] {
            with_rate(rate);
        }
    }

    #[test]
    fn sizes_out_of_range_are_pointed_at() {
        let params = json!({"quantizer": {"random_projection": {"codebook_size": 70_000}}, "patch_rate": 25});
        let Err(ParamsError::Bind(error)) = bind(params) else { panic!("70,000 codes do not fit a token") };
        assert_eq!(error.at, crate::At::Param("quantizer.random_projection.codebook_size".to_owned()));
    }
}
