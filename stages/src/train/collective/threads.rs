//! Ranks that are threads of one process.

use super::{Collective, CollectiveError, Pending};
use candle_core::Tensor;
use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// `size` ranks of one process, to be given to a thread each. What is not waited for is kept until all have gone.
pub fn threads(size: usize) -> Vec<impl Collective + 'static> {
    let hub = Arc::new(Hub { state: Mutex::default(), changed: Condvar::new(), size });
    (0..size).map(|rank| Thread { rank, hub: hub.clone(), calls: Mutex::new(0) }).collect()
}

/// Where the ranks meet.
#[derive(Debug)]
struct Hub {
    state: Mutex<State>,
    changed: Condvar,
    size: usize,
}

#[derive(Debug, Default)]
struct State {
    /// What was given at a call, by rank, and how many ranks have read all of it.
    calls: HashMap<u64, (Vec<Option<Given>>, usize)>,
    /// Ranks that have ended.
    ended: Vec<usize>,
}

/// What a rank gives.
#[derive(Clone, Debug)]
enum Given {
    Bucket(Tensor),
    Values(Vec<f64>),
    Bytes(Vec<u8>),
}

impl Given {
    fn describe(&self) -> String {
        match self {
            Self::Bucket(bucket) => format!("a bucket of {} values", bucket.elem_count()),
            Self::Values(values) => format!("{} values", values.len()),
            Self::Bytes(_) => "a broadcast".to_owned(),
        }
    }

    fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bucket(a), Self::Bucket(b)) => a.dims() == b.dims(),
            (Self::Values(a), Self::Values(b)) => a.len() == b.len(),
            (Self::Bytes(_), Self::Bytes(_)) => true,
            _ => false,
        }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, call: u64, rank: usize, given: Given) {
        let mut state = self.lock();
        let entry = state.calls.entry(call).or_insert_with(|| ((0..self.size).map(|_| None).collect(), 0));
        entry.0[rank] = Some(given);
        drop(state);
        self.changed.notify_all();
    }

    /// What all ranks gave at a call.
    fn take(&self, call: u64) -> Result<Vec<Given>, CollectiveError> {
        let mut state = self.lock();
        loop {
            let State { calls, ended } = &mut *state;
            if let Some((given, read)) = calls.get_mut(&call) {
                let missing = given.iter().position(Option::is_none);
                if missing.is_none() {
                    let all: Vec<Given> = given.iter().flatten().cloned().collect();
                    *read += 1;
                    if *read == self.size {
                        calls.remove(&call);
                    }
                    return in_step(all);
                }
                if let Some(rank) = ended.iter().find(|rank| given[**rank].is_none()) {
                    return Err(CollectiveError::Lost(format!("rank {rank} has ended")));
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The same, if all ranks gave the same kind and length.
fn in_step(all: Vec<Given>) -> Result<Vec<Given>, CollectiveError> {
    match all.iter().position(|given| !given.fits(&all[0])) {
        None => Ok(all),
        Some(rank) => {
            let (first, other) = (all[0].describe(), all[rank].describe());
            let other = other.strip_suffix(" values").filter(|n| n.parse::<u64>().is_ok()).unwrap_or(&other);
            Err(CollectiveError::OutOfStep(format!("rank 0 gives {first}, rank {rank} gives {other}")))
        }
    }
}

#[derive(Debug)]
struct Thread {
    rank: usize,
    hub: Arc<Hub>,
    calls: Mutex<u64>,
}

impl Thread {
    fn give(&self, given: Given) -> u64 {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls += 1;
        self.hub.give(*calls, self.rank, given);
        *calls
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.hub.lock().ended.push(self.rank);
        self.hub.changed.notify_all();
    }
}

impl Collective for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.hub.size
    }

    fn start_sum(&self, bucket: Tensor) -> Result<Box<dyn Pending>, CollectiveError> {
        let call = self.give(Given::Bucket(bucket));
        Ok(Box::new(Sum { call, hub: self.hub.clone() }))
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        let call = self.give(Given::Values(values.to_vec()));
        let all = self.hub.take(call)?;
        values.fill(0.0);
        for given in &all {
            let Given::Values(given) = given else { continue };
            for (sum, value) in values.iter_mut().zip(given) {
                *sum += value;
            }
        }
        Ok(())
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        let call = self.give(Given::Bytes(bytes));
        match self.hub.take(call)?.swap_remove(0) {
            Given::Bytes(bytes) => Ok(bytes),
            other => Err(CollectiveError::OutOfStep(format!("rank 0 gives {}", other.describe()))),
        }
    }
}

#[derive(Debug)]
struct Sum {
    call: u64,
    hub: Arc<Hub>,
}

impl Pending for Sum {
    fn wait(self: Box<Self>) -> Result<Tensor, CollectiveError> {
        let mut sum: Option<Tensor> = None;
        for given in self.hub.take(self.call)? {
            let Given::Bucket(bucket) = given else { continue };
            sum = Some(match sum {
                None => bucket,
                Some(sum) => (sum + bucket)?,
            });
        }
        sum.ok_or_else(|| CollectiveError::OutOfStep("no rank gave a bucket".to_owned()))
    }
}
