//! A run: what was asked for, what was done, how training went.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use arrow::array::{Array, Float64Array, RecordBatch, StringArray, UInt64Array};
use omar_schemas::units::Bytes;
use omar_schemas::{Codebooks, Edge, Metrics, Reject, TrackId, column};
use omar_stages::storage::{RejectRecord, StorageError, TrackFile, utc};
use serde::Serialize;
use serde_json::Value;

use super::InspectError;
use super::cells::short;
use super::dataset::{RejectClass, reject_classes, rejects_text};
use super::table::Table;
use crate::codebooks::{self, CodebookHealth};
use crate::evaluation;

/// How deep in a run folder metrics and checkpoints are looked for.
const DEPTH: usize = 4;

/// Columns of metrics that are shown.
const LOGGED: [&str; 7] = ["step", "split", "loss", "accuracy", "unigram", "crops", "elapsed_s"];

/// What a run folder holds.
#[derive(Debug, Serialize)]
pub(super) struct RunReport {
    folder: PathBuf,
    manifest: Value,
    summary: Option<Value>,
    codebooks: Vec<CodebookHealth>,
    rejects: Vec<RejectClass>,
    training: Vec<Training>,
    checkpoints: Vec<Checkpoint>,
    /// What probes found, as tables.
    evaluations: Vec<String>,
}

/// How the training of a node went.
#[derive(Debug, Serialize)]
struct Training {
    metrics: PathBuf,
    steps: u64,
    chance: f64,
    train: Option<Logged>,
    valid: Option<Logged>,
    best_valid: Option<Logged>,
}

/// One logged step.
#[derive(Debug, Clone, Copy, Serialize)]
struct Logged {
    step: u64,
    loss: f64,
    accuracy: f64,
    /// Accuracy of the best constant answer; known of held-out crops.
    unigram: Option<f64>,
    crops: u64,
    elapsed_s: f64,
}

#[derive(Debug, Serialize)]
struct Checkpoint {
    folder: PathBuf,
    bytes: u64,
    written_unix_s: u64,
}

impl RunReport {
    pub(super) fn read(folder: &Path) -> Result<Self, InspectError> {
        let manifest = json(&folder.join("manifest.json"))?;
        let manifest = manifest.ok_or_else(|| InspectError::Target {
            path: folder.join("manifest.json"),
            message: "expected the manifest of a run, found no JSON".to_owned(),
        })?;
        let mut report = Self {
            folder: folder.to_owned(),
            manifest,
            summary: json(&folder.join("summary.json"))?,
            codebooks: Vec::new(),
            rejects: Vec::new(),
            training: Vec::new(),
            checkpoints: Vec::new(),
            evaluations: evaluation::table::of_tasks(&evaluation::of_run(folder).unwrap_or_default()),
        };
        let mut rejects = Vec::new();
        report.walk(folder, DEPTH, &mut rejects)?;
        report.rejects = reject_classes(rejects.iter());
        Ok(report)
    }

