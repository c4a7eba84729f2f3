//! When a file counts as changed.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::seed;

/// Of size and modification time.
pub(super) fn stat_identity(metadata: &Metadata) -> u64 {
    let (sign, age) = match metadata.modified().map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => (0, after),
        Ok(Err(before)) => (1, before.duration()),
        Err(_) => (2, Duration::ZERO),
    };
    seed::derive(metadata.len(), &[sign, age.as_secs(), u64::from(age.subsec_nanos())])
}

/// Of the content of a file.
pub(super) fn content_identity(path: &Path) -> std::io::Result<u64> {
    hash_identity(File::open(path)?)
}

/// Of what can be read.
pub(super) fn hash_identity(content: impl Read) -> std::io::Result<u64> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(content)?;
    let hash = hasher.finalize();
    Ok(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
}
