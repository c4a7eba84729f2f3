//! `report.html`: a run on one page that needs nothing else, for people; and `curves.svg`, its first chart alone.
//!
//! | file | does |
//! |---|---|
//! | here | reads a run folder, writes the page |
//! | [`page`] | the page |
//! | [`chart`] | curves over steps |
//! | [`evaluation`] | what probes found |
//! | [`timeline`] | spectrograms with annotations and answers over time |
//! | [`crops`] | held-out crops with tokens, masks and answers |
//! | [`png`] | pixels to PNG |
//!
//! It is made from the files of the folder alone, so it can be made again, and while a run is under way.

mod chart;
mod crops;
mod evaluation;
mod page;
mod png;
mod timeline;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::StringArray;
use omar_schemas::column;
use omar_stages::ops::dataset::DATASET_FILE;
use omar_stages::storage::{EXAMPLES_FILE, PredictedCrops, StorageError, TrackFile};
use serde_json::Value;

use self::evaluation::Spectrograms;
use crate::codebooks::{self, CodebookHealth};
use crate::evaluation::Evaluation;
use crate::files::{WriteError, write_text};
use crate::results::RESULTS;
use crate::training::TrainingLog;

/// Names of the files in a run folder.
pub(crate) const PAGE_FILE: &str = "report.html";
const CURVES_FILE: &str = "curves.svg";
/// Examples of a class of rejects.
const EXAMPLES: usize = 3;

/// A report cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The folder is something else.
    #[error("`{}` is not the folder of a run: it has no manifest.json", .0.display())]
    NoRun(PathBuf),
    /// A file cannot be read.
    #[error(transparent)]
    Read(#[from] StorageError),
    /// The report cannot be written.
    #[error("{0}")]
    Write(String),
}

impl From<WriteError> for ReportError {
    fn from(error: WriteError) -> Self {
        Self::Write(error.to_string())
    }
}

/// What is known of a run.
#[derive(Debug)]
struct Run {
    folder: PathBuf,
    manifest: Value,
    plan: Value,
    summary: Value,
    codebooks: Vec<CodebookHealth>,
    rejects: BTreeMap<String, Rejects>,
    trainings: Vec<Training>,
    evaluations: Vec<Evaluation>,
    spectrograms: Spectrograms,
    /// What `dataset` nodes found, by node.
    datasets: Vec<(String, Value)>,
}

/// Rejected recordings of a class.
#[derive(Debug, Default)]
struct Rejects {
    count: u64,
    /// Path and message of the first few.
    examples: Vec<(String, String)>,
}

/// The training of a node.
#[derive(Debug)]
struct Training {
    node: String,
    log: TrainingLog,
    examples: Option<PredictedCrops>,
}

/// Writes the report of a run into its folder, in place of an older one, and returns its path.
///
/// # Errors
/// When the folder is not that of a run, a file in it cannot be read, or the report cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ReportError> {
    let run = Run::read(folder)?;
    crate::evaluation::write(folder, &run.evaluations)?;
    let path = folder.join(PAGE_FILE);
    write_text(&path, &page::page(&run))?;
    if let Some(curves) = run.trainings.first().and_then(page::curves) {
        write_text(&folder.join(CURVES_FILE), &curves)?;
    }
    Ok(path)
}

impl Run {
    fn read(folder: &Path) -> Result<Self, ReportError> {
        let manifest = json(&folder.join("manifest.json"))?.ok_or_else(|| ReportError::NoRun(folder.to_owned()))?;
        let plan = json(&folder.join("plan.json"))?.unwrap_or_default();
        let nodes = plan["nodes"].as_array().into_iter().flatten().filter_map(|node| node["id"].as_str());
        let nodes: Vec<String> = nodes.map(str::to_owned).collect();
        let mut trainings = Vec::new();
        for node in &nodes {
            let of_node = folder.join(node);
            if let Some(log) = TrainingLog::read(&of_node.join(RESULTS))? {
                let examples = PredictedCrops::read(&of_node.join(EXAMPLES_FILE))?;
                trainings.push(Training { node: node.clone(), log, examples });
            }
        }
        let evaluations = crate::evaluation::read(folder, &nodes)?;
        Ok(Self {
            manifest,
            plan,
            summary: json(&folder.join("summary.json"))?.unwrap_or_default(),
            codebooks: codebooks::read(&folder.join(codebooks::TABLE_FILE))?,
            rejects: rejects(&folder.join("quarantine"))?,
            trainings,
            spectrograms: evaluation::spectrograms(folder, &evaluations)?,
            evaluations,
            datasets: datasets(folder, &nodes)?,
            // The same page wherever it is asked for from.
            folder: std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned()),
        })
    }

    fn rejected(&self) -> u64 {
        self.rejects.values().map(|class| class.count).sum()
    }
}

/// The descriptions that `dataset` nodes left.
fn datasets(folder: &Path, nodes: &[String]) -> Result<Vec<(String, Value)>, StorageError> {
    let mut found = Vec::new();
    for node in nodes {
        found.extend(json(&folder.join(node).join(DATASET_FILE))?.map(|description| (node.clone(), description)));
    }
    Ok(found)
}

/// The quarantine by class.
fn rejects(folder: &Path) -> Result<BTreeMap<String, Rejects>, StorageError> {
    let mut classes: BTreeMap<String, Rejects> = BTreeMap::new();
    let Ok(entries) = folder.read_dir() else { return Ok(classes) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    paths.sort();
    for path in paths {
        let content =
            |error: omar_schemas::SchemaError| StorageError::Content { path: path.clone(), message: error.to_string() };
        for batch in TrackFile::open(&path)?.scan(Some(&["path", "class", "message"]), None)? {
            let batch = batch?;
            let [paths, names, messages] =
                ["path", "class", "message"].map(|name| column::<StringArray>(&batch, name).map_err(content));
            let (paths, names, messages) = (paths?, names?, messages?);
            for row in 0..batch.num_rows() {
                let class = classes.entry(names.value(row).to_owned()).or_default();
                class.count += 1;
                if class.examples.len() < EXAMPLES {
                    class.examples.push((paths.value(row).to_owned(), messages.value(row).to_owned()));
                }
            }
        }
    }
    Ok(classes)
}

/// A file of JSON; `None` where there is none or it is half-written.
fn json(path: &Path) -> Result<Option<Value>, StorageError> {
    match std::fs::read(path) {
        Ok(json) => Ok(serde_json::from_slice(&json).ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io(path, error)),
    }
}
