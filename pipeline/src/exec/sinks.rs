//! Where rows end up: the caches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use omar_stages::StageError;
use omar_stages::storage::CodeCounts;

use super::codes::Change;
use super::shards::{Course, ShardTask};
use super::traffic::{Hand, Owner, Traffic};
use super::{Message, RejectedTrack, RunError};
use crate::cache::ShardWriter;

/// Writes the shards of a run: rows as they come, a commit when a shard is complete.
pub(crate) struct Recorder {
    course: Arc<Course>,
    hand: Arc<Hand>,
    open: BTreeMap<u64, OpenShard>,
}

/// A shard that is being written.
struct OpenShard {
    writers: BTreeMap<usize, ShardWriter>,
    tallies: BTreeMap<usize, Tally>,
    rejects: Vec<RejectedTrack>,
    tracks: usize,
}

/// Which codes the tokens of a shard have. A recording counts when it is complete.
struct Tally {
    track: CodeCounts,
    shard: CodeCounts,
}

impl Tally {
    fn end_track(&mut self, ok: bool) {
        if ok {
            self.shard.merge(&self.track);
        }
        self.track.clear();
    }
}

impl Recorder {
    pub(crate) fn new(course: Arc<Course>) -> Self {
        let hand = course.network.traffic.hand(Owner::Writer);
        Self { course, hand, open: BTreeMap::new() }
    }

    /// What is under way in the run.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.course.network.traffic
    }

    /// Begins a shard.
    pub(crate) fn open(&mut self, task: &ShardTask) -> Result<(), RunError> {
        let mut writers = BTreeMap::new();
        for &node in &task.commits {
            let store = self.course.stores[node].as_ref().expect("nodes that commit have a cache");
            writers.insert(
                node,
                store.writer(&self.course.key(node, task.index)).map_err(|error| self.error(node, &error))?,
            );
        }
        let tally = |&node: &usize| {
            let empty = CodeCounts::of(&self.course.network.nodes[node].schema).expect("only tokens are counted");
            (node, Tally { track: empty.clone(), shard: empty })
        };
        let tallies = task.counts.iter().map(tally).collect();
        self.open.insert(task.epoch, OpenShard { writers, tallies, rejects: Vec::new(), tracks: 0 });
        Ok(())
    }

    /// Takes what a lane produced. Messages of a shard come in the order of its tracks.
    pub(crate) fn take(&mut self, task: &ShardTask, message: Message) -> Result<(), RunError> {
        let shard = self.open.get_mut(&task.epoch).expect("a shard is opened before its rows come");
        match message {
            Message::Rows { node, batch } => {
                let started = Instant::now();
                self.hand.enter(node, started);
                if let Some(tally) = shard.tallies.get_mut(&node) {
                    let id = || self.course.network.nodes[node].id.clone();
                    tally.track.add(&batch).map_err(|source| RunError::Stage { node: id(), source })?;
                }
                let written = shard.writers.get_mut(&node).map_or(Ok(()), |writer| writer.write(&batch));
                self.course.network.nodes[node].metrics.wrote(started.elapsed());
                self.hand.rest();
                written.map_err(|error| self.error(node, &error))
            }
            Message::Crops { .. } => Ok(()),
            Message::End { rejected } => {
                shard.tracks += 1;
                shard.tallies.values_mut().for_each(|tally| tally.end_track(rejected.is_none()));
                let mut failed = None;
                for (node, writer) in &mut shard.writers {
                    if let Err(error) = writer.end_track(rejected.is_none()) {
                        failed = Some((*node, error));
                    }
                }
                if let Some(reject) = rejected {
                    shard.rejects.push(reject);
                }
                match failed {
                    Some((node, error)) => Err(self.error(node, &error)),
                    None => Ok(()),
                }
            }
        }
    }

    /// Commits a shard, if all its tracks have been seen; what is incomplete is discarded. Returns what it changes in
    /// the counts of the codes, as far as [`Course::counts`] agrees.
    pub(crate) fn close(&mut self, task: &ShardTask) -> Result<Vec<Change>, RunError> {
        let changes = self.commit(task);
        self.hand.rest();
        self.course.network.traffic.close(task.epoch);
        changes
    }

    fn commit(&mut self, task: &ShardTask) -> Result<Vec<Change>, RunError> {
        let Some(mut shard) = self.open.remove(&task.epoch) else { return Ok(Vec::new()) };
        if shard.tracks < task.shard.len() {
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        let rejects: Vec<_> = shard.rejects.iter().map(RejectedTrack::to_record).collect();
        for (node, writer) in shard.writers {
            let started = Instant::now();
            self.hand.take(format!("the commit of shard {}", task.shard.name));
            self.hand.enter(node, started);
            let tally = shard.tallies.remove(&node).map(|tally| tally.shard);
            if self.course.replaced.contains_key(&(node, task.index)) {
                let replaced = self.course.replace(node, task.index, writer, &rejects, tally);
                changes.extend(replaced.map_err(|error| self.error(node, &error))?);
                continue;
            }
            let commit = writer.commit(&rejects).map_err(|error| self.error(node, &error))?;
            let metrics = &self.course.network.nodes[node].metrics;
            metrics.wrote(started.elapsed());
            metrics.committed(commit.bytes);
            if let Some(counts) = tally {
                let replaced = self.course.replace_codes(node, &commit, counts);
                changes.extend(replaced.map_err(|error| self.error(node, &error))?);
            }
            self.course.note(node, task.index, commit);
        }
        changes.extend(shard.tallies.into_iter().map(|(node, tally)| Change::addition(node, tally.shard)));
        Ok(changes)
    }

    fn error(&self, node: usize, error: &crate::cache::CacheError) -> RunError {
        let source = StageError::Failed(error.to_string());
        RunError::Stage { node: self.course.network.nodes[node].id.clone(), source }
    }
}
