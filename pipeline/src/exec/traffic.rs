//! What is under way at this moment: who has what in hand, what is queued, which shards are open, and why threads of
//! the pool have nothing to do.
//!
//! Counters of nodes ([`crate::metrics`]) only grow when something is done. A stage that is in the middle of a long
//! call, or hangs in one, shows in what its [`Hand`] holds.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use omar_stages::Position;

use crate::metrics::Wait;

/// No node.
const NOBODY: u64 = u64::MAX;

/// See the module.
#[derive(Debug)]
pub(crate) struct Traffic {
    began: Instant,
    hands: Mutex<Vec<Arc<Hand>>>,
    queues: Mutex<Vec<Arc<Queue>>>,
    open: Mutex<BTreeMap<u64, OpenShard>>,
    /// Bytes of rows that wait for their turn, or are on their way to a sink.
    held: AtomicU64,
    /// The node whose rows wait for memory, [`NOBODY`] if none do.
    refused: AtomicU64,
    /// Recordings could be begun, but those under way hold too much already.
    crowded: AtomicBool,
    /// No further shard is begun before the oldest one is through.
    window_full: AtomicBool,
    /// The furthest pass of which a shard was begun.
    pass: AtomicU64,
    shards_done: AtomicU64,
    tracks_through: AtomicU64,
    tracks_skipped: AtomicU64,
}

/// A shard that was begun and is not written.
#[derive(Debug, Clone)]
pub(crate) struct OpenShard {
    pub(crate) name: String,
    pub(crate) pass: u32,
    pub(crate) tracks: u64,
    pub(crate) through: u64,
}

/// Whose hand it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A lane: the pool works with it.
    Lane,
    /// The thread that writes caches.
    Writer,
    /// The thread of a stage that sees the whole corpus.
    Corpus,
}

/// What a lane, a writer or a corpus stage has in hand.
#[derive(Debug)]
pub(crate) struct Hand {
    pub(crate) owner: Owner,
    began: Instant,
    node: AtomicU64,
    at_work: AtomicBool,
    /// Nanoseconds after `began`.
    since: AtomicU64,
    what: Mutex<Option<String>>,
}

/// What a hand holds.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) owner: Owner,
    pub(crate) node: usize,
    /// At work on it, as opposed to waiting for a thread or for room.
    pub(crate) at_work: bool,
    pub(crate) since: Duration,
    /// `a.flac (shard s-01)`
    pub(crate) what: Option<String>,
}