    fn walk(&mut self, folder: &Path, depth: usize, rejects: &mut Vec<RejectRecord>) -> Result<(), InspectError> {
        let refused = |error| StorageError::io(folder, error);
        let entries = folder.read_dir().map_err(refused)?;
        let mut paths =
            entries.map(|entry| Ok(entry.map_err(refused)?.path())).collect::<Result<Vec<_>, StorageError>>()?;
        paths.sort();
        if paths.iter().any(|path| path.ends_with("state.json")) {
            let sizes = paths.iter().map(|path| path.metadata().map_err(|error| StorageError::io(path, error)));
            let metadata = sizes.collect::<Result<Vec<_>, _>>()?;
            let written =
                metadata.iter().filter_map(|file| file.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok());
            self.checkpoints.push(Checkpoint {
                folder: folder.to_owned(),
                bytes: metadata.iter().map(std::fs::Metadata::len).sum(),
                written_unix_s: written.map(|age| age.as_secs()).max().unwrap_or(0),
            });
            return Ok(());
        }
        let parquet: Vec<&PathBuf> =
            paths.iter().filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
        let mut training: Option<Training> = None;
        for path in parquet {
            let file = TrackFile::open(path)?;
            if let Ok(spec) = Metrics::spec(file.schema()) {
                let metrics = folder.to_owned();
                let (steps, chance) = (spec.steps, spec.chance);
                let log = training.get_or_insert(Training {
                    metrics,
                    steps,
                    chance,
                    train: None,
                    valid: None,
                    best_valid: None,
                });
                for batch in file.scan(Some(&LOGGED), None)? {
                    log.add(&batch?).map_err(|error| content(path, &error))?;
                }
            } else if Codebooks::spec(file.schema()).is_ok() {
                self.codebooks.extend(codebooks::read(path)?);
            } else if Reject::spec(file.schema()).is_ok() {
                for batch in file.scan(None, None)? {
                    rejects.extend(reject_records(&batch?).map_err(|error| content(path, &error))?);
                }
            }
        }
        self.training.extend(training);
        for path in paths.iter().filter(|path| depth > 0 && path.is_dir()) {
            self.walk(path, depth - 1, rejects)?;
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let mut out = format!("{}: a run of graph `{}`\n\n", self.folder.display(), scalar(&self.manifest["graph"]));
        for (name, value) in self.manifest.as_object().into_iter().flatten().filter(|(name, _)| *name != "graph") {
            let value = match (name.as_str(), value.as_u64()) {
                ("started" | "ended", Some(seconds)) => utc(seconds),
                _ => scalar(value),
            };
            let _ = writeln!(out, "  {name:<10} {value}");
        }
        if let Some(nodes) = self.summary.as_ref().and_then(|summary| summary["nodes"].as_array()) {
            let names = ["rows_out", "rows_cached", "rejected", "audio_s", "busy_s", "shards_committed"];
            let header = [
                "node",
                "stage",
                "rows>",
                "from cache>",
                "rejected>",
                "audio s>",
                "busy s>",
                "shards written>",
                "cache",
            ];
            let mut table = Table::new(&header);
            for node in nodes {
                let mut row = vec![scalar(&node["node"]), scalar(&node["stage"])];
                row.extend(names.map(|name| node[name].as_f64().map_or("-".to_owned(), short)));
                row.push(scalar(&node["cache"]));
                table.row(row);
            }
            let _ = write!(out, "\n{table}");
        }
        if !self.codebooks.is_empty() {
            let _ = write!(out, "\n{}", codebooks::table(&self.codebooks));
            codebooks::warnings(&self.codebooks).iter().for_each(|line| _ = writeln!(out, "{line}"));
        }
        if !self.training.is_empty() {
            let header =
                ["training", "", "step>", "of>", "loss>", "accuracy>", "unigram>", "chance>", "crops>", "hours>"];
            let mut table = Table::new(&header);
            for training in &self.training {
                let metrics = training.metrics.strip_prefix(&self.folder).unwrap_or(&training.metrics);
                for (what, logged) in
                    [("train", training.train), ("valid", training.valid), ("best valid", training.best_valid)]
                {
                    let Some(logged) = logged else { continue };
                    table.row(vec![
                        metrics.display().to_string(),
                        what.to_owned(),
                        logged.step.to_string(),
                        training.steps.to_string(),
                        format!("{:.4}", logged.loss),
                        format!("{:.4}", logged.accuracy),
                        logged.unigram.map_or("-".to_owned(), |share| format!("{share:.4}")),
                        short(training.chance),
                        logged.crops.to_string(),
                        format!("{:.2}", logged.elapsed_s / 3600.0),
                    ]);
                }
            }
            let _ = write!(out, "\n{table}");
        }
        if !self.checkpoints.is_empty() {
            let mut table = Table::new(&["checkpoint", "size>", "written"]);
            for Checkpoint { folder, bytes, written_unix_s } in &self.checkpoints {
                let folder = folder.strip_prefix(&self.folder).unwrap_or(folder).display().to_string();
                table.row(vec![folder, Bytes(*bytes).to_string(), utc(*written_unix_s)]);
            }
            let _ = write!(out, "\n{table}");
        }
        self.evaluations.iter().for_each(|table| out += &format!("\n{table}"));
        if !self.rejects.is_empty() {
            let _ = write!(out, "\n{}", rejects_text(&self.rejects));
        }
        out
    }
}

impl Training {
    fn add(&mut self, batch: &RecordBatch) -> Result<(), omar_schemas::SchemaError> {
        let numbers = |name| column::<Float64Array>(batch, name);
        let counts = |name| column::<UInt64Array>(batch, name);
        let (steps, crops) = (counts("step")?, counts("crops")?);
        let (loss, accuracy, elapsed) = (numbers("loss")?, numbers("accuracy")?, numbers("elapsed_s")?);
        let unigrams = numbers("unigram")?;
        let splits = column::<StringArray>(batch, "split")?;
        for row in 0..batch.num_rows() {
            let logged = Logged {
                step: steps.value(row),
                loss: loss.value(row),
                accuracy: accuracy.value(row),
                unigram: unigrams.is_valid(row).then(|| unigrams.value(row)),
                crops: crops.value(row),
                elapsed_s: elapsed.value(row),
            };
            if splits.value(row) == "train" {
                self.train = Some(logged);
                continue;
            }
            self.valid = Some(logged);
            if self.best_valid.is_none_or(|best| logged.loss < best.loss) {
                self.best_valid = Some(logged);
            }
        }
        Ok(())
    }
}

fn reject_records(batch: &RecordBatch) -> Result<Vec<RejectRecord>, omar_schemas::SchemaError> {
    let ids = column::<UInt64Array>(batch, "track_id")?;
    let [path, node, stage, class, message] =
        ["path", "node", "stage", "class", "message"].map(|name| column::<StringArray>(batch, name));
    let (path, node, stage, class, message) = (path?, node?, stage?, class?, message?);
    let record = |row| RejectRecord {
        track_id: TrackId(ids.value(row)),
        path: path.value(row).to_owned(),
        node: node.value(row).to_owned(),
        stage: stage.value(row).to_owned(),
        class: class.value(row).to_owned(),
        message: message.value(row).to_owned(),
    };
    Ok((0..batch.num_rows()).map(record).collect())
}

fn content(path: &Path, error: &omar_schemas::SchemaError) -> StorageError {
    StorageError::Content { path: path.to_owned(), message: error.to_string() }
}

fn json(path: &Path) -> Result<Option<Value>, StorageError> {
    match std::fs::read(path) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io(path, error)),
    }
}

/// A JSON value in a line of text.
fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
