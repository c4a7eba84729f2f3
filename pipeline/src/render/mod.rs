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
//! A second, tiny dataflow carries the one message "stop, because ..." to all workers.
//!
//! Over several processes there are two ways ([`Division`]). Where the recordings are divided, this is one dataflow with
//! workers in all processes: each emits the shards that it owns and keeps their rows; counts are summed wherever their
//! code hashes to, errors and the crops of corpus stages ([`cross`]) go to the first process. Where a training is shared,
//! each process has a dataflow of its own over the whole corpus, and a third one, [`collective`], adds up gradients.

pub(crate) mod collective;
mod control;
mod corpus;
mod cross;
mod feed;
mod parcel;
mod pool;
mod quarantine;
mod record;
mod source;
mod tracks;
mod usage;

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use timely::WorkerConfig;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks, WorkerGuards};
use timely::dataflow::operators::{Concatenate, Probe};
use timely::dataflow::{ProbeHandle, Scope};
use timely::worker::Worker;

pub(crate) use control::Fatal;

use crate::cluster::{Cluster, Failure, Sockets};
use crate::exec::RunError;
use crate::exec::codes::CodeTotals;
use crate::exec::corpus::CorpusRunner;
use crate::exec::division::Division;
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
    /// Connections to the other processes, where the recordings are divided.
    pub(crate) rows: Option<Sockets>,
}

impl Runtime {
    /// The sockets that belong to a division.
    pub(crate) fn rows(division: &Division, cluster: Option<&Cluster>) -> Option<Sockets> {
        cluster.filter(|_| division.is_divided()).map(Cluster::take_rows)
    }
}

/// Runs a course to its end.
pub(crate) fn run(
    course: Arc<Course>,
    recorder: impl Fn() -> Recorder,
    corpora: Vec<CorpusRunner>,
    mut runtime: Runtime,
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
        // Where the corpus is divided, all crops come together in the first worker.
        let readers = if course.division.is_divided() { 1 } else { workers };
        let inboxes = (0..readers)
            .map(|worker| corpus::inbox(course.network.traffic.queue(Some(node)), &mut seats[worker]))
            .collect();
        owners.push(corpus::Owner::spawn(corpus, inboxes, course.first_epoch(), fatal.clone(), runtime.stop.clone()));
    }
    for seat in &mut seats {
        record::spawn(recorder(), seat, fatal.clone());
    }
    let pool = pool::Pool::start(runtime.threads, &course.network, &fatal);
    let rows = runtime.rows.take();
    let outcome = execute(&course, seats, &pool, &runtime, rows, &fatal);
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
    /// None where another worker hears all crops.
    corpora: Vec<corpus::Outbox>,
    record: Option<record::Outbox>,
}

/// How long the watch has to notice that a process is lost, before a panic is taken for the reason itself.
const NOTICE: Duration = Duration::from_secs(3);

/// How long threads of a lost network are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often somebody who waits looks again.
const LOOK: Duration = Duration::from_millis(20);

/// What every worker needs to build its part of the dataflow.
struct Blueprint {
    course: Arc<Course>,
    jobs: Sender<pool::Job>,
    lanes: usize,
    limits: tracks::Limits,
    window: u64,
    workers: usize,
    stop: Stop,
    quarantine: Arc<Quarantine>,
    codes: CodeTotals,
    fatal: Fatal,
    failure: Option<Failure>,
}

fn execute(
    course: &Arc<Course>,
    seats: Vec<Seat>,
    pool: &pool::Pool,
    runtime: &Runtime,
    rows: Option<Sockets>,
    fatal: &Fatal,
) -> Result<(), RunError> {
    let workers = seats.len();
    let lanes = (2 * runtime.threads).div_ceil(workers) + 1;
    let blueprint = Blueprint {
        course: course.clone(),
        jobs: pool.jobs(),
        lanes,
        limits: tracks::Limits::new(runtime.memory, workers, lanes),
        window: runtime.window.max(2 * workers as u64),
        workers,
        stop: runtime.stop.clone(),
        quarantine: runtime.quarantine.clone(),
        codes: runtime.codes.clone(),
        fatal: fatal.clone(),
        failure: runtime.failure.clone(),
    };
    let (builders, network) = allocators(workers, rows, &course.division)?;
    let seats = Arc::new(Mutex::new(seats.into_iter().map(Some).collect::<Vec<_>>()));
    // A worker that spins before it parks takes the core from a thread that computes.
    let config = WorkerConfig::default().idle_spin(Duration::ZERO);
    let guards = timely::execute::execute_from(builders, network, config, move |worker| {
        let seat = seats.lock().unwrap_or_else(PoisonError::into_inner)[worker.index() % workers].take();
        let seat = seat.expect("every worker takes its own seat, once");
        blueprint.work(worker, seat);
    })
    .map_err(RunError::Failed)?;
    join(guards, course.division.is_divided(), fatal)
}

/// The channels between workers: threads of this process, or of all.
fn allocators(
    workers: usize,
    rows: Option<Sockets>,
    division: &Division,
) -> Result<(Vec<AllocatorBuilder>, Box<dyn Any + Send>), RunError> {
    let (Some(rows), Division::Shards { process, .. }) = (rows, division) else {
        let config = if workers == 1 { timely::Config::thread() } else { timely::Config::process(workers) };
        return config.communication.try_build().map_err(RunError::Failed);
    };
    let hooks = Hooks::default();
    let inner = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
    let (builders, network) = initialize_networking_from_sockets(inner, rows, *process, workers, hooks)
        .map_err(|error| RunError::Failed(format!("the network of the dataflow cannot start: {error}")))?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(network)))
}

