//! The cache: the rows of a node on disk, one parquet file per shard, each committed or not there at all.
//!
//! A [`Store`] is the folder of one node ([`omar_stages::storage`] draws it). A [`ShardWriter`] writes one shard and
//! commits it: file to a temporary name, sync, rename, sync of the folder, then the commit record in the same way.
//! Killed between any two of these steps, the shard is either committed or as it was before. What is committed is
//! immutable: other inputs give another file name.

mod gc;
mod lock;
mod pending;
mod survey;
pub mod verify;
mod writer;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use omar_stages::storage::durable::{remove_temporaries, sync_folder, temporary_for, write_durably};
use omar_stages::storage::{
    COMMITS, CodeCounts, Commit, EdgeDescription, NODE_FILE, Node, ShardKey, StorageError, TrackFile, commits,
};

pub use gc::{remove, tidy};
use lock::Lock;
pub use lock::holder;
pub use survey::{NodeFolder, survey};
pub use writer::ShardWriter;

/// How many digits of a fingerprint name its folder.
const FOLDER_DIGITS: usize = 12;

/// The rows of one node.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    node: Node,
    schema: SchemaRef,
    lock: Option<Lock>,
}

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// Reading or writing failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Another run writes here.
    #[error("`{}` is being written by {owner}: wait for it, or use another cache folder", folder.display())]
    Locked {
        /// The folder of the node.
        folder: PathBuf,
        /// Process, machine and run.
        owner: String,
    },
    /// Nothing keeps runs out.
    #[error("`{}` is on a file system without locks: nobody can tell whether a run uses it", folder.display())]
    NoLocks {
        /// The folder of the node.
        folder: PathBuf,
    },
    /// The folder holds the rows of another node.
    #[error("`{}` holds the rows of fingerprint {found}, expected {expected}", folder.display())]
    Fingerprint {
        /// The folder of the node.
        folder: PathBuf,
        /// Fingerprint of the node.
        expected: String,
        /// Fingerprint in the folder.
        found: String,
    },
    /// Rows that do not belong here.
    #[error("node `{node}`: {message}")]
    Rows {
        /// Name of the node.
        node: String,
        /// What is wrong.
        message: String,
    },
}

impl Store {
    /// Opens the folder of a node for reading: nothing is created and nobody is kept out.
    pub fn look(cache: &Path, node: &Node, schema: &SchemaRef) -> Self {
        let mut node = node.clone();
        node.edge = EdgeDescription::of(schema);
        let folder = folder(cache, &node.fingerprint);
        Self { folder, node, schema: schema.clone(), lock: None }
    }

    /// Opens the folder of a node for writing: creates it, claims it, and removes what dead processes left half done.
    /// All processes of one `run` may hold it at the same time, others may not.
    ///
    /// # Errors
    /// When another run holds it, when the file system refuses, or when it belongs to another node.
    pub fn open(cache: &Path, node: &Node, schema: &SchemaRef, run: &str) -> Result<Self, CacheError> {
        let mut store = Self::look(cache, node, schema);
        let folder = &store.folder;
        let records = folder.join(COMMITS);
        std::fs::create_dir_all(&records).map_err(|error| StorageError::io(&records, error))?;
        let lock = Lock::acquire(folder, run)?;
        if lock.is_alone() {
            remove_temporaries(folder)?;
            remove_temporaries(&records)?;
        }
        match Node::read(folder)? {
            Some(found) if found.fingerprint != store.node.fingerprint => {
                let (expected, found) = (store.node.fingerprint, found.fingerprint);
                return Err(CacheError::Fingerprint { folder: store.folder, expected, found });
            }
            Some(_) => {}
            None => {
                let json = serde_json::to_vec_pretty(&store.node).expect("a node is plain data and always serialises");
                write_durably(&folder.join(NODE_FILE), &json)?;
                sync_folder(cache)?;
            }
        }
        lock.share()?;
        store.lock = Some(lock);
        Ok(store)
    }

