//! The feed-forward half-steps of a block.

use super::config::ConformerConfig;
use super::error::ModelError;
use super::layers::{LayerNorm, Linear};
use super::op;
use super::pass::Pass;
use super::weights::Builder;
use candle_core::{Result, Tensor};

/// Epsilon of the layer and batch norms inside the half-steps and the convolution, from the released models.
pub(crate) const INNER_EPS: f64 = 6.1e-5;

/// `x + residual_factor FF(x)` with FF = LayerNorm, Linear, GELU, Dropout, Linear, Dropout (Conformer, section 2.3, but
/// GELU for Swish; facts of the released models).
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    pub(super) norm: LayerNorm,
    pub(super) wide: Linear,
    pub(super) narrow: Linear,
    pub(super) dropout: f64,
    pub(super) residual_factor: f64,
}

impl FeedForward {
    pub(crate) fn new(mut builder: Builder<'_>, config: &ConformerConfig) -> std::result::Result<Self, ModelError> {
        let (dim, hidden, beta) = (config.dim, config.dim * config.ff_factor, config.beta());
        Ok(Self {
            norm: LayerNorm::new(builder.part("module.0"), dim, INNER_EPS)?,
            wide: Linear::new(builder.part("module.1"), dim, hidden, true, false, Some((0..hidden, beta)))?,
            narrow: Linear::new(builder.part("module.4"), hidden, dim, true, false, Some((0..dim, beta)))?,
            dropout: config.dropout,
            residual_factor: config.residual_factor,
        })
    }

    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let form = pass.form();
        let hidden = self.wide.forward(&self.norm.forward(x, form)?, form)?;
        let hidden = op::gelu(&hidden, pass.dropout(self.dropout), form)?;
        let y = self.narrow.forward(&hidden, form)?;
        op::residual(x, &y, 1.0, self.residual_factor, pass.dropout(self.dropout), form)
    }
}
