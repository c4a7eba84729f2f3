//! Files that are there completely or not at all, even when the power fails.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StorageError;

const EXTENSION: &str = "tmp";

/// A name beside `path` that no other writer uses, for writing what `path` is to become.
pub fn temporary_for(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    path.with_file_name(format!(".{name}.{process}.{count}.{EXTENSION}"))
}

/// Writes a small file, and its folder if need be, so that a reader finds all of it or the one before it.
///
/// # Errors
/// When the file system refuses; nothing is left behind then.
pub fn write_durably(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| StorageError::io(folder, error))?;
    }
    let temporary = temporary_for(path);
    let written = File::create(&temporary).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    let published = written.map_err(|error| StorageError::io(path, error)).and_then(|()| publish(&temporary, path));
    if published.is_err() {
        // Of use to nobody; the error that matters is the one above.
        let _gone = std::fs::remove_file(&temporary);
    }
    published
}

/// Gives a file, which must have been synced, its final name.
///
/// # Errors
/// When the file system refuses.
pub fn publish(temporary: &Path, path: &Path) -> Result<(), StorageError> {
    std::fs::rename(temporary, path).map_err(|error| StorageError::io(path, error))?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When the file system refuses.
pub fn sync_folder(folder: &Path) -> Result<(), StorageError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| StorageError::io(folder, error))
}

/// Removes temporary files. Only for who is alone in the folder.
///
/// # Errors
/// When the file system refuses.
pub fn remove_temporaries(folder: &Path) -> Result<(), StorageError> {
    let refused = |error| StorageError::io(folder, error);
    for entry in folder.read_dir().map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden && path.extension().is_some_and(|extension| extension == EXTENSION) {
            std::fs::remove_file(&path).map_err(|error| StorageError::io(&path, error))?;
        }
    }
    Ok(())
}
