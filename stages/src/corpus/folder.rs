//! Searching a folder tree for files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use walkdir::{DirEntry, WalkDir};

use super::archive::{self, Index};
use super::location::{Location, Stat};
use super::objects::Stores;

/// What counts as audio when nothing else is said: the extensions of the containers and codecs that `decode` knows,
/// and of those that people expect it to know, so that such files are reported instead of overlooked.
pub const AUDIO_EXTENSIONS: [&str; 25] = [
    "aac", "aif", "aifc", "aiff", "alac", "caf", "flac", "m4a", "m4b", "mka", "mkv", "mp1", "mp2", "mp3", "mp4", "oga",
    "ogg", "opus", "rf64", "w64", "wav", "wave", "weba", "webm", "bwf",
];

/// Which files of a folder are wanted.
///
/// Patterns are matched without regard to case against the path below the folder; a pattern without `/` is matched
/// against the file name alone, at any depth, as in a `.gitignore`. Names that start with a dot are never wanted: they
/// are the trash, the thumbnails and the resource forks of other programs.
#[derive(Debug, Clone)]
pub struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
    exclude_folders: GlobSet,
}

/// Is called with the path below the folder, and with what is known of it where that costs nothing.
pub type Found<'a> = &'a mut dyn FnMut(&Path, Option<Stat>);

/// What a search has seen besides the files that were wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Files that were not wanted, by extension in lower case (empty for none).
    pub extensions: BTreeMap<String, u64>,
}

/// A folder cannot be searched.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {source}", path.display())]
pub struct SearchError {
    /// The folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}

impl Selection {
    /// From patterns; no `include` means audio files by their extension.
    ///
    /// # Errors
    /// When a pattern is malformed.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, globset::Error> {
        let folders: Vec<String> =
            exclude.iter().map(|pattern| pattern.strip_suffix("/**").unwrap_or(pattern).to_owned()).collect();
        Ok(Self {
            include: if include.is_empty() { None } else { Some(globs(include)?) },
            exclude: globs(exclude)?,
            exclude_folders: globs(&folders)?,
        })
    }

    fn wants(&self, relative: &Path) -> bool {
        let included = match &self.include {
            Some(globs) => globs.is_match(relative),
            None => AUDIO_EXTENSIONS.contains(&extension(relative).as_str()),
        };
        included && !self.exclude.is_match(relative)
    }

    /// Whether something below a folder is wanted that is known by its path only: not if a folder on the way is hidden or
    /// left out.
    fn wants_by_path(&self, relative: &Path) -> bool {
        let hidden = relative.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        let shut = || relative.ancestors().skip(1).any(|folder| self.exclude_folders.is_match(folder));
        !hidden && self.wants(relative) && !shut()
    }

    /// Calls `found` for every wanted member of an archive that is called `path` below the folder.
    pub fn search_archive(&self, path: &Path, index: &Index, passed: &mut Passed, found: Found<'_>) {
        for (name, place) in index.members() {
            let member = path.join(name);
            let hidden = name.rsplit('/').next().is_some_and(|name| name.starts_with('.'));
            if !hidden && self.wants(&member) {
                found(&member, Some(index.stat(place)));
            } else {
                passed.count(&member);
            }
        }
    }

    /// Calls `found` for an object that a store has listed, if it is wanted. An archive is always passed on: what is in it
    /// is for the caller to look at.
    pub fn take_object(&self, path: &Path, stat: Stat, passed: &mut Passed, found: Found<'_>) {
        if self.wants_by_path(path) || (archive::is_archive(path) && self.may_hold(path)) {
            found(path, Some(stat));
        } else {
            passed.count(path);
        }
    }

    fn may_hold(&self, archive: &Path) -> bool {
        let hidden = archive.iter().any(|part| part.as_encoded_bytes().starts_with(b"."));
        !hidden && !archive.ancestors().any(|folder| self.exclude_folders.is_match(folder))
    }

