//! Writing one shard.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use omar_stages::storage::durable::{self, temporary_for, write_durably};
use omar_stages::storage::{Commit, Node, PROVENANCE_KEY, RejectRecord, ShardKey, StorageError};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::pending::Pending;
use super::{CacheError, record_path, standing};

/// A row group ends with the first track that brings it to this many bytes in memory, or to [`GROUP_ROWS`]: what has
/// to be decoded to read one track.
const GROUP_BYTES: usize = 4 << 20;
const GROUP_ROWS: usize = 1000;

/// A track longer than this spans several row groups, so that a reader never holds more.
const GROUP_BYTES_MAX: usize = 32 << 20;

/// Writes the rows of one shard, track by track, and commits them. Dropped before that, it leaves nothing behind.
pub struct ShardWriter {
    folder: PathBuf,
    node: String,
    schema: SchemaRef,
    shard: ShardKey,
    file_name: String,
    temporary: Temporary,
    writer: ArrowWriter<Hashed>,
    track: Pending,
    group: Group,
    rows: u64,
    tracks: u64,
}

/// The row group being written.
#[derive(Default)]
struct Group {
    bytes: usize,
    rows: usize,
}

impl ShardWriter {
    pub(super) fn create(folder: &Path, node: &Node, schema: &SchemaRef, shard: ShardKey) -> Result<Self, CacheError> {
        let file_name = format!("{}.parquet", shard.stem());
        let path = temporary_for(&folder.join(&file_name));
        let track = Pending::new(&folder.join(&file_name), schema.clone());
        let file = File::create(&path).map_err(|error| StorageError::io(&path, error))?;
        let temporary = Temporary(path);
        let refused = |error| StorageError::Parquet { path: temporary.0.clone(), source: error };
        let properties = properties(node, schema).map_err(refused)?;
        let writer = ArrowWriter::try_new(Hashed::new(file), schema.clone(), Some(properties)).map_err(refused)?;
        Ok(Self {
            folder: folder.to_owned(),
            node: node.node.clone(),
            schema: schema.clone(),
            shard,
            file_name,
            temporary,
            writer,
            track,
            group: Group::default(),
            rows: 0,
            tracks: 0,
        })
    }

