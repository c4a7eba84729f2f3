//! Reading the rows of single tracks from a parquet file.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use omar_schemas::{Origin, SchemaError, TrackId, column};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use super::{PROVENANCE_KEY, StorageError};

/// How many decoded row groups a file keeps. Tracks are read in their order in the file, or nearly so: one for the
/// reader that is ahead and one for those that are behind.
const DECODED_ROW_GROUPS: usize = 2;

/// About how much a batch of a scan holds.
const SCAN_BYTES: u64 = 16 << 20;

/// A parquet file whose rows belong to tracks.
///
/// Opening reads the footer. The first question about tracks reads the `track_id` column; reading a track then decodes
/// just the row groups it is in, once for all the tracks they hold.
#[derive(Debug)]
pub struct TrackFile {
    path: PathBuf,
    footer: ArrowReaderMetadata,
    schema: SchemaRef,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    index: Option<Arc<Index>>,
    decoded: VecDeque<(usize, RecordBatch)>,
}

#[derive(Debug, Default)]
struct Index {
    /// In the order of their first rows.
    tracks: Vec<TrackId>,
    spans: HashMap<TrackId, Vec<Span>>,
}

/// Consecutive rows of a track in a row group.
#[derive(Debug, Clone, Copy)]
struct Span {
    row_group: usize,
    start: usize,
    len: usize,
}

impl TrackFile {
    /// Opens a file and reads its footer.
    ///
    /// # Errors
    /// When it cannot be opened or is no parquet file.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let file = File::open(path).map_err(|error| StorageError::io(path, error))?;
        let footer = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|error| StorageError::parquet(path, error))?;
        let schema = edge_schema(footer.schema());
        let state = Mutex::new(State { file, index: None, decoded: VecDeque::new() });
        Ok(Self { path: path.to_owned(), footer, schema, state })
    }

    /// The schema of its batches: columns and constants of the edge, nothing that only describes the file.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The footer.
    pub fn metadata(&self) -> &ParquetMetaData {
        self.footer.metadata()
    }

    /// The description of the node that made the rows, as JSON, if the file has one.
    pub fn provenance(&self) -> Option<&str> {
        self.footer.schema().metadata().get(PROVENANCE_KEY).map(String::as_str)
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.metadata().row_groups().iter().map(|group| group.num_rows().unsigned_abs()).sum()
    }

    /// The tracks, in the order of their first rows.
    ///
    /// # Errors
    /// When the file cannot be read or has no track ids.
    pub fn tracks(&self) -> Result<Vec<TrackId>, StorageError> {
        Ok(self.locked().index(self)?.tracks.clone())
    }

    /// What the rows say about each track, in the order of their first rows.
    ///
    /// # Errors
    /// When the file cannot be read or lacks the origin columns.
    pub fn origins(&self) -> Result<Vec<Origin>, StorageError> {
        let mut origins: Vec<Origin> = Vec::new();
        let mut seen = HashSet::new();
        let refused = |error: SchemaError| StorageError::content(&self.path, error.to_string());
        for batch in self.scan(Some(&["track_id", "path", "split"]), None)? {
            let batch = batch?;
            let ids = column::<UInt64Array>(&batch, "track_id").map_err(refused)?;
            for (row, &id) in ids.values().iter().enumerate() {
                if origins.last().is_none_or(|last| last.track_id.0 != id) && seen.insert(id) {
                    origins.push(Origin::read(&batch, row).map_err(refused)?);
                }
            }
        }
        Ok(origins)
    }

    /// Batches of all rows or a selection of them, with all columns or some, in the order of the file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn scan(&self, columns: Option<&[&str]>, selection: Option<RowSelection>) -> Result<Scan, StorageError> {
        let file = File::open(&self.path).map_err(|error| StorageError::io(&self.path, error))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.footer.clone());
        let mut schema = self.schema.clone();
        if let Some(columns) = columns {
            let fields = schema.fields().iter().enumerate();
            let roots: Vec<usize> =
                fields.filter(|(_, field)| columns.contains(&field.name().as_str())).map(|(root, _)| root).collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
            schema = Arc::new(schema.project(&roots).map_err(|error| StorageError::parquet(&self.path, error.into()))?);
            builder = builder.with_projection(mask);
        } else {
            let bytes: i64 = self.metadata().row_groups().iter().map(RowGroupMetaData::total_byte_size).sum();
            let row = bytes.unsigned_abs() / self.rows().max(1) + 1;
            let rows = usize::try_from(SCAN_BYTES / row).unwrap_or(usize::MAX);
            builder = builder.with_batch_size(rows.clamp(1, 8192));
        }
        if let Some(selection) = selection {
            builder = builder.with_row_selection(selection);
        }
        let reader = builder.build().map_err(|error| StorageError::parquet(&self.path, error))?;
        Ok(Scan { path: self.path.clone(), schema, reader })
    }

    /// The rows of a track, in the order in which they were written. Where batches began and ended is not kept.
    /// Empty for a track that has no rows here.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_track(&self, track: TrackId) -> Result<Vec<RecordBatch>, StorageError> {
        let mut state = self.locked();
        let index = state.index(self)?;
        let spans = index.spans.get(&track).map_or(&[][..], Vec::as_slice);
        spans.iter().map(|span| Ok(state.row_group(self, span.row_group)?.slice(span.start, span.len))).collect()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        // What the lock guards is a cache: after a panic elsewhere its entries are still right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows of a row group, with one column or all.
    fn decode(&self, file: &File, number: usize, only: Option<&str>) -> Result<Option<RecordBatch>, StorageError> {
        let refused = |error: ParquetError| StorageError::parquet(&self.path, error);
        let file = file.try_clone().map_err(|error| StorageError::io(&self.path, error))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.footer.clone());
        if let Some(name) = only {
            let root =
                self.schema.index_of(name).map_err(|error| StorageError::content(&self.path, error.to_string()))?;
            let mask = ProjectionMask::roots(builder.parquet_schema(), [root]);
            builder = builder.with_projection(mask);
        }
        let rows = usize::try_from(self.metadata().row_group(number).num_rows()).unwrap_or(0);
        let mut reader = builder.with_row_groups(vec![number]).with_batch_size(rows.max(1)).build().map_err(refused)?;
        reader.next().transpose().map_err(|error| refused(error.into()))
    }
}

