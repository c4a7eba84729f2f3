//! Which files of rows a path means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use globset::GlobBuilder;
use serde_json::Value;
use walkdir::WalkDir;

use super::{COMMITS, Node, StorageError, commits};
use crate::seed;

/// A file of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where it is.
    pub path: PathBuf,
    /// Changes when its content changes.
    pub identity: u64,
}

/// A path means no file of rows, or too many.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// Nothing to read.
    #[error("`{}`: {message}", path.display())]
    Nothing {
        /// As given.
        path: PathBuf,
        /// What was expected there.
        message: String,
    },
    /// Rows of several nodes, of which at most one can be meant.
    #[error("`{}` holds the rows of {} nodes: name the folder of one\n{}", path.display(), nodes.len(), lines(nodes))]
    Several {
        /// As given.
        path: PathBuf,
        /// The newest first.
        nodes: Vec<Apart>,
    },
    /// The file system refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The files that `path` means, in the order of their names: a parquet file, a glob pattern of such, the folder of a
/// cached node (its committed files), a cache folder with one node in it, or a folder of parquet files.
///
/// # Errors
/// When there is nothing to read, or rows of several nodes.
pub fn locate(path: &Path) -> Result<Vec<Located>, LocateError> {
    let nothing = |message: String| LocateError::Nothing { path: path.to_owned(), message };
    if path.is_file() {
        return Ok(vec![by_stat(path.to_owned())?]);
    }
    if !path.is_dir() {
        if path.to_string_lossy().contains(['*', '?', '[', '{']) {
            return matching(path);
        }
        return Err(nothing("no such file or folder".to_owned()));
    }
    if path.join(COMMITS).is_dir() {
        let files = committed(path)?;
        return if files.is_empty() { Err(nothing("no shard has been committed yet".to_owned())) } else { Ok(files) };
    }
    let nodes = node_folders(path)?;
    let mut filled = Vec::new();
    for node in &nodes {
        let files = committed(node)?;
        if !files.is_empty() {
            filled.push((node.clone(), files));
        }
    }
    match filled.len() {
        1 => Ok(filled.remove(0).1),
        0 => {
            let plain = with_extension(path, "parquet")?;
            match (plain.is_empty(), nodes.is_empty()) {
                (false, _) => plain.into_iter().map(|file| Ok(by_stat(file)?)).collect(),
                (true, false) => Err(nothing("no shard has been committed yet".to_owned())),
                (true, true) => Err(nothing("expected parquet files, found none".to_owned())),
            }
        }
        _ => {
            let folders: Vec<PathBuf> = filled.into_iter().map(|node| node.0).collect();
            Err(LocateError::Several { path: path.to_owned(), nodes: tell_apart(&folders)? })
        }
    }
}

/// The folders of cached nodes directly inside a cache folder, in the order of their names.
///
/// # Errors
/// When the file system refuses.
pub fn node_folders(cache: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let mut folders = listing(cache)?;
    folders.retain(|path| path.join(COMMITS).is_dir());
    Ok(folders)
}

/// What sets a folder of a node apart from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apart {
    /// The folder.
    pub folder: PathBuf,
    /// When its newest shard was committed, in seconds since 1970.
    pub newest_unix_s: u64,
    /// Committed shards.
    pub shards: usize,
    /// The parameters in which it differs from the others, as `path=value`.
    pub differs_in: String,
}

