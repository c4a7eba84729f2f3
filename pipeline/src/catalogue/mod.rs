//! The corpus: recordings of all sources, divided into shards.
//!
//! Shards are the leaves of a binary trie over the bits of the track id. Ids are hashes, so the trie is even; which
//! tracks are together depends on the set of tracks alone; and a track that comes or goes touches one shard, at most
//! splitting it in two or joining two. See [`ShardSize`] for how full a leaf may be.
//!
//! Corpora have millions of recordings, so they are kept in columns ([`columns`]), and a shard is a range of them.

mod columns;
mod delta;
mod snapshot;

use std::ops::Range;
use std::sync::Arc;

use omar_schemas::TrackId;
use omar_stages::{Recording, storage::ShardKey};

pub use columns::{List, Listing};
pub use delta::Delta;
pub use snapshot::Snapshot;

/// Recordings of all sources of a graph.
#[derive(Debug)]
pub struct Catalogue {
    /// Names of the sources.
    pub sources: Vec<String>,
    /// In the order of their names, without empty ones.
    pub shards: Vec<Arc<Shard>>,
    tracks: Arc<Tracks>,
}

/// The tracks of all sources.
#[derive(Debug)]
struct Tracks {
    ids: Vec<TrackId>,
    lists: Vec<List>,
    /// By source, for every track: its place in the list of the source, or [`NOWHERE`]. Empty where there is one source,
    /// whose list is that of the tracks.
    places: Vec<Vec<u32>>,
}

const NOWHERE: u32 = u32::MAX;

/// Tracks that are processed and committed together.
#[derive(Debug, Clone)]
pub struct Shard {
    /// The leading bits that the ids of its tracks have in common: `s-0110`, or `s-all` for a corpus of one shard.
    pub name: String,
    tracks: Arc<Tracks>,
    range: Range<usize>,
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
    pub fn new(sources: Vec<(String, Listing)>, size: ShardSize) -> Result<Self, RepeatedTrack> {
        let (mut names, mut lists) = (Vec::new(), Vec::new());
        for (name, listing) in sources {
            lists.push(listing.sort().map_err(|(track_id, first, second)| RepeatedTrack {
                source_name: name.clone(),
                track_id,
                first,
                second,
            })?);
            names.push(name);
        }
        let tracks = Arc::new(Tracks::merge(lists));
        let mut shards = Vec::new();
        split(&tracks, 0..tracks.ids.len(), 0, size, &mut shards);
        Ok(Self { sources: names, shards, tracks })
    }

    /// Keeps only the first tracks, in the order of the shards: all but the last of the shards that are left are what
    /// they are in the whole corpus, and so are their caches.
    pub fn limit(&mut self, tracks: usize) {
        self.shards.retain(|shard| shard.range.start < tracks);
        if let Some(last) = self.shards.last_mut() {
            let mut shard = Shard::clone(last);
            shard.range.end = shard.range.end.min(tracks);
            *last = Arc::new(shard);
        }
    }

    /// Number of tracks.
    pub fn tracks(&self) -> usize {
        self.shards.iter().map(|shard| shard.len()).sum()
    }

    /// Place of a source in [`Shard::recording`].
    pub fn source(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| source == name)
    }

    /// What a source has listed, by its place.
    pub fn list(&self, source: usize) -> &List {
        &self.tracks.lists[source]
    }
}

impl Tracks {
    fn merge(lists: Vec<List>) -> Self {
        if let [list] = &lists[..] {
            let ids = (0..list.len()).map(|at| list.track_id(at)).collect();
            return Self { ids, lists, places: Vec::new() };
        }
        let mut ids: Vec<TrackId> = lists.iter().flat_map(|list| (0..list.len()).map(|at| list.track_id(at))).collect();
        ids.sort_unstable();
        ids.dedup();
        let place = |list: &List| {
            let mut next = 0;
            let mut find = |id: &TrackId| {
                let here = next < list.len() && list.track_id(next) == *id;
                next += usize::from(here);
                if here { next as u32 - 1 } else { NOWHERE }
            };
            ids.iter().map(&mut find).collect()
        };
        let places = lists.iter().map(place).collect();
        Self { ids, lists, places }
    }

