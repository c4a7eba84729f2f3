//! Training a probe: minibatches in random order, AdamW, warm-up and cosine; the best by validation is kept.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mlp::{Mlp, MlpConfig};
use super::objective::Objective;
use super::{ProbeError, backward};
use crate::model::{Form, Pass, Source, Stream};
use crate::train::{AdamW, AdamWConfig, Decay, Gradients, Groups, Schedule};

/// How a probe is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FitConfig {
    /// Updates at most.
    pub steps: u64,
    /// Recordings per update, or windows of recordings for tasks of frames.
    pub batch: usize,
    /// Largest learning rate.
    pub lr: f64,
    /// Updates until it is reached; a cosine to 1e-7 follows.
    pub warmup: u64,
    /// Decoupled weight decay of AdamW, per unit of learning rate.
    pub weight_decay: f64,
    /// Probability of dropping an input of a layer.
    pub dropout: f64,
    /// Updates between two looks at the `valid` split. Absent: an epoch, at least 20 and at most 500 updates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_every: Option<u64>,
    /// Ends after so many looks without a better result. Absent: never before the last step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
}

/// Examples to train on.
pub trait Examples {
    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an example is another each time it is drawn, so that a minibatch may hold it several times.
    fn vary(&self) -> bool {
        false
    }

    /// Appends the rows of example `index` and their targets: `(n, inputs)` and `(n, outputs)`, for any n. `draw` counts
    /// the examples of the training from 0: what varies depends on it.
    ///
    /// # Errors
    /// When the rows cannot be read.
    fn append(&self, index: usize, draw: u64, rows: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), ProbeError>;
}

/// A look at the validation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Completed updates.
    pub step: u64,
    /// Mean training loss since the last look.
    pub loss: f64,
    /// What the validation says; larger is better.
    pub quality: f64,
}

/// A trained probe.
#[derive(Debug)]
pub struct Fitted {
    /// With the weights that were best.
    pub mlp: Mlp,
    /// Completed updates of the best weights.
    pub step: u64,
    /// What the validation said about them.
    pub quality: f64,
    /// All looks, in order.
    pub looks: Vec<Look>,
}

/// Trains a probe. Every random number depends on `seed` alone: order of examples, initial weights, dropout.
///
/// `quality` looks at the network and says how good it is, larger being better; the first of equals is kept.
///
/// # Errors
/// [`ProbeError::Shape`] without examples, [`ProbeError::Diverged`] when the loss or the quality stops being a number; an
/// error of `quality`; or a failure of the device.
pub fn fit(
    config: &FitConfig,
    network: MlpConfig,
    objective: &Objective,
    examples: &dyn Examples,
    quality: &mut dyn FnMut(&Mlp) -> Result<f64, ProbeError>,
    (seed, device): (u64, &Device),
) -> Result<Fitted, ProbeError> {
    if examples.is_empty() || config.batch == 0 || config.steps == 0 {
        return Err(ProbeError::Shape("a probe needs examples, a batch and steps of at least 1".to_owned()));
    }
    let mlp = Mlp::new(network, Source::Seed(seed), device).map_err(|error| ProbeError::Shape(error.to_string()))?;
    let adamw = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: config.weight_decay };
    let mut adamw = AdamW::new(adamw, mlp.weights(), &Groups::none())?;
    let schedule = Schedule { peak: config.lr, warmup: config.warmup, total: config.steps, decay: Decay::Cosine };
    let epoch = examples.len().div_ceil(config.batch) as u64;
    let every = config.valid_every.unwrap_or(epoch.clamp(20, 500)).max(1);
    let mut order = Order::new(seed, examples.len());
    let (mut looks, mut losses): (Vec<Look>, Vec<f64>) = (Vec::new(), Vec::new());
    let mut best: Option<(Look, HashMap<String, Tensor>)> = None;
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    let batch = if examples.vary() { config.batch } else { config.batch.min(examples.len()) };
    for step in 0..config.steps {
        rows.clear();
        targets.clear();
        for draw in step * batch as u64..(step + 1) * batch as u64 {
            examples.append(order.next(), draw, &mut rows, &mut targets)?;
        }
        let pass = Pass::train(Form::for_device(device), seed, step);
        let (loss, gradients) = gradients(&mlp, objective, &rows, &targets, pass)?;
        if !loss.is_finite() {
            return Err(ProbeError::Diverged { what: "loss", value: loss, step });
        }
        losses.push(loss);
        adamw.step(mlp.weights(), &gradients, schedule.at(step), 1.0)?;
        let done = step + 1;
        if done % every != 0 && done != config.steps {
            continue;
        }
        let loss = losses.iter().sum::<f64>() / losses.len() as f64;
        losses.clear();
        let look = Look { step: done, loss, quality: quality(&mlp)? };
        if look.quality.is_nan() {
            return Err(ProbeError::Diverged { what: "validation", value: look.quality, step });
        }
        looks.push(look);
        if best.as_ref().is_none_or(|(best, _)| look.quality > best.quality) {
            best = Some((look, copies(&mlp)?));
        }
        let since = looks.iter().rev().take_while(|look| best.as_ref().is_some_and(|b| look.step > b.0.step)).count();
        if config.patience.is_some_and(|patience| since as u64 >= patience) {
            break;
        }
    }
    let (look, tensors) = best.ok_or_else(|| ProbeError::Shape("no look at the validation split".to_owned()))?;
    mlp.weights().assign(&tensors).map_err(|error| ProbeError::Shape(error.to_string()))?;
    Ok(Fitted { mlp, step: look.step, quality: look.quality, looks })
}

