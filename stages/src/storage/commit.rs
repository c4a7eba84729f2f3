//! The record that a shard is complete.

use std::path::Path;

use omar_schemas::TrackId;
use serde::{Deserialize, Serialize};

use super::StorageError;

/// Name of the folder of commit records.
pub const COMMITS: &str = "_commits";

/// Which shard, made of which inputs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    /// Name of the shard: `s-0110`.
    pub shard: String,
    /// Hash over its recordings, in hexadecimal.
    pub input_hash: String,
}

/// The record that a shard is complete: written last, so that what it describes is on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Name of the parquet file, in the folder of the node.
    pub file: String,
    /// Name of the shard.
    pub shard: String,
    /// Hash over the recordings of the shard.
    pub input_hash: String,
    /// Rows in the file.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Hash of the file.
    pub blake3: String,
    /// Tracks that have rows in the file.
    pub tracks: u64,
    /// Tracks that could not be used.
    pub rejects: Vec<RejectRecord>,
    /// When, in seconds since 1970.
    pub created_unix_s: u64,
    /// Version of the program.
    pub omar_flow: String,
}

/// A track that could not be used: a row of [`omar_schemas::Reject`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectRecord {
    /// Which.
    #[serde(with = "hexadecimal")]
    pub track_id: TrackId,
    /// Its path.
    pub path: String,
    /// The node that gave up on it.
    pub node: String,
    /// The stage of that node.
    pub stage: String,
    /// A short word to group by.
    pub class: String,
    /// For people.
    pub message: String,
}

impl ShardKey {
    /// File name without extension: the name of the shard and the first 8 digits of the hash.
    pub fn stem(&self) -> String {
        format!("{}-{:.8}", self.shard, self.input_hash)
    }
}

impl Commit {
    /// What it is the commit of.
    pub fn key(&self) -> ShardKey {
        ShardKey { shard: self.shard.clone(), input_hash: self.input_hash.clone() }
    }

    /// Reads a record. `None` when there is none.
    ///
    /// # Errors
    /// When the file system refuses. A record that cannot be parsed is no record: it was not written by this program
    /// or belongs to another version of it.
    pub fn read(path: &Path) -> Result<Option<Self>, StorageError> {
        match std::fs::read(path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io(path, error)),
        }
    }

    /// Whether the file it describes is in `folder`, whole as far as its size tells.
    pub fn has_file(&self, folder: &Path) -> bool {
        let plain = Path::new(&self.file).file_name().is_some_and(|name| name == self.file.as_str());
        plain && folder.join(&self.file).metadata().is_ok_and(|file| file.is_file() && file.len() == self.bytes)
    }
}

/// The commits of a folder whose files are there, in the order of their names. Empty when it has no commit records.
///
/// # Errors
/// When the file system refuses.
pub fn commits(folder: &Path) -> Result<Vec<Commit>, StorageError> {
    let records = folder.join(COMMITS);
    let entries = match records.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::io(records, error)),
    };
    let mut commits = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| StorageError::io(&records, error))?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            commits.extend(Commit::read(&path)?.filter(|commit| commit.has_file(folder)));
        }
    }
    commits.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(commits)
}

mod hexadecimal {
    use omar_schemas::TrackId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(id: &TrackId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrackId, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(TrackId).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(file: &str, bytes: u64) -> Commit {
        let reject = RejectRecord {
            track_id: TrackId(u64::MAX - 1),
            path: "a.mp3".to_owned(),
            node: "audio".to_owned(),
            stage: "decode".to_owned(),
            class: "corrupt".to_owned(),
            message: "no frames".to_owned(),
        };
        Commit {
            file: file.to_owned(),
            shard: "s-01".to_owned(),
            input_hash: "00".repeat(32),
            rows: 1,
            bytes,
            blake3: String::new(),
            tracks: 1,
            rejects: vec![reject],
            created_unix_s: 1,
            omar_flow: "0".to_owned(),
        }
    }

    #[test]
    fn records_survive_json_and_need_their_file() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(commits(folder.path()).expect("no records"), []);
        std::fs::create_dir(folder.path().join(COMMITS)).expect("mkdir");
        std::fs::write(folder.path().join("a.parquet"), b"1234").expect("write");
        for (name, commit) in [
            ("whole.json", commit("a.parquet", 4)),
            ("short.json", commit("a.parquet", 5)),
            ("lost.json", commit("b.parquet", 4)),
            ("elsewhere.json", commit("../a.parquet", 4)),
        ] {
            let json = serde_json::to_vec(&commit).expect("json");
            std::fs::write(folder.path().join(COMMITS).join(name), json).expect("write");
        }
        std::fs::write(folder.path().join(COMMITS).join("torn.json"), b"{").expect("write");
        assert_eq!(commits(folder.path()).expect("records"), [commit("a.parquet", 4)]);
    }
}
