//! `pretrain`: crops and their tokens to a trained model.
//!
//! Input edges `features` (port `input`: what the model sees, one view or several side by side) and `tokens` (port
//! `targets`: what it predicts of masked positions, every codebook of every view being one stream); output edge
//! `metrics`, a row for every logged step. The model and its training are those of OMAR-RQ (arXiv 2507.03482, section 3);
//! see [`crate::model`] and [`crate::train`].
//!
//! It asks for pass after pass over the corpus until its steps are done. Crops of the `train` split go through a shuffle
//! buffer; the first crops of the `valid` split, up to `valid.crops`, are kept and predicted now and then; `test` crops
//! are left alone. Checkpoints hold where the stream stands, and a run that continues from one goes on with the same
//! bits, on the CPU, as one that never stopped.

mod best;
mod example;
mod init;
mod metrics;
mod operator;
mod params;
mod shown;
mod valid;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use omar_schemas::{Edge, Features, FeaturesSpec, Metrics, MetricsSpec, Tokens, TokensSpec};

use self::operator::Pretrainer;
use self::params::MaskParams;
pub use self::params::PretrainParams;
use crate::dsp::patch::PatchShape;
use crate::encoder::{EncoderFolder, EncoderManifest};
use crate::error::{BindError, StageError};
use crate::estimate::{Estimate, Memory};
use crate::model::{Cost, Flop, Keep, MaskedModelConfig, Masking, ModelError, activation_bytes};
use crate::stage::{Inputs, Operator, Scope, Stage, StageContext, StageKind};
use crate::train::{TrainError, TrainerConfig};

/// Positions by which views may differ, from how transforms treat the ends of a crop.
const SLACK: u32 = 2;

/// The bound stage.
#[derive(Debug)]
pub struct Pretrain {
    plan: Arc<Plan>,
}

/// Everything that binding worked out.
#[derive(Debug)]
struct Plan {
    params: PretrainParams,
    trainer: TrainerConfig,
    /// Columns of the input and how each is cut.
    views: Vec<(String, PatchShape)>,
    /// Columns of the targets, and the tokens per position of each.
    streams: Vec<(String, usize)>,
    /// Positions of every example.
    positions: usize,
    /// Positions per second of audio.
    rate_hz: f64,
    /// Seconds of audio in a crop.
    crop_s: f64,
    /// Names of the streams, `view/codebook`.
    stream_names: Vec<String>,
    /// Positions of the targets' rows, of which the first `positions` are used.
    target_positions: usize,
    /// The encoder to go on from.
    init: Option<EncoderFolder>,
    /// What the trained encoder is, for the folder of the checkpoints.
    manifest: EncoderManifest,
    output: SchemaRef,
}

