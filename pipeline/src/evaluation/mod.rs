//! What probes found: the figures of a run, its tables, and several runs side by side.
//!
//! | file | does |
//! |---|---|
//! | here | reads the results of a run's probes; `results.parquet` and `results.md` |
//! | [`table`] | rows of representations by columns of metrics |
//! | [`paper`] | what the paper reports |

pub(crate) mod paper;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::path::Path;

use arrow::array::{Array, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use omar_schemas::{Edge, Results, ResultsSpec, SchemaError, column};
use omar_stages::ops::probe::DETAILS_FILE;
use omar_stages::storage::{StorageError, TrackFile};
use serde_json::Value;

use crate::files::{WriteError, write_parquet, write_text};
use crate::results::RESULTS;

/// All figures of a run in one file, and its tables as text.
pub(crate) const RESULTS_FILE: &str = "results.parquet";
const TABLES_FILE: &str = "results.md";

/// A figure, over all folds and repeats.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(crate) key: Key,
    /// By fold and repeat.
    pub(crate) values: Vec<f64>,
    /// The fold of each value, where there are several.
    pub(crate) folds: Vec<Option<u64>>,
    /// 95 % interval of the first repeat, by bootstrap over recordings; none of folds, which test different ones.
    pub(crate) interval: Option<(f64, f64)>,
    /// Recordings behind it.
    pub(crate) n: u64,
    /// Whether the `valid` split chose this layer.
    pub(crate) selected: bool,
}

/// What a figure is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) task: String,
    pub(crate) protocol: String,
    pub(crate) dataset: String,
    pub(crate) input: String,
    pub(crate) layer: String,
    pub(crate) split: String,
    pub(crate) metric: String,
    pub(crate) class: Option<String>,
}

/// The results of a `probe` node.
#[derive(Debug)]
pub(crate) struct Evaluation {
    pub(crate) node: String,
    pub(crate) spec: ResultsSpec,
    /// In the order of the rows.
    pub(crate) figures: Vec<Figure>,
    /// `details.json`.
    pub(crate) details: Value,
    batches: Vec<RecordBatch>,
}

impl Figure {
    /// The mean over folds and repeats.
    pub(crate) fn mean(&self) -> f64 {
        self.values.iter().sum::<f64>() / self.values.len().max(1) as f64
    }

    /// The standard deviation over folds, of their means over repeats; over repeats, where there are no folds.
    pub(crate) fn deviation(&self) -> Option<f64> {
        let folds = self.by_fold();
        let values: Vec<f64> =
            if folds.is_empty() { self.values.clone() } else { folds.into_iter().map(|fold| fold.1).collect() };
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        (n > 1.0).then(|| (squares / (n - 1.0)).sqrt())
    }

    /// Folds with their means over repeats, where there are several.
    pub(crate) fn by_fold(&self) -> Vec<(u64, f64)> {
        let mut folds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for (value, fold) in self.values.iter().zip(&self.folds) {
            folds.entry(fold.unwrap_or_default()).or_default().push(*value);
        }
        if self.folds.iter().any(Option::is_none) {
            return Vec::new();
        }
        folds.into_iter().map(|(fold, values)| (fold, values.iter().sum::<f64>() / values.len() as f64)).collect()
    }
}

impl Evaluation {
    /// The figures of a split, over all classes, of the chosen layer.
    pub(crate) fn chosen(&self, split: &str) -> impl Iterator<Item = &Figure> {
        self.figures
            .iter()
            .filter(move |figure| figure.selected && figure.key.split == split && figure.key.class.is_none())
    }

    /// The figure that the task is judged by.
    pub(crate) fn main(&self) -> Option<&Figure> {
        self.chosen("test").find(|figure| figure.key.metric == self.spec.metric)
    }
}

/// The results of all probes of a run, in the order of the nodes.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn read(folder: &Path, nodes: &[String]) -> Result<Vec<Evaluation>, StorageError> {
    let mut evaluations = Vec::new();
    for node in nodes {
        let details = folder.join(node).join(DETAILS_FILE);
        let Ok(details) = std::fs::read(&details) else { continue };
        let details = serde_json::from_slice(&details).unwrap_or_default();
        if let Some((spec, batches)) = rows(&folder.join(node).join(RESULTS))? {
            let content = |error: SchemaError| StorageError::Content {
                path: folder.join(node).join(RESULTS),
                message: error.to_string(),
            };
            let figures = figures(&batches).map_err(content)?;
            evaluations.push(Evaluation { node: node.clone(), spec, figures, details, batches });
        }
    }
    Ok(evaluations)
}

