//! The three ways in which things go wrong: a graph that does not fit together, a run that must stop, a recording that
//! cannot be used.

use std::path::PathBuf;

use omar_schemas::SchemaError;

use crate::encoder::EncoderError;

/// A node cannot be built from its parameters and inputs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct BindError {
    /// What is to blame, so that the message can point at it.
    pub at: At,
    /// One sentence: what was expected and what was found.
    pub message: String,
    /// How to mend it.
    pub hint: Option<String>,
    /// The edge that is wanted at the port, where one of another kind arrives.
    pub wanted: Option<&'static str>,
}

/// The part of a node that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The node as a whole.
    Node,
    /// A parameter, as a path: `views.mel.hop_len`.
    Param(String),
    /// What arrives at a port.
    Input(String),
}

impl BindError {
    /// A parameter is wrong.
    pub fn param(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: At::Param(path.into()), message: message.into(), hint: None, wanted: None }
    }

    /// An input edge is wrong.
    pub fn input(port: impl Into<String>, source: SchemaError) -> Self {
        let message = source.to_string();
        let wanted = match source {
            SchemaError::Edge { expected, .. } => Some(expected),
            _ => None,
        };
        Self { at: At::Input(port.into()), message, hint: None, wanted }
    }

    /// Input edge `port` has the right kind but unsuitable constants.
    pub fn input_spec(port: impl Into<String>, message: impl Into<String>) -> Self {
        Self { at: At::Input(port.into()), message: message.into(), hint: None, wanted: None }
    }

    /// The node as a whole is wrong.
    pub fn node(message: impl Into<String>) -> Self {
        Self { at: At::Node, message: message.into(), hint: None, wanted: None }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The run cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The file system refused.
    #[error("`{path}`: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A batch is not what its edge promises.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Parquet refused.
    #[error("`{path}`: {source}")]
    Parquet {
        /// File.
        path: PathBuf,
        /// What the reader said.
        source: parquet::errors::ParquetError,
    },
    /// candle refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl From<EncoderError> for StageError {
    fn from(error: EncoderError) -> Self {
        match error {
            EncoderError::Io { path, source } => Self::Io { path, source },
            other => Self::Failed(other.to_string()),
        }
    }
}

impl StageError {
    /// An I/O error with its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

/// One recording cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// A short word to group by: `io`, `corrupt`, `truncated`, `unsupported`, `mismatch`, `too_long`, `too_short`, ...
    pub class: &'static str,
    /// One sentence for people.
    pub message: String,
    /// Whether trying again at once is of no use, as that was done already where it failed, or the answer is final.
    pub settled: bool,
}

impl Rejection {
    /// From a class and a sentence.
    pub fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), settled: false }
    }

    /// Says that trying again at once is of no use.
    #[must_use]
    pub fn settled(self, settled: bool) -> Self {
        Self { settled, ..self }
    }
}
