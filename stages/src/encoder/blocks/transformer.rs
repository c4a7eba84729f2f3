//! Layers of transformers, forward only, f32.

use candle_core::{Result, Tensor};

use crate::model::kernel::maths::sigmoid;
use crate::model::kernel::rows::map_rows;
use crate::model::kernel::storage::values;
use crate::model::op::{self, AttentionShape};
use crate::model::{Form, ModelError};

use super::reader::Part;

/// An affine map.
#[derive(Debug)]
pub(in super::super) struct Linear {
    /// `(outputs, inputs ..)`.
    pub(super) weight: Tensor,
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    /// # Shapes
    /// `x (.., inputs)` to `(.., outputs)`.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        op::linear(x, &self.weight, self.bias.as_ref(), form)
    }

    /// Weight `(outputs, inputs ..)` and bias.
    pub(in super::super) fn parts(&self) -> (&Tensor, Option<&Tensor>) {
        (&self.weight, self.bias.as_ref())
    }

    /// Several maps of one input as one: their outputs one after another.
    pub(in super::super) fn side_by_side(maps: &[Self]) -> Result<Self> {
        let weights: Vec<&Tensor> = maps.iter().map(|map| &map.weight).collect();
        let biases: Vec<&Tensor> = maps.iter().filter_map(|map| map.bias.as_ref()).collect();
        let bias = if biases.is_empty() { None } else { Some(Tensor::cat(&biases, 0)?) };
        Ok(Self { weight: Tensor::cat(&weights, 0)?, bias })
    }

    /// The map with its weight as a matrix.
    pub(in super::super) fn flat(self) -> Result<Self> {
        let outputs = self.weight.dim(0)?;
        let inputs = self.weight.elem_count() / outputs.max(1);
        Ok(Self { weight: self.weight.reshape((outputs, inputs))?, bias: self.bias })
    }
}

/// Layer normalisation over the channels.
#[derive(Debug)]
pub(in super::super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl Norm {
    /// # Shapes
    /// `x (.., channels)`, and the result alike.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        op::layer_norm(x, &self.weight, &self.bias, self.eps, form)
    }
}

/// What the four maps of an attention are called.
pub(in super::super) struct AttentionNames {
    pub(in super::super) query: &'static str,
    pub(in super::super) key: &'static str,
    pub(in super::super) value: &'static str,
    pub(in super::super) out: &'static str,
}

/// Multi-head attention of all positions to all positions.
#[derive(Debug)]
pub(in super::super) struct SelfAttention {
    qkv: Linear,
    out: Linear,
    heads: usize,
}

impl SelfAttention {
    pub(in super::super) fn new(
        part: &Part<'_>,
        names: &AttentionNames,
        dim: usize,
        heads: usize,
    ) -> std::result::Result<Self, ModelError> {
        let map = |name: &str| part.part(name).linear(dim, dim, true);
        let qkv = Linear::side_by_side(&[map(names.query)?, map(names.key)?, map(names.value)?])?;
        Ok(Self { qkv, out: map(names.out)?, heads })
    }

    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        let attended = attended(&self.qkv.forward(x, form)?, self.heads, form)?;
        self.out.forward(&attended, form)
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` for every head.
///
/// # Shapes
/// `qkv (batch, positions, 3 dim)` to `(batch, positions, dim)`.
pub(in super::super) fn attended(qkv: &Tensor, heads: usize, form: Form) -> Result<Tensor> {
    op::attention(qkv, AttentionShape { heads, causal: false, angles: None, drop: None }, form)
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
    pub(in super::super) fn apply(self, x: &Tensor, form: Form) -> Result<Tensor> {
        match (self, form) {
            (Self::Gelu, _) => op::gelu(x, None, form),
            (Self::Silu, Form::Kernels) => mapped(x, |x| x * sigmoid(x)),
            (Self::Silu, _) => x.silu(),
        }
    }
}

/// A function of every value, on the CPU.
fn mapped(x: &Tensor, f: impl Fn(f32) -> f32 + Sync) -> Result<Tensor> {
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

/// Two affine maps with an activation between them.
#[derive(Debug)]
pub(in super::super) struct FeedForward {
    wide: Linear,
    narrow: Linear,
    activation: Activation,
}

impl FeedForward {
    pub(in super::super) fn new(wide: Linear, narrow: Linear, activation: Activation) -> Self {
        Self { wide, narrow, activation }
    }

    /// # Shapes
    /// `x (.., dim)`, and the result alike.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        let wide = self.activation.apply(&self.wide.forward(x, form)?, form)?;
        self.narrow.forward(&wide, form)
    }
}

/// Where the norms of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum NormAt {
    /// Before attention and feed-forward network, whose results are added to what was not normalised.
    Before,
    /// After the sums.
    After,
}

/// A block of a transformer.
#[derive(Debug)]
pub(in super::super) struct TransformerBlock {
    pub(in super::super) norms: [Norm; 2],
    pub(in super::super) attention: SelfAttention,
    pub(in super::super) feed_forward: FeedForward,
    pub(in super::super) norm_at: NormAt,
}

impl TransformerBlock {
    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        let [first, second] = &self.norms;
        match self.norm_at {
            NormAt::Before => {
                let x = (x + self.attention.forward(&first.forward(x, form)?, form)?)?;
                &x + self.feed_forward.forward(&second.forward(&x, form)?, form)?
            }
            NormAt::After => {
                let x = first.forward(&(x + self.attention.forward(x, form)?)?, form)?;
                second.forward(&(&x + self.feed_forward.forward(&x, form)?)?, form)
            }
        }
    }
}