/// The queue before a sink.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The corpus stage that it feeds; `None` for a writer.
    pub(crate) node: Option<usize>,
    depth: AtomicU64,
    full: AtomicBool,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            hands: Mutex::default(),
            queues: Mutex::default(),
            open: Mutex::default(),
            held: AtomicU64::new(0),
            refused: AtomicU64::new(NOBODY),
            crowded: AtomicBool::new(false),
            window_full: AtomicBool::new(false),
            pass: AtomicU64::new(0),
            shards_done: AtomicU64::new(0),
            tracks_through: AtomicU64::new(0),
            tracks_skipped: AtomicU64::new(0),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Traffic {
    /// A hand that is looked at from now on.
    pub(crate) fn hand(&self, owner: Owner) -> Arc<Hand> {
        let hand = Arc::new(Hand {
            owner,
            began: self.began,
            node: AtomicU64::new(NOBODY),
            at_work: AtomicBool::new(false),
            since: AtomicU64::new(0),
            what: Mutex::default(),
        });
        lock(&self.hands).push(hand.clone());
        hand
    }

    /// What all hands hold, longest first.
    pub(crate) fn in_hand(&self) -> Vec<Held> {
        let mut held: Vec<Held> = lock(&self.hands).iter().filter_map(|hand| hand.held()).collect();
        held.sort_by_key(|held| std::cmp::Reverse(held.since));
        held
    }

    /// A queue that is looked at from now on.
    pub(crate) fn queue(&self, node: Option<usize>) -> Arc<Queue> {
        let queue = Arc::new(Queue { node, depth: AtomicU64::new(0), full: AtomicBool::new(false) });
        lock(&self.queues).push(queue.clone());
        queue
    }

    /// What is queued before a corpus stage, or (`None`) before the writers.
    pub(crate) fn queued(&self, node: Option<usize>) -> u64 {
        lock(&self.queues).iter().filter(|queue| queue.node == node).map(|queue| queue.depth.load(Relaxed)).sum()
    }

    /// A shard begins.
    pub(crate) fn open(&self, epoch: u64, position: Position, name: &str, tracks: usize) {
        let shard = OpenShard { name: name.to_owned(), pass: position.pass, tracks: tracks as u64, through: 0 };
        self.pass.fetch_max(u64::from(position.pass), Relaxed);
        lock(&self.open).insert(epoch, shard);
    }

    /// The furthest pass of which a shard was begun, from 0.
    pub(crate) fn pass(&self) -> u32 {
        self.pass.load(Relaxed) as u32
    }

    /// Nobody wants anything of a shard.
    pub(crate) fn skip(&self, position: Position, tracks: usize) {
        if position.pass == 0 {
            self.shards_done.fetch_add(1, Relaxed);
            self.tracks_skipped.fetch_add(tracks as u64, Relaxed);
        }
    }

    /// A recording is through.
    pub(crate) fn through(&self, epoch: u64) {
        let mut open = lock(&self.open);
        let Some(shard) = open.get_mut(&epoch) else { return };
        shard.through += 1;
        if shard.pass == 0 {
            self.tracks_through.fetch_add(1, Relaxed);
        }
    }

    /// A shard is written, or was given up.
    pub(crate) fn close(&self, epoch: u64) {
        let shard = lock(&self.open).remove(&epoch);
        if shard.is_some_and(|shard| shard.pass == 0) {
            self.shards_done.fetch_add(1, Relaxed);
        }
    }

    /// The shards that were begun and are not written, oldest first.
    pub(crate) fn open_shards(&self) -> Vec<OpenShard> {
        lock(&self.open).values().cloned().collect()
    }

    /// Shards of the first pass that are through.
    pub(crate) fn shards_done(&self) -> u64 {
        self.shards_done.load(Relaxed)
    }

    /// Recordings that are through in the first pass, and those of shards of which nobody wanted anything.
    pub(crate) fn tracks_done(&self) -> (u64, u64) {
        (self.tracks_through.load(Relaxed), self.tracks_skipped.load(Relaxed))
    }

    /// Rows take memory.
    pub(crate) fn hold(&self, bytes: usize) {
        self.held.fetch_add(bytes as u64, Relaxed);
    }

    /// They give it back.
    pub(crate) fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes as u64, Relaxed);
    }

    /// Bytes that rows on their way take.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }

    /// Rows of a node do not get the memory to go on.
    pub(crate) fn refuse(&self, node: usize) {
        self.refused.store(node as u64, Relaxed);
    }

    /// They get it.
    pub(crate) fn accept(&self) {
        self.refused.store(NOBODY, Relaxed);
    }

    /// Whether recordings wait because of what those under way hold.
    pub(crate) fn crowd(&self, crowded: bool) {
        self.crowded.store(crowded, Relaxed);
    }

    /// Whether shards wait because the oldest one is not through.
    pub(crate) fn close_window(&self, full: bool) {
        self.window_full.store(full, Relaxed);
    }

    /// Why a thread of the pool has nothing to do: what it waits for, and at which node, `None` being the source.
    pub(crate) fn idle_because(&self) -> (Wait, Option<usize>) {
        let clogged = || lock(&self.queues).iter().any(|queue| queue.full.load(Relaxed));
        match self.refused.load(Relaxed) {
            NOBODY if self.crowded.load(Relaxed) => (Wait::Memory, None),
            NOBODY if self.window_full.load(Relaxed) => (Wait::Downstream, None),
            NOBODY => (Wait::Input, None),
            node if clogged() => (Wait::Downstream, Some(node as usize)),
            node => (Wait::Memory, Some(node as usize)),
        }
    }

    /// A number that changes with every recording and every shard.
    pub(crate) fn moves(&self) -> u64 {
        self.tracks_through.load(Relaxed).wrapping_add(self.shards_done.load(Relaxed))
    }
}

impl Hand {
    /// Takes something up, such as a recording.
    pub(crate) fn take(&self, what: String) {
        *lock(&self.what) = Some(what);
    }

    /// A thread is at work for a node.
    pub(crate) fn enter(&self, node: usize, now: Instant) {
        self.since.store(now.saturating_duration_since(self.began).as_nanos() as u64, Relaxed);
        self.node.store(node as u64, Relaxed);
        self.at_work.store(true, Relaxed);
    }

