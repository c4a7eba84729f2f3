//! What a path is.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use omar_schemas::units::Bytes;
use omar_stages::storage::{Commit, LocateError, Node, commits, locate, node_folders, tell_apart, utc};
use serde::Serialize;

use super::InspectError;

/// Something that can be shown.
pub(super) enum Target {
    Rows(Files),
    /// The newest first.
    Cache(Vec<NodeFolder>),
    Run(PathBuf),
}

/// Parquet files of one kind of rows.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) name: PathBuf,
    pub(super) files: Vec<PathBuf>,
    /// Of the committed ones among them.
    pub(super) commits: Vec<Commit>,
}

/// One of several nodes in a cache folder.
#[derive(Debug, Serialize)]
pub(super) struct NodeFolder {
    folder: PathBuf,
    node: Option<Node>,
    shards: usize,
    rows: u64,
    bytes: u64,
    created_unix_s: u64,
    differs_in: String,
}

impl NodeFolder {
    pub(super) fn cells(&self) -> Vec<String> {
        let node = self.node.as_ref();
        let edge = node.and_then(|node| node.edge.as_ref());
        vec![
            self.folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            node.map_or("?".to_owned(), |node| node.node.clone()),
            node.map_or("?".to_owned(), |node| node.stage.clone()),
            edge.map_or("?".to_owned(), |edge| edge.name.clone()),
            self.shards.to_string(),
            self.rows.to_string(),
            Bytes(self.bytes).to_string(),
            utc(self.created_unix_s),
            self.differs_in.clone(),
        ]
    }
}

pub(super) fn find(path: &Path) -> Result<Target, InspectError> {
    if path.join("manifest.json").is_file() {
        return Ok(Target::Run(path.to_owned()));
    }
    if path.is_file() {
        check_parquet(path)?;
    }
    match locate(path) {
        Ok(located) => {
            let files: Vec<PathBuf> = located.into_iter().map(|file| file.path).collect();
            let folder = files[0].parent().unwrap_or(Path::new("."));
            let mut commits = commits(folder)?;
            commits.retain(|commit| files.contains(&folder.join(&commit.file)));
            Ok(Target::Rows(Files { name: path.to_owned(), files, commits }))
        }
        Err(LocateError::Several { .. }) => Ok(Target::Cache(nodes(path)?)),
        Err(LocateError::Nothing { path, message }) => {
            let message = match message.as_str() {
                "expected parquet files, found none" => {
                    "expected a run, a cache, or parquet files in this folder, found none".to_owned()
                }
                _ => message,
            };
            Err(InspectError::Target { path, message })
        }
        Err(LocateError::Storage(error)) => Err(error.into()),
    }
}

fn nodes(cache: &Path) -> Result<Vec<NodeFolder>, InspectError> {
    let mut filled = node_folders(cache)?;
    filled.retain(|folder| commits(folder).is_ok_and(|commits| !commits.is_empty()));
    let mut nodes = Vec::new();
    for apart in tell_apart(&filled)? {
        let commits = commits(&apart.folder)?;
        nodes.push(NodeFolder {
            node: Node::read(&apart.folder)?,
            folder: apart.folder,
            shards: commits.len(),
            rows: commits.iter().map(|commit| commit.rows).sum(),
            bytes: commits.iter().map(|commit| commit.bytes).sum(),
            created_unix_s: apart.newest_unix_s,
            differs_in: apart.differs_in,
        });
    }
    Ok(nodes)
}

/// Says what a file is if it is not parquet: the parquet reader would only complain about its last bytes.
fn check_parquet(path: &Path) -> Result<(), InspectError> {
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(16).read_to_end(&mut start));
    read.map_err(|error| omar_stages::storage::StorageError::io(path, error))?;
    let found = match start.as_slice() {
        [b'P', b'A', b'R', b'1', ..] => return Ok(()),
        [] => "an empty file".to_owned(),
        [b'R', b'I', b'F', b'F', ..] | [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] => {
            "an audio file".to_owned()
        }
        [b'I', b'D', b'3', ..] => "an audio file".to_owned(),
        [0xff, second, ..] if *second >= 0xe0 => "an audio file".to_owned(),
        [_, _, _, _, 0, 0, 0, 0, b'{', ..] => "a file of weights (safetensors)".to_owned(),
        text if text.is_ascii() => format!("a text that begins with `{}`", text.escape_ascii()),
        other => format!("a file that begins with `{}`", other[..other.len().min(4)].escape_ascii()),
    };
    let message = format!("expected a parquet file, a run or a cache, found {found}");
    Err(InspectError::Target { path: path.to_owned(), message })
}
