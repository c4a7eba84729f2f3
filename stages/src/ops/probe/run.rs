//! Runs all probes of a corpus: every fold, every layer, every repeat.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::Split;

use super::Plan;
use super::bench::{Bench, Outcome};
use super::collect::Corpus;
use super::details::{self, Details};
use super::spectrogram::Spectrogram;
use super::store::Store;
use crate::error::StageError;
use crate::score::bootstrap;
use crate::stage::StageContext;

/// Resamples behind an interval.
const RESAMPLES: usize = 1000;

/// Everything; the rows of the results.
pub(super) fn run(
    plan: &Plan,
    (corpus, store): (Corpus, Store),
    context: &StageContext,
    schema: &SchemaRef,
) -> Result<RecordBatch, StageError> {
    let folds: Vec<Option<u32>> = plan.labels.folds.map_or(vec![None], |folds| (0..folds).map(Some).collect());
    let mut outcomes = Vec::new();
    for &fold in &folds {
        let bench = Bench::new(plan, (&corpus, &store), context, fold)?;
        for layer in 0..plan.layers.len() {
            let setting = bench.search(layer)?;
            for repeat in 0..plan.params.repeats {
                outcomes.push(bench.outcome(layer, repeat, setting)?);
            }
        }
    }
    let selected = selected(&outcomes, plan.layers.len());
    if let Some(folder) = &context.run_dir {
        let details = Details::new(plan, (&corpus, store.sizes()), &outcomes, selected);
        details.write(folder)?;
        details::write_predictions(plan, &corpus, &outcomes, selected, folder)?;
        let drawn = corpus.spectrograms.iter().filter(|(name, _)| details.shows(name));
        let drawn: Vec<(&str, &Spectrogram)> = drawn.map(|(name, own)| (name.as_str(), own)).collect();
        if !drawn.is_empty() {
            Spectrogram::write(folder, &drawn)?;
        }
    }
    rows(plan, context.seed, &outcomes, selected, schema)
}

/// The layer with the best mean quality on `valid`, over all folds and repeats, the first of equals.
fn selected(outcomes: &[Outcome], layers: usize) -> usize {
    let quality = |layer: usize| {
        let all: Vec<f64> = outcomes.iter().filter(|o| o.layer == layer).map(|o| o.quality).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    (1..layers).fold(0, |best, layer| if quality(layer) > quality(best) { layer } else { best })
}

fn rows(
    plan: &Plan,
    seed: u64,
    outcomes: &[Outcome],
    selected: usize,
    schema: &SchemaRef,
) -> Result<RecordBatch, StageError> {
    let mut table = Vec::new();
    for outcome in outcomes {
        for (split, scored) in [(Split::Valid, &outcome.valid), (Split::Test, &outcome.test)] {
            table.extend(scored.figures.iter().map(|figure| (outcome, split, figure)));
        }
    }
    let fixed = |value: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(table.iter().map(|_| value))) };
    let intervals: Vec<Option<(f64, f64)>> = table
        .iter()
        .map(|(_, _, figure)| (figure.each.len() > 1).then(|| bootstrap::interval(&figure.each, 0.95, RESAMPLES, seed)))
        .collect();
    let words = |of: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values((0..table.len()).map(of)))
    };
    let columns: Vec<ArrayRef> = vec![
        fixed(plan.task.as_str()),
        fixed(&plan.labels.dataset),
        fixed(&plan.name),
        words(&|row| plan.layers[table[row].0.layer].0.clone()),
        fixed(details::protocol(plan)),
        words(&|row| table[row].2.metric.clone()),
        Arc::new(table.iter().map(|row| row.2.class.clone()).collect::<StringArray>()),
        words(&|row| table[row].1.as_str().to_owned()),
        Arc::new(table.iter().map(|row| row.0.fold.map(u64::from)).collect::<UInt64Array>()),
        Arc::new(table.iter().map(|row| Some(row.0.repeat)).collect::<UInt64Array>()),
        Arc::new(table.iter().map(|row| Some(row.2.value)).collect::<Float64Array>()),
        Arc::new(intervals.iter().map(|interval| interval.map(|interval| interval.0)).collect::<Float64Array>()),
        Arc::new(intervals.iter().map(|interval| interval.map(|interval| interval.1)).collect::<Float64Array>()),
        Arc::new(table.iter().map(|row| Some(row.2.n as u64)).collect::<UInt64Array>()),
        Arc::new(table.iter().map(|row| Some(row.0.layer == selected)).collect::<BooleanArray>()),
    ];
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
