//! Sums over processes, as a dataflow of their own over timely's network.
//!
//! ```text
//!  trainer ──calls──▶ parts ═══▶ add ═══▶ answers ──▶ whoever waits
//!                       exchange     exchange
//! ```
//! Rank r owns the r-th slice of every bucket. `parts` sends each slice to its owner, `add` adds the parts of all ranks
//! up, in the order of the ranks, and sends the sum to all, `answers` puts the slices together: every process sends and
//! receives `2 (P - 1) / P` of a bucket, whatever the number P of processes. Small vectors and broadcasts go to
//! everybody whole, in one hop. The dataflow has one worker of its own in each process, and knows nothing of the graph.
//! There are two of it, so that small vectors, for which the pass waits, do not queue behind buckets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use omar_stages::train::{Collective, CollectiveError, Pending};
use timely::WorkerConfig;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::{AllocatorBuilder, Hooks, WorkerGuards};
use timely::container::NoopBuilder;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, Stream};
use timely::scheduling::activate::SyncActivator;

use super::parcel::{Kind, Parcel, Payload, Piece, to_owner};
use crate::cluster::{Cluster, Failure, Sockets};
use crate::exec::RunError;
use crate::exec::lane::panic_text;

/// How often somebody who waits looks whether all is lost.
const LOOK: Duration = Duration::from_millis(50);
/// How long the watch has to notice that a process is lost, before a panic is taken for the reason itself.
const NOTICE: Duration = Duration::from_secs(3);

/// What is asked of the dataflow.
enum Command {
    Call { number: u64, given: Given, answer: Sender<Answer> },
    Close,
}

/// What this rank gives.
enum Given {
    Bucket(Vec<f32>),
    Values(Vec<f64>),
    Bytes(Vec<u8>),
}

/// What comes back.
enum Answer {
    Bucket(Vec<f32>),
    Values(Vec<f64>),
    Bytes(Vec<u8>),
    OutOfStep(String),
}

/// Who waits for which call.
type Waiting = Rc<RefCell<HashMap<u64, Sender<Answer>>>>;

/// A rank of processes that are connected by timely's network.
#[derive(Debug)]
struct Rank {
    rank: usize,
    size: usize,
    small: Line,
    large: Line,
    failure: Failure,
}

/// The way to one dataflow.
struct Line {
    /// Number of calls so far; its lock keeps the calls in the order of their numbers.
    calls: Mutex<u64>,
    commands: Sender<Command>,
    wake: SyncActivator,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Line {
    fn call(&self, given: Given, failure: &Failure) -> Result<Waiter, CollectiveError> {
        let (answer, waiting) = bounded(1);
        let waiter = Waiter { waiting, failure: failure.clone() };
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls += 1;
        let command = Command::Call { number: *calls, given, answer };
        if self.commands.send(command).is_err() || self.wake.activate().is_err() {
            return Err(waiter.lost());
        }
        Ok(waiter)
    }

    fn close(&self) {
        let _gone = self.commands.send(Command::Close);
        let _gone = self.wake.activate();
    }
}

impl Collective for Rank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn start_sum(&self, bucket: Tensor) -> Result<Box<dyn Pending>, CollectiveError> {
        let (device, values) = (bucket.device().clone(), bucket.to_vec1::<f32>()?);
        Ok(Box::new(Sum { waiter: self.large.call(Given::Bucket(values), &self.failure)?, device }))
    }

    fn sum(&self, values: &mut [f64]) -> Result<(), CollectiveError> {
        match self.small.call(Given::Values(values.to_vec()), &self.failure)?.wait()? {
            Answer::Values(sums) if sums.len() == values.len() => {
                values.copy_from_slice(&sums);
                Ok(())
            }
            answer => Err(answer.unexpected()),
        }
    }

    fn broadcast(&self, bytes: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        match self.small.call(Given::Bytes(bytes), &self.failure)?.wait()? {
            Answer::Bytes(bytes) => Ok(bytes),
            answer => Err(answer.unexpected()),
        }
    }
}