impl StageKind for Pretrain {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "train a masked token model, with checkpoints and metrics";
    const EXAMPLE: &'static str = "{stage: pretrain, from: {input: input, targets: tokens}, \
        params: {size: tiny, steps: 1000, minibatch: 16, mask: {probability: 0.6, span: 0.4s}, optimizer: {lr: 1.0e-3}}}";
    const SCOPE: Scope = Scope::Corpus { repeats: true };
    const INPUTS: &'static [&'static str] = &["input", "targets"];
    type Params = PretrainParams;

    fn bind(params: PretrainParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let (input, targets) = (inputs.spec::<Features>("input")?, inputs.spec::<Tokens>("targets")?);
        let at_least_one = [
            ("minibatch", params.minibatch as u64),
            ("shuffle_buffer", params.shuffle_buffer as u64),
            ("accumulate", params.accumulate as u64),
            ("log_every", params.log_every),
            ("checkpoint.every", params.checkpoint.every),
            ("checkpoint.keep", params.checkpoint.keep as u64),
            ("checkpoint.milestones", params.checkpoint.milestones.unwrap_or(1)),
            ("valid.every", params.valid.every),
            ("valid.patience", params.valid.patience.unwrap_or(1)),
        ];
        if let Some((path, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(BindError::param(*path, "expected at least 1, found 0"));
        }
        let (views, positions) = views(&input, &targets)?;
        let (codebook_size, streams) = streams(&targets)?;
        let init = params.init.as_deref().map(init::open).transpose()?;
        let trained = init.as_ref().and_then(|init| init.manifest.conformer());
        let base = trained.cloned().unwrap_or_else(|| params.size.config());
        let model = MaskedModelConfig {
            conformer: params.model.over(&base),
            patch_dim: views.iter().map(|(_, shape)| shape.values()).sum(),
            codebook_size: codebook_size as usize,
            streams: streams.iter().map(|(_, codebooks)| codebooks).sum(),
        };
        let manifest = init::manifest(&input, &model.conformer, targets.patch_samples, init.as_ref())?;
        let masking = masking(&params.mask, &input, &targets)?;
        if params.accumulate > params.minibatch {
            let message = format!("expected at most `minibatch`, {}, found {}", params.minibatch, params.accumulate);
            return Err(BindError::param("accumulate", message));
        }
        let trainer = TrainerConfig {
            model,
            masking,
            optimizer: params.optimizer.clone(),
            steps: params.steps,
            accumulate: params.accumulate,
            recompute: params.recompute,
        };
        trainer.validate().map_err(blame)?;
        let names = targets.streams.iter().flat_map(|s| (0..s.codebooks).map(move |i| format!("{}/{i}", s.view)));
        let stream_names: Vec<String> = names.collect();
        let chance = 1.0 / f64::from(codebook_size);
        let output = Metrics::schema(&MetricsSpec { streams: stream_names.clone(), steps: params.steps, chance });
        Ok(Self {
            plan: Arc::new(Plan {
                params,
                trainer,
                views,
                streams,
                positions,
                rate_hz: targets.token_rate(),
                crop_s: f64::from(targets.crop_samples) / f64::from(targets.sample_rate),
                stream_names,
                target_positions: targets.positions as usize,
                init,
                manifest,
                output,
            }),
        })
    }
}

impl Stage for Pretrain {
    fn output(&self) -> SchemaRef {
        self.plan.output.clone()
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        Ok(Box::new(Pretrainer::start(self.plan.clone(), context)?))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.plan.init.iter().flat_map(EncoderFolder::files).collect()
    }

    fn estimate(&self) -> Option<Estimate> {
        let Plan { params, trainer, positions, rate_hz, crop_s, .. } = &*self.plan;
        let (model, minibatch) = (&trainer.model, params.minibatch);
        let keep = if params.recompute { Keep::Inputs } else { Keep::Everything };
        let cost = Cost::of(model);
        let flop = Flop::forward(model, *positions, trainer.masking.probability).training(keep);
        let bytes = 4 * cost.total();
        let copies = if params.optimizer.average.is_some() { 3 } else { 2 };
        // Of a minibatch in parts, the longest is in memory at a time.
        let at_a_time = minibatch.div_ceil(params.accumulate);
        Some(Estimate {
            steps: params.steps,
            minibatch,
            positions: *positions,
            rate_hz: *rate_hz,
            crop_s: *crop_s,
            parameters: cost.total(),
            head_parameters: cost.head,
            flop_per_step: flop * minibatch as f64,
            memory: Memory {
                weights: bytes,
                gradients: bytes,
                moments: copies * bytes,
                activations: activation_bytes(model, *positions, at_a_time, keep),
            },
        })
    }

    fn shares(&self, processes: usize) -> Result<bool, String> {
        let params = &self.plan.params;
        let (minibatch, parts) = (params.minibatch, processes * params.accumulate);
        if minibatch.is_multiple_of(parts) {
            return Ok(true);
        }
        let accumulate = match params.accumulate {
            1 => String::new(),
            parts => format!(" in {parts} parts (`accumulate`)"),
        };
        Err(format!(
            "{processes} processes cannot share `minibatch`, {minibatch}, evenly{accumulate}: make it a multiple of {parts}"
        ))
    }
}