    fn place(&self, source: usize, track: usize) -> Option<usize> {
        match self.places.get(source) {
            Some(places) => Some(places[track]).filter(|&place| place != NOWHERE).map(|place| place as usize),
            None => Some(track),
        }
    }
}

impl Shard {
    /// Number of tracks.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has none; a shard of a catalogue has some.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The id of its `track`th track. They are in the order of their ids.
    pub fn track_id(&self, track: usize) -> TrackId {
        self.tracks.ids[self.range.start + track]
    }

    /// The place of a track in the shard.
    pub fn place(&self, id: TrackId) -> Option<usize> {
        self.tracks.ids[self.range.clone()].binary_search(&id).ok()
    }

    /// What a source, by its place in [`Catalogue::sources`], says about a track.
    pub fn recording(&self, source: usize, track: usize) -> Option<Recording> {
        let place = self.tracks.place(source, self.range.start + track)?;
        Some(self.tracks.lists[source].recording(place))
    }

    /// The path of a track as the first source that knows it writes it.
    pub fn path(&self, track: usize) -> String {
        let known = (0..self.tracks.lists.len()).find_map(|source| self.recording(source, track));
        known.map_or(String::new(), |recording| recording.path)
    }

    /// Size of all its recordings in bytes, as the first source that knows each says.
    pub fn bytes(&self) -> u64 {
        let size = |track: usize| {
            let place = |source: usize| Some(self.tracks.lists[source].bytes(self.tracks.place(source, track)?));
            (0..self.tracks.lists.len()).find_map(place).unwrap_or(0)
        };
        self.range.clone().map(size).sum()
    }

    /// Identifies the shard and all that some of the sources say about its tracks: what a node made of them can be
    /// used again as long as this stays the same.
    pub fn key(&self, sources: &[usize]) -> ShardKey {
        let mut hasher = blake3::Hasher::new();
        for track in self.range.clone() {
            for (slot, &source) in (0u64..).zip(sources) {
                // A track that a source does not know leaves no trace: it is the business of the others.
                let Some(place) = self.tracks.place(source, track) else { continue };
                let list = &self.tracks.lists[source];
                hasher.update(&slot.to_le_bytes());
                hasher.update(&list.track_id(place).0.to_le_bytes());
                hasher.update(&list.identity(place).to_le_bytes());
                for text in [list.path(place), list.split(place).as_str().as_bytes()] {
                    hasher.update(&(text.len() as u64).to_le_bytes());
                    hasher.update(text);
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

/// The tracks of a range are sorted and have the first `depth` bits of their ids in common.
fn split(tracks: &Arc<Tracks>, range: Range<usize>, depth: u32, size: ShardSize, shards: &mut Vec<Arc<Shard>>) {
    if range.is_empty() {
        return;
    }
    if range.len() <= size.at_depth(depth) || depth == u64::BITS {
        let name = name(tracks.ids[range.start], depth);
        shards.push(Arc::new(Shard { name, tracks: tracks.clone(), range }));
        return;
    }
    let bit = 1 << (u64::BITS - 1 - depth);
    let ones = range.start + tracks.ids[range.clone()].partition_point(|id| id.0 & bit == 0);
    split(tracks, range.start..ones, depth + 1, size, shards);
    split(tracks, ones..range.end, depth + 1, size, shards);
}

fn name(member: TrackId, depth: u32) -> String {
    match depth {
        0 => "s-all".to_owned(),
        depth => format!("s-{:.*}", depth as usize, format!("{:064b}", member.0)),
    }
}

#[cfg(test)]
mod tests;
