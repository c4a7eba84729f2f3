//! Finding annotation files.

use std::path::{Path, PathBuf};

use super::error::DatasetError;
use crate::corpus::folder::{Passed, Selection};

/// The files below `folder` that match one of `patterns` and that `wanted` accepts, in the order of their names.
///
/// `such_as` is for the message when there are none.
pub(super) fn files(
    folder: &Path,
    patterns: &[&str],
    such_as: &str,
    wanted: impl Fn(&Path) -> bool,
) -> Result<Vec<PathBuf>, DatasetError> {
    let (found, passed) = search(folder, patterns)?;
    let (found, others): (Vec<PathBuf>, Vec<PathBuf>) = found.into_iter().partition(|path| wanted(path));
    if found.is_empty() {
        let seen = match (others.first(), passed.describe()) {
            (Some(other), _) => format!("`{}`", other.strip_prefix(folder).unwrap_or(other).display()),
            (None, kinds) if kinds.is_empty() => "no files at all".to_owned(),
            (None, kinds) => kinds,
        };
        let message = format!("expected files such as {such_as}, found {seen}");
        return Err(DatasetError::file(folder, None, message));
    }
    Ok(found)
}

/// All files below `folder` that match one of `patterns`, and what else there is.
pub(super) fn search(folder: &Path, patterns: &[&str]) -> Result<(Vec<PathBuf>, Passed), DatasetError> {
    let metadata = folder.metadata().map_err(|error| DatasetError::io(folder, &error))?;
    if !metadata.is_dir() {
        return Err(DatasetError::file(folder, None, "expected a folder, found a file"));
    }
    let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
    let selection = Selection::new(&patterns, &[]).expect("the patterns of layouts are well formed");
    let mut found = Vec::new();
    let passed = selection
        .search(folder, &mut |path, member| {
            // Annotations are read as files.
            if member.is_none() {
                found.push(folder.join(path));
            }
        })
        .map_err(|error| DatasetError::io(&error.path, &error.source))?;
    Ok((found, passed))
}

/// The first of `names` that is a folder below `folder`, or else `folder` itself.
pub(super) fn subfolder(folder: &Path, names: &[&str]) -> PathBuf {
    names.iter().map(|name| folder.join(name)).find(|path| path.is_dir()).unwrap_or_else(|| folder.to_owned())
}
