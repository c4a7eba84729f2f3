//! Fits and scores the probes of a corpus: every layer, every repeat.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use candle_core::Device;
use omar_schemas::Split;
use serde_json::json;

use super::collect::{Corpus, place};
use super::details::{self, Details};
use super::kept;
use super::{Plan, Probe};
use crate::error::StageError;
use crate::probe::ProbeError;
use crate::probe::fit::{Examples, FitConfig, Fitted, Look, fit};
use crate::probe::mlp::{Mlp, MlpConfig};
use crate::probe::task::{Annotated, Answer, Scored, Task, TaskSetting, Unit};
use crate::score::bootstrap;
use crate::seed;
use crate::stage::{StageContext, StageKind};

/// Rows that are predicted together.
const ROWS: usize = 8192;
/// Resamples behind an interval.
const RESAMPLES: usize = 1000;

/// What is the same for all layers.
struct Bench<'a> {
    plan: &'a Plan,
    corpus: &'a Corpus,
    task: Box<dyn Task>,
    targets: Vec<Vec<f32>>,
    splits: [Vec<usize>; 3],
    windows: Vec<(usize, Range<usize>)>,
    seed: u64,
    device: Device,
}

/// A fitted and scored probe.
pub(super) struct Outcome {
    pub(super) layer: usize,
    pub(super) repeat: u64,
    pub(super) quality: f64,
    pub(super) looks: Vec<Look>,
    pub(super) setting: (FitConfig, usize),
    pub(super) valid: Scored,
    pub(super) test: Scored,
}

/// Everything; the rows of the results.
pub(super) fn run(
    plan: &Plan,
    corpus: Corpus,
    context: &StageContext,
    schema: &SchemaRef,
) -> Result<RecordBatch, StageError> {
    let bench = Bench::new(plan, &corpus, context)?;
    let mut outcomes = Vec::new();
    for layer in 0..plan.layers.len() {
        let setting = bench.search(layer)?;
        for repeat in 0..plan.params.repeats {
            outcomes.push(bench.outcome(layer, repeat, setting)?);
        }
    }
    let selected = selected(&outcomes, plan.layers.len());
    if let Some(folder) = &context.run_dir {
        Details::new(plan, &corpus, &outcomes, selected).write(folder)?;
        let test = &bench.splits[place(Split::Test)];
        details::write_predictions(plan, &corpus, test, &outcomes, selected, folder)?;
    }
    rows(&bench, &outcomes, selected, schema)
}

/// The layer with the best mean quality on `valid`, the first of equals.
fn selected(outcomes: &[Outcome], layers: usize) -> usize {
    let quality = |layer: usize| {
        let all: Vec<f64> = outcomes.iter().filter(|o| o.layer == layer).map(|o| o.quality).collect();
        all.iter().sum::<f64>() / all.len().max(1) as f64
    };
    (1..layers).fold(0, |best, layer| if quality(layer) > quality(best) { layer } else { best })
}