/// The batches of a [`TrackFile::scan`].
pub struct Scan {
    path: PathBuf,
    schema: SchemaRef,
    reader: ParquetRecordBatchReader,
}

impl Iterator for Scan {
    type Item = Result<RecordBatch, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next()?;
        let batch = batch.and_then(|batch| RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec()));
        Some(batch.map_err(|error| StorageError::parquet(&self.path, error.into())))
    }
}

impl State {
    fn index(&mut self, of: &TrackFile) -> Result<Arc<Index>, StorageError> {
        if let Some(index) = &self.index {
            return Ok(index.clone());
        }
        let mut index = Index::default();
        for row_group in 0..of.metadata().num_row_groups() {
            let mut first = 0;
            if let Some(batch) = of.decode(&self.file, row_group, Some("track_id"))? {
                let ids = column::<UInt64Array>(&batch, "track_id")
                    .map_err(|error| StorageError::content(&of.path, error.to_string()))?;
                for run in ids.values().chunk_by(|a, b| a == b) {
                    let track = TrackId(run[0]);
                    let spans = index.spans.entry(track).or_default();
                    if spans.is_empty() {
                        index.tracks.push(track);
                    }
                    spans.push(Span { row_group, start: first, len: run.len() });
                    first += run.len();
                }
            }
        }
        let index = Arc::new(index);
        self.index = Some(index.clone());
        Ok(index)
    }

    fn row_group(&mut self, of: &TrackFile, number: usize) -> Result<RecordBatch, StorageError> {
        if let Some(at) = self.decoded.iter().position(|decoded| decoded.0 == number) {
            let decoded = self.decoded.remove(at).expect("`at` was found here");
            self.decoded.push_front(decoded.clone());
            return Ok(decoded.1);
        }
        let batch = match of.decode(&self.file, number, None)? {
            Some(batch) => RecordBatch::try_new(of.schema.clone(), batch.columns().to_vec())
                .map_err(|error| StorageError::parquet(&of.path, error.into()))?,
            None => RecordBatch::new_empty(of.schema.clone()),
        };
        self.decoded.push_front((number, batch.clone()));
        self.decoded.truncate(DECODED_ROW_GROUPS);
        Ok(batch)
    }
}

/// What of a file's schema belongs to the edge. Readers and writers add remarks of their own.
fn edge_schema(schema: &Schema) -> SchemaRef {
    let of_edge = |key: &str| key.starts_with("omar.") && key != PROVENANCE_KEY;
    let mut metadata = schema.metadata().clone();
    metadata.retain(|key, _| of_edge(key));
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| {
            let mut metadata = field.metadata().clone();
            metadata.retain(|key, _| !key.starts_with("PARQUET:"));
            field.as_ref().clone().with_metadata(metadata)
        })
        .collect();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}
