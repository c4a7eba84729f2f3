//! The conformer: blocks of feed-forward, attention, convolution, feed-forward.

use super::config::ConformerConfig;
use super::convolution::Convolution;
use super::error::ModelError;
use super::feed_forward::FeedForward;
use super::layers::LayerNorm;
use super::pass::{BatchStatistics, Pass};
use super::self_attention::{OUTER_EPS, SelfAttention};
use super::tape::{Keep, Ready, Tape};
use super::weights::Builder;
use candle_core::{Result, Tensor, Var};

/// One block, from hidden states to hidden states.
#[derive(Clone, Debug)]
struct Block {
    ff1: FeedForward,
    attention: SelfAttention,
    convolution: Convolution,
    ff2: FeedForward,
    norm: LayerNorm,
    parameters: Vec<Var>,
}

impl Block {
    fn new(mut builder: Builder<'_>, config: &ConformerConfig) -> std::result::Result<Self, ModelError> {
        let mut block = Self {
            ff1: FeedForward::new(builder.part("ff1"), config)?,
            attention: SelfAttention::new(&mut builder, config)?,
            convolution: Convolution::new(builder.part("conv_block"), config)?,
            ff2: FeedForward::new(builder.part("ff2"), config)?,
            norm: LayerNorm::new(builder.part("norm2"), config.dim, OUTER_EPS)?,
            parameters: Vec::new(),
        };
        block.parameters = builder.parameters();
        Ok(block)
    }

    fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = self.ff1.forward(x, pass)?;
        let x = self.attention.forward(&x, pass)?;
        let x = self.convolution.forward(&x, pass)?;
        let x = self.ff2.forward(&x, pass)?;
        self.norm.forward(&x, pass.form())
    }
}

/// A stack of blocks.
#[derive(Clone, Debug)]
pub struct Conformer {
    blocks: Vec<Block>,
}

impl Conformer {
    pub(crate) fn new(mut builder: Builder<'_>, config: &ConformerConfig) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        let blocks = (0..config.layers).map(|i| Block::new(builder.part(&format!("layers.{i}")), config));
        Ok(Self { blocks: blocks.collect::<std::result::Result<_, _>>()? })
    }

    /// The output of the last block.
    ///
    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        self.blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x, pass))
    }

    /// The outputs of all blocks, first to last.
    ///
    /// # Shapes
    /// `x (batch, positions, dim)`, and every result alike.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn forward_layers(&self, x: &Tensor, pass: &mut Pass) -> Result<Vec<Tensor>> {
        let mut outputs: Vec<Tensor> = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let y = block.forward(outputs.last().unwrap_or(x), pass)?;
            outputs.push(y);
        }
        Ok(outputs)
    }

    /// The output of the last block, and what [`Conformer::backward`] needs.
    ///
    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn record(&self, x: &Tensor, pass: &mut Pass, keep: Keep) -> Result<(Tensor, Tape)> {
        let mut tape = Tape::new(keep);
        let y = self
            .blocks
            .iter()
            .try_fold(x.detach(), |x, block| tape.record(&x, pass, |x, pass| block.forward(x, pass)))?;
        Ok((y, tape))
    }

    /// The gradient of the input, given that of the output. Calls `ready` with every parameter's gradient, block after
    /// block from the last to the first.
    ///
    /// # Shapes
    /// `grad (batch, positions, dim)`, and the result alike.
    ///
    /// # Errors
    /// When a shape does not fit, the device fails, or `ready` does.
    pub fn backward(&self, mut tape: Tape, grad: Tensor, ready: Ready<'_>) -> Result<Tensor> {
        self.blocks.iter().rev().try_fold(grad, |grad, block| {
            tape.backward(&grad, &block.parameters, |x, pass| block.forward(x, pass), ready)
        })
    }

    /// Moves the running statistics of every batch norm towards those that a training [`Pass`] gathered.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn update_running(&self, statistics: &[BatchStatistics]) -> Result<()> {
        self.blocks.iter().zip(statistics).try_for_each(|(block, s)| block.convolution.update_running(s))
    }
}
