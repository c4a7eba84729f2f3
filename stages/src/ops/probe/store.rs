//! Vectors of a corpus: in memory up to a limit, what comes after it in a file.
//!
//! Minibatches are the same either way, to the last bit: a file holds the same 32 bits a value. Windows of recordings are
//! read from it as they are drawn, each in one piece, so that what the file system has in its cache costs a copy.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::error::StageError;
use crate::probe::ProbeError;
use crate::storage::durable::temporary_for;

/// Bytes of a value.
const WIDTH: u64 = 4;

/// The vectors of a recording in one layer or view, one after the other.
#[derive(Debug)]
pub(super) enum Column {
    Held(Vec<f32>),
    /// In the file.
    Filed {
        /// Values before it.
        at: u64,
    },
}

impl Default for Column {
    fn default() -> Self {
        Self::Held(Vec::new())
    }
}

/// Keeps vectors.
#[derive(Debug)]
pub(super) struct Store {
    limit: u64,
    /// Bytes in memory.
    held: u64,
    /// Bytes in the file.
    filed: u64,
    folder: PathBuf,
    file: Option<Filed>,
}

/// A file that is gone when it is let go of.
#[derive(Debug)]
struct Filed {
    path: PathBuf,
    file: Mutex<File>,
}

impl Drop for Filed {
    fn drop(&mut self) {
        // Where open files can be removed it is gone already.
        let _gone = std::fs::remove_file(&self.path);
    }
}

impl Store {
    /// Keeps up to `limit` bytes in memory, the rest in a file in `folder`.
    pub(super) fn new(limit: u64, folder: &Path) -> Self {
        Self { limit, held: 0, filed: 0, folder: folder.to_owned(), file: None }
    }

    /// Bytes in memory, and in the file.
    pub(super) fn sizes(&self) -> (u64, u64) {
        (self.held, self.filed)
    }

    /// Takes vectors.
    pub(super) fn keep(&mut self, values: Vec<f32>) -> Result<Column, StageError> {
        let bytes = values.len() as u64 * WIDTH;
        // Once there is a file all goes there, so that what is where depends on the order of the corpus alone.
        if self.file.is_none() && self.held + bytes <= self.limit {
            self.held += bytes;
            return Ok(Column::Held(values));
        }
        let file = match self.file.take() {
            Some(file) => file,
            None => Filed::create(&self.folder)?,
        };
        let file = self.file.insert(file);
        let at = self.filed / WIDTH;
        let mut raw = Vec::with_capacity(values.len() * WIDTH as usize);
        raw.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let mut open = file.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = open.seek(SeekFrom::Start(self.filed)).and_then(|_| open.write_all(&raw));
        written.map_err(|error| StageError::io(&file.path, error))?;
        self.filed += bytes;
        Ok(Column::Filed { at })
    }

    /// Appends a part of the values of a column.
    pub(super) fn append(&self, column: &Column, part: Range<usize>, rows: &mut Vec<f32>) -> Result<(), ProbeError> {
        let at = match column {
            Column::Held(values) => {
                rows.extend_from_slice(&values[part]);
                return Ok(());
            }
            Column::Filed { at } => at + part.start as u64,
        };
        let Some(filed) = &self.file else { return Err(ProbeError::Shape("vectors without their file".to_owned())) };
        let mut raw = vec![0; part.len() * WIDTH as usize];
        let mut open = filed.file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = open.seek(SeekFrom::Start(at * WIDTH)).and_then(|_| open.read_exact(&mut raw));
        read.map_err(|source| ProbeError::Vectors { path: filed.path.clone(), source })?;
        rows.extend(raw.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
        Ok(())
    }
}

impl Filed {
    fn create(folder: &Path) -> Result<Self, StageError> {
        std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
        let path = temporary_for(&folder.join("vectors"));
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        let file = options.map_err(|error| StageError::io(&path, error))?;
        // An open file without a name is gone with the process, however that ends. Where it must keep its name, it is
        // removed in the end.
        let _kept = std::fs::remove_file(&path);
        Ok(Self { path, file: Mutex::new(file) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_read_from_a_file_that_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("probe");
        let mut store = Store::new(24, &own);
        let values = |from: u32| (0..4).map(|i| f32::from_bits(0x3f80_0000 + 7 * (from + i))).collect::<Vec<f32>>();
        let columns: Vec<Column> = [0, 4, 8].map(|from| store.keep(values(from)).unwrap()).into();
        assert!(matches!(columns[..], [Column::Held(_), Column::Filed { at: 0 }, Column::Filed { at: 4 }]));
        assert_eq!(store.sizes(), (16, 32));
        // Smaller ones that would fit go after it.
        assert!(matches!(store.keep(vec![1.0]).unwrap(), Column::Filed { at: 8 }));
        let mut rows = Vec::new();
        for column in columns.iter().rev() {
            store.append(column, 1..3, &mut rows).unwrap();
        }
        let expected: Vec<f32> = [8, 4, 0].into_iter().flat_map(|from| values(from)[1..3].to_vec()).collect();
        assert_eq!(rows, expected);
        drop(store);
        assert_eq!(own.read_dir().unwrap().count(), 0);
    }
}
