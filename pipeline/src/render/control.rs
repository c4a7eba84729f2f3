//! "Stop, because ...": one error ends all workers, and so does a wish to stop that reached one process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use timely::dataflow::InputHandle;
use timely::dataflow::operators::vec::Broadcast;
use timely::dataflow::operators::{Input, Inspect};
use timely::worker::Worker;

use crate::exec::RunError;
use crate::stop::Stop;

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

/// What goes round.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Word {
    /// Somebody asked one process to stop: finish and commit what has been begun.
    Stop,
    /// One cannot go on, for this reason.
    Fatal(String),
}

/// A worker's end of the control dataflow. It is a dataflow of its own because a capability held in the data dataflow
/// would hold back that one's frontier.
pub(crate) struct Control {
    input: InputHandle<u64, timely::container::CapacityContainerBuilder<Vec<Word>>>,
    fatal: Fatal,
    stop: Stop,
    said_fatal: bool,
    said_stop: bool,
}

impl Control {
    pub(crate) fn install(worker: &mut Worker, fatal: Fatal, stop: Stop) -> Self {
        let heard = (fatal.clone(), stop.clone());
        let hear = move |word: &Word| match word {
            Word::Stop => heard.1.request(),
            Word::Fatal(reason) => heard.0.set(RunError::Failed(reason.clone())),
        };
        let input = worker.dataflow_named::<u64, _, _>("control", |scope| {
            let (input, stream) = scope.new_input::<Vec<Word>>();
            stream.broadcast().inspect(hear);
            input
        });
        Self { input, fatal, stop, said_fatal: false, said_stop: false }
    }

    /// Tells the other workers about an error of this process, or that it was asked to stop.
    pub(crate) fn relay(&mut self) {
        if !self.said_stop && self.stop.is_requested() {
            self.said_stop = true;
            self.say(Word::Stop);
        }
        if !self.said_fatal
            && let Some(reason) = self.fatal.text()
        {
            self.said_fatal = true;
            self.say(Word::Fatal(reason));
        }
    }

    fn say(&mut self, word: Word) {
        self.input.send(word);
        self.input.flush();
    }
}
