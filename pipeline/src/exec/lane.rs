//! A lane carries one recording after the other through the track-level nodes of a graph.
//!
//! Batches go depth first: what an operator emits is processed before it is asked for more, so a two-hour file passes
//! through decode, resample, crop, features and tokenize in blocks of a second or two. A lane can stop between any two
//! blocks: when its outbox is full, or its recording is to be tried again after a pause, it is put aside and continued
//! later, so no thread ever waits inside it.

pub(crate) mod again;

use std::any::Any;
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use omar_schemas::TrackId;
use omar_stages::{Meeting, Operator, Output, Progress, Rejection, StageError};

use self::again::Tries;
use super::align::Align;
use super::network::{Mode, Network};
use super::traffic::{Hand, Owner};
use super::{Message, RejectedTrack, RunError, ShardTask};
use crate::plan::OnError;

/// See the module.
pub(crate) struct Lane {
    network: Arc<Network>,
    operators: Vec<Option<Box<dyn Operator>>>,
    align: Vec<Align>,
    work: Vec<Work>,
    task: Option<(Arc<ShardTask>, usize)>,
    tries: Tries,
    outbox: VecDeque<Message>,
    outbox_bytes: usize,
    hand: Arc<Hand>,
}

/// Why a lane stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Advance {
    /// The recording is complete.
    Complete,
    /// The outbox is full, or the run is halted.
    Full,
    /// The recording is tried again, at this time.
    Pauses(Instant),
}

/// What is left to do for the current recording; the last element is done first.
enum Work {
    /// Hand this source its recording.
    Begin(usize),
    /// Emit this node's rows from the cache.
    Replay(usize),
    /// These rows left this node: bring them to its consumers.
    Deliver(usize, RecordBatch),
    /// Hand this node an aligned batch per port.
    Push(usize, Vec<RecordBatch>),
    /// All that this node gets of the recording is there.
    Gather(usize),
    /// This node has more to give.
    Resume(usize),
    /// This node's inputs are complete.
    Flush(usize),
}

impl Lane {
    pub(crate) fn new(network: Arc<Network>) -> Self {
        let count = network.nodes.len();
        let align = network.nodes.iter().map(|node| Align::new(node.inputs.len(), node.stage.meeting())).collect();
        let hand = network.traffic.hand(Owner::Lane);
        Self {
            network,
            operators: (0..count).map(|_| None).collect(),
            align,
            work: Vec::new(),
            task: None,
            tries: Tries::default(),
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            hand,
        }
    }

    /// The nodes that it carries recordings through.
    pub(super) fn network(&self) -> &Arc<Network> {
        &self.network
    }

    /// Takes on recording `track` of a shard.
    pub(crate) fn start(&mut self, shard: Arc<ShardTask>, track: usize) {
        debug_assert!(self.task.is_none() && self.work.is_empty(), "a lane carries one recording at a time");
        self.tries = Tries::default();
        self.begin(shard, track);
    }

    fn begin(&mut self, shard: Arc<ShardTask>, track: usize) {
        for (index, mode) in shard.modes.iter().enumerate().rev() {
            let node = &self.network.nodes[index];
            if *mode != Mode::Compute {
                continue;
            }
            if !node.is_corpus() {
                self.work.push(Work::Flush(index));
            }
            if node.stage.meeting() == Meeting::Recordings {
                self.work.push(Work::Gather(index));
            }
        }
        for (index, mode) in shard.modes.iter().enumerate().rev() {
            match mode {
                Mode::Replay => self.work.push(Work::Replay(index)),
                Mode::Compute if self.network.nodes[index].inputs.is_empty() => self.work.push(Work::Begin(index)),
                _ => {}
            }
        }
        let path = shard.origin(track).1;
        self.hand.take(format!("`{path}` (shard {})", shard.shard.name));
        self.hand.wait(self.work.last().map(Work::node));
        self.task = Some((shard, track));
    }

