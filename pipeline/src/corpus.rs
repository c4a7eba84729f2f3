//! The recordings that a plan works on, and what has become of them since its caches were last complete.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use omar_stages::storage::{ShardKey, StorageError};
use omar_stages::{Recording, StageError};
use serde::Serialize;

use crate::catalogue::{Catalogue, Delta, Listing, Shard, ShardSize, Snapshot};
use crate::exec::RunError;
use crate::plan::Plan;

/// Recordings that are named in messages.
const EXAMPLES: usize = 3;

/// The recordings of a plan, cut into shards.
pub struct Corpus {
    /// In the order of the catalogue.
    pub shards: Vec<Arc<Shard>>,
    /// By node: its place in the lists of recordings, if it is a source.
    pub(crate) sources: Arc<Vec<Option<usize>>>,
    /// By node: the places of all sources that feed it.
    feeds: Vec<Vec<usize>>,
    catalogue: Catalogue,
    /// By the sources that feed a node: the names of its shards.
    keys: HashMap<Vec<usize>, OnceLock<Vec<ShardKey>>>,
    duplicates: Duplicates,
}

/// Recordings whose content others have, too.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Duplicates {
    /// How many are more than one of a kind.
    pub count: usize,
    /// Whether they were left out.
    pub left_out: bool,
    /// The first few: path, and path of the one that stays or comes first.
    pub examples: Vec<(String, String)>,
}

/// How a corpus stands to the caches and to the last run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Standing {
    /// Recordings.
    pub tracks: usize,
    /// Recordings in shards that all caches have; 0 without caches.
    pub cached: usize,
    /// What has changed since the last complete run. `None` where there was none, or nothing is cached.
    pub since: Option<Changes>,
    /// Recordings with one content.
    pub duplicates: Duplicates,
}

/// What came, changed and went, over all sources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// New recordings.
    pub new: usize,
    /// Of them, those that were there under another name.
    pub moved: usize,
    /// Recordings with another content or split.
    pub changed: usize,
    /// Recordings that are gone.
    pub removed: usize,
}

impl Corpus {
    /// Number of recordings.
    pub fn tracks(&self) -> usize {
        self.catalogue.tracks()
    }

