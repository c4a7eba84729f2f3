//! Recordings of one source, 48 bytes each and their path.

use omar_schemas::{Split, TrackId};
use omar_stages::Recording;

/// Paths are kept in blocks of this many bytes, so that growing moves none.
const BLOCK: usize = 1 << 20;

/// One recording.
#[derive(Debug, Clone, Copy)]
struct Row {
    track_id: TrackId,
    identity: u64,
    bytes: u64,
    version: u64,
    /// Block, and place in it.
    path: (u32, u32),
    length: u32,
    split: Split,
    content: bool,
}

/// What a source lists, as it comes.
#[derive(Debug, Default)]
pub struct Listing {
    rows: Vec<Row>,
    blocks: Vec<Vec<u8>>,
}

/// What a source has listed, in the order of the ids.
#[derive(Debug, Default)]
pub struct List(Listing);

impl Listing {
    /// Adds a recording.
    ///
    /// # Panics
    /// When its path is longer than 4 GiB.
    pub fn push(&mut self, recording: &Recording) {
        let path = recording.path.as_bytes();
        if self.blocks.last().is_none_or(|block| block.len() + path.len() > BLOCK.max(path.len())) {
            self.blocks.push(Vec::with_capacity(BLOCK.max(path.len())));
        }
        let block = self.blocks.len() - 1;
        let start = self.blocks[block].len();
        self.blocks[block].extend_from_slice(path);
        let narrow = |number: usize| u32::try_from(number).expect("paths are shorter than 4 GiB");
        self.rows.push(Row {
            track_id: recording.track_id,
            identity: recording.identity,
            bytes: recording.bytes,
            version: version(recording),
            path: (narrow(block), narrow(start)),
            length: narrow(path.len()),
            split: recording.split,
            content: recording.content,
        });
    }

    /// Sorts it; fails with the track that is there twice, and both paths.
    pub(super) fn sort(mut self) -> Result<List, (TrackId, String, String)> {
        // Not stable, so that no second copy is needed: equal ids are an error anyway.
        self.rows.sort_unstable_by_key(|row| row.track_id);
        self.rows.shrink_to_fit();
        let list = List(self);
        match list.0.rows.windows(2).position(|pair| pair[0].track_id == pair[1].track_id) {
            Some(at) => {
                let mut paths = [at, at + 1].map(|at| String::from_utf8_lossy(list.path(at)).into_owned());
                paths.sort();
                let [first, second] = paths;
                Err((list.track_id(at), first, second))
            }
            None => Ok(list),
        }
    }

    /// Leaves out recordings whose content another one has, too: of each group that with the smallest id stays. Returns
    /// those left out, each with the one that stays.
    pub fn drop_duplicates(&mut self) -> Vec<(Recording, Recording)> {
        let list = List(std::mem::take(self));
        let groups = list.duplicates();
        let mut left_out: Vec<usize> = groups.iter().flat_map(|group| group[1..].iter().copied()).collect();
        left_out.sort_unstable();
        let pair = |group: &Vec<usize>| {
            let kept = list.recording(group[0]);
            group[1..].iter().map(|&at| (list.recording(at), kept.clone())).collect::<Vec<_>>()
        };
        let pairs = groups.iter().flat_map(pair).collect();
        let List(Self { mut rows, blocks }) = list;
        let mut at = 0;
        rows.retain(|_| {
            at += 1;
            left_out.binary_search(&(at - 1)).is_err()
        });
        *self = Self { rows, blocks };
        pairs
    }
}

/// See [`List::version`]. FNV-1a: fast, and good enough for what serves a message; caches go by [`super::Shard::key`].
fn version(recording: &Recording) -> u64 {
    let Recording { path, split, identity, .. } = recording;
    let bytes = identity.to_le_bytes().into_iter().chain(split.as_str().bytes()).chain(path.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl FromIterator<Recording> for Listing {
    fn from_iter<I: IntoIterator<Item = Recording>>(recordings: I) -> Self {
        let mut listing = Self::default();
        recordings.into_iter().for_each(|recording| listing.push(&recording));
        listing
    }
}

impl List {
    /// Number of recordings.
    pub fn len(&self) -> usize {
        self.0.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }

    /// The id at a place.
    pub fn track_id(&self, at: usize) -> TrackId {
        self.0.rows[at].track_id
    }

    /// See [`Recording::identity`].
    pub fn identity(&self, at: usize) -> u64 {
        self.0.rows[at].identity
    }

    /// Size of the file in bytes; 0 where nobody knows.
    pub fn bytes(&self, at: usize) -> u64 {
        self.0.rows[at].bytes
    }

    /// What it is used for.
    pub fn split(&self, at: usize) -> Split {
        self.0.rows[at].split
    }

    /// Its path, in UTF-8.
    pub fn path(&self, at: usize) -> &[u8] {
        let Row { path: (block, start), length, .. } = self.0.rows[at];
        &self.0.blocks[block as usize][start as usize..][..length as usize]
    }

    /// All about the recording at a place.
    pub fn recording(&self, at: usize) -> Recording {
        let Row { track_id, identity, bytes, split, content, .. } = self.0.rows[at];
        let path = String::from_utf8_lossy(self.path(at)).into_owned();
        Recording { track_id, path, split, bytes, identity, content }
    }

    /// Changes when anything about the recording at a place does that its results depend on.
    pub fn version(&self, at: usize) -> u64 {
        self.0.rows[at].version
    }

    /// Places of recordings with one content, where there are several, each group in the order of the ids. Only sources
    /// that look at the content know.
    pub fn duplicates(&self) -> Vec<Vec<usize>> {
        let known = |at: &usize| self.0.rows[*at].content && self.identity(*at) != 0;
        let mut places: Vec<usize> = (0..self.len()).filter(known).collect();
        places.sort_unstable_by_key(|&at| (self.identity(at), self.track_id(at)));
        let groups = places.chunk_by(|&a, &b| self.identity(a) == self.identity(b));
        groups.filter(|group| group.len() > 1).map(<[usize]>::to_vec).collect()
    }
}
