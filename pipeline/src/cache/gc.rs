//! Removing what no graph uses.

use std::fs;
use std::path::{Path, PathBuf};

use omar_stages::storage::durable::sync_folder;
use omar_stages::storage::{COMMITS, NODE_FILE, StorageError};

use super::CacheError;
use super::lock::{Lock, NAME as LOCK_FILE};
use super::survey::NodeFolder;

/// Removes all that is ours in a folder, and the folder unless something else is in it. Returns what is left.
///
/// # Errors
/// When a run holds it, when the file system has no locks, or refuses.
pub fn remove(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let _lock = claim(folder)?;
    // Looked at anew: until now somebody may have written to it.
    let Some(found) = NodeFolder::read(folder)? else { return Ok(vec![folder.to_owned()]) };
    // Records first: a file without a record is nothing, a record without a file would be a broken promise.
    let records = found.commits.iter().map(|commit| found.record(commit)).chain(found.broken.iter().cloned());
    delete(records)?;
    sync_folder(&folder.join(COMMITS))?;
    let codes = found.commits.iter().map(|commit| found.record(commit).with_extension("codes"));
    let rows = found.commits.iter().map(|commit| folder.join(&commit.file));
    delete(codes.chain(rows).chain(found.leftovers.iter().cloned()))?;
    if found.foreign.is_empty() {
        delete([folder.join(NODE_FILE), folder.join(LOCK_FILE)].into_iter())?;
        for folder in [&folder.join(COMMITS), folder] {
            fs::remove_dir(folder).map_err(|error| StorageError::io(folder, error))?;
        }
    }
    Ok(found.foreign)
}

/// Removes what dead processes left in a folder: temporaries, and files without a record. Returns how many there were.
///
/// # Errors
/// When a run holds it, when the file system has no locks, or refuses.
pub fn tidy(folder: &Path) -> Result<usize, CacheError> {
    let _lock = claim(folder)?;
    let Some(found) = NodeFolder::read(folder)? else { return Ok(0) };
    delete(found.leftovers.iter().cloned())?;
    Ok(found.leftovers.len())
}

/// Keeps all runs out of a folder.
pub(super) fn claim(folder: &Path) -> Result<Lock, CacheError> {
    let lock = Lock::acquire(folder, &format!("omar-flow cache, process {}", std::process::id()))?;
    if lock.is_alone() { Ok(lock) } else { Err(CacheError::NoLocks { folder: folder.to_owned() }) }
}

fn delete(paths: impl Iterator<Item = PathBuf>) -> Result<(), StorageError> {
    for path in paths {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(StorageError::io(path, error)),
            _ => {}
        }
    }
    Ok(())
}
