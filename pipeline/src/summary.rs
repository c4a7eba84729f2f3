//! What a run did, as a table and as JSON.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use omar_schemas::units::Bytes;
use omar_stages::ops::probe::Probe;
use omar_stages::{Scope, StageKind};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::codebooks::{self, CodebookHealth};
use crate::corpus::Standing;
use crate::evaluation;
use crate::exec::codes::CodeTotals;
use crate::exec::second::Retried;
use crate::metrics::NodeCounts;
use crate::plan::{Plan, StopIf};
use crate::progress::{Monitor, TrainingState, clock, hours};
use crate::quarantine::{self, RejectClass};
use crate::run_folder::RunFolder;
use crate::training::live::percent;

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the graph.
    pub name: String,
    /// Stopped from outside, after a clean commit.
    pub interrupted: bool,
    /// Wall time in seconds.
    pub wall_s: f64,
    /// How the corpus stood to the caches when the run began.
    pub corpus: Standing,
    /// Recordings in the corpus.
    pub tracks: u64,
    /// Shards in the corpus.
    pub shards: usize,
    /// Recordings in the quarantine.
    pub rejected: u64,
    /// By class.
    pub rejects: Vec<RejectClass>,
    /// Recordings that nodes with `on_error: drop` gave up on, by class.
    pub dropped: Vec<RejectClass>,
    /// What became of recordings whose rejection the caches remembered, if they were tried again.
    pub retried: Option<Retried>,
    /// How many rejections are too many, if the graph says so.
    pub stop_if: Option<StopIf>,
    /// In the order of the graph.
    pub nodes: Vec<NodeSummary>,
    /// The node that the others waited for.
    pub bottleneck: Option<String>,
    /// How the codes of the corpus are used, per codebook.
    pub codebooks: Vec<CodebookHealth>,
    /// Where the run's files are.
    pub folder: Option<PathBuf>,
}

/// What a node did.
#[derive(Debug, Clone, Serialize)]
pub struct NodeSummary {
    /// Name of the node.
    pub node: String,
    /// Stage.
    pub stage: String,
    /// Its counters.
    #[serde(flatten)]
    pub counts: NodeCounts,
    /// Where its cached rows are.
    pub cache: Option<PathBuf>,
    /// The last training step.
    pub training: Option<TrainingState>,
    /// The rows that a stage which sees the whole corpus gave, but for lists of numbers.
    pub results: Vec<Map<String, Value>>,
    /// Files that it writes for other graphs, once it is done.
    pub written: Vec<PathBuf>,
}

impl Summary {
    pub(crate) fn new(
        plan: &Plan,
        monitor: &Monitor,
        codes: &CodeTotals,
        corpus: Standing,
        folder: Option<&RunFolder>,
        interrupted: bool,
        wall: Duration,
    ) -> Self {
        let nodes: Vec<NodeSummary> = plan
            .nodes
            .iter()
            .enumerate()
            .map(|(index, node)| NodeSummary {
                node: node.id.clone(),
                stage: node.stage_name.to_owned(),
                counts: monitor.counts(index),
                cache: monitor.course.stores[index].as_ref().map(|store| store.folder().to_owned()),
                training: monitor.training(index),
                results: monitor.results(index),
                written: node.stage.writes(),
            })
            .collect();
        // Track-level nodes share the pool; a corpus stage has a thread (and, inside candle, the pool's cores).
        let load = |index: usize| match plan.nodes[index].scope {
            Scope::Corpus { .. } => nodes[index].counts.busy_s,
            _ => nodes[index].counts.busy_s / plan.resources.thread_count() as f64,
        };
        let busiest = (0..nodes.len()).max_by(|&a, &b| load(a).total_cmp(&load(b)));
        Self {
            name: plan.name.clone(),
            interrupted,
            wall_s: wall.as_secs_f64(),
            corpus,
            tracks: monitor.course.corpus.tracks() as u64,
            shards: monitor.course.corpus.shards.len(),
            rejected: monitor.quarantine.count(),
            rejects: monitor.quarantine.classes(),
            dropped: monitor.quarantine.dropped(),
            retried: None,
            stop_if: plan.stop_if,
            bottleneck: busiest.filter(|&index| load(index) > 0.0).map(|index| nodes[index].node.clone()),
            codebooks: codebooks::of_run(plan, codes),
            folder: folder.map(|folder| folder.path().to_owned()),
            nodes,
        }
    }

    /// More recordings were rejected than the graph allows; or, where it does not say, more than half: the corpus is
    /// hardly what it was meant to be.
    pub fn too_many_rejects(&self) -> bool {
        let dropped: u64 = self.dropped.iter().map(|class| class.count).sum();
        match self.stop_if.filter(|stop_if| self.tracks >= stop_if.after) {
            Some(stop_if) => stop_if.is_tripped(self.rejected + dropped, self.tracks),
            None => 2 * self.rejected > self.tracks,
        }
    }

