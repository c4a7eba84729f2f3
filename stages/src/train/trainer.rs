//! The training loop's body.

use super::adamw::{AdamW, AdamWConfig, Gradients, first_not_finite, global_norm};
use super::checkpoint::{Checkpoint, State};
use super::error::TrainError;
use super::loss::{HeadLoss, head_loss};
use super::schedule::{Decay, Schedule};
use crate::model::{Form, MaskedModel, MaskedModelConfig, Masking, Pass, Source, Stream};
use candle_core::{DType, Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

mod predict;

pub use predict::Predictions;

/// How often masks are drawn anew when they leave every position of a minibatch unmasked.
const MASK_ATTEMPTS: u64 = 64;

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
        }
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
            ("span", self.masking.span as f64, self.masking.span > 0, "at least 1 position"),
        ] {
            if !fits {
                return Err(TrainError::Config { field, reason: format!("expected {expected}, found {value}") });
            }
        }
        Ok(())
    }

    /// The learning rate over the steps.
    pub fn schedule(&self) -> Schedule {
        let o = &self.optimizer;
        let warmup = o.warmup.unwrap_or(self.steps.saturating_mul(3) / 40);
        Schedule { peak: o.lr, warmup, total: self.steps, decay: o.schedule }
    }
}

/// Names one crop of the corpus, for random draws that do not depend on where it turns up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropKey {
    /// Its track.
    pub track: u64,
    /// Which of the track's crops.
    pub crop: u64,
}

/// The examples of one step.
#[derive(Clone, Debug)]
pub struct Minibatch {
    /// Input patches, `(batch, positions, patch_dim)` f32.
    pub patches: Tensor,
    /// Targets, `(batch, positions, streams)` u32.
    pub tokens: Tensor,
    /// One key per example.
    pub keys: Vec<CropKey>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// The step, counted from 1.
    pub step: u64,
    /// Cross-entropy in nats, mean over masked (position, stream) pairs, before the update.
    pub loss: f64,
    /// Share of those whose most likely code is the target.
    pub accuracy: f64,
    /// The same per stream.
    pub stream_accuracy: Vec<f32>,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Masked positions.
    pub masked: usize,
}

/// What a minibatch is predicted like, without an update. Sums, so that several add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidMetrics {
    /// Masked positions.
    pub masked: usize,
    /// Sum over masked positions of the cross-entropy, mean over streams, in nats.
    pub loss: f64,
    /// Per stream, the masked positions whose most likely code is the target.
    pub correct: Vec<u64>,
}

impl ValidMetrics {
    /// Adds another minibatch.
    pub fn add(&mut self, other: &Self) {
        self.masked += other.masked;
        self.loss += other.loss;
        self.correct.resize(self.correct.len().max(other.correct.len()), 0);
        for (sum, correct) in self.correct.iter_mut().zip(&other.correct) {
            *sum += correct;
        }
    }

    /// Mean loss, accuracy and accuracy per stream.
    pub fn means(&self) -> (f64, f64, Vec<f32>) {
        let (accuracy, stream_accuracy) = accuracies(&self.correct, self.masked);
        (self.loss / self.masked.max(1) as f64, accuracy, stream_accuracy)
    }
}

fn accuracies(correct: &[u64], rows: usize) -> (f64, Vec<f32>) {
    let share = |correct: u64, of: usize| correct as f64 / of.max(1) as f64;
    let per_stream = correct.iter().map(|c| share(*c, rows) as f32).collect();
    (share(correct.iter().sum(), rows * correct.len()), per_stream)
}

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    config: TrainerConfig,
    model: MaskedModel,
    optimizer: AdamW,
    device: Device,
    form: Form,
    seed: u64,
    step: u64,
}

impl Trainer {
    /// A trainer with fresh weights.
    ///
    /// # Errors
    /// When the configuration is impossible, or the device fails.
    pub fn new(config: TrainerConfig, device: &Device, seed: u64) -> Result<Self, TrainError> {
        config.validate()?;
        let model = MaskedModel::new(&config.model, Source::Seed(seed), device)?;
        let o = &config.optimizer;
        let adamw = AdamWConfig { betas: o.betas, eps: o.eps, weight_decay: o.weight_decay };
        let optimizer = AdamW::new(adamw, model.weights())?;
        Ok(Self { config, model, optimizer, device: device.clone(), form: Form::for_device(device), seed, step: 0 })
    }

    /// The model as it is now.
    pub fn model(&self) -> &MaskedModel {
        &self.model
    }

