//! Rows on their way from `tracks` to a sink, and the budget of bytes they are allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::exec::network::Network;

/// Bytes that one worker may have on their way to its sinks.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
    /// Somebody was refused, and is to be told of room.
    wanted: AtomicBool,
    room: Box<dyn Fn() + Send + Sync>,
    network: Arc<Network>,
}

/// A share of the budget, returned when dropped.
pub(crate) struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    /// A budget of `limit` bytes. Whoever was refused is told by `room` when some of it is returned.
    pub(crate) fn new(limit: usize, network: Arc<Network>, room: impl Fn() + Send + Sync + 'static) -> Self {
        let (used, wanted) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self(Arc::new(Inner { limit, used, wanted, room: Box::new(room), network }))
    }

    /// Takes `bytes`, if the budget is not used up. What is larger than the whole budget is admitted alone.
    pub(crate) fn take(&self, bytes: usize) -> Option<Permit> {
        if !self.0.fits(bytes) {
            self.0.wanted.store(true, Ordering::SeqCst);
            // What was returned in between has told nobody.
            if !self.0.fits(bytes) {
                return None;
            }
        }
        self.0.used.fetch_add(bytes, Ordering::SeqCst);
        self.0.network.traffic.hold(bytes);
        Some(Permit { budget: self.clone(), bytes })
    }
}

impl Inner {
    fn fits(&self, bytes: usize) -> bool {
        let used = self.used.load(Ordering::SeqCst);
        used == 0 || used + bytes <= self.limit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget.0;
        budget.used.fetch_sub(self.bytes, Ordering::SeqCst);
        budget.network.traffic.release(self.bytes);
        if budget.wanted.swap(false, Ordering::SeqCst) {
            (budget.room)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Budget;
    use crate::exec::network::Network;

    #[test]
    fn a_budget_is_returned_and_never_starves_a_large_batch() {
        let network = Arc::new(Network::empty());
        let told = Arc::new(AtomicUsize::new(0));
        let tell = told.clone();
        let budget = Budget::new(10, network.clone(), move || {
            tell.fetch_add(1, Ordering::Relaxed);
        });
        let large = budget.take(50).expect("alone");
        assert!(budget.take(1).is_none());
        assert_eq!(network.traffic.held(), 50);
        drop(large);
        assert_eq!(told.load(Ordering::Relaxed), 1, "whoever was refused hears of room");
        assert_eq!(network.traffic.held(), 0);
        let (a, b) = (budget.take(6), budget.take(4));
        assert!(a.is_some() && b.is_some() && budget.take(1).is_none());
        drop(a);
        drop(b);
        assert_eq!(told.load(Ordering::Relaxed), 2, "once");
        assert!(budget.take(5).is_some());
    }
}
