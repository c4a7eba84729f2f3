//! Which codes the tokens of the corpus have: the counts of every tokens node, shard by shard.
//!
//! Counts cover the corpus, whichever run computed it. A node with a cache begins with what its cache holds, read from
//! the counts kept beside the commits ([`Standing`]). A shard that is committed brings its counts and takes those of the
//! shard it replaces; what has left the corpus takes its counts along. Without a cache a node counts the shards that
//! flow, in the first pass. Only whole shards count, and of them only the recordings that were not rejected.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use omar_stages::quantize::CodeUsage;
use omar_stages::storage::{CodeCounts, Commit, ShardKey};

use super::shards::Course;
use crate::cache::{CacheError, Store};

/// Node, view of the node, codebook of the view.
pub(crate) type BookKey = (u32, u32, u32);

/// A codebook and one of its codes.
pub(crate) type CodeKey = (BookKey, u32);

/// What a shard brings to the counts of a node, or takes from them.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) node: usize,
    pub(crate) counts: CodeCounts,
    /// 1 or -1.
    pub(crate) sign: i64,
}

impl Change {
    pub(crate) fn addition(node: usize, counts: CodeCounts) -> Self {
        Self { node, counts, sign: 1 }
    }

    pub(crate) fn retraction(node: usize, counts: CodeCounts) -> Self {
        Self { node, counts, sign: -1 }
    }

    /// The codes whose count changes, and by how much.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (CodeKey, i64)> {
        self.counts.views().zip(0u32..).flat_map(move |((_, usages), view)| {
            usages.iter().zip(0u32..).flat_map(move |(usage, codebook)| {
                let key = (self.node as u32, view, codebook);
                let counts = usage.counts().iter().zip(0u32..).filter(|(count, _)| **count > 0);
                counts.map(move |(&count, code)| ((key, code), self.sign * count as i64))
            })
        })
    }
}

/// The counts as they stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct CodeTotals(Arc<Mutex<BTreeMap<BookKey, Vec<i64>>>>);

impl CodeTotals {
    /// Changes counts.
    pub(crate) fn apply(&self, changes: impl IntoIterator<Item = (CodeKey, i64)>) {
        let mut books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((book, code), change) in changes {
            let counts = books.entry(book).or_default();
            if counts.len() <= code as usize {
                counts.resize(code as usize + 1, 0);
            }
            counts[code as usize] += change;
        }
    }

    /// The counts of a codebook of `size` codes.
    pub(crate) fn usage(&self, book: BookKey, size: u32) -> CodeUsage {
        let books = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<u64> = books.get(&book).into_iter().flatten().map(|&n| n.max(0).unsigned_abs()).collect();
        counts.resize(size as usize, 0);
        CodeUsage::from_counts(counts)
    }
}

/// What the caches hold when a run begins.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// All shards of all caches, added up, and those that have left the corpus, to be taken away again.
    pub(crate) changes: Vec<Change>,
    /// Shards that a shard of this name is going to replace, by node.
    replaced: HashMap<(usize, String), Vec<Commit>>,
}

impl Standing {
    /// Adds the cache of a node: the shards of the corpus that this process `own`s, with their commits, where there are
    /// any. `corpus` are all of them.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub(crate) fn add(
        &mut self,
        node: usize,
        store: &Store,
        corpus: &[ShardKey],
        own: &[(&ShardKey, Option<Commit>)],
    ) -> Result<(), CacheError> {
        let Some(mut all) = CodeCounts::of(store.schema()) else { return Ok(()) };
        let mut left = all.clone();
        for commit in own.iter().filter_map(|(_, commit)| commit.as_ref()) {
            all.merge(&store.codes(commit)?.expect("the rows are tokens"));
        }
        let awaited = own.iter().filter(|(_, commit)| commit.is_none()).map(|(key, _)| key.shard.as_str());
        let awaited: HashSet<&str> = awaited.collect();
        for commit in store.stale(corpus)? {
            // Nobody counted what has no counts.
            let Some(counts) = store.kept_codes(&commit)? else { continue };
            all.merge(&counts);
            if awaited.contains(commit.shard.as_str()) {
                self.replaced.entry((node, commit.shard.clone())).or_default().push(commit);
            } else {
                left.merge(&counts);
            }
        }
        self.changes.extend([Change::addition(node, all), Change::retraction(node, left)]);
        Ok(())
    }
}

impl Course {
    /// What a committed shard changes: its counts come, those of the shards it replaces go.
    ///
    /// # Errors
    /// When the cache cannot be read or written.
    pub(crate) fn replace_codes(
        &self,
        node: usize,
        commit: &Commit,
        counts: CodeCounts,
    ) -> Result<Vec<Change>, CacheError> {
        let store = self.stores[node].as_ref().expect("nodes that commit have a cache");
        store.keep_codes(commit, &counts)?;
        let mut changes = vec![Change::addition(node, counts)];
        for old in self.standing.replaced.get(&(node, commit.shard.clone())).into_iter().flatten() {
            changes.extend(store.kept_codes(old)?.map(|counts| Change::retraction(node, counts)));
        }
        Ok(changes)
    }
}
