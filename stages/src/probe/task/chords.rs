//! Chords: per frame one of 24 major and minor triads, or none (Isophonics, Billboard, RWC, USpop).
//!
//! Labels outside the vocabulary (`mir_eval`'s rule for `majmin`: suspended, diminished, augmented, ...) are neither
//! learned nor scored. Frames are answered one by one; equal neighbours become an interval. `standard`: a whole recording
//! at a time, the mean over recordings, all of MIREX's vocabularies. `published`: a figure per segment of 30 s, the mean
//! over segments, as the code of the paper's author for this task has it (the published one is not known).

use super::{Annotated, Answer, Confusion, Figure, Protocol, Scored, Statement, Task, TaskSetting, Unit, largest};
use crate::probe::ProbeError;
use crate::probe::objective::Objective;
use crate::score::chord::{self, Chord};

/// The metric that the task is judged by: share of the annotated time whose root and third are right.
pub(super) const METRIC: &str = "majmin";
/// Twelve major triads, twelve minor ones, none.
const CLASSES: usize = 25;
/// Seconds of a segment of the published figure.
const SEGMENT: f64 = 30.0;

/// See the module.
#[derive(Debug)]
pub struct Chords {
    protocol: Protocol,
}

impl Chords {
    /// The task.
    ///
    /// # Errors
    /// When all of the `train` split is one chord.
    pub fn new(setting: &TaskSetting<'_>) -> Result<Self, ProbeError> {
        let all = |recording: &Annotated| {
            let mut chords: Vec<&str> = recording.labels.iter().map(|label| label.label.as_str()).collect();
            chords.sort_unstable();
            chords.dedup();
            Some(chords.join(" "))
        };
        if setting.recordings.iter().all(|recording| all(recording).is_none_or(|chords| !chords.contains(' '))) {
            super::several_classes(setting.recordings, all)?;
        }
        Ok(Self { protocol: setting.protocol })
    }
}

/// The class of a label; `None` outside the vocabulary.
fn class(label: &str) -> Result<Option<usize>, String> {
    let chord = Chord::parse(label).map_err(|error| error.to_string())?;
    Ok(chord::majmin_class(&chord))
}

/// The class at the start of every frame.
fn classes(of: &Annotated) -> Result<Vec<Option<usize>>, String> {
    let mut found = vec![None; of.times.len()];
    for label in &of.labels {
        let (Some(start), Some(end)) = (label.start_s, label.end_s) else {
            return Err(format!("the chord `{}` has no start and end", label.label));
        };
        if let Some(class) = class(&label.label)? {
            let frames = of.times.partition_point(|time| *time < start)..of.times.partition_point(|time| *time < end);
            found[frames.start..frames.end.max(frames.start)].fill(Some(class));
        }
    }
    Ok(found)
}

/// Frames of one answer after the other as an interval.
fn intervals(of: &Annotated, logits: &[f32]) -> Vec<(f64, f64, usize)> {
    let mut intervals: Vec<(f64, f64, usize)> = Vec::new();
    for (frame, row) in logits.chunks_exact(CLASSES).enumerate() {
        let (start, end, class) = (of.times[frame], of.frame_end(frame), largest(row));
        match intervals.last_mut() {
            Some(last) if last.2 == class && start - last.1 < 1e-9 => last.1 = end,
            _ => intervals.push((start, end, class)),
        }
    }
    intervals
}

/// Intervals with labels, those outside `from..to` cut away.
fn cut(intervals: impl Iterator<Item = (f64, f64, String)>, from: f64, to: f64) -> chord::Annotation {
    let inside = intervals.map(|(start, end, label)| (start.max(from), end.min(to), label));
    let (intervals, labels) = inside.filter(|(start, end, _)| end > start).map(|(s, e, l)| ((s, e), l)).unzip();
    chord::Annotation { intervals, labels }
}

