//! "Stop, because ...": one error ends all workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect};
use timely::worker::Worker;

use crate::exec::RunError;

/// The first error of a run.
#[derive(Clone, Default)]
pub(crate) struct Fatal(Arc<Inner>);

#[derive(Default)]
struct Inner {
    set: AtomicBool,
    error: Mutex<Option<RunError>>,
}

impl Fatal {
    /// Reports an error; the first one is kept.
    pub(crate) fn set(&self, error: RunError) {
        self.0.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.0.set.store(true, Ordering::Release);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> Option<RunError> {
        self.0.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn text(&self) -> Option<String> {
        self.0.error.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(ToString::to_string)
    }
}

/// A worker's end of the control dataflow. It is a dataflow of its own because a capability held in the data dataflow
/// would hold back that one's frontier.
pub(crate) struct Control {
    input: InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<String>>>,
    fatal: Fatal,
    sent: bool,
}

impl Control {
    pub(crate) fn install(worker: &mut Worker, fatal: Fatal) -> Self {
        let heard = fatal.clone();
        let input = worker.dataflow_named::<u64, _, _>("control", |scope| {
            let (input, stream) = scope.new_input::<Vec<String>>();
            stream.broadcast().inspect(move |reason| heard.set(RunError::Failed(reason.clone())));
            input
        });
        Self { input, fatal, sent: false }
    }

    /// Tells the other workers about an error of this process.
    pub(crate) fn relay(&mut self) {
        if !self.sent
            && let Some(reason) = self.fatal.text()
        {
            self.sent = true;
            self.input.send(reason);
            self.input.flush();
        }
    }
}
