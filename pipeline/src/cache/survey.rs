//! What lies in cache folders: which of it is ours, complete, left over, or somebody else's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use omar_stages::storage::{COMMITS, Commit, NODE_FILE, Node, StorageError};

use super::lock::NAME as LOCK_FILE;
use super::{CacheError, FOLDER_DIGITS};

/// How deep below a folder caches are looked for: `runs/<name>/<fingerprint>` and two more.
const DEPTH: usize = 4;

/// The folder of a cached node, and all that is in it.
#[derive(Debug, Clone)]
pub struct NodeFolder {
    /// Where it is.
    pub path: PathBuf,
    /// What made its rows.
    pub node: Node,
    /// Shards whose record and file are there and agree in size.
    pub commits: Vec<Commit>,
    /// Records that nothing can be made of: unreadable, or without their file.
    pub broken: Vec<PathBuf>,
    /// Files that no record knows, and what processes that died were about to write.
    pub leftovers: Vec<PathBuf>,
    /// Files that this program has not written.
    pub foreign: Vec<PathBuf>,
    /// Size of all that is ours.
    pub bytes: u64,
}

impl NodeFolder {
    /// Looks at a folder. `None` when it is not that of a cached node.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn read(path: &Path) -> Result<Option<Self>, StorageError> {
        let Some(node) = Node::read(path)? else { return Ok(None) };
        let digits = node.fingerprint.get(..FOLDER_DIGITS).unwrap_or(&node.fingerprint);
        let named = path.canonicalize().ok().and_then(|path| Some(path.file_name()? == digits));
        let records = path.join(COMMITS);
        let folder = records.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if named != Some(true) || !folder {
            return Ok(None);
        }
        let mut found = Self {
            path: path.to_owned(),
            node,
            commits: Vec::new(),
            broken: Vec::new(),
            leftovers: Vec::new(),
            foreign: Vec::new(),
            bytes: 0,
        };
        found.look(&records)?;
        Ok(Some(found))
    }

    fn look(&mut self, records: &Path) -> Result<(), StorageError> {
        let (mut notes, mut rows) = (listing(records)?, listing(&self.path)?);
        let mut known = BTreeSet::new();
        for (path, _) in notes.iter().filter(|(path, _)| has_extension(path, "json") && is_ours(path)) {
            match Commit::read(path)? {
                Some(commit) if commit.has_file(&self.path) => {
                    known.insert(Path::new(&commit.file).with_extension(""));
                    self.commits.push(commit);
                }
                _ => self.broken.push(path.clone()),
            }
        }
        self.commits.sort_by(|a, b| a.file.cmp(&b.file));
        let stands = |path: &Path| path.file_stem().is_some_and(|stem| known.contains(Path::new(stem)));
        notes.retain(|(path, _)| !has_extension(path, "json") || !is_ours(path));
        rows.retain(|(path, _)| {
            path.file_name().is_none_or(|name| name != COMMITS && name != NODE_FILE && name != LOCK_FILE)
        });
        let expected =
            notes.into_iter().map(|note| (note, "codes")).chain(rows.into_iter().map(|row| (row, "parquet")));
        for ((path, is_file), extension) in expected {
            let shard = has_extension(&path, extension) && is_ours(&path);
            if !is_file || !(shard || is_temporary(&path)) {
                self.foreign.push(path);
            } else if !stands(&path) {
                self.leftovers.push(path);
            }
        }
        let codes = |commit: &Commit| records.join(Path::new(&commit.file).with_extension("codes"));
        let size = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        self.bytes = self.commits.iter().map(|commit| commit.bytes + size(&codes(commit))).sum::<u64>()
            + self.leftovers.iter().map(|path| size(path)).sum::<u64>();
        Ok(())
    }

    /// Rows in its complete shards.
    pub fn rows(&self) -> u64 {
        self.commits.iter().map(|commit| commit.rows).sum()
    }

    /// When its newest shard was committed, seconds since 1970.
    pub fn newest_unix_s(&self) -> Option<u64> {
        self.commits.iter().map(|commit| commit.created_unix_s).max()
    }

    /// The fingerprint as it is shown.
    pub fn fingerprint(&self) -> &str {
        self.node.fingerprint.get(..FOLDER_DIGITS).unwrap_or(&self.node.fingerprint)
    }

    /// Where the record of a commit is.
    pub(super) fn record(&self, commit: &Commit) -> PathBuf {
        self.path.join(COMMITS).join(Path::new(&commit.file).with_extension("json"))
    }
}

/// The folders of cached nodes in a folder: itself, or those below it, in the order of their names. Links are not
/// followed.
///
/// # Errors
/// When a folder cannot be read.
pub fn survey(folder: &Path) -> Result<Vec<NodeFolder>, CacheError> {
    let mut found = Vec::new();
    let mut open = vec![(folder.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        if let Some(node) = NodeFolder::read(&path)? {
            found.push(node);
        } else if depth < DEPTH {
            let folders = listing(&path)?.into_iter().filter(|(path, _)| {
                let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
                !hidden && path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
            });
            open.extend(folders.map(|(path, _)| (path, depth + 1)));
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// What is in a folder, with whether each is a plain file. What goes while it is looked at is not there.
fn listing(folder: &Path) -> Result<Vec<(PathBuf, bool)>, StorageError> {
    let refused = |error| StorageError::io(folder, error);
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if let Ok(metadata) = path.symlink_metadata() {
            found.push((path, metadata.is_file()));
        }
    }
    found.sort();
    Ok(found)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

/// Whether a file is named like those of a shard: `s-0110-1f2e3d4c`.
fn is_ours(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.rsplit_once('-'));
    stem.is_some_and(|(shard, hash)| {
        shard.starts_with('s')
            && !hash.is_empty()
            && hash.len() <= 8
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// Whether it is what `durable::temporary_for` names.
fn is_temporary(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    hidden && has_extension(path, "tmp")
}