    /// Works until the recording is complete, the outbox holds `limit` bytes, or there is to be a pause. Leaves off between
    /// any two blocks when the run is `halted`.
    ///
    /// # Errors
    /// What must end the run.
    pub(crate) fn advance(&mut self, limit: usize, halted: &dyn Fn() -> bool) -> Result<Advance, RunError> {
        while self.outbox_bytes < limit && !halted() {
            let Some(work) = self.work.pop() else {
                self.finish(None);
                return self.network.breaker.check().map(|()| Advance::Complete);
            };
            let index = work.node();
            let started = Instant::now();
            self.hand.enter(index, started);
            let outcome = catch_unwind(AssertUnwindSafe(|| self.perform(work)));
            let network = self.network.clone();
            let node = &network.nodes[index];
            node.metrics.busy(started.elapsed());
            let mut rejection = match outcome {
                Ok(Ok(None)) => continue,
                Ok(Ok(Some(rejection))) => rejection,
                Ok(Err(source)) => return Err(RunError::Stage { node: node.id.clone(), source }),
                Err(panic) => Rejection::new("internal", format!("the stage panicked: {}", panic_text(&*panic))),
            };
            if let Some(due) = self.tries_again(index, &mut rejection) {
                return Ok(Advance::Pauses(due));
            }
            if node.on_error == OnError::Fail {
                let path = self.origin().1;
                return Err(RunError::Rejected { node: node.id.clone(), path, reason: rejection });
            }
            node.metrics.reject();
            self.finish(Some((index, rejection)));
            return self.network.breaker.check().map(|()| Advance::Complete);
        }
        self.hand.wait(self.work.last().map(Work::node));
        Ok(Advance::Full)
    }

    /// Takes what has been produced so far, with its size.
    pub(crate) fn drain(&mut self) -> (VecDeque<Message>, usize) {
        (std::mem::take(&mut self.outbox), std::mem::take(&mut self.outbox_bytes))
    }

    fn perform(&mut self, work: Work) -> Result<Option<Rejection>, StageError> {
        match work {
            Work::Begin(node) => {
                let (shard, track) = self.current();
                let Some(row) = shard.recording(node, track, &self.network.nodes[node].schema)? else {
                    return Ok(None);
                };
                self.operate(node, |operator, out| operator.push(0, &row, out))
            }
            Work::Replay(node) => {
                let (shard, track) = self.current();
                let rows = shard.replay(node, track)?;
                let network = self.network.clone();
                for batch in rows.into_iter().rev() {
                    network.nodes[node].metrics.replayed(&batch);
                    self.work.push(Work::Deliver(node, batch));
                }
                Ok(None)
            }
            Work::Deliver(node, batch) => self.deliver(node, &batch).map(|()| None),
            Work::Push(node, batches) => {
                let network = self.network.clone();
                let last = batches.len() - 1;
                self.operate(node, |operator, out| {
                    let mut progress = Progress::Idle;
                    for (port, batch) in batches.iter().enumerate() {
                        network.nodes[node].metrics.took(batch);
                        progress = operator.push(port, batch, out)?;
                        debug_assert!(port == last || progress == Progress::Idle, "only the last port completes a row");
                    }
                    Ok(progress)
                })
            }
            Work::Gather(node) => {
                let network = self.network.clone();
                let inputs = network.nodes[node].inputs.iter();
                let schemas: Vec<_> = inputs.map(|producer| network.nodes[*producer].schema.clone()).collect();
                if let Some(batches) = self.align[node].gather(&schemas)? {
                    self.hand_over(node, batches);
                }
                Ok(None)
            }
            Work::Resume(node) => self.operate(node, |operator, out| operator.resume(out)),
            Work::Flush(node) => match self.operators[node] {
                Some(_) => self.operate(node, |operator, out| operator.flush(out).map(|()| Progress::Idle)),
                None => Ok(None),
            },
        }
    }

    /// Brings rows to the outbox, where they are wanted, and to the consumers.
    fn deliver(&mut self, node: usize, batch: &RecordBatch) -> Result<(), StageError> {
        let (shard, _) = self.current();
        if shard.modes[node] == Mode::Compute && shard.keep[node] {
            self.post(Message::Rows { node, batch: batch.clone() }, batch.get_array_memory_size());
        }
        let network = self.network.clone();
        let first = self.work.len();
        for &(consumer, port) in &network.nodes[node].consumers {
            if shard.modes[consumer] != Mode::Compute {
                continue;
            }
            for batches in self.align[consumer].push(port, batch.clone())? {
                self.hand_over(consumer, batches);
            }
        }
        self.work[first..].reverse();
        Ok(())
    }

