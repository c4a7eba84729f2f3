//! The blocks of the conformer, and the encoder, forward only.

use super::super::conformer::Block;
use super::super::convolution::Convolution;
use super::super::feed_forward::{FeedForward, INNER_EPS};
use super::super::fused::{Extents, Room, gate};
use super::super::kernel::attention::Attention;
use super::super::kernel::depthwise::{self, Lanes, convolve, pack_taps};
use super::super::kernel::maths::{fma, gelu};
use super::super::kernel::pool::{Buffer, Pool};
use super::super::kernel::rows::map_rows;
use super::super::kernel::storage::values;
use super::super::layers::{LayerNorm, Linear};
use super::super::op::inverse_deviation;
use super::super::rotary::{Angles, add_sinusoidal};
use super::super::self_attention::SelfAttention;
use super::{Map, Norm};
use candle_core::{Device, Result, Tensor, bail};

fn map(linear: &Linear) -> Result<Map> {
    let weight = values(linear.weight())?;
    let bias = linear.bias().map(|bias| values(bias).map(|bias| bias.to_vec())).transpose()?;
    Ok(Map::new(&weight, weight.len() / linear.outputs().max(1), bias))
}

fn norm(norm: &LayerNorm) -> Result<Norm> {
    Ok(Norm { weight: values(norm.weight())?.to_vec(), bias: values(norm.bias())?.to_vec(), eps: norm.eps() as f32 })
}

#[derive(Debug)]
struct FrozenFeedForward {
    norm: Norm,
    wide: Map,
    narrow: Map,
    factor: f32,
}

impl FrozenFeedForward {
    fn new(step: &FeedForward) -> Result<Self> {
        let factor = step.residual_factor as f32;
        Ok(Self { norm: norm(&step.norm)?, wide: map(&step.wide)?, narrow: map(&step.narrow)?, factor })
    }

    /// `x + factor FF(x)`.
    fn run(&self, x: &Buffer, room: Room<'_>) -> Buffer {
        let mut y = room.take(room.extents.dim);
        self.norm.run(x, &mut y);
        let mut hidden = room.take(self.wide.outputs());
        self.wide.gelu(&y, &mut hidden);
        self.narrow.add_to((x, 1.0), self.factor, &hidden, &mut y);
        y
    }
}

#[derive(Debug)]
struct FrozenAttention {
    qkv: Map,
    proj: Map,
    /// Frequencies of rotary positions; sinusoidal ones without.
    frequencies: Option<Vec<f32>>,
    deepnorm: Option<(f32, Norm)>,
    heads: usize,
    causal: bool,
}

impl FrozenAttention {
    fn new(step: &SelfAttention) -> Result<Self> {
        let deepnorm = match &step.deepnorm {
            Some((alpha, layer)) => Some((*alpha as f32, norm(layer)?)),
            None => None,
        };
        let frequencies = step.frequencies()?;
        let (qkv, proj) = (map(&step.qkv)?, map(&step.proj)?);
        Ok(Self { qkv, proj, frequencies, deepnorm, heads: step.heads, causal: step.causal })
    }

    /// `LayerNorm(alpha x + a(x))` with DeepNorm, `x + a(x)` without.
    fn run(&self, x: &Buffer, room: Room<'_>) -> Buffer {
        let Extents { batch, positions, dim } = room.extents;
        let mut qkv = room.take(3 * dim);
        self.qkv.run(x, &mut qkv);
        let angles = self.frequencies.as_ref().map(|frequencies| Angles::new(frequencies, positions));
        if angles.is_none() {
            add_sinusoidal(&mut qkv, positions, dim);
        }
        let (heads, head_dim, causal) = (self.heads, dim / self.heads, self.causal);
        let kernel = Attention { batch, positions, heads, head_dim, causal, angles: angles.as_ref(), dropout: None };
        let mut attended = room.take(dim);
        kernel.forward(&qkv, &mut attended, room.pool);
        let mut sum = room.take(dim);
        match &self.deepnorm {
            Some((alpha, norm)) => {
                self.proj.add_to((x, *alpha), 1.0, &attended, &mut sum);
                norm.run(&sum, &mut attended);
                attended
            }
            None => {
                self.proj.add_to((x, 1.0), 1.0, &attended, &mut sum);
                sum
            }
        }
    }
}

