//! Files that appear whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The file system refused.
    #[error("cannot write `{path}`: {source}")]
    Io {
        /// File.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Parquet refused.
    #[error("cannot write `{path}`: {source}")]
    Parquet {
        /// File.
        path: PathBuf,
        /// What the writer said.
        source: parquet::errors::ParquetError,
    },
}

/// Writes a file aside, syncs it, renames it, syncs the folder: after a crash there is the old file or the new one.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<(), WriteError> {
    let error = |source| WriteError::Io { path: path.to_owned(), source };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(error)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = folder.join(format!(".{name}.tmp.{}", std::process::id()));
    let mut file = File::create(&aside).map_err(error)?;
    write(&mut file).and_then(|()| file.sync_all()).map_err(error)?;
    fs::rename(&aside, path).map_err(error)?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(error)
}

/// [`write_atomically`] for text.
///
/// # Errors
/// When the file system refuses.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<(), WriteError> {
    write_atomically(path, |file| file.write_all(text.as_bytes()))
}

/// [`write_atomically`] for a small parquet file. Does nothing without batches.
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
    write_atomically(path, |file| file.write_all(&bytes))
}
