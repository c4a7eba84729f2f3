use std::path::PathBuf;

use crate::model::ModelError;
use crate::model::import::ImportError;

/// An encoder cannot be imported, or not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncoderError {
    /// A file of a published model cannot be used.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The file system refused.
    #[error("`{path}`: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path leads to no encoder.
    #[error("`{path}` is no encoder: {reason}")]
    NotFound {
        /// As given.
        path: PathBuf,
        /// What was looked for, and how to get it.
        reason: String,
    },
    /// A file is damaged.
    #[error("`{path}`: {reason}")]
    Damaged {
        /// File.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// The tensors are not those of the model that the manifest or the configuration describes.
    #[error("`{path}`: {source}")]
    Model {
        /// File with the tensors.
        path: PathBuf,
        /// The first tensor that is missing or has another shape.
        source: ModelError,
    },
}

impl EncoderError {
    /// An I/O error with its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A damaged file.
    pub fn damaged(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), reason: reason.into() }
    }
}

impl From<crate::storage::StorageError> for EncoderError {
    fn from(error: crate::storage::StorageError) -> Self {
        match error {
            crate::storage::StorageError::Io { path, source } => Self::Io { path, source },
            other => Self::damaged("", other.to_string()),
        }
    }
}
