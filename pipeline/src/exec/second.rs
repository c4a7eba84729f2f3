//! A second chance for recordings whose rejection the caches remember (`run --retry-quarantined`).
//!
//! A commit keeps who was rejected, so a cached run knows without trying. Here they are tried, alone: the rest of their
//! shards is left in peace. Where some can be used now, the shards that lack them are made again, with all that was made
//! from them, and take the place of the earlier ones if they are better (see [`ShardWriter::replace`]). Until then, and
//! otherwise, the earlier ones stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use omar_schemas::TrackId;
use omar_stages::StageContext;
use omar_stages::storage::{CodeCounts, RejectRecord};
use omar_stages::train::{Collective, CollectiveError};
use serde::Serialize;

use super::codes::Change;
use super::division::Division;
use super::lane::{Advance, Lane, again};
use super::network::Network;
use super::shards::Course;
use super::{Message, RunError};
use crate::cache::{CacheError, ShardWriter};
use crate::plan::{Plan, PlanNode};
use crate::stop::Stop;

/// Bytes that a lane may hold: nothing is kept, so it never comes to that.
const OUTBOX: usize = 8 << 20;

/// What became of the recordings that were tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Retried {
    /// How many there were.
    pub tried: u64,
    /// How many can be used now.
    pub recovered: u64,
    /// Shards of all nodes that are made again for them.
    pub shards: u64,
}

impl fmt::Display for Retried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tried, recovered, shards } = self;
        match (tried, recovered) {
            (0, _) => f.write_str("tried again: nothing, the caches remember no rejections"),
            (_, 0) => write!(f, "tried {tried} rejected recordings again: none can be used, their shards stay"),
            _ => write!(
                f,
                "tried {tried} rejected recordings again: {recovered} can be used now, {shards} cached shards made again"
            ),
        }
    }
}

/// A node, and a shard that it makes again.
type Made = (usize, usize);

/// A recording to try: shard, place in it, and the nodes that lack it.
struct Trial {
    shard: usize,
    track: usize,
    nodes: Vec<usize>,
}

/// Tries what the caches remember as rejected, and makes the course forget the shards that are to be made again.
///
/// # Errors
/// When a stage cannot go on.
pub(crate) fn retry(
    course: &mut Course,
    plan: &Plan,
    context: impl Fn(&PlanNode) -> StageContext,
    stop: &Stop,
    together: &dyn Collective,
) -> Result<Retried, RunError> {
    // Nodes of their own, so that the figures and the breaker of the run do not count trials.
    let network = Arc::new(Network::new(&Plan { stop_if: None, ..plan.clone() }, context));
    let trials = trials(course);
    let recovered = try_all(course, &trials, &network, plan.resources.thread_count(), stop)?;
    let mut again: BTreeSet<Made> = BTreeSet::new();
    for trial in recovered.iter().map(|&index| &trials[index]) {
        let behind = trial.nodes.iter().flat_map(|&node| descendants(&network, node));
        again.extend(trial.nodes.iter().copied().chain(behind).map(|node| (node, trial.shard)));
    }
    if matches!(course.division, Division::Whole { .. }) {
        again = told_by_first(&again, together)?;
    }
    let mut shards = 0;
    for (node, shard) in again {
        if let Some(commit) = course.forget(node, shard) {
            course.replaced.insert((node, shard), commit);
            shards += 1;
        }
    }
    Ok(Retried { tried: trials.len() as u64, recovered: recovered.len() as u64, shards })
}

/// What the first process makes again: where all train on the same crops, the others do not read the earlier ones either.
fn told_by_first(again: &BTreeSet<Made>, together: &dyn Collective) -> Result<BTreeSet<Made>, RunError> {
    let words = serde_json::to_vec(again).map_err(|error| RunError::Failed(error.to_string()))?;
    let told = together.broadcast(words).map_err(|error| RunError::Peer(error.to_string()))?;
    serde_json::from_slice(&told).map_err(|error| RunError::Failed(error.to_string()))
}

/// The recordings that some cache lacks because they were rejected, of the shards whose rows this process keeps.
fn trials(course: &Course) -> Vec<Trial> {
    let mut found: BTreeMap<(usize, TrackId), Vec<usize>> = BTreeMap::new();
    for node in 0..course.stores.len() {
        for shard in (0..course.corpus.shards.len()).filter(|shard| course.keeps(*shard)) {
            for reject in course.commit(node, shard).into_iter().flat_map(|commit| commit.rejects) {
                found.entry((shard, reject.track_id)).or_default().push(node);
            }
        }
    }
    let trial = |((shard, id), nodes): ((usize, TrackId), Vec<usize>)| {
        let track = course.corpus.shards[shard].place(id)?;
        Some(Trial { shard, track, nodes })
    };
    found.into_iter().filter_map(trial).collect()
}