/// Waits for the workers. Those of a network that is gone may never end: they are left behind.
fn join(guards: WorkerGuards<()>, divided: bool, fatal: &Fatal) -> Result<(), RunError> {
    let (done, ended) = crossbeam_channel::bounded(1);
    let wait = move || {
        let joined = guards.join().into_iter().collect::<Result<Vec<()>, _>>();
        // Nobody listens when the run has given up on its network.
        let _left = done.send(joined.map(drop).map_err(|error| format!("a dataflow worker died: {error}")));
    };
    std::thread::Builder::new().name("join".to_owned()).spawn(wait).expect("the system starts a thread");
    let mut given_up: Option<Instant> = None;
    loop {
        match ended.recv_timeout(LOOK) {
            Ok(outcome) => return outcome.map_err(RunError::Failed),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                let since = given_up.get_or_insert_with(Instant::now);
                if !(divided && fatal.is_set()) {
                    *since = Instant::now();
                } else if since.elapsed() > PATIENCE {
                    return Ok(());
                }
            }
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                return Err(RunError::Failed("the dataflow has ended without a word".to_owned()));
            }
        }
    }
}

impl Blueprint {
    /// One worker, from the first step to the last.
    fn work(&self, worker: &mut Worker, seat: Seat) {
        let fatal = &self.fatal;
        let guarded = catch_unwind(AssertUnwindSafe(|| {
            let mut control = control::Control::install(worker, fatal.clone(), self.stop.clone());
            let probe = ProbeHandle::new();
            let (ended, bell) = (Rc::new(Cell::new(0)), source::Bell::default());
            worker.dataflow::<u64, _, _>(|scope| self.build(scope, &probe, seat, (ended.clone(), bell.clone())));
            let mut seen = None;
            while !fatal.is_set() && !probe.done() {
                worker.step_or_park(Some(LOOK));
                control.relay();
                let now = Some((probe.with_frontier(|low| low.first().copied()), ended.get()));
                if std::mem::replace(&mut seen, now) != now {
                    bell.ring();
                }
            }
            // The others are to hear of it.
            worker.step();
            drop(control);
        }));
        if let Err(panic) = guarded {
            // A lost connection makes timely panic, often before the watch knows which process it was.
            let patience = Instant::now() + NOTICE;
            let lost = || self.failure.as_ref().is_none_or(Failure::is_set);
            while self.course.division.is_divided() && !lost() && Instant::now() < patience {
                std::thread::sleep(LOOK);
            }
            fatal.set(RunError::Failed(format!("a dataflow worker panicked: {}", panic_text(&*panic))));
        }
        if fatal.is_set() {
            worker.installed_dataflows().into_iter().for_each(|dataflow| worker.drop_dataflow(dataflow));
        }
    }

    fn build(
        &self,
        scope: Scope<'_, u64>,
        probe: &ProbeHandle<u64>,
        seat: Seat,
        (ended, bell): (Rc<Cell<u64>>, source::Bell),
    ) {
        let (course, fatal) = (&self.course, &self.fatal);
        let divided = course.division.is_divided();
        let first = scope.index().is_multiple_of(self.workers);
        let (stop, window) = (self.stop.clone(), self.window(scope, ended.clone()));
        let shards = source::shards(scope, course.clone(), probe.clone(), window, bell, stop, fatal.clone());
        let context = tracks::Context {
            course: course.clone(),
            jobs: self.jobs.clone(),
            lanes: self.lanes,
            limits: self.limits,
            stop: self.stop.clone(),
            fatal: fatal.clone(),
            ended,
        };
        let streams = tracks::tracks(scope, shards, context);
        let recorder = seat.record.expect("every seat has a recorder");
        let counted = record::record(scope, streams.rows, recorder).probe_with(probe);
        let mut outboxes = seat.corpora.into_iter();
        let consumed: Vec<_> = streams
            .crops
            .into_iter()
            .map(|crops| {
                let crops = if divided { cross::gather(scope, crops, course, fatal) } else { crops };
                corpus::corpus(scope, crops, outboxes.next()).probe_with(probe)
            })
            .collect();
        let consumed = scope.concatenate(consumed);
        let remembered = quarantine::remembered(scope, course.clone(), first);
        quarantine::quarantine(streams.errors, remembered, divided, self.quarantine.clone(), fatal.clone())
            .probe_with(probe);
        usage::usage(scope, course, counted, consumed, self.codes.clone(), first).probe_with(probe);
    }

    /// How far ahead a worker may be, and which epochs are its own.
    fn window(&self, scope: Scope<'_, u64>, ended: Rc<Cell<u64>>) -> (source::Window, source::Place) {
        let (workers, worker) = (self.workers as u64, (scope.index() % self.workers) as u64);
        match &self.course.division {
            Division::Shards { processes, .. } => {
                let processes = *processes as u64;
                // A stage that sees the whole corpus sees it in order; without one, nobody waits for anybody.
                let ordered = self.course.corpus_nodes().next().is_some();
                let global = ordered.then_some(self.window * processes);
                (source::Window { global, own: self.window, ended }, source::Place { worker, workers, processes })
            }
            _ => {
                let window = source::Window { global: Some(self.window), own: u64::MAX, ended };
                (window, source::Place { worker, workers, processes: 1 })
            }
        }
    }
}

/// A bounded channel between a worker and a thread, with the way back.
struct Link<Out, Back> {
    to: Sender<Out>,
    from: Receiver<Back>,
    /// What was sent, or waits to be, and has not been received.
    queue: Arc<Queue>,
}
