//! From folders and lists to recordings: what each is called, what it is used for, and when it counts as changed.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use omar_schemas::{Split, TrackId};

use super::identity::{content_identity, hash_identity, stat_identity};
use super::{Files, Identity};
use crate::corpus::archive::{self, Place, Section};
use crate::corpus::folder::AUDIO_EXTENSIONS;
use crate::corpus::manifest::{self, Entry, ManifestError};
use crate::error::StageError;
use crate::seed;
use crate::stage::Recording;

/// What a list says about a recording besides its path.
#[derive(Debug, Default)]
struct Known {
    split: Option<Split>,
    hash: Option<String>,
    bytes: Option<u64>,
    /// In the archive that it is a member of.
    place: Option<Place>,
}

impl Files {
    pub(super) fn list_folder(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        let root = &self.root;
        if !root.is_dir() {
            let working = std::env::current_dir().map_or(String::new(), |folder| folder.display().to_string());
            let what = if root.exists() { "is not a folder" } else { "does not exist" };
            return Err(StageError::Failed(format!("`{}` {what} (working directory: `{working}`)", root.display())));
        }
        let mut count = 0;
        let mut unreadable: HashMap<String, u64> = HashMap::new();
        let passed = self.selection.search(root, &mut |path, place| {
            count += 1;
            let name = name(path);
            let mut repeat = 0;
            if path.to_str().is_none() {
                let seen = unreadable.entry(name.clone()).or_default();
                repeat = *seen;
                *seen += 1;
            }
            found(self.recording(TrackId::of(&name, repeat), name, &Known { place, ..Known::default() }));
        });
        let passed = passed.map_err(|error| StageError::io(error.path, error.source))?;
        if count > 0 {
            return Ok(());
        }
        let wanted = match self.params.include.0.as_slice() {
            [] => format!("files that end in .{}", AUDIO_EXTENSIONS.join(", .")),
            patterns => format!("files like `{}`", patterns.join("`, `")),
        };
        let seen = if passed.extensions.is_empty() { "no files at all".to_owned() } else { passed.describe() };
        Err(StageError::Failed(format!("no recordings in `{}`: looked for {wanted}; found {seen}", root.display())))
    }

    pub(super) fn list_manifest(&self, manifest: &Path, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        // The only thing that is held for every line of the list.
        let mut seen: HashMap<TrackId, u32> = HashMap::new();
        let listed = manifest::read(manifest, &mut |entry| {
            let path = Path::new(&entry.path);
            let path = name(path.strip_prefix(&self.root).unwrap_or(path));
            let track_id = match &entry.id {
                Some(id) => TrackId::of(id, 0),
                None => {
                    let first = TrackId::of(&path, 0);
                    match seen.get_mut(&first) {
                        Some(repeats) => {
                            *repeats += 1;
                            TrackId::of(&path, u64::from(*repeats))
                        }
                        None => first,
                    }
                }
            };
            if seen.insert(track_id, 0).is_some() {
                let id = entry.id.as_ref().unwrap_or(&path);
                let first = self.first_line(manifest, track_id, entry.line);
                let message = format!("`{id}` names a track that line {first} names already");
                return Err(ManifestError { path: manifest.to_owned(), line: Some(entry.line), message });
            }
            let Entry { split, hash, bytes, .. } = entry;
            found(self.recording(track_id, path, &Known { split, hash, bytes, place: None }));
            Ok(())
        });
        listed.map_err(|error| StageError::Failed(error.to_string()))?;
        if seen.is_empty() {
            return Err(StageError::Failed(format!("`{}` lists no recordings", manifest.display())));
        }
        Ok(())
    }

    /// The line before `last` that names a track: looked up only where there is something to complain about.
    fn first_line(&self, manifest: &Path, track_id: TrackId, last: u64) -> u64 {
        let mut first = last;
        // It could be read as far as here a moment ago.
        let _read = manifest::read(manifest, &mut |entry| {
            let path = Path::new(&entry.path);
            let path = name(path.strip_prefix(&self.root).unwrap_or(path));
            if TrackId::of(entry.id.as_ref().unwrap_or(&path), 0) == track_id {
                first = first.min(entry.line);
            }
            Ok(())
        });
        first
    }

    /// A file that cannot be looked at has size and identity 0; what is wrong with it is for its reader to say.
    fn recording(&self, track_id: TrackId, path: String, known: &Known) -> Recording {
        let split = known.split.unwrap_or_else(|| self.draw_split(&path));
        if let Some(hash) = &known.hash {
            let (identity, bytes) = (TrackId::of(hash, 0).0, known.bytes.unwrap_or(0));
            return Recording { track_id, path, split, bytes, identity, content: true };
        }
        let file = self.root.join(&path);
        if let Some((archive, member)) = archive::split(&file) {
            return self.member(track_id, path, split, (&archive, &member), known.place);
        }
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
        let bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
        let identity = metadata.and_then(|metadata| match self.params.identity {
            Identity::Stat => Some(stat_identity(&metadata)),
            Identity::Content => content_identity(&file).ok(),
        });
        let content = self.params.identity == Identity::Content;
        Recording { track_id, path, split, bytes, identity: identity.unwrap_or(0), content }
    }

    /// A member of an archive. It counts as changed when the archive does, or its place in it.
    fn member(
        &self,
        track_id: TrackId,
        path: String,
        split: Split,
        (archive, member): (&Path, &str),
        place: Option<Place>,
    ) -> Recording {
        let place = place.or_else(|| archive::Index::read(archive).ok()?.place(member));
        let identity = place.and_then(|place| match self.params.identity {
            Identity::Stat => {
                let whole = stat_identity(&archive.metadata().ok()?);
                Some(seed::derive(whole, &[place.start, place.len]))
            }
            Identity::Content => hash_identity(Section::new(File::open(archive).ok()?, place).ok()?).ok(),
        });
        let (bytes, content) = (place.map_or(0, |place| place.len), self.params.identity == Identity::Content);
        Recording { track_id, path, split, bytes, identity: identity.unwrap_or(0), content }
    }

    /// By path, not by id: repeats of a file must not end up on both sides of a split.
    pub(super) fn draw_split(&self, path: &str) -> Split {
        if self.params.test_fraction + self.params.valid_fraction == 0.0 {
            return Split::Train;
        }
        let draw = seed::Random::new(seed::derive_named(TrackId::of(path, 0).0, "split"), &[]).uniform();
        if draw < self.params.test_fraction {
            Split::Test
        } else if draw < self.params.test_fraction + self.params.valid_fraction {
            Split::Valid
        } else {
            Split::Train
        }
    }
}

/// The path with `/` between its parts and nothing superfluous.
pub(in crate::ops) fn name(path: &Path) -> String {
    let clean: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    clean.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
}