    /// Calls `found` for every wanted file below `root`, in the order of their names, with its path below `root`. A tar
    /// archive counts as a folder, and its members come with what is known of them; one that cannot be read comes itself.
    ///
    /// Links are followed; one that leads back to a folder it lies in adds nothing and is skipped. A link to nowhere
    /// is a file that cannot be read, which its reader will say.
    ///
    /// # Errors
    /// When a folder cannot be read: leaving its files out would silently change the corpus.
    pub fn search(&self, root: &Path, found: Found<'_>) -> Result<Passed, SearchError> {
        let mut passed = Passed::default();
        let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
        let enter = |entry: &DirEntry| {
            let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
            let shut = entry.file_type().is_dir() && self.exclude_folders.is_match(below(entry.path()));
            entry.depth() == 0 || !(hidden || shut)
        };
        for entry in WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter().filter_entry(enter) {
            let path = match entry {
                Ok(entry) if entry.file_type().is_dir() => continue,
                Ok(entry) => below(entry.path()),
                Err(error) if error.loop_ancestor().is_some() => continue,
                Err(error) => match error.path().filter(|path| path.is_symlink()) {
                    Some(dangling) => below(dangling),
                    None => {
                        let path = error.path().unwrap_or(root).to_owned();
                        return Err(SearchError { path, source: error.into() });
                    }
                },
            };
            if archive::is_archive(&path) {
                match Index::read(&Location::File(root.join(&path)), Stores::shared()) {
                    Ok(index) => self.search_archive(&path, &index, &mut passed, found),
                    Err(_) => found(&path, None),
                }
            } else if self.wants(&path) {
                found(&path, None);
            } else {
                passed.count(&path);
            }
        }
        Ok(passed)
    }
}

impl Passed {
    /// Adds what another search has seen.
    pub fn add(&mut self, other: Self) {
        for (extension, count) in other.extensions {
            *self.extensions.entry(extension).or_default() += count;
        }
    }

    fn count(&mut self, path: &Path) {
        *self.extensions.entry(extension(path)).or_default() += 1;
    }

    /// `12 .txt, 3 .jpg`, the most frequent first.
    pub fn describe(&self) -> String {
        let mut counts: Vec<(&String, u64)> = self.extensions.iter().map(|(name, &count)| (name, count)).collect();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let mut words: Vec<String> = counts
            .iter()
            .take(8)
            .map(
                |(name, count)| {
                    if name.is_empty() { format!("{count} without extension") } else { format!("{count} .{name}") }
                },
            )
            .collect();
        if counts.len() > 8 {
            words.push(format!("{} more kinds", counts.len() - 8));
        }
        words.join(", ")
    }
}

fn extension(path: &Path) -> String {
    path.extension().and_then(OsStr::to_str).unwrap_or_default().to_lowercase()
}

fn globs(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.strip_prefix("./").unwrap_or(pattern);
        let anywhere = if pattern.contains('/') { pattern.to_owned() } else { format!("**/{pattern}") };
        set.add(GlobBuilder::new(&anywhere).literal_separator(true).case_insensitive(true).build()?);
    }
    set.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, b"").expect("write");
        }
        folder
    }

    fn search(folder: &Path, include: &[&str], exclude: &[&str]) -> Vec<String> {
        let owned = |patterns: &[&str]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
        let selection = Selection::new(&owned(include), &owned(exclude)).expect("patterns");
        let mut names = Vec::new();
        selection.search(folder, &mut |path, _| names.push(path.display().to_string())).expect("search");
        names
    }

    #[test]
    fn audio_is_found_at_any_depth_in_any_case_and_order_is_that_of_names() {
        let folder = tree(&["b.MP3", "a/z.flac", "a/c.wav", "a/notes.txt", ".trash/d.wav", "._b.mp3"]);
        assert_eq!(search(folder.path(), &[], &[]), ["a/c.wav", "a/z.flac", "b.MP3"]);
    }

    #[test]
    fn patterns_without_a_slash_match_names_and_those_with_one_match_paths() {
        let folder = tree(&["one.wav", "x/two.wav", "x/y/three.wav", "x/four.bin"]);
        assert_eq!(search(folder.path(), &["*.wav"], &[]), ["one.wav", "x/two.wav", "x/y/three.wav"]);
        assert_eq!(search(folder.path(), &["x/*"], &[]), ["x/four.bin", "x/two.wav"]);
        assert_eq!(search(folder.path(), &["**/*"], &["x/y/**"]), ["one.wav", "x/four.bin", "x/two.wav"]);
        assert_eq!(search(folder.path(), &[], &["y"]), ["one.wav", "x/two.wav"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_in_circles() {
        use std::os::unix::fs::symlink;
        let folder = tree(&["real/a.wav"]);
        symlink(folder.path().join("real"), folder.path().join("linked")).expect("link");
        symlink(folder.path(), folder.path().join("real/loop")).expect("link");
        symlink("nowhere.wav", folder.path().join("dangling.wav")).expect("link");
        let mut names = search(folder.path(), &[], &[]);
        names.retain(|name| !name.contains("loop"));
        assert_eq!(names, ["dangling.wav", "linked/a.wav", "real/a.wav"]);
    }
}
