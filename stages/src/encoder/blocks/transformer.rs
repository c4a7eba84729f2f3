//! Layers of transformers, forward only, f32.

use candle_core::{Result, Tensor};

use crate::model::kernel::attention::Attention as Kernel;
use crate::model::kernel::norm::layer_norm;
use crate::model::kernel::pool::Pool;
use crate::model::kernel::storage::values;
use crate::model::op::{self, AttentionShape};
use crate::model::{Form, Map, ModelError};

use super::linear::{Activation, Affine, Linear, Then};
use super::reader::Part;

/// Layer normalisation over the channels.
#[derive(Debug)]
pub(in super::super) struct Norm {
    pub(super) weight: Tensor,
    pub(super) bias: Tensor,
    pub(super) eps: f64,
}

impl Norm {
    /// Normalises the rows of `x` into `out`, on the CPU.
    fn run(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        layer_norm(x, &values(&self.weight)?, &values(&self.bias)?, self.eps as f32, out);
        Ok(())
    }

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
        let qkv = Affine::side_by_side(&[map(names.query)?, map(names.key)?, map(names.value)?])?;
        Ok(Self { qkv: qkv.ready()?, out: map(names.out)?.ready()?, heads })
    }

    /// `sum + attention(x)`.
    ///
    /// # Shapes
    /// `x` and `sum (batch, positions, dim)`, and the result alike.
    pub(in super::super) fn add_to(&self, sum: &Tensor, x: &Tensor, form: Form) -> Result<Tensor> {
        let attended = attended(&self.qkv.forward(x, form)?, self.heads, form)?;
        self.out.forward_then(&attended, Then::AddTo { sum, factor: 1.0 }, form)
    }
}

/// `softmax(q k^T / sqrt(head_dim)) v` for every head.
///
/// # Shapes
/// `qkv (batch, positions, 3 dim)` to `(batch, positions, dim)`.
pub(in super::super) fn attended(qkv: &Tensor, heads: usize, form: Form) -> Result<Tensor> {
    op::attention(qkv, AttentionShape { heads, causal: false, angles: None, drop: None }, form)
}

/// Two affine maps with an activation between them.
#[derive(Debug)]
pub(in super::super) struct FeedForward {
    wide: Linear,
    narrow: Linear,
    activation: Activation,
}

impl FeedForward {
    pub(in super::super) fn new(wide: Affine, narrow: Affine, activation: Activation) -> Result<Self> {
        Ok(Self { wide: wide.ready()?, narrow: narrow.ready()?, activation })
    }

    /// `sum + factor FF(x)`.
    ///
    /// # Shapes
    /// `x` and `sum (.., dim)`, and the result alike.
    pub(in super::super) fn add_to(&self, sum: &Tensor, factor: f32, x: &Tensor, form: Form) -> Result<Tensor> {
        let wide = self.wide.forward_then(x, Then::Activate(self.activation), form)?;
        self.narrow.forward_then(&wide, Then::AddTo { sum, factor }, form)
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
    /// Memory of all blocks of a network.
    pub(in super::super) pool: Pool,
}

/// The maps of a block on the CPU.
struct Maps<'a> {
    qkv: &'a Map,
    out: &'a Map,
    wide: &'a Map,
    narrow: &'a Map,
}

impl TransformerBlock {
    fn maps(&self) -> Option<Maps<'_>> {
        let (attention, feed_forward) = (&self.attention, &self.feed_forward);
        Some(Maps {
            qkv: attention.qkv.frozen()?,
            out: attention.out.frozen()?,
            wide: feed_forward.wide.frozen()?,
            narrow: feed_forward.narrow.frozen()?,
        })
    }

    /// [`TransformerBlock::forward`] on the CPU, in memory that all blocks use again.
    fn run(&self, x: &Tensor, maps: &Maps<'_>) -> Result<Tensor> {
        let (batch, positions, dim) = x.dims3()?;
        let (heads, rows) = (self.attention.heads, batch * positions);
        let take = |width: usize| self.pool.take(rows * width);
        let (shape, input) = (x.shape(), x.contiguous()?);
        let input = values(&input)?;
        let [first, second] = &self.norms;
        let (mut normal, mut qkv, mut sum) = (take(dim), take(3 * dim), take(dim));
        let before = self.norm_at == NormAt::Before;
        if before {
            first.run(&input, &mut normal)?;
        }
        maps.qkv.run(if before { &normal } else { &input }, &mut qkv);
        let head_dim = dim / heads;
        let kernel = Kernel { batch, positions, heads, head_dim, causal: false, angles: None, dropout: None };
        let mut attended = take(dim);
        kernel.forward(&qkv, &mut attended, &self.pool);
        drop(qkv);
        maps.out.add_to((&input, 1.0), 1.0, &attended, &mut sum);
        drop(attended);
        let (norm, from) = if before { (second, &sum) } else { (first, &sum) };
        norm.run(from, &mut normal)?;
        let mut hidden = take(maps.wide.outputs());
        self.feed_forward.activation.after(maps.wide, &normal, &mut hidden);
        // Before: the sum goes on as it is. After: the normalised one does.
        let mut out = vec![0.0; rows * dim];
        if before {
            maps.narrow.add_to((&sum, 1.0), 1.0, &hidden, &mut out);
        } else {
            maps.narrow.add_to((&normal, 1.0), 1.0, &hidden, &mut sum);
            second.run(&sum, &mut out)?;
        }
        Tensor::from_vec(out, shape, x.device())
    }

    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(in super::super) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        if let Some(maps) = self.maps() {
            return self.run(x, &maps);
        }
        let [first, second] = &self.norms;
        match self.norm_at {
            NormAt::Before => {
                let x = self.attention.add_to(x, &first.forward(x, form)?, form)?;
                self.feed_forward.add_to(&x, 1.0, &second.forward(&x, form)?, form)
            }
            NormAt::After => {
                let x = first.forward(&self.attention.add_to(x, x, form)?, form)?;
                second.forward(&self.feed_forward.add_to(&x, 1.0, &x, form)?, form)
            }
        }
    }
}