/// Tries them, several at a time. Returns the places of those that can be used.
fn try_all(
    course: &Course,
    trials: &[Trial],
    network: &Arc<Network>,
    threads: usize,
    stop: &Stop,
) -> Result<Vec<usize>, RunError> {
    let (next, recovered) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || -> Result<(), RunError> {
        let mut lane = Lane::new(network.clone());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(trial) = trials.get(index).filter(|_| !stop.is_requested()) else { return Ok(()) };
            if is_usable(&mut lane, course, trial, stop)? {
                recovered.lock().unwrap_or_else(PoisonError::into_inner).push(index);
            }
        }
    };
    let threads = threads.min(trials.len());
    let outcomes: Vec<Result<(), RunError>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let lost = |_| Err(RunError::Failed("a thread that tried recordings again panicked".to_owned()));
        handles.into_iter().map(|handle| handle.join().unwrap_or_else(lost)).collect()
    });
    outcomes.into_iter().collect::<Result<(), RunError>>()?;
    let mut recovered = recovered.into_inner().unwrap_or_else(PoisonError::into_inner);
    recovered.sort_unstable();
    Ok(recovered)
}

fn is_usable(lane: &mut Lane, course: &Course, trial: &Trial, stop: &Stop) -> Result<bool, RunError> {
    lane.start(Arc::new(course.trial(trial.shard, &trial.nodes)), trial.track);
    loop {
        let advance = match lane.advance(OUTBOX, &|| false) {
            Ok(advance) => advance,
            // With `on_error: fail` a lane ends in the middle: the next recording gets a fresh one.
            Err(RunError::Rejected { .. }) => {
                *lane = Lane::new(lane.network().clone());
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let usable = lane.drain().0.into_iter().all(|message| !matches!(message, Message::End { rejected: Some(_) }));
        match advance {
            Advance::Complete => return Ok(usable),
            Advance::Full => {}
            Advance::Pauses(due) => again::wait(due, stop),
        }
    }
}

/// All nodes that are made from what a node gives.
fn descendants(network: &Network, node: usize) -> Vec<usize> {
    let mut found = vec![node];
    let mut at = 0;
    while let Some(&node) = found.get(at) {
        at += 1;
        for &(consumer, _) in &network.nodes[node].consumers {
            if !found.contains(&consumer) {
                found.push(consumer);
            }
        }
    }
    found
}

impl Retried {
    /// What all processes have tried.
    ///
    /// # Errors
    /// When another process is lost.
    pub(crate) fn of_all(self, together: &dyn Collective) -> Result<Self, CollectiveError> {
        let mut sums = [self.tried, self.recovered, self.shards].map(|count| count as f64);
        together.sum(&mut sums)?;
        let [tried, recovered, shards] = sums.map(|sum| sum as u64);
        Ok(Self { tried, recovered, shards })
    }
}

impl Course {
    /// Whether this process keeps the rows of a shard.
    fn keeps(&self, shard: usize) -> bool {
        self.division.keeps() && self.division.owns(shard)
    }

    /// Commits a shard that is made again, if it is better than the earlier one. Returns what that changes in the counts
    /// of codes.
    ///
    /// # Errors
    /// When the cache cannot be read or written.
    pub(super) fn replace(
        &self,
        node: usize,
        shard: usize,
        writer: ShardWriter,
        rejects: &[RejectRecord],
        counts: Option<CodeCounts>,
    ) -> Result<Vec<Change>, CacheError> {
        let earlier = &self.replaced[&(node, shard)];
        let store = self.stores[node].as_ref().expect("nodes that commit have a cache");
        // They lie in a file of the same name, so they are read before it is written.
        let before = store.codes(earlier)?;
        let commit = writer.replace(earlier, rejects)?;
        let mut changes = Vec::new();
        if commit != *earlier {
            self.network.nodes[node].metrics.committed(commit.bytes);
            if let Some(counts) = counts {
                changes.extend(before.map(|before| Change::retraction(node, before)));
                changes.extend(self.replace_codes(node, &commit, counts)?);
            }
        }
        self.note(node, shard, commit);
        Ok(changes)
    }
}