    /// The work for a node waits for a thread, or for room.
    pub(crate) fn wait(&self, node: Option<usize>) {
        self.at_work.store(false, Relaxed);
        self.since.store(self.began.elapsed().as_nanos() as u64, Relaxed);
        self.node.store(node.map_or(NOBODY, |node| node as u64), Relaxed);
    }

    /// Nothing is left in hand.
    pub(crate) fn rest(&self) {
        self.at_work.store(false, Relaxed);
        self.node.store(NOBODY, Relaxed);
        *lock(&self.what) = None;
    }

    fn held(&self) -> Option<Held> {
        let node = self.node.load(Relaxed);
        let since = Duration::from_nanos(self.since.load(Relaxed));
        (node != NOBODY).then(|| Held {
            owner: self.owner,
            node: node as usize,
            at_work: self.at_work.load(Relaxed),
            since: self.began.elapsed().saturating_sub(since),
            what: lock(&self.what).clone(),
        })
    }
}

impl Queue {
    /// Something joins.
    pub(crate) fn join(&self) {
        self.depth.fetch_add(1, Relaxed);
    }

    /// It is taken out.
    pub(crate) fn leave(&self) {
        self.depth.fetch_sub(1, Relaxed);
    }

    /// Whether the sink takes no more for now.
    pub(crate) fn fill(&self, full: bool) {
        self.full.store(full, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Position = Position { pass: 0, shard: 0 };

    #[test]
    fn shards_and_recordings_are_counted_in_the_first_pass() {
        let traffic = Traffic::default();
        traffic.open(0, FIRST, "s-0", 2);
        traffic.skip(FIRST, 5);
        traffic.through(0);
        assert_eq!(traffic.tracks_done(), (1, 5));
        let open = traffic.open_shards();
        assert_eq!((open[0].name.as_str(), open[0].through, open[0].tracks), ("s-0", 1, 2));
        traffic.close(0);
        assert_eq!((traffic.shards_done(), traffic.open_shards().len()), (2, 0));
        let second = Position { pass: 1, shard: 0 };
        traffic.open(7, second, "s-0", 2);
        traffic.through(7);
        traffic.close(7);
        traffic.skip(second, 5);
        assert_eq!((traffic.shards_done(), traffic.tracks_done(), traffic.pass()), (2, (1, 5), 1));
    }

    #[test]
    fn idle_threads_know_why() {
        let traffic = Traffic::default();
        assert_eq!(traffic.idle_because(), (Wait::Input, None));
        traffic.close_window(true);
        assert_eq!(traffic.idle_because(), (Wait::Downstream, None));
        traffic.crowd(true);
        assert_eq!(traffic.idle_because(), (Wait::Memory, None));
        traffic.refuse(3);
        assert_eq!(traffic.idle_because(), (Wait::Memory, Some(3)));
        traffic.queue(Some(4)).fill(true);
        assert_eq!(traffic.idle_because(), (Wait::Downstream, Some(3)));
        traffic.accept();
        assert_eq!(traffic.idle_because(), (Wait::Memory, None));
    }

    #[test]
    fn a_hand_tells_what_it_holds_and_whether_it_works() {
        let traffic = Traffic::default();
        let (lane, idle) = (traffic.hand(Owner::Lane), traffic.hand(Owner::Writer));
        idle.rest();
        lane.take("a.flac".to_owned());
        lane.enter(2, Instant::now());
        let held = traffic.in_hand();
        assert_eq!(held.len(), 1);
        assert_eq!((held[0].node, held[0].at_work, held[0].what.as_deref()), (2, true, Some("a.flac")));
        lane.wait(Some(3));
        assert_eq!(traffic.in_hand().iter().map(|held| (held.node, held.at_work)).collect::<Vec<_>>(), [(3, false)]);
        lane.rest();
        assert!(traffic.in_hand().is_empty());
    }

    #[test]
    fn queues_add_up_over_workers() {
        let traffic = Traffic::default();
        let queues = [traffic.queue(None), traffic.queue(None), traffic.queue(Some(1))];
        queues.iter().for_each(|queue| queue.join());
        queues[0].join();
        queues[2].leave();
        assert_eq!((traffic.queued(None), traffic.queued(Some(1)), traffic.queued(Some(2))), (3, 0, 0));
    }
}