impl Answer {
    fn unexpected(self) -> CollectiveError {
        CollectiveError::OutOfStep(match self {
            Self::OutOfStep(how) => how,
            _ => "the answer is of another call".to_owned(),
        })
    }
}

/// Waits for one answer.
#[derive(Debug)]
struct Waiter {
    waiting: Receiver<Answer>,
    failure: Failure,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl Waiter {
    fn wait(&self) -> Result<Answer, CollectiveError> {
        loop {
            match self.waiting.recv_timeout(LOOK) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Timeout) if !self.failure.is_set() => {}
                Err(_) => return Err(self.lost()),
            }
        }
    }

    fn lost(&self) -> CollectiveError {
        let reason = self.failure.text();
        CollectiveError::Lost(reason.unwrap_or_else(|| "the processes have taken leave of each other".to_owned()))
    }
}

#[derive(Debug)]
struct Sum {
    waiter: Waiter,
    device: Device,
}

impl Pending for Sum {
    fn wait(self: Box<Self>) -> Result<Tensor, CollectiveError> {
        match self.waiter.wait()? {
            Answer::Bucket(sum) => {
                let length = sum.len();
                Ok(Tensor::from_vec(sum, length, &self.device)?)
            }
            answer => Err(answer.unexpected()),
        }
    }
}

/// The dataflows while they run.
pub(crate) struct Exchange {
    rank: Arc<Rank>,
    guards: Vec<WorkerGuards<()>>,
}

impl Exchange {
    /// Starts the dataflows over the connections of a cluster.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self, RunError> {
        Self::over(cluster.take_sums(), cluster.process(), cluster.failure().clone())
    }

    /// Starts the dataflows over connections for small and for large sums.
    fn over([small, large]: [Sockets; 2], rank: usize, failure: Failure) -> Result<Self, RunError> {
        let size = small.len();
        let (small, first) = line(small, rank, failure.clone())?;
        let (large, second) = line(large, rank, failure.clone())?;
        Ok(Self { rank: Arc::new(Rank { rank, size, small, large, failure }), guards: vec![first, second] })
    }

    /// The rank that this process is.
    pub(crate) fn collective(&self) -> Arc<dyn Collective> {
        self.rank.clone()
    }

    /// Ends the dataflows, once all processes have come here.
    pub(crate) fn close(mut self) {
        self.rank.small.close();
        self.rank.large.close();
        if self.rank.failure.is_set() {
            return;
        }
        let guards = std::mem::take(&mut self.guards);
        let (closed, closing) = bounded::<()>(0);
        std::thread::spawn(move || {
            // Threads of the network panic when the other side is gone.
            let _panicked = catch_unwind(AssertUnwindSafe(|| drop(guards)));
            drop(closed);
        });
        while let Err(RecvTimeoutError::Timeout) = closing.recv_timeout(LOOK) {
            if self.rank.failure.is_set() {
                return;
            }
        }
    }
}

impl Drop for Exchange {
    /// What has not been closed is left as it is: its threads may wait for a network that is gone.
    fn drop(&mut self) {
        std::mem::take(&mut self.guards).into_iter().for_each(std::mem::forget);
    }
}

