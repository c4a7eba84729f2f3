//! Named weights, in the published layout, and where they come from: a seed or other tensors.

use super::error::ModelError;
use super::random::Stream;
use candle_core::{DType, Device, Tensor, Var};
use std::collections::{BTreeMap, HashMap};

/// Every tensor of a model by its published name: parameters, which the optimiser changes, and buffers.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    parameters: BTreeMap<String, Var>,
    buffers: BTreeMap<String, Var>,
}

impl Weights {
    /// The trained tensors, in the order of their names.
    pub fn parameters(&self) -> &BTreeMap<String, Var> {
        &self.parameters
    }

    /// The tensors that training does not differentiate: running statistics, rotary frequencies, unused norms.
    pub fn buffers(&self) -> &BTreeMap<String, Var> {
        &self.buffers
    }

    /// All tensors by name, for a safetensors file.
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        let all = self.parameters.iter().chain(&self.buffers);
        all.map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Number of trained values.
    pub fn count(&self) -> usize {
        self.parameters.values().map(|var| var.elem_count()).sum()
    }

    /// Overwrites every tensor by the one of the same name.
    ///
    /// # Errors
    /// [`ModelError::Missing`] or [`ModelError::Shape`] for the first tensor that is absent or has another shape; nothing
    /// is changed then. Tensors of other names are ignored.
    pub fn assign(&self, tensors: &HashMap<String, Tensor>) -> Result<(), ModelError> {
        let all = || self.parameters.iter().chain(&self.buffers);
        for (name, var) in all() {
            expect(tensors, name, var.dims())?;
        }
        for (name, var) in all() {
            let tensor = expect(tensors, name, var.dims())?;
            var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }
}

/// The tensor of a name, once its shape is as expected.
fn expect<'a>(tensors: &'a HashMap<String, Tensor>, name: &str, shape: &[usize]) -> Result<&'a Tensor, ModelError> {
    match tensors.get(name) {
        None => Err(ModelError::Missing { name: name.to_owned(), expected: shape.to_vec() }),
        Some(tensor) if tensor.dims() != shape => {
            Err(ModelError::Shape { name: name.to_owned(), expected: shape.to_vec(), found: tensor.dims().to_vec() })
        }
        Some(tensor) => Ok(tensor),
    }
}

/// Where the values of new weights come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Fresh weights: a stream per tensor name, so that a tensor's values depend on the seed and its name only.
    Seed(u64),
    /// Given tensors, by published name.
    Tensors(&'a HashMap<String, Tensor>),
}

/// Creates the weights of one module after another under dotted names.
pub(crate) struct Builder<'a> {
    weights: &'a mut Weights,
    source: Source<'a>,
    device: &'a Device,
    prefix: String,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(weights: &'a mut Weights, source: Source<'a>, device: &'a Device, prefix: &str) -> Self {
        Self { weights, source, device, prefix: prefix.to_owned() }
    }

    /// The builder for a part of this module.
    pub(crate) fn part(&mut self, name: &str) -> Builder<'_> {
        let prefix = format!("{}{name}.", self.prefix);
        Builder { weights: self.weights, source: self.source, device: self.device, prefix }
    }

    /// The trained tensors that have been made under this builder's name.
    pub(crate) fn parameters(&self) -> Vec<Var> {
        let named = self.weights.parameters.range(self.prefix.clone()..);
        named.take_while(|(name, _)| name.starts_with(&self.prefix)).map(|(_, var)| var.clone()).collect()
    }

    /// A trained tensor; `initial` gives its values from its own stream.
    pub(crate) fn parameter(
        &mut self,
        name: &str,
        shape: &[usize],
        initial: impl FnOnce(Stream) -> Vec<f32>,
    ) -> Result<Var, ModelError> {
        let (name, var) = self.create(name, shape, initial)?;
        self.weights.parameters.insert(name, var.clone());
        Ok(var)
    }

    /// A tensor that training does not differentiate; from given tensors it may be absent, and then has its initial values.
    pub(crate) fn buffer(&mut self, name: &str, shape: &[usize], initial: Vec<f32>) -> Result<Var, ModelError> {
        let full = format!("{}{name}", self.prefix);
        let absent = matches!(self.source, Source::Tensors(tensors) if !tensors.contains_key(&full));
        let (name, var) = if absent {
            (full, Var::from_tensor(&Tensor::from_vec(initial, shape, self.device)?)?)
        } else {
            self.create(name, shape, |_| initial)?
        };
        self.weights.buffers.insert(name, var.clone());
        Ok(var)
    }

    /// An integer scalar that counts, as PyTorch's batch normalisation keeps one.
    pub(crate) fn counter(&mut self, name: &str) -> Result<Var, ModelError> {
        let name = format!("{}{name}", self.prefix);
        let tensor = match self.source {
            Source::Tensors(tensors) if tensors.contains_key(&name) => {
                expect(tensors, &name, &[])?.to_device(self.device)?.to_dtype(DType::I64)?
            }
            _ => Tensor::zeros((), DType::I64, self.device)?,
        };
        let var = Var::from_tensor(&tensor)?;
        self.weights.buffers.insert(name, var.clone());
        Ok(var)
    }

    fn create(
        &self,
        name: &str,
        shape: &[usize],
        initial: impl FnOnce(Stream) -> Vec<f32>,
    ) -> Result<(String, Var), ModelError> {
        let name = format!("{}{name}", self.prefix);
        let tensor = match self.source {
            Source::Seed(seed) => {
                Tensor::from_vec(initial(Stream::new(seed, "weights").named(&name)), shape, self.device)?
            }
            Source::Tensors(tensors) => {
                let tensor = expect(tensors, &name, shape)?;
                tensor.to_device(self.device)?.to_dtype(DType::F32)?.contiguous()?
            }
        };
        Ok((name, Var::from_tensor(&tensor)?))
    }
}

/// Uniform in `(-bound, bound)` with `bound = scale / sqrt(fan_in)`: what PyTorch's default, Kaiming-uniform with
/// a = sqrt 5, comes to for weights and biases alike.
pub(crate) fn kaiming(len: usize, fan_in: usize) -> impl Fn(Stream) -> Vec<f32> {
    move |stream| {
        let bound = 1.0 / (fan_in as f32).sqrt();
        (0..len as u64).map(|i| bound * (2.0 * stream.uniform(i) - 1.0)).collect()
    }
}
