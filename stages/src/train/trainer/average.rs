//! An exponential moving average of the weights.

use crate::model::Weights;
use crate::model::kernel::maths::fma;
use crate::model::kernel::storage::{slice, slice_mut};
use candle_core::{CpuStorage, DType, InplaceOp2, Layout, Result, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Averages by parameter name; running statistics of batch norms are averages already and not among them.
#[derive(Debug)]
pub(super) struct Average {
    decay: f64,
    tensors: BTreeMap<String, Tensor>,
}

impl Average {
    /// Starts at the weights as they are.
    pub(super) fn new(decay: f64, weights: &Weights) -> Result<Self> {
        let copies =
            weights.parameters().iter().map(|(name, var)| Ok((name.clone(), var.as_tensor().copy()?.detach())));
        Ok(Self { decay, tensors: copies.collect::<Result<_>>()? })
    }

    /// `average = decay average + (1 - decay) weight`.
    pub(super) fn update(&mut self, weights: &Weights) -> Result<()> {
        for (name, var) in weights.parameters() {
            let Some(average) = self.tensors.get_mut(name) else { continue };
            if var.device().is_cpu() {
                average.inplace_op2(var.as_tensor(), &Towards { rate: (1.0 - self.decay) as f32 })?;
            } else {
                *average = ((&*average * self.decay)? + (var.as_detached_tensor() * (1.0 - self.decay))?)?;
            }
        }
        Ok(())
    }

    /// Runs `f` while the weights are the averages, and puts the weights back whatever it gives.
    pub(super) fn instead<T, E: From<candle_core::Error>>(
        &self,
        weights: &Weights,
        f: impl FnOnce() -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        let originals = weights.parameters().values().map(|var| var.as_tensor().copy()).collect::<Result<Vec<_>>>()?;
        let set = || weights.parameters().iter().try_for_each(|(name, var)| var.set(&self.tensors[name]));
        let result = set().map_err(E::from).and_then(|()| f());
        for (var, original) in weights.parameters().values().zip(&originals) {
            var.set(original)?;
        }
        result
    }

    /// The averages by parameter name.
    pub(super) fn tensors(&self) -> HashMap<String, Tensor> {
        self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect()
    }

    /// Takes up saved averages.
    pub(super) fn restore(&mut self, tensors: &HashMap<String, Tensor>) -> Result<()> {
        for (name, average) in &mut self.tensors {
            let found = tensors.get(name).map(|t| t.dims().to_vec());
            let Some(tensor) = tensors.get(name).filter(|t| t.dims() == average.dims()) else {
                candle_core::bail!("averaged tensor `{name}`: expected shape {:?}, found {found:?}", average.dims())
            };
            // A copy: updates happen in place.
            *average = tensor.to_device(average.device())?.to_dtype(DType::F32)?.copy()?;
        }
        Ok(())
    }
}

/// `a += rate (b - a)`.
struct Towards {
    rate: f32,
}

impl InplaceOp2 for Towards {
    fn name(&self) -> &'static str {
        "moving_average"
    }

    fn cpu_fwd(&self, s1: &mut CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<()> {
        for (average, value) in slice_mut(s1, l1)?.iter_mut().zip(slice(s2, l2)?) {
            *average = fma(self.rate, value - *average, *average);
        }
        Ok(())
    }
}