/// What sets each folder of a node apart from the others. The newest first.
///
/// # Errors
/// When the file system refuses.
pub fn tell_apart(folders: &[PathBuf]) -> Result<Vec<Apart>, StorageError> {
    let mut nodes = Vec::new();
    for folder in folders {
        let commits = commits(folder)?;
        let newest = commits.iter().map(|commit| commit.created_unix_s).max().unwrap_or(0);
        nodes.push((newest, folder, commits.len(), Node::read(folder)?.map(|node| properties(&node))));
    }
    nodes.sort_by_key(|node| std::cmp::Reverse(node.0));
    let keys: BTreeSet<&String> = nodes.iter().filter_map(|node| node.3.as_ref()).flat_map(BTreeMap::keys).collect();
    let value = |properties: &Option<BTreeMap<String, String>>, key: &String| -> Option<String> {
        properties.as_ref().and_then(|properties| properties.get(key).cloned())
    };
    let differs = |key: &&String| nodes.iter().any(|node| value(&node.3, key) != value(&nodes[0].3, key));
    let differing: Vec<&String> = keys.into_iter().filter(differs).collect();
    let apart = |(newest, folder, shards, properties): &(u64, &PathBuf, usize, _)| {
        let differs = differing.iter().filter_map(|key| Some(format!("{key}={}", value(properties, key)?)));
        let differs_in = differs.collect::<Vec<_>>().join(" ");
        Apart { folder: (*folder).clone(), newest_unix_s: *newest, shards: *shards, differs_in }
    };
    Ok(nodes.iter().map(apart).collect())
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (folder, newest) = (self.folder.display(), utc(self.newest_unix_s));
        write!(f, "{folder}  {newest}, {} shards  {}", self.shards, self.differs_in)
    }
}

/// `2026-11-22 21:44 UTC` for seconds since 1970.
pub fn utc(unix_s: u64) -> String {
    // Days to date in the proleptic Gregorian calendar, with years that begin in March (H. Hinnant,
    // "chrono-compatible low-level date algorithms", `civil_from_days`).
    let (days, seconds) = (unix_s / 86_400 + 719_468, unix_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600, seconds / 60 % 60)
}

fn lines(nodes: &[Apart]) -> String {
    nodes.iter().map(|node| format!("  {node}")).collect::<Vec<_>>().join("\n")
}

fn committed(folder: &Path) -> Result<Vec<Located>, StorageError> {
    let located = |commit: super::Commit| {
        let hash = blake3::hash(format!("{}{}", commit.blake3, commit.input_hash).as_bytes());
        let identity = u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"));
        Located { path: folder.join(commit.file), identity }
    };
    Ok(commits(folder)?.into_iter().map(located).collect())
}

fn by_stat(path: PathBuf) -> Result<Located, StorageError> {
    let metadata = path.metadata().map_err(|error| StorageError::io(&path, error))?;
    let age = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let identity = seed::derive(metadata.len(), &[age.as_secs(), u64::from(age.subsec_nanos())]);
    Ok(Located { path, identity })
}

fn matching(pattern: &Path) -> Result<Vec<Located>, LocateError> {
    let nothing = |message: String| LocateError::Nothing { path: pattern.to_owned(), message };
    let glob = GlobBuilder::new(&pattern.to_string_lossy())
        .literal_separator(true)
        .build()
        .map_err(|error| nothing(error.to_string()))?
        .compile_matcher();
    let literal = |part: &std::path::Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']);
    let base: PathBuf = pattern.components().take_while(literal).collect();
    let start = if base.as_os_str().is_empty() { Path::new(".") } else { &base };
    let mut files = Vec::new();
    for entry in WalkDir::new(start).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|error| nothing(error.to_string()))?;
        let path = entry.path().strip_prefix(".").unwrap_or(entry.path());
        if entry.file_type().is_file() && glob.is_match(path) {
            files.push(by_stat(path.to_owned())?);
        }
    }
    if files.is_empty() { Err(nothing("no file matches".to_owned())) } else { Ok(files) }
}

fn with_extension(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, StorageError> {
    let mut files = listing(folder)?;
    files.retain(|path| path.extension().is_some_and(|found| found == extension) && path.is_file());
    Ok(files)
}

fn listing(folder: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let refused = |error| StorageError::io(folder, error);
    let entries = folder.read_dir().map_err(refused)?;
    let mut paths =
        entries.map(|entry| Ok(entry.map_err(refused)?.path())).collect::<Result<Vec<_>, StorageError>>()?;
    paths.sort();
    Ok(paths)
}

/// Everything that decided what the rows are, as `path=value`.
fn properties(node: &Node) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::from([("seed".to_owned(), node.seed.to_string())]);
    flatten("params", &node.params, &mut flat);
    flat.insert("stage".to_owned(), format!("{} v{}", node.stage, node.version));
    for upstream in &node.upstream {
        flat.insert(upstream.node.clone(), format!("{} v{}", upstream.stage, upstream.version));
        flatten(&upstream.node, &upstream.params, &mut flat);
    }
    flat
}

