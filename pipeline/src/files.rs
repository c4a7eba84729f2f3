//! Files that appear whole or not at all.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use omar_stages::storage::StorageError;
use omar_stages::storage::durable::write_durably;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The file system refused.
    #[error("cannot write {0}")]
    Storage(#[from] StorageError),
    /// Parquet refused.
    #[error("cannot write `{path}`: {source}")]
    Parquet {
        /// File.
        path: PathBuf,
        /// What the writer said.
        source: parquet::errors::ParquetError,
    },
}

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
    let Some(first) = batches.first() else { return Ok(()) };
    let error = |source| WriteError::Parquet { path: path.to_owned(), source };
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of zstd")))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, first.schema(), Some(properties)).map_err(error)?;
    batches.iter().try_for_each(|batch| writer.write(batch)).map_err(error)?;
    writer.close().map_err(error)?;
    Ok(write_durably(path, &bytes)?)
}
