//! What a probe leaves beside its results, for the report: `details.json` and `predictions.parquet`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use omar_schemas::{Edge, Predictions, PredictionsSpec, Split};
use serde::{Deserialize, Serialize};

use super::Plan;
use super::collect::{Corpus, Coverage, Leak};
use super::run::Outcome;
use crate::error::StageError;
use crate::probe::fit::{FitConfig, Look};
use crate::probe::task::{Confusion, Protocol, Statement, Unit};
use crate::storage::durable::write_durably;
use crate::storage::write_table;

/// Name of the description in the folder of a node.
pub const DETAILS_FILE: &str = "details.json";
/// Name of the predictions there.
pub const PREDICTIONS_FILE: &str = "predictions.parquet";
/// Recordings whose annotations are shown beside the answers.
const SHOWN: usize = 4;

/// What is worth showing beside the figures.
#[derive(Debug, Serialize)]
pub(super) struct Details {
    task: &'static str,
    dataset: String,
    input: String,
    protocol: &'static str,
    metric: &'static str,
    smaller_is_better: bool,
    /// Layer that `valid` chose.
    selected: String,
    coverage: Coverage,
    leaks: Vec<Leak>,
    fits: Vec<Fit>,
    confusion: Option<Confusion>,
    shown: Vec<Shown>,
}

/// How a probe was trained.
#[derive(Debug, Serialize)]
struct Fit {
    layer: String,
    repeat: u64,
    hidden: usize,
    training: FitConfig,
    quality: f64,
    looks: Vec<Look>,
}

/// A test recording: what was annotated and what was answered.
#[derive(Debug, Serialize)]
struct Shown {
    recording: String,
    end_s: f64,
    annotated: Vec<Span>,
    answered: Vec<Span>,
}

/// A statement.
#[derive(Debug, Serialize, Deserialize)]
struct Span {
    start_s: Option<f64>,
    end_s: Option<f64>,
    label: String,
}

impl From<&Statement> for Span {
    fn from(row: &Statement) -> Self {
        Self { start_s: row.start_s, end_s: row.end_s, label: row.label.clone() }
    }
}

/// As written in YAML.
pub(super) fn protocol(plan: &Plan) -> &'static str {
    match plan.params.protocol {
        Protocol::Standard => "standard",
        Protocol::Published => "published",
    }
}

/// The first repeat of the selected layer.
fn chosen(outcomes: &[Outcome], selected: usize) -> Option<&Outcome> {
    outcomes.iter().find(|outcome| outcome.layer == selected)
}

impl Details {
    pub(super) fn new(plan: &Plan, corpus: &Corpus, outcomes: &[Outcome], selected: usize) -> Self {
        let (metric, smaller_is_better) = plan.task.metric();
        let fits = outcomes.iter().map(|outcome| Fit {
            layer: plan.layers[outcome.layer].0.clone(),
            repeat: outcome.repeat,
            hidden: outcome.setting.1,
            training: outcome.setting.0,
            quality: outcome.quality,
            looks: outcome.looks.clone(),
        });
        let chosen = chosen(outcomes, selected);
        let all = corpus.recordings.iter().zip(&corpus.origins);
        let test = all.filter(|(_, origin)| origin.split == Split::Test).map(|(recording, _)| recording);
        let answers = chosen.into_iter().flat_map(|outcome| &outcome.test.predictions);
        let frames = plan.task.unit() == Unit::Frames;
        let shown = test.zip(answers).take(if frames { SHOWN } else { 0 }).map(|(recording, answers)| Shown {
            recording: recording.name.clone(),
            end_s: recording.end,
            annotated: recording.labels.iter().map(Span::from).collect(),
            answered: answers.iter().map(Span::from).collect(),
        });
        Self {
            task: plan.task.as_str(),
            dataset: plan.labels.dataset.clone(),
            input: plan.name.clone(),
            protocol: protocol(plan),
            metric,
            smaller_is_better,
            selected: plan.layers[selected].0.clone(),
            coverage: corpus.coverage.clone(),
            leaks: corpus.leaks.clone(),
            fits: fits.collect(),
            confusion: chosen.and_then(|outcome| outcome.test.confusion.clone()),
            shown: shown.collect(),
        }
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), StageError> {
        std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| StageError::Failed(error.to_string()))?;
        write_durably(&folder.join(DETAILS_FILE), &text)?;
        Ok(())
    }
}

/// Writes what the first repeat of the selected layer says about the recordings of `test`.
pub(super) fn write_predictions(
    plan: &Plan,
    corpus: &Corpus,
    test: &[usize],
    outcomes: &[Outcome],
    selected: usize,
    folder: &Path,
) -> Result<(), StageError> {
    let Some(outcome) = chosen(outcomes, selected) else { return Ok(()) };
    let of = test.iter().map(|index| &corpus.origins[*index]).zip(&outcome.test.predictions);
    let rows: Vec<_> = of.flat_map(|(origin, rows)| rows.iter().map(move |row| (origin, row))).collect();
    let spec = PredictionsSpec { task: plan.task.as_str().to_owned(), input: plan.name.clone() };
    let words =
        |of: &dyn Fn(usize) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values((0..rows.len()).map(of))) };
    let times = |of: fn(&Statement) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| of(row.1)).collect::<Float64Array>())
    };
    let columns = vec![
        Arc::new(rows.iter().map(|row| Some(row.0.track_id.0)).collect::<UInt64Array>()) as ArrayRef,
        words(&|row| rows[row].0.path.clone()),
        words(&|row| rows[row].0.split.as_str().to_owned()),
        words(&|_| plan.layers[selected].0.clone()),
        times(|row| row.start_s),
        times(|row| row.end_s),
        words(&|row| rows[row].1.label.clone()),
    ];
    let batch = RecordBatch::try_new(Predictions::schema(&spec), columns)?;
    Ok(write_table(&folder.join(PREDICTIONS_FILE), &[batch])?)
}