fn flatten(path: &str, value: &Value, flat: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&format!("{path}.{key}"), value, flat)),
        Value::String(text) => _ = flat.insert(path.to_owned(), text.clone()),
        other => _ = flat.insert(path.to_owned(), other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Commit, NODE_FILE, Upstream};
    use serde_json::json;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00 UTC");
        assert_eq!(utc(1_795_383_847), "2026-11-22 21:44 UTC");
    }

    fn node_folder(cache: &Path, name: &str, created_unix_s: u64, hop_len: u32) -> PathBuf {
        let folder = cache.join(name);
        std::fs::create_dir_all(folder.join(COMMITS)).expect("mkdir");
        let upstream = Upstream {
            node: "views".to_owned(),
            stage: "features".to_owned(),
            version: 1,
            params: json!({"views": {"mel": {"hop_len": hop_len, "bins": 96}}}),
        };
        let node = Node {
            node: "tokens".to_owned(),
            stage: "tokenize".to_owned(),
            version: 1,
            params: json!({}),
            seed: 1,
            fingerprint: name.repeat(8),
            upstream: vec![upstream],
            edge: None,
            omar_flow: "0".to_owned(),
        };
        std::fs::write(folder.join(NODE_FILE), serde_json::to_vec(&node).expect("json")).expect("write");
        std::fs::write(folder.join("s-all-0.parquet"), b"1234").expect("write");
        let commit = Commit {
            file: "s-all-0.parquet".to_owned(),
            shard: "s-all".to_owned(),
            input_hash: "0".to_owned(),
            rows: 0,
            bytes: 4,
            blake3: String::new(),
            tracks: 0,
            rejects: Vec::new(),
            created_unix_s,
            omar_flow: "0".to_owned(),
        };
        let json = serde_json::to_vec(&commit).expect("json");
        std::fs::write(folder.join(COMMITS).join("s-all-0.json"), json).expect("write");
        folder
    }

    fn names(path: &Path) -> Vec<String> {
        let located = locate(path).expect("files");
        located.iter().map(|file| file.path.file_name().expect("name").to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_path_may_be_a_file_a_pattern_a_node_or_a_cache_of_one_node() {
        let cache = tempfile::tempdir().expect("folder");
        let node = node_folder(cache.path(), "aaaa", 5, 320);
        std::fs::write(node.join("s-never-committed.parquet"), b"1234").expect("write");
        assert_eq!(names(cache.path()), ["s-all-0.parquet"]);
        assert_eq!(names(&node), ["s-all-0.parquet"]);
        assert_eq!(names(&node.join("s-all-0.parquet")), ["s-all-0.parquet"]);
        assert_eq!(names(&node.join("*.parquet")), ["s-all-0.parquet", "s-never-committed.parquet"]);
        let error = |path: &Path| locate(path).expect_err("nothing").to_string();
        assert!(error(&cache.path().join("x")).ends_with("no such file or folder"));
        assert!(error(&cache.path().join("*.x")).ends_with("no file matches"));
        assert!(error(tempfile::tempdir().expect("folder").path()).ends_with("expected parquet files, found none"));
        std::fs::remove_file(node.join("s-all-0.parquet")).expect("remove");
        assert!(error(&node).ends_with("no shard has been committed yet"));
    }

    #[test]
    fn several_nodes_are_told_apart_by_what_differs() {
        let cache = tempfile::tempdir().expect("folder");
        node_folder(cache.path(), "aaaa", 60, 320);
        node_folder(cache.path(), "bbbb", 120, 640);
        let Err(LocateError::Several { nodes, .. }) = locate(cache.path()) else { panic!("two nodes") };
        let lines = lines(&nodes).replace(&cache.path().display().to_string(), "");
        let expected = "  /bbbb  1970-01-01 00:02 UTC, 1 shards  views.views.mel.hop_len=640
  /aaaa  1970-01-01 00:01 UTC, 1 shards  views.views.mel.hop_len=320";
        assert_eq!(lines, expected);
    }
}