/// Mean loss of rows, and the gradients of all weights. The loss is evaluated in memory, where targets may be missing.
fn gradients(
    mlp: &Mlp,
    objective: &Objective,
    rows: &[f32],
    targets: &[f32],
    mut pass: Pass,
) -> Result<(f64, Gradients), ProbeError> {
    if mlp.device().is_cpu() {
        return Ok(backward::gradients(mlp, objective, rows, targets, &mut pass)?);
    }
    let MlpConfig { inputs, outputs, .. } = mlp.config();
    let x = Tensor::from_slice(rows, (rows.len() / inputs, inputs), mlp.device())?;
    let logits = mlp.forward(&x, &mut pass)?;
    let mut slopes = vec![0.0; targets.len()];
    let loss = objective.evaluate(&logits.flatten_all()?.to_vec1::<f32>()?, targets, outputs, &mut slopes);
    let slopes = Tensor::from_vec(slopes, logits.shape(), mlp.device())?;
    // Its gradient with regard to the logits is the slopes.
    let mut store = (&logits * slopes)?.sum_all()?.backward()?;
    let gradients = mlp.weights().parameters().iter();
    let gradients = gradients.filter_map(|(name, var)| Some((name.clone(), store.remove(var)?))).collect();
    Ok((loss, gradients))
}

fn copies(mlp: &Mlp) -> Result<HashMap<String, Tensor>, ProbeError> {
    let tensors = mlp.weights().tensors().into_iter();
    Ok(tensors.map(|(name, tensor)| Ok((name, tensor.copy()?))).collect::<candle_core::Result<_>>()?)
}

/// Examples in random order, each once per epoch.
struct Order {
    stream: Stream,
    epoch: u64,
    examples: usize,
    left: Vec<usize>,
}

impl Order {
    fn new(seed: u64, examples: usize) -> Self {
        Self { stream: Stream::new(seed, "probe order"), epoch: 0, examples, left: Vec::new() }
    }

