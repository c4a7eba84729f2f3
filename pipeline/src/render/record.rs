//! Rows to parquet. The operator passes them to a writer thread and holds back the frontier until the shard is
//! committed.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::activate::SyncActivator;

use super::control::Fatal;
use super::tracks::Item;
use super::{Link, Seat};
use crate::exec::RunError;
use crate::exec::codes::Change;
use crate::exec::lane::panic_text;
use crate::exec::shards::ShardTask;
use crate::exec::sinks::Recorder;
use crate::exec::traffic::Queue;

/// Messages that may wait for the writer thread; their bytes are bounded by the budget of `tracks`.
const QUEUE: usize = 256;

/// What a shard changes in the counts of the codes.
pub(crate) type Counted = (Arc<ShardTask>, Vec<Change>);

/// A shard is written.
struct Written {
    epoch: u64,
    counted: Option<Counted>,
}

/// The worker's ends of the channels to the writer thread.
pub(crate) struct Outbox {
    link: Link<Item, Written>,
    wake: Sender<SyncActivator>,
}

/// Starts the writer thread of a seat.
pub(crate) fn spawn(mut recorder: Recorder, seat: &mut Seat, fatal: Fatal) {
    let (to, items) = bounded(QUEUE);
    let (acknowledge, from) = unbounded();
    let (wake, waker) = bounded(1);
    let queue = recorder.traffic().queue(None);
    seat.record = Some(Outbox { link: Link { to, from, queue: queue.clone() }, wake });
    let builder = std::thread::Builder::new().name("writer".to_owned());
    let run = move || {
        let written = catch_unwind(AssertUnwindSafe(|| write(&mut recorder, &items, &queue, &acknowledge, &waker)));
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => fatal.set(error),
            Err(panic) => fatal.set(RunError::Failed(format!("the writer panicked: {}", panic_text(&*panic)))),
        }
    };
    builder.spawn(run).expect("the system starts a thread");
}

fn write(
    recorder: &mut Recorder,
    items: &Receiver<Item>,
    queue: &Queue,
    acknowledge: &Sender<Written>,
    waker: &Receiver<SyncActivator>,
) -> Result<(), RunError> {
    let Ok(wake) = waker.recv() else { return Ok(()) };
    let mut open = None;
    for item in items {
        queue.leave();
        // An operator that found the queue full waits for this: on the way from full to empty it comes past.
        if items.len() == QUEUE / 2 {
            let _gone = wake.activate();
        }
        match item {
            Item::Message { task, message, permit } => {
                if open != Some(task.epoch) {
                    recorder.open(&task)?;
                    open = Some(task.epoch);
                }
                recorder.take(&task, message)?;
                drop(permit);
            }
            Item::End { epoch, task } => {
                let counted = match task {
                    Some(task) => Some((task.clone(), recorder.close(&task)?)),
                    None => None,
                };
                // Fails only when the worker has gone.
                if acknowledge.send(Written { epoch, counted }).is_ok() {
                    let _gone = wake.activate();
                }
            }
        }
    }
    Ok(())
}

/// The operator. Its output carries what a shard changes in the counts of the codes, and its frontier says what is
/// committed.
pub(crate) fn record<'scope>(
    scope: Scope<'scope, u64>,
    rows: StreamVec<'scope, u64, Item>,
    outbox: Outbox,
) -> StreamVec<'scope, u64, Counted> {
    let Outbox { link, wake } = outbox;
    rows.unary::<CapacityContainerBuilder<Vec<Counted>>, _, _, _>(Pipeline, "record", move |_, info| {
        let _first = wake.send(scope.worker().sync_activator_for(info.address.to_vec()));
        let mut relay = Relay::new(link);
        move |input, output| {
            input.for_each(|stamp, items| {
                for item in items.drain(..) {
                    relay.queue(item, || stamp.retain_least(0));
                }
            });
            relay.pump(|written, capability| {
                if let Some(counted) = written.counted.filter(|(_, changes)| !changes.is_empty()) {
                    output.session(capability).give(counted);
                }
            });
        }
    })
}

/// Passes items from an operator to a thread through a bounded channel, never blocking, and holds a capability for
/// every epoch until the thread has acknowledged its end.
pub(crate) struct Relay<Item, Back> {
    link: Option<Link<Item, Back>>,
    queue: VecDeque<Item>,
    held: BTreeMap<u64, Capability<u64>>,
}

/// Belongs to an epoch: an item, or the answer that its end has been seen.
pub(crate) trait Epochal {
    /// Which one.
    fn epoch(&self) -> u64;
}

impl Epochal for u64 {
    fn epoch(&self) -> u64 {
        *self
    }
}

impl Epochal for Item {
    fn epoch(&self) -> u64 {
        match self {
            Self::Message { task, .. } => task.epoch,
            Self::End { epoch, .. } => *epoch,
        }
    }
}

impl Epochal for Written {
    fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl<Item: Epochal, Back: Epochal> Relay<Item, Back> {
    pub(crate) fn new(link: Link<Item, Back>) -> Self {
        Self { link: Some(link), queue: VecDeque::new(), held: BTreeMap::new() }
    }

    pub(crate) fn queue(&mut self, item: Item, capability: impl FnOnce() -> Option<Capability<u64>>) {
        let epoch = item.epoch();
        if !self.held.contains_key(&epoch)
            && let Some(capability) = capability()
        {
            self.held.insert(epoch, capability);
        }
        self.queue.push_back(item);
        if let Some(link) = &self.link {
            link.queue.join();
        }
    }

    /// Moves what can be moved. Where the channel is full, the thread at its other end wakes the operator in time.
    pub(crate) fn pump(&mut self, mut acknowledged: impl FnMut(Back, &Capability<u64>)) {
        let Some(link) = &self.link else { return };
        while let Ok(back) = link.from.try_recv() {
            if let Some(capability) = self.held.remove(&back.epoch()) {
                acknowledged(back, &capability);
            }
        }
        link.queue.fill(false);
        while let Some(item) = self.queue.pop_front() {
            match link.to.try_send(item) {
                Ok(()) => {}
                Err(TrySendError::Full(item)) => {
                    link.queue.fill(true);
                    self.queue.push_front(item);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    // The thread ended, which it does early only with an error that stops the run.
                    self.link = None;
                    self.queue.clear();
                    return;
                }
            }
        }
    }
}
