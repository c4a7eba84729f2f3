//! `tokenize`: representations to training targets.
//!
//! Input edge `features`, output edge `tokens`: one column per view, `(positions, codebooks)`. A patch is all bins of a
//! view over one position (paper, section 3.2); views are trimmed to the shortest. The quantizers are in
//! [`crate::quantize`]; every view starts from the same seed.

mod quantizer;

use std::collections::BTreeMap;
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
use crate::quantize::{QuantizeError, Quantizer};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

pub use quantizer::{FiniteScalarParams, KMeansParams, QuantizerParams, RandomProjectionParams, WeightsParams};

/// Positions by which views may differ, from how transforms treat the ends of a crop.
const SLACK: u32 = 2;

/// Parameters of `tokenize`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizeParams {
    /// How a patch becomes a code: `{random_projection: {...}}`, `{finite_scalar: {...}}` or `{k_means: {...}}`.
    pub quantizer: QuantizerParams,
    /// Quantizers of single views, where they differ: `{waveform: {finite_scalar: {}}}`.
    #[serde(default)]
    pub views: BTreeMap<String, QuantizerParams>,
    /// Tokens per second, in Hz; divides the frame rate of every view. The published models have 15.625, 18.75 and 25.
    pub patch_rate: f64,
}

/// The stage.
pub struct Tokenize {
    views: Vec<QuantizedView>,
    positions: usize,
    schema: SchemaRef,
    /// One per view, made by the first thread that starts, shared with the others.
    made: Mutex<Vec<Box<dyn Quantizer>>>,
}

/// How a view is quantised.
struct QuantizedView {
    name: String,
    shape: PatchShape,
    quantizer: QuantizerParams,
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
        params.check(&spec)?;
        let patch_samples = patch_samples(&spec, params.patch_rate)?;
        let mut views = Vec::new();
        let mut counts = Vec::new();
        let mut streams = Vec::new();
        for view in &spec.views {
            let shape = PatchShape { frames: (patch_samples / view.hop_len) as usize, bins: view.bins as usize };
            counts.push(shape.positions(view.frames as usize) as u32);
            let quantizer = params.views.get(&view.name).unwrap_or(&params.quantizer).clone();
            let (codebooks, codebook_size) = quantizer.sizes();
            let words = quantizer.words();
            streams.push(StreamSpec { view: view.name.clone(), codebooks, codebook_size, quantizer: words });
            views.push(QuantizedView { name: view.name.clone(), shape, quantizer });
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
        let FeaturesSpec { sample_rate, crop_samples, .. } = spec;
        let positions = shortest;
        let schema = Tokens::schema(&TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams });
        Ok(Self { views, positions: shortest as usize, schema, made: Mutex::default() })
    }
}

impl TokenizeParams {
    /// Refuses quantizers that cannot be, and those of views that are not there.
    fn check(&self, spec: &FeaturesSpec) -> Result<(), BindError> {
        self.quantizer.check().map_err(|error| refused("quantizer", &self.quantizer, &error))?;
        for (view, quantizer) in &self.views {
            if !spec.views.iter().any(|found| found.name == *view) {
                let names: Vec<&str> = spec.views.iter().map(|view| view.name.as_str()).collect();
                let message = format!("there is no view `{view}` here; the views are {}", names.join(", "));
                return Err(BindError::param(format!("views.{view}"), message));
            }
            quantizer.check().map_err(|error| refused(&format!("views.{view}"), quantizer, &error))?;
        }
        Ok(())
    }
}

/// Samples per position, or why the rate does not fit, with the rates that do.
pub(super) fn patch_samples(spec: &FeaturesSpec, patch_rate: f64) -> Result<u32, BindError> {
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
fn refused(path: &str, quantizer: &QuantizerParams, error: &QuantizeError) -> BindError {
    let key = quantizer.key();
    let param = match error {
        QuantizeError::Param { param, .. } => format!("{path}.{key}.{param}"),
        _ => format!("{path}.{key}"),
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
            let build = |view: &QuantizedView| view.quantizer.build(&view.name, view.shape.values(), context.seed);
            *made = self.views.iter().map(build).collect::<Result<_, _>>()?;
        }
        let views = self.views.iter().zip(made.iter()).map(|(view, quantizer)| ViewQuantizer {
            name: view.name.clone(),
            shape: view.shape,
            quantizer: quantizer.another(),
            patches: Vec::new(),
        });
        let (views, schema) = (views.collect(), self.schema.clone());
        Ok(Box::new(TokenizeOperator { views, positions: self.positions, schema }))
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = self.views.iter().filter_map(|view| view.quantizer.file()).collect();
        files.dedup();
        files
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
mod tests;
