//! `embed`: crops to the hidden states of a trained encoder.
//!
//! Input edge `crop` at the rate that the encoder hears, output edge `embedding`. The views that go in, their parameters
//! and their standardisation are those of the encoder's manifest, so nothing has to be said about them. Crops may be of
//! any length, overlap, or leave gaps; padding is not computed: a crop with 4 s of audio is a sequence of 4 s, and what
//! comes out is the same whatever the length of the window.
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
mod windows;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Float32Type, SchemaRef};
use omar_schemas::{Crop, CropSpec, Edge, Embeddings, EmbeddingsSpec, ModelLabel, Pooling, fixed_values};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dsp::patch::PatchShape;
use crate::dsp::view::{View, ViewConfig};
use crate::encoder::{EncoderError, EncoderFolder};
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
    /// Which blocks to take the output of: 0 is the first, -1 the last; a number, a list of them, or `all`. Blocks after the
    /// last of them are not computed.
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
    views: Vec<(ViewConfig, PatchShape)>,
    /// Loaded by the first thread that starts.
    loaded: Mutex<Option<Loaded>>,
}

/// What the operators share.
struct Loaded {
    encoder: Arc<SharedEncoder>,
    views: Vec<Box<dyn View>>,
}

/// Everything that binding worked out.
struct Plan {
    spec: EmbeddingsSpec,
    /// Positions per second, pooled or not.
    rate: f64,
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
        let manifest = &encoder.manifest;
        check_crops(&crops, &encoder)?;
        let layers = params.layers.of(manifest.model.layers)?;
        if params.batch == 0 {
            return Err(BindError::param("batch", "expected at least 1, found 0"));
        }
        let views = manifest.view_configs(params.encodec.as_deref()).map_err(|message| at_views(&params, message))?;
        let rate = f64::from(manifest.sample_rate) / f64::from(manifest.patch_samples.max(1));
        let spec = EmbeddingsSpec {
            layers,
            dim: manifest.model.dim as u32,
            rate: (params.pool == Pooling::Frames).then_some(rate),
            pooling: params.pool,
            sample_rate: crops.sample_rate,
            model: label(&encoder, params.untrained).map_err(at_model)?,
        };
        let schema = Embeddings::schema(&spec);
        let plan = Plan { spec, rate, batch: params.batch, sample_rate: crops.sample_rate, schema };
        let untrained = params.untrained;
        Ok(Self { plan: Arc::new(plan), encoder, untrained, views, loaded: Mutex::default() })
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

fn at_views(params: &EmbedParams, message: String) -> BindError {
    BindError::param(if params.encodec.is_some() { "encodec" } else { "model" }, message)
}

/// The crops are at the encoder's rate and hold a position.
fn check_crops(crops: &CropSpec, encoder: &EncoderFolder) -> Result<(), BindError> {
    let manifest = &encoder.manifest;
    let (wanted, found) = (manifest.sample_rate, crops.sample_rate);
    if wanted != found {
        let message = format!("the encoder hears audio at {wanted} Hz, the crops are at {found} Hz");
        let hint = format!("resample with `{{stage: resample, params: {{sample_rate: {wanted}}}}}`");
        return Err(BindError::input_spec("in", message).hint(hint));
    }
    if crops.samples < manifest.patch_samples {
        let message = format!(
            "a position of the encoder is {} samples, the crops have {}",
            manifest.patch_samples, crops.samples
        );
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
        let Some(Loaded { encoder, views }) = &*loaded else {
            return Err(StageError::Failed("the encoder was not loaded".to_owned()));
        };
        let views = views.iter().zip(&self.views).map(|(view, (_, shape))| (view.another(), *shape)).collect();
        let joined = Joined::new(self.plan.clone());
        Ok(Box::new(EmbedOperator {
            plan: self.plan.clone(),
            encoder: encoder.clone(),
            views,
            waiting: Vec::new(),
            joined,
        }))
    }

    fn files(&self) -> Vec<PathBuf> {
        let views = self.views.iter().flat_map(|view| view.0.files());
        self.encoder.files().into_iter().chain(views).collect()
    }
}

impl Embed {
    fn load(&self, context: &StageContext) -> Result<Loaded, StageError> {
        let device = context.device()?;
        let layers = self.plan.spec.layers.iter().map(|layer| *layer as usize).collect::<Vec<_>>();
        let deepest = layers.iter().max().map_or(0, |layer| layer + 1);
        let encoder = if self.untrained {
            self.encoder.load_untrained(deepest, context.seed, &device)?
        } else {
            self.encoder.load(deepest, &device)?
        };
        let view = |(config, _): &(ViewConfig, PatchShape)| {
            config.build(&device).map_err(|error| StageError::Failed(format!("view `{}`: {error}", config.name())))
        };
        let views = self.views.iter().map(view).collect::<Result<_, _>>()?;
        let encoder = Arc::new(SharedEncoder::new(encoder, layers, device, self.plan.batch));
        Ok(Loaded { encoder, views })
    }

