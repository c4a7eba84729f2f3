//! The training loop's body.

mod average;
mod config;
mod gradients;
mod metrics;
mod resume;

pub use config::{Decayed, OptimizerConfig, ParameterGroup, TrainerConfig};
pub use metrics::{CropKey, Minibatch, StepMetrics, ValidMetrics};

use self::average::Average;
use self::gradients::GradientSum;
use self::metrics::accuracies;
use super::adamw::{AdamW, first_not_finite, global_norm};
use super::error::TrainError;
use super::loss::{HeadLoss, head_loss};
use crate::model::{BatchStatistics, Form, Keep, MaskedModel, Pass, Precision, Source, Stream};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;

/// How often masks are drawn anew when they leave every position of a minibatch unmasked.
const MASK_ATTEMPTS: u64 = 64;

/// A model in training.
#[derive(Debug)]
pub struct Trainer {
    config: TrainerConfig,
    model: MaskedModel,
    optimizer: AdamW,
    average: Option<Average>,
    device: Device,
    form: Form,
    seed: u64,
    step: u64,
}

/// A minibatch as the model sees it.
struct Masked {
    /// Patches with masked rows replaced, `(batch, positions, patch_dim)`.
    patches: Tensor,
    /// Flat indices `example * positions + position` of the masked rows, ascending.
    rows: Vec<u32>,
}

/// What one part of a minibatch leaves beside its gradients.
struct PartOutcome {
    loss: HeadLoss,
    statistics: Vec<BatchStatistics>,
}

impl Trainer {
    /// A trainer with fresh weights.
    ///
    /// # Errors
    /// When the configuration is impossible, or the device fails.
    pub fn new(config: TrainerConfig, device: &Device, seed: u64) -> Result<Self, TrainError> {
        config.validate()?;
        let model = MaskedModel::new(&config.model, Source::Seed(seed), device)?;
        let optimizer = AdamW::new(config.optimizer.adamw(), model.weights(), &config.optimizer.groups()?)?;
        let average = config.optimizer.average.map(|decay| Average::new(decay, model.weights())).transpose()?;
        let form = Form::for_device(device);
        Ok(Self { config, model, optimizer, average, device: device.clone(), form, seed, step: 0 })
    }