/// The results of a run folder, whatever its graph.
///
/// # Errors
/// When the folder holds no run, or a file cannot be read.
pub(crate) fn of_run(folder: &Path) -> Result<Vec<Evaluation>, StorageError> {
    let path = folder.join("plan.json");
    let plan = std::fs::read(&path).map_err(|error| StorageError::io(&path, error))?;
    let plan: Value = serde_json::from_slice(&plan)
        .map_err(|error| StorageError::Content { path: path.clone(), message: error.to_string() })?;
    let nodes = plan["nodes"].as_array().into_iter().flatten().filter_map(|node| node["id"].as_str());
    read(folder, &nodes.map(str::to_owned).collect::<Vec<_>>())
}

/// Rows of the edge `result`; `None` where there is none.
fn rows(folder: &Path) -> Result<Option<(ResultsSpec, Vec<RecordBatch>)>, StorageError> {
    let Ok(entries) = folder.read_dir() else { return Ok(None) };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    paths.sort();
    let (mut spec, mut batches) = (None, Vec::new());
    for path in paths {
        let file = TrackFile::open(&path)?;
        let Ok(found) = Results::spec(file.schema()) else { return Ok(None) };
        spec = Some(found);
        for batch in file.scan(None, None)? {
            batches.push(batch?);
        }
    }
    Ok(spec.map(|spec| (spec, batches)))
}

fn figures(batches: &[RecordBatch]) -> Result<Vec<Figure>, SchemaError> {
    let (mut figures, mut places): (Vec<Figure>, BTreeMap<Key, usize>) = (Vec::new(), BTreeMap::new());
    for batch in batches {
        let words = |name| column::<StringArray>(batch, name);
        let [task, protocol, dataset, input, layer, split, metric] =
            ["task", "protocol", "dataset", "input", "layer", "split", "metric"].map(words);
        let (task, protocol, dataset, input) = (task?, protocol?, dataset?, input?);
        let (layer, split, metric, class) = (layer?, split?, metric?, words("class")?);
        let [value, low, high] = ["value", "low", "high"].map(|name| column::<Float64Array>(batch, name));
        let (value, low, high) = (value?, low?, high?);
        let fold = column::<UInt64Array>(batch, "fold")?;
        let (n, selected) = (column::<UInt64Array>(batch, "n")?, column::<BooleanArray>(batch, "selected")?);
        for row in 0..batch.num_rows() {
            let word = |column: &StringArray| column.value(row).to_owned();
            let key = Key {
                task: word(task),
                protocol: word(protocol),
                dataset: word(dataset),
                input: word(input),
                layer: word(layer),
                split: word(split),
                metric: word(metric),
                class: class.is_valid(row).then(|| word(class)),
            };
            let place = *places.entry(key.clone()).or_insert(figures.len());
            if place == figures.len() {
                let own = low.is_valid(row) && fold.is_null(row);
                let interval = own.then(|| (low.value(row), high.value(row)));
                let (n, selected) = (n.value(row), selected.value(row));
                figures.push(Figure { key, values: Vec::new(), folds: Vec::new(), interval, n, selected });
            }
            figures[place].values.push(value.value(row));
            figures[place].folds.push(fold.is_valid(row).then(|| fold.value(row)));
        }
    }
    Ok(figures)
}

/// Writes the figures of a run's probes to its folder, as one parquet file and as tables; nothing where there are none.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(folder: &Path, evaluations: &[Evaluation]) -> Result<(), WriteError> {
    let Some(first) = evaluations.first() else { return Ok(()) };
    // The nodes differ in the constants of the edge, which are columns here.
    let schema = first.batches.first().map(RecordBatch::schema);
    let Some(schema) = schema else { return Ok(()) };
    let all = evaluations.iter().flat_map(|evaluation| &evaluation.batches);
    let plain = all.filter_map(|batch| RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).ok());
    write_parquet(&folder.join(RESULTS_FILE), &plain.collect::<Vec<_>>())?;
    write_text(&folder.join(TABLES_FILE), &table::markdown(evaluations))
}
