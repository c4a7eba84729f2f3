//! The tasks that representations are judged by: how labels become targets, and logits figures.
//!
//! | file | predicts | figure | published as |
//! |---|---|---|---|
//! | [`tagging`] | tags of a recording | mean average precision | MagnaTagATune |
//! | [`pitch`] | the pitch of a note | accuracy | NSynth |
//! | [`chords`] | major, minor or no chord per frame | weighted accuracy | Isophonics, Billboard, RWC, USpop |
//! | [`beats`] | beats and downbeats per frame | F-measure | Harmonix, GTZAN |
//! | [`structure`] | functions and boundaries per frame | frame accuracy | Harmonix |
//! | [`difficulty`] | the grade of a piano piece | mean squared error | PianoSyllabus |
//!
//! To add one: a file with an implementation of [`Task`], and its lines in [`TaskKind`].

pub mod beats;
pub mod chords;
pub mod difficulty;
pub mod pitch;
pub mod structure;
pub mod tagging;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProbeError;
use super::fit::FitConfig;
pub(crate) use super::measures::largest;
use super::objective::Objective;
pub use crate::dataset::Task as TaskKind;

/// How predictions become figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// As the field defines the metrics (`mir_eval`, scikit-learn), on whole recordings and annotations as they are.
    #[default]
    Standard,
    /// As the published code of OMAR-RQ computes them, where it differs: see each task.
    Published,
}

/// What predictions are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One for a recording.
    Recording,
    /// One for every frame.
    Frames,
}

/// A recording with what is said about it.
#[derive(Debug, Clone)]
pub struct Annotated {
    /// As the corpus names it.
    pub name: String,
    /// Whether the probe learns from it.
    pub training: bool,
    /// Where each frame starts, in seconds; a single 0 for [`Unit::Recording`].
    pub times: Vec<f64>,
    /// Where what was heard ends, in seconds.
    pub end: f64,
    /// Frames per second.
    pub rate: f64,
    /// In the order of time.
    pub labels: Vec<Statement>,
}

impl Annotated {
    /// Where frame `frame` ends: where the next one starts, or after the length of one.
    pub fn frame_end(&self, frame: usize) -> f64 {
        let length = if self.rate > 0.0 { 1.0 / self.rate } else { self.end };
        let own = self.times[frame] + length;
        self.times.get(frame + 1).map_or(own, |next| next.min(own))
    }

    /// The frame whose start is nearest to a time, the first of equals; `None` for a time more than a frame outside.
    pub fn nearest(&self, time: f64) -> Option<usize> {
        let length = if self.rate > 0.0 { 1.0 / self.rate } else { 0.0 };
        let (first, last) = (*self.times.first()?, *self.times.last()?);
        if time < first - length / 2.0 || time > last + length {
            return None;
        }
        let after = self.times.partition_point(|start| *start < time);
        let before = after.saturating_sub(1);
        let after = after.min(self.times.len() - 1);
        Some(if (self.times[before] - time).abs() <= (self.times[after] - time).abs() { before } else { after })
    }

    /// The times of labels.
    pub fn starts(&self) -> Vec<f64> {
        self.labels.iter().filter_map(|label| label.start_s).collect()
    }

    /// The label of a recording that has exactly one.
    ///
    /// # Errors
    /// When it has another number, in words.
    pub fn only_label(&self) -> Result<&str, String> {
        match &self.labels[..] {
            [label] => Ok(&label.label),
            labels => Err(format!("expected one label of the whole recording, found {}", labels.len())),
        }
    }
}

/// What a probe says about a recording.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The recording.
    pub of: &'a Annotated,
    /// `(frames, outputs)`, frames being 1 for [`Unit::Recording`].
    pub logits: &'a [f32],
}

/// A figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Name of the metric.
    pub metric: String,
    /// The class that it is about; `None`: all.
    pub class: Option<String>,
    /// Its value.
    pub value: f64,
    /// Where it is a mean over recordings: their values, in order.
    pub each: Vec<f64>,
    /// Recordings behind it.
    pub n: usize,
}

impl Figure {
    /// A mean over recordings; 0 over none.
    pub fn mean(metric: &str, each: Vec<f64>) -> Self {
        let value = each.iter().sum::<f64>() / each.len().max(1) as f64;
        Self { metric: metric.to_owned(), class: None, value, n: each.len(), each }
    }

    /// A figure of all recordings together.
    pub fn whole(metric: &str, value: f64, n: usize) -> Self {
        Self { metric: metric.to_owned(), class: None, value, n, each: Vec::new() }
    }

    /// The same for one class.
    #[must_use]
    pub fn of_class(self, class: &str) -> Self {
        Self { class: Some(class.to_owned()), ..self }
    }
}

/// How often what is one class was taken for another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confusion {
    /// What was counted: frames, recordings, seconds.
    pub unit: String,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// `counts[truth][answer]`.
    pub counts: Vec<Vec<f64>>,
}

impl Confusion {
    /// Without any count.
    pub fn new(unit: &str, classes: Vec<String>) -> Self {
        let counts = vec![vec![0.0; classes.len()]; classes.len()];
        Self { unit: unit.to_owned(), classes, counts }
    }
}

/// Something that is said about a recording: by who annotated it, or by a probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// In seconds; `None` where it is about the whole recording.
    pub start_s: Option<f64>,
    /// In seconds; `None` where it is about an instant.
    pub end_s: Option<f64>,
    /// In the words of the annotations.
    pub label: String,
}

impl Statement {
    /// About a whole recording.
    pub fn whole(label: impl Into<String>) -> Self {
        Self { start_s: None, end_s: None, label: label.into() }
    }