    fn next(&mut self) -> usize {
        if self.left.is_empty() {
            self.left = self.stream.at(self.epoch).permutation(self.examples);
            self.epoch += 1;
        }
        self.left.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points on a circle, inside or outside of which the class changes: no line tells them apart.
    struct Rings(Vec<([f32; 2], f32)>);

    impl Rings {
        fn new(count: u64, seed: u64) -> Self {
            let stream = Stream::new(seed, "rings");
            let point = |i: u64| {
                let (angle, outer) = (stream.uniform(2 * i) * std::f32::consts::TAU, i.is_multiple_of(2));
                let radius = if outer { 2.0 } else { 0.7 } + 0.3 * stream.uniform(2 * i + 1);
                ([radius * angle.cos(), radius * angle.sin()], f32::from(u8::from(outer)))
            };
            Self((0..count).map(point).collect())
        }

        fn accuracy(&self, mlp: &Mlp) -> f64 {
            let rows: Vec<f32> = self.0.iter().flat_map(|point| point.0).collect();
            let logits = mlp.predict(&rows).unwrap();
            let right = self.0.iter().zip(&logits).filter(|(point, logit)| (**logit > 0.0) == (point.1 > 0.5));
            right.count() as f64 / self.0.len() as f64
        }
    }

    impl Examples for Rings {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn append(&self, index: usize, _: u64, rows: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), ProbeError> {
            rows.extend(self.0[index].0);
            targets.push(self.0[index].1);
            Ok(())
        }
    }

    fn config() -> FitConfig {
        let (valid_every, patience) = (Some(50), Some(5));
        FitConfig {
            steps: 600,
            batch: 32,
            lr: 1e-2,
            warmup: 20,
            weight_decay: 0.01,
            dropout: 0.0,
            valid_every,
            patience,
        }
    }

    fn train(seed: u64, layers: usize, config: &FitConfig) -> Fitted {
        let (train, valid) = (Rings::new(400, 1), Rings::new(200, 2));
        let network = MlpConfig { inputs: 2, hidden: 32, layers, outputs: 1, dropout: config.dropout };
        let objective = Objective::Binary { weights: Vec::new() };
        let mut quality = |mlp: &Mlp| Ok(valid.accuracy(mlp));
        fit(config, network, &objective, &train, &mut quality, (seed, &Device::Cpu)).unwrap()
    }

    #[test]
    fn two_layers_learn_what_one_cannot_and_the_best_is_kept() {
        let fitted = train(1, 2, &config());
        assert!(fitted.quality > 0.99, "{:?}", fitted.looks);
        assert_eq!(Rings::new(200, 2).accuracy(&fitted.mlp), fitted.quality);
        assert!(fitted.looks.iter().all(|look| look.quality <= fitted.quality));
        assert!(fitted.looks.len() < 12, "patience ends it: {:?}", fitted.looks);
        assert!(train(1, 1, &config()).quality < 0.8);
    }

    #[test]
    fn a_seed_decides_everything() {
        let short = FitConfig { steps: 60, dropout: 0.2, ..config() };
        let (first, again, other) = (train(3, 2, &short), train(3, 2, &short), train(4, 2, &short));
        let loss = |fitted: &Fitted| fitted.looks.iter().map(|look| look.loss.to_bits()).collect::<Vec<_>>();
        assert_eq!(loss(&first), loss(&again));
        assert_ne!(loss(&first), loss(&other));
    }

    #[test]
    fn a_loss_that_is_no_number_is_named() {
        struct Broken;
        impl Examples for Broken {
            fn len(&self) -> usize {
                1
            }
            fn append(&self, _: usize, _: u64, rows: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), ProbeError> {
                rows.push(1.0);
                targets.push(f32::INFINITY);
                Ok(())
            }
        }
        let network = MlpConfig { inputs: 1, hidden: 2, layers: 2, outputs: 1, dropout: 0.0 };
        let objective = Objective::Binary { weights: Vec::new() };
        let error = fit(&config(), network, &objective, &Broken, &mut |_| Ok(0.0), (1, &Device::Cpu)).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("the loss of the probe is ") && message.contains("at step 0:"), "{message}");
    }
}
