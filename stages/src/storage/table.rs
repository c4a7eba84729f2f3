//! Small parquet files, written whole.

use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::StorageError;
use super::durable::write_durably;

/// Writes batches of one schema: after a crash there is the old file or the new one. Does nothing without batches.
///
/// # Errors
/// When the file system or the parquet writer refuses.
pub fn write_table(path: &Path, batches: &[RecordBatch]) -> Result<(), StorageError> {
    let Some(first) = batches.first() else { return Ok(()) };
    let error = |source| StorageError::Parquet { path: path.to_owned(), source };
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of zstd")))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, first.schema(), Some(properties)).map_err(error)?;
    batches.iter().try_for_each(|batch| writer.write(batch)).map_err(error)?;
    writer.close().map_err(error)?;
    write_durably(path, &bytes)
}
