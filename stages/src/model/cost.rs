//! What a model costs, from its configuration: parameters, floating-point operations, memory.
//!
//! With `d` the width, `f` the feed-forward factor, `k` the kernel, `T` the positions of a crop, `L` the layers, a block
//! takes for every position of a forward pass, a multiplication and an addition being two operations,
//!
//! ```text
//! two feed-forward layers     2 (2 d f d + 2 f d d) = 8 f d²
//! queries, keys, values, out  2 d 3d + 2 d d        = 8 d²
//! scores and weighted values  2 (2 d T)             = 4 d T, half of it (and the diagonal) where attention is causal
//! convolution                 2 d 2d + 2 k d + 2 d d = 6 d² + 2 k d
//! ```
//!
//! and a backward pass twice that: gradients of inputs and of weights. The embedding's input needs none, so it counts
//! twice and not three times; the head is computed for masked positions only. Norms, activations and the optimiser are
//! left out: they are bound by memory, and below two percent.

use super::config::{ConformerConfig, MaskedModelConfig};
use super::tape::Keep;
use candle_core::{DType, Device, Result, Tensor};
use std::time::{Duration, Instant};

/// Bytes of a value: f32.
const VALUE: u64 = 4;
/// Logits that exist at a time in training, and how often (they and a product of theirs).
const LOGITS: (u64, u64) = (1 << 23, 2);

/// Trained values of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Of the patch embedding.
    pub embedding: u64,
    /// Of one block.
    pub block: u64,
    /// Of all blocks.
    pub blocks: u64,
    /// Of the prediction head.
    pub head: u64,
}

/// Floating-point operations of one forward pass over one crop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flop {
    /// Of the patch embedding.
    pub embedding: f64,
    /// Of all blocks.
    pub blocks: f64,
    /// Of the head at masked positions.
    pub head: f64,
}

impl Cost {
    /// Counts the parameters that [`MaskedModel`](super::MaskedModel) creates.
    pub fn of(config: &MaskedModelConfig) -> Self {
        let (conformer, d) = (&config.conformer, config.conformer.dim as u64);
        let block = block(conformer);
        let outputs = (config.codebook_size * config.streams) as u64;
        Self {
            embedding: linear(config.patch_dim as u64, d),
            block,
            blocks: block * conformer.layers as u64,
            head: linear(d, outputs),
        }
    }

    /// All trained values.
    pub fn total(&self) -> u64 {
        self.embedding + self.blocks + self.head
    }
}

/// Weight and bias.
fn linear(from: u64, to: u64) -> u64 {
    from * to + to
}

fn block(config: &ConformerConfig) -> u64 {
    let (d, f, k) = (config.dim as u64, config.ff_factor as u64, config.kernel as u64);
    let norm = 2 * d;
    let feed_forward = norm + linear(d, f * d) + linear(f * d, d);
    // The fused projection has no bias. The norm after attention is there with DeepNorm only.
    let attention = 3 * d * d + linear(d, d) + if config.alpha().is_some() { norm } else { 0 };
    let convolution = norm + linear(d, 2 * d) + (k * d + d) + norm + linear(d, d);
    2 * feed_forward + attention + convolution + norm
}

impl Flop {
    /// One forward pass over a crop of `positions`, of which `masked` (a share, 0 to 1) are predicted.
    pub fn forward(config: &MaskedModelConfig, positions: usize, masked: f64) -> Self {
        let c = &config.conformer;
        let (d, f, k, t) = (c.dim as f64, c.ff_factor as f64, c.kernel as f64, positions as f64);
        let seen = if c.causal { (t + 1.0) / 2.0 } else { t };
        let block = (8.0 * f + 14.0) * d * d + 4.0 * d * seen + 2.0 * k * d;
        Self {
            embedding: t * 2.0 * config.patch_dim as f64 * d,
            blocks: t * c.layers as f64 * block,
            head: t * masked * 2.0 * d * (config.codebook_size * config.streams) as f64,
        }
    }

    /// Forward and backward pass together. With [`Keep::Inputs`] the blocks go forward twice.
    pub fn training(self, keep: Keep) -> f64 {
        let again = if keep == Keep::Inputs { self.blocks } else { 0.0 };
        2.0 * self.embedding + 3.0 * (self.blocks + self.head) + again
    }
}

/// Bytes that a training step over `crops` crops holds beside weights and their like, as this crate's kernels do it on
/// a CPU: what forward passes leave for backward passes, what one block needs while it goes back, and one piece of
/// logits. With [`Keep::Inputs`] only the inputs of the blocks and the rest of one of them.
pub fn activation_bytes(config: &MaskedModelConfig, positions: usize, crops: usize, keep: Keep) -> u64 {
    let c = &config.conformer;
    let (d, f) = (c.dim as u64, c.ff_factor as u64);
    // In units of d. Feed-forward: its input and the wide hidden values. Attention: its input, queries, keys, values,
    // what was attended to, with DeepNorm the sum. Convolution: its input, both expanded halves, the convolved values.
    // The sum before the last norm.
    let kept = 2 * (1 + f) + 5 + u64::from(c.alpha().is_some()) + 4 + 1;
    // On the way back: activated values and their gradients, gradients of projections and sums.
    let under_way = 2 * f + 6;
    let (rows, layers) = ((positions * crops) as u64, c.layers as u64);
    let blocks = match keep {
        Keep::Everything => layers * kept,
        Keep::Inputs => layers + kept,
    };
    let ends = rows * (2 * config.patch_dim as u64 + 2 * d);
    let outputs = (config.codebook_size * config.streams) as u64;
    let logits = LOGITS.1 * LOGITS.0.min(rows * outputs);
    VALUE * (rows * (blocks + under_way) * d + ends + logits)
}

