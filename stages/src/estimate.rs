//! What a stage expects to take, said before it runs.

use serde::Serialize;

/// The size of a training, from its configuration alone: nothing is built or measured for it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Estimate {
    /// Updates in all.
    pub steps: u64,
    /// Crops per update.
    pub minibatch: usize,
    /// Positions of a crop.
    pub positions: usize,
    /// Positions per second of audio.
    pub rate_hz: f64,
    /// Seconds of audio in a crop.
    pub crop_s: f64,
    /// Trained values.
    pub parameters: u64,
    /// Those of them that are in the prediction head, which nothing but training needs.
    pub head_parameters: u64,
    /// Floating-point operations of one update, forward and backward, a multiplication and an addition being two.
    pub flop_per_step: f64,
    /// Bytes that an update needs.
    pub memory: Memory,
}

/// Where the memory of a training goes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// The optimiser's two moments, and averaged weights where they are kept.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass, and the logits.
    pub activations: u64,
}

impl Estimate {
    /// Floating-point operations of the whole training.
    pub fn flop(&self) -> f64 {
        self.flop_per_step * self.steps as f64
    }

    /// Seconds of audio that one update sees.
    pub fn audio_s_per_step(&self) -> f64 {
        self.minibatch as f64 * self.crop_s
    }
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations
    }
}
