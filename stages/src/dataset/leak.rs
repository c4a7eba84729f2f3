//! The same recording on both sides of a split, which makes a score worthless.

use std::collections::{BTreeMap, BTreeSet};

use omar_schemas::Split;
use serde::Serialize;

use super::track::Track;

/// What tracks of different splits have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shared {
    /// Their name.
    Id,
    /// Their audio file.
    Audio,
    /// The song, instrument or session that they come from.
    Group,
    /// The content of their audio files.
    Content,
}

/// Tracks of different splits that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// What they have in common.
    pub shared: Shared,
    /// The name, path, group or hash.
    pub key: String,
    /// Their ids and splits, as given.
    pub tracks: Vec<(String, Split)>,
}

/// Tracks with the same id, audio file or group in several splits.
///
/// Of several data sets, give groups alone a meaning across them: ids and paths are only unique within one.
pub fn leaks(tracks: &[Track]) -> Vec<Leak> {
    let mut found = shared(tracks, Shared::Id, |track| Some(track.id.clone()));
    found.extend(shared(tracks, Shared::Audio, |track| Some(track.audio.clone())));
    found.extend(shared(tracks, Shared::Group, |track| track.group.clone()));
    found
}

/// Tracks whose audio has the same content in several splits; `hash` gives that of a track, if it is known.
pub fn audio_leaks(tracks: &[Track], hash: impl Fn(&Track) -> Option<String>) -> Vec<Leak> {
    shared(tracks, Shared::Content, hash)
}

fn shared(tracks: &[Track], shared: Shared, key: impl Fn(&Track) -> Option<String>) -> Vec<Leak> {
    let mut by_key: BTreeMap<String, Vec<(String, Split)>> = BTreeMap::new();
    for track in tracks {
        if let (Some(key), Some(split)) = (key(track), track.split) {
            by_key.entry(key).or_default().push((track.id.clone(), split));
        }
    }
    let splits = |tracks: &[(String, Split)]| tracks.iter().map(|&(_, split)| split).collect::<BTreeSet<_>>().len();
    by_key
        .into_iter()
        .filter(|(_, tracks)| splits(tracks) > 1)
        .map(|(key, tracks)| Leak { shared, key, tracks })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_between_splits_is_found() {
        let track = |id: &str, audio: &str, split, group: Option<&str>| Track {
            split: Some(split),
            group: group.map(str::to_owned),
            ..Track::new(id, audio, Vec::new())
        };
        let tracks = [
            track("1", "a.wav", Split::Train, Some("song")),
            track("2", "b.wav", Split::Train, Some("song")),
            track("3", "a.wav", Split::Test, None),
            track("4", "d.wav", Split::Test, Some("song")),
            Track::new("1", "e.wav", Vec::new()),
        ];
        let leak = |shared, key: &str, tracks: &[(&str, Split)]| Leak {
            shared,
            key: key.to_owned(),
            tracks: tracks.iter().map(|&(id, split)| (id.to_owned(), split)).collect(),
        };
        let expected = [
            leak(Shared::Audio, "a.wav", &[("1", Split::Train), ("3", Split::Test)]),
            leak(Shared::Group, "song", &[("1", Split::Train), ("2", Split::Train), ("4", Split::Test)]),
        ];
        assert_eq!(leaks(&tracks), expected);
        let content = audio_leaks(&tracks, |track| (track.id != "3").then(|| track.audio[..1].replace('d', "b")));
        assert_eq!(content, [leak(Shared::Content, "b", &[("2", Split::Train), ("4", Split::Test)])]);
    }
}