/// Starts one dataflow.
fn line(sockets: Sockets, rank: usize, failure: Failure) -> Result<(Line, WorkerGuards<()>), RunError> {
    let failed = |what: String| RunError::Failed(format!("the exchange of gradients cannot start: {what}"));
    let hooks = Hooks::default();
    let inner = ProcessBuilder::new_typed_vector(1, hooks.refill.clone(), None);
    let (builders, network) = initialize_networking_from_sockets(inner, sockets, rank, 1, hooks)
        .map_err(|error| failed(error.to_string()))?;
    let builders = builders.into_iter().map(AllocatorBuilder::Tcp).collect();
    let (commands, asked) = unbounded();
    let (ready, wake) = bounded(1);
    let seat = Mutex::new(Some((asked, ready)));
    let guards = timely::execute::execute_from(builders, Box::new(network), WorkerConfig::default(), move |worker| {
        let seat = seat.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (asked, ready) = seat.expect("there is one worker");
        let guarded = catch_unwind(AssertUnwindSafe(|| {
            worker.dataflow_named::<u64, _, _>("collective", |scope| build(scope, asked, &ready));
            while worker.has_dataflows() && !failure.is_set() {
                worker.step_or_park(Some(LOOK));
            }
        }));
        if let Err(panic) = guarded {
            // A lost connection makes timely panic, often before the watch knows which process it was.
            let patience = Instant::now() + NOTICE;
            while !failure.is_set() && Instant::now() < patience {
                std::thread::sleep(LOOK);
            }
            failure.set(&format!("the exchange of gradients panicked: {}", panic_text(&*panic)));
        }
        worker.installed_dataflows().into_iter().for_each(|dataflow| worker.drop_dataflow(dataflow));
    })
    .map_err(failed)?;
    let wake = wake.recv().map_err(|_| failed("its worker has ended".to_owned()))?;
    Ok((Line { calls: Mutex::new(0), commands, wake }, guards))
}

fn build(scope: Scope<'_, u64>, asked: Receiver<Command>, ready: &Sender<SyncActivator>) {
    let waiting = Waiting::default();
    let parts = parts(scope, asked, ready, waiting.clone());
    answers(add(scope, parts), scope.index(), scope.peers(), waiting);
}

/// Reads calls and sends what this rank gives to whom it concerns.
fn parts<'scope>(
    scope: Scope<'scope, u64>,
    asked: Receiver<Command>,
    ready: &Sender<SyncActivator>,
    waiting: Waiting,
) -> Stream<'scope, u64, Parcel> {
    let (me, peers) = (scope.index(), scope.peers());
    source::<_, NoopBuilder<Parcel>, _, _>(scope, "parts", |capability, info| {
        let _waits = ready.send(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut capability = Some(capability);
        move |output| {
            while let Some(held) = &capability {
                match asked.try_recv() {
                    Ok(Command::Call { number, given, answer }) => {
                        waiting.borrow_mut().insert(number, answer);
                        let mut session = output.session_with_builder(held);
                        for piece in pieces(number, given, me, peers) {
                            session.give_container(&mut Parcel::of(piece));
                        }
                    }
                    Ok(Command::Close) | Err(crossbeam_channel::TryRecvError::Disconnected) => capability = None,
                    Err(crossbeam_channel::TryRecvError::Empty) => return,
                }
            }
        }
    })
}

/// What a rank sends for a call: a piece to every rank.
fn pieces(call: u64, given: Given, from: usize, peers: usize) -> Vec<Piece> {
    let piece = |kind, to, total, payload| Piece { call, kind, from, to, total, payload };
    match given {
        Given::Bucket(values) => {
            let (total, values) = (values.len(), Arc::new(values));
            let slice = |to: usize| Payload::Floats(values.clone(), slice_of(to, total, peers));
            (0..peers).map(|to| piece(Kind::Slice, to, total, slice(to))).collect()
        }
        Given::Values(values) => {
            let bytes: Arc<Vec<u8>> = Arc::new(values.iter().flat_map(|value| value.to_le_bytes()).collect());
            let all = |to| piece(Kind::Values, to, values.len(), Payload::Bytes(bytes.clone()));
            (0..peers).map(all).collect()
        }
        Given::Bytes(bytes) => {
            let bytes = Arc::new(if from == 0 { bytes } else { Vec::new() });
            (0..peers).map(|to| piece(Kind::Bytes, to, 0, Payload::Bytes(bytes.clone()))).collect()
        }
    }
}

/// The slice of a bucket of `total` values that a rank owns.
fn slice_of(rank: usize, total: usize, peers: usize) -> std::ops::Range<usize> {
    rank * total / peers..(rank + 1) * total / peers
}

