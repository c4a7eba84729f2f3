//! What a model is: sizes, the published presets, and what can be read off published weights.

use super::error::ModelError;
use candle_core::Tensor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Named sizes. `base` and `large` are the published ones (model configuration of OMAR-RQ, section 3.2 of the paper).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Size {
    /// 4 layers of 192, 6 heads: trains on a laptop.
    Tiny,
    /// 12 layers of 512, 8 heads: the dimensions of `base`, under the other name that published configurations use.
    Small,
    /// 12 layers of 512, 8 heads: 73 M parameters.
    Base,
    /// 24 layers of 1024, 8 heads: 580 M parameters.
    Large,
}

impl Size {
    /// The configuration that the name stands for.
    pub fn config(self) -> ConformerConfig {
        let (layers, dim, heads, norm) = match self {
            Self::Tiny => (4, 192, 6, Norm::Deepnorm { alpha: None, beta: None }),
            Self::Small | Self::Base => (12, 512, 8, Norm::Deepnorm { alpha: Some(2.21), beta: Some(0.0026) }),
            Self::Large => (
                24,
                1024,
                8,
                Norm::Deepnorm { alpha: Some(2.632_148_025_904_984_8), beta: Some(0.022_386_873_579_657_126) },
            ),
        };
        ConformerConfig { norm, ..ConformerConfig::new(layers, dim, heads) }
    }
}

/// How the attention's residual sum is normalised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Norm {
    /// `x + attention(x)`.
    Plain,
    /// `LayerNorm(alpha x + attention(x))`, and initial weights scaled by `beta` (DeepNet, section 4).
    Deepnorm {
        /// Weight of the skip connection. Default: `(2 layers)^(1/4)` (DeepNet, table 1).
        #[serde(default)]
        alpha: Option<f64>,
        /// Scale of the initial feed-forward, value and output weights. Default: `(8 layers)^(-1/4)`.
        #[serde(default)]
        beta: Option<f64>,
    },
}

/// How attention knows positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PositionEncoding {
    /// Queries and keys rotated by their position (RoFormer), interleaved pairs over the whole head.
    Rotary,
    /// Sinusoids added to queries and keys.
    Sinusoidal,
}

/// The conformer: everything that shapes its computation, except the sizes of what goes in and comes out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConformerConfig {
    /// Number of blocks.
    pub layers: usize,
    /// Width of the hidden states.
    pub dim: usize,
    /// Attention heads; `dim` is a multiple of it.
    pub heads: usize,
    /// Width of the feed-forward layers over `dim`.
    #[serde(default = "default_ff_factor")]
    pub ff_factor: usize,
    /// Length of the depthwise convolution in positions, odd. The released models have 31 whatever their file says.
    #[serde(default = "default_kernel")]
    pub kernel: usize,
    /// Dropout in feed-forward, attention and convolution, 0 to below 1.
    #[serde(default = "default_dropout")]
    pub dropout: f64,
    /// Dropout of the embedded patches, 0 to below 1.
    #[serde(default)]
    pub input_dropout: f64,
    /// Weight of both feed-forward layers in their residual sums: 4.0 in the released models, 0.5 in the Conformer paper.
    #[serde(default = "default_residual_factor")]
    pub residual_factor: f64,
    /// Whether a position attends to itself and the past only, as in the released models.
    #[serde(default = "default_causal")]
    pub causal: bool,
    /// Normalisation of the attention's residual sum.
    #[serde(default = "default_norm")]
    pub norm: Norm,
    /// How attention knows positions.
    #[serde(default = "default_positions")]
    pub positions: PositionEncoding,
}

fn default_ff_factor() -> usize {
    4
}

fn default_kernel() -> usize {
    31
}

fn default_dropout() -> f64 {
    0.2
}

fn default_residual_factor() -> f64 {
    4.0
}

fn default_causal() -> bool {
    true
}

fn default_norm() -> Norm {
    Norm::Deepnorm { alpha: None, beta: None }
}

fn default_positions() -> PositionEncoding {
    PositionEncoding::Rotary
}

impl ConformerConfig {
    /// A conformer of these sizes, with the released models' other settings.
    pub fn new(layers: usize, dim: usize, heads: usize) -> Self {
        Self {
            layers,
            dim,
            heads,
            ff_factor: default_ff_factor(),
            kernel: default_kernel(),
            dropout: default_dropout(),
            input_dropout: 0.0,
            residual_factor: default_residual_factor(),
            causal: default_causal(),
            norm: default_norm(),
            positions: default_positions(),
        }
    }

    /// Weight of the skip connection around attention; `None` without DeepNorm.
    pub fn alpha(&self) -> Option<f64> {
        match self.norm {
            Norm::Plain => None,
            Norm::Deepnorm { alpha, .. } => Some(alpha.unwrap_or((2.0 * self.layers as f64).powf(0.25))),
        }
    }

    /// Scale of some initial weights; 1 without DeepNorm.
    pub fn beta(&self) -> f64 {
        match self.norm {
            Norm::Plain => 1.0,
            Norm::Deepnorm { beta, .. } => beta.unwrap_or((8.0 * self.layers as f64).powf(-0.25)),
        }
    }

