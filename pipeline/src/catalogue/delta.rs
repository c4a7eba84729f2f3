//! What has changed between two states of a corpus.

use std::collections::HashSet;

use omar_schemas::TrackId;
use serde::Serialize;

use super::{List, Snapshot};

/// Recordings that came, changed and went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Delta {
    /// Ids that were not there before.
    pub new: Vec<TrackId>,
    /// Ids whose content, path or split is another one.
    pub changed: Vec<TrackId>,
    /// Ids that are not there any more.
    pub removed: Vec<TrackId>,
    /// How many of the new ones have the identity of one that was removed: files that got another name.
    pub moved: usize,
}

impl Delta {
    /// From what was to what is: both are in the order of the ids, so one pass over them will do.
    pub fn between(before: &Snapshot, now: &List) -> Self {
        let mut delta = Self::default();
        let (mut old, mut at) = (0, 0);
        let (mut gone, mut came) = (HashSet::new(), Vec::new());
        while old < before.len() || at < now.len() {
            let was = (old < before.len()).then(|| before.track_id(old));
            let is = (at < now.len()).then(|| now.track_id(at));
            match (was, is) {
                (Some(was), Some(is)) if was == is => {
                    if before.identity(old) != now.identity(at) || before.version(old) != now.version(at) {
                        delta.changed.push(is);
                    }
                    old += 1;
                    at += 1;
                }
                (Some(was), is) if is.is_none_or(|is| was < is) => {
                    delta.removed.push(was);
                    gone.insert(before.identity(old));
                    old += 1;
                }
                (_, is) => {
                    delta.new.extend(is);
                    came.push(now.identity(at));
                    at += 1;
                }
            }
        }
        delta.moved = came.iter().filter(|identity| **identity != 0 && gone.contains(identity)).count();
        delta
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use omar_schemas::Split;
    use omar_stages::Recording;

    use super::super::{Catalogue, Listing, ShardSize};
    use super::*;

    fn list(files: &[(&str, u64)]) -> Catalogue {
        let recording = |&(path, identity): &(&str, u64)| Recording {
            track_id: TrackId::of(path, 0),
            path: path.to_owned(),
            split: Split::Train,
            bytes: 1,
            identity,
            content: true,
        };
        let listing: Listing = files.iter().map(recording).collect();
        Catalogue::new(vec![("tracks".to_owned(), listing)], ShardSize::Auto).expect("distinct")
    }

    #[test]
    fn what_came_changed_went_and_moved_is_told_apart() {
        let before = list(&[("kept", 1), ("changed", 2), ("gone", 3), ("old name", 4)]);
        let now = list(&[("kept", 1), ("changed", 5), ("fresh", 6), ("new name", 4)]);
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("_corpus/tracks.snapshot");
        Snapshot::write(&path, before.list(0)).expect("it can be written");
        let snapshot = Snapshot::read(&path).expect("it can be read").expect("it is there");
        let delta = Delta::between(&snapshot, now.list(0));
        let ids = |names: &[&str]| {
            let mut ids: Vec<TrackId> = names.iter().map(|name| TrackId::of(name, 0)).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(
            (delta.new.clone(), delta.removed.clone()),
            (ids(&["fresh", "new name"]), ids(&["gone", "old name"]))
        );
        assert_eq!((delta.changed.clone(), delta.moved), (ids(&["changed"]), 1));
        assert!(!delta.is_empty() && Delta::between(&snapshot, before.list(0)).is_empty());
        assert_eq!(Delta::between(&Snapshot::default(), now.list(0)).new.len(), 4);
    }

    #[test]
    fn one_of_several_with_one_content_stays() {
        let files = [("a", 1), ("b", 2), ("c", 1), ("d", 1)];
        let catalogue = list(&files);
        assert_eq!(catalogue.list(0).duplicates().iter().map(Vec::len).collect::<Vec<_>>(), [3]);
        let mut listing: Listing = files
            .iter()
            .map(|&(path, identity)| Recording {
                track_id: TrackId::of(path, 0),
                path: path.to_owned(),
                split: Split::Train,
                bytes: 1,
                identity,
                content: true,
            })
            .collect();
        let left_out = listing.drop_duplicates();
        assert!(left_out.len() == 2 && left_out.iter().all(|(out, kept)| out.identity == 1 && kept.path != out.path));
        let rest = Catalogue::new(vec![("tracks".to_owned(), listing)], ShardSize::Auto).expect("distinct");
        assert_eq!((rest.tracks(), rest.list(0).duplicates().len()), (2, 0));
    }
}
