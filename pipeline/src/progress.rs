//! What a run is doing, while it does it.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{Float64Array, RecordBatch, UInt64Array};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use omar_schemas::{Edge, Metrics, column};
use serde_json::{Map, Value};

use crate::exec::shards::Course;
use crate::metrics::NodeCounts;
use crate::plan::Plan;
use crate::quarantine::Quarantine;
use crate::results::{Latest, Newest, scalars};
use crate::run::TICK;

/// Looks into a run.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub(crate) course: Arc<Course>,
    pub(crate) quarantine: Arc<Quarantine>,
    ids: Arc<Vec<String>>,
    latest: Arc<Vec<Latest>>,
    tracks: u64,
    started: Instant,
}

/// The newest training step.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct TrainingState {
    /// Steps done.
    pub step: u64,
    /// Steps to do.
    pub steps: u64,
    /// Loss of the newest row, in nats.
    pub loss: f64,
    /// Accuracy of the newest row.
    pub accuracy: f64,
    /// Accuracy of guessing.
    pub chance: f64,
    /// Seconds of training in this process.
    pub elapsed_s: f64,
    /// Loss and accuracy of the last evaluation on held-out crops.
    pub valid: Option<(f64, f64)>,
}

impl Monitor {
    pub(crate) fn new(plan: &Plan, course: Arc<Course>, latest: Vec<Latest>, quarantine: Arc<Quarantine>) -> Self {
        let ids = Arc::new(plan.nodes.iter().map(|node| node.id.clone()).collect());
        let tracks = course.corpus.shards.iter().map(|shard| shard.tracks.len() as u64).sum();
        Self { course, quarantine, ids, latest: Arc::new(latest), tracks, started: Instant::now() }
    }

    pub(crate) fn counts(&self, node: usize) -> NodeCounts {
        self.course.network.nodes[node].metrics.counts()
    }

    pub(crate) fn tracks(&self) -> u64 {
        self.tracks
    }

    /// The newest training step of a node, if it trains and has begun to.
    pub(crate) fn training(&self, node: usize) -> Option<TrainingState> {
        let latest = self.latest[node].lock().unwrap_or_else(PoisonError::into_inner).clone();
        training_state(&latest)
    }

    /// The rows that a corpus stage gave, if they are no training metrics.
    pub(crate) fn results(&self, node: usize) -> Vec<Map<String, Value>> {
        let latest = self.latest[node].lock().unwrap_or_else(PoisonError::into_inner);
        latest.get("").map(scalars).unwrap_or_default()
    }

    /// One line per node that has done something.
    fn lines(&self) -> Vec<(String, String)> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let line = |node: usize| (self.ids[node].clone(), self.line(node, elapsed));
        (0..self.ids.len()).map(line).collect()
    }

    fn line(&self, node: usize, elapsed: f64) -> String {
        if let Some(state) = self.training(node) {
            return state.line();
        }
        let counts = self.counts(node);
        if counts.rows_out + counts.rows_cached + counts.shards_cached + counts.rejected == 0 {
            return "waiting".to_owned();
        }
        let mut parts = vec![format!("{} rows", counts.rows_out)];
        if counts.rows_out == 0 && counts.shards_cached > 0 {
            parts = vec![format!("{}/{} shards cached", counts.shards_cached, self.course.corpus.shards.len())];
        }
        if counts.rows_cached > 0 {
            parts.push(format!("{} from the cache", counts.rows_cached));
        }
        if counts.audio_s > 0.0 {
            parts.push(format!("{} of audio", hours(counts.audio_s)));
            parts.push(format!("{:.0} audio-s/s", counts.audio_s / elapsed.max(1e-3)));
        }
        if counts.rejected > 0 {
            parts.push(format!("{} rejected", counts.rejected));
        }
        if counts.shards_committed > 0 {
            parts.push(format!(
                "{}/{} shards",
                counts.shards_committed + counts.shards_cached,
                self.course.corpus.shards.len()
            ));
        }
        parts.join(", ")
    }

    /// The run as a whole: recordings of the first pass, and how long it will take.
    fn overall(&self) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        let done = self.course.network.finished().min(self.tracks);
        let training = (0..self.ids.len()).find_map(|node| self.training(node));
        let left = match training {
            Some(state) if state.step > 0 => {
                Some((state.steps - state.step) as f64 * state.elapsed_s / state.step.max(1) as f64)
            }
            None if done > 0 => Some((self.tracks - done) as f64 * elapsed / done as f64),
            _ => None,
        };
        let eta = left.map(|seconds| format!(", about {} left", clock(seconds))).unwrap_or_default();
        format!("{done}/{} tracks, {}{eta}", self.tracks, clock(elapsed))
    }
}

