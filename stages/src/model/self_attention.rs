//! The self-attention step of a block, with its residual sum and norm.

use super::config::{ConformerConfig, PositionEncoding};
use super::error::ModelError;
use super::layers::{LayerNorm, Linear};
use super::op::{self, AttentionShape};
use super::pass::Pass;
use super::rotary::{Angles, rotary_frequencies, sinusoidal_for_qkv};
use super::weights::Builder;
use candle_core::{Result, Tensor, Var};
use std::sync::Arc;

/// Epsilon of the norms between the steps of a block, PyTorch's default.
pub(crate) const OUTER_EPS: f64 = 1e-5;

/// `LayerNorm(alpha x + a(x))` with DeepNorm, `x + a(x)` without. No norm comes before the attention.
#[derive(Clone, Debug)]
pub(crate) struct SelfAttention {
    pub(super) qkv: Linear,
    pub(super) proj: Linear,
    frequencies: Option<Var>,
    pub(super) deepnorm: Option<(f64, LayerNorm)>,
    pub(super) heads: usize,
    pub(super) causal: bool,
    pub(super) dropout: f64,
}

impl SelfAttention {
    /// The builder of the whole block: attention and norm have names beside each other.
    pub(crate) fn new(builder: &mut Builder<'_>, config: &ConformerConfig) -> std::result::Result<Self, ModelError> {
        let (dim, beta) = (config.dim, config.beta());
        let mut attention = builder.part("attention");
        let qkv = Linear::new(attention.part("qkv"), dim, 3 * dim, false, false, Some((2 * dim..3 * dim, beta)))?;
        let proj = Linear::new(attention.part("proj"), dim, dim, true, false, Some((0..dim, beta)))?;
        let frequencies = match config.positions {
            PositionEncoding::Rotary => {
                let frequencies = rotary_frequencies(config.head_dim());
                Some(attention.part("rotary_emb").buffer("freqs", &[frequencies.len()], frequencies)?)
            }
            PositionEncoding::Sinusoidal => None,
        };
        let deepnorm = if let Some(alpha) = config.alpha() {
            Some((alpha, LayerNorm::new(builder.part("norm1.layer_norm"), dim, OUTER_EPS)?))
        } else {
            // The published layout has this norm without DeepNorm too, where nothing uses it.
            let mut unused = builder.part("norm1");
            unused.buffer("weight", &[dim], vec![1.0; dim])?;
            unused.buffer("bias", &[dim], vec![0.0; dim])?;
            None
        };
        Ok(Self {
            qkv,
            proj,
            frequencies,
            deepnorm,
            heads: config.heads,
            causal: config.causal,
            dropout: config.dropout,
        })
    }

    /// The rotary frequencies; none for sinusoidal encodings.
    pub(super) fn frequencies(&self) -> Result<Option<Vec<f32>>> {
        self.frequencies.as_ref().map(|frequencies| frequencies.as_detached_tensor().to_vec1()).transpose()
    }

    /// The rotary angles of as many positions; none for sinusoidal encodings.
    pub(super) fn angles(&self, positions: usize) -> Result<Option<Arc<Angles>>> {
        Ok(self.frequencies()?.map(|frequencies| Arc::new(Angles::new(&frequencies, positions))))
    }

    /// # Shapes
    /// `x (batch, positions, dim)`, and the result alike.
    pub(crate) fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let (form, (_, positions, dim)) = (pass.form(), x.dims3()?);
        let mut qkv = self.qkv.forward(x, form)?;
        let angles = self.angles(positions)?;
        if angles.is_none() {
            qkv = qkv.broadcast_add(&sinusoidal_for_qkv(positions, dim, x.device())?)?;
        }
        let shape = AttentionShape { heads: self.heads, causal: self.causal, angles, drop: pass.dropout(self.dropout) };
        let y = self.proj.forward(&op::attention(&qkv, shape, form)?, form)?;
        match &self.deepnorm {
            Some((alpha, norm)) => norm.forward(&op::residual(x, &y, *alpha, 1.0, None, form)?, form),
            None => op::residual(x, &y, 1.0, 1.0, None, form),
        }
    }
}
