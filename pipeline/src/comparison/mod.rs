//! Encoders by tasks: many evaluations as one table, in the form of the paper's table 4.
//!
//! | file | does |
//! |---|---|
//! | here | the table: a row per encoder, a column per task, a figure or a named hole in every cell |
//! | [`spec`] | reads the file that asks for one: `compare:` with `rows` and `columns` |
//! | [`protocol`] | how thoroughly cells are evaluated |
//! | [`schema`] | what editors are told about such files |
//! | [`schedule`] | which cells are filled when |
//! | [`cells`] | what each cell needs, whether it is there, and the run that fills it |
//! | [`render`] | the table for a terminal, as Markdown, as a page, as parquet |

pub(crate) mod cells;
pub(crate) mod protocol;
pub(crate) mod render;
pub(crate) mod schedule;
pub(crate) mod schema;
pub(crate) mod spec;

use std::path::Path;

use omar_stages::storage::StorageError;
use serde::{Deserialize, Serialize};

use self::protocol::Protocol;
use crate::evaluation::{Evaluation, paper};

/// The table in the folder of its run.
pub(crate) const FILE: &str = "comparison.json";

/// A table of figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Comparison {
    pub(crate) name: String,
    /// How its cells were made, where the file says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<Protocol>,
    /// Tasks, in the order of the paper.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// An encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// The row of the paper's table that it repeats.
    pub(crate) paper: Option<String>,
    /// By column.
    pub(crate) cells: Vec<Cell>,
}

/// What is in a cell.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cell {
    Figure(Box<Measured>),
    Hole(Hole),
}

/// A figure with all that it takes to judge it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Folder or name of the run, and the node of the probe.
    pub(crate) run: String,
    pub(crate) node: String,
    pub(crate) dataset: String,
    /// How predictions become figures: `standard` or `published`.
    pub(crate) protocol: String,
    /// The protocol of the table that the cell was made by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) evaluated: Option<String>,
    /// What was trained, such as `60 updates of 8, 512 wide`.
    #[serde(default)]
    pub(crate) probe: String,
    pub(crate) layer: String,
    pub(crate) metric: String,
    pub(crate) smaller_is_better: bool,
    /// Mean over folds and repeats.
    pub(crate) value: f64,
    pub(crate) deviation: Option<f64>,
    /// Folds of the data, 1 where they have one split; and repeats of each.
    pub(crate) folds: usize,
    pub(crate) repeats: usize,
    pub(crate) interval: Option<(f64, f64)>,
    /// Test recordings behind it.
    pub(crate) n: u64,
    /// Recordings that have annotations, and those that were used to train, validate and test.
    pub(crate) annotated: u64,
    pub(crate) used: Vec<u64>,
}

/// Why there is no figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hole {
    pub(crate) kind: HoleKind,
    pub(crate) reason: String,
}

/// Kinds of holes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HoleKind {
    /// A model or a data set is not there.
    Missing,
    /// The file says that there is none.
    Without,
    /// The evaluation failed.
    Failed,
    /// No run of it is among those that were named.
    NotRun,
}

impl HoleKind {
    /// As it stands in parquet.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Without => "without",
            Self::Failed => "failed",
            Self::NotRun => "not_run",
        }
    }
}

impl Measured {
    /// The main figure of an evaluation; `None` where it has none.
    pub(crate) fn of(run: &str, evaluation: &Evaluation) -> Option<Self> {
        let main = evaluation.main()?;
        let coverage = &evaluation.details["coverage"];
        let folds = main.by_fold().len().max(1);
        let used = coverage["used"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_u64);
        Some(Self {
            run: run.to_owned(),
            node: evaluation.node.clone(),
            dataset: main.key.dataset.clone(),
            protocol: main.key.protocol.clone(),
            evaluated: None,
            probe: probe(&evaluation.details, &main.key.layer),
            layer: main.key.layer.clone(),
            metric: main.key.metric.clone(),
            smaller_is_better: evaluation.spec.smaller_is_better,
            value: main.mean(),
            deviation: main.deviation(),
            folds,
            repeats: main.values.len() / folds,
            interval: main.interval,
            n: main.n,
            annotated: coverage["annotated"].as_u64().unwrap_or_default(),
            used: used.collect(),
        })
    }
}

