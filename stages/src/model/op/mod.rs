//! Differentiable operations. Each is a function that takes a [`Form`](super::Form): as kernels of ours with a
//! hand-written gradient, or composed of candle's operations for other devices, and as the oracle of the former.
//!
//! The composed forms avoid what candle 0.11.1 gets silently wrong: no `conv1d` (its weight gradient is wrong for more
//! than one example), no batched product of a transposed tensor with a broadcast one (its result is wrong), none of
//! candle-nn's fused operations (they cut the graph). `tests/parity_model.rs` notices when that changes.

mod activation;
mod attention;
mod attention_in_pieces;
mod batch_norm;
mod depthwise;
pub(super) mod given;
mod layer_norm;
mod linear;
mod residual;

pub use activation::{gelu, glu};
pub use attention::{AttentionShape, attention};
pub(crate) use batch_norm::{add_up, inverse_deviation, minibatch_moments};
pub use batch_norm::{batch_norm_gelu_evaluate, batch_norm_gelu_train};
pub use depthwise::depthwise;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use residual::{dropout, residual};

use super::pass::Dropout;
use candle_core::{CpuStorage, Result, Tensor};

/// A new CPU tensor from the values of a kernel.
fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

/// What a kernel's forward pass gives back to candle.
fn stored(values: Vec<f32>, shape: &candle_core::Shape) -> (CpuStorage, candle_core::Shape) {
    (CpuStorage::F32(values), shape.clone())
}

/// The last dimension.
fn columns(shape: &candle_core::Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1)
}

/// Rows of the last dimension that one example has.
fn rows_per_example(x: &Tensor) -> usize {
    x.dims().iter().skip(1).rev().skip(1).product()
}

/// The dropout of a tensor like `x`.
fn over(drop: Option<Dropout>, x: &Tensor) -> Option<Dropout> {
    drop.map(|drop| drop.per_example(rows_per_example(x)))
}

#[cfg(test)]
mod tests;