impl TrainingState {
    fn line(&self) -> String {
        let rate = self.step as f64 / self.elapsed_s.max(1e-3);
        format!(
            "step {}/{}, loss {:.3}, accuracy {:.1} % (chance {:.2} %), {rate:.2} steps/s",
            self.step,
            self.steps,
            self.loss,
            self.accuracy * 100.0,
            self.chance * 100.0
        )
    }
}

/// Reads the newest rows of metrics.
fn training_state(latest: &Newest) -> Option<TrainingState> {
    let batch = latest.get("train")?;
    let row = batch.num_rows().checked_sub(1)?;
    let spec = Metrics::spec(&batch.schema()).ok()?;
    let read = |batch: &RecordBatch, name, row| Some(column::<Float64Array>(batch, name).ok()?.value(row));
    let number = |name| read(batch, name, row);
    let valid = latest.get("valid").and_then(|batch| {
        let row = batch.num_rows().checked_sub(1)?;
        Some((read(batch, "loss", row)?, read(batch, "accuracy", row)?))
    });
    Some(TrainingState {
        valid,
        step: column::<UInt64Array>(batch, "step").ok()?.value(row),
        steps: spec.steps,
        loss: number("loss")?,
        accuracy: number("accuracy")?,
        chance: spec.chance,
        elapsed_s: number("elapsed_s")?,
    })
}

/// `1.5 h`, `12 min`, `8 s`.
pub(crate) fn hours(seconds: f64) -> String {
    match seconds {
        s if s >= 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.1} min", s / 60.0),
        s => format!("{s:.0} s"),
    }
}

/// `1:02:03` or `2:03`.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if h > 0 { format!("{h}:{m:02}:{s:02}") } else { format!("{m}:{s:02}") }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reporter {
    /// Not at all.
    #[default]
    Silent,
    /// A line now and then.
    Lines,
    /// Live lines, redrawn.
    Bars,
}

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(5);

impl Reporter {
    /// Live lines on a terminal, plain ones elsewhere.
    pub fn for_stderr() -> Self {
        if std::io::stderr().is_terminal() { Self::Bars } else { Self::Lines }
    }

    /// Says something once, before the run.
    pub(crate) fn note(self, line: &str) {
        if self != Self::Silent {
            eprintln!("{line}");
        }
    }

    /// Shows a run until the display is dropped.
    pub(crate) fn spawn(self, monitor: Monitor) -> Option<Display> {
        if self == Self::Silent {
            return None;
        }
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let show = move || if self == Self::Bars { bars(&monitor, &flag) } else { lines(&monitor, &flag) };
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok()?;
        Some(Display { over, thread: Some(thread) })
    }
}

/// A progress display; dropping it ends it.
pub(crate) struct Display {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Display {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _shown = thread.join();
        }
    }
}

fn lines(monitor: &Monitor, over: &AtomicBool) {
    let mut shown = Instant::now();
    while !over.load(Ordering::Acquire) {
        std::thread::park_timeout(TICK);
        if shown.elapsed() < LINE_EVERY {
            continue;
        }
        shown = Instant::now();
        eprintln!("[{}]", monitor.overall());
        for (id, line) in monitor.lines().into_iter().filter(|(_, line)| line != "waiting") {
            eprintln!("  {id}: {line}");
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("templates are constants")
}

fn bars(monitor: &Monitor, over: &AtomicBool) {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    let width = monitor.ids.iter().map(String::len).max().unwrap_or(0);
    let bar = |template: &str| all.add(ProgressBar::new_spinner()).with_style(style(template));
    let nodes: Vec<ProgressBar> = monitor.ids.iter().map(|_| bar("  {prefix:.bold} {msg}")).collect();
    let total = bar("{spinner} {msg}");
    while !over.load(Ordering::Acquire) {
        for (bar, (id, line)) in nodes.iter().zip(monitor.lines()) {
            bar.set_prefix(format!("{id:>width$}"));
            bar.set_message(line);
        }
        total.set_message(monitor.overall());
        total.tick();
        std::thread::park_timeout(TICK);
    }
    let _cleared = all.clear();
}
