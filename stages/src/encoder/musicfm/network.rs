//! The network: convolutions over the spectrogram, conformer blocks, a final norm.

use candle_core::{Device, Result, Tensor};

use crate::model::{Form, ModelError, rotary_frequencies};

use super::super::blocks::{Kept, Norm, Part};
use super::super::family::Heard;
use super::block::{Block, EPS, Turns};
use super::stem::Stem;
use super::{MusicFmConfig, on_host};

/// The loaded network.
#[derive(Debug)]
pub(super) struct Network {
    stem: Stem,
    frequencies: Vec<f32>,
    blocks: Vec<Block>,
    norm: Option<Norm>,
    dim: usize,
    device: Device,
}

impl Network {
    /// The part of the network that hidden states up to `deepest` need.
    pub(super) fn new(
        root: &Part<'_>,
        config: &MusicFmConfig,
        deepest: usize,
    ) -> std::result::Result<Self, ModelError> {
        let MusicFmConfig { layers, dim, heads, .. } = *config;
        let head_dim = dim / heads.max(1);
        let conformer = root.part("conformer");
        let frequencies =
            conformer.part("embed_positions").given("inv_freq", &[head_dim / 2], || rotary_frequencies(head_dim))?;
        let block = |index: usize| Block::new(&conformer.part("layers").part(index), config);
        Ok(Self {
            stem: Stem::new(&root.on_host().part("conv"), config)?,
            frequencies: on_host(&frequencies)?,
            blocks: (0..layers.min(deepest)).map(block).collect::<std::result::Result<_, _>>()?,
            norm: if deepest >= layers { Some(conformer.part("layer_norm").norm(dim, EPS)?) } else { None },
            dim,
            device: root.device().clone(),
        })
    }

    /// Hidden states of `layers`, `(crops, positions, dim)` each.
    pub(super) fn states(&self, crops: &[&Heard], layers: &[usize], form: Form) -> Result<Vec<Tensor>> {
        let mut kept = Kept::new(layers);
        let positions = crops.first().map_or(0, |crop| crop.positions);
        let stems: Vec<f32> = crops.iter().flat_map(|crop| self.stem.forward(&crop.values)).collect();
        let mut x = Tensor::from_vec(stems, (crops.len(), positions, self.dim), &self.device)?;
        kept.offer(0, &x);
        let turns = Turns::new(&self.frequencies, positions);
        for (index, block) in self.blocks.iter().enumerate().take(kept.deepest()) {
            x = block.forward(&x, &turns, form)?;
            // The norm is there when the last of all blocks is.
            match self.norm.as_ref().filter(|_| index + 1 == self.blocks.len()) {
                Some(norm) => kept.offer(index + 1, &norm.forward(&x, form)?),
                None => kept.offer(index + 1, &x),
            }
        }
        kept.finish()
    }
}