/// How the probe of a layer was trained.
fn probe(details: &serde_json::Value, layer: &str) -> String {
    let fits = details["fits"].as_array().into_iter().flatten();
    let Some(fit) = fits.into_iter().find(|fit| fit["layer"] == layer) else { return String::new() };
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    let training = &fit["training"];
    let (steps, batch, hidden) = (number(&training["steps"]), number(&training["batch"]), number(&fit["hidden"]));
    format!("{steps} updates of {batch}, {hidden} wide")
}

impl Row {
    /// What the paper reports in a column.
    pub(crate) fn reported(&self, column: &str) -> Option<f64> {
        let model = self.paper.as_ref()?;
        paper::of(column).into_iter().find(|(name, _)| name == model).map(|(_, value)| value)
    }
}

impl Comparison {
    /// Several runs side by side; representations of one name in several runs carry the run's name too.
    pub(crate) fn of_runs(runs: &[(String, Vec<Evaluation>)]) -> Self {
        let all = || runs.iter().flat_map(|(run, evaluations)| evaluations.iter().map(move |e| (run, e)));
        let twice = |evaluation: &Evaluation| {
            let same =
                all().filter(|(_, e)| e.spec.input == evaluation.spec.input && e.spec.task == evaluation.spec.task);
            same.count() > 1
        };
        let name = |run: &str, evaluation: &Evaluation| {
            let input = &evaluation.spec.input;
            if twice(evaluation) { format!("{input} ({run})") } else { input.clone() }
        };
        let mut names: Vec<String> = Vec::new();
        for (run, evaluation) in all() {
            let name = name(run, evaluation);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let tasks = paper::TASKS.iter().map(|task| task.0).filter(|t| all().any(|(_, e)| e.spec.task == *t));
        let columns: Vec<String> = tasks.map(str::to_owned).collect();
        let cell = |row: &str, task: &str| {
            let found = all().find(|(run, e)| e.spec.task == task && name(run, e) == row);
            let measured = found.and_then(|(run, evaluation)| Measured::of(run, evaluation));
            measured.map_or_else(
                || Cell::hole(HoleKind::NotRun, format!("none of these runs has {task} of {row}")),
                |measured| Cell::Figure(Box::new(measured)),
            )
        };
        let rows = names.iter().map(|row| Row {
            name: row.clone(),
            paper: None,
            cells: columns.iter().map(|task| cell(row, task)).collect(),
        });
        let rows = rows.collect();
        Self { name: "comparison".to_owned(), protocol: None, columns, rows }
    }

    /// The table that a run made; `None` where the folder has none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, StorageError> {
        let path = folder.join(FILE);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(&path, error)),
        };
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| StorageError::Content { path, message: error.to_string() })
    }

    /// The rows of this table and of another one; columns are those of both, in the order of the paper.
    pub(crate) fn join(self, other: Self) -> Self {
        let either = |task: &str| self.columns.iter().chain(&other.columns).any(|column| column == task);
        let columns: Vec<String> =
            paper::TASKS.iter().map(|task| task.0.to_owned()).filter(|task| either(task)).collect();
        let mut rows = Vec::new();
        for table in [&self, &other] {
            for row in &table.rows {
                let cell = |task: &String| {
                    let place = table.columns.iter().position(|column| column == task);
                    place.and_then(|place| row.cells.get(place).cloned()).unwrap_or_else(|| {
                        Cell::hole(HoleKind::NotRun, format!("none of these runs has {task} of {}", row.name))
                    })
                };
                rows.push(Row { cells: columns.iter().map(cell).collect(), ..row.clone() });
            }
        }
        // Cells say themselves what they were made by: on top it stands only where it is said of all.
        let protocol = if self.rows.is_empty() {
            other.protocol
        } else {
            self.protocol.filter(|protocol| other.protocol.as_ref() == Some(protocol))
        };
        Self { name: self.name, protocol, columns, rows }
    }

    /// Figures, and holes by kind.
    pub(crate) fn count(&self, kind: Option<HoleKind>) -> usize {
        let cells = self.rows.iter().flat_map(|row| &row.cells);
        cells
            .filter(|cell| match (cell, kind) {
                (Cell::Figure(_), None) => true,
                (Cell::Hole(hole), Some(kind)) => hole.kind == kind,
                _ => false,
            })
            .count()
    }
}

impl Cell {
    pub(crate) fn hole(kind: HoleKind, reason: String) -> Self {
        Self::Hole(Hole { kind, reason })
    }

    pub(crate) fn figure(&self) -> Option<&Measured> {
        match self {
            Self::Figure(measured) => Some(measured),
            Self::Hole(_) => None,
        }
    }
}
