//! Seeing what a run does, while it does it and afterwards.
//!
//! | file | does |
//! |---|---|
//! | [`record`] | what is known of a process at one moment |
//! | [`mod@observe`] | looks: makes a record of a run in this process |
//! | [`file`] | `live-I.jsonl` in the folder of a run: a record of process `I` every second |
//! | [`read`] | reads these files |
//! | [`load`] | records of all processes to one table: shares, rates, the bottleneck |
//! | [`table`] | the lines that `top`, and the watchdog, show |
//! | [`tree`] | the lines that `explain` shows |
//! | [`watchdog`] | says so when nothing moves |
//! | [`prometheus`] | the same numbers for Prometheus |
//! | [`serve`] | answers its requests |
//!
//! [`Observer`] is the thread that looks, once a second, and feeds all of these.

pub(crate) mod file;
pub(crate) mod load;
pub(crate) mod observe;
pub(crate) mod prometheus;
pub(crate) mod read;
pub(crate) mod record;
pub mod serve;
pub(crate) mod table;
pub(crate) mod tree;
pub(crate) mod watchdog;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::exec::RunError;
use file::LiveFile;
use observe::View;
use record::State;
pub use serve::Listener;
use serve::Server;
pub use watchdog::Patience;
use watchdog::{Watchdog, append};

/// How often a record is made.
const EVERY: Duration = Duration::from_secs(1);

/// How often the thread wakes up, so that a short watchdog is kept and the end is noticed.
const TICK: Duration = Duration::from_millis(50);

/// Environment variable with the run folder, for processes that see it in another place.
const FOLDER: &str = "OMAR_FLOW_RUN_FOLDER";

/// How a run lets itself be watched.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// Where Prometheus may ask.
    pub metrics: Option<Listener>,
    /// How long nothing may move before the watchdog says so; `None` for never.
    pub watchdog: Option<Duration>,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { metrics: None, watchdog: Some(Duration::from_secs(60)) }
    }
}

/// Looks at a run until it is told how the run ended.
pub(crate) struct Observer {
    view: Arc<View>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Option<LiveFile>>>,
    _server: Option<Server>,
}

impl Observer {
    /// Begins to look. `folder` is that of the run, if this process may write there.
    pub(crate) fn start(view: View, options: &LiveOptions, folder: Option<&Path>) -> Self {
        let view = Arc::new(view);
        let over = Arc::new(AtomicBool::new(false));
        let server = options.metrics.as_ref().map(|listener| Server::start(listener.clone(), view.clone()));
        let file = folder.and_then(|folder| match LiveFile::open(folder, view.process()) {
            Ok(file) => Some(file),
            Err(error) => {
                view.monitor.say(&format!("note: `omar-flow top` cannot show this run: {error}"));
                None
            }
        });
        let log = folder.map(|folder| folder.join(format!("watchdog-{}.log", view.process())));
        let watchdog = options.watchdog.map(Watchdog::new);
        let (looks, flag) = (view.clone(), over.clone());
        let builder = std::thread::Builder::new().name("observer".to_owned());
        let thread = builder.spawn(move || observe(&looks, file, watchdog, log, &flag)).ok();
        Self { view, over, thread, _server: server }
    }

    /// The run has ended: the last record says how.
    pub(crate) fn finish(mut self, outcome: Result<(), &RunError>, interrupted: bool) {
        self.over.store(true, Ordering::Release);
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        let Ok(Some(mut file)) = thread.join() else { return };
        let mut record = self.view.record();
        (record.state, record.error) = match outcome {
            Ok(()) if interrupted => (State::Interrupted, None),
            Ok(()) => (State::Complete, None),
            Err(error) => (State::Failed, Some(error.to_string())),
        };
        record.left_s = None;
        // Whether the run went well does not hang on this line.
        let _unwritten = file.append(&record);
    }
}

fn observe(
    view: &View,
    mut file: Option<LiveFile>,
    mut watchdog: Option<Watchdog>,
    log: Option<PathBuf>,
    over: &AtomicBool,
) -> Option<LiveFile> {
    let mut written: Option<Instant> = None;
    while !over.load(Ordering::Acquire) {
        let moved = view.look();
        if let Some(alarm) = watchdog.as_mut().and_then(|watchdog| watchdog.look(&moved)) {
            let text = watchdog::text(&alarm, &view.record(), &view.situation());
            view.monitor.say(&text);
            if let Some(Err(error)) = log.as_ref().map(|log| append(log, &text)) {
                view.monitor.say(&format!("note: the watchdog has no log: {error}"));
            }
        }
        if written.is_none_or(|at| at.elapsed() >= EVERY) {
            written = Some(Instant::now());
            if let Some(Err(error)) = file.as_mut().map(|file| file.append(&view.record())) {
                view.monitor.say(&format!("note: `omar-flow top` will not see more of this run: {error}"));
                file = None;
            }
        }
        std::thread::park_timeout(TICK);
    }
    file
}

/// The folder that a process writes its records to: that of the run if it owns it, else the one that it was told of by
/// people, else the one that the first process has, if it can see it. On a disk of its own it has a folder there, where it
/// is seen alone.
pub(crate) fn folder(own: Option<&Path>, first: Option<PathBuf>, apart: Option<&Path>) -> Option<PathBuf> {
    let told = || std::env::var_os(FOLDER).map(PathBuf::from).filter(|folder| folder.is_dir());
    let alone = || apart.filter(|folder| std::fs::create_dir_all(folder).is_ok()).map(Path::to_owned);
    own.map(Path::to_owned).or_else(told).or(first).or_else(alone)
}

/// What a thread that panicked left behind a lock is still as true as it was.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_on_a_disk_of_its_own_is_seen_there() {
        let disk = tempfile::tempdir().expect("a folder");
        let (first, own) = (disk.path().join("first"), disk.path().join("runs/own"));
        assert_eq!(folder(Some(&first), None, Some(&own)), Some(first.clone()));
        assert_eq!(folder(None, Some(first.clone()), Some(&own)), Some(first));
        assert!(!own.exists(), "only where it is needed");
        assert_eq!(folder(None, None, Some(&own)), Some(own.clone()));
        assert!(own.is_dir());
    }
}
