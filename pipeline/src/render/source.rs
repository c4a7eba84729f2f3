//! Emits the shards that this worker owns, epoch by epoch, within the window.

use std::sync::Arc;
use std::time::Duration;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{ProbeHandle, Scope, StreamVec};

use super::control::Fatal;
use crate::exec::RunError;
use crate::exec::shards::{Course, ShardTask};
use crate::stop::Stop;

/// How often a source that waits for the window looks again.
const POLL: Duration = Duration::from_millis(2);

/// An epoch of this worker: its shard, or `None` when nobody wants anything of it.
pub(crate) type Epoch = (u64, Option<Arc<ShardTask>>);

pub(crate) fn shards<'scope>(
    scope: Scope<'scope, u64>,
    course: Arc<Course>,
    probe: ProbeHandle<u64>,
    window: u64,
    stop: Stop,
    fatal: Fatal,
) -> StreamVec<'scope, u64, Epoch> {
    let (me, peers) = (scope.index() as u64, scope.peers() as u64);
    source::<_, CapacityContainerBuilder<Vec<Epoch>>, _, _>(scope, "shards", move |capability, info| {
        let activator = scope.activator_for(info.address);
        let first = course.first_epoch();
        let mut epoch = first + (me + peers - first % peers) % peers;
        let mut capability = Some(capability);
        if let Some(capability) = &mut capability {
            capability.downgrade(&epoch);
        }
        move |output| {
            let Some(held) = &mut capability else { return };
            loop {
                let within = probe.with_frontier(|frontier| frontier.first().is_none_or(|&low| epoch < low + window));
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
                epoch += peers;
                held.downgrade(&epoch);
            }
            capability = None;
        }
    })
}
