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
    /// The annotations of a recording are not what the task expects: its name, and what is wrong.
    #[error("`{0}`: {1}")]
    Task(String, String),
    /// The training of a probe stopped being a matter of numbers.
    #[error(
        "the {what} of the probe is {value} at step {step}: a learning rate that is too high, or vectors out of all proportion"
    )]
    Diverged {
        /// What is no number.
        what: &'static str,
        /// What it is.
        value: f64,
        /// Completed updates.
        step: u64,
    },
    /// Vectors that were put aside in a file cannot be read back.
    #[error("vectors in `{}`: {source}", path.display())]
    Vectors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A matrix product failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
