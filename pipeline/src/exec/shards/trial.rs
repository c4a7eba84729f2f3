//! Shards for recordings that are tried again.

use std::sync::PoisonError;

use omar_stages::Position;
use omar_stages::storage::Commit;

use super::{Course, ShardTask};

impl Course {
    /// Treats a shard of a node as if it were not committed. Returns its commit.
    pub(in crate::exec) fn forget(&mut self, node: usize, shard: usize) -> Option<Commit> {
        self.commits.get_mut().unwrap_or_else(PoisonError::into_inner).remove(&(node, shard))
    }

    /// A shard in which these nodes are computed from the recordings on, whatever the caches hold, and nothing is kept.
    pub(in crate::exec) fn trial(&self, index: usize, wanted: &[usize]) -> ShardTask {
        let modes = self.network.modes(|node| wanted.contains(&node), |_| false);
        let count = modes.len();
        ShardTask {
            epoch: 0,
            position: Position::default(),
            shard: self.corpus.shards[index].clone(),
            index,
            sources: self.corpus.sources.clone(),
            modes,
            keep: vec![false; count],
            commits: Vec::new(),
            counts: Vec::new(),
            results: false,
            readers: (0..count).map(|_| None).collect(),
            hungry: Vec::new(),
        }
    }
}
