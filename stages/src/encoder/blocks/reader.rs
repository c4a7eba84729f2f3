//! Tensors by name: every one is asked for with its shape, and what nobody asked for is known in the end.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use candle_core::{DType, Device, Tensor};

use crate::model::weights::kaiming;
use crate::model::{ModelError, Source, Stream};

use super::linear::Affine;
use super::transformer::Norm;

/// Hands out tensors on a device, f32, or random ones of the shapes that are asked for.
pub(in super::super) struct Reader<'a> {
    source: Source<'a>,
    device: &'a Device,
    taken: RefCell<BTreeSet<String>>,
}

impl<'a> Reader<'a> {
    pub(in super::super) fn new(source: Source<'a>, device: &'a Device) -> Self {
        Self { source, device, taken: RefCell::default() }
    }

    /// The whole model.
    pub(in super::super) fn root(&self) -> Part<'_> {
        Part { reader: self, device: self.device, prefix: String::new() }
    }

    /// The names that were asked for.
    pub(in super::super) fn taken(self) -> BTreeSet<String> {
        self.taken.into_inner()
    }

    fn get(
        &self,
        (name, device): (&str, &Device),
        shape: &[usize],
        fresh: impl FnOnce() -> Vec<f32>,
    ) -> Result<Tensor, ModelError> {
        self.taken.borrow_mut().insert(name.to_owned());
        let tensor = match self.source {
            Source::Seed(_) => Tensor::from_vec(fresh(), shape, device)?,
            Source::Tensors(tensors) => {
                let tensor = tensors
                    .get(name)
                    .ok_or_else(|| ModelError::Missing { name: name.to_owned(), expected: shape.to_vec() })?;
                if tensor.dims() != shape {
                    let (expected, found) = (shape.to_vec(), tensor.dims().to_vec());
                    return Err(ModelError::Shape { name: name.to_owned(), expected, found });
                }
                tensor.to_device(device)?.to_dtype(DType::F32)?.contiguous()?
            }
        };
        Ok(tensor)
    }
}

/// The tensors of a part of a model.
pub(in super::super) struct Part<'r> {
    reader: &'r Reader<'r>,
    device: &'r Device,
    prefix: String,
}

impl<'r> Part<'r> {
    /// The part of a name, dots in it being parts of parts.
    pub(in super::super) fn part(&self, name: impl std::fmt::Display) -> Self {
        Self { prefix: format!("{}{name}.", self.prefix), ..*self }
    }

    /// The same part, its tensors on the CPU.
    pub(in super::super) fn on_host(&self) -> Self {
        Self { device: &Device::Cpu, prefix: self.prefix.clone(), ..*self }
    }

    pub(in super::super) fn device(&self) -> &'r Device {
        self.device
    }

    /// A weight; fresh ones are those of PyTorch's layers by the number of inputs, all dimensions but the first.
    pub(in super::super) fn weight(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let inputs = shape.iter().skip(1).product::<usize>().max(1);
        self.random(name, shape, inputs)
    }

    /// A bias of a layer with so many inputs.
    fn bias(&self, outputs: usize, inputs: usize) -> Result<Tensor, ModelError> {
        self.random("bias", &[outputs], inputs)
    }

    fn random(&self, name: &str, shape: &[usize], inputs: usize) -> Result<Tensor, ModelError> {
        let full = format!("{}{name}", self.prefix);
        let len = shape.iter().product();
        let seed = if let Source::Seed(seed) = self.reader.source { seed } else { 0 };
        self.reader.get((&full, self.device), shape, || kaiming(len, inputs)(Stream::new(seed, "weights").named(&full)))
    }

    /// A tensor that has one value everywhere when it is fresh.
    pub(in super::super) fn constant(&self, name: &str, shape: &[usize], value: f32) -> Result<Tensor, ModelError> {
        self.given(name, shape, || vec![value; shape.iter().product()])
    }

    /// A tensor whose fresh values are known.
    pub(in super::super) fn given(
        &self,
        name: &str,
        shape: &[usize],
        fresh: impl FnOnce() -> Vec<f32>,
    ) -> Result<Tensor, ModelError> {
        self.reader.get((&format!("{}{name}", self.prefix), self.device), shape, fresh)
    }

    /// An affine map, `weight` and perhaps `bias`.
    pub(in super::super) fn linear(&self, inputs: usize, outputs: usize, bias: bool) -> Result<Affine, ModelError> {
        let weight = self.weight("weight", &[outputs, inputs])?;
        Ok(Affine { weight, bias: if bias { Some(self.bias(outputs, inputs)?) } else { None } })
    }

    /// As [`Part::linear`], stored as a convolution: the weight's further dimensions make up the inputs.
    pub(in super::super) fn convolution(&self, shape: &[usize], bias: bool) -> Result<Affine, ModelError> {
        let inputs = shape.iter().skip(1).product::<usize>();
        let weight = self.weight("weight", shape)?;
        Ok(Affine { weight, bias: if bias { Some(self.bias(shape[0], inputs)?) } else { None } })
    }

    /// A layer normalisation.
    pub(in super::super) fn norm(&self, dim: usize, eps: f64) -> Result<Norm, ModelError> {
        let (weight, bias) = (self.constant("weight", &[dim], 1.0)?, self.constant("bias", &[dim], 0.0)?);
        Ok(Norm { weight, bias, eps })
    }

    /// The running statistics and the affine map of a batch normalisation, as a factor and a summand per channel.
    pub(in super::super) fn batch_norm(&self, channels: usize, eps: f64) -> Result<(Vec<f32>, Vec<f32>), ModelError> {
        let values = |name, fresh| self.constant(name, &[channels], fresh)?.to_vec1::<f32>().map_err(ModelError::from);
        let (weight, bias) = (values("weight", 1.0)?, values("bias", 0.0)?);
        let (mean, variance) = (values("running_mean", 0.0)?, values("running_var", 1.0)?);
        let factors: Vec<f32> = weight
            .iter()
            .zip(&variance)
            .map(|(weight, variance)| (f64::from(*weight) / (f64::from(*variance) + eps).sqrt()) as f32)
            .collect();
        let summands =
            bias.iter().zip(&mean).zip(&factors).map(|((bias, mean), factor)| bias - mean * factor).collect();
        Ok((factors, summands))
    }
}

/// Renames every tensor; `None` leaves it out and lists it.
pub(in super::super) fn renamed(
    tensors: HashMap<String, Tensor>,
    rename: impl Fn(&str) -> Option<String>,
) -> (HashMap<String, Tensor>, Vec<String>) {
    let mut dropped = Vec::new();
    let mut kept = HashMap::new();
    let mut named: Vec<(String, Tensor)> = tensors.into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, tensor) in named {
        match rename(&name) {
            Some(new) => drop(kept.insert(new, tensor)),
            None => dropped.push(name),
        }
    }
    (kept, dropped)
}