/// How each input view is cut into patches of the targets' length, and the positions that all views have.
fn views(input: &FeaturesSpec, targets: &TokensSpec) -> Result<(Vec<(String, PatchShape)>, usize), BindError> {
    if (input.sample_rate, input.crop_samples) != (targets.sample_rate, targets.crop_samples) {
        let crops = |rate: u32, samples: u32| format!("crops of {samples} samples at {rate} Hz");
        let error = BindError::input_spec(
            "input",
            format!(
                "expected {} as in the targets, found {}",
                crops(targets.sample_rate, targets.crop_samples),
                crops(input.sample_rate, input.crop_samples)
            ),
        );
        return Err(error.hint("input and targets must come from the same `crop` node"));
    }
    let mut positions = targets.positions;
    let mut views = Vec::new();
    for view in &input.views {
        let frames = targets.patch_samples / view.hop_len.max(1);
        if frames == 0 || frames * view.hop_len != targets.patch_samples {
            let error = BindError::input_spec(
                "input",
                format!(
                    "view `{}` has a frame every {} samples, and a token stands for {}: no whole number of frames",
                    view.name, view.hop_len, targets.patch_samples
                ),
            );
            return Err(error.hint("choose a hop, or a patch rate of the tokens, such that one divides the other"));
        }
        let held = view.frames / frames;
        if held.abs_diff(targets.positions) > SLACK {
            let message = format!(
                "view `{}` has {held} positions of {frames} frames, the targets have {}: expected at most {SLACK} apart",
                view.name, targets.positions
            );
            return Err(BindError::input_spec("input", message));
        }
        positions = positions.min(held);
        let shape = PatchShape::new(frames as usize, view.bins as usize)
            .map_err(|error| BindError::input_spec("input", format!("view `{}`: {error}", view.name)))?;
        views.push((view.name.clone(), shape));
    }
    if views.is_empty() || positions == 0 {
        return Err(BindError::input_spec("input", "expected a view with at least one position, found none"));
    }
    Ok((views, positions as usize))
}

/// The size that all codebooks share, and the tokens per position of each column.
fn streams(targets: &TokensSpec) -> Result<(u32, Vec<(String, usize)>), BindError> {
    let Some(first) = targets.streams.first() else {
        return Err(BindError::input_spec("targets", "expected at least one view of tokens, found none"));
    };
    if let Some(other) = targets.streams.iter().find(|stream| stream.codebook_size != first.codebook_size) {
        let message = format!(
            "all codebooks must have one size: `{}` has {}, `{}` has {}",
            first.view, first.codebook_size, other.view, other.codebook_size
        );
        return Err(BindError::input_spec("targets", message));
    }
    let columns = targets.streams.iter().map(|stream| (stream.view.clone(), stream.codebooks as usize));
    Ok((first.codebook_size, columns.collect()))
}

/// Masking in positions.
fn masking(params: &MaskParams, input: &FeaturesSpec, targets: &TokensSpec) -> Result<Masking, BindError> {
    let named = params.more_spans.iter().map(|span| ("mask.more_spans", span));
    for (path, span) in [("mask.span", &params.span)].into_iter().chain(named) {
        if span.seconds() <= 0.0 {
            return Err(BindError::param(path, format!("expected some time, found `{span}`")));
        }
    }
    // The released models round spans up to whole frames of the input, and those down to whole positions.
    let hop = input.views.first().map_or(1, |view| view.hop_len);
    let frame_rate = f64::from(targets.sample_rate) / f64::from(hop);
    let frames = (targets.patch_samples / hop) as usize;
    let all = [params.span].into_iter().chain(params.more_spans.iter().copied());
    let spans = all.map(|span| Masking::span_positions(span.seconds(), frame_rate, frames)).collect();
    Ok(Masking { probability: params.probability, spans, method: params.method })
}

/// Points at the parameter that a configuration error is about.
fn blame(error: TrainError) -> BindError {
    match error {
        TrainError::Config { field, reason } => {
            let path = match field {
                "steps" | "accumulate" => field.to_owned(),
                "probability" | "span" => format!("mask.{field}"),
                _ => format!("optimizer.{field}"),
            };
            BindError::param(path, reason)
        }
        TrainError::Model(ModelError::Config {
            field: field @ ("patch_dim" | "codebook_size" | "streams"),
            reason,
        }) => BindError::node(format!("`{field}`: {reason}")),
        TrainError::Model(ModelError::Config { field: field @ ("alpha" | "beta"), reason }) => {
            BindError::param(format!("model.norm.deepnorm.{field}"), reason)
        }
        TrainError::Model(ModelError::Config { field, reason }) => BindError::param(format!("model.{field}"), reason),
        other => BindError::node(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
