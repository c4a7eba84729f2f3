//! Comparing every byte of a cache with what was committed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use omar_stages::storage::{Commit, EdgeDescription, StorageError, TrackFile};

use super::CacheError;
use super::gc::claim;
use super::survey::NodeFolder;

/// A shard that is not what was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The commit record.
    pub record: PathBuf,
    /// The file of rows, as far as the record tells.
    pub file: Option<PathBuf>,
    /// What is wrong.
    pub reason: String,
}

/// The records of a folder of which nothing can be made, even before files are read.
pub fn broken(folder: &NodeFolder) -> Vec<Fault> {
    let fault = |record: &PathBuf| {
        let (file, reason) = match Commit::read(record) {
            Ok(Some(commit)) => {
                let file = folder.path.join(&commit.file);
                let reason = match file.metadata() {
                    Ok(found) => format!("has {} bytes, expected {}", found.len(), commit.bytes),
                    Err(_) => "is missing".to_owned(),
                };
                (Some(file), reason)
            }
            Ok(None) => (None, "the commit record cannot be parsed".to_owned()),
            Err(error) => (None, error.to_string()),
        };
        Fault { record: record.clone(), file, reason }
    };
    folder.broken.iter().map(fault).collect()
}

/// Reads a shard: its hash, its footer, the rows and the edge that this promises. `None` when all is well, or when the
/// shard was replaced meanwhile.
pub fn check(folder: &NodeFolder, commit: &Commit) -> Option<Fault> {
    let path = folder.path.join(&commit.file);
    let record = folder.record(commit);
    let reason = wrong(&path, folder, commit)?;
    // A run may have swept it while it was read.
    let stands = Commit::read(&record).is_ok_and(|found| found.as_ref() == Some(commit));
    stands.then_some(Fault { record, file: Some(path), reason })
}

fn wrong(path: &Path, folder: &NodeFolder, commit: &Commit) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    if let Err(error) = File::open(path).and_then(|file| hasher.update_reader(file).map(drop)) {
        return Some(format!("cannot be read: {error}"));
    }
    let found = hasher.finalize().to_hex();
    if found.as_str() != commit.blake3 {
        return Some(format!("has hash {:.12}..., expected {:.12}...", found.as_str(), commit.blake3));
    }
    let file = match TrackFile::open(path) {
        Ok(file) => file,
        Err(error) => return Some(error.to_string()),
    };
    if file.rows() != commit.rows {
        return Some(format!("has {} rows, expected {}", file.rows(), commit.rows));
    }
    let edge = EdgeDescription::of(file.schema());
    (edge != folder.node.edge).then(|| "has rows of another edge than its folder says".to_owned())
}

/// Removes the records of faults, so that the next run computes these shards again. What lies in the files of rows is
/// left for who wants to look at it, and is replaced by the next run.
///
/// # Errors
/// When a run holds the folder, when the file system has no locks, or refuses.
pub fn repair(folder: &NodeFolder, faults: &[Fault]) -> Result<(), CacheError> {
    let _lock = claim(&folder.path)?;
    for fault in faults {
        for path in [fault.record.clone(), fault.record.with_extension("codes")] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StorageError::io(path, error).into());
                }
                _ => {}
            }
        }
    }
    Ok(())
}
