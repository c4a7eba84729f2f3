//! Gradients as the backward pass brings them: added up over the parts of a minibatch, and over the processes that share
//! it.
//!
//! Over processes they are added in buckets, in the order in which the backward pass completes them: the head, the last
//! block, ..., the first block, the embedding. A bucket is on its way while the pass goes on.

use super::super::adamw::Gradients;
use super::super::collective::{Collective, Pending};
use super::super::error::TrainError;
use crate::model::Weights;
use candle_core::{Result, Shape, Tensor, TensorId, Var};
use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, HashMap};

/// Values in a bucket before it is sent, 4 MiB of them: long enough for a network, short against a pass.
const BUCKET: usize = 1 << 20;

/// Sums of gradients by the names of their parameters.
pub(super) struct GradientSum<'a> {
    names: HashMap<TensorId, String>,
    sums: Gradients,
    collective: &'a dyn Collective,
    /// Whether the gradients that come now are the last of their parameters.
    complete: bool,
    /// Names whose sums are complete but not on their way, and how many values they have.
    waiting: (Vec<String>, usize),
    sent: Vec<Bucket>,
}

/// Gradients on their way, one after the other.
struct Bucket {
    parameters: Vec<(String, Shape)>,
    sum: Box<dyn Pending>,
}

impl<'a> GradientSum<'a> {
    pub(super) fn new(weights: &Weights, collective: &'a dyn Collective) -> Self {
        let names = weights.parameters().iter().map(|(name, var)| (var.id(), name.clone())).collect();
        let (sums, waiting, sent) = (Gradients::new(), (Vec::new(), 0), Vec::new());
        Self { names, sums, collective, complete: false, waiting, sent }
    }

    /// The gradients that follow are those of the last part.
    pub(super) fn last_part(&mut self) {
        self.complete = true;
    }

    /// Adds one part's gradient of a parameter.
    pub(super) fn add(&mut self, var: &Var, grad: Tensor) -> Result<()> {
        let Some(name) = self.names.get(&var.id()).cloned() else {
            candle_core::bail!("a gradient of shape {:?} belongs to none of the model's parameters", grad.dims())
        };
        let values = grad.elem_count();
        match self.sums.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(grad);
            }
            Entry::Occupied(mut entry) => {
                let sum = (entry.get() + grad)?;
                entry.insert(sum);
            }
        }
        if self.complete && self.collective.size() > 1 {
            self.waiting.0.push(name);
            self.waiting.1 += values;
            if self.waiting.1 >= BUCKET {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Sends what is waiting.
    fn send(&mut self) -> Result<()> {
        let (names, _) = std::mem::take(&mut self.waiting);
        let gradients: Vec<(String, Tensor)> = names.iter().filter_map(|name| self.sums.remove_entry(name)).collect();
        if gradients.is_empty() {
            return Ok(());
        }
        let flat = gradients.iter().map(|(_, gradient)| gradient.flatten_all()).collect::<Result<Vec<_>>>()?;
        let sum = self.collective.start_sum(Tensor::cat(&flat, 0)?).map_err(candle_core::Error::wrap)?;
        let parameters = gradients.into_iter().map(|(name, gradient)| (name, gradient.shape().clone())).collect();
        self.sent.push(Bucket { parameters, sum });
        Ok(())
    }

    /// The sums over all parts and processes, once they are there.
    pub(super) fn into_sums(mut self) -> std::result::Result<Gradients, TrainError> {
        if self.collective.size() > 1 {
            // What an earlier part brought and the last one did not.
            let waiting: BTreeSet<String> = self.waiting.0.iter().cloned().collect();
            let rest = self.sums.keys().filter(|name| !waiting.contains(*name)).cloned().collect::<Vec<_>>();
            self.waiting.0.extend(rest);
            self.send()?;
        }
        for Bucket { parameters, sum } in self.sent {
            let (sum, mut at) = (sum.wait()?, 0);
            for (name, shape) in parameters {
                let values = shape.elem_count();
                self.sums.insert(name, sum.narrow(0, at, values)?.reshape(shape)?);
                at += values;
            }
        }
        Ok(self.sums)
    }
}
