//! The pitch of a note: 128 classes, MIDI numbers (NSynth, Engel et al. 2017).
//!
//! `published`: one binary classifier per pitch instead of a softmax, on the first 4 s of a recording.

use super::{Annotated, Answer, Confusion, Figure, Protocol, Scored, Statement, Task, TaskSetting, Unit, largest};
use crate::probe::ProbeError;
use crate::probe::objective::Objective;

/// The metric that the task is judged by: the share of notes whose largest logit is that of their pitch.
pub(super) const METRIC: &str = "accuracy";
/// MIDI numbers.
const PITCHES: usize = 128;
const NAMES: [&str; 12] = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];

/// See the module.
#[derive(Debug)]
pub struct Pitch {
    protocol: Protocol,
}

impl Pitch {
    /// The task.
    ///
    /// # Errors
    /// When the `train` split has notes of one pitch only.
    pub fn new(setting: &TaskSetting<'_>) -> Result<Self, ProbeError> {
        super::several_classes(setting.recordings, |recording| recording.only_label().ok().map(str::to_owned))?;
        Ok(Self { protocol: setting.protocol })
    }
}

fn number(of: &Annotated) -> Result<usize, String> {
    let label = of.only_label()?;
    let number = label.trim().parse::<usize>().ok().filter(|number| *number < PITCHES);
    number.ok_or_else(|| format!("expected a MIDI number from 0 to 127, found `{label}`"))
}

impl Task for Pitch {
    fn unit(&self) -> Unit {
        Unit::Recording
    }

    fn outputs(&self) -> usize {
        PITCHES
    }

    fn objective(&self) -> Objective {
        match self.protocol {
            Protocol::Standard => Objective::Classes,
            Protocol::Published => Objective::Binary { weights: Vec::new() },
        }
    }

    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String> {
        let mut targets = vec![0.0; PITCHES];
        targets[number(of)?] = 1.0;
        Ok(targets)
    }

    fn quality(&self, answers: &[Answer<'_>]) -> f64 {
        let right = answers.iter().filter(|answer| number(answer.of) == Ok(largest(answer.logits))).count();
        right as f64 / answers.len().max(1) as f64
    }

    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError> {
        let mut confusion = Confusion::new("notes", NAMES.map(str::to_owned).to_vec());
        let mut pairs = Vec::new();
        for answer in answers {
            let truth = number(answer.of).map_err(|message| ProbeError::Task(answer.of.name.clone(), message))?;
            let found = largest(answer.logits);
            let above = answer.logits.iter().filter(|logit| **logit > answer.logits[truth]).count();
            confusion.counts[truth % 12][found % 12] += 1.0;
            pairs.push((truth, found, above));
        }
        let share = |metric: &str, of: &dyn Fn(&(usize, usize, usize)) -> bool| {
            Figure::mean(metric, pairs.iter().map(|pair| f64::from(u8::from(of(pair)))).collect())
        };
        let figures = vec![
            share(METRIC, &|pair| pair.0 == pair.1),
            share("top-5 accuracy", &|pair| pair.2 < 5),
            share("pitch class accuracy", &|pair| pair.0 % 12 == pair.1 % 12),
            share("octave errors", &|pair| pair.0 != pair.1 && pair.0 % 12 == pair.1 % 12),
        ];
        let predictions = pairs.iter().map(|pair| vec![Statement::whole(pair.1.to_string())]);
        Ok(Scored { figures, confusion: Some(confusion), predictions: predictions.collect() })
    }
}