    /// Adds rows to the current track. They wait until it ends, in memory as far as they are few.
    ///
    /// # Errors
    /// When they are not of the store's schema, or the file system refuses.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), CacheError> {
        if !Arc::ptr_eq(&self.schema, batch.schema_ref()) && self.schema != *batch.schema_ref() {
            let message = format!("expected rows of {}, found {}", self.schema, batch.schema_ref());
            return Err(CacheError::Rows { node: self.node.clone(), message });
        }
        if batch.num_rows() > 0 {
            self.track.push(batch.clone(), bytes(batch))?;
        }
        Ok(())
    }

    /// The track is complete, and the next one begins. If it was rejected (`ok` is false), its rows are forgotten.
    ///
    /// # Errors
    /// When writing fails.
    pub fn end_track(&mut self, ok: bool) -> Result<(), CacheError> {
        if !ok {
            self.track.clear();
        }
        if self.track.is_empty() {
            return Ok(());
        }
        let Self { track, writer, group, rows, temporary, .. } = self;
        let refused = |error| CacheError::from(StorageError::Parquet { path: temporary.0.clone(), source: error });
        track.drain(|batch| {
            let bytes = bytes(&batch);
            if group.rows > 0 && group.bytes + bytes > GROUP_BYTES_MAX {
                *group = Group::default();
                writer.flush().map_err(refused)?;
            }
            writer.write(&batch).map_err(refused)?;
            group.bytes += bytes;
            group.rows += batch.num_rows();
            *rows += batch.num_rows() as u64;
            Ok::<(), CacheError>(())
        })?;
        self.tracks += 1;
        if self.group.bytes >= GROUP_BYTES || self.group.rows >= GROUP_ROWS {
            self.end_group()?;
        }
        Ok(())
    }

    /// Makes the shard part of the cache, durably. If it was committed already, that commit stands.
    ///
    /// # Errors
    /// When the file system refuses; the shard is then not committed.
    ///
    /// # Panics
    /// When a track has not ended.
    pub fn commit(self, rejects: &[RejectRecord]) -> Result<Commit, CacheError> {
        assert!(self.track.is_empty(), "a shard is committed after its last track has ended");
        if let Some(commit) = standing(&self.folder, &self.schema, &self.shard)? {
            return Ok(commit);
        }
        self.publish(rejects)
    }

    /// Makes the shard part of the cache in place of an earlier commit of it, if it is better: if no recording is
    /// rejected that was not before, and some that were are not, or have rows now. Otherwise the earlier commit stands,
    /// and is returned.
    ///
    /// # Errors
    /// When the file system refuses.
    ///
    /// # Panics
    /// When a track has not ended.
    pub fn replace(self, earlier: &Commit, rejects: &[RejectRecord]) -> Result<Commit, CacheError> {
        assert!(self.track.is_empty(), "a shard is committed after its last track has ended");
        let known = |reject: &RejectRecord| earlier.rejects.iter().any(|old| old.track_id == reject.track_id);
        let more = rejects.len() < earlier.rejects.len() || self.tracks > earlier.tracks;
        if more && rejects.iter().all(known) { self.publish(rejects) } else { Ok(earlier.clone()) }
    }

    fn publish(self, rejects: &[RejectRecord]) -> Result<Commit, CacheError> {
        let record = record_path(&self.folder, &self.shard);
        let Self { folder, shard, file_name, temporary, writer, rows, tracks, .. } = self;
        let refused = |error| StorageError::Parquet { path: temporary.0.clone(), source: error };
        let Hashed { file, hasher, bytes } = writer.into_inner().map_err(refused)?;
        file.sync_all().map_err(|error| StorageError::io(&temporary.0, error))?;
        drop(file);
        durable::publish(&temporary.0, &folder.join(&file_name))?;
        let commit = Commit {
            file: file_name,
            shard: shard.shard,
            input_hash: shard.input_hash,
            rows,
            bytes,
            blake3: hasher.finalize().to_hex().to_string(),
            tracks,
            rejects: rejects.to_vec(),
            created_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs()),
            omar_flow: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let json = serde_json::to_vec_pretty(&commit).expect("a commit is plain data and always serialises");
        write_durably(&record, &json)?;
        Ok(commit)
    }

    fn end_group(&mut self) -> Result<(), CacheError> {
        self.group = Group::default();
        self.writer.flush().map_err(|error| self.refused(error))
    }

    fn refused(&self, source: ParquetError) -> CacheError {
        StorageError::Parquet { path: self.temporary.0.clone(), source }.into()
    }
}

/// Bytes of the values of a batch.
fn bytes(batch: &RecordBatch) -> usize {
    batch.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or(0)).sum()
}

/// How columns are stored. Whatever repeats (ids, paths, tokens: a few thousand codes) goes through a dictionary,
/// whose indices are bit-packed; measured features never repeat, but their exponents do, so their bytes are stored
/// plane by plane. Statistics are kept for the columns that name rows: they tell readers which row groups to skip.
fn properties(node: &Node, schema: &SchemaRef) -> Result<WriterProperties, ParquetError> {
    let provenance = serde_json::to_string(node).expect("a node is plain data and always serialises");
    let mut remarks = vec![KeyValue::new(PROVENANCE_KEY.to_owned(), provenance)];
    remarks.extend(schema.metadata().iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())));
    remarks.sort_by(|a, b| a.key.cmp(&b.key));
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_key_value_metadata(Some(remarks))
        .set_statistics_enabled(EnabledStatistics::Chunk);
    for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
        let path = column.path().clone();
        if column.max_rep_level() > 0 {
            properties = properties.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
        }
        if column.physical_type() == Type::FLOAT {
            properties = properties.set_column_dictionary_enabled(path.clone(), false);
            properties = properties.set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT);
        }
    }
    Ok(properties.build())
}

/// A file that is removed unless it got another name.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is nothing left under this name, and nobody to tell about anything else.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Hashes and counts what goes to a file.
struct Hashed {
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Hashed {
    fn new(file: File) -> Self {
        Self { file, hasher: blake3::Hasher::new(), bytes: 0 }
    }
}

impl Write for Hashed {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(data)?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}