    /// This trainer with matrix products of a precision, instead of what the device does best in f32.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { form: Form::for_precision(&self.device, precision), ..self }
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
        // From a thread of the pool: hundreds of short parallel passes would each wait for one to wake up.
        rayon::scope(|_| self.step_in_pool(minibatch))
    }

    fn step_in_pool(&mut self, minibatch: &Minibatch) -> Result<StepMetrics, TrainError> {
        let number = self.step + 1;
        let (batch, _, streams) = self.check(minibatch)?;
        let masked = self.mask(minibatch, Stream::new(self.seed, "mask").at(self.step), number)?;
        let mut gradients = GradientSum::new(self.model.weights());
        let (mut loss, mut correct, mut statistics) = (0.0, vec![0; streams], Vec::new());
        for examples in parts(batch, self.config.accumulate) {
            let Some(part) = self.part(minibatch, &masked, examples, &mut gradients)? else { continue };
            loss += part.loss.loss;
            correct.iter_mut().zip(&part.loss.correct).for_each(|(sum, correct)| *sum += correct);
            statistics.push(part.statistics);
        }
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { step: number, what: "the loss".into() });
        }
        let gradients = gradients.into_sums();
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
        statistics.iter().try_for_each(|statistics| self.model.update_running(statistics))?;
        if let Some(average) = &mut self.average {
            average.update(self.model.weights())?;
        }
        self.step = number;
        let masked = masked.rows.len();
        let (accuracy, stream_accuracy) = accuracies(&correct, masked);
        Ok(StepMetrics { step: number, loss, accuracy, stream_accuracy, lr, grad_norm, masked })
    }

    /// Forward and backward pass over some examples; nothing if none of their positions is masked.
    fn part(
        &self,
        minibatch: &Minibatch,
        masked: &Masked,
        examples: Range<usize>,
        gradients: &mut GradientSum,
    ) -> Result<Option<PartOutcome>, TrainError> {
        let positions = masked.patches.dim(1)?;
        let rows = rows_of(masked, &examples, positions);
        if rows.is_empty() {
            return Ok(None);
        }
        let patches = masked.patches.narrow(0, examples.start, examples.len())?;
        let mut pass = Pass::train(self.form, self.seed, self.step).from_example(examples.start);
        let keep = if self.config.recompute { Keep::Inputs } else { Keep::Everything };
        let encoder = self.model.encoder();
        let (hidden, tape) = encoder.record(&patches, &mut pass, keep)?;
        let tokens = minibatch.tokens.narrow(0, examples.start, examples.len())?;
        let loss = self.loss(&hidden, &tokens, &rows, Some(masked.rows.len()))?;
        let Some(head) = &loss.gradients else { return Ok(None) };
        let (weight, bias) = self.model.head();
        gradients.add(weight, head.weight.clone())?;
        gradients.add(bias, head.bias.clone())?;
        // Positions that were not masked have no part in the loss.
        let index = Tensor::from_slice(&rows, rows.len(), &self.device)?;
        let (batch, _, dim) = hidden.dims3()?;
        let grad = Tensor::zeros((batch * positions, dim), DType::F32, &self.device)?;
        let grad = grad.index_add(&index, &head.hidden, 0)?.reshape((batch, positions, dim))?;
        drop(hidden);
        encoder.backward(tape, grad, &mut |var, grad| gradients.add(var, grad))?;
        Ok(Some(PartOutcome { loss, statistics: pass.into_statistics() }))
    }

    /// Predicts one minibatch without learning from it, by the averaged weights where there are any. Its masks depend on
    /// the seed and the crops only, so that evaluations of different steps compare.
    ///
    /// # Errors
    /// When the minibatch does not fit the model, or nothing could be masked.
    pub fn evaluate(&self, minibatch: &Minibatch) -> Result<ValidMetrics, TrainError> {
        self.check(minibatch)?;
        let masked = self.mask(minibatch, Stream::new(self.seed, "valid mask"), self.step)?;
        let run = || -> Result<HeadLoss, TrainError> {
            let hidden = self.model.encoder().forward(&masked.patches, &mut Pass::evaluate(self.form))?.detach();
            self.loss(&hidden, &minibatch.tokens, &masked.rows, None)
        };
        let loss = match &self.average {
            Some(average) => average.instead(self.model.weights(), run)?,
            None => run()?,
        };
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

    fn mask(&self, minibatch: &Minibatch, masks: Stream, step: u64) -> Result<Masked, TrainError> {
        for attempt in 0..MASK_ATTEMPTS {
            let masks = masks.at(attempt);
            let streams: Vec<Stream> = minibatch.keys.iter().map(|key| masks.at(key.track).at(key.crop)).collect();
            let (patches, rows) = self.config.masking.apply_to_minibatch(&minibatch.patches, &streams)?;
            if !rows.is_empty() {
                return Ok(Masked { patches: patches.to_device(&self.device)?, rows });
            }
        }
        let positions = minibatch.tokens.elem_count() / self.config.model.streams;
        Err(TrainError::NothingMasked { step, positions })
    }

    /// The loss of `rows` of the hidden states; with gradients where it is part of a mean over `of` rows.
    fn loss(&self, hidden: &Tensor, tokens: &Tensor, rows: &[u32], of: Option<usize>) -> Result<HeadLoss, TrainError> {
        let (batch, positions, dim) = hidden.dims3()?;
        let index = Tensor::from_slice(rows, rows.len(), &self.device)?;
        let hidden = hidden.reshape((batch * positions, dim))?.index_select(&index, 0)?;
        let targets = tokens.to_dtype(DType::U32)?.to_device(&self.device)?;
        let targets = targets.reshape((batch * positions, self.config.model.streams))?.index_select(&index, 0)?;
        let (weight, bias) = self.model.head();
        Ok(head_loss(&hidden, (weight, bias), &targets, of, self.form)?)
    }
}

/// The examples of each of `count` parts of a minibatch, the first ones being longer where it does not divide.
fn parts(batch: usize, count: usize) -> impl Iterator<Item = Range<usize>> {
    let count = count.clamp(1, batch.max(1));
    (0..count).map(move |i| i * batch / count..(i + 1) * batch / count)
}

/// The masked rows of some examples, counted from the first of them.
fn rows_of(masked: &Masked, examples: &Range<usize>, positions: usize) -> Vec<u32> {
    let (start, end) = ((examples.start * positions) as u32, (examples.end * positions) as u32);
    masked.rows.iter().filter(|row| (start..end).contains(row)).map(|row| row - start).collect()
}

#[cfg(test)]
mod tests;