#[derive(Debug)]
struct FrozenConvolution {
    norm: Norm,
    expand: Map,
    taps: Vec<Lanes>,
    bias: Vec<f32>,
    kernel: usize,
    /// Batch normalisation, a factor and a summand per channel.
    scale: Vec<f32>,
    shift: Vec<f32>,
    project: Map,
}

impl FrozenConvolution {
    fn new(step: &Convolution) -> Result<Self> {
        let (channels, _, kernel) = step.depthwise.0.dims3()?;
        let (mean, variance) = step.batch_norm.running()?;
        let (scale, shift) = step.batch_norm.affine(&mean, &inverse_deviation(&variance, INNER_EPS))?;
        Ok(Self {
            norm: norm(&step.norm)?,
            expand: map(&step.expand)?,
            taps: pack_taps(&values(&step.depthwise.0)?, channels, kernel, false),
            bias: values(&step.depthwise.1)?.to_vec(),
            kernel,
            scale,
            shift,
            project: map(&step.project)?,
        })
    }

    /// `x + Conv(x)`.
    fn run(&self, x: &Buffer, room: Room<'_>) -> Buffer {
        let Extents { batch, positions, dim } = room.extents;
        let mut y = room.take(dim);
        self.norm.run(x, &mut y);
        let mut expanded = room.take(2 * dim);
        self.expand.run(&y, &mut expanded);
        gate(&expanded, dim, &mut y);
        let mut active = room.take(dim);
        let extents = depthwise::Extents { batch, positions, channels: dim, kernel: self.kernel };
        convolve(&y, &self.taps, Some(&self.bias), extents, &mut active);
        map_rows(&mut active, dim, |_, row| {
            for ((value, scale), shift) in row.iter_mut().zip(&self.scale).zip(&self.shift) {
                *value = gelu(fma(*value, *scale, *shift));
            }
        });
        self.project.add_to((x, 1.0), 1.0, &active, &mut y);
        y
    }
}

/// A block.
#[derive(Debug)]
pub(in super::super) struct FrozenBlock {
    ff1: FrozenFeedForward,
    attention: FrozenAttention,
    convolution: FrozenConvolution,
    ff2: FrozenFeedForward,
    norm: Norm,
}

impl FrozenBlock {
    pub(in super::super) fn new(block: &Block) -> Result<Self> {
        Ok(Self {
            ff1: FrozenFeedForward::new(&block.ff1)?,
            attention: FrozenAttention::new(&block.attention)?,
            convolution: FrozenConvolution::new(&block.convolution)?,
            ff2: FrozenFeedForward::new(&block.ff2)?,
            norm: norm(&block.norm)?,
        })
    }

    pub(in super::super) fn run(&self, x: &Buffer, room: Room<'_>) -> Buffer {
        let x = self.ff1.run(x, room);
        let x = self.attention.run(&x, room);
        let x = self.convolution.run(&x, room);
        let sum = self.ff2.run(&x, room);
        let mut y = x;
        self.norm.run(&sum, &mut y);
        y
    }
}

/// Patch embedding and conformer.
#[derive(Debug)]
pub(crate) struct FrozenEncoder {
    embedding: Map,
    blocks: Vec<FrozenBlock>,
    pool: Pool,
}

impl FrozenEncoder {
    pub(in super::super) fn new(embedding: &Linear, blocks: &[Block]) -> Result<Self> {
        let blocks = blocks.iter().map(FrozenBlock::new).collect::<Result<_>>()?;
        Ok(Self { embedding: map(embedding)?, blocks, pool: Pool::default() })
    }

    /// Hidden states of every layer, first to last, `(batch, positions, dim)` each.
    ///
    /// # Shapes
    /// `patches (batch, positions, patch_dim)`.
    pub(crate) fn forward_layers(
        &self,
        patches: &[f32],
        (batch, positions): (usize, usize),
        mut each: impl FnMut(usize, Tensor),
    ) -> Result<()> {
        let (expected, dim) = (self.embedding.inputs(), self.embedding.outputs());
        if patches.len() != batch * positions * expected {
            bail!("{} values are not {batch} x {positions} patches of {expected}", patches.len());
        }
        let room = Room { pool: &self.pool, extents: Extents { batch, positions, dim } };
        let mut x = room.take(dim);
        self.embedding.run(patches, &mut x);
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.run(&x, room);
            each(layer, Tensor::from_slice(&x, (batch, positions, dim), &Device::Cpu)?);
        }
        Ok(())
    }
}
