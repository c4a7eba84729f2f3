//! One task on one layer: fit, choose, score.

use omar_schemas::Split;

use super::gather::{Layer, Recording};
use crate::error::StageError;
use crate::probe::labels::{self, Labels, TaskKind};
use crate::probe::lbfgs::Stop;
use crate::probe::logistic::{Classifier, Standardizer, Vectors};
use crate::probe::measures::{accuracy, majority, peaks};
use crate::score::ranking::average_precision;
use crate::score::{ScoreError, beat};

/// Seconds around a true event within which a found one counts (MIREX and `mir_eval`, beats).
const TOLERANCE: f64 = 0.07;
/// Probabilities above which a peak may count.
const THRESHOLDS: [f32; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// A row of the output.
#[derive(Debug, Clone)]
pub(super) struct Score {
    pub(super) task: String,
    pub(super) layer: String,
    pub(super) metric: &'static str,
    pub(super) value: f64,
    pub(super) valid: f64,
    pub(super) chance: f64,
    pub(super) n_train: usize,
    pub(super) n_test: usize,
    pub(super) l2: f64,
}

/// What is to be predicted.
pub(super) struct Targets {
    task: String,
    kind: TaskKind,
    classes: usize,
    rate: Option<f64>,
    train: Part,
    valid: Part,
    test: Part,
}

/// The examples of a split.
#[derive(Default)]
struct Part {
    /// Recording, by its place, and frame; `None` for the whole of it.
    at: Vec<(usize, Option<usize>)>,
    classes: Vec<u32>,
    /// Per recording of the split: its examples, and the times of its events.
    recordings: Vec<(std::ops::Range<usize>, Vec<f64>)>,
}

impl Part {
    fn vectors(&self, recordings: &[Recording], layer: &Layer) -> Vec<f32> {
        let dim = recordings.first().map_or(0, |recording| recording.dim(layer));
        let mut rows = Vec::with_capacity(self.at.len() * dim);
        for (recording, frame) in &self.at {
            match frame {
                Some(frame) => recordings[*recording].frame_into(layer, *frame, &mut rows),
                None => recordings[*recording].mean_into(layer, &mut rows),
            }
        }
        rows
    }
}

impl Targets {
    /// The labelled examples of every split.
    pub(super) fn new(
        task: &str,
        kind: TaskKind,
        labels: &Labels,
        recordings: &[Recording],
        rate: Option<f64>,
    ) -> Result<Self, StageError> {
        let names = labels::classes(kind, labels);
        let (task, classes) = (task.to_owned(), names.len());
        let mut targets =
            Self { task, kind, classes, rate, train: Part::default(), valid: Part::default(), test: Part::default() };
        for (place, recording) in recordings.iter().enumerate() {
            let Some(labels) = labels.get(&recording.path) else { continue };
            let part = match recording.split {
                Split::Train => &mut targets.train,
                Split::Valid => &mut targets.valid,
                Split::Test => &mut targets.test,
            };
            let (whole, frames) = (kind == TaskKind::Recording, recording.frames());
            let (count, rate) = if whole { (1, 1.0) } else { (frames, rate.unwrap_or(1.0)) };
            let found = labels::frames(kind, labels, &names, count, rate)
                .map_err(|message| StageError::Failed(format!("`{}`: {message}", recording.path)))?;
            let first = part.at.len();
            for (frame, class) in found.into_iter().enumerate() {
                if let Some(class) = class.filter(|_| whole || recording.has(frame)) {
                    part.at.push((place, (!whole).then_some(frame)));
                    part.classes.push(class);
                }
            }
            let end = frames as f64 / rate;
            let mut events: Vec<f64> =
                labels.iter().filter_map(|label| label.start).filter(|time| *time < end).collect();
            events.sort_by(f64::total_cmp);
            part.recordings.push((first..part.at.len(), events));
        }
        targets.check(recordings)?;
        Ok(targets)
    }

    fn check(&self, recordings: &[Recording]) -> Result<(), StageError> {
        for (part, split) in [(&self.train, "train"), (&self.valid, "valid"), (&self.test, "test")] {
            if part.at.is_empty() {
                let example = recordings.first().map_or("there is none".to_owned(), |r| format!("`{}`", r.path));
                let message = format!(
                    "task `{}` has no labelled recording in the `{split}` split: labels name recordings as the corpus \
                     does (here: {example}), and all three splits are needed",
                    self.task
                );
                return Err(StageError::Failed(message));
            }
        }
        Ok(())
    }

    /// What decides between penalties.
    fn quality(&self, scores: &[f32], part: &Part) -> f64 {
        match self.kind {
            TaskKind::Events => {
                let odds: Vec<f64> = odds(scores).into_iter().map(f64::from).collect();
                average_precision(&odds, &positive(&part.classes))
            }
            _ => accuracy(scores, &part.classes, self.classes),
        }
    }

    /// The mean over recordings of the F-measure of peaks above a probability.
    fn events(&self, scores: &[f32], part: &Part, threshold: f32) -> Result<f64, ScoreError> {
        let (odds, rate) = (odds(scores), self.rate.unwrap_or(1.0));
        let least = (threshold / (1.0 - threshold)).ln();
        let each = part.recordings.iter().map(|(examples, events)| {
            let middle = |(_, frame): &(usize, Option<usize>)| (frame.unwrap_or(0) as f64 + 0.5) / rate;
            let times: Vec<f64> = part.at[examples.clone()].iter().map(middle).collect();
            beat::f_measure(events, &peaks(&times, &odds[examples.clone()], least), TOLERANCE)
        });
        Ok(each.sum::<Result<f64, _>>()? / part.recordings.len().max(1) as f64)
    }
}

/// Logarithm of the odds of an event.
fn odds(scores: &[f32]) -> Vec<f32> {
    scores.chunks_exact(2).map(|row| row[1] - row[0]).collect()
}

fn positive(classes: &[u32]) -> Vec<bool> {
    classes.iter().map(|class| *class == 1).collect()
}

/// Probes one layer.
pub(super) fn probe(
    targets: &Targets,
    recordings: &[Recording],
    layer: &Layer,
    l2: &[f64],
) -> Result<Vec<Score>, StageError> {
    let dim = recordings.first().map_or(0, |recording| recording.dim(layer));
    let mut train = targets.train.vectors(recordings, layer);
    let standardizer = Standardizer::of(&train, dim);
    standardizer.apply(&mut train);
    let standardized = |part: &Part| {
        let mut rows = part.vectors(recordings, layer);
        standardizer.apply(&mut rows);
        Vectors::new(rows, dim)
    };
    let (train, valid, test) = (Vectors::new(train, dim)?, standardized(&targets.valid)?, standardized(&targets.test)?);
    let mut best: Option<(f64, f64, Classifier)> = None;
    let mut start: Option<Classifier> = None;
    for l2 in l2 {
        let labels = &targets.train.classes;
        let classifier = Classifier::fit(&train, labels, targets.classes, *l2, Stop::default(), start.as_ref())?;
        let quality = targets.quality(&classifier.scores(&valid)?, &targets.valid);
        if best.as_ref().is_none_or(|best| quality > best.0) {
            best = Some((quality, *l2, classifier.clone()));
        }
        start = Some(classifier);
    }
    let Some((quality, l2, classifier)) = best else {
        return Err(StageError::Failed(format!("task `{}`: no penalty gave a finite score", targets.task)));
    };
    let (on_valid, on_test) = (classifier.scores(&valid)?, classifier.scores(&test)?);
    let score = |metric, value, valid, chance| Score {
        task: targets.task.clone(),
        layer: layer.name.clone(),
        metric,
        value,
        valid,
        chance,
        n_train: targets.train.at.len(),
        n_test: targets.test.at.len(),
        l2,
    };
    let value = targets.quality(&on_test, &targets.test);
    let (train, test) = (&targets.train.classes, &targets.test.classes);
    if targets.kind != TaskKind::Events {
        return Ok(vec![score("accuracy", value, quality, majority(train, test, targets.classes))]);
    }
    let share = positive(test).iter().filter(|positive| **positive).count() as f64 / test.len() as f64;
    let wrong = |error: ScoreError| StageError::Failed(format!("task `{}`: {error}", targets.task));
    let at = |threshold: &f32| Ok((targets.events(&on_valid, &targets.valid, *threshold)?, *threshold));
    let all = THRESHOLDS.iter().map(at).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let (valid, threshold) = all.into_iter().fold((f64::NEG_INFINITY, 0.5), |a, b| if b.0 > a.0 { b } else { a });
    let f = targets.events(&on_test, &targets.test, threshold).map_err(wrong)?;
    Ok(vec![score("average_precision", value, quality, share), score("f_measure", f, valid, 0.0)])
}
