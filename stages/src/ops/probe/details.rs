//! What a probe leaves beside its results, for the report: `details.json` and `predictions.parquet`.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use omar_schemas::{Edge, Predictions, PredictionsSpec, Split};
use serde::Serialize;

use super::Plan;
use super::bench::Outcome;
use super::collect::{Corpus, Coverage, Leak};
use super::shown::{SHOWN, Shown};
use crate::error::StageError;
use crate::probe::fit::{FitConfig, Look};
use crate::probe::task::{Confusion, Protocol, Statement, Unit};
use crate::storage::durable::write_durably;
use crate::storage::write_table;

/// Name of the description in the folder of a node.
pub const DETAILS_FILE: &str = "details.json";
/// Name of the predictions there.
pub const PREDICTIONS_FILE: &str = "predictions.parquet";

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
    /// How many, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    folds: Option<u32>,
    coverage: Coverage,
    /// Bytes of vectors, in memory and put aside in a file.
    vectors: (u64, u64),
    leaks: Vec<Leak>,
    fits: Vec<Fit>,
    confusion: Option<Confusion>,
    shown: Vec<Shown>,
}

/// How a probe was trained.
#[derive(Debug, Serialize)]
struct Fit {
    layer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fold: Option<u32>,
    repeat: u64,
    hidden: usize,
    training: FitConfig,
    quality: f64,
    looks: Vec<Look>,
}

/// As written in YAML.
pub(super) fn protocol(plan: &Plan) -> &'static str {
    match plan.params.protocol {
        Protocol::Standard => "standard",
        Protocol::Published => "published",
    }
}

/// The first repeats of the selected layer, one per fold.
fn chosen(outcomes: &[Outcome], selected: usize) -> impl Iterator<Item = &Outcome> {
    outcomes.iter().filter(move |outcome| outcome.layer == selected && outcome.repeat == 0)
}

/// What was taken for what, over all folds.
fn confusion<'a>(chosen: impl Iterator<Item = &'a Outcome>) -> Option<Confusion> {
    let mut all = chosen.filter_map(|outcome| outcome.test.confusion.as_ref());
    let mut sum = all.next()?.clone();
    for other in all.filter(|other| other.classes == sum.classes).cloned().collect::<Vec<_>>() {
        let cells = sum.counts.iter_mut().flatten().zip(other.counts.into_iter().flatten());
        cells.for_each(|(sum, count)| *sum += count);
    }
    Some(sum)
}

impl Details {
    /// `vectors`: bytes in memory and in a file.
    pub(super) fn new(
        plan: &Plan,
        (corpus, vectors): (&Corpus, (u64, u64)),
        outcomes: &[Outcome],
        selected: usize,
    ) -> Self {
        let (metric, smaller_is_better) = plan.task.metric();
        let fits = outcomes.iter().map(|outcome| Fit {
            layer: plan.layers[outcome.layer].0.clone(),
            fold: outcome.fold,
            repeat: outcome.repeat,
            hidden: outcome.setting.1,
            training: outcome.setting.0,
            quality: outcome.quality,
            looks: outcome.looks.clone(),
        });
        let first = chosen(outcomes, selected).next().filter(|_| plan.task.unit() == Unit::Frames);
        let test = first.map_or(Vec::new(), |first| corpus.of(first.fold, Split::Test));
        let answers = first.into_iter().flat_map(|first| &first.test.predictions);
        let shown = test.iter().zip(answers).take(SHOWN);
        let shown = shown.map(|(index, answers)| Shown::new(plan.task, &corpus.recordings[*index], answers));
        Self {
            task: plan.task.as_str(),
            dataset: plan.labels.dataset.clone(),
            input: plan.name.clone(),
            protocol: protocol(plan),
            metric,
            smaller_is_better,
            selected: plan.layers[selected].0.clone(),
            folds: plan.labels.folds,
            coverage: corpus.coverage.clone(),
            vectors,
            leaks: corpus.leaks.clone(),
            fits: fits.collect(),
            confusion: confusion(chosen(outcomes, selected)),
            shown: shown.collect(),
        }
    }

    /// Whether a recording is shown.
    pub(super) fn shows(&self, recording: &str) -> bool {
        self.shown.iter().any(|shown| shown.recording() == recording)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), StageError> {
        std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
        let text = serde_json::to_vec_pretty(self).map_err(|error| StageError::Failed(error.to_string()))?;
        write_durably(&folder.join(DETAILS_FILE), &text)?;
        Ok(())
    }
}

/// Writes what the first repeat of the selected layer says about the recordings of `test`, in every fold.
pub(super) fn write_predictions(
    plan: &Plan,
    corpus: &Corpus,
    outcomes: &[Outcome],
    selected: usize,
    folder: &Path,
) -> Result<(), StageError> {
    let mut rows = Vec::new();
    for outcome in chosen(outcomes, selected) {
        let test = corpus.of(outcome.fold, Split::Test);
        let of = test.iter().map(|index| &corpus.origins[*index]).zip(&outcome.test.predictions);
        rows.extend(of.flat_map(|(origin, rows)| rows.iter().map(move |row| (origin, row, outcome.fold))));
    }
    let spec = PredictionsSpec { task: plan.task.as_str().to_owned(), input: plan.name.clone() };
    let words =
        |of: &dyn Fn(usize) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values((0..rows.len()).map(of))) };
    let times = |of: fn(&Statement) -> Option<f64>| -> ArrayRef {
        Arc::new(rows.iter().map(|row| of(row.1)).collect::<Float64Array>())
    };
    let columns = vec![
        Arc::new(rows.iter().map(|row| Some(row.0.track_id.0)).collect::<UInt64Array>()) as ArrayRef,
        words(&|row| rows[row].0.path.clone()),
        words(&|_| Split::Test.as_str().to_owned()),
        Arc::new(rows.iter().map(|row| row.2.map(u64::from)).collect::<UInt64Array>()),
        words(&|_| plan.layers[selected].0.clone()),
        times(|row| row.start_s),
        times(|row| row.end_s),
        words(&|row| rows[row].1.label.clone()),
    ];
    let batch = RecordBatch::try_new(Predictions::schema(&spec), columns)?;
    Ok(write_table(&folder.join(PREDICTIONS_FILE), &[batch])?)
}
