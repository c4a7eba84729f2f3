//! The errors edge: rejected recordings become rows of the quarantine when their shard is complete.

use std::sync::Arc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;

use super::control::Fatal;
use super::tracks::Error;
use crate::quarantine::Quarantine;

pub(crate) fn quarantine<'scope>(
    errors: StreamVec<'scope, u64, Error>,
    quarantine: Arc<Quarantine>,
    fatal: Fatal,
) -> StreamVec<'scope, u64, ()> {
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