    /// The norm with the weights filled in that follow from the depth.
    pub fn norm_in_numbers(&self) -> Norm {
        self.alpha().map_or(Norm::Plain, |alpha| Norm::Deepnorm { alpha: Some(alpha), beta: Some(self.beta()) })
    }

    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.dim / self.heads
    }

    /// Checks that such a model can exist.
    ///
    /// # Errors
    /// [`ModelError::Config`] for the first field that is wrong.
    pub fn validate(&self) -> Result<(), ModelError> {
        let fail = |field, reason: String| Err(ModelError::Config { field, reason });
        let sizes = [("layers", self.layers), ("dim", self.dim), ("heads", self.heads), ("ff_factor", self.ff_factor)];
        for (field, value) in sizes {
            if value == 0 {
                return fail(field, "expected at least 1, found 0".into());
            }
        }
        if !self.dim.is_multiple_of(self.heads) {
            return fail("heads", format!("`dim` {} is not a multiple of {} heads", self.dim, self.heads));
        }
        if self.positions == PositionEncoding::Rotary && !self.head_dim().is_multiple_of(2) {
            return fail("heads", format!("rotary positions need an even head width, found {}", self.head_dim()));
        }
        if self.kernel.is_multiple_of(2) {
            return fail("kernel", format!("expected an odd length, found {}", self.kernel));
        }
        for (field, value) in [("dropout", self.dropout), ("input_dropout", self.input_dropout)] {
            if !(0.0..1.0).contains(&value) {
                return fail(field, format!("expected 0 to below 1, found {value}"));
            }
        }
        let factors =
            [("residual_factor", self.residual_factor), ("alpha", self.alpha().unwrap_or(1.0)), ("beta", self.beta())];
        for (field, value) in factors {
            if !(value.is_finite() && value > 0.0) {
                return fail(field, format!("expected a positive number, found {value}"));
            }
        }
        Ok(())
    }

    /// Reads the sizes off the tensors `{prefix}layers.N...` of a published state dict.
    ///
    /// What shapes do not tell keeps the released models' setting: alpha 2.632 (that of `large`, the published default),
    /// residual factor 4, causal; heads are 8 where there are no rotary frequencies.
    ///
    /// # Errors
    /// [`ModelError::Layout`] when the tensors of block 0 are not there.
    pub fn infer(tensors: &HashMap<String, Tensor>, prefix: &str) -> Result<Self, ModelError> {
        let shape = |name: &str| {
            let name = format!("{prefix}layers.0.{name}");
            let tensor = tensors.get(&name).ok_or(ModelError::Layout { reason: format!("no tensor `{name}`") })?;
            Ok::<_, ModelError>(tensor.dims().to_vec())
        };
        let layers = (0..).take_while(|i| tensors.contains_key(&format!("{prefix}layers.{i}.norm2.weight"))).count();
        let (ff, conv) = (shape("ff1.module.1.weight")?, shape("conv_block.module.2.weight")?);
        let (&[hidden, dim], &[_, _, kernel]) = (&ff[..], &conv[..]) else {
            return Err(ModelError::Layout { reason: format!("feed-forward {ff:?}, depthwise convolution {conv:?}") });
        };
        let rotary = shape("attention.rotary_emb.freqs").ok();
        let heads = rotary.as_deref().and_then(|f| f.first()).map_or(8, |pairs| dim / (2 * pairs).max(1));
        let Norm::Deepnorm { alpha, beta } = Size::Large.config().norm else {
            return Err(ModelError::Layout { reason: "the large preset lost its norm".into() });
        };
        let deepnorm = shape("norm1.layer_norm.weight").is_ok();
        let config = Self {
            ff_factor: hidden / dim.max(1),
            kernel,
            norm: if deepnorm { Norm::Deepnorm { alpha, beta } } else { Norm::Plain },
            positions: if rotary.is_some() { PositionEncoding::Rotary } else { PositionEncoding::Sinusoidal },
            ..Self::new(layers, dim, heads)
        };
        config.validate()?;
        Ok(config)
    }
}

/// A masked model: the conformer between the width of a patch and the sizes of the codebooks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskedModelConfig {
    /// The conformer.
    pub conformer: ConformerConfig,
    /// Values per input patch.
    pub patch_dim: usize,
    /// Codes per codebook.
    pub codebook_size: usize,
    /// Predictions per position: views times codebooks.
    pub streams: usize,
}

impl MaskedModelConfig {
    /// Checks that such a model can exist.
    ///
    /// # Errors
    /// [`ModelError::Config`] for the first field that is wrong.
    pub fn validate(&self) -> Result<(), ModelError> {
        self.conformer.validate()?;
        for (field, value, least) in
            [("patch_dim", self.patch_dim, 1), ("codebook_size", self.codebook_size, 2), ("streams", self.streams, 1)]
        {
            if value < least {
                return Err(ModelError::Config { field, reason: format!("expected at least {least}, found {value}") });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_written_as_they_are_read() {
        for size in [Size::Tiny, Size::Small, Size::Base, Size::Large] {
            let config = size.config();
            config.validate().expect("a preset is valid");
            let json = serde_json::to_value(&config).expect("a configuration is JSON");
            assert_eq!(serde_json::from_value::<ConformerConfig>(json).expect("it reads back"), config);
        }
    }

    #[test]
    fn deepnorm_defaults_follow_the_depth() {
        // DeepNet, table 1, for 24 layers: the published alpha of `large`.
        let config = ConformerConfig::new(24, 1024, 8);
        assert!((config.alpha().expect("deepnorm is the default") - 2.632_148_025_904_984_8).abs() < 1e-12);
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (config, field) in [
            (ConformerConfig::new(2, 100, 8), "heads"),
            (ConformerConfig::new(2, 24, 8), "heads"),
            (ConformerConfig::new(0, 64, 8), "layers"),
            (ConformerConfig { kernel: 30, ..ConformerConfig::new(2, 64, 8) }, "kernel"),
            (ConformerConfig { dropout: 1.0, ..ConformerConfig::new(2, 64, 8) }, "dropout"),
        ] {
            let error = config.validate().expect_err("this configuration is wrong").to_string();
            assert!(error.starts_with(&format!("`{field}`")), "{error}");
        }
    }
}