    /// All that the sources have listed.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// Changes with any recording: its name, size or modification time.
    pub(crate) fn hash(&self) -> String {
        let sources: Vec<usize> = self.sources.iter().flatten().copied().collect();
        let mut hasher = blake3::Hasher::new();
        for key in self.keys_of(&sources) {
            hasher.update(key.input_hash.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// About how much work every shard is: its size, with as much for every recording as a few seconds of it.
    pub(crate) fn work(&self) -> Vec<u64> {
        self.shards.iter().map(|shard| shard.bytes() + ((shard.len() as u64) << 16)).collect()
    }

    /// The name under which a node keeps a shard.
    pub(crate) fn key(&self, node: usize, shard: usize) -> ShardKey {
        self.keys(node)[shard].clone()
    }

    /// The names under which a node keeps its shards.
    pub(crate) fn keys(&self, node: usize) -> &[ShardKey] {
        self.keys_of(&self.feeds[node])
    }

    fn keys_of(&self, sources: &[usize]) -> &[ShardKey] {
        let keys = || self.shards.iter().map(|shard| shard.key(sources)).collect();
        self.keys[sources].get_or_init(keys)
    }

    /// How it stands, given which shards all caches have.
    ///
    /// # Errors
    /// When a snapshot of the last run cannot be read.
    pub(crate) fn standing(&self, plan: &Plan, held: &[bool]) -> Result<Standing, StorageError> {
        let kept = plan.nodes.iter().any(|node| node.cache.is_some());
        let cached = self.shards.iter().zip(held).filter(|(_, held)| kept && **held);
        let cached = cached.map(|(shard, _)| shard.len()).sum();
        let mut since = None;
        for (source, path) in self.snapshots(plan) {
            let Some(before) = Snapshot::read(&path)? else { continue };
            let Delta { new, changed, removed, moved } = Delta::between(&before, self.catalogue.list(source));
            let changes: &mut Changes = since.get_or_insert_default();
            changes.new += new.len();
            changes.changed += changed.len();
            changes.removed += removed.len();
            changes.moved += moved;
        }
        Ok(Standing { tracks: self.tracks(), cached, since, duplicates: self.duplicates.clone() })
    }

    /// Notes that all caches are complete.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn remember(&self, plan: &Plan) -> Result<(), StorageError> {
        for (source, path) in self.snapshots(plan) {
            let before = Snapshot::read(&path)?;
            let list = self.catalogue.list(source);
            if before.is_none_or(|before| !Delta::between(&before, list).is_empty()) {
                Snapshot::write(&path, list)?;
            }
        }
        Ok(())
    }

    /// For every source that feeds a cache: its place, and where its snapshot is.
    fn snapshots(&self, plan: &Plan) -> Vec<(usize, PathBuf)> {
        let path = |(node, source): (usize, &Option<usize>)| {
            let source = (*source)?;
            let fed = |other: &usize| self.feeds[*other].contains(&source) && plan.nodes[*other].cache.is_some();
            let cache = plan.nodes[(0..plan.nodes.len()).find(fed)?].cache.as_ref()?;
            Some((source, Snapshot::path(cache, &plan.nodes[node].fingerprint.to_hex())))
        };
        self.sources.iter().enumerate().filter_map(path).collect()
    }
}

impl Standing {
    /// `12 056 tracks: 12 034 cached; since the last run 17 new, 3 changed, 2 removed`
    pub fn sentence(&self) -> String {
        let mut text = format!("corpus: {} tracks", grouped(self.tracks));
        if self.cached > 0 || self.since.is_some() {
            let _infallible = write!(text, ", {} cached", grouped(self.cached));
        }
        if let Some(Changes { new, moved, changed, removed }) = self.since {
            let moved = if moved > 0 { format!(" ({} moved)", grouped(moved)) } else { String::new() };
            let (new, changed, removed) = (grouped(new), grouped(changed), grouped(removed));
            let _infallible =
                write!(text, "; since the last run {new} new{moved}, {changed} changed, {removed} removed");
        }
        let Duplicates { count, left_out, examples } = &self.duplicates;
        if let Some((path, other)) = examples.first() {
            let how = if *left_out { "left out, as another one has" } else { "with the same content as another one" };
            let what = if *left_out { " its content" } else { "" };
            let _infallible = write!(text, "\n{} {how}{what}, e.g. {path} = {other}", grouped(*count));
        }
        text
    }
}

/// A number with its thousands apart.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(" ")
}

/// Lists the corpus of a plan.
///
/// # Errors
/// When a source cannot be listed.
pub fn list(plan: &Plan, limit: Option<usize>) -> Result<Corpus, RunError> {
    let mut lists = Vec::new();
    let mut duplicates = Duplicates::default();
    let mut sources = vec![None; plan.nodes.len()];
    let mut feeds: Vec<Vec<usize>> = Vec::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        let mut feed: Vec<usize> = node.inputs.iter().flat_map(|input| feeds[input.node].clone()).collect();
        if let Some(source) = node.stage.source() {
            let failed = |source: StageError| RunError::Stage { node: node.id.clone(), source };
            let mut listing = Listing::default();
            source.list(&mut |recording| listing.push(&recording)).map_err(failed)?;
            if source.drops_duplicates() {
                duplicates.left_out = true;
                let left_out = listing.drop_duplicates();
                duplicates.add(left_out.len(), left_out.into_iter());
            }
            sources[index] = Some(lists.len());
            feed.push(lists.len());
            lists.push((node.id.clone(), listing));
        }
        feed.sort_unstable();
        feed.dedup();
        feeds.push(feed);
    }
    let size = plan.flow.shard_tracks.map_or(ShardSize::Auto, ShardSize::Tracks);
    let mut catalogue = Catalogue::new(lists, size).map_err(|error| RunError::Failed(error.to_string()))?;
    for list in (0..catalogue.sources.len()).map(|source| catalogue.list(source)) {
        let groups = list.duplicates();
        let pairs = groups.iter().map(|group| (list.recording(group[1]), list.recording(group[0])));
        duplicates.add(groups.iter().map(|group| group.len() - 1).sum(), pairs);
    }
    if let Some(limit) = limit {
        catalogue.limit(limit);
    }
    let all: Vec<usize> = sources.iter().flatten().copied().collect();
    let keys = feeds.iter().cloned().chain([all]).map(|feed| (feed, OnceLock::new())).collect();
    let shards = catalogue.shards.clone();
    Ok(Corpus { shards, sources: Arc::new(sources), feeds, catalogue, keys, duplicates })
}

impl Duplicates {
    fn add(&mut self, count: usize, pairs: impl Iterator<Item = (Recording, Recording)>) {
        self.count += count;
        let room = EXAMPLES.saturating_sub(self.examples.len());
        self.examples.extend(pairs.take(room).map(|(one, other)| (one.path, other.path)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_is_known() {
        let mut standing = Standing { tracks: 12_056, ..Standing::default() };
        assert_eq!(standing.sentence(), "corpus: 12 056 tracks");
        standing.cached = 12_034;
        standing.since = Some(Changes { new: 17, moved: 1, changed: 3, removed: 2 });
        assert_eq!(
            standing.sentence(),
            "corpus: 12 056 tracks, 12 034 cached; since the last run 17 new (1 moved), 3 changed, 2 removed"
        );
        let examples = vec![("b.wav".to_owned(), "a.wav".to_owned())];
        standing.since = None;
        standing.duplicates = Duplicates { count: 1200, left_out: true, examples };
        let second = standing.sentence().lines().nth(1).map(str::to_owned);
        assert_eq!(second.as_deref(), Some("1 200 left out, as another one has its content, e.g. b.wav = a.wav"));
    }

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([0, 999, 1000, 6_600_000].map(grouped), ["0", "999", "1 000", "6 600 000"]);
    }
}
