//! Emits the shards that this worker owns, epoch by epoch, within the window.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};
use timely::scheduling::activate::Activator;

use super::control::Fatal;
use crate::exec::RunError;
use crate::exec::shards::{Course, ShardTask};
use crate::stop::Stop;

/// How often a source that waits looks again, whatever it is told.
const POLL: Duration = Duration::from_millis(20);

/// An epoch of this worker: its shard, or `None` when nobody wants anything of it.
pub(crate) type Epoch = (u64, Option<Arc<ShardTask>>);

/// How far ahead a worker may be.
#[derive(Clone)]
pub(crate) struct Window {
    /// Of the slowest sink of all workers, in epochs; `None` where nobody waits for the epochs to come in order.
    pub(crate) global: Option<u64>,
    /// Of itself: epochs that it has begun and is not through with.
    pub(crate) own: u64,
    /// How many it is through with.
    pub(crate) ended: Rc<Cell<u64>>,
}

/// Tells a source that what it waits for may have come.
#[derive(Clone, Default)]
pub(crate) struct Bell(Rc<OnceCell<Activator>>);

impl Bell {
    pub(crate) fn ring(&self) {
        if let Some(source) = self.0.get() {
            source.activate();
        }
    }
}

/// The place of a worker: every so many epochs of its process are its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Among the workers of its process.
    pub(crate) worker: u64,
    pub(crate) workers: u64,
    /// Processes among which the epochs are dealt out.
    pub(crate) processes: u64,
}

impl Place {
    fn takes(self, epoch: u64) -> bool {
        epoch / self.processes % self.workers == self.worker
    }
}

pub(crate) fn shards<'scope>(
    scope: Scope<'scope, u64>,
    course: Arc<Course>,
    probe: ProbeHandle<u64>,
    (window, place): (Window, Place),
    bell: Bell,
    stop: Stop,
    fatal: Fatal,
) -> StreamVec<'scope, u64, Epoch> {
    let mine = move |course: &Course, epoch: u64| place.takes(epoch) && course.owns(epoch);
    source::<_, CapacityContainerBuilder<Vec<Epoch>>, _, _>(scope, "shards", move |capability, info| {
        let activator = scope.activator_for(info.address.clone());
        let _first = bell.0.set(scope.activator_for(info.address));
        let mut begun = 0;
        let mut epoch = course.first_epoch();
        while !mine(&course, epoch) {
            epoch += 1;
        }
        let mut capability = Some(capability);
        if let Some(capability) = &mut capability {
            capability.downgrade(&epoch);
        }
        move |output| {
            let Some(held) = &mut capability else { return };
            loop {
                let ahead = |global| probe.with_frontier(|low| low.first().is_none_or(|&low| epoch < low + global));
                let within = window.global.is_none_or(ahead) && begun - window.ended.get() < window.own;
                let pass = course.position(epoch).pass;
                // A stage that got nothing from a whole pass would get nothing for ever, so the second pass waits
                // until the first has brought something or is through. And what an earlier pass is about to commit
                // is replayed, not computed again.
                let through = !probe.less_than(&(u64::from(pass) * course.corpus.shards.len() as u64));
                let early = (pass > 0 && course.is_first_bite_pending()) || course.is_uncommitted(epoch);
                let waits = !within || (early && !through);
                course.network.traffic.close_window(waits);
                if waits {
                    activator.activate_after(POLL);
                    return;
                }
                if stop.is_requested() || fatal.is_set() {
                    break;
                }
                let next = course.wants_pass(pass).and_then(|wanted| match wanted {
                    true => course.task(epoch).map(Some),
                    false => Ok(None),
                });
                match next {
                    Ok(Some(task)) => output.session(&held).give((epoch, task.map(Arc::new))),
                    Ok(None) => break,
                    Err(error) => {
                        fatal.set(RunError::Failed(error.to_string()));
                        break;
                    }
                }
                begun += 1;
                epoch += 1;
                while !mine(&course, epoch) {
                    epoch += 1;
                }
                held.downgrade(&epoch);
            }
            capability = None;
        }
    })
}
