//! The corpus: recordings of all sources, divided into shards.
//!
//! Shards are the leaves of a binary trie over the bits of the track id. Ids are hashes, so the trie is even; which
//! tracks are together depends on the set of tracks alone; and a track that comes or goes touches one shard, at most
//! splitting it in two or joining two. See [`ShardSize`] for how full a leaf may be.

use std::collections::BTreeMap;

use omar_schemas::TrackId;
use omar_stages::{Recording, storage::ShardKey};

/// Recordings of all sources of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue {
    /// Names of the sources.
    pub sources: Vec<String>,
    /// In the order of their names, without empty ones.
    pub shards: Vec<Shard>,
}

/// Tracks that are processed and committed together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// The leading bits that the ids of its tracks have in common: `s-0110`, or `s-all` for a corpus of one shard.
    pub name: String,
    /// In the order of their ids.
    pub tracks: Vec<Entry>,
}

/// A track, as the sources list it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub track_id: TrackId,
    /// What each source says, in the order of [`Catalogue::sources`].
    pub recordings: Vec<Option<Recording>>,
}

/// How many tracks a shard may hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ShardSize {
    /// 4 at the root of the trie, twice as many at each level below, at most 256. A small corpus so gets several
    /// small shards and commits early (100 tracks: about 8 shards); from some 16 000 tracks on, shards of 128 to 256
    /// keep the number of files low.
    #[default]
    Auto,
    /// This many, at least 1.
    Tracks(usize),
}

/// The sources contradict themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("source `{source_name}` lists track {track_id} twice: as `{first}` and as `{second}`")]
pub struct RepeatedTrack {
    /// Name of the source.
    pub source_name: String,
    /// The track.
    pub track_id: TrackId,
    /// Path of its first appearance.
    pub first: String,
    /// Path of its second appearance.
    pub second: String,
}

impl Catalogue {
    /// Divides the recordings of all sources, given by name, into shards. Tracks are matched by id.
    ///
    /// # Errors
    /// When a source lists a track twice.
    pub fn new(sources: Vec<(String, Vec<Recording>)>, size: ShardSize) -> Result<Self, RepeatedTrack> {
        let names: Vec<String> = sources.iter().map(|source| source.0.clone()).collect();
        let mut tracks: BTreeMap<TrackId, Vec<Option<Recording>>> = BTreeMap::new();
        for (index, (source_name, recordings)) in sources.into_iter().enumerate() {
            for recording in recordings {
                let track_id = recording.track_id;
                let slots = tracks.entry(track_id).or_insert_with(|| vec![None; names.len()]);
                if let Some(first) = slots[index].take() {
                    let (first, second) = (first.path, recording.path);
                    return Err(RepeatedTrack { source_name, track_id, first, second });
                }
                slots[index] = Some(recording);
            }
        }
        let tracks = tracks.into_iter().map(|(track_id, recordings)| Entry { track_id, recordings }).collect();
        let mut shards = Vec::new();
        split(tracks, 0, size, &mut shards);
        Ok(Self { sources: names, shards })
    }

    /// Keeps only the first tracks, in the order of the shards: all but the last of the shards that are left are what
    /// they are in the whole corpus, and so are their caches.
    pub fn limit(&mut self, tracks: usize) {
        let mut left = tracks;
        for shard in &mut self.shards {
            shard.tracks.truncate(left);
            left -= shard.tracks.len();
        }
        self.shards.retain(|shard| !shard.tracks.is_empty());
    }

    /// Number of tracks.
    pub fn tracks(&self) -> usize {
        self.shards.iter().map(|shard| shard.tracks.len()).sum()
    }

    /// Place of a source in [`Entry::recordings`].
    pub fn source(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| source == name)
    }
}

