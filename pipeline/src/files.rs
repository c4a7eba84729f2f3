//! Files that appear whole or not at all.

use std::path::Path;

use arrow::array::RecordBatch;
use omar_stages::storage::durable::write_durably;
use omar_stages::storage::{StorageError, write_table};

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {0}")]
pub(crate) struct WriteError(#[from] StorageError);

/// Writes text: after a crash there is the old file or the new one.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), WriteError> {
    Ok(write_durably(path, text.as_bytes())?)
}

/// Writes a small parquet file in the same way. Does nothing without batches.
///
/// # Errors
/// When the file system or the parquet writer refuses.
pub(crate) fn write_parquet(path: &Path, batches: &[RecordBatch]) -> Result<(), WriteError> {
    Ok(write_table(path, batches)?)
}
