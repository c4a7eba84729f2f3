//! From places to recordings: folders, files, archives and objects, on disks and in stores.

use std::collections::HashMap;
use std::path::Path;

use omar_schemas::TrackId;

use super::Files;
use super::naming::{Known, name};
use crate::corpus::address::Address;
use crate::corpus::archive::{self, Index};
use crate::corpus::folder::{AUDIO_EXTENSIONS, Passed};
use crate::corpus::location::{Location, Stat, store_error};
use crate::corpus::objects::{Problem, StoreError, Stores};
use crate::error::StageError;
use crate::stage::Recording;

/// What a look at the places of a corpus has come to.
struct Search<'a> {
    found: &'a mut dyn FnMut(Recording),
    count: u64,
    passed: Passed,
    /// How often a name was seen that stands for several, as not all of it is text.
    unreadable: HashMap<String, u64>,
}

impl Files {
    /// The recordings of all places, or of the root where none are named.
    pub(super) fn list_places(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        let mut search = Search { found, count: 0, passed: Passed::default(), unreadable: HashMap::new() };
        if self.params.paths.is_empty() {
            self.search_place(&self.root, "", &mut search)?;
        }
        for path in &self.params.paths {
            let place = self.root.join(path).map_err(|error| StageError::Failed(error.to_string()))?;
            self.search_place(&place, &self.name_of(path), &mut search)?;
        }
        if search.count > 0 {
            return Ok(());
        }
        let wanted = match self.params.include.0.as_slice() {
            [] => format!("files that end in .{}", AUDIO_EXTENSIONS.join(", .")),
            patterns => format!("files like `{}`", patterns.join("`, `")),
        };
        let nothing = search.passed.extensions.is_empty();
        let seen = if nothing { "no files at all".to_owned() } else { search.passed.describe() };
        let places = match self.params.paths.as_slice() {
            [] => self.root.to_string(),
            paths => paths.join("`, `"),
        };
        Err(StageError::Failed(format!("no recordings in `{places}`: looked for {wanted}; found {seen}")))
    }

    /// A place whose recordings are named `prefix` and what comes below it.
    fn search_place(&self, place: &Location, prefix: &str, search: &mut Search<'_>) -> Result<(), StageError> {
        match place {
            Location::File(path) if path.is_file() && !prefix.is_empty() => self.take_one(place, prefix, None, search),
            Location::File(path) => self.search_folder(path, prefix, search),
            Location::Object(address) => self.search_store(address, prefix, search),
        }
    }

    fn search_folder(&self, folder: &Path, prefix: &str, search: &mut Search<'_>) -> Result<(), StageError> {
        if !folder.is_dir() {
            let working = std::env::current_dir().map_or(String::new(), |folder| folder.display().to_string());
            let what = if folder.exists() { "is not a folder" } else { "does not exist" };
            return Err(StageError::Failed(format!("`{}` {what} (working directory: `{working}`)", folder.display())));
        }
        let passed = self.selection.search(folder, &mut |path, stat| self.add(prefix, path, stat, search));
        let passed = passed.map_err(|error| StageError::io(error.path, error.source))?;
        search.passed.add(passed);
        Ok(())
    }

    /// An object, or all objects below an address. Where a name looks like that of a file, it is looked for first.
    fn search_store(&self, address: &Address, prefix: &str, search: &mut Search<'_>) -> Result<(), StageError> {
        let stores = Stores::shared();
        let place = Location::Object(address.clone());
        let lists = address.scheme().lists();
        let is_file = address.extension().is_some_and(|extension| {
            let extension = extension.to_lowercase();
            AUDIO_EXTENSIONS.contains(&extension.as_str()) || extension == archive::EXTENSION
        });
        if !prefix.is_empty() && (is_file || !lists) {
            match stores.stat(address) {
                Ok(stat) => return self.take_one(&place, prefix, Some(stat), search),
                Err(error) if error.problem == Problem::Missing && lists => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        let mut archives = Vec::new();
        let listed = stores.list(address, &mut |name, stat| {
            let mut passed = std::mem::take(&mut search.passed);
            self.selection.take_object(Path::new(name), stat, &mut passed, &mut |path, stat| {
                if archive::is_archive(path) {
                    archives.push(name.to_owned());
                } else {
                    self.add(prefix, path, stat, search);
                }
            });
            search.passed = passed;
        });
        let count = listed.map_err(|error| failed(&error))?;
        for name in archives {
            let archive = place.join(&name).map_err(|error| StageError::Failed(error.to_string()))?;
            self.take_archive(&archive, prefix, Path::new(&name), search)?;
        }
        if count == 0 && !prefix.is_empty() && !is_file {
            let stat = stores.stat(address).map_err(|error| match error.problem {
                Problem::Missing => {
                    StageError::Failed(format!("there is nothing at `{address}`, and nothing below it"))
                }
                _ => failed(&error),
            })?;
            return self.take_one(&place, prefix, Some(stat), search);
        }
        Ok(())
    }

    /// A file or an object that is named itself: patterns choose from what is found, not from what is named.
    fn take_one(
        &self,
        place: &Location,
        name: &str,
        stat: Option<Stat>,
        search: &mut Search<'_>,
    ) -> Result<(), StageError> {
        if archive::is_archive(Path::new(name)) {
            return self.take_archive(place, name, Path::new(""), search);
        }
        self.add(name, Path::new(""), stat, search);
        Ok(())
    }

    /// The members of an archive, or the archive itself where it is none: what is wrong with it is for its reader to say.
    fn take_archive(
        &self,
        archive: &Location,
        prefix: &str,
        name: &Path,
        search: &mut Search<'_>,
    ) -> Result<(), StageError> {
        match Index::read(archive, Stores::shared()) {
            Ok(index) => {
                let mut passed = std::mem::take(&mut search.passed);
                let mut found = |path: &Path, stat| self.add(prefix, path, stat, search);
                self.selection.search_archive(name, &index, &mut passed, &mut found);
                search.passed = passed;
            }
            Err(error) => match store_error(&error) {
                Some(store) if store.problem != Problem::Missing => return Err(failed(store)),
                _ => self.add(prefix, name, None, search),
            },
        }
        Ok(())
    }

    fn add(&self, prefix: &str, path: &Path, stat: Option<Stat>, search: &mut Search<'_>) {
        search.count += 1;
        let below = name(path);
        let name = match (prefix, below.as_str()) {
            ("", _) => below,
            (_, "") => prefix.to_owned(),
            (_, below) => format!("{prefix}/{below}"),
        };
        let mut repeat = 0;
        if path.to_str().is_none() {
            let seen = search.unreadable.entry(name.clone()).or_default();
            repeat = *seen;
            *seen += 1;
        }
        let known = Known { stat, ..Known::default() };
        (search.found)(self.recording(TrackId::of(&name, repeat), name, &known));
    }
}

fn failed(error: &StoreError) -> StageError {
    StageError::Failed(error.to_string())
}
