//! Crops to the stages that see the whole corpus. Each has one owner thread per process, which holds its operator and
//! all its device state, and reads the epochs in order whichever worker they come from.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use omar_stages::Position;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::{Scope, StreamVec};
use timely::scheduling::activate::SyncActivator;

use super::control::Fatal;
use super::feed::Permit;
use super::record::{Epochal, Relay};
use super::{Link, Seat};
use crate::exec::RunError;
use crate::exec::corpus::CorpusRunner;
use crate::exec::lane::panic_text;
use crate::exec::traffic::Queue;
use crate::stop::Stop;

/// What goes to a corpus stage.
pub(crate) enum CropItem {
    /// Aligned crops, one batch per port.
    Crops { epoch: u64, position: Position, batches: Vec<RecordBatch>, permit: Option<Permit> },
    /// All of an epoch has been seen.
    End { epoch: u64 },
}

impl Epochal for CropItem {
    fn epoch(&self) -> u64 {
        match self {
            Self::Crops { epoch, .. } | Self::End { epoch } => *epoch,
        }
    }
}

/// Batches that may wait for the owner thread.
const QUEUE: usize = 8;

/// A worker's ends of the channels to an owner thread.
pub(crate) struct Outbox {
    link: Link<CropItem, u64>,
    wake: Sender<SyncActivator>,
}

/// The owner's ends of the channels to one worker.
pub(crate) struct Inbox {
    items: Receiver<CropItem>,
    acknowledge: Sender<u64>,
    wake: Receiver<SyncActivator>,
    queue: Arc<Queue>,
}

/// Connects a seat to an owner.
pub(crate) fn inbox(queue: Arc<Queue>, seat: &mut Seat) -> Inbox {
    let (to, items) = bounded(QUEUE);
    let (acknowledge, from) = unbounded();
    let (wake, waker) = bounded(1);
    seat.corpora.push(Outbox { link: Link { to, from, queue: queue.clone() }, wake });
    Inbox { items, acknowledge, wake: waker, queue }
}

/// A thread that owns a corpus stage.
pub(crate) struct Owner(JoinHandle<()>);

impl Owner {
    pub(crate) fn spawn(
        mut runner: CorpusRunner,
        inboxes: Vec<Inbox>,
        first_epoch: u64,
        fatal: Fatal,
        stop: Stop,
    ) -> Self {
        let builder = std::thread::Builder::new().name("corpus".to_owned());
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                consume(&mut runner, &inboxes, first_epoch, &fatal, &stop)?;
                if fatal.is_set() || stop.is_requested() { runner.interrupt() } else { runner.finish() }
            }));
            match outcome {
                Ok(Ok(())) => {}
                Ok(Err(error)) => fatal.set(error),
                Err(panic) => fatal.set(RunError::Failed(format!("a corpus stage panicked: {}", panic_text(&*panic)))),
            }
        };
        Self(builder.spawn(run).expect("the system starts a thread"))
    }

    pub(crate) fn join(self) {
        // The thread catches its own panics.
        let _ended = self.0.join();
    }
}

/// Reads epochs in order: epoch `e` comes through inbox `e mod inboxes`, and an inbox brings its epochs in order.
fn consume(
    runner: &mut CorpusRunner,
    inboxes: &[Inbox],
    first_epoch: u64,
    fatal: &Fatal,
    stop: &Stop,
) -> Result<(), RunError> {
    let wakes: Vec<Option<SyncActivator>> = inboxes.iter().map(|inbox| inbox.wake.recv().ok()).collect();
    let mut open = vec![true; inboxes.len()];
    let mut epoch = first_epoch;
    while open.contains(&true) && !fatal.is_set() {
        let from = (epoch % inboxes.len() as u64) as usize;
        while open[from] {
            let waiting = Instant::now();
            let received = inboxes[from].items.recv_timeout(Duration::from_millis(100));
            runner.waited(waiting.elapsed());
            if received.is_ok() {
                inboxes[from].queue.leave();
            }
            match received {
                Ok(CropItem::Crops { position, batches, permit, .. }) => {
                    if !stop.is_requested() {
                        runner.push(position, &batches)?;
                    }
                    drop(permit);
                }
                Ok(CropItem::End { epoch: ended }) => {
                    debug_assert!(ended == epoch || stop.is_requested(), "epochs of a worker come in order");
                    if inboxes[from].acknowledge.send(ended).is_ok()
                        && let Some(wake) = &wakes[from]
                    {
                        let _gone = wake.activate();
                    }
                    break;
                }
                Err(RecvTimeoutError::Timeout) if fatal.is_set() => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open[from] = false,
            }
            // An operator that found the queue full waits for this: on the way from full to empty it comes past.
            if let Some(wake) = wakes[from].as_ref().filter(|_| inboxes[from].items.len() == QUEUE / 2) {
                let _gone = wake.activate();
            }
        }
        epoch += 1;
    }
    Ok(())
}

/// The operator. Its output carries nothing: its frontier says what has been consumed. Without an outbox no crops come.
pub(crate) fn corpus<'scope>(
    scope: Scope<'scope, u64>,
    crops: StreamVec<'scope, u64, CropItem>,
    outbox: Option<Outbox>,
) -> StreamVec<'scope, u64, ()> {
    crops.unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "corpus", move |_, info| {
        let mut relay = outbox.map(|Outbox { link, wake }| {
            let _first = wake.send(scope.worker().sync_activator_for(info.address.to_vec()));
            Relay::new(link)
        });
        move |input, _output| {
            let Some(relay) = &mut relay else { return input.for_each(|_, items| items.clear()) };
            input.for_each(|stamp, items| {
                for item in items.drain(..) {
                    relay.queue(item, || stamp.retain_least(0));
                }
            });
            relay.pump(|_, _| ());
        }
    })
}
