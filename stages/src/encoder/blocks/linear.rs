//! Affine maps, and what comes right after them.

use candle_core::{Result, Tensor, bail};

use crate::model::kernel::maths::sigmoid;
use crate::model::kernel::rows::map_rows;
use crate::model::kernel::storage::values;
use crate::model::op;
use crate::model::{Form, Map};

/// The tensors of an affine map.
#[derive(Debug)]
pub(in super::super) struct Affine {
    /// `(outputs, inputs ..)`.
    pub(in super::super) weight: Tensor,
    pub(in super::super) bias: Option<Tensor>,
}

impl Affine {
    /// Several maps of one input as one: their outputs one after another.
    pub(in super::super) fn side_by_side(maps: &[Self]) -> Result<Self> {
        let weights: Vec<&Tensor> = maps.iter().map(|map| &map.weight).collect();
        let biases: Vec<&Tensor> = maps.iter().filter_map(|map| map.bias.as_ref()).collect();
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias })
    }

    /// The map, ready to be applied: on the CPU its weight is laid out for that. All dimensions of the weight but the
    /// first are inputs.
    pub(in super::super) fn ready(self) -> Result<Linear> {
        let outputs = self.weight.dim(0)?;
        let inputs = self.weight.elem_count() / outputs.max(1);
        if !self.weight.device().is_cpu() {
            return Ok(Linear::Tensors(Self { weight: self.weight.reshape((outputs, inputs))?, bias: self.bias }));
        }
        let bias = self.bias.as_ref().map(Tensor::to_vec1).transpose()?;
        Ok(Linear::Frozen(Map::new(&values(&self.weight.contiguous()?)?, inputs, bias)))
    }
}

/// An affine map.
#[derive(Debug)]
pub(in super::super) enum Linear {
    /// On the CPU.
    Frozen(Map),
    /// On other devices.
    Tensors(Affine),
}

/// What becomes of the outputs of an affine map.
#[derive(Clone, Copy)]
pub(in super::super) enum Then<'a> {
    /// An activation.
    Activate(Activation),
    /// They are multiplied and added to what is there.
    AddTo { sum: &'a Tensor, factor: f32 },
}

impl Linear {
    /// # Shapes
    /// `x (.., inputs)` to `(.., outputs)`.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        match self {
            Self::Frozen(map) => mapped(map, x, |x, out| map.run(x, out)),
            Self::Tensors(Affine { weight, bias }) => op::linear(x, weight, bias.as_ref(), form),
        }
    }

    /// [`Linear::forward`] and what comes after it, in one pass where that can be.
    ///
    /// # Shapes
    /// `x (.., inputs)` to `(.., outputs)`.
    pub(in super::super) fn forward_then(&self, x: &Tensor, then: Then<'_>, form: Form) -> Result<Tensor> {
        match (self, then) {
            (Self::Frozen(map), Then::Activate(activation)) => mapped(map, x, |x, out| activation.after(map, x, out)),
            (Self::Frozen(map), Then::AddTo { sum, factor }) => {
                let sum = sum.contiguous()?;
                let sum = values(&sum)?;
                mapped(map, x, |x, out| map.add_to((&sum, 1.0), factor, x, out))
            }
            (Self::Tensors(_), Then::Activate(activation)) => activation.apply(&self.forward(x, form)?, form),
            (Self::Tensors(_), Then::AddTo { sum, factor }) => sum + (self.forward(x, form)? * f64::from(factor))?,
        }
    }

    /// The map of an encoder on the CPU.
    pub(super) fn frozen(&self) -> Option<&Map> {
        match self {
            Self::Frozen(map) => Some(map),
            Self::Tensors(_) => None,
        }
    }
}

/// The result of `run(values of x, result)`.
fn mapped(map: &Map, x: &Tensor, run: impl FnOnce(&[f32], &mut [f32])) -> Result<Tensor> {
    let x = x.contiguous()?;
    let mut shape = x.dims().to_vec();
    let Some(inputs) = shape.pop().filter(|inputs| *inputs == map.inputs()) else {
        bail!("an affine map of {} inputs is given {:?}", map.inputs(), x.shape());
    };
    shape.push(map.outputs());
    let mut out = vec![0.0; x.elem_count() / inputs.max(1) * map.outputs()];
    run(&values(&x)?, &mut out);
    Tensor::from_vec(out, shape, x.device())
}

/// What is between the two maps of a feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Activation {
    /// `x Phi(x)`.
    Gelu,
    /// `x sigmoid(x)`, also called swish.
    Silu,
}

impl Activation {
    /// The map and the activation.
    pub(super) fn after(self, map: &Map, x: &[f32], out: &mut [f32]) {
        match self {
            Self::Gelu => map.gelu(x, out),
            Self::Silu => map.silu(x, out),
        }
    }

    pub(in super::super) fn apply(self, x: &Tensor, form: Form) -> Result<Tensor> {
        match (self, form) {
            (Self::Gelu, _) => op::gelu(x, None, form),
            (Self::Silu, Form::Kernels) => each(x, |x| x * sigmoid(x)),
            (Self::Silu, _) => x.silu(),
        }
    }
}

/// A function of every value, on the CPU.
fn each(x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
    let x = x.contiguous()?;
    let width = x.dims().last().copied().unwrap_or(1);
    let input = values(&x)?;
    let input: &[f32] = &input;
    let mut out = vec![0.0; input.len()];
    map_rows(&mut out, width, |row, out| {
        for (out, x) in out.iter_mut().zip(&input[row * width..]) {
            *out = f(*x);
        }
    });
    Tensor::from_vec(out, x.shape(), x.device())
}