    /// Completed steps.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Trains on one minibatch.
    ///
    /// # Errors
    /// When the minibatch does not fit the model, nothing could be masked, or loss or gradients are not finite; the
    /// weights are then unchanged.
    pub fn step(&mut self, minibatch: &Minibatch) -> Result<StepMetrics, TrainError> {
        let number = self.step + 1;
        let (_, positions, streams) = self.check(minibatch)?;
        let masks = Stream::new(self.seed, "mask").at(self.step);
        let (patches, masked) = self.mask(minibatch, masks, number)?;
        if !self.device.is_cpu() {
            // The device's generator draws the dropout: seeded by the step, it needs no state in checkpoints.
            self.device.set_seed(Stream::new(self.seed, "device dropout").bits(self.step))?;
        }
        let mut pass = Pass::train(self.form, self.seed, self.step);
        let hidden = self.model.encoder().forward(&patches, &mut pass)?;
        let rows = (hidden.dim(0)? * positions, hidden.dim(2)?);
        let index = Tensor::from_slice(&masked, masked.len(), &self.device)?;
        let hidden = hidden.reshape(rows)?.index_select(&index, 0)?;
        let loss = self.loss(&hidden, minibatch, &index, (rows.0, streams), true)?;
        if !loss.loss.is_finite() {
            return Err(TrainError::NotFinite { step: number, what: "the loss".into() });
        }
        let gradients = self.gradients(&hidden, &loss)?;
        let grad_norm = global_norm(&gradients)?;
        if !grad_norm.is_finite() {
            let name = first_not_finite(&gradients)?.unwrap_or("all weights");
            return Err(TrainError::NotFinite { step: number, what: format!("the gradient of `{name}`") });
        }
        let scale = match self.config.optimizer.clip {
            Some(clip) if grad_norm > clip => clip / grad_norm,
            _ => 1.0,
        };
        let lr = self.config.schedule().at(self.step);
        self.optimizer.step(self.model.weights(), &gradients, lr, scale)?;
        self.model.update_running(&pass.into_statistics())?;
        self.step = number;
        let (accuracy, stream_accuracy) = accuracies(&loss.correct, loss.rows);
        Ok(StepMetrics { step: number, loss: loss.loss, accuracy, stream_accuracy, lr, grad_norm, masked: loss.rows })
    }

    /// Predicts one minibatch without learning from it. Its masks depend on the seed and the crops only, so that
    /// evaluations of different steps compare.
    ///
    /// # Errors
    /// When the minibatch does not fit the model, or nothing could be masked.
    pub fn evaluate(&self, minibatch: &Minibatch) -> Result<ValidMetrics, TrainError> {
        let (_, positions, streams) = self.check(minibatch)?;
        let (patches, masked) = self.mask(minibatch, Stream::new(self.seed, "valid mask"), self.step)?;
        let mut pass = Pass::evaluate(self.form);
        let hidden = self.model.encoder().forward(&patches, &mut pass)?.detach();
        let rows = (hidden.dim(0)? * positions, hidden.dim(2)?);
        let index = Tensor::from_slice(&masked, masked.len(), &self.device)?;
        let hidden = hidden.reshape(rows)?.index_select(&index, 0)?;
        let loss = self.loss(&hidden, minibatch, &index, (rows.0, streams), false)?;
        Ok(ValidMetrics { masked: loss.rows, loss: loss.loss * loss.rows as f64, correct: loss.correct })
    }

    /// Batch size, positions and streams, once the shapes fit the model.
    fn check(&self, minibatch: &Minibatch) -> Result<(usize, usize, usize), TrainError> {
        let fail = |what, found: &[usize], expected: String| {
            Err(TrainError::Minibatch { what, found: found.to_vec(), expected })
        };
        let model = &self.config.model;
        let (patches, tokens) = (minibatch.patches.dims(), minibatch.tokens.dims());
        let &[batch, positions, dim] = patches else {
            return fail("patches", patches, "three dimensions".into());
        };
        if batch == 0 || positions == 0 || dim != model.patch_dim {
            return fail("patches", patches, format!("at least one patch of {} values", model.patch_dim));
        }
        if tokens != [batch, positions, model.streams] {
            return fail("tokens", tokens, format!("[{batch}, {positions}, {}]", model.streams));
        }
        if minibatch.keys.len() != batch {
            return fail("keys", &[minibatch.keys.len()], format!("[{batch}]"));
        }
        Ok((batch, positions, model.streams))
    }

