//! Beats, and downbeats where wanted (Harmonix, Nieto et al. 2019; GTZAN, Marchand and Peeters 2015).
//!
//! One logit per frame and kind; the frame nearest to a beat is its target. Activations are decoded by the hidden Markov
//! model of bars (Krebs, Böck and Widmer 2015), on the grid of the frames or a finer one. `standard`: `mir_eval`'s
//! F-measure of whole recordings against the annotations, without the first 5 s. `published`: per window of 30 s, against
//! annotations that are moved to the frames, nothing left out, the mean over windows.

use super::{Annotated, Answer, Figure, Protocol, Scored, Statement, Task, TaskSetting, Unit};
use crate::probe::ProbeError;
use crate::probe::objective::{Objective, sigmoid};
use crate::score::beat;
use crate::score::dbn::{BarDecoder, BeatDecoder};

/// The metric that the task is judged by.
pub(super) const METRIC: &str = "F-measure";
/// Seconds of a window of the published figure.
const WINDOW: f64 = 30.0;
/// Seconds around a beat within which an answer counts.
const TOLERANCE: f64 = 0.07;

/// See the module.
#[derive(Debug)]
pub struct Beats {
    protocol: Protocol,
    downbeats: bool,
    decoding_rate: Option<f64>,
}

impl Beats {
    /// The task.
    ///
    /// # Errors
    /// When downbeats are wanted of annotations that have no places in the bar.
    pub fn new(setting: &TaskSetting<'_>) -> Result<Self, ProbeError> {
        let mut labels = setting.recordings.iter().flat_map(|recording| &recording.labels);
        if setting.downbeats && !labels.any(|label| label.label.trim() == "1") {
            return Err(ProbeError::Shape(
                "no annotation has a beat with place 1 in its bar: there are no downbeats to find".to_owned(),
            ));
        }
        Ok(Self { protocol: setting.protocol, downbeats: setting.downbeats, decoding_rate: setting.decoding_rate })
    }

    /// Activations on an even grid from 0, by linear interpolation between frames; the rate of the grid.
    fn grid(&self, of: &Annotated, logits: &[f32], kind: usize) -> (Vec<f64>, f64) {
        let rate = self.decoding_rate.unwrap_or(of.rate).max(1e-3);
        let value = |frame: usize| f64::from(sigmoid(logits[frame * self.outputs() + kind]));
        let count = (of.end * rate).round().max(1.0) as usize;
        let mut next = 0;
        let at = |i: usize| {
            let time = i as f64 / rate;
            while next < of.times.len() && of.times[next] <= time + 1e-9 {
                next += 1;
            }
            match (next.checked_sub(1), of.times.get(next)) {
                (None, _) => value(0),
                (Some(last), None) => value(last),
                (Some(before), Some(after)) => {
                    let share = ((time - of.times[before]) / (after - of.times[before])).clamp(0.0, 1.0);
                    // Frames further apart than their length are a gap: nothing is known between them.
                    if after - of.times[before] > 1.5 / of.rate {
                        value(before)
                    } else {
                        value(before) * (1.0 - share) + value(next) * share
                    }
                }
            }
        };
        ((0..count).map(at).collect(), rate)
    }

    /// Beats with their places in the bar, 0 where that is not known.
    fn decode(&self, of: &Annotated, logits: &[f32]) -> Vec<(f64, u32)> {
        let (beats, rate) = self.grid(of, logits, 0);
        if self.downbeats {
            let (downbeats, _) = self.grid(of, logits, 1);
            // What a probe hears may be faint throughout: no frame is left out, as none is where beats alone are found.
            let mut decoder = BarDecoder::new(rate);
            decoder.threshold = 0.0;
            return decoder.decode(&beats, &downbeats);
        }
        BeatDecoder::new(rate).decode(&beats).into_iter().map(|time| (time, 0)).collect()
    }

    /// Figures of a recording, or of its windows.
    fn windows(&self, answer: &Answer<'_>) -> Vec<(Vec<f64>, Vec<f64>)> {
        let of = answer.of;
        let count = (of.end / WINDOW).ceil().max(1.0) as usize;
        let window = |i: usize| {
            let (from, to) = (i as f64 * WINDOW, (i + 1) as f64 * WINDOW);
            let frames = of.times.partition_point(|t| *t < from)..of.times.partition_point(|t| *t < to);
            let first = *of.times.get(frames.start)?;
            let part = Annotated {
                times: of.times[frames.clone()].iter().map(|time| time - first).collect(),
                end: of.end.min(to) - first,
                ..of.clone()
            };
            let outputs = self.outputs();
            let logits = &answer.logits[frames.start * outputs..frames.end * outputs];
            let moved = of.starts().into_iter().filter_map(|time| part.nearest(time - first));
            let mut truth: Vec<f64> = moved.map(|frame| part.times[frame]).collect();
            truth.dedup();
            (!part.times.is_empty()).then(|| (truth, self.decode(&part, logits).iter().map(|beat| beat.0).collect()))
        };
        (0..count).filter_map(window).collect()
    }
}

