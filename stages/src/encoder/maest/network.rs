//! The transformer: patches, tokens, positions, blocks that normalise before, a final norm.

use candle_core::{Result, Tensor, bail};

use crate::model::kernel::pool::Pool;
use crate::model::{Form, ModelError};

use super::super::blocks::{
    Activation, AttentionNames, FeedForward, Kept, Linear, Norm, NormAt, Part, SelfAttention, TransformerBlock,
};
use super::super::family::Heard;
use super::{BANDS, MaestConfig, PATCH, ROWS, STEP, TOKENS};

const EPS: f64 = 1e-6;

/// What comes before the names of the encoder's tensors.
pub(super) const PREFIX: &str = "audio_spectrogram_transformer";

const ATTENTION: AttentionNames = AttentionNames {
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    out: "attention.output.dense",
};

/// The loaded network.
#[derive(Debug)]
pub(super) struct Network {
    patch: Linear,
    /// Class and distillation token with their positions, `(TOKENS, dim)`.
    tokens: Tensor,
    /// `(ROWS, columns, dim)`.
    positions: Tensor,
    blocks: Vec<TransformerBlock>,
    norm: Option<Norm>,
    columns: usize,
    layers: usize,
}

impl Network {
    /// The part of the network that hidden states up to `deepest` need.
    pub(super) fn new(root: &Part<'_>, config: &MaestConfig, deepest: usize) -> std::result::Result<Self, ModelError> {
        let MaestConfig { layers, dim, columns, .. } = *config;
        let whole = root.part(PREFIX);
        let embeddings = whole.part("embeddings");
        let patch = embeddings.part("patch_embeddings.projection").convolution(&[dim, 1, PATCH, PATCH], true)?;
        let class = embeddings.weight("cls_token", &[1, 1, dim])?;
        let distillation = embeddings.weight("distillation_token", &[1, 1, dim])?;
        let table = embeddings.weight("position_embeddings", &[1, TOKENS + ROWS * columns, dim])?.squeeze(0)?;
        let tokens = (Tensor::cat(&[class, distillation], 1)?.squeeze(0)? + table.narrow(0, 0, TOKENS)?)?;
        let pool = Pool::default();
        let block = |index: usize| block(&whole.part(format_args!("encoder.layer.{index}")), config, &pool);
        Ok(Self {
            patch: patch.ready()?,
            tokens,
            positions: table.narrow(0, TOKENS, ROWS * columns)?.reshape((ROWS, columns, dim))?,
            blocks: (0..layers.min(deepest)).map(block).collect::<std::result::Result<_, _>>()?,
            norm: if deepest > layers { Some(whole.part("layernorm").norm(dim, EPS)?) } else { None },
            columns,
            layers,
        })
    }

    /// Hidden states of `layers`.
    ///
    /// # Shapes
    /// Crops are `(frames, BANDS)`; results `(crops, TOKENS + ROWS columns, dim)`.
    pub(super) fn states(&self, crops: &[&Heard], layers: &[usize], form: Form) -> Result<Vec<Tensor>> {
        let mut kept = Kept::new(layers);
        let mut x = self.embed(crops, form)?;
        kept.offer(0, &x);
        for (index, block) in self.blocks.iter().enumerate().take(kept.deepest()) {
            x = block.forward(&x, form)?;
            kept.offer(index + 1, &x);
        }
        if let Some(norm) = self.norm.as_ref().filter(|_| kept.deepest() > self.layers) {
            kept.offer(self.layers + 1, &norm.forward(&x, form)?);
        }
        kept.finish()
    }

    /// Patches and tokens with their positions.
    fn embed(&self, crops: &[&Heard], form: Form) -> Result<Tensor> {
        let columns = crops.first().map_or(0, |crop| crop.positions);
        if columns > self.columns {
            bail!("the table of positions has {} columns, the crop {columns}", self.columns);
        }
        let patches: Vec<f32> = crops.iter().flat_map(|crop| patches(&crop.values, columns)).collect();
        let device = self.tokens.device();
        let patches = Tensor::from_vec(patches, (crops.len(), ROWS * columns, PATCH * PATCH), device)?;
        let dim = self.tokens.dim(1)?;
        let positions = self.positions.narrow(1, 0, columns)?.contiguous()?.reshape((ROWS * columns, dim))?;
        let patches = self.patch.forward(&patches, form)?.broadcast_add(&positions)?;
        let tokens = self.tokens.unsqueeze(0)?.broadcast_as((crops.len(), TOKENS, dim))?.contiguous()?;
        Tensor::cat(&[tokens, patches], 1)?.contiguous()
    }
}

fn block(part: &Part<'_>, config: &MaestConfig, pool: &Pool) -> std::result::Result<TransformerBlock, ModelError> {
    let MaestConfig { dim, heads, hidden, .. } = *config;
    let wide = part.part("intermediate.dense").linear(dim, hidden, true)?;
    let narrow = part.part("output.dense").linear(hidden, dim, true)?;
    Ok(TransformerBlock {
        norms: [part.part("layernorm_before").norm(dim, EPS)?, part.part("layernorm_after").norm(dim, EPS)?],
        attention: SelfAttention::new(part, &ATTENTION, dim, heads)?,
        feed_forward: FeedForward::new(wide, narrow, Activation::Gelu)?,
        pool: pool.clone(),
        norm_at: NormAt::Before,
    })
}

/// The patches of a spectrogram, row after row, each band after band.
///
/// # Shapes
/// `spectrogram (frames, BANDS)` to `(ROWS, columns, PATCH bands, PATCH frames)`.
fn patches(spectrogram: &[f32], columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(ROWS * columns * PATCH * PATCH);
    for row in 0..ROWS {
        for column in 0..columns {
            for band in 0..PATCH {
                out.extend((0..PATCH).map(|frame| spectrogram[(column * STEP + frame) * BANDS + row * STEP + band]));
            }
        }
    }
    out
}