    /// The closing report.
    pub fn to_table(&self) -> String {
        let mut rows = vec![
            ["node", "stage", "busy s", "rows", "cached", "audio", "rejected", "in memory", "on disk"]
                .map(str::to_owned),
        ];
        for node in &self.nodes {
            let counts = &node.counts;
            let dash = |text: String, shown: bool| if shown { text } else { "-".to_owned() };
            let cached = format!("{}/{} shards", counts.shards_cached, self.shards);
            rows.push([
                node.node.clone(),
                node.stage.clone(),
                format!("{:.2}", counts.busy_s),
                counts.rows_out.to_string(),
                dash(cached, node.cache.is_some()),
                dash(hours(counts.audio_s), counts.audio_s > 0.0),
                dash(counts.rejected.to_string(), counts.rejected > 0),
                dash(Bytes(counts.bytes_out).to_string(), counts.bytes_out > 0),
                dash(Bytes(counts.bytes_committed).to_string(), counts.bytes_committed > 0),
            ]);
        }
        let mut text = align(&rows);
        if !self.codebooks.is_empty() {
            let _infallible = write!(text, "\n{}", codebooks::table(&self.codebooks));
        }
        for node in self.nodes.iter().filter(|node| !node.results.is_empty() && node.stage != Probe::NAME) {
            let _infallible = write!(text, "\n{}", results(&node.results));
        }
        text += &self.evaluations();
        let _infallible = writeln!(text, "\n{}", self.closing());
        text
    }

    /// What probes found, a table per task.
    fn evaluations(&self) -> String {
        let found = self.folder.as_ref().and_then(|folder| evaluation::of_run(folder).ok()).unwrap_or_default();
        evaluation::table::of_tasks(&found).iter().map(|table| format!("\n{table}")).collect()
    }

    fn closing(&self) -> String {
        let mut lines = Vec::new();
        let ended = if self.interrupted { "stopped cleanly" } else { "done" };
        let bottleneck = self.bottleneck.as_ref().map(|node| format!("; bottleneck: {node}")).unwrap_or_default();
        let dropped: u64 = self.dropped.iter().map(|class| class.count).sum();
        let dropped = if dropped > 0 { format!(", {dropped} dropped") } else { String::new() };
        lines.push(format!(
            "{ended} in {}: {} tracks in {} shards, {} rejected{dropped}{bottleneck}",
            clock(self.wall_s),
            self.tracks,
            self.shards,
            self.rejected
        ));
        lines.extend(quarantine::lines(&self.rejects));
        if !self.dropped.is_empty() {
            lines.push("dropped:".to_owned());
            lines.extend(quarantine::lines(&self.dropped));
        }
        lines.extend(self.retried.map(|retried| retried.to_string()));
        for node in &self.nodes {
            if let Some(state) = &node.training {
                let times = state.accuracy / state.chance;
                lines.push(format!(
                    "{}: step {}/{}, loss {:.3}, accuracy {:.1} % ({times:.0} times chance)",
                    node.node,
                    state.step,
                    state.steps,
                    state.loss,
                    state.accuracy * 100.0
                ));
                if let Some((loss, accuracy)) = state.valid {
                    let (accuracy, chance) = (percent(accuracy), percent(state.chance));
                    let unigram = state.unigram.map(|share| format!("unigram {}, ", percent(share)));
                    let unigram = unigram.unwrap_or_default();
                    let held =
                        format!("held-out crops: loss {loss:.3}, accuracy {accuracy} ({unigram}chance {chance})");
                    lines.push(format!("{}: {held}", node.node));
                }
            }
            if node.cache.is_some() && node.counts.shards_committed == 0 && node.counts.shards_cached > 0 {
                lines.push(format!("{}: all {} shards were cached", node.node, node.counts.shards_cached));
            }
        }
        lines.extend(codebooks::warnings(&self.codebooks));
        for node in self.nodes.iter().filter(|node| node.cache.is_some()) {
            let path = node.cache.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            lines.push(format!("{}: {path}", node.node));
        }
        for node in self.nodes.iter().filter(|node| !node.results.is_empty()) {
            lines.extend(node.written.iter().map(|path| format!("{}: {}", node.node, path.display())));
        }
        lines.extend(self.folder.as_ref().map(|folder| format!("run folder: {}", folder.display())));
        lines.join("\n")
    }
}

/// Rows that a stage gave, as a table.
fn results(rows: &[Map<String, Value>]) -> String {
    let Some(first) = rows.first() else { return String::new() };
    let cell = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.5}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    };
    let header: Vec<String> = first.keys().map(|name| name.replace('_', " ")).collect();
    let lines = std::iter::once(header).chain(rows.iter().map(|row| row.values().map(cell).collect()));
    align(&lines.collect::<Vec<Vec<String>>>())
}

/// Columns padded to equal width: the first two, names, to the left, numbers to the right.
pub(crate) fn align<R: AsRef<[String]>>(rows: &[R]) -> String {
    let width = |column: usize| rows.iter().map(|row| row.as_ref()[column].chars().count()).max().unwrap_or(0);
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .as_ref()
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}
