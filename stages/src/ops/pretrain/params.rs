//! Parameters of `pretrain`.

use std::path::PathBuf;

use omar_schemas::units::Duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{ConformerConfig, MaskMethod, Norm, PositionEncoding, Precision, Size};
use crate::train::OptimizerConfig;

/// Parameters of `pretrain`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PretrainParams {
    /// Named size of the model.
    #[serde(default = "default_size")]
    pub size: Size,
    /// What differs from the named size, or from the encoder in `init`.
    #[serde(default)]
    pub model: ModelParams,
    /// Encoder to go on from: a folder that `omar-flow import` wrote, or a run of `pretrain` or one of its checkpoints.
    /// The model is then that encoder (`size` has no effect) with a new head, and the input must be the views it hears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Updates in all.
    pub steps: u64,
    /// Crops per update.
    #[serde(default = "default_minibatch")]
    pub minibatch: usize,
    /// Parts in which a minibatch goes through the model, their gradients added up: memory is that of one part. Batch
    /// norms see one part at a time.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Keeps the inputs of the blocks only and computes the rest a second time: less memory, a third more time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// Time after which training ends with a checkpoint, as if interrupted: `--resume` goes on. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_time: Option<Duration>,
    /// What numbers matrix products are made of. May change when a run continues.
    #[serde(default, skip_serializing_if = "is_automatic")]
    pub precision: Precision,
    /// What is masked, and how.
    #[serde(default)]
    pub mask: MaskParams,
    /// The optimiser and its schedule.
    #[serde(default)]
    pub optimizer: OptimizerConfig,
    /// Crops that are held in memory to be mixed; 1 keeps the order of the corpus.
    #[serde(default = "default_shuffle_buffer")]
    pub shuffle_buffer: usize,
    /// Steps from one row of metrics to the next.
    #[serde(default = "default_log_every")]
    pub log_every: u64,
    /// What is saved.
    #[serde(default)]
    pub checkpoint: CheckpointParams,
    /// Evaluation on held-out crops.
    #[serde(default)]
    pub valid: ValidParams,
}

/// What differs from a named size; everything absent stays as it is there.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelParams {
    /// Number of blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Width of the hidden states.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// Attention heads; `dim` is a multiple of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// Width of the feed-forward layers over `dim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ff_factor: Option<usize>,
    /// Length of the depthwise convolution in positions, odd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<usize>,
    /// Dropout in feed-forward, attention and convolution, 0 to below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Dropout of the embedded patches, 0 to below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_dropout: Option<f64>,
    /// Weight of both feed-forward layers in their residual sums: 4.0 as released, 0.5 in the Conformer paper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residual_factor: Option<f64>,
    /// Whether a position attends to itself and the past only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub causal: Option<bool>,
    /// Normalisation of the attention's residual sum. With another number of `layers` than the named size: DeepNorm with
    /// the weights that follow from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// How attention knows positions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<PositionEncoding>,
}

/// Masking.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaskParams {
    /// Probability of each span, above 0 and at most 1.
    pub probability: f64,
    /// Length of a span, with its unit; spans tile the crop, in whole positions.
    pub span: Duration,
    /// Further lengths: each crop draws one of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more_spans: Vec<Duration>,
    /// What stands at a masked position.
    pub method: MaskMethod,
}

impl Default for MaskParams {
    fn default() -> Self {
        Self { probability: 0.6, span: Duration::from_secs(0.4), more_spans: Vec::new(), method: MaskMethod::Noise }
    }
}

/// Checkpoints.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointParams {
    /// Steps from one checkpoint to the next; there is always one after the last step, and one when a run is stopped.
    pub every: u64,
    /// How many of the latest are kept.
    pub keep: usize,
    /// Whether the one of the lowest held-out loss is kept too; it is then saved at the evaluation that finds it.
    pub best: bool,
    /// Keeps the checkpoints of all multiples of this many steps for good. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milestones: Option<u64>,
}

impl Default for CheckpointParams {
    fn default() -> Self {
        Self { every: 1000, keep: 3, best: true, milestones: None }
    }
}

/// Evaluation on held-out crops.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ValidParams {
    /// Steps from one evaluation to the next.
    pub every: u64,
    /// Crops of the `valid` split to hold out, at most 4 of a track; 0 for no evaluation.
    pub crops: usize,
    /// Evaluations without a lower held-out loss after which training ends. Absent: it goes on to the last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
}

impl Default for ValidParams {
    fn default() -> Self {
        Self { every: 500, crops: 64, patience: None }
    }
}

fn is_automatic(precision: &Precision) -> bool {
    *precision == Precision::Auto
}

fn default_size() -> Size {
    Size::Base
}

fn one() -> usize {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(value: &usize) -> bool {
    *value == 1
}

fn default_minibatch() -> usize {
    16
}

fn default_shuffle_buffer() -> usize {
    256
}

fn default_log_every() -> u64 {
    1
}

impl ModelParams {
    /// A named size or a given encoder with these differences.
    pub(super) fn over(&self, base: &ConformerConfig) -> ConformerConfig {
        let layers = self.layers.unwrap_or(base.layers);
        let by_depth = Norm::Deepnorm { alpha: None, beta: None };
        ConformerConfig {
            layers,
            dim: self.dim.unwrap_or(base.dim),
            heads: self.heads.unwrap_or(base.heads),
            ff_factor: self.ff_factor.unwrap_or(base.ff_factor),
            kernel: self.kernel.unwrap_or(base.kernel),
            dropout: self.dropout.unwrap_or(base.dropout),
            input_dropout: self.input_dropout.unwrap_or(base.input_dropout),
            residual_factor: self.residual_factor.unwrap_or(base.residual_factor),
            causal: self.causal.unwrap_or(base.causal),
            norm: self.norm.unwrap_or(if layers == base.layers { base.norm } else { by_depth }),
            positions: self.positions.unwrap_or(base.positions),
        }
    }
}
