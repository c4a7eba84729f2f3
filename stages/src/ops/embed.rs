//! `embed`: crops to the hidden states of a trained encoder.
//!
//! Input edge `crop` at the rate that the encoder hears, output edge `embedding`. What goes in and its standardisation
//! are those of the encoder's manifest, whatever its family, so nothing has to be said about them. Crops may be of any
//! length, overlap, or leave gaps; padding is not computed: a crop with 4 s of audio is a sequence of 4 s, and what comes
//! out is the same whatever the length of the window. A crop that is longer than the encoder can hear at once is heard in
//! parts that overlap by half.
//!
//! **Overlaps are stitched by time.** Where two crops of a recording overlap, each position comes from the crop in whose
//! middle it rather is: the first gives what lies before the middle of the overlap, the second the rest, so that no
//! instant is given twice, every vector is one that the encoder gave, and both have context on their sides. Every row is
//! the kept part of one crop, hence a recording of any length is many small rows.
//!
//! **Batches.** Crops of equal length are computed together, up to `batch` of them, those of recordings that other
//! threads work on at the same time included: one thread computes for all that wait.

mod batch;
mod layers;
mod long;
mod windows;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Float32Type, SchemaRef};
use omar_schemas::{Crop, CropSpec, Edge, Embeddings, EmbeddingsSpec, ModelLabel, Pooling, fixed_values};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encoder::{EncoderError, EncoderFolder, Facts, FrontEnd, Want};
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

pub use layers::Layers;

use batch::SharedEncoder;
use windows::{Joined, Window};

/// Parameters of `embed`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbedParams {
    /// The encoder: a folder that `omar-flow import` wrote, or a run of `pretrain` or one of its checkpoints.
    pub model: PathBuf,
    /// Random weights in place of the trained ones: the same network before any training, to see what training brought.
    #[serde(default)]
    pub untrained: bool,
    /// Which hidden states to take, by the numbers of the encoder's family: 0 is the first, -1 the last; a number, a list
    /// of them, or `all`. In OMAR-RQ 0 is the output of the first block; in MusicFM, MERT and MAEST 0 is what goes into
    /// that block, and 1 its output. What is after the last of them is not computed.
    #[serde(default)]
    pub layers: Layers,
    /// What a vector stands for: `frames` (a position of the encoder), or the mean over each `window`, or over the
    /// whole `track` (overlaps counted once).
    #[serde(default = "default_pool")]
    pub pool: Pooling,
    /// Crops that are computed together, at most.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// Folder with the weights of EnCodec, for encoders that hear it, if it is not where their manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encodec: Option<PathBuf>,
}

fn default_pool() -> Pooling {
    Pooling::Frames
}

fn default_batch() -> usize {
    4
}

/// The bound stage.
pub struct Embed {
    plan: Arc<Plan>,
    encoder: EncoderFolder,
    untrained: bool,
    encodec: Option<PathBuf>,
    /// Files of the front end.
    files: Vec<PathBuf>,
    /// Loaded by the first thread that starts, and shared.
    loaded: Mutex<Option<Arc<SharedEncoder>>>,
}

/// Everything that binding worked out.
struct Plan {
    spec: EmbeddingsSpec,
    /// Positions per second, pooled or not.
    rate: f64,
    /// Values of a position.
    dim: usize,
    /// Seconds from the start of a crop to that of the interval of its first position.
    offset_s: f64,
    /// Seconds of audio that a position needs.
    needs_s: f64,
    batch: usize,
    sample_rate: u32,
    schema: SchemaRef,
}

impl StageKind for Embed {
    const NAME: &'static str = "embed";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "hidden states of a trained encoder, per position or pooled";
    const EXAMPLE: &'static str = "{stage: embed, from: crops, params: {model: models/base, layers: [6, 11]}}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = EmbedParams;

    fn bind(params: EmbedParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let crops = inputs.spec::<Crop>("in")?;
        let at_model = |error: EncoderError| BindError::param("model", error.to_string());
        let encoder = EncoderFolder::open(&params.model).map_err(at_model)?;
        let facts = encoder.manifest.facts();
        check_crops(&crops, &facts)?;
        let layers = params.layers.of(facts.layers)?;
        if params.batch == 0 {
            return Err(BindError::param("batch", "expected at least 1, found 0"));
        }
        let at_front_end = |message| at_front_end(&params, message);
        let files = encoder.front_end_files(params.encodec.as_deref()).map_err(at_front_end)?;
        let rate = facts.rate();
        let spec = EmbeddingsSpec {
            layers,
            dim: facts.vector_dim(params.pool) as u32,
            rate: (params.pool == Pooling::Frames).then_some(rate),
            pooling: params.pool,
            sample_rate: crops.sample_rate,
            model: label(&encoder, params.untrained).map_err(at_model)?,
        };
        let schema = Embeddings::schema(&spec);
        let plan = Plan {
            spec,
            rate,
            dim: facts.dim,
            offset_s: facts.offset_s(),
            needs_s: facts.min_samples as f64 / f64::from(crops.sample_rate.max(1)),
            batch: params.batch,
            sample_rate: crops.sample_rate,
            schema,
        };
        let EmbedParams { untrained, encodec, .. } = params;
        Ok(Self { plan: Arc::new(plan), encoder, untrained, encodec, files, loaded: Mutex::default() })
    }
}

/// Who the embeddings are of.
fn label(encoder: &EncoderFolder, untrained: bool) -> Result<ModelLabel, EncoderError> {
    let label = encoder.label()?;
    if !untrained {
        return Ok(label);
    }
    let (name, fingerprint) = (format!("{} untrained", label.name), format!("{}-untrained", label.fingerprint));
    Ok(ModelLabel { name, fingerprint, ..label })
}

