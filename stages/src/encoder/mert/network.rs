//! The network: features of the waveform, a projection, positions, blocks.

use candle_core::{Device, Result, Tensor};

use crate::model::kernel::pool::Pool;
use crate::model::kernel::storage::values;
use crate::model::{Form, ModelError};

use super::super::blocks::{
    Activation, AttentionNames, FeedForward, Kept, Linear, Norm, NormAt, Part, SelfAttention, TransformerBlock,
};
use super::super::family::Heard;
use super::MertConfig;
use super::waveform::{Features, Positions};

const EPS: f64 = 1e-5;

const ATTENTION: AttentionNames = AttentionNames {
    query: "attention.q_proj",
    key: "attention.k_proj",
    value: "attention.v_proj",
    out: "attention.out_proj",
};

/// The loaded network.
#[derive(Debug)]
pub(super) struct Network {
    features: Features,
    feature_norm: Norm,
    projection: Linear,
    positions: Positions,
    blocks: Vec<TransformerBlock>,
    /// Before the first block or after the last one.
    norm: Norm,
    norm_before: bool,
    layers: usize,
    device: Device,
}

impl Network {
    /// The part of the network that hidden states up to `deepest` need.
    pub(super) fn new(root: &Part<'_>, config: &MertConfig, deepest: usize) -> std::result::Result<Self, ModelError> {
        let MertConfig { layers, dim, channels, norm_before, .. } = *config;
        let host = root.on_host();
        let projected = host.part("feature_projection");
        let encoder = root.part("encoder");
        let pool = Pool::default();
        let block = |index: usize| block(&encoder.part("layers").part(index), config, &pool);
        Ok(Self {
            features: Features::new(&host.part("feature_extractor"), config)?,
            feature_norm: projected.part("layer_norm").norm(channels, EPS)?,
            projection: projected.part("projection").linear(channels, dim, true)?.ready()?,
            positions: Positions::new(&host.part("encoder.pos_conv_embed.conv"), dim)?,
            blocks: (0..layers.min(deepest)).map(block).collect::<std::result::Result<_, _>>()?,
            norm: encoder.part("layer_norm").norm(dim, EPS)?,
            norm_before,
            layers,
            device: root.device().clone(),
        })
    }

    /// Hidden states of `layers`, `(crops, frames, dim)` each.
    pub(super) fn states(&self, crops: &[&Heard], layers: &[usize], form: Form) -> Result<Vec<Tensor>> {
        let mut kept = Kept::new(layers);
        let embedded = crops.iter().map(|crop| self.embed(crop)).collect::<Result<Vec<_>>>()?;
        let mut x = Tensor::stack(&embedded, 0)?.to_device(&self.device)?;
        if !self.norm_before {
            x = self.norm.forward(&x, form)?;
        }
        kept.offer(0, &x);
        for (index, block) in self.blocks.iter().enumerate().take(kept.deepest()) {
            x = block.forward(&x, form)?;
            if self.norm_before && index + 1 == self.layers {
                x = self.norm.forward(&x, form)?;
            }
            kept.offer(index + 1, &x);
        }
        kept.finish()
    }

    /// Projected features with their positions, `(frames, dim)`, on the CPU.
    fn embed(&self, crop: &Heard) -> Result<Tensor> {
        let features = self.features.forward(&crop.values);
        let shape = (features.len() / self.features.channels(), self.features.channels());
        let features = Tensor::from_vec(features, shape, &Device::Cpu)?;
        let normal = self.feature_norm.forward(&features, Form::Kernels)?;
        let projected = self.projection.forward(&normal, Form::Kernels)?;
        let mut x = values(&projected)?.to_vec();
        self.positions.add(&mut x);
        Tensor::from_vec(x, projected.shape(), &Device::Cpu)
    }
}

fn block(part: &Part<'_>, config: &MertConfig, pool: &Pool) -> std::result::Result<TransformerBlock, ModelError> {
    let MertConfig { dim, heads, hidden, norm_before, .. } = *config;
    let wide = part.part("feed_forward.intermediate_dense").linear(dim, hidden, true)?;
    let narrow = part.part("feed_forward.output_dense").linear(hidden, dim, true)?;
    Ok(TransformerBlock {
        norms: [part.part("layer_norm").norm(dim, EPS)?, part.part("final_layer_norm").norm(dim, EPS)?],
        attention: SelfAttention::new(part, &ATTENTION, dim, heads)?,
        feed_forward: FeedForward::new(wide, narrow, Activation::Gelu)?,
        pool: pool.clone(),
        norm_at: if norm_before { NormAt::Before } else { NormAt::After },
    })
}
