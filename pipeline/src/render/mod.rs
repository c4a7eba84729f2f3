//! A plan as a timely dataflow. The only folder that imports timely and differential-dataflow.
//!
//! ```text
//!            ┌────────┐  shards  ┌────────┐ rows     ┌────────┐ counts  ┌───────┐
//!            │ source ├─────────▶│ tracks ├─────────▶│ record ├────────▶│ usage │ differential: how often each
//!            └───▲────┘          │        │          ├────────┤         └───┬───┘ code occurs in the corpus
//!   window of    │               │        │          parquet commits, on a  │
//!   epochs       │               │        │          writer thread          │
//!                │               │        │ crops    ┌────────┐             │
//!                │               │        ├─────────▶│ corpus │ training, on│its own thread (one per node)
//!                │               │        │ errors   ├────────┤             │
//!                │               │        ├─────────▶│ quaran-│ rejected    │
//!                │               └──▲──┬──┘          │  tine  │ recordings  │
//!                │             lanes│  │jobs         └───┬────┘             │
//!                │               pool of threads         │ probe            │
//!                └───────────────────────────────────────┴──────────────────┘
//! ```
//! Time is the epoch: one shard in one pass. Two gates bound memory: the source emits an epoch only while it is within
//! a window of the slowest sink, and `tracks` hands rows on only while fewer than a budget of bytes are on their way.
//! A second, tiny dataflow carries the one message "stop, because ..." to all workers. A run over several processes has
//! a third, [`collective`], that adds up gradients.

pub(crate) mod collective;
mod control;
mod corpus;
mod feed;
mod pool;
mod quarantine;
mod record;
mod source;
mod tracks;
mod usage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::{Concatenate, Probe};

pub(crate) use control::Fatal;

use crate::cluster::Failure;
use crate::exec::RunError;
use crate::exec::codes::CodeTotals;
use crate::exec::corpus::CorpusRunner;
use crate::exec::lane::panic_text;
use crate::exec::shards::Course;
use crate::exec::sinks::Recorder;
use crate::exec::traffic::Queue;
use crate::quarantine::Quarantine;
use crate::stop::Stop;

/// What the dataflow needs besides the course.
pub(crate) struct Runtime {
    /// Timely workers. They route; one is enough for a machine.
    pub(crate) workers: usize,
    /// Threads that compute.
    pub(crate) threads: usize,
    /// Bytes that may be held between nodes.
    pub(crate) memory: u64,
    /// Epochs in flight.
    pub(crate) window: u64,
    pub(crate) stop: Stop,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) codes: CodeTotals,
    /// Why other processes of the run cannot go on.
    pub(crate) failure: Option<Failure>,
}

/// Runs a course to its end.
pub(crate) fn run(
    course: Arc<Course>,
    recorder: impl Fn() -> Recorder,
    corpora: Vec<CorpusRunner>,
    runtime: &Runtime,
) -> Result<(), RunError> {
    let fatal = Fatal::default();
    if let Some(failure) = &runtime.failure {
        let fatal = fatal.clone();
        failure.on_set(move |reason| fatal.set(RunError::Peer(reason.to_owned())));
    }
    let workers = runtime.workers.max(1);
    let mut owners = Vec::new();
    let mut seats: Vec<Seat> = (0..workers).map(|_| Seat::default()).collect();
    for corpus in corpora {
        let node = corpus.node();
        let inboxes = (0..workers)
            .map(|worker| corpus::inbox(course.network.traffic.queue(Some(node)), &mut seats[worker]))
            .collect();
        owners.push(corpus::Owner::spawn(corpus, inboxes, course.first_epoch(), fatal.clone(), runtime.stop.clone()));
    }
    for seat in &mut seats {
        record::spawn(recorder(), seat, fatal.clone());
    }
    let pool = pool::Pool::start(runtime.threads, &course.network);
    let outcome = execute(&course, seats, &pool, runtime, &fatal);
    drop(pool);
    for owner in owners {
        owner.join();
    }
    match fatal.take() {
        Some(error) => Err(error),
        None => outcome,
    }
}

/// What one worker is given: the ends of the channels to threads that are not timely's.
#[derive(Default)]
struct Seat {
    corpora: Vec<corpus::Outbox>,
    record: Option<record::Outbox>,
}

fn execute(
    course: &Arc<Course>,
    seats: Vec<Seat>,
    pool: &pool::Pool,
    runtime: &Runtime,
    fatal: &Fatal,
) -> Result<(), RunError> {
    let workers = seats.len();
    let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
    let seats = Arc::new(Mutex::new(seats.into_iter().map(Some).collect::<Vec<_>>()));
    let (course, fatal_flag, jobs) = (course.clone(), fatal.clone(), pool.jobs());
    let lanes = (2 * runtime.threads).div_ceil(workers) + 1;
    let limits = tracks::Limits::new(runtime.memory, workers, lanes);
    let (window, stop, quarantine) =
        (runtime.window.max(2 * workers as u64), runtime.stop.clone(), runtime.quarantine.clone());
    let codes = runtime.codes.clone();
    let guards = timely::execute(config, move |worker| {
        let seat = seats.lock().unwrap_or_else(PoisonError::into_inner)[worker.index()].take();
        let seat = seat.expect("every worker takes its own seat, once");
        let guarded = catch_unwind(AssertUnwindSafe(|| {
            let mut control = control::Control::install(worker, fatal_flag.clone());
            let probe = ProbeHandle::new();
            worker.dataflow::<u64, _, _>(|scope| {
                let shards =
                    source::shards(scope, course.clone(), probe.clone(), window, stop.clone(), fatal_flag.clone());
                let context = tracks::Context {
                    course: course.clone(),
                    jobs: jobs.clone(),
                    lanes,
                    limits,
                    stop: stop.clone(),
                    fatal: fatal_flag.clone(),
                };
                let streams = tracks::tracks(scope, shards, context);
                let recorder = seat.record.expect("every seat has a recorder");
                let counted = record::record(scope, streams.rows, recorder).probe_with(&probe);
                let corpora = seat.corpora.into_iter().zip(streams.crops);
                let consumed = corpora.map(|(outbox, crops)| corpus::corpus(scope, crops, outbox).probe_with(&probe));
                let consumed = scope.concatenate(consumed.collect::<Vec<_>>());
                quarantine::quarantine(streams.errors, quarantine.clone(), fatal_flag.clone()).probe_with(&probe);
                usage::usage(scope, &course, counted, consumed, codes.clone()).probe_with(&probe);
            });
            while !fatal_flag.is_set() && !probe.done() {
                worker.step_or_park(Some(Duration::from_millis(20)));
                control.relay();
            }
            drop(control);
            if fatal_flag.is_set() {
                for dataflow in worker.installed_dataflows() {
                    worker.drop_dataflow(dataflow);
                }
            }
        }));
        if let Err(panic) = guarded {
            fatal_flag.set(RunError::Failed(format!("a dataflow worker panicked: {}", panic_text(&*panic))));
            for dataflow in worker.installed_dataflows() {
                worker.drop_dataflow(dataflow);
            }
        }
    })
    .map_err(RunError::Failed)?;
    for joined in guards.join() {
        joined.map_err(|error| RunError::Failed(format!("a dataflow worker died: {error}")))?;
    }
    Ok(())
}

/// A bounded channel between a worker and a thread, with the way back.
struct Link<Out, Back> {
    to: Sender<Out>,
    from: Receiver<Back>,
    /// What was sent, or waits to be, and has not been received.
    queue: Arc<Queue>,
}