/// Adds up what all ranks sent for a call, in the order of the ranks.
fn add<'scope>(scope: Scope<'scope, u64>, parts: Stream<'scope, u64, Parcel>) -> Stream<'scope, u64, Parcel> {
    let (me, peers) = (scope.index(), scope.peers());
    let mut calls: HashMap<u64, Vec<Option<Piece>>> = HashMap::new();
    parts.unary::<NoopBuilder<Parcel>, _, _, _>(to_owner(), "add", move |_, _| {
        move |input, output| {
            input.for_each(|stamp, parcel| {
                let (Some(piece), Some(capability)) = (parcel.take(), stamp.retain_least(0)) else { return };
                let call = piece.call;
                let parts = calls.entry(call).or_insert_with(|| (0..peers).map(|_| None).collect());
                let from = piece.from;
                parts[from] = Some(piece);
                if parts.iter().any(Option::is_none) {
                    return;
                }
                let parts: Vec<Piece> = calls.remove(&call).into_iter().flatten().flatten().collect();
                let mut session = output.session_with_builder(&capability);
                for piece in total(call, &parts, me, peers) {
                    session.give_container(&mut Parcel::of(piece));
                }
            });
        }
    })
}

/// What a rank makes of the pieces of a call: a sum for all, or an answer for itself.
fn total(call: u64, parts: &[Piece], me: usize, peers: usize) -> Vec<Piece> {
    let first = &parts[0];
    let mine = |kind, bytes: Vec<u8>| {
        vec![Piece { call, kind, from: me, to: me, total: first.total, payload: Payload::Bytes(Arc::new(bytes)) }]
    };
    if let Some(other) = parts.iter().find(|part| (part.kind, part.total) != (first.kind, first.total)) {
        let (rank, first, other) = (other.from, first.describe(), other.describe());
        return mine(Kind::Trouble, format!("rank 0 gives {first}, rank {rank} gives {other}").into_bytes());
    }
    match first.kind {
        Kind::Slice => {
            let mut sum = first.payload.floats();
            for part in &parts[1..] {
                part.payload.add_to(&mut sum);
            }
            let (length, sum) = (sum.len(), Arc::new(sum));
            let to_all = |to| Piece {
                call,
                kind: Kind::Sum,
                from: me,
                to,
                total: first.total,
                payload: Payload::Floats(sum.clone(), 0..length),
            };
            (0..peers).map(to_all).collect()
        }
        Kind::Values => {
            let mut sums = vec![0.0f64; first.total];
            for part in parts {
                sums.iter_mut().zip(part.payload.doubles()).for_each(|(sum, value)| *sum += value);
            }
            mine(Kind::Values, sums.iter().flat_map(|sum| sum.to_le_bytes()).collect())
        }
        kind => mine(kind, first.payload.bytes().to_vec()),
    }
}

/// Hands every complete answer to whoever waits for it.
fn answers(sums: Stream<'_, u64, Parcel>, me: usize, peers: usize, waiting: Waiting) {
    let mut slices: HashMap<u64, Vec<Option<Piece>>> = HashMap::new();
    sums.sink(to_owner(), "answers", move |(input, _)| {
        input.for_each(|_, parcel| {
            let Some(piece) = parcel.take() else { return };
            debug_assert_eq!(piece.to, me, "pieces come where they are sent");
            let call = piece.call;
            let answer = match piece.kind {
                Kind::Values => Answer::Values(piece.payload.doubles().collect()),
                Kind::Bytes => Answer::Bytes(piece.payload.bytes().to_vec()),
                Kind::Slice | Kind::Trouble | Kind::Rows | Kind::End => {
                    Answer::OutOfStep(String::from_utf8_lossy(piece.payload.bytes()).into_owned())
                }
                Kind::Sum => {
                    let found = slices.entry(call).or_insert_with(|| (0..peers).map(|_| None).collect());
                    let from = piece.from;
                    found[from] = Some(piece);
                    if found.iter().any(Option::is_none) {
                        return;
                    }
                    let found = slices.remove(&call).into_iter().flatten().flatten();
                    Answer::Bucket(found.flat_map(|piece| piece.payload.floats()).collect())
                }
            };
            if let Some(waits) = waiting.borrow_mut().remove(&call) {
                // Who has given up waiting wants no answer.
                let _gone = waits.send(answer);
            }
        });
    });
}

#[cfg(test)]
mod tests;
