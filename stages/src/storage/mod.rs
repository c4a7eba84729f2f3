//! Rows on disk: what a cached node looks like, and how its rows are read back, one track at a time.
//!
//! ```text
//! <cache>/<fingerprint>/
//!     _node.json                        Node: what made these rows
//!     _commits/s-0110-1f2e3d4c.json     Commit: shard s-0110 is complete
//!     _commits/s-0110-1f2e3d4c.codes    CodeCounts: how often its tokens have each code (edge `tokens` only)
//!     s-0110-1f2e3d4c.parquet           TrackFile: its rows, grouped by track
//! ```
//!
//! A file counts only if its [`Commit`] exists and agrees with it; anything else in the folder is work that was never
//! finished. Writing, which follows the same protocol from the other side, is `omar_flow::cache`.

mod codes;
mod commit;
pub mod durable;
mod locate;
mod node;
mod predicted;
mod table;
mod track_file;

pub use codes::CodeCounts;
pub use commit::{COMMITS, Commit, RejectRecord, ShardKey, commits};
pub use locate::{Apart, LocateError, Located, locate, node_folders, tell_apart, utc};
pub use node::{EdgeDescription, NODE_FILE, Node, PROVENANCE_KEY, Upstream};
pub use predicted::{CropName, EXAMPLES_FILE, InputView, PredictedCrop, PredictedCrops};
pub use table::write_table;
pub use track_file::{Scan, TrackFile};

use std::path::{Path, PathBuf};

/// Rows cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The file system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not parquet, or damaged.
    #[error("`{}`: {source}", path.display())]
    Parquet {
        /// File.
        path: PathBuf,
        /// What the reader said.
        source: parquet::errors::ParquetError,
    },
    /// Parquet, but not of this kind.
    #[error("`{}`: {message}", path.display())]
    Content {
        /// File.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
}

impl StorageError {
    /// An I/O error with its path.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    fn parquet(path: &Path, source: parquet::errors::ParquetError) -> Self {
        Self::Parquet { path: path.to_owned(), source }
    }

    fn content(path: &Path, message: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), message: message.into() }
    }
}

impl From<StorageError> for crate::StageError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io { path, source } => Self::Io { path, source },
            StorageError::Parquet { path, source } => Self::Parquet { path, source },
            content @ StorageError::Content { .. } => Self::Failed(content.to_string()),
        }
    }
}
