//! The state of a corpus when a run was through with it, kept beside its caches, so that the next run can say what has
//! changed since.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use omar_schemas::{TrackId, column};
use omar_stages::storage::StorageError;
use omar_stages::storage::durable::{publish, temporary_for};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::List;

/// Folder of the snapshots in a cache.
const FOLDER: &str = "_corpus";

/// Rows that are read at a time, and written: few, since this is where a run over a small corpus needs most memory.
const ROWS: usize = 1 << 16;
const ROWS_WRITTEN: usize = 1 << 12;

/// Ids of recordings, in their order, with what tells whether they are still the same. Paths stay on disk.
#[derive(Debug, Default)]
pub struct Snapshot {
    rows: Vec<(TrackId, u64, u64)>,
}

impl Snapshot {
    /// Where the snapshot of a source is kept in a cache; `fingerprint` is that of the source, in hexadecimal. It is a
    /// parquet file, but not called one: whoever reads all parquet files of a cache wants its rows.
    pub fn path(cache: &Path, fingerprint: &str) -> PathBuf {
        cache.join(FOLDER).join(format!("{}.snapshot", fingerprint.get(..12).unwrap_or(fingerprint)))
    }

    /// Reads a snapshot. `None` if there is none, or none that can be read: it only serves a message.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn read(path: &Path) -> Result<Option<Self>, StorageError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(path, error)),
        };
        Ok(Self::parse(file).ok())
    }

    fn parse(file: File) -> Result<Self, Box<dyn std::error::Error>> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
        let wanted = ProjectionMask::columns(builder.parquet_schema(), ["track_id", "identity", "version"]);
        let mut rows = Vec::with_capacity(usize::try_from(builder.metadata().file_metadata().num_rows())?);
        for batch in builder.with_projection(wanted).with_batch_size(ROWS).build()? {
            let batch = batch?;
            let numbers = |name| column::<UInt64Array>(&batch, name);
            let (ids, identities, versions) = (numbers("track_id")?, numbers("identity")?, numbers("version")?);
            let values = ids.values().iter().zip(identities.values()).zip(versions.values());
            rows.extend(values.map(|((&id, &identity), &version)| (TrackId(id), identity, version)));
        }
        if rows.is_sorted_by(|a, b| a.0 < b.0) { Ok(Self { rows }) } else { Err("ids out of order".into()) }
    }

    /// Writes the snapshot of a list: after a crash there is the old one or the new one.
    ///
    /// # Errors
    /// When the file system or the parquet writer refuses.
    pub fn write(path: &Path, list: &List) -> Result<(), StorageError> {
        let refused = |source: ParquetError| StorageError::Parquet { path: path.to_owned(), source };
        let io = |error| StorageError::io(path, error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let number = |name| Field::new(name, DataType::UInt64, false);
        let schema = Arc::new(Schema::new(vec![
            number("track_id"),
            number("identity"),
            number("version"),
            Field::new("split", DataType::Utf8, false),
            Field::new("path", DataType::Utf8, false),
        ]));
        let zstd = Compression::ZSTD(ZstdLevel::try_new(1).map_err(refused)?);
        // A dictionary of what never repeats would only cost memory.
        let properties = WriterProperties::builder()
            .set_compression(zstd)
            .set_max_row_group_row_count(Some(16 * ROWS))
            .set_data_page_size_limit(1 << 16)
            .set_dictionary_enabled(false)
            .set_column_dictionary_enabled("split".into(), true);
        let temporary = temporary_for(path);
        let file = File::create(&temporary).map_err(io)?;
        let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties.build())).map_err(refused)?;
        for start in (0..list.len()).step_by(ROWS_WRITTEN) {
            let places = start..(start + ROWS_WRITTEN).min(list.len());
            let numbers = |of: &dyn Fn(usize) -> u64| -> ArrayRef {
                Arc::new(UInt64Array::from_iter_values(places.clone().map(of)))
            };
            let splits = StringArray::from_iter_values(places.clone().map(|at| list.split(at).as_str()));
            let paths = StringArray::from_iter_values(places.clone().map(|at| String::from_utf8_lossy(list.path(at))));
            let columns = vec![
                numbers(&|at| list.track_id(at).0),
                numbers(&|at| list.identity(at)),
                numbers(&|at| list.version(at)),
                Arc::new(splits) as ArrayRef,
                Arc::new(paths) as ArrayRef,
            ];
            let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema");
            writer.write(&batch).map_err(refused)?;
        }
        let file = writer.into_inner().map_err(refused)?;
        file.sync_all().map_err(io)?;
        drop(file);
        publish(&temporary, path)
    }

    /// Number of recordings.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The id at a place.
    pub fn track_id(&self, at: usize) -> TrackId {
        self.rows[at].0
    }

    /// See [`omar_stages::Recording::identity`].
    pub fn identity(&self, at: usize) -> u64 {
        self.rows[at].1
    }

    /// See [`List::version`].
    pub fn version(&self, at: usize) -> u64 {
        self.rows[at].2
    }
}
