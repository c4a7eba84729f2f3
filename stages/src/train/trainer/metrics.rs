//! What goes into a step, and what comes out of it.

use candle_core::Tensor;

/// Names one crop of the corpus, for random draws that do not depend on where it turns up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropKey {
    /// Its track.
    pub track: u64,
    /// Which of the track's crops.
    pub crop: u64,
}

/// The examples of one step.
#[derive(Clone, Debug)]
pub struct Minibatch {
    /// Input patches, `(batch, positions, patch_dim)` f32.
    pub patches: Tensor,
    /// Targets, `(batch, positions, streams)` u32.
    pub tokens: Tensor,
    /// One key per example.
    pub keys: Vec<CropKey>,
}

/// What one step did.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// The step, counted from 1.
    pub step: u64,
    /// Cross-entropy in nats, mean over masked (position, stream) pairs, before the update.
    pub loss: f64,
    /// Share of those whose most likely code is the target.
    pub accuracy: f64,
    /// The same per stream.
    pub stream_accuracy: Vec<f32>,
    /// Learning rate of the update.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Masked positions.
    pub masked: usize,
}

/// What a minibatch is predicted like, without an update. Sums, so that several add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidMetrics {
    /// Masked positions.
    pub masked: usize,
    /// Sum over masked positions of the cross-entropy, mean over streams, in nats.
    pub loss: f64,
    /// Per stream, the masked positions whose most likely code is the target.
    pub correct: Vec<u64>,
}

impl ValidMetrics {
    /// Adds another minibatch.
    pub fn add(&mut self, other: &Self) {
        self.masked += other.masked;
        self.loss += other.loss;
        self.correct.resize(self.correct.len().max(other.correct.len()), 0);
        for (sum, correct) in self.correct.iter_mut().zip(&other.correct) {
            *sum += correct;
        }
    }

    /// Mean loss, accuracy and accuracy per stream.
    pub fn means(&self) -> (f64, f64, Vec<f32>) {
        let (accuracy, stream_accuracy) = accuracies(&self.correct, self.masked);
        (self.loss / self.masked.max(1) as f64, accuracy, stream_accuracy)
    }
}

/// Accuracy over all streams, and per stream.
pub(super) fn accuracies(correct: &[u64], rows: usize) -> (f64, Vec<f32>) {
    let share = |correct: u64, of: usize| correct as f64 / of.max(1) as f64;
    let per_stream = correct.iter().map(|c| share(*c, rows) as f32).collect();
    (share(correct.iter().sum(), rows * correct.len()), per_stream)
}