    /// Brings what met at the ports of a node to it.
    fn hand_over(&mut self, node: usize, batches: Vec<RecordBatch>) {
        if self.network.nodes[node].is_corpus() {
            let bytes = batches.iter().map(RecordBatch::get_array_memory_size).sum();
            self.post(Message::Crops { node, batches }, bytes);
        } else {
            self.work.push(Work::Push(node, batches));
        }
    }

    /// Calls an operator, starting it if need be, and queues what it emits.
    fn operate(
        &mut self,
        node: usize,
        call: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<Progress, StageError>,
    ) -> Result<Option<Rejection>, StageError> {
        let network = self.network.clone();
        let description = &network.nodes[node];
        // The operator is out of its place while it works: if it panics, it is gone, and the next recording gets a
        // fresh one.
        let mut operator = match self.operators[node].take() {
            Some(operator) => operator,
            None => description.stage.start(&description.context)?,
        };
        let mut collected = Collected::default();
        let progress = call(operator.as_mut(), &mut collected)?;
        self.operators[node] = Some(operator);
        if let Some(rejection) = collected.rejected {
            return Ok(Some(rejection));
        }
        if progress == Progress::Pending {
            self.work.push(Work::Resume(node));
        }
        for batch in collected.emitted.into_iter().rev() {
            description.metrics.emitted(&batch);
            self.work.push(Work::Deliver(node, batch));
        }
        Ok(None)
    }

    /// Ends the recording. After a rejection operators may be in the middle of something, so they are dropped.
    fn finish(&mut self, rejected: Option<(usize, Rejection)>) {
        self.align.iter_mut().for_each(Align::clear);
        if rejected.is_some() {
            self.work.clear();
            self.operators.iter_mut().for_each(|operator| *operator = None);
        }
        let (track_id, path) = self.origin();
        let (shard, _) = self.task.take().expect("a lane finishes what it started");
        let rejected = rejected.map(|(index, reason)| {
            let node = &self.network.nodes[index];
            let dropped = node.on_error == OnError::Drop;
            RejectedTrack {
                track_id,
                path,
                node: node.id.clone(),
                stage: node.stage_name.to_owned(),
                class: reason.class.to_owned(),
                message: reason.message,
                shard: shard.shard.name.clone(),
                dropped,
            }
        });
        self.network.breaker.count(shard.position, rejected.as_ref());
        self.network.traffic.through(shard.epoch);
        self.hand.rest();
        self.outbox.push_back(Message::End { rejected });
    }

    fn post(&mut self, message: Message, bytes: usize) {
        if self.tries.was_posted() {
            return;
        }
        self.outbox_bytes += bytes;
        self.outbox.push_back(message);
    }

    fn current(&self) -> (Arc<ShardTask>, usize) {
        let (shard, track) = self.task.as_ref().expect("work belongs to a recording");
        (shard.clone(), *track)
    }

    fn origin(&self) -> (TrackId, String) {
        let (shard, track) = self.current();
        shard.origin(track)
    }
}

impl Work {
    fn node(&self) -> usize {
        match self {
            Self::Begin(node)
            | Self::Replay(node)
            | Self::Deliver(node, _)
            | Self::Push(node, _)
            | Self::Gather(node)
            | Self::Resume(node)
            | Self::Flush(node) => *node,
        }
    }
}

/// What an operator hands out during one call.
#[derive(Default)]
struct Collected {
    emitted: Vec<RecordBatch>,
    rejected: Option<Rejection>,
}

impl Output for Collected {
    fn emit(&mut self, batch: RecordBatch) {
        self.emitted.push(batch);
    }

    fn reject(&mut self, _track: TrackId, reason: Rejection) {
        self.rejected.get_or_insert(reason);
    }
}

thread_local! {
    static PANIC_PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// Makes panics inside operators quiet: they become rejections or the error of the run. The place is kept for
/// [`panic_text`].
pub(crate) fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        PANIC_PLACE.set(info.location().map(ToString::to_string));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "full") {
            eprintln!("{info}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}

/// What a caught panic said, and where.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let place = PANIC_PLACE.take().map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{}{place}", text.unwrap_or("no message"))
}