impl Shard {
    /// Identifies the shard and all that some of the sources say about its tracks: what a node made of them can be
    /// used again as long as this stays the same.
    pub fn key(&self, sources: &[usize]) -> ShardKey {
        let mut hasher = blake3::Hasher::new();
        for entry in &self.tracks {
            for (slot, &source) in (0u64..).zip(sources) {
                // A track that a source does not know leaves no trace: it is the business of the others.
                let Some(recording) = &entry.recordings[source] else { continue };
                hasher.update(&slot.to_le_bytes());
                hasher.update(&recording.track_id.0.to_le_bytes());
                hasher.update(&recording.identity.to_le_bytes());
                for text in [recording.path.as_str(), recording.split.as_str()] {
                    hasher.update(&(text.len() as u64).to_le_bytes());
                    hasher.update(text.as_bytes());
                }
            }
        }
        ShardKey { shard: self.name.clone(), input_hash: hasher.finalize().to_hex().to_string() }
    }
}

impl ShardSize {
    fn at_depth(self, depth: u32) -> usize {
        match self {
            Self::Auto => 256.min(4 << depth.min(6)),
            Self::Tracks(tracks) => tracks.max(1),
        }
    }
}

/// `tracks` are sorted and have the first `depth` bits of their ids in common.
fn split(mut tracks: Vec<Entry>, depth: u32, size: ShardSize, shards: &mut Vec<Shard>) {
    if tracks.is_empty() {
        return;
    }
    if tracks.len() <= size.at_depth(depth) || depth == u64::BITS {
        shards.push(Shard { name: name(tracks[0].track_id, depth), tracks });
        return;
    }
    let bit = 1 << (u64::BITS - 1 - depth);
    let ones = tracks.split_off(tracks.partition_point(|track| track.track_id.0 & bit == 0));
    split(tracks, depth + 1, size, shards);
    split(ones, depth + 1, size, shards);
}

