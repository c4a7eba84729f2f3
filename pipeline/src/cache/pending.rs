//! The rows of a track that is not complete yet.
//!
//! They may still be taken back, so they cannot go to the shard's file. A long track with wide rows (three hours of
//! spectrograms are two gigabytes) must not stand in memory either: what is beyond [`IN_MEMORY`] waits in a temporary
//! file beside it.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use omar_stages::storage::StorageError;
use omar_stages::storage::durable::temporary_for;

use super::writer::Temporary;

/// Bytes of rows that wait in memory.
const IN_MEMORY: usize = 32 << 20;

/// Rows in the order in which they came.
pub(super) struct Pending {
    /// Names temporary files.
    beside: PathBuf,
    schema: SchemaRef,
    /// The first rows.
    spilled: Option<Spilled>,
    /// Those after them.
    batches: Vec<RecordBatch>,
    bytes: usize,
}

struct Spilled {
    file: Temporary,
    writer: StreamWriter<BufWriter<File>>,
}

impl Pending {
    /// Nothing yet; temporary files will lie beside `path`.
    pub(super) fn new(path: &Path, schema: SchemaRef) -> Self {
        Self { beside: path.with_extension("rows"), schema, spilled: None, batches: Vec::new(), bytes: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.spilled.is_none()
    }

    /// Adds rows of `bytes` bytes.
    pub(super) fn push(&mut self, batch: RecordBatch, bytes: usize) -> Result<(), StorageError> {
        self.batches.push(batch);
        self.bytes += bytes;
        if self.bytes > IN_MEMORY { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<(), StorageError> {
        let spilled = match self.spilled.take() {
            Some(spilled) => spilled,
            None => {
                let file = Temporary(temporary_for(&self.beside));
                let opened = File::create(&file.0).map_err(|error| StorageError::io(&file.0, error))?;
                let writer =
                    StreamWriter::try_new_buffered(opened, &self.schema).map_err(|error| refused(&file.0, &error))?;
                Spilled { file, writer }
            }
        };
        let spilled = self.spilled.insert(spilled);
        for batch in self.batches.drain(..) {
            spilled.writer.write(&batch).map_err(|error| refused(&spilled.file.0, &error))?;
        }
        self.bytes = 0;
        Ok(())
    }

    /// Forgets the rows.
    pub(super) fn clear(&mut self) {
        (self.spilled, self.bytes) = (None, 0);
        self.batches.clear();
    }

    /// Hands out the rows, one batch after the other, and is then empty.
    pub(super) fn drain<E: From<StorageError>>(
        &mut self,
        mut take: impl FnMut(RecordBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        self.bytes = 0;
        if let Some(Spilled { file, mut writer }) = self.spilled.take() {
            let refused = |error| refused(&file.0, &error);
            writer.finish().map_err(refused)?;
            drop(writer);
            let opened = File::open(&file.0).map_err(|error| StorageError::io(&file.0, error))?;
            for batch in StreamReader::try_new(BufReader::new(opened), None).map_err(refused)? {
                take(batch.map_err(refused)?)?;
            }
        }
        self.batches.drain(..).try_for_each(take)
    }
}

fn refused(path: &Path, error: &ArrowError) -> StorageError {
    StorageError::io(path, std::io::Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Float32Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn batch(schema: &SchemaRef, first: u32) -> RecordBatch {
        let values: Float32Array = (first..first + 1_000_000).map(|value| Some(value as f32)).collect();
        RecordBatch::try_new(schema.clone(), vec![Arc::new(values)]).expect("a column")
    }

    #[test]
    fn a_long_track_waits_on_disk_in_order_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("x", DataType::Float32, false)]));
        let mut pending = Pending::new(&folder.path().join("s-0.parquet"), schema.clone());
        for taken_back in [true, false] {
            for part in 0..20 {
                pending.push(batch(&schema, part * 10), 4_000_000).expect("kept");
            }
            assert_eq!(files(), 1, "80 MB do not wait in memory");
            assert!(pending.batches.len() < 10);
            if taken_back {
                pending.clear();
            } else {
                let mut next = 0;
                let take = |rows: RecordBatch| {
                    assert_eq!(rows, batch(&schema, next * 10));
                    next += 1;
                    Ok::<(), StorageError>(())
                };
                pending.drain(take).expect("read back");
                assert_eq!(next, 20);
            }
            assert!(pending.is_empty());
            assert_eq!(files(), 0);
        }
    }
}
