//! One split of a corpus: fits probes of layers, and scores them.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::Device;
use omar_schemas::Split;
use serde_json::json;

use super::collect::{Corpus, place};
use super::kept;
use super::store::Store;
use super::windows::{TrainingSet, Windows};
use super::{Plan, Probe};
use crate::error::StageError;
use crate::model::Stream;
use crate::probe::ProbeError;
use crate::probe::fit::{FitConfig, Fitted, Look, fit};
use crate::probe::mlp::{Mlp, MlpConfig};
use crate::probe::task::{Annotated, Answer, Scored, Task, TaskSetting};
use crate::seed;
use crate::stage::{StageContext, StageKind};

/// Rows that are predicted together.
const ROWS: usize = 8192;

/// What is the same for all layers.
pub(super) struct Bench<'a> {
    plan: &'a Plan,
    corpus: &'a Corpus,
    store: &'a Store,
    fold: Option<u32>,
    /// With what they are used for in this fold.
    recordings: Cow<'a, [Annotated]>,
    pub(super) task: Box<dyn Task>,
    pub(super) targets: Vec<Vec<f32>>,
    splits: [Vec<usize>; 3],
    pub(super) windows: Windows,
    seed: u64,
    device: Device,
}

/// A fitted and scored probe.
pub(super) struct Outcome {
    pub(super) layer: usize,
    /// Where there are several.
    pub(super) fold: Option<u32>,
    pub(super) repeat: u64,
    pub(super) quality: f64,
    pub(super) looks: Vec<Look>,
    pub(super) setting: (FitConfig, usize),
    pub(super) valid: Scored,
    pub(super) test: Scored,
}

impl<'a> Bench<'a> {
    /// Of a fold, where there are several.
    pub(super) fn new(
        plan: &'a Plan,
        (corpus, store): (&'a Corpus, &'a Store),
        context: &StageContext,
        fold: Option<u32>,
    ) -> Result<Self, StageError> {
        let splits = [Split::Train, Split::Valid, Split::Test].map(|split| corpus.of(fold, split));
        check_splits(plan, corpus, &splits, fold)?;
        let mut recordings = Cow::Borrowed(&corpus.recordings[..]);
        if fold.is_some() {
            let own = recordings.to_mut();
            own.iter_mut().for_each(|recording| recording.training = false);
            splits[place(Split::Train)].iter().for_each(|index| own[*index].training = true);
        }
        let setting = TaskSetting {
            protocol: plan.params.protocol,
            classes: plan.labels.classes.as_deref(),
            recordings: &recordings,
            downbeats: plan.params.downbeats,
            decoding_rate: plan.params.decoding_rate,
        };
        let task = plan.task.task(&setting)?;
        let targets = recordings.iter().map(|recording| {
            task.targets(recording).map_err(|message| StageError::Failed(format!("`{}`: {message}", recording.name)))
        });
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let train = &splits[place(Split::Train)];
        let windows = Windows::new(&recordings, train, plan.params.window_s, (plan.task, plan.params.protocol));
        let (seed, device) = (context.seed, context.device()?);
        Ok(Self { plan, corpus, store, fold, recordings, task, targets, splits, windows, seed, device })
    }

    /// Tries the settings of the search with one seed; learning setting and hidden width of the best.
    pub(super) fn search(&self, layer: usize) -> Result<(FitConfig, usize), StageError> {
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
        let mut settings = json!([
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
        // Windows are drawn since: what was kept before saw others.
        if let (Windows::Drawn(_), Some(settings)) = (&self.windows, settings.as_array_mut()) {
            settings.push(json!(["drawn windows", self.plan.task.overlap()]));
        }
        hasher.update(settings.to_string().as_bytes());
        for split in [Split::Train, Split::Valid] {
            for &index in &self.splits[place(split)] {
                let recording = &self.recordings[index];
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
        let seed = seed::derive(self.seed, &[repeat]);
        let stream = Stream::new(seed, "probe windows");
        let examples = TrainingSet { bench: self, parts: &self.plan.layers[layer].1, stream };
        let (network, config) = (self.network(layer, setting), setting.0);
        let valid = &self.splits[place(Split::Valid)];
        let mut quality = |mlp: &Mlp| -> Result<f64, ProbeError> {
            let logits = self.logits(mlp, layer, valid)?;
            Ok(self.task.quality(&self.answers(valid, &logits)))
        };
        fit(&config, network, &self.task.objective(), &examples, &mut quality, (seed, &self.device)).map_err(|error| {
            StageError::Failed(format!(
                "layer `{}`{}, repeat {repeat}: {error}",
                self.plan.layers[layer].0,
                of_fold(self.fold)
            ))
        })
    }

    pub(super) fn outcome(
        &self,
        layer: usize,
        repeat: u64,
        setting: (FitConfig, usize),
    ) -> Result<Outcome, StageError> {
        let fitted = self.fit(layer, repeat, setting)?;
        let score = |split: Split| -> Result<Scored, StageError> {
            let indices = &self.splits[place(split)];
            let logits = self.logits(&fitted.mlp, layer, indices)?;
            Ok(self.task.score(&self.answers(indices, &logits))?)
        };
        let (valid, test) = (score(Split::Valid)?, score(Split::Test)?);
        Ok(Outcome {
            layer,
            fold: self.fold,
            repeat,
            quality: fitted.quality,
            looks: fitted.looks,
            setting,
            valid,
            test,
        })
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
            let frames = self.recordings[index].times.len();
            self.append(index, 0..frames, parts, &mut rows)?;
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
        let answer = |(index, logits): (&usize, &'b Vec<f32>)| Answer { of: &self.recordings[*index], logits };
        indices.iter().zip(logits).map(answer).collect()
    }

    /// Appends frames of a recording, the parts of a layer side by side.
    pub(super) fn append(
        &self,
        index: usize,
        frames: Range<usize>,
        parts: &[usize],
        rows: &mut Vec<f32>,
    ) -> Result<(), ProbeError> {
        let (columns, dims) = (&self.corpus.columns[index], self.plan.source.dims(self.plan.pool));
        let values = |part: usize| frames.start * dims[part]..frames.end * dims[part];
        if let [part] = parts[..] {
            return self.store.append(&columns[part], values(part), rows);
        }
        let mut of_parts = Vec::with_capacity(parts.len());
        for part in parts {
            let mut own = Vec::new();
            self.store.append(&columns[*part], values(*part), &mut own)?;
            of_parts.push((own, dims[*part]));
        }
        for frame in 0..frames.len() {
            of_parts.iter().for_each(|(own, dim)| rows.extend_from_slice(&own[frame * dim..(frame + 1) * dim]));
        }
        Ok(())
    }
}

/// All three splits must have recordings.
fn check_splits(plan: &Plan, corpus: &Corpus, splits: &[Vec<usize>; 3], fold: Option<u32>) -> Result<(), StageError> {
    let Some(empty) =
        [Split::Train, Split::Valid, Split::Test].into_iter().find(|split| splits[place(*split)].is_empty())
    else {
        return Ok(());
    };
    let coverage = &corpus.coverage;
    let named = |names: &[String]| names.iter().take(3).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let [train, valid, test] = splits.each_ref().map(Vec::len);
    let mut message = format!(
        "task `{}`{} has nothing in the `{}` split: {} annotated recordings, of which {train} in train, {valid} in valid \
         and {test} in test have audio that could be used",
        plan.task.as_str(),
        of_fold(fold),
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

/// `, fold 3`, where there are several.
fn of_fold(fold: Option<u32>) -> String {
    fold.map_or(String::new(), |fold| format!(", fold {fold}"))
}
