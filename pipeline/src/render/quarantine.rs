//! The errors edge: rejected recordings become rows of the quarantine when their shard is complete. Where the corpus is
//! divided among processes, all of them go to the first one.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::operators::{Concat, Exchange};
use timely::dataflow::{Scope, StreamVec};

use super::control::Fatal;
use super::tracks::Error;
use crate::exec::shards::Course;
use crate::quarantine::Quarantine;

/// The epoch of what the caches remember.
const REMEMBERED: u64 = u64::MAX;

/// Rejections that the caches of this process remember, from the first of its workers.
pub(crate) fn remembered(scope: Scope<'_, u64>, course: Arc<Course>, first: bool) -> StreamVec<'_, u64, Error> {
    let me = scope.index();
    source::<_, CapacityContainerBuilder<Vec<Error>>, _, _>(scope, "remembered", move |capability, _| {
        let mut capability = Some(capability).filter(|_| first);
        move |output| {
            let Some(capability) = capability.take() else { return };
            let shard = if me == 0 { "cached".to_owned() } else { format!("cached-{me}") };
            let mut session = output.session(&capability);
            for reject in course.remembered_rejects() {
                session.give((REMEMBERED, shard.clone(), Some(reject)));
            }
            session.give((REMEMBERED, shard, None));
        }
    })
}

/// Keeps rejections. `remembered` come before those of this run.
pub(crate) fn quarantine<'scope>(
    errors: StreamVec<'scope, u64, Error>,
    remembered: StreamVec<'scope, u64, Error>,
    divided: bool,
    quarantine: Arc<Quarantine>,
    fatal: Fatal,
) -> StreamVec<'scope, u64, ()> {
    let errors = errors.concat(remembered);
    let errors = if divided { errors.exchange(|_| 0) } else { errors };
    errors.unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "quarantine", move |_, _| {
        move |input, _output| {
            input.for_each(|_stamp, errors| {
                for (epoch, shard, reject) in errors.drain(..) {
                    let kept = match reject {
                        Some(reject) => quarantine.add(epoch, &reject),
                        None => quarantine.commit(epoch, &shard),
                    };
                    if let Err(error) = kept {
                        fatal.set(error);
                    }
                }
            });
        }
    })
}
