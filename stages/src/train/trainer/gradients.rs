//! Gradients as the backward pass brings them, added up over the parts of a minibatch.

use super::super::adamw::Gradients;
use crate::model::Weights;
use candle_core::{Result, Tensor, TensorId, Var};
use std::collections::HashMap;
use std::collections::btree_map::Entry;

/// Sums of gradients by the names of their parameters.
pub(super) struct GradientSum {
    names: HashMap<TensorId, String>,
    sums: Gradients,
}

impl GradientSum {
    pub(super) fn new(weights: &Weights) -> Self {
        let names = weights.parameters().iter().map(|(name, var)| (var.id(), name.clone())).collect();
        Self { names, sums: Gradients::new() }
    }

    /// Adds one part's gradient of a parameter.
    pub(super) fn add(&mut self, var: &Var, grad: Tensor) -> Result<()> {
        let Some(name) = self.names.get(&var.id()) else {
            candle_core::bail!("a gradient of shape {:?} belongs to none of the model's parameters", grad.dims())
        };
        match self.sums.entry(name.clone()) {
            Entry::Vacant(entry) => {
                entry.insert(grad);
            }
            Entry::Occupied(mut entry) => {
                let sum = (entry.get() + grad)?;
                entry.insert(sum);
            }
        }
        Ok(())
    }

    pub(super) fn into_sums(self) -> Gradients {
        self.sums
    }
}