    /// Path of the encoder's manifest, for messages.
    pub fn manifest_path(&self) -> &Path {
        &self.encoder.manifest_path
    }
}

struct EmbedOperator {
    plan: Arc<Plan>,
    encoder: Arc<SharedEncoder>,
    views: Vec<(Box<dyn View>, PatchShape)>,
    /// Crops whose patches are cut, all of one length.
    waiting: Vec<Window>,
    joined: Joined,
}

impl EmbedOperator {
    /// The patches of a row, all views side by side; a sentence when they cannot be computed.
    fn patches(&mut self, samples: &[f32]) -> Result<(usize, Vec<f32>), String> {
        let mut parts = Vec::new();
        for (view, shape) in &mut self.views {
            let features = view.forward(samples).map_err(|error| error.to_string())?;
            if !features.iter().all(|value| value.is_finite()) {
                return Err("a view has values that are not finite".to_owned());
            }
            parts.push((shape.positions(features.len() / shape.bins), *shape, features));
        }
        // Transforms treat the ends of a signal in their own ways: what all views have is kept.
        let positions = parts.iter().map(|part| part.0).min().unwrap_or(0);
        let dim: usize = parts.iter().map(|part| part.1.values()).sum();
        let mut patches = vec![0.0; positions * dim];
        let mut at = 0;
        for (_, shape, features) in &parts {
            let width = shape.values();
            let mut cut = vec![0.0; positions * width];
            shape.cut_into(features, &mut cut).map_err(|error| error.to_string())?;
            for (to, from) in patches.chunks_exact_mut(dim).zip(cut.chunks_exact(width)) {
                to[at..at + width].copy_from_slice(from);
            }
            at += width;
        }
        Ok((positions, patches))
    }

    /// Computes what is waiting.
    fn compute(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let mut windows = std::mem::take(&mut self.waiting);
        let Some(first) = windows.first() else { return Ok(()) };
        let (positions, track) = (first.positions, first.origin.track_id);
        let patches = windows.iter_mut().map(|window| std::mem::take(&mut window.patches)).collect();
        let hidden = self.encoder.run(positions, patches).map_err(StageError::Failed)?;
        for (window, layers) in windows.into_iter().zip(hidden) {
            if !layers.iter().flatten().all(|value| value.is_finite()) {
                out.reject(track, Rejection::new("numeric", "the encoder gives values that are not finite"));
                return Ok(());
            }
            self.joined.add(window, layers, out)?;
        }
        Ok(())
    }
}

impl Operator for EmbedOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        for row in 0..batch.num_rows() {
            let mut window = Window::read(batch, row)?;
            let samples = fixed_values::<Float32Type>(batch, "samples", row)?;
            let audio = (window.audio_s * f64::from(self.plan.sample_rate)).round() as usize;
            match self.patches(&samples[..audio.min(samples.len())]) {
                Ok((positions, patches)) => (window.positions, window.patches) = (positions, patches),
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
