//! A block of the conformer: half a feed-forward network, attention, convolution, the other half, a norm.

use candle_core::{Result, Tensor};

use crate::model::kernel::rows::map_rows;
use crate::model::kernel::storage::values;
use crate::model::op;
use crate::model::{Form, ModelError};

use super::super::blocks::{Activation, Affine, FeedForward, Linear, Norm, Part, Then, attended};
use super::MusicFmConfig;

pub(super) const EPS: f64 = 1e-5;

/// Cosines and sines of the angles of all positions, `(positions, head_dim / 2)` each.
pub(super) struct Turns {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl Turns {
    pub(super) fn new(frequencies: &[f32], positions: usize) -> Self {
        let angles = || (0..positions).flat_map(|t| frequencies.iter().map(move |f| t as f32 * f));
        Self { cos: angles().map(f32::cos).collect(), sin: angles().map(f32::sin).collect(), pairs: frequencies.len() }
    }

    /// Turns the halves of every head of `x (batch, positions, heads head_dim)` against each other.
    fn apply(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        let (batch, positions, dim) = x.dims3()?;
        let pairs = self.pairs;
        if form != Form::Kernels {
            let table = |table: &[f32]| Tensor::from_slice(table, (1, positions, 1, pairs), x.device());
            let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
            let heads = x.reshape((batch, positions, dim / (2 * pairs), 2 * pairs))?;
            let (a, b) = (heads.narrow(3, 0, pairs)?, heads.narrow(3, pairs, pairs)?);
            let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
            return Tensor::cat(&[first, second], 3)?.reshape(x.shape());
        }
        let input = values(x)?;
        let input: &[f32] = &input;
        let mut out = vec![0.0; input.len()];
        map_rows(&mut out, dim, |row, out| {
            let at = row % positions * pairs..(row % positions + 1) * pairs;
            let (cos, sin) = (&self.cos[at.clone()], &self.sin[at]);
            for (out, x) in out.chunks_exact_mut(2 * pairs).zip(input[row * dim..].chunks_exact(2 * pairs)) {
                let (first, second) = out.split_at_mut(pairs);
                let (a, b) = x.split_at(pairs);
                for i in 0..pairs {
                    first[i] = a[i] * cos[i] - b[i] * sin[i];
                    second[i] = b[i] * cos[i] + a[i] * sin[i];
                }
            }
        });
        Tensor::from_vec(out, x.shape(), x.device())
    }
}

/// Norm and feed-forward network, of which half is added.
#[derive(Debug)]
struct Half {
    norm: Norm,
    feed_forward: FeedForward,
}

impl Half {
    fn new(part: &Part<'_>, name: &str, config: &MusicFmConfig) -> std::result::Result<Self, ModelError> {
        let MusicFmConfig { dim, hidden, .. } = *config;
        let network = part.part(name);
        let wide = network.part("intermediate_dense").linear(dim, hidden, true)?;
        let narrow = network.part("output_dense").linear(hidden, dim, true)?;
        Ok(Self {
            norm: part.part(format_args!("{name}_layer_norm")).norm(dim, EPS)?,
            feed_forward: FeedForward::new(wide, narrow, Activation::Silu)?,
        })
    }

    fn add_to(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        self.feed_forward.add_to(x, 0.5, &self.norm.forward(x, form)?, form)
    }
}

/// Attention whose queries and keys are made of turned input.
#[derive(Debug)]
struct Attention {
    norm: Norm,
    /// Queries and keys.
    turned: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    fn new(part: &Part<'_>, config: &MusicFmConfig) -> std::result::Result<Self, ModelError> {
        let MusicFmConfig { dim, heads, .. } = *config;
        let maps = part.part("self_attn");
        let map = |name: &str| maps.part(name).linear(dim, dim, true);
        Ok(Self {
            norm: part.part("self_attn_layer_norm").norm(dim, EPS)?,
            turned: Affine::side_by_side(&[map("linear_q")?, map("linear_k")?])?.ready()?,
            value: map("linear_v")?.ready()?,
            out: map("linear_out")?.ready()?,
            heads,
        })
    }

    fn add_to(&self, x: &Tensor, turns: &Turns, form: Form) -> Result<Tensor> {
        let normal = self.norm.forward(x, form)?;
        let turned = self.turned.forward(&turns.apply(&normal, form)?, form)?;
        let qkv = Tensor::cat(&[turned, self.value.forward(&normal, form)?], 2)?;
        self.out.forward_then(&attended(&qkv, self.heads, form)?, Then::AddTo { sum: x, factor: 1.0 }, form)
    }
}

/// Gated pointwise convolution, depthwise convolution with its batch normalisation, pointwise convolution.
#[derive(Debug)]
struct Convolution {
    norm: Norm,
    gated: Linear,
    weight: Tensor,
    bias: Tensor,
    out: Linear,
}

impl Convolution {
    fn new(part: &Part<'_>, config: &MusicFmConfig) -> std::result::Result<Self, ModelError> {
        let MusicFmConfig { dim, kernel, .. } = *config;
        let part = part.part("conv_module");
        let weight = part.part("depthwise_conv").weight("weight", &[dim, 1, kernel])?;
        let (factors, summands) = part.part("batch_norm").batch_norm(dim, EPS)?;
        Ok(Self {
            norm: part.part("layer_norm").norm(dim, EPS)?,
            gated: part.part("pointwise_conv1").convolution(&[2 * dim, dim, 1], false)?.ready()?,
            weight: weight.broadcast_mul(&Tensor::from_vec(factors, (dim, 1, 1), part.device())?)?,
            bias: Tensor::from_vec(summands, dim, part.device())?,
            out: part.part("pointwise_conv2").convolution(&[dim, dim, 1], false)?.ready()?,
        })
    }

    fn add_to(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        let gated = op::glu(&self.gated.forward(&self.norm.forward(x, form)?, form)?, form)?;
        let y = Activation::Silu.apply(&op::depthwise(&gated, &self.weight, &self.bias, form)?, form)?;
        self.out.forward_then(&y, Then::AddTo { sum: x, factor: 1.0 }, form)
    }
}

/// The block.
#[derive(Debug)]
pub(super) struct Block {
    first: Half,
    attention: Attention,
    convolution: Convolution,
    second: Half,
    norm: Norm,
}

impl Block {
    pub(super) fn new(part: &Part<'_>, config: &MusicFmConfig) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            first: Half::new(part, "ffn1", config)?,
            attention: Attention::new(part, config)?,
            convolution: Convolution::new(part, config)?,
            second: Half::new(part, "ffn2", config)?,
            norm: part.part("final_layer_norm").norm(config.dim, EPS)?,
        })
    }

    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(super) fn forward(&self, x: &Tensor, turns: &Turns, form: Form) -> Result<Tensor> {
        let x = self.first.add_to(x, form)?;
        let x = self.attention.add_to(&x, turns, form)?;
        let x = self.convolution.add_to(&x, form)?;
        self.norm.forward(&self.second.add_to(&x, form)?, form)
    }
}