/// Times of labels whose place in the bar is 1.
fn downbeats(of: &Annotated) -> Vec<f64> {
    of.labels.iter().filter(|label| label.label.trim() == "1").filter_map(|label| label.start_s).collect()
}

impl Task for Beats {
    fn unit(&self) -> Unit {
        Unit::Frames
    }

    fn outputs(&self) -> usize {
        if self.downbeats { 2 } else { 1 }
    }

    fn objective(&self) -> Objective {
        Objective::Binary { weights: Vec::new() }
    }

    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String> {
        let outputs = self.outputs();
        let mut targets = vec![0.0; of.times.len() * outputs];
        let kinds = [of.starts(), if self.downbeats { downbeats(of) } else { Vec::new() }];
        for (kind, times) in kinds.iter().enumerate() {
            times.iter().filter_map(|time| of.nearest(*time)).for_each(|frame| targets[frame * outputs + kind] = 1.0);
        }
        // Single-column annotations say nothing about bars.
        if self.downbeats && downbeats(of).is_empty() {
            targets.iter_mut().skip(1).step_by(2).for_each(|target| *target = f32::NAN);
        }
        Ok(targets)
    }

    /// Average precision of the frames with a beat: decoding needs not be done to compare weights.
    fn quality(&self, answers: &[Answer<'_>]) -> f64 {
        let (mut scores, mut positive) = (Vec::new(), Vec::new());
        for answer in answers {
            let mut own = vec![false; answer.of.times.len()];
            answer.of.starts().into_iter().filter_map(|time| answer.of.nearest(time)).for_each(|f| own[f] = true);
            scores.extend(answer.logits.iter().step_by(self.outputs()).map(|logit| f64::from(*logit)));
            positive.extend(own);
        }
        crate::score::ranking::average_precision(&scores, &positive)
    }

    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError> {
        let (mut all, mut bars, mut published, mut predictions) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for answer in answers {
            let wrong = |error: crate::score::ScoreError| ProbeError::Task(answer.of.name.clone(), error.to_string());
            let found = self.decode(answer.of, answer.logits);
            let times: Vec<f64> = found.iter().map(|beat| beat.0).collect();
            all.push(beat::evaluate(&answer.of.starts(), &times).map_err(wrong)?);
            if self.downbeats {
                let ones: Vec<f64> = found.iter().filter(|beat| beat.1 == 1).map(|beat| beat.0).collect();
                bars.push(beat::evaluate(&downbeats(answer.of), &ones).map_err(wrong)?);
            }
            if self.protocol == Protocol::Published {
                for (truth, found) in self.windows(answer) {
                    published.push(beat::f_measure(&truth, &found, TOLERANCE).map_err(wrong)?);
                }
            }
            let label = |place: u32| if place == 0 { String::new() } else { place.to_string() };
            predictions.push(found.iter().map(|(time, place)| Statement::at(*time, label(*place))).collect());
        }
        let figure =
            |metric: &str, of: fn(&beat::BeatScores) -> f64| Figure::mean(metric, all.iter().map(of).collect());
        let main = match self.protocol {
            Protocol::Standard => figure(METRIC, |s| s.f_measure),
            Protocol::Published => Figure::mean(METRIC, published),
        };
        let mut figures = vec![
            main,
            figure("CMLt", |s| s.cmlt),
            figure("AMLt", |s| s.amlt),
            figure("CMLc", |s| s.cmlc),
            figure("AMLc", |s| s.amlc),
            figure("P-score", |s| s.p_score),
            figure("information gain", |s| s.information_gain),
        ];
        if self.protocol == Protocol::Published {
            figures.push(figure("F-measure, standard", |s| s.f_measure));
        }
        if self.downbeats {
            figures.push(Figure::mean("downbeat F-measure", bars.iter().map(|s| s.f_measure).collect()));
        }
        Ok(Scored { figures, confusion: None, predictions })
    }
}
