//! Rows on their way from `tracks` to a sink, and the budget of bytes they are allowed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::exec::network::Network;

/// Bytes that one worker may have on their way to its sinks.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Inner>);

struct Inner {
    limit: usize,
    used: AtomicUsize,
    network: Arc<Network>,
}

/// A share of the budget, returned when dropped.
pub(crate) struct Permit {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize, network: Arc<Network>) -> Self {
        Self(Arc::new(Inner { limit, used: AtomicUsize::new(0), network }))
    }

    /// Takes `bytes`, if the budget is not used up. What is larger than the whole budget is admitted alone.
    pub(crate) fn take(&self, bytes: usize) -> Option<Permit> {
        let used = self.0.used.load(Ordering::Acquire);
        if used > 0 && used + bytes > self.0.limit {
            return None;
        }
        self.0.used.fetch_add(bytes, Ordering::AcqRel);
        self.0.network.traffic.hold(bytes);
        Some(Permit { budget: self.clone(), bytes })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::AcqRel);
        self.budget.0.network.traffic.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Budget;
    use crate::exec::network::Network;

    #[test]
    fn a_budget_is_returned_and_never_starves_a_large_batch() {
        let network = Arc::new(Network::empty());
        let budget = Budget::new(10, network.clone());
        let large = budget.take(50).expect("alone");
        assert!(budget.take(1).is_none());
        assert_eq!(network.traffic.held(), 50);
        drop(large);
        assert_eq!(network.traffic.held(), 0);
        let (a, b) = (budget.take(6), budget.take(4));
        assert!(a.is_some() && b.is_some() && budget.take(1).is_none());
        drop(a);
        assert!(budget.take(5).is_some());
    }
}