impl Chords {
    /// The figures of one recording between two times.
    fn figures(&self, answer: &Answer<'_>, from: f64, to: f64) -> Result<Option<chord::ChordScores>, ProbeError> {
        let of = answer.of;
        let truth = of.labels.iter().filter_map(|l| Some((l.start_s?, l.end_s?, l.label.clone())));
        let truth = cut(truth, from, to);
        let found = intervals(of, answer.logits).into_iter().map(|(s, e, c)| (s, e, chord::majmin_label(c)));
        let found = cut(found, from, to);
        if truth.intervals.is_empty() || found.intervals.is_empty() {
            return Ok(None);
        }
        let scores = chord::evaluate(&truth, &found);
        scores.map(Some).map_err(|error| ProbeError::Task(of.name.clone(), error.to_string()))
    }
}

impl Task for Chords {
    fn unit(&self) -> Unit {
        Unit::Frames
    }

    fn outputs(&self) -> usize {
        CLASSES
    }

    fn objective(&self) -> Objective {
        Objective::Classes
    }

    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String> {
        let mut targets = vec![0.0; of.times.len() * CLASSES];
        for (row, class) in targets.chunks_exact_mut(CLASSES).zip(classes(of)?) {
            match class {
                Some(class) => row[class] = 1.0,
                None => row.fill(f32::NAN),
            }
        }
        Ok(targets)
    }

    fn quality(&self, answers: &[Answer<'_>]) -> f64 {
        let (mut right, mut all) = (0usize, 0usize);
        for answer in answers {
            let Ok(classes) = classes(answer.of) else { return f64::NAN };
            for (row, class) in answer.logits.chunks_exact(CLASSES).zip(classes) {
                let Some(class) = class else { continue };
                all += 1;
                right += usize::from(largest(row) == class);
            }
        }
        right as f64 / all.max(1) as f64
    }

    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError> {
        let names: Vec<String> = (0..CLASSES).map(chord::majmin_label).collect();
        let mut confusion = Confusion::new("frames", names);
        let (mut each, mut predictions) = (Vec::new(), Vec::new());
        for answer in answers {
            let wrong = |message: String| ProbeError::Task(answer.of.name.clone(), message);
            for (row, class) in answer.logits.chunks_exact(CLASSES).zip(classes(answer.of).map_err(wrong)?) {
                if let Some(class) = class {
                    confusion.counts[class][largest(row)] += 1.0;
                }
            }
            let end = answer.of.labels.iter().filter_map(|label| label.end_s).fold(0.0, f64::max);
            let segments = match self.protocol {
                Protocol::Standard => vec![(0.0, end)],
                Protocol::Published => {
                    let count = (end / SEGMENT).ceil().max(1.0) as usize;
                    (0..count).map(|i| (i as f64 * SEGMENT, ((i + 1) as f64 * SEGMENT).min(end))).collect()
                }
            };
            for (from, to) in segments {
                each.extend(self.figures(answer, from, to)?);
            }
            let found = intervals(answer.of, answer.logits).into_iter();
            predictions.push(found.map(|(s, e, class)| Statement::between(s, e, chord::majmin_label(class))).collect());
        }
        let figure =
            |metric: &str, of: fn(&chord::ChordScores) -> f64| Figure::mean(metric, each.iter().map(of).collect());
        let mut figures = vec![
            figure(METRIC, |s| s.majmin),
            figure("root", |s| s.root),
            figure("thirds", |s| s.thirds),
            figure("triads", |s| s.triads),
            figure("sevenths", |s| s.sevenths),
            figure("mirex", |s| s.mirex),
            figure("segmentation", |s| s.seg),
        ];
        let right: f64 = (0..CLASSES).map(|class| confusion.counts[class][class]).sum();
        let all: f64 = confusion.counts.iter().flatten().sum();
        figures.push(Figure::whole("frame accuracy", right / all.max(1.0), answers.len()));
        Ok(Scored { figures, confusion: Some(confusion), predictions })
    }
}
