//! What can go wrong with probes.

use std::path::PathBuf;

/// A probe cannot be fitted, or its labels cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The list of labels is malformed.
    #[error("`{}`{}: {message}", path.display(), line.map_or(String::new(), |line| format!(", line {line}")))]
    Labels {
        /// The list.
        path: PathBuf,
        /// From 1, where there is one.
        line: Option<u64>,
        /// What is wrong.
        message: String,
    },
    /// Sizes that do not fit together.
    #[error("{0}")]
    Shape(String),
    /// The penalised loss stopped being a number.
    #[error(
        "the loss of the regression is {loss} after {iterations} iterations: the vectors hold values out of all proportion"
    )]
    NotFinite {
        /// What it is.
        loss: f64,
        /// Accepted steps so far.
        iterations: usize,
    },
    /// A matrix product failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