    /// The minibatch's patches with masked rows replaced, and the flat indices of these rows.
    fn mask(&self, minibatch: &Minibatch, masks: Stream, step: u64) -> Result<(Tensor, Vec<u32>), TrainError> {
        for attempt in 0..MASK_ATTEMPTS {
            let masks = masks.at(attempt);
            let streams: Vec<Stream> = minibatch.keys.iter().map(|key| masks.at(key.track).at(key.crop)).collect();
            let (patches, masked) = self.config.masking.apply_to_minibatch(&minibatch.patches, &streams)?;
            if !masked.is_empty() {
                return Ok((patches.to_device(&self.device)?, masked));
            }
        }
        let positions = minibatch.tokens.elem_count() / self.config.model.streams;
        Err(TrainError::NothingMasked { step, positions })
    }

    fn loss(
        &self,
        hidden: &Tensor,
        minibatch: &Minibatch,
        index: &Tensor,
        tokens: (usize, usize),
        with_gradients: bool,
    ) -> Result<HeadLoss, TrainError> {
        let targets = minibatch.tokens.to_dtype(DType::U32)?.to_device(&self.device)?;
        let targets = targets.reshape(tokens)?.index_select(index, 0)?;
        let (weight, bias) = self.model.head();
        Ok(head_loss(hidden, (weight, bias), &targets, with_gradients, self.form)?)
    }

    /// Gradients of all parameters: the head's are there already, and flow back from its input.
    fn gradients(&self, hidden: &Tensor, loss: &HeadLoss) -> Result<Gradients, TrainError> {
        let Some(head) = &loss.gradients else { return Ok(Gradients::new()) };
        // A scalar whose derivative by `hidden` is the gradient that the head found.
        let mut store = (hidden * &head.hidden)?.sum_all()?.backward()?;
        let (weight, bias) = self.model.head();
        store.insert(weight, head.weight.clone());
        store.insert(bias, head.bias.clone());
        let named = self.model.weights().parameters().iter();
        Ok(named.filter_map(|(name, var)| Some((name.clone(), store.remove(var)?))).collect())
    }

    /// Writes a checkpoint under `dir` and gives its folder. `cursor` says where the data stream stands; it comes back
    /// from [`Trainer::resume`] as it is.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, cursor: serde_json::Value) -> Result<PathBuf, TrainError> {
        let config = serde_json::to_value(&self.config).expect("a configuration is plain data and always serialises");
        let state = State::new(self.step, self.seed, config, cursor);
        let checkpoint =
            Checkpoint { model: self.model.weights().tensors(), optimizer: self.optimizer.tensors(), state };
        checkpoint.write(dir)
    }

    /// Continues from the checkpoint in folder `path`, and gives its cursor. The trainer must have been made with the
    /// configuration and seed that the checkpoint was written with: continuing differently would be another run.
    ///
    /// # Errors
    /// What is different, missing, or of another shape; the trainer is then not to be used.
    pub fn resume(&mut self, path: &Path) -> Result<serde_json::Value, TrainError> {
        let checkpoint = Checkpoint::read(path, &self.device)?;
        let fail = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
        let (found, expected) = (&checkpoint.state.config, as_read(&self.config));
        if let Some((at, found, expected)) = difference(found, &expected, "") {
            return Err(fail(format!("it was written with `{at}` = {found}, this run has {expected}")));
        }
        if checkpoint.state.seed != self.seed {
            return Err(fail(format!("its seed is {}, this run's is {}", checkpoint.state.seed, self.seed)));
        }
        self.model.weights().assign(&checkpoint.model).map_err(|error| fail(error.to_string()))?;
        let steps = checkpoint.state.step;
        self.optimizer.restore(&checkpoint.optimizer, steps).map_err(|error| fail(error.to_string()))?;
        self.step = steps;
        Ok(checkpoint.state.cursor)
    }
}

/// The configuration as it comes back from a file: serde_json may read a float one bit off what was written.
fn as_read(config: &TrainerConfig) -> serde_json::Value {
    let json = serde_json::to_string(config).expect("a configuration is plain data and always serialises");
    serde_json::from_str(&json).expect("what serialises is JSON")
}

/// The first value in which two configurations differ: its path, and both values.
fn difference(a: &serde_json::Value, b: &serde_json::Value, at: &str) -> Option<(String, String, String)> {
    use serde_json::Value;
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let get = |side: &serde_json::Map<String, Value>| side.get(key).cloned().unwrap_or(Value::Null);
                difference(&get(left), &get(right), &at)
            })
        }
        _ => (a != b).then(|| (at.to_owned(), a.to_string(), b.to_string())),
    }
}

#[cfg(test)]
mod tests;
