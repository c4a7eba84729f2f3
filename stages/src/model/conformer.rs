//! The conformer: blocks of feed-forward, attention, convolution, feed-forward.

use super::config::ConformerConfig;
use super::convolution::Convolution;
use super::error::ModelError;
use super::feed_forward::FeedForward;
use super::fused;
use super::kernel::pool::Pool;
use super::layers::LayerNorm;
use super::pass::{BatchStatistics, Form, Pass};
use super::self_attention::{OUTER_EPS, SelfAttention};
use super::tape::{Graphs, Keep, Kind, Ready, Tape};
use super::weights::Builder;
use candle_core::{Result, Tensor, Var};

/// One block, from hidden states to hidden states.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) ff1: FeedForward,
    pub(super) attention: SelfAttention,
    pub(super) convolution: Convolution,
    pub(super) ff2: FeedForward,
    pub(super) norm: LayerNorm,
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
    pool: Pool,
}

fn evaluates_by_kernels(pass: &Pass) -> bool {
    pass.form() == Form::Kernels && !pass.is_training()
}

impl Conformer {
    pub(crate) fn new(mut builder: Builder<'_>, config: &ConformerConfig) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        let blocks = (0..config.layers).map(|i| Block::new(builder.part(&format!("layers.{i}")), config));
        Ok(Self { blocks: blocks.collect::<std::result::Result<_, _>>()?, pool: Pool::default() })
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The output of the last block. In evaluation by kernels nothing is kept to differentiate.
    ///
    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        if evaluates_by_kernels(pass) {
            return rayon::scope(|_| fused::evaluate(&self.blocks, x, &self.pool, drop, false));
        }
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
        if evaluates_by_kernels(pass) {
            rayon::scope(|_| fused::evaluate(&self.blocks, x, &self.pool, |y| outputs.push(y), true))?;
            return Ok(outputs);
        }
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
        if pass.form() == Form::Kernels {
            let (y, records) = fused::record(&self.blocks, x, &self.pool, pass, keep)?;
            return Ok((y, Tape(Kind::Records(records))));
        }
        let mut graphs = Graphs::new(keep);
        let each = |x: Tensor, block: &Block| graphs.record(&x, pass, |x, pass| block.forward(x, pass));
        let y = self.blocks.iter().try_fold(x.detach(), each)?;
        Ok((y, Tape(Kind::Graphs(graphs))))
    }

    /// The gradient of the input, given that of the output. Calls `ready` with every parameter's gradient, block after
    /// block from the last to the first.
    ///
    /// # Shapes
    /// `grad (batch, positions, dim)`, and the result alike.
    ///
    /// # Errors
    /// When a shape does not fit, the device fails, or `ready` does.
    pub fn backward(&self, tape: Tape, grad: Tensor, ready: Ready<'_>) -> Result<Tensor> {
        let mut graphs = match tape.0 {
            Kind::Records(records) => return fused::back(&self.blocks, records, &grad, &self.pool, ready),
            Kind::Graphs(graphs) => graphs,
        };
        self.blocks.iter().rev().try_fold(grad, |grad, block| {
            graphs.backward(&grad, &block.parameters, |x, pass| block.forward(x, pass), ready)
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
