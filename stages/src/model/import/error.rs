use std::path::PathBuf;

/// A file of a published model cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file system refused.
    #[error("`{path}`: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The checkpoint is damaged, or of a kind that is not read.
    #[error("`{path}`: {reason}")]
    Checkpoint {
        /// File.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        reason: String,
    },
    /// The checkpoint names something that is neither a tensor nor its storage.
    #[error(
        "`{path}` refers to `{global}`, which is no part of a tensor: refused. Only tensors are read, and nothing in a \
         checkpoint is executed; save the state dict alone, `torch.save(model.state_dict(), path)`"
    )]
    Foreign {
        /// File.
        path: PathBuf,
        /// `module.name` as the pickle has it.
        global: String,
    },
    /// A line of a configuration cannot be read or followed.
    #[error("{file}:{line}: {message}")]
    Config {
        /// File as it was named.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Expected and found.
        message: String,
    },
    /// Configuration and tensors do not describe one model.
    #[error("{0}")]
    Mismatch(String),
}

impl ImportError {
    /// An I/O error with its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// A damaged checkpoint.
    pub fn checkpoint(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.into(), reason: reason.into() }
    }
}
