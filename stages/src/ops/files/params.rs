//! What can be said about a corpus of files.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// Parameters of [`Files`](super::Files).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesParams {
    /// Folder to search (tar archives in it count as folders), and folder that `paths` and the paths in `manifest` start
    /// from (default then: the working directory, or the folder of the manifest). A relative path starts from the working
    /// directory. It may be in an object store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.
    /// Recordings are named by their paths below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Folders, archives and single files to take instead of all that is below `root`: paths, or addresses such as
    /// `s3://bucket/prefix` and `https://host/a.flac` (the web has no listing: name files). Those that are not below `root`
    /// are named by all of their path or address. Credentials and endpoints of stores come from the environment, such as
    /// `AWS_ACCESS_KEY_ID` and `AWS_ENDPOINT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// A list of the files instead of a search: CSV, TSV, JSON lines or parquet with a column `path` and optionally
    /// `id` (names the track instead of its path), `split` (`train`, `valid` or `test`), `hash` (any hash of the content:
    /// where it stands, the file itself is not looked at to see whether it has changed) and `bytes` (its size). The list
    /// may be an object, and so may what it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Patterns of the files to take, such as `["*.flac", "live/**/*.mp3"]`; by default all files with an audio
    /// extension. A pattern without `/` is matched against the file name, one with `/` against the path below
    /// `root`; upper and lower case are the same; names that start with a dot are never taken.
    #[serde(default)]
    pub include: Patterns,
    /// Patterns of files and folders to leave out.
    #[serde(default)]
    pub exclude: Patterns,
    /// Share of the tracks, 0..1, that become split `valid`, unless the manifest says otherwise. Drawn by a hash of
    /// the path, so that a track stays where it is when others come and go.
    #[serde(default)]
    pub valid_fraction: f64,
    /// Share of the tracks, 0..1, that become split `test`.
    #[serde(default)]
    pub test_fraction: f64,
    /// When a file counts as changed.
    #[serde(default)]
    pub identity: Identity,
    /// What becomes of recordings whose content another one has, too. Known with `identity: content`, or where the
    /// manifest has a `hash`.
    #[serde(default)]
    pub duplicates: Duplicates,
}

/// Glob patterns: one, or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("type" = ["array", "string"]))]
pub struct Patterns(pub Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> de::Visitor<'de> for OneOrMany {
            type Value = Patterns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern such as `*.flac`, or a list of patterns")
            }
            fn visit_str<E: de::Error>(self, pattern: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![pattern.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Patterns, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Patterns)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// When a file counts as changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// When its size or modification time changes; of an object, its size or `ETag`.
    #[default]
    Stat,
    /// When its content changes. Every run reads every file, but copies of a corpus share their caches.
    Content,
}

/// What becomes of recordings with one content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// All are used, and the run says that there are some.
    #[default]
    Report,
    /// One of them is used.
    Drop,
}
