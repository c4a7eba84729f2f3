//! What a run is doing, while it does it.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value};

use crate::exec::shards::Course;
use crate::metrics::NodeCounts;
use crate::plan::Plan;
use crate::quarantine::Quarantine;
use crate::results::{Latest, scalars};
use crate::run::TICK;
use crate::terminal;
use crate::training::TrainingLog;
use crate::training::live::{self, Look};

/// Rows of the terminal that are left free above the display, and those of a loss curve.
const FREE_ROWS: usize = 2;
const PLOT_ROWS: std::ops::RangeInclusive<usize> = 3..=8;
/// Columns and rows of a terminal that does not say how many it has.
const TERMINAL: (usize, usize) = (24, 80);

/// Looks into a run.
#[derive(Clone)]
pub(crate) struct Monitor {
    pub(crate) course: Arc<Course>,
    pub(crate) quarantine: Arc<Quarantine>,
    ids: Arc<Vec<String>>,
    /// By node: positions of a crop, if it trains.
    positions: Arc<Vec<Option<usize>>>,
    latest: Arc<Vec<Latest>>,
    started: Instant,
    /// What was said and waits for the display to show it; `None` while none redraws lines of stderr.
    said: Arc<Mutex<Option<Vec<String>>>>,
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
    /// Seconds of training, over all runs that continued each other.
    pub elapsed_s: f64,
    /// Loss and accuracy of the last evaluation on held-out crops.
    pub valid: Option<(f64, f64)>,
    /// What the best constant answer reaches on the same tokens.
    pub unigram: Option<f64>,
}

impl Monitor {
    pub(crate) fn new(plan: &Plan, course: Arc<Course>, latest: Vec<Latest>, quarantine: Arc<Quarantine>) -> Self {
        let ids = Arc::new(plan.nodes.iter().map(|node| node.id.clone()).collect());
        let positions = plan.nodes.iter().map(|node| Some(node.stage.estimate()?.positions)).collect();
        let (positions, latest) = (Arc::new(positions), Arc::new(latest));
        Self { course, quarantine, ids, positions, latest, started: Instant::now(), said: Arc::default() }
    }

    /// Says something on stderr, above what is redrawn there.
    pub(crate) fn say(&self, text: &str) {
        match &mut *self.said.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(waiting) => waiting.push(text.to_owned()),
            None => eprintln!("{text}"),
        }
    }

    /// What waits to be shown. From now on more of it waits if `redraws`, or is written at once.
    fn take_said(&self, redraws: bool) -> Vec<String> {
        let next = redraws.then(Vec::new);
        std::mem::replace(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner), next).unwrap_or_default()
    }

    pub(crate) fn counts(&self, node: usize) -> NodeCounts {
        self.course.network.nodes[node].metrics.counts()
    }

    /// The newest training step of a node, if it trains and has begun to.
    pub(crate) fn training(&self, node: usize) -> Option<TrainingState> {
        self.of_training(node, training_state)
    }

    fn of_training<T>(&self, node: usize, of: impl FnOnce(&TrainingLog) -> Option<T>) -> Option<T> {
        let latest = self.latest[node].lock().unwrap_or_else(PoisonError::into_inner);
        latest.training.as_ref().and_then(of)
    }

    /// The rows that a corpus stage gave, if they are no training metrics.
    pub(crate) fn results(&self, node: usize) -> Vec<Map<String, Value>> {
        let latest = self.latest[node].lock().unwrap_or_else(PoisonError::into_inner);
        latest.rows.as_ref().map(scalars).unwrap_or_default()
    }

    /// The lines of all trainings, drawn for a terminal.
    fn panel(&self, look: Look) -> Vec<String> {
        let of = |node: usize| self.of_training(node, |log| Some(live::lines(log, self.positions[node], look)));
        (0..self.ids.len()).filter_map(of).flatten().collect()
    }

    /// One line per node that has done something.
    fn lines(&self) -> Vec<(String, String)> {
        let elapsed = self.started.elapsed().as_secs_f64();
        let line = |node: usize| (self.ids[node].clone(), self.line(node, elapsed));
        (0..self.ids.len()).map(line).collect()
    }

    fn line(&self, node: usize, elapsed: f64) -> String {
        if let Some(line) = self.of_training(node, |log| live::line(log, self.positions[node])) {
            return line;
        }
        let counts = self.counts(node);
        if counts.rows_out + counts.rows_cached + counts.shards_cached + counts.rejected == 0 {
            return "waiting".to_owned();
        }
        let mut parts = vec![format!("{} rows", counts.rows_out)];
        if counts.rows_out == 0 && counts.shards_cached > 0 {
            parts = vec![format!("{}/{} shards cached", counts.shards_cached, self.course.own.shards)];
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
            parts.push(format!("{}/{} shards", counts.shards_committed + counts.shards_cached, self.course.own.shards));
        }
        parts.join(", ")
    }

    /// The run as a whole: recordings of the first pass, and how long it will take.
    fn overall(&self) -> String {
        let elapsed = self.started.elapsed().as_secs_f64();
        let done = self.tracks_done();
        let eta = self.left_s().map(|seconds| format!(", about {} left", clock(seconds))).unwrap_or_default();
        let (own, all) = (self.course.own.tracks, self.course.corpus.tracks() as u64);
        let others = if own < all { format!(" of this process, {all} of all") } else { String::new() };
        format!("{done}/{own} tracks{others}, {}{eta}", clock(elapsed))
    }
}

