//! The threads that compute. One pool per process, shared by all workers, so no worker is idle while another has work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use timely::scheduling::activate::SyncActivator;

use super::control::Fatal;
use crate::exec::RunError;
use crate::exec::lane::{Advance, Lane, panic_text};
use crate::exec::network::Network;

/// More jobs than lanes can exist; sending never blocks.
const QUEUE: usize = 4096;

/// How often a thread without work asks why: the reason may change while it waits.
const IDLE: Duration = Duration::from_millis(50);

/// A lane to be advanced, and where it goes afterwards.
pub(crate) struct Job {
    pub(crate) slot: u64,
    pub(crate) lane: Lane,
    pub(crate) limit: usize,
    pub(crate) back: Sender<Done>,
    pub(crate) wake: SyncActivator,
}

/// A lane that stopped.
pub(crate) struct Done {
    pub(crate) slot: u64,
    /// `None` if it panicked.
    pub(crate) lane: Option<Lane>,
    pub(crate) advance: Result<Advance, RunError>,
}

pub(crate) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts it. What its threads are at is left as it is when the run has failed.
    pub(crate) fn start(threads: usize, network: &Arc<Network>, fatal: &Fatal) -> Self {
        let (jobs, queue) = bounded::<Job>(QUEUE);
        let spawn = |index| {
            let (queue, network, fatal) = (queue.clone(), network.clone(), fatal.clone());
            let builder = std::thread::Builder::new().name(format!("pool-{index}"));
            builder.spawn(move || work(&queue, &network, &fatal)).expect("the system starts a thread")
        };
        Self { jobs: Some(jobs), threads: (0..threads.max(1)).map(spawn).collect() }
    }

    pub(crate) fn jobs(&self) -> Sender<Job> {
        self.jobs.clone().expect("a pool has its queue until it is dropped")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // Jobs catch their own panics, so a thread ends only because the queue is closed.
            let _closed = thread.join();
        }
    }
}

fn work(queue: &Receiver<Job>, network: &Network, fatal: &Fatal) {
    loop {
        let waiting = Instant::now();
        let job = queue.recv_timeout(IDLE);
        network.idle(waiting.elapsed());
        let Job { slot, mut lane, limit, back, wake } = match job {
            Ok(job) => job,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let advanced = catch_unwind(AssertUnwindSafe(|| lane.advance(limit, &|| fatal.is_set())));
        let done = match advanced {
            Ok(advance) => Done { slot, lane: Some(lane), advance },
            Err(panic) => {
                let message = format!("the executor panicked: {}", panic_text(&*panic));
                Done { slot, lane: None, advance: Err(RunError::Failed(message)) }
            }
        };
        // Both fail only when the worker has gone, and then nobody waits for the result.
        if back.send(done).is_ok() {
            let _gone = wake.activate();
        }
    }
}
