//! The masked model: patch embedding, conformer, and a head that predicts tokens.

use super::config::{ConformerConfig, MaskedModelConfig};
use super::conformer::Conformer;
use super::error::ModelError;
use super::frozen::FrozenEncoder;
use super::layers::Linear;
use super::op;
use super::pass::{BatchStatistics, Form, Pass};
use super::tape::{Graphs, Keep, Ready, Tape};
use super::weights::{Builder, Source, Weights};
use candle_core::{Device, Result, Tensor, Var};

/// What the forward pass of an encoder leaves for its backward pass.
#[derive(Debug)]
pub struct EncoderTape {
    embedding: Graphs,
    blocks: Tape,
}

/// Patch embedding and conformer: what a published model holds, and what embeddings are taken from.
#[derive(Clone, Debug)]
pub struct Encoder {
    embedding: Linear,
    conformer: Conformer,
    input_dropout: f64,
    patch_dim: usize,
}

impl Encoder {
    /// An encoder of patches of `patch_dim` values, with its weights under `embedding_layer.*` and `net.*`.
    ///
    /// # Errors
    /// When the configuration is impossible, or `source` lacks a tensor or has it in another shape.
    pub fn new(
        config: &ConformerConfig,
        patch_dim: usize,
        source: Source<'_>,
        device: &Device,
    ) -> std::result::Result<(Self, Weights), ModelError> {
        let mut weights = Weights::default();
        let encoder = Self::build(&mut Builder::new(&mut weights, source, device, ""), config, patch_dim)?;
        Ok((encoder, weights))
    }

    fn build(
        builder: &mut Builder<'_>,
        config: &ConformerConfig,
        patch_dim: usize,
    ) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        Ok(Self {
            embedding: Linear::new(builder.part("embedding_layer"), patch_dim, config.dim, true, false, None)?,
            conformer: Conformer::new(builder.part("net"), config)?,
            input_dropout: config.input_dropout,
            patch_dim,
        })
    }

    /// Values per patch.
    pub fn patch_dim(&self) -> usize {
        self.patch_dim
    }

    /// The conformer.
    pub fn conformer(&self) -> &Conformer {
        &self.conformer
    }

    fn embed(&self, patches: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = self.embedding.forward(patches, pass.form())?;
        op::dropout(&x, pass.dropout(self.input_dropout), pass.form())
    }

    /// Hidden states of the last layer.
    ///
    /// # Shapes
    /// `patches (batch, positions, patch_dim)` to `(batch, positions, dim)`.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn forward(&self, patches: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let x = self.embed(patches, pass)?;
        self.conformer.forward(&x, pass)
    }

    /// Hidden states of the last layer, and what [`Encoder::backward`] needs.
    ///
    /// # Shapes
    /// `patches (batch, positions, patch_dim)` to `(batch, positions, dim)`.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn record(&self, patches: &Tensor, pass: &mut Pass, keep: Keep) -> Result<(Tensor, EncoderTape)> {
        let mut embedding = Graphs::new(keep);
        let x = embedding.record(&patches.detach(), pass, |x, pass| self.embed(x, pass))?;
        let (y, blocks) = self.conformer.record(&x, pass, keep)?;
        Ok((y, EncoderTape { embedding, blocks }))
    }

    /// Calls `ready` with every parameter's gradient, given that of the hidden states: block after block from the last
    /// to the first, then the embedding.
    ///
    /// # Shapes
    /// `grad (batch, positions, dim)`.
    ///
    /// # Errors
    /// When a shape does not fit, the device fails, or `ready` does.
    pub fn backward(&self, tape: EncoderTape, grad: Tensor, ready: Ready<'_>) -> Result<()> {
        let EncoderTape { mut embedding, blocks } = tape;
        let grad = self.conformer.backward(blocks, grad, ready)?;
        let parameters: Vec<Var> =
            [Some(self.embedding.weight()), self.embedding.bias()].into_iter().flatten().cloned().collect();
        embedding.backward(&grad, &parameters, |x, pass| self.embed(x, pass), ready)?;
        Ok(())
    }

    /// The encoder as it is now, laid out for a CPU.
    pub(crate) fn freeze(&self) -> Result<FrozenEncoder> {
        FrozenEncoder::new(&self.embedding, self.conformer.blocks())
    }

    /// Hidden states of every layer, first to last.
    ///
    /// # Shapes
    /// `patches (batch, positions, patch_dim)` to as many `(batch, positions, dim)` as there are layers.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn forward_layers(&self, patches: &Tensor, pass: &mut Pass) -> Result<Vec<Tensor>> {
        let x = self.embed(patches, pass)?;
        self.conformer.forward_layers(&x, pass)
    }
}

/// A conformer on its own, without embedding, its weights named `layers.N...`.
///
/// # Errors
/// As [`Encoder::new`].
pub fn bare_conformer(
    config: &ConformerConfig,
    source: Source<'_>,
    device: &Device,
) -> std::result::Result<(Conformer, Weights), ModelError> {
    let mut weights = Weights::default();
    let conformer = Conformer::new(Builder::new(&mut weights, source, device, ""), config)?;
    Ok((conformer, weights))
}

/// An encoder with the head that predicts the tokens of masked positions.
#[derive(Clone, Debug)]
pub struct MaskedModel {
    config: MaskedModelConfig,
    encoder: Encoder,
    head: Linear,
    weights: Weights,
}

impl MaskedModel {
    /// A model with its weights from `source`; the head's are named `linear.*`.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn new(
        config: &MaskedModelConfig,
        source: Source<'_>,
        device: &Device,
    ) -> std::result::Result<Self, ModelError> {
        config.validate()?;
        let mut weights = Weights::default();
        let mut builder = Builder::new(&mut weights, source, device, "");
        let encoder = Encoder::build(&mut builder, &config.conformer, config.patch_dim)?;
        let outputs = config.codebook_size * config.streams;
        let head = Linear::new(builder.part("linear"), config.conformer.dim, outputs, true, false, None)?;
        Ok(Self { config: config.clone(), encoder, head, weights })
    }

    /// The configuration.
    pub fn config(&self) -> &MaskedModelConfig {
        &self.config
    }

    /// Embedding and conformer.
    pub fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    /// All weights by name.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Weight `(codebook_size * streams, dim)` and bias of the head.
    pub fn head(&self) -> (&Var, &Var) {
        let bias = self.head.bias().expect("the head is built with a bias");
        (self.head.weight(), bias)
    }

    /// Logits of every position. Training computes those of masked positions only.
    ///
    /// # Shapes
    /// `hidden (batch, positions, dim)` to `(batch, positions, codebook_size, streams)`.
    ///
    /// # Errors
    /// When a shape does not fit, or the device fails.
    pub fn logits(&self, hidden: &Tensor, form: Form) -> Result<Tensor> {
        let (batch, positions, _) = hidden.dims3()?;
        let logits = self.head.forward(hidden, form)?;
        logits.reshape((batch, positions, self.config.codebook_size, self.config.streams))
    }

    /// Moves the running statistics towards those that a training [`Pass`] gathered.
    ///
    /// # Errors
    /// When a tensor operation fails.
    pub fn update_running(&self, statistics: &[BatchStatistics]) -> Result<()> {
        self.encoder.conformer.update_running(statistics)
    }
}
