//! From a list to recordings.

use std::collections::HashMap;

use omar_schemas::TrackId;

use super::Files;
use super::naming::Known;
use crate::corpus::address::Address;
use crate::corpus::location::{Location, Stat};
use crate::corpus::manifest::{self, Entry, ManifestError};
use crate::corpus::objects::{Problem, Stores};
use crate::error::StageError;
use crate::stage::Recording;

/// Entries that are held back, so that the objects that they name are asked for together.
const TOGETHER: usize = 1024;

/// Entries that name objects of which nothing is known.
#[derive(Default)]
struct Waiting {
    addresses: Vec<Address>,
    entries: Vec<(TrackId, String, Known)>,
}

impl Files {
    pub(super) fn list_manifest(&self, list: &Location, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        // The only thing that is held for every line of the list.
        let mut seen: HashMap<TrackId, u32> = HashMap::new();
        let mut waiting = Waiting::default();
        let listed = manifest::read(list, Stores::shared(), &mut |entry| {
            let path = self.name_of(&entry.path);
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
            let refused = |message: String| ManifestError { list: list.to_string(), line: Some(entry.line), message };
            if seen.insert(track_id, 0).is_some() {
                let id = entry.id.as_ref().unwrap_or(&path);
                let first = self.first_line(list, track_id, entry.line);
                return Err(refused(format!("`{id}` names a track that line {first} names already")));
            }
            let place = self.root.join(&path).map_err(|error| refused(error.to_string()))?;
            let Entry { split, hash, bytes, .. } = entry;
            let known = Known { split, hash, bytes, stat: None };
            match place {
                Location::Object(address)
                    if known.hash.is_none() && Location::Object(address.clone()).in_archive().is_none() =>
                {
                    waiting.addresses.push(address);
                    waiting.entries.push((track_id, path, known));
                    if waiting.entries.len() >= TOGETHER {
                        let refused = |message| ManifestError { list: list.to_string(), line: None, message };
                        self.ask(&mut waiting, found).map_err(refused)?;
                    }
                }
                _ => found(self.recording(track_id, path, &known)),
            }
            Ok(())
        });
        listed.map_err(|error| StageError::Failed(error.to_string()))?;
        self.ask(&mut waiting, found).map_err(|message| StageError::Failed(format!("`{list}`: {message}")))?;
        if seen.is_empty() {
            return Err(StageError::Failed(format!("`{list}` lists no recordings")));
        }
        Ok(())
    }

    /// Asks the stores about all that wait. An object that is not there becomes a row of the quarantine; a store that is not
    /// there would make one of every recording, so it ends the listing, with what it said.
    fn ask(&self, waiting: &mut Waiting, found: &mut dyn FnMut(Recording)) -> Result<(), String> {
        let Waiting { addresses, entries } = std::mem::take(waiting);
        for (stat, (track_id, path, known)) in Stores::shared().stats(&addresses).into_iter().zip(entries) {
            let stat = match stat {
                Ok(stat) => stat,
                Err(error) if error.problem == Problem::Unavailable => return Err(error.to_string()),
                Err(_) => Stat::default(),
            };
            found(self.recording(track_id, path, &Known { stat: Some(stat), ..known }));
        }
        Ok(())
    }

    /// The line before `last` that names a track: looked up only where there is something to complain about.
    fn first_line(&self, list: &Location, track_id: TrackId, last: u64) -> u64 {
        let mut first = last;
        // It could be read as far as here a moment ago.
        let _read = manifest::read(list, Stores::shared(), &mut |entry| {
            let path = self.name_of(&entry.path);
            if TrackId::of(entry.id.as_ref().unwrap_or(&path), 0) == track_id {
                first = first.min(entry.line);
            }
            Ok(())
        });
        first
    }
}
