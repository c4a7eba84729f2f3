//! One run at a time in a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use omar_stages::storage::StorageError;
use serde::{Deserialize, Serialize};

use super::CacheError;
use crate::machine::hostname;

pub(super) const NAME: &str = "_lock";

/// How often a process that comes second looks again, 10 ms apart. What it reads may be the name of an owner long dead,
/// because the new one, perhaps of its own run, has yet to write down who it is.
const ATTEMPTS: u32 = 50;

/// A claim on a folder, given up when dropped or when the process dies.
///
/// The first process of a run takes it exclusively and has the folder to itself until [`Lock::share`]; from then on
/// the other processes of the same run may join. The system forgets the lock of a dead process, so a lock is never
/// stale; the content of the file only tells who holds it.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    alone: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Owner {
    run: String,
    process: u32,
    machine: String,
}

impl Lock {
    pub(super) fn acquire(folder: &Path, run: &str) -> Result<Self, CacheError> {
        let path = folder.join(NAME);
        let refused = |error| StorageError::io(&path, error);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(refused)?;
        let mut attempts = ATTEMPTS;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    let owner = Owner { run: run.to_owned(), process: std::process::id(), machine: hostname() };
                    let json = serde_json::to_vec(&owner).expect("an owner is plain data and always serialises");
                    file.set_len(0).and_then(|()| file.write_all(&json)).map_err(refused)?;
                    return Ok(Self { file, alone: true });
                }
                // A file system without locks: run without, and leave alone what may belong to others.
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                    return Ok(Self { file, alone: false });
                }
                Err(TryLockError::Error(error)) => return Err(refused(error).into()),
                Err(TryLockError::WouldBlock) => {}
            }
            let owner = owner(&mut file).unwrap_or_default();
            if owner.run == run && file.try_lock_shared().is_ok() {
                return Ok(Self { file, alone: false });
            }
            if attempts == 0 {
                return Err(CacheError::Locked { folder: folder.to_owned(), owner: owner.to_string() });
            }
            attempts -= 1;
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether no other process can be in the folder.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Lets the other processes of the run in.
    pub(super) fn share(&self) -> Result<(), CacheError> {
        if !self.alone {
            return Ok(());
        }
        match self.file.try_lock_shared() {
            Ok(()) => Ok(()),
            Err(TryLockError::Error(error)) => Err(StorageError::io(NAME, error).into()),
            Err(TryLockError::WouldBlock) => {
                let error =
                    std::io::Error::new(ErrorKind::WouldBlock, "another run took the folder at the same moment");
                Err(StorageError::io(NAME, error).into())
            }
        }
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {} (run `{}`)", self.process, self.machine, self.run)
    }
}

/// Who holds a folder at this moment, if anybody does. Nothing is created or changed.
///
/// # Errors
/// When the file system refuses.
pub fn holder(folder: &Path) -> Result<Option<String>, CacheError> {
    let path = folder.join(NAME);
    let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::io(path, error).into()),
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(Some(owner(&mut file).unwrap_or_default().to_string())),
        // Without locks nobody holds anything.
        Err(TryLockError::Error(error)) if error.kind() != ErrorKind::Unsupported => {
            Err(StorageError::io(path, error).into())
        }
        _ => Ok(None),
    }
}

fn owner(file: &mut File) -> Option<Owner> {
    let mut json = Vec::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.read_to_end(&mut json).ok()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    serde_json::from_slice(&json).ok()
}
