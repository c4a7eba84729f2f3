//! A recording that failed for reasons of input and output, tried again.
//!
//! What a lane makes of a recording is a function of the recording alone, so the second try posts the same messages as
//! the first one did, and those that the first one has posted are left out: to those behind the lane it is as if it had
//! only paused.

use std::time::{Duration, Instant};

use omar_stages::Rejection;

use super::Lane;
use crate::policy::IO;
use crate::stop::Stop;

/// While a lane pauses, somebody looks this often whether the run is being stopped.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits for the end of a pause, or until the run is being stopped: then the recording gets its last chance at once.
pub(crate) fn wait(due: Instant, stop: &Stop) {
    let left = || due.saturating_duration_since(Instant::now());
    while !left().is_zero() && !stop.is_requested() {
        std::thread::sleep(LOOK_EVERY.min(left()));
    }
}

/// How often the current recording was tried.
#[derive(Debug, Default)]
pub(super) struct Tries {
    failed: u32,
    /// Messages of this try.
    posted: usize,
    /// Messages that earlier tries posted.
    known: usize,
}

impl Tries {
    /// Whether the next message was posted by an earlier try.
    pub(super) fn was_posted(&mut self) -> bool {
        self.posted += 1;
        self.posted <= self.known
    }

    fn again(&mut self) {
        self.known = self.known.max(self.posted);
        self.posted = 0;
    }
}

impl Lane {
    /// Goes back to the beginning of the recording if the node that rejected it wants that, and says when to go on. What an
    /// object store refuses is settled: it was asked again where it failed, and tries do not multiply. If it was tried
    /// more than once, the message of the rejection says so.
    pub(super) fn tries_again(&mut self, node: usize, rejection: &mut Rejection) -> Option<Instant> {
        let node = &self.network.nodes[node];
        let retry = node.retry.filter(|_| rejection.class == IO && !rejection.settled)?;
        self.tries.failed += 1;
        let Some(pause) = retry.pause(self.tries.failed) else {
            rejection.message = format!("{} (tried {} times)", rejection.message, self.tries.failed);
            return None;
        };
        let due = Instant::now() + pause;
        self.align.iter_mut().for_each(super::Align::clear);
        self.work.clear();
        self.operators.iter_mut().for_each(|operator| *operator = None);
        self.tries.again();
        let (shard, track) = self.current();
        self.begin(shard, track);
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::Tries;

    #[test]
    fn what_was_posted_is_not_posted_again() {
        let mut tries = Tries::default();
        let mut posted = |count: usize| (0..count).filter(|_| !tries.was_posted()).count();
        assert_eq!(posted(5), 5);
        tries.again();
        let mut posted = |count: usize| (0..count).filter(|_| !tries.was_posted()).count();
        assert_eq!(posted(3), 0, "failed earlier than before");
        tries.again();
        let mut posted = |count: usize| (0..count).filter(|_| !tries.was_posted()).count();
        assert_eq!(posted(7), 2, "five of them are known");
    }
}
