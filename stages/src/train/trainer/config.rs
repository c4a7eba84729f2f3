//! What a training is made of.

use super::super::adamw::{AdamWConfig, Groups};
use super::super::error::TrainError;
use super::super::schedule::{Decay, Schedule};
use crate::model::{MaskedModelConfig, Masking};
use globset::Glob;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimiser and its schedule. The defaults are those of the released models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Largest learning rate.
    pub lr: f64,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f64,
    /// Decay of the first and second moment, each 0 to below 1.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Steps of linear warm-up from 0 to `lr`. Absent: 3 of every 40 steps, as 30,000 of 400,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// What follows the warm-up.
    pub schedule: Decay,
    /// Largest norm of all gradients together; larger ones are scaled down to it. Absent: any norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Which parameters decay.
    pub decayed: Decayed,
    /// Parameters that are treated differently: the first group whose pattern fits counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<ParameterGroup>,
    /// Decay of an exponential moving average of the weights, 0 to below 1, such as 0.999: kept beside them in
    /// checkpoints, and what held-out crops are predicted with. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average: Option<f64>,
}

/// Which parameters decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decayed {
    /// Every parameter, as in the released models.
    #[default]
    All,
    /// Those of two or more dimensions: neither biases nor the scales of norms.
    Matrices,
}

/// Parameters that are treated differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterGroup {
    /// Pattern of published names, with `*` for anything: `net.layers.0.*`.
    pub names: String,
    /// Multiplies the learning rate; 0 freezes.
    #[serde(default = "one")]
    pub lr_factor: f64,
    /// Weight decay in place of the optimiser's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

fn one() -> f64 {
    1.0
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            lr: 1e-4,
            weight_decay: 1e-2,
            betas: [0.9, 0.999],
            eps: 1e-8,
            warmup: None,
            schedule: Decay::Cosine,
            clip: None,
            decayed: Decayed::All,
            groups: Vec::new(),
            average: None,
        }
    }
}

impl OptimizerConfig {
    /// The constants of the update.
    pub fn adamw(&self) -> AdamWConfig {
        AdamWConfig { betas: self.betas, eps: self.eps, weight_decay: self.weight_decay }
    }

    /// How single parameters differ from the rest.
    ///
    /// # Errors
    /// When a pattern is none.
    pub fn groups(&self) -> Result<Groups, TrainError> {
        let mut groups = Groups { decay_vectors: self.decayed == Decayed::All, patterns: Vec::new() };
        for group in &self.groups {
            let pattern = Glob::new(&group.names).map_err(|error| TrainError::Config {
                field: "groups",
                reason: format!("`{}` is no pattern: {error}", group.names),
            })?;
            groups.patterns.push((pattern.compile_matcher(), group.lr_factor, group.weight_decay));
        }
        Ok(groups)
    }
}

/// What a trainer is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerConfig {
    /// The model.
    pub model: MaskedModelConfig,
    /// What it does not see.
    pub masking: Masking,
    /// The optimiser.
    pub optimizer: OptimizerConfig,
    /// Steps in all: where the schedule ends.
    pub steps: u64,
    /// Parts in which a minibatch goes through the model, their gradients added up. Batch norms see one part at a time.
    pub accumulate: usize,
    /// Keeps the inputs of the blocks only, and computes the rest a second time in the backward pass.
    pub recompute: bool,
}

impl TrainerConfig {
    /// Checks that such a training can be.
    ///
    /// # Errors
    /// The first field that is wrong, and why.
    pub fn validate(&self) -> Result<(), TrainError> {
        self.model.validate()?;
        let o = &self.optimizer;
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let not_negative = |v: f64| v.is_finite() && v >= 0.0;
        for (field, value, fits, expected) in [
            ("steps", self.steps as f64, self.steps > 0, "at least 1"),
            ("lr", o.lr, positive(o.lr), "a positive number"),
            ("weight_decay", o.weight_decay, not_negative(o.weight_decay), "0 or more"),
            ("betas", o.betas[0], (0.0..1.0).contains(&o.betas[0]), "0 to below 1"),
            ("betas", o.betas[1], (0.0..1.0).contains(&o.betas[1]), "0 to below 1"),
            ("eps", o.eps, positive(o.eps), "a positive number"),
            ("clip", o.clip.unwrap_or(1.0), o.clip.is_none_or(positive), "a positive number"),
            ("warmup", self.schedule().warmup as f64, self.schedule().warmup <= self.steps, "at most `steps`"),
            ("probability", self.masking.probability, self.masking.probability > 0.0, "above 0"),
            ("probability", self.masking.probability, self.masking.probability <= 1.0, "at most 1"),
            ("span", 0.0, self.masking.spans.iter().all(|span| *span > 0), "at least 1 position"),
            ("span", 0.0, !self.masking.spans.is_empty(), "at least one length"),
            ("average", o.average.unwrap_or(0.0), o.average.is_none_or(|a| (0.0..1.0).contains(&a)), "0 to below 1"),
            ("accumulate", self.accumulate as f64, self.accumulate > 0, "at least 1"),
        ] {
            if !fits {
                return Err(TrainError::Config { field, reason: format!("expected {expected}, found {value}") });
            }
        }
        for group in &o.groups {
            if !(not_negative(group.lr_factor) && group.weight_decay.is_none_or(not_negative)) {
                let reason = format!("`{}`: expected factors of 0 or more", group.names);
                return Err(TrainError::Config { field: "groups", reason });
            }
        }
        o.groups()?;
        Ok(())
    }

    /// The learning rate over the steps.
    pub fn schedule(&self) -> Schedule {
        let o = &self.optimizer;
        let warmup = o.warmup.unwrap_or(self.steps.saturating_mul(3) / 40);
        Schedule { peak: o.lr, warmup, total: self.steps, decay: o.schedule }
    }
}
