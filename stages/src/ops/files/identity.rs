//! What a recording's content is.

use std::io::Read;

/// A hash of all that can be read.
pub(super) fn hash_identity(content: impl Read) -> std::io::Result<u64> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(content)?;
    let hash = hasher.finalize();
    Ok(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
}
