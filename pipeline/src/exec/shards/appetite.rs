//! Whether a corpus stage wants more crops.

use std::sync::atomic::{AtomicU64, Ordering};

use omar_stages::Position;

/// Whether a corpus stage wants more crops.
#[derive(Debug)]
pub(crate) struct Appetite {
    pub(super) repeats: bool,
    pub(super) start: Position,
    /// [`rank`] of the shard with which it had enough; [`HUNGRY`] until then.
    enough: AtomicU64,
    pub(super) crops: AtomicU64,
}

/// The place of no shard.
const HUNGRY: u64 = u64::MAX;

/// Positions as numbers, in their order.
fn rank(at: Position) -> u64 {
    u64::from(at.pass) << 32 | u64::from(at.shard)
}

impl Appetite {
    pub(crate) fn new(repeats: bool, start: Position) -> Self {
        Self { repeats, start, enough: AtomicU64::new(HUNGRY), crops: AtomicU64::new(0) }
    }

    /// It had enough in the middle of a shard, or at its end.
    pub(crate) fn satisfy(&self, at: Position) {
        self.enough.fetch_min(rank(at), Ordering::AcqRel);
    }

    pub(crate) fn is_satisfied(&self) -> bool {
        self.enough.load(Ordering::Acquire) != HUNGRY
    }

    pub(crate) fn ate(&self, crops: usize) {
        self.crops.fetch_add(crops as u64, Ordering::Relaxed);
    }

    pub(super) fn wants(&self, at: Position) -> bool {
        !self.is_satisfied() && self.wanted(at)
    }

    /// Whether it wanted this shard when it came to it: unlike [`Self::wants`], this does not change any more once the
    /// stage has come to the shard, however far ahead of it others are.
    pub(super) fn wanted(&self, at: Position) -> bool {
        rank(at) <= self.enough.load(Ordering::Acquire) && at >= self.start && (self.repeats || at.pass == 0)
    }
}