impl<'a> Bench<'a> {
    fn new(plan: &'a Plan, corpus: &'a Corpus, context: &StageContext) -> Result<Self, StageError> {
        let mut splits: [Vec<usize>; 3] = Default::default();
        for (index, origin) in corpus.origins.iter().enumerate() {
            splits[place(origin.split)].push(index);
        }
        check_splits(plan, corpus, &splits)?;
        let setting = TaskSetting {
            protocol: plan.params.protocol,
            classes: plan.labels.classes.as_deref(),
            recordings: &corpus.recordings,
            downbeats: plan.params.downbeats,
            decoding_rate: plan.params.decoding_rate,
        };
        let task = plan.task.task(&setting)?;
        let targets = corpus.recordings.iter().map(|recording| {
            task.targets(recording).map_err(|message| StageError::Failed(format!("`{}`: {message}", recording.name)))
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let windows = splits[place(Split::Train)].iter().flat_map(|&index| {
            let windows = windows(&corpus.recordings[index], plan.params.window_s, task.unit());
            windows.into_iter().map(move |range| (index, range))
        });
        let windows = windows.collect();
        Ok(Self { plan, corpus, task, targets, splits, windows, seed: context.seed, device: context.device()? })
    }

    /// Tries the settings of the search with one seed; learning setting and hidden width of the best.
    fn search(&self, layer: usize) -> Result<(FitConfig, usize), StageError> {
        let (params, base) = (&self.plan.params, self.plan.fit);
        let or = |values: &[f64], own: f64| if values.is_empty() { vec![own] } else { values.to_vec() };
        let widths = if params.search.hidden.is_empty() { vec![params.hidden] } else { params.search.hidden.clone() };
        let mut settings = Vec::new();
        for lr in or(&params.search.lr, base.lr) {
            for dropout in or(&params.search.dropout, base.dropout) {
                settings.extend(widths.iter().map(|hidden| (FitConfig { lr, dropout, ..base }, *hidden)));
            }
        }
        if let [only] = settings[..] {
            return Ok(only);
        }
        let mut best = None;
        for setting in settings {
            let quality = self.fit(layer, 0, setting)?.quality;
            if best.as_ref().is_none_or(|(found, _)| quality > *found) {
                best = Some((quality, setting));
            }
        }
        best.map(|(_, setting)| setting).ok_or_else(|| StageError::Failed("nothing to search".to_owned()))
    }

    /// A fitted probe: a kept one, or one that is fitted now.
    fn fit(&self, layer: usize, repeat: u64, setting: (FitConfig, usize)) -> Result<Fitted, StageError> {
        let Some(folder) = &self.plan.params.keep else { return self.fit_now(layer, repeat, setting) };
        let path = kept::path(folder, &self.key(layer, repeat, setting));
        if let Some(fitted) = kept::load(&path, self.network(layer, setting), &self.device) {
            return Ok(fitted);
        }
        let fitted = self.fit_now(layer, repeat, setting)?;
        kept::save(&path, &fitted)?;
        Ok(fitted)
    }

    /// Hash of everything that decides a probe.
    fn key(&self, layer: usize, repeat: u64, (config, hidden): (FitConfig, usize)) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("omar-flow fitted probe 1");
        let params = &self.plan.params;
        let settings = json!([
            Probe::VERSION,
            self.plan.task,
            params.protocol,
            config,
            hidden,
            params.depth,
            params.window_s,
            self.seed,
            repeat,
            self.task.outputs()
        ]);
        hasher.update(settings.to_string().as_bytes());
        for split in [Split::Train, Split::Valid] {
            for &index in &self.splits[place(split)] {
                let recording = &self.corpus.recordings[index];
                hasher.update(&(recording.name.len() as u64).to_le_bytes()).update(recording.name.as_bytes());
                self.plan.layers[layer].1.iter().for_each(|part| {
                    hasher.update(&self.corpus.digests[index][*part]);
                });
                // What labels mean to the task (its classes, the frames) is in the targets; the validation looks at the
                // labels too.
                for target in &self.targets[index] {
                    hasher.update(&target.to_le_bytes());
                }
                for label in &recording.labels {
                    hasher.update(format!("{:?}", (label.start_s, label.end_s, &label.label)).as_bytes());
                }
            }
        }
        hasher.finalize().to_hex()[..24].to_owned()
    }

    fn network(&self, layer: usize, (config, hidden): (FitConfig, usize)) -> MlpConfig {
        let (depth, outputs) = (self.plan.params.depth, self.task.outputs());
        MlpConfig { inputs: self.width(layer), hidden, layers: depth, outputs, dropout: config.dropout }
    }

    fn fit_now(&self, layer: usize, repeat: u64, setting: (FitConfig, usize)) -> Result<Fitted, StageError> {
        let examples = Windows { bench: self, parts: &self.plan.layers[layer].1 };
        let (network, config) = (self.network(layer, setting), setting.0);
        let valid = &self.splits[place(Split::Valid)];
        let mut quality = |mlp: &Mlp| -> Result<f64, ProbeError> {
            let logits = self.logits(mlp, layer, valid)?;
            Ok(self.task.quality(&self.answers(valid, &logits)))
        };
        let seed = seed::derive(self.seed, &[repeat]);
        fit(&config, network, &self.task.objective(), &examples, &mut quality, (seed, &self.device)).map_err(|error| {
            StageError::Failed(format!("layer `{}`, repeat {repeat}: {error}", self.plan.layers[layer].0))
        })
    }

    fn outcome(&self, layer: usize, repeat: u64, setting: (FitConfig, usize)) -> Result<Outcome, StageError> {
        let fitted = self.fit(layer, repeat, setting)?;
        let score = |split: Split| -> Result<Scored, StageError> {
            let indices = &self.splits[place(split)];
            let logits = self.logits(&fitted.mlp, layer, indices)?;
            Ok(self.task.score(&self.answers(indices, &logits))?)
        };
        let (valid, test) = (score(Split::Valid)?, score(Split::Test)?);
        Ok(Outcome { layer, repeat, quality: fitted.quality, looks: fitted.looks, setting, valid, test })
    }

    /// Values per vector of a layer.
    fn width(&self, layer: usize) -> usize {
        let dims = self.plan.source.dims(self.plan.pool);
        self.plan.layers[layer].1.iter().map(|part| dims[*part]).sum()
    }

    /// Logits of recordings, one list each.
    fn logits(&self, mlp: &Mlp, layer: usize, indices: &[usize]) -> Result<Vec<Vec<f32>>, ProbeError> {
        let parts = &self.plan.layers[layer].1;
        let (mut logits, mut rows, mut lengths) = (Vec::with_capacity(indices.len()), Vec::new(), Vec::new());
        for (position, &index) in indices.iter().enumerate() {
            let frames = self.corpus.recordings[index].times.len();
            self.append(index, 0..frames, parts, &mut rows);
            lengths.push(frames * self.task.outputs());
            if rows.len() >= ROWS * self.width(layer) || position + 1 == indices.len() {
                let mut rest = &mlp.predict(&rows)?[..];
                for length in lengths.drain(..) {
                    let (own, others) = rest.split_at(length);
                    logits.push(own.to_vec());
                    rest = others;
                }
                rows.clear();
            }
        }
        Ok(logits)
    }

    fn answers<'b>(&'b self, indices: &[usize], logits: &'b [Vec<f32>]) -> Vec<Answer<'b>> {
        let answer = |(index, logits): (&usize, &'b Vec<f32>)| Answer { of: &self.corpus.recordings[*index], logits };
        indices.iter().zip(logits).map(answer).collect()
    }

    /// Appends frames of a recording, the parts of a layer side by side.
    fn append(&self, index: usize, frames: Range<usize>, parts: &[usize], rows: &mut Vec<f32>) {
        let (columns, dims) = (&self.corpus.columns[index], self.plan.source.dims(self.plan.pool));
        if let [part] = parts[..] {
            rows.extend_from_slice(&columns[part][frames.start * dims[part]..frames.end * dims[part]]);
            return;
        }
        for frame in frames {
            for part in parts {
                rows.extend_from_slice(&columns[*part][frame * dims[*part]..(frame + 1) * dims[*part]]);
            }
        }
    }
}

/// Windows of the recordings of `train`.
struct Windows<'a> {
    bench: &'a Bench<'a>,
    parts: &'a [usize],
}

impl Examples for Windows<'_> {
    fn len(&self) -> usize {
        self.bench.windows.len()
    }