    /// About an instant.
    pub fn at(time: f64, label: impl Into<String>) -> Self {
        Self { start_s: Some(time), end_s: None, label: label.into() }
    }

    /// About an interval.
    pub fn between(start: f64, end: f64, label: impl Into<String>) -> Self {
        Self { start_s: Some(start), end_s: Some(end), label: label.into() }
    }
}

/// All that a task says about answers.
#[derive(Debug, Clone, Default)]
pub struct Scored {
    /// The first is the one the task is judged by.
    pub figures: Vec<Figure>,
    /// For tasks of classes.
    pub confusion: Option<Confusion>,
    /// Per answer, in order.
    pub predictions: Vec<Vec<Statement>>,
}

/// A task.
pub trait Task: Send {
    /// What predictions are made for.
    fn unit(&self) -> Unit;

    /// Logits of a prediction.
    fn outputs(&self) -> usize;

    /// What the probe is trained to do.
    fn objective(&self) -> Objective;

    /// Targets of a recording: `(frames, outputs)`; NaN where there is none.
    ///
    /// # Errors
    /// What is wrong with its labels, in words.
    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String>;

    /// How good answers are, cheaply; larger is better. Chooses among weights, layers and settings.
    fn quality(&self, answers: &[Answer<'_>]) -> f64;

    /// All figures.
    ///
    /// # Errors
    /// When a metric is not defined for what was annotated or answered.
    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError>;
}

/// What a task is made from, beside its kind.
#[derive(Debug, Clone)]
pub struct TaskSetting<'a> {
    /// How predictions become figures.
    pub protocol: Protocol,
    /// All classes, where the data set fixes them.
    pub classes: Option<&'a [String]>,
    /// The annotated recordings of all splits.
    pub recordings: &'a [Annotated],
    /// Whether beats come with downbeats.
    pub downbeats: bool,
    /// Rate of the grid on which beats are decoded, in Hz; `None`: that of the frames.
    pub decoding_rate: Option<f64>,
}

impl TaskKind {
    /// What its predictions are made for.
    pub fn unit(self) -> Unit {
        match self {
            Self::Tagging | Self::Pitch | Self::Difficulty => Unit::Recording,
            Self::Chords | Self::Beats | Self::Structure => Unit::Frames,
        }
    }

    /// The metric that it is judged by, and whether smaller is better.
    pub fn metric(self) -> (&'static str, bool) {
        match self {
            Self::Tagging => (tagging::METRIC, false),
            Self::Pitch => (pitch::METRIC, false),
            Self::Chords => (chords::METRIC, false),
            Self::Beats => (beats::METRIC, false),
            Self::Structure => (structure::METRIC, false),
            Self::Difficulty => (difficulty::METRIC, true),
        }
    }

    /// Frames per second that suit it, where not every vector is to be one.
    pub fn rate(self) -> Option<f64> {
        matches!(self, Self::Structure).then_some(5.0)
    }

    /// The share of a window that the next one has too, where windows overlap as published; a half where nothing is known.
    pub fn overlap(self) -> f64 {
        if self == Self::Structure { 0.9 } else { 0.5 }
    }

    /// How its probe is trained as published; for chords and difficulty nothing is, and what suits the others is taken.
    pub fn fit(self) -> FitConfig {
        let base = FitConfig {
            steps: 20_000,
            batch: 64,
            lr: 1e-4,
            warmup: 2000,
            weight_decay: 0.01,
            dropout: 0.2,
            valid_every: None,
            patience: Some(20),
        };
        match self {
            Self::Tagging => base,
            Self::Pitch => FitConfig { steps: 100_000, batch: 32, lr: 1e-3, dropout: 0.0, ..base },
            Self::Chords => FitConfig { steps: 10_000, batch: 16, lr: 1e-3, warmup: 500, ..base },
            Self::Beats => FitConfig { steps: 5000, lr: 1e-2, warmup: 1000, dropout: 0.0, ..base },
            Self::Structure => {
                let (valid_every, patience) = (Some(500), Some(4));
                FitConfig {
                    steps: 50_000,
                    batch: 128,
                    warmup: 0,
                    weight_decay: 1e-3,
                    dropout: 1e-3,
                    valid_every,
                    patience,
                    ..base
                }
            }
            Self::Difficulty => FitConfig { steps: 10_000, batch: 32, lr: 5e-4, warmup: 500, ..base },
        }
    }

    /// The task.
    ///
    /// # Errors
    /// When the annotations leave nothing to learn, in words.
    pub fn task(self, setting: &TaskSetting<'_>) -> Result<Box<dyn Task>, ProbeError> {
        Ok(match self {
            Self::Tagging => Box::new(tagging::Tagging::new(setting)?),
            Self::Pitch => Box::new(pitch::Pitch::new(setting)?),
            Self::Chords => Box::new(chords::Chords::new(setting)?),
            Self::Beats => Box::new(beats::Beats::new(setting)?),
            Self::Structure => Box::new(structure::Structure::new(setting)?),
            Self::Difficulty => Box::new(difficulty::Difficulty::new(setting)?),
        })
    }
}

/// Refuses annotations whose `train` split leaves nothing to tell apart.
fn several_classes(recordings: &[Annotated], of: impl Fn(&Annotated) -> Option<String>) -> Result<(), ProbeError> {
    let mut classes = recordings.iter().filter(|recording| recording.training).filter_map(of);
    let Some(first) = classes.next() else { return Ok(()) };
    if classes.any(|class| class != first) {
        return Ok(());
    }
    Err(ProbeError::Shape(format!(
        "all recordings of the `train` split have the same label, `{first}`: there is nothing to tell apart"
    )))
}