fn at_front_end(params: &EmbedParams, message: String) -> BindError {
    BindError::param(if params.encodec.is_some() { "encodec" } else { "model" }, message)
}

/// The crops are at the encoder's rate and hold a position.
fn check_crops(crops: &CropSpec, facts: &Facts) -> Result<(), BindError> {
    let (wanted, found) = (facts.sample_rate, crops.sample_rate);
    if wanted != found {
        let message = format!("the encoder hears audio at {wanted} Hz, the crops are at {found} Hz");
        let hint = format!("resample with `{{stage: resample, params: {{sample_rate: {wanted}}}}}`");
        return Err(BindError::input_spec("in", message).hint(hint));
    }
    if (crops.samples as usize) < facts.min_samples {
        let message =
            format!("a position of the encoder is {} samples, the crops have {}", facts.min_samples, crops.samples);
        return Err(BindError::input_spec("in", message).hint("make the crops longer, for example `duration: 30s`"));
    }
    Ok(())
}

impl Stage for Embed {
    fn output(&self) -> SchemaRef {
        self.plan.schema.clone()
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.is_none() {
            *loaded = Some(self.load(context)?);
        }
        let Some(encoder) = &*loaded else {
            return Err(StageError::Failed("the encoder was not loaded".to_owned()));
        };
        Ok(Box::new(EmbedOperator {
            plan: self.plan.clone(),
            front_end: encoder.encoder().front_end(),
            encoder: encoder.clone(),
            waiting: Vec::new(),
            joined: Joined::new(self.plan.clone()),
        }))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.encoder.files().into_iter().chain(self.files.iter().cloned()).collect()
    }
}

impl Embed {
    fn load(&self, context: &StageContext) -> Result<Arc<SharedEncoder>, StageError> {
        let device = context.device()?;
        let layers = self.plan.spec.layers.iter().map(|layer| *layer as usize).collect::<Vec<_>>();
        let encoder = self.encoder.encoder(&Want {
            deepest: layers.iter().max().copied().unwrap_or(0),
            device: &device,
            untrained: self.untrained.then_some(context.seed),
            encodec: self.encodec.as_deref(),
        })?;
        Ok(Arc::new(SharedEncoder::new(encoder, layers, self.plan.batch)))
    }

    /// Path of the encoder's manifest, for messages.
    pub fn manifest_path(&self) -> &Path {
        &self.encoder.manifest_path
    }
}

struct EmbedOperator {
    plan: Arc<Plan>,
    encoder: Arc<SharedEncoder>,
    front_end: Box<dyn FrontEnd>,
    /// Crops that have been heard, all with equally many positions.
    waiting: Vec<Window>,
    joined: Joined,
}

impl EmbedOperator {
    /// Computes what is waiting.
    fn compute(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let mut windows = std::mem::take(&mut self.waiting);
        let Some(first) = windows.first() else { return Ok(()) };
        let track = first.origin.track_id;
        let heard = windows.iter_mut().map(|window| std::mem::take(&mut window.heard)).collect();
        let hidden = self.encoder.run(heard).map_err(StageError::Failed)?;
        for (window, layers) in windows.into_iter().zip(hidden) {
            let values = layers.iter().flat_map(|hidden| hidden.frames.iter().chain(&hidden.summary));
            if !values.into_iter().all(|value| value.is_finite()) {
                out.reject(track, Rejection::new("numeric", "the encoder gives values that are not finite"));
                return Ok(());
            }
            self.joined.add(window, layers, out)?;
        }
        Ok(())
    }

    /// Computes a crop that is too long to be heard at once.
    fn compute_long(&mut self, mut window: Window, samples: &[f32], out: &mut dyn Output) -> Result<(), StageError> {
        self.compute(out)?;
        let track = window.origin.track_id;
        match long::hidden(samples, &mut *self.front_end, &self.encoder, self.plan.batch) {
            Ok((positions, layers)) => {
                window.positions = positions;
                self.joined.saw(&window);
                self.joined.add(window, layers, out)
            }
            Err(long::Failure::Numeric(reason)) => {
                out.reject(track, Rejection::new("numeric", reason));
                Ok(())
            }
            Err(long::Failure::Encoder(reason)) => Err(StageError::Failed(reason)),
        }
    }
}

impl Operator for EmbedOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        for row in 0..batch.num_rows() {
            let mut window = Window::read(batch, row)?;
            let samples = fixed_values::<Float32Type>(batch, "samples", row)?;
            let audio = (window.audio_s * f64::from(self.plan.sample_rate)).round() as usize;
            let samples = &samples[..audio.min(samples.len())];
            if self.encoder.encoder().max_samples().is_some_and(|most| samples.len() > most) {
                self.compute_long(window, samples, out)?;
                continue;
            }
            match self.front_end.hear(samples) {
                Ok(heard) => (window.positions, window.heard) = (heard.positions, heard),
                Err(reason) => {
                    out.reject(window.origin.track_id, Rejection::new("numeric", reason));
                    return Ok(Progress::Idle);
                }
            }
            self.joined.saw(&window);
            if window.positions == 0 {
                continue;
            }
            if self.waiting.first().is_some_and(|first| first.positions != window.positions) {
                self.compute(out)?;
            }
            self.waiting.push(window);
            if self.waiting.len() >= self.plan.batch {
                self.compute(out)?;
            }
        }
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        self.compute(out)?;
        self.joined.finish(out)
    }
}

#[cfg(test)]
mod tests;
