//! The training loop's body.

mod average;
mod config;
mod gradients;
mod metrics;
mod predict;
mod resume;

pub use config::{Decayed, OptimizerConfig, ParameterGroup, TrainerConfig};
pub use metrics::{CropKey, Minibatch, StepMetrics, ValidMetrics};
pub use predict::Predictions;

use self::average::Average;
use self::gradients::GradientSum;
use self::metrics::accuracies;
use super::adamw::{AdamW, first_not_finite, global_norm};
use super::collective::{Collective, Sharers, Solo};
use super::error::TrainError;
use super::loss::{HeadLoss, head_loss};
use crate::model::{BatchStatistics, Form, Keep, MaskedModel, Pass, Precision, Source, Stream};
use candle_core::{DType, Device, Tensor};
use std::ops::Range;
use std::sync::Arc;

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
    collective: Arc<dyn Collective>,
}

/// What is masked in a minibatch.
struct Masks {
    /// Random numbers of every example.
    streams: Vec<Stream>,
    /// Masked positions of every example.
    counts: Vec<usize>,
}

/// What one part of a minibatch leaves beside its gradients.
struct PartOutcome {
    /// Of the masked positions, where there are any in this rank's share.
    loss: Option<HeadLoss>,
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
        let collective = Arc::new(Solo);
        Ok(Self { config, model, optimizer, average, device: device.clone(), form, seed, step: 0, collective })
    }

    /// The trainer as one of several that train one model. Each is given every minibatch and works on its share of the
    /// examples: rank r of P on the r-th P-th of each part ([`TrainerConfig::accumulate`]). Up to rounding all then
    /// have the weights that one alone would have, and among each other the same bits.
    #[must_use]
    pub fn among(self, collective: Arc<dyn Collective>) -> Self {
        Self { collective, ..self }
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
    /// When the minibatch does not fit the model, nothing could be masked, loss or gradients are not finite, or another
    /// rank is lost; the weights are then unchanged.
    pub fn step(&mut self, minibatch: &Minibatch) -> Result<StepMetrics, TrainError> {
        // From a thread of the pool: hundreds of short parallel passes would each wait for one to wake up.
        rayon::scope(|_| self.step_in_pool(minibatch))
    }

    fn step_in_pool(&mut self, minibatch: &Minibatch) -> Result<StepMetrics, TrainError> {
        let number = self.step + 1;
        let (batch, _, streams) = self.check_shared(minibatch)?;
        let masks = self.masks(minibatch, Stream::new(self.seed, "mask").at(self.step), number)?;
        let mut gradients = GradientSum::new(self.model.weights(), &*self.collective);
        let (mut loss, mut correct, mut statistics) = (0.0, vec![0; streams], Vec::new());
        let parts: Vec<Range<usize>> = parts(batch, self.config.accumulate).collect();
        for (i, examples) in parts.iter().enumerate() {
            if i + 1 == parts.len() {
                gradients.last_part();
            }
            let Some(part) = self.part(minibatch, &masks, examples, &mut gradients)? else { continue };
            if let Some(found) = part.loss {
                loss += found.loss;
                correct.iter_mut().zip(&found.correct).for_each(|(sum, correct)| *sum += correct);
            }
            statistics.push(part.statistics);
        }
        self.add_up(&mut loss, &mut correct)?;
        let gradients = gradients.into_sums()?;
        if !loss.is_finite() {
            return Err(TrainError::NotFinite { step: number, what: "the loss".into() });
        }
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
        let masked = masks.counts.iter().sum();
        let (accuracy, stream_accuracy) = accuracies(&correct, masked);
        Ok(StepMetrics { step: number, loss, accuracy, stream_accuracy, lr, grad_norm, masked })
    }

    /// Forward and backward pass over this rank's share of some examples; nothing if none of their positions is masked.
    fn part(
        &self,
        minibatch: &Minibatch,
        masks: &Masks,
        examples: &Range<usize>,
        gradients: &mut GradientSum<'_>,
    ) -> Result<Option<PartOutcome>, TrainError> {
        if masks.counts[examples.clone()].iter().all(|masked| *masked == 0) {
            return Ok(None);
        }
        let own = share(examples, &*self.collective);
        let patches = minibatch.patches.narrow(0, own.start, own.len())?;
        let (patches, rows) = self.config.masking.apply_to_minibatch(&patches, &masks.streams[own.clone()])?;
        let mut pass = Pass::train(self.form, self.seed, self.step).from_example(own.start);
        if self.collective.size() > 1 {
            pass = pass.among(Arc::new(Sharers(self.collective.clone())));
        }
        let keep = if self.config.recompute { Keep::Inputs } else { Keep::Everything };
        let encoder = self.model.encoder();
        let (hidden, tape) = encoder.record(&patches.to_device(&self.device)?, &mut pass, keep)?;
        let tokens = minibatch.tokens.narrow(0, own.start, own.len())?;
        let (batch, positions, dim) = hidden.dims3()?;
        let mut grad = Tensor::zeros((batch * positions, dim), DType::F32, &self.device)?;
        let (weight, bias) = self.model.head();
        let mut found = None;
        if rows.is_empty() {
            // Nothing is masked here, but elsewhere something is: the others count on this rank's part in every sum.
            gradients.add(weight, weight.zeros_like()?)?;
            gradients.add(bias, bias.zeros_like()?)?;
        } else {
            let loss = self.loss(&hidden, &tokens, &rows, Some(masks.counts.iter().sum()))?;
            if let Some(head) = &loss.gradients {
                gradients.add(weight, head.weight.clone())?;
                gradients.add(bias, head.bias.clone())?;
                // Positions that were not masked have no part in the loss.
                let index = Tensor::from_slice(&rows, rows.len(), &self.device)?;
                grad = grad.index_add(&index, &head.hidden, 0)?;
            }
            found = Some(loss);
        }
        drop(hidden);
        let grad = grad.reshape((batch, positions, dim))?;
        encoder.backward(tape, grad, &mut |var, grad| gradients.add(var, grad))?;
        Ok(Some(PartOutcome { loss: found, statistics: pass.into_statistics() }))
    }

    /// Makes loss and counts of this rank's share those of all.
    fn add_up(&self, loss: &mut f64, correct: &mut [u64]) -> Result<(), TrainError> {
        if self.collective.size() > 1 {
            let mut sums: Vec<f64> = correct.iter().map(|correct| *correct as f64).chain([*loss]).collect();
            self.collective.sum(&mut sums)?;
            *loss = sums[correct.len()];
            correct.iter_mut().zip(&sums).for_each(|(correct, sum)| *correct = *sum as u64);
        }
        Ok(())
    }

    /// Predicts one minibatch without learning from it, by the averaged weights where there are any. Its masks depend on
    /// the seed and the crops only, so that evaluations of different steps compare.
    ///
    /// # Errors
    /// When the minibatch does not fit the model, or nothing could be masked.
    pub fn evaluate(&self, minibatch: &Minibatch) -> Result<ValidMetrics, TrainError> {
        self.check(minibatch)?;
        let (patches, rows) = self.masked_for_evaluation(minibatch)?;
        let run = || -> Result<HeadLoss, TrainError> {
            let hidden = self.model.encoder().forward(&patches, &mut Pass::evaluate(self.form))?.detach();
            self.loss(&hidden, &minibatch.tokens, &rows, None)
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

    /// [`Trainer::check`], and that every rank has something to do.
    fn check_shared(&self, minibatch: &Minibatch) -> Result<(usize, usize, usize), TrainError> {
        let (batch, positions, streams) = self.check(minibatch)?;
        let ranks = self.collective.size();
        if batch / self.config.accumulate.clamp(1, batch) < ranks {
            return Err(TrainError::Minibatch {
                what: "patches",
                found: minibatch.patches.dims().to_vec(),
                expected: format!("at least one example in every part for each of {ranks} processes"),
            });
        }
        Ok((batch, positions, streams))
    }

    /// Draws the masks of all examples, so that every rank knows how many positions are masked in all.
    fn masks(&self, minibatch: &Minibatch, masks: Stream, step: u64) -> Result<Masks, TrainError> {
        let positions = minibatch.patches.dim(1)?;
        for attempt in 0..MASK_ATTEMPTS {
            let masks = masks.at(attempt);
            let streams: Vec<Stream> = minibatch.keys.iter().map(|key| masks.at(key.track).at(key.crop)).collect();
            let masked = |stream: &Stream| self.config.masking.mask(*stream, positions).iter().filter(|m| **m).count();
            let counts: Vec<usize> = streams.iter().map(masked).collect();
            if counts.iter().any(|count| *count > 0) {
                return Ok(Masks { streams, counts });
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

/// The examples of a part that this rank works on.
fn share(examples: &Range<usize>, collective: &dyn Collective) -> Range<usize> {
    let at = |rank: usize| examples.start + rank * examples.len() / collective.size();
    at(collective.rank())..at(collective.rank() + 1)
}

#[cfg(test)]
mod tests;