    fn append(&self, index: usize, rows: &mut Vec<f32>, targets: &mut Vec<f32>) {
        let (recording, frames) = &self.bench.windows[index];
        let outputs = self.bench.task.outputs();
        targets.extend_from_slice(&self.bench.targets[*recording][frames.start * outputs..frames.end * outputs]);
        self.bench.append(*recording, frames.clone(), self.parts, rows);
    }
}

/// Frames of a recording in windows of so many seconds.
fn windows(recording: &Annotated, window_s: f64, unit: Unit) -> Vec<Range<usize>> {
    let frames = 0..recording.times.len();
    if unit == Unit::Recording {
        return vec![frames];
    }
    let window = |frame: &usize| (recording.times[*frame] / window_s + 1e-9).floor();
    let all: Vec<usize> = frames.collect();
    all.chunk_by(|a, b| window(a) == window(b)).map(|run| run[0]..run[run.len() - 1] + 1).collect()
}

/// All three splits must have recordings.
fn check_splits(plan: &Plan, corpus: &Corpus, splits: &[Vec<usize>; 3]) -> Result<(), StageError> {
    let Some(empty) =
        [Split::Train, Split::Valid, Split::Test].into_iter().find(|split| splits[place(*split)].is_empty())
    else {
        return Ok(());
    };
    let coverage = &corpus.coverage;
    let named = |names: &[String]| names.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let [train, valid, test] = coverage.used;
    let mut message = format!(
        "task `{}` has nothing in the `{}` split: {} annotated recordings, of which {train} in train, {valid} in valid \
         and {test} in test have audio that could be used",
        plan.task.as_str(),
        empty.as_str(),
        coverage.annotated
    );
    if coverage.unheard > 0 {
        message += &format!(
            "; {} have none, such as {}: recordings are matched by their paths below the root of the audio, which the \
             annotations and the audio node must share",
            coverage.unheard,
            named(&coverage.unheard_names)
        );
    }
    Err(StageError::Failed(message))
}

fn rows(
    bench: &Bench<'_>,
    outcomes: &[Outcome],
    selected: usize,
    schema: &SchemaRef,
) -> Result<RecordBatch, StageError> {
    let plan = bench.plan;
    let mut table = Vec::new();
    for outcome in outcomes {
        for (split, scored) in [(Split::Valid, &outcome.valid), (Split::Test, &outcome.test)] {
            table.extend(scored.figures.iter().map(|figure| (outcome, split, figure)));
        }
    }
    let fixed = |value: &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(table.iter().map(|_| value))) };
    let intervals: Vec<Option<(f64, f64)>> = table
        .iter()
        .map(|(_, _, figure)| {
            (figure.each.len() > 1).then(|| bootstrap::interval(&figure.each, 0.95, RESAMPLES, bench.seed))
        })
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
        Arc::new(table.iter().map(|row| Some(row.0.repeat)).collect::<UInt64Array>()),
        Arc::new(table.iter().map(|row| Some(row.2.value)).collect::<Float64Array>()),
        Arc::new(intervals.iter().map(|interval| interval.map(|interval| interval.0)).collect::<Float64Array>()),
        Arc::new(intervals.iter().map(|interval| interval.map(|interval| interval.1)).collect::<Float64Array>()),
        Arc::new(table.iter().map(|row| Some(row.2.n as u64)).collect::<UInt64Array>()),
        Arc::new(table.iter().map(|row| Some(row.0.layer == selected)).collect::<BooleanArray>()),
    ];
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