impl Monitor {
    /// Recordings of the first pass that are through.
    pub(crate) fn tracks_done(&self) -> u64 {
        let (through, skipped) = self.course.network.traffic.tracks_done();
        (through + skipped).min(self.course.own.tracks)
    }

    /// How long the run will take from now, if anything says so.
    pub(crate) fn left_s(&self) -> Option<f64> {
        let (through, skipped) = self.course.network.traffic.tracks_done();
        let left = self.course.own.tracks.saturating_sub(through + skipped);
        let trains = self.positions.iter().any(Option::is_some);
        let training = (0..self.ids.len()).find_map(|node| self.of_training(node, TrainingLog::left_s));
        match training {
            // A pass over the corpus says nothing about a training, which takes as many as it needs.
            None if through > 0 && !trains => Some(left as f64 * self.elapsed_s() / through as f64),
            left => left,
        }
    }

    /// Seconds since the run began.
    pub(crate) fn elapsed_s(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }
}

/// The newest rows of metrics.
fn training_state(log: &TrainingLog) -> Option<TrainingState> {
    let (train, valid) = (log.train.last()?, log.valid.last());
    Some(TrainingState {
        step: train.step,
        steps: log.spec.steps,
        loss: train.loss,
        accuracy: train.accuracy,
        chance: log.spec.chance,
        elapsed_s: train.elapsed_s,
        valid: valid.map(|valid| (valid.loss, valid.accuracy)),
        unigram: valid.and_then(|valid| valid.unigram),
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
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(8));
    let width = monitor.ids.iter().map(String::len).max().unwrap_or(0);
    let bar = |template: &str| all.add(ProgressBar::new_spinner()).with_style(style(template));
    let nodes: Vec<ProgressBar> = monitor.ids.iter().map(|_| bar("  {prefix:.bold} {msg}")).collect();
    let panel = bar("{msg}");
    let total = bar("{spinner} {msg}");
    let colour = terminal::colour();
    while !over.load(Ordering::Acquire) {
        for text in monitor.take_said(true) {
            let _shown = all.println(text);
        }
        // Asked every time: windows are resized.
        let (rows, columns) = terminal::size().unwrap_or(TERMINAL);
        let room = |text: &str, taken: usize| text.chars().take(columns.saturating_sub(taken)).collect::<String>();
        for ((node, bar), (id, line)) in nodes.iter().enumerate().zip(monitor.lines()) {
            bar.set_prefix(format!("{id:>width$}"));
            let shown = if monitor.training(node).is_some() { "training".to_owned() } else { room(&line, width + 4) };
            bar.set_message(shown);
        }
        panel.set_message(monitor.panel(look(rows, columns, nodes.len(), colour)).join("\n"));
        total.set_message(room(&monitor.overall(), 3));
        total.tick();
        std::thread::park_timeout(TICK);
    }
    let _cleared = all.clear();
    monitor.take_said(false).iter().for_each(|text| eprintln!("{text}"));
}

/// How a training is drawn beside the lines of `nodes`: with a curve where there is room for it.
fn look(rows: usize, columns: usize, nodes: usize, colour: bool) -> Look {
    // Text of the training, axis of the curve, the line of the whole run.
    let taken = nodes + 6 + 1 + 1 + FREE_ROWS;
    let left = rows.saturating_sub(taken);
    let plot_rows = if left < *PLOT_ROWS.start() { 0 } else { left.min(*PLOT_ROWS.end()) };
    Look { width: columns.saturating_sub(1), plot_rows, colour }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_drawn_where_there_is_room() {
        assert_eq!(look(50, 120, 7, false).plot_rows, 8);
        assert_eq!(look(21, 120, 7, false).plot_rows, 4);
        assert_eq!(look(15, 120, 7, false).plot_rows, 0);
        assert_eq!(look(0, 0, 7, false).width, 0);
    }

    #[test]
    fn times_are_short() {
        assert_eq!([8.0, 125.0, 5400.0].map(hours), ["8 s", "2.1 min", "1.5 h"]);
        assert_eq!([61.4, 3723.0].map(clock), ["1:01", "1:02:03"]);
    }
}