/// Floating-point operations per second that the matrix product of this machine's CPU reaches in f32, all threads
/// together: the best of what fits into `time`, of a product as it is in a model of width 512.
///
/// # Errors
/// When a tensor operation fails.
pub fn gemm_rate(time: Duration) -> Result<f64> {
    let (m, k, n) = (1024, 512, 2048);
    let a = Tensor::ones((m, k), DType::F32, &Device::Cpu)?;
    let b = Tensor::ones((k, n), DType::F32, &Device::Cpu)?;
    let flop = 2.0 * (m * k * n) as f64;
    let (begun, mut best) = (Instant::now(), f64::MAX);
    while begun.elapsed() < time || best == f64::MAX {
        let started = Instant::now();
        let product = a.matmul(&b)?;
        best = best.min(started.elapsed().as_secs_f64());
        drop(product);
    }
    Ok(flop / best.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MaskedModel, Norm, Size, Source};

    fn config(conformer: ConformerConfig) -> MaskedModelConfig {
        MaskedModelConfig { conformer, patch_dim: 24, codebook_size: 32, streams: 3 }
    }

    #[test]
    fn parameters_are_those_of_the_built_model() {
        let base = ConformerConfig { layers: 1, ..Size::Base.config() };
        let plain = ConformerConfig { norm: Norm::Plain, kernel: 5, ff_factor: 2, ..ConformerConfig::new(2, 32, 4) };
        for conformer in [Size::Tiny.config(), base, plain] {
            let config = config(conformer);
            let model = MaskedModel::new(&config, Source::Seed(1), &Device::Cpu).expect("the model is valid");
            assert_eq!(Cost::of(&config).total(), model.weights().count() as u64, "{config:?}");
        }
    }

    #[test]
    fn the_published_sizes_have_their_published_parameters() {
        // The blocks: the paper and its released weights.
        for (size, millions) in [(Size::Base, 72.7), (Size::Large, 580.2)] {
            let found = Cost::of(&config(size.config())).blocks as f64 / 1e6;
            assert!((found - millions).abs() < 0.3, "{size:?}: {found}");
        }
    }

    #[test]
    fn operations_agree_with_a_count_by_hand() {
        // One layer, width 4, factor 2, kernel 3, 10 positions, half of them masked; patches of 6, 5 codes x 2 streams.
        let conformer = ConformerConfig { ff_factor: 2, kernel: 3, causal: false, ..ConformerConfig::new(1, 4, 2) };
        let config = MaskedModelConfig { conformer, patch_dim: 6, codebook_size: 5, streams: 2 };
        let flop = Flop::forward(&config, 10, 0.5);
        // Products (m, k, n) of a position: embedding 1x6x4; feed-forward twice 1x4x8 and 1x8x4; attention 1x4x12,
        // scores 1x4x10, values 1x10x4, out 1x4x4; convolution 1x4x8, depthwise 4 of 3, 1x4x4; head 1x4x10.
        let products = |list: &[(usize, usize)]| list.iter().map(|(k, n)| 2 * k * n).sum::<usize>() as f64;
        assert_eq!(flop.embedding, 10.0 * products(&[(6, 4)]));
        let feed_forward = [(4, 8), (8, 4), (4, 8), (8, 4)];
        let block = products(&feed_forward) + products(&[(4, 12), (4, 10), (10, 4), (4, 4), (4, 8), (3, 4), (4, 4)]);
        assert_eq!(flop.blocks, 10.0 * block);
        assert_eq!(flop.head, 5.0 * products(&[(4, 10)]));
        let once = 2.0 * flop.embedding + 3.0 * (flop.blocks + flop.head);
        assert_eq!([Keep::Everything, Keep::Inputs].map(|keep| flop.training(keep)), [once, once + flop.blocks]);
        let causal = MaskedModelConfig { conformer: ConformerConfig { causal: true, ..config.conformer }, ..config };
        // Position i sees i + 1 positions: 55 of 100 scores.
        let less = 2.0 * 2.0 * 4.0 * (100.0 - 55.0);
        assert_eq!(Flop::forward(&causal, 10, 0.5).blocks, flop.blocks - less);
    }

    #[test]
    fn recomputation_keeps_one_input_a_block() {
        let config = config(ConformerConfig::new(10, 64, 4));
        let bytes = |keep| activation_bytes(&config, 100, 8, keep);
        let (all, inputs) = (bytes(Keep::Everything), bytes(Keep::Inputs));
        // 21 widths of every position of every block, for one block and ten inputs.
        assert_eq!(all - inputs, 4 * 800 * 64 * (10 * 21 - (10 + 21)));
    }

    #[test]
    fn a_matrix_product_can_be_timed() {
        let rate = gemm_rate(Duration::ZERO).expect("the CPU multiplies");
        assert!(rate.is_finite() && rate > 1e6, "{rate}");
    }
}
