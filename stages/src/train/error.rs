use crate::model::ModelError;
use std::path::PathBuf;
use thiserror::Error;

/// Why training cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The model is impossible, or a tensor operation failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A setting that no training can have.
    #[error("`{field}`: {reason}")]
    Config {
        /// The offending field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The minibatch is not what the model was made for.
    #[error("minibatch: {what} has shape {found:?}, expected {expected}")]
    Minibatch {
        /// Which of its tensors.
        what: &'static str,
        /// Shape found.
        found: Vec<usize>,
        /// Shape expected, in words.
        expected: String,
    },
    /// Loss or gradients are no numbers any more. The weights are those of the step before.
    #[error("step {step}: {what} is not finite; lower the learning rate, or set `clip`")]
    NotFinite {
        /// The step, counted from 1.
        step: u64,
        /// The loss, or the first gradient concerned.
        what: String,
    },
    /// No position was masked, however often a mask was drawn.
    #[error("step {step}: none of {positions} positions was masked; raise the mask's probability, or shorten its span")]
    NothingMasked {
        /// The step, counted from 1.
        step: u64,
        /// Positions in the minibatch.
        positions: usize,
    },
    /// The other processes cannot be reached, or do something else.
    #[error(transparent)]
    Collective(super::CollectiveError),
    /// A file of a checkpoint could not be read or written.
    #[error("`{path}`: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint does not hold what it should.
    #[error("checkpoint `{path}`: {reason}")]
    Checkpoint {
        /// Its folder.
        path: PathBuf,
        /// What is missing or different.
        reason: String,
    },
}

impl From<super::CollectiveError> for TrainError {
    fn from(error: super::CollectiveError) -> Self {
        match error {
            super::CollectiveError::Tensor(error) => error.into(),
            other => Self::Collective(other),
        }
    }
}

impl From<candle_core::Error> for TrainError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(ModelError::Tensor(error))
    }
}