    /// What its rows are.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The folder of the node.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commit of a shard, if it is complete: its record and its file exist and agree, and the file has rows of
    /// this very schema. Anything less is as good as nothing.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn committed(&self, shard: &ShardKey) -> Result<Option<Commit>, CacheError> {
        Ok(standing(&self.folder, &self.schema, shard)?)
    }

    /// The rows of a committed shard.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn reader(&self, commit: &Commit) -> Result<TrackFile, CacheError> {
        let file = TrackFile::open(&self.folder.join(&commit.file))?;
        if file.schema() == &self.schema { Ok(file) } else { Err(self.wrong("the rows on disk have another schema")) }
    }

    /// Whether the file of a committed shard has the bytes that were committed. Reads all of it.
    pub fn is_intact(&self, commit: &Commit) -> bool {
        let mut hasher = blake3::Hasher::new();
        let read = File::open(self.folder.join(&commit.file)).and_then(|file| hasher.update_reader(file).map(drop));
        read.is_ok() && hasher.finalize().to_hex().as_str() == commit.blake3
    }

    /// Takes back the commit of a shard that is not intact, so that it is made again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn retract(&self, commit: &Commit) -> Result<(), CacheError> {
        let record = record_path(&self.folder, &commit.key());
        std::fs::remove_file(&record).map_err(|error| StorageError::io(&record, error))?;
        Ok(sync_folder(&self.folder.join(COMMITS))?)
    }

    /// Keeps the code counts of a committed shard beside its commit. Not synced: they can be counted again.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn keep_codes(&self, commit: &Commit, counts: &CodeCounts) -> Result<(), CacheError> {
        let path = CodeCounts::path(&self.folder, commit);
        let temporary = temporary_for(&path);
        let written = std::fs::write(&temporary, counts.encode(&commit.blake3));
        let renamed = written.and_then(|()| std::fs::rename(&temporary, &path));
        Ok(renamed.map_err(|error| StorageError::io(&path, error))?)
    }

    /// The code counts of a committed shard, as they were kept. `None` when they were not, or not of these rows.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn kept_codes(&self, commit: &Commit) -> Result<Option<CodeCounts>, CacheError> {
        Ok(CodeCounts::read(&self.folder, commit, &self.schema)?)
    }

    /// The code counts of a committed shard; where they are not kept, the rows are read, and the counts kept from then
    /// on. `None` when the rows are no tokens.
    ///
    /// # Errors
    /// When the file system refuses, or the rows cannot be read.
    pub fn codes(&self, commit: &Commit) -> Result<Option<CodeCounts>, CacheError> {
        if let Some(counts) = self.kept_codes(commit)? {
            return Ok(Some(counts));
        }
        let counts = CodeCounts::count(&self.reader(commit)?)?;
        if let (Some(counts), Some(_)) = (&counts, &self.lock) {
            self.keep_codes(commit, counts)?;
        }
        Ok(counts)
    }

    /// The commits of shards that are not `current`: what has been replaced or has left the corpus, and has yet to be
    /// swept.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn stale(&self, current: &[ShardKey]) -> Result<Vec<Commit>, CacheError> {
        let keep: HashSet<&ShardKey> = current.iter().collect();
        Ok(commits(&self.folder)?.into_iter().filter(|commit| !keep.contains(&commit.key())).collect())
    }

    /// Starts writing a shard.
    ///
    /// # Errors
    /// When the file system refuses.
    ///
    /// # Panics
    /// When the store was opened with [`Store::look`].
    pub fn writer(&self, shard: &ShardKey) -> Result<ShardWriter, CacheError> {
        assert!(self.lock.is_some(), "only `Store::open` gives the right to write");
        ShardWriter::create(&self.folder, &self.node, &self.schema, shard.clone())
    }

    /// Removes what is not part of the corpus any more: shards other than `current`, and files without a record.
    /// Returns how many shards were removed. Only for when no shard is being written.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn sweep(&self, current: &[ShardKey]) -> Result<usize, CacheError> {
        let keep: HashSet<String> = current.iter().map(ShardKey::stem).collect();
        let mut removed = 0;
        // Records first: a file without a record is nothing, a record without a file would be a broken promise.
        let (records, rows) = (self.folder.join(COMMITS), self.folder.clone());
        for (folder, extension) in [(records.clone(), "json"), (records, "codes"), (rows, "parquet")] {
            let refused = |error| StorageError::io(&folder, error);
            for entry in folder.read_dir().map_err(refused)? {
                let path = entry.map_err(refused)?.path();
                let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
                let ours = path.extension().is_some_and(|found| found == extension) && !stem.starts_with('.');
                if ours && !keep.contains(stem) {
                    match std::fs::remove_file(&path) {
                        Ok(()) => removed += usize::from(extension == "json"),
                        // Another process of the run was quicker.
                        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                        Err(error) => return Err(StorageError::io(&path, error).into()),
                    }
                }
            }
            sync_folder(&folder)?;
        }
        Ok(removed)
    }

    fn wrong(&self, message: impl Into<String>) -> CacheError {
        CacheError::Rows { node: self.node.node.clone(), message: message.into() }
    }
}

fn record_path(folder: &Path, shard: &ShardKey) -> PathBuf {
    folder.join(COMMITS).join(format!("{}.json", shard.stem()))
}

/// The commit of a shard, if everything about it is in order.
fn standing(folder: &Path, schema: &SchemaRef, shard: &ShardKey) -> Result<Option<Commit>, StorageError> {
    let Some(commit) = Commit::read(&record_path(folder, shard))? else { return Ok(None) };
    if commit.key() != *shard || !commit.has_file(folder) {
        return Ok(None);
    }
    let readable = TrackFile::open(&folder.join(&commit.file));
    let fits = readable.is_ok_and(|file| file.schema() == schema && file.rows() == commit.rows);
    Ok(fits.then_some(commit))
}

/// The folder of the node with this fingerprint (in hexadecimal) in a cache.
pub fn folder(cache: &Path, fingerprint: &str) -> PathBuf {
    cache.join(fingerprint.get(..FOLDER_DIGITS).unwrap_or(fingerprint))
}

#[cfg(test)]
mod tests;
