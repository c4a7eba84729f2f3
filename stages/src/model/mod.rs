//! The model of OMAR-RQ: a conformer over masked patches of audio that predicts the tokens of what was masked.
//!
//! The principal types: [`ConformerConfig`] says what a conformer is, [`Encoder`] embeds patches and gives hidden states,
//! [`MaskedModel`] adds the head, [`Weights`] names every tensor as published weights do, [`Pass`] is one run with its
//! dropout and batch statistics, [`Masking`] hides spans of the input. The mathematics is in `op`, once as kernels for
//! the CPU with hand-written gradients and once composed of candle's operations; `kernel` holds the inner loops.
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use omar_stages::model::{ConformerConfig, Encoder, Form, Pass, Source};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ConformerConfig::new(2, 32, 4);
//! let (encoder, weights) = Encoder::new(&config, 96 * 4, Source::Seed(142), &Device::Cpu)?;
//! let patches = Tensor::zeros((1, 50, 96 * 4), candle_core::DType::F32, &Device::Cpu)?;
//! let layers = encoder.forward_layers(&patches, &mut Pass::evaluate(Form::Kernels))?;
//! assert_eq!(layers[1].dims(), [1, 50, 32]);
//! assert!(weights.parameters().contains_key("net.layers.1.attention.qkv.weight"));
//! # Ok(())
//! # }
//! ```

mod config;
mod conformer;
mod convolution;
mod cost;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
#[cfg(test)]
#[path = "cuda/on_host.rs"]
mod cuda_on_host;
mod error;
mod feed_forward;
mod frozen;
mod fused;
pub mod import;
pub(crate) mod kernel;
mod layers;
mod masked_model;
mod masking;
pub mod op;
mod pass;
mod random;
mod rotary;
mod self_attention;
mod tape;
pub(crate) mod weights;

pub use config::{ConformerConfig, MaskedModelConfig, Norm, PositionEncoding, Size};
pub use conformer::Conformer;
pub use cost::{Cost, Flop, activation_bytes, gemm_rate};
#[cfg(feature = "cuda")]
pub use cuda::use_cuda_kernels;
pub use error::ModelError;
pub(crate) use frozen::{FrozenEncoder, Map};
pub use masked_model::{Encoder, EncoderTape, MaskedModel, bare_conformer};
pub use masking::{MaskMethod, Masking};
pub use pass::{Across, BatchStatistics, Dropout, Form, Pass, Precision};
pub use random::Stream;
pub use rotary::{Angles, rotary_frequencies, sinusoidal_for_qkv};
pub use tape::{Keep, Ready, Tape};
pub use weights::{Source, Weights};