fn name(member: TrackId, depth: u32) -> String {
    match depth {
        0 => "s-all".to_owned(),
        depth => format!("s-{:.*}", depth as usize, format!("{:064b}", member.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_schemas::Split;
    use proptest::prelude::*;

    fn recording(name: &str) -> Recording {
        let track_id = TrackId::of(name, 0);
        Recording { track_id, path: name.to_owned(), split: Split::Train, bytes: 1, identity: 1 }
    }

    fn catalogue(names: impl Iterator<Item = String>, size: ShardSize) -> Catalogue {
        let recordings = names.map(|name| recording(&name)).collect();
        Catalogue::new(vec![("tracks".to_owned(), recordings)], size).expect("distinct names")
    }

    fn keys(catalogue: &Catalogue) -> Vec<ShardKey> {
        catalogue.shards.iter().map(|shard| shard.key(&[0])).collect()
    }

    fn corpora() -> impl Strategy<Value = Vec<String>> {
        let names = prop::collection::hash_set(0u32..100_000, 1..300);
        names.prop_map(|names| names.into_iter().map(|name| name.to_string()).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn shards_depend_on_the_set_of_tracks_only(mut names in corpora(), turn in 0usize..300) {
            let straight = catalogue(names.iter().cloned(), ShardSize::Auto);
            let middle = turn % names.len();
            names.rotate_left(middle);
            let turned = catalogue(names.into_iter(), ShardSize::Auto);
            prop_assert_eq!(&straight, &turned);
        }

        #[test]
        fn a_track_more_touches_one_shard(names in corpora(), auto: bool) {
            let size = if auto { ShardSize::Auto } else { ShardSize::Tracks(3) };
            let before = keys(&catalogue(names.iter().cloned(), size));
            let after = catalogue(names.into_iter().chain(["newcomer".to_owned()]), size);
            let kept = keys(&after);
            let gone = before.iter().filter(|key| !kept.contains(key)).count();
            let fresh: Vec<_> = after.shards.iter().filter(|shard| !before.contains(&shard.key(&[0]))).collect();
            prop_assert!(gone <= 1);
            // The shard that took it in, or the parts into which that had to be split.
            let prefix = fresh.iter().map(|shard| shard.name.len()).min().expect("the newcomer is somewhere");
            prop_assert!(fresh.iter().all(|shard| shard.tracks.len() <= 256 && shard.name.len() >= prefix));
            let tracks: usize = fresh.iter().map(|shard| shard.tracks.len()).sum();
            prop_assert!(tracks <= 257);
        }
    }

    #[test]
    fn small_corpora_get_small_shards_and_large_ones_full_shards() {
        let sizes = |n: u32| -> (usize, usize) {
            let catalogue = catalogue((0..n).map(|i| i.to_string()), ShardSize::Auto);
            let largest = catalogue.shards.iter().map(|shard| shard.tracks.len()).max().expect("shards");
            (catalogue.shards.len(), largest)
        };
        assert_eq!(sizes(4), (1, 4));
        let (shards, largest) = sizes(100);
        assert!((5..=12).contains(&shards) && largest <= 32, "{shards} {largest}");
        let (shards, largest) = sizes(100_000);
        assert!((390..1000).contains(&shards) && largest <= 256, "{shards} {largest}");
    }

    #[test]
    fn names_are_the_bits_that_members_share() {
        let catalogue = catalogue((0..40).map(|i| i.to_string()), ShardSize::Tracks(5));
        for shard in &catalogue.shards {
            let bits = shard.name.strip_prefix("s-").expect("prefix");
            assert!(shard.tracks.iter().all(|entry| format!("{:064b}", entry.track_id.0).starts_with(bits)));
            assert!(shard.tracks.is_sorted_by_key(|entry| entry.track_id));
        }
        assert!(catalogue.shards.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(catalogue.tracks(), 40);
    }

    #[test]
    fn a_limit_leaves_whole_shards_as_they_are() {
        let whole = catalogue((0..100).map(|i| i.to_string()), ShardSize::Auto);
        let mut some = whole.clone();
        some.limit(50);
        assert_eq!(some.tracks(), 50);
        let (last, first) =
            keys(&some).split_last().map(|(last, first)| (last.clone(), first.to_vec())).expect("shards");
        assert!(first.iter().all(|key| keys(&whole).contains(key)) && first.len() > 2);
        assert!(!keys(&whole).contains(&last));
        some.limit(0);
        assert_eq!(some.shards, []);
    }

    #[test]
    fn a_key_covers_what_its_sources_say_and_nothing_else() {
        let with = |change: fn(&mut Recording), source: usize| {
            let mut sources = vec![("a".to_owned(), vec![recording("x")]), ("b".to_owned(), vec![recording("x")])];
            change(&mut sources[source].1[0]);
            Catalogue::new(sources, ShardSize::Auto).expect("distinct").shards.remove(0)
        };
        let plain = with(|_| {}, 0).key(&[0]);
        assert_eq!(with(|r| r.identity = 2, 1).key(&[0]), plain);
        assert_ne!(with(|r| r.identity = 2, 0).key(&[0]), plain);
        assert_ne!(with(|r| r.split = Split::Valid, 0).key(&[0]), plain);
        assert_ne!(with(|r| r.path = "y".to_owned(), 0).key(&[0]), plain);
        assert_eq!(with(|r| r.bytes = 2, 0).key(&[0]), plain);
        assert_ne!(with(|_| {}, 0).key(&[0, 1]), plain);
    }

    #[test]
    fn sources_are_matched_by_track() {
        let sources =
            vec![("a".to_owned(), vec![recording("x"), recording("y")]), ("b".to_owned(), vec![recording("y")])];
        let catalogue = Catalogue::new(sources, ShardSize::Auto).expect("distinct");
        assert_eq!(catalogue.source("b"), Some(1));
        let mut pairs: Vec<_> = catalogue.shards[0]
            .tracks
            .iter()
            .map(|entry| (entry.recordings[0].is_some(), entry.recordings[1].is_some()))
            .collect();
        pairs.sort_unstable();
        assert_eq!(pairs, [(true, false), (true, true)]);
        let twice = Catalogue::new(vec![("a".to_owned(), vec![recording("x"), recording("x")])], ShardSize::Auto);
        assert!(twice.expect_err("twice").to_string().starts_with("source `a` lists track"));
    }
}
