//! The structure of songs: functions of sections (7 classes) and boundaries between them (Harmonix).
//!
//! Two heads on one trunk. The function of a frame is that of the section at its start, smoothed over ten frames; the
//! boundary target is 1 at the frame of a boundary, 0.7 and 0.3 one and two frames beside it. Boundaries are picked where
//! the activation is largest within 6 s, not in the first 12 s and the last 6 s; a section has the function whose mean
//! logit is largest. `standard`: every annotated boundary is learned, all recordings as wholes, accuracy over all frames.
//! `published`: boundaries between sections of one function are not learned, a picked boundary needs no strength, accuracy
//! is the mean over functions.

use super::{Annotated, Answer, Confusion, Figure, Protocol, Scored, Statement, Task, TaskSetting, Unit, largest};
use crate::probe::ProbeError;
use crate::probe::objective::{Objective, sigmoid};
use crate::score::segment;

/// The metric that the task is judged by.
pub(super) const METRIC: &str = "frame accuracy";
/// Functions in the order of the published code.
const FUNCTIONS: [&str; 7] = ["intro", "verse", "chorus", "bridge", "outro", "inst", "silence"];
/// Logits of a frame: functions, then boundary.
const OUTPUTS: usize = FUNCTIONS.len() + 1;
/// Frames of the smoothing of functions.
const SMOOTHING: usize = 10;

/// See the module.
#[derive(Debug)]
pub struct Structure {
    protocol: Protocol,
    weights: Vec<f32>,
    /// Functions that occur in the `train` split; nothing was learned about the others, so they are no answers.
    learned: Vec<bool>,
}

impl Structure {
    /// The task; functions weigh by how rare they are in the `train` split.
    ///
    /// # Errors
    /// When a label is no function, or `train` has a single one.
    pub fn new(setting: &TaskSetting<'_>) -> Result<Self, ProbeError> {
        let mut counts = [0usize; FUNCTIONS.len()];
        for recording in setting.recordings.iter().filter(|recording| recording.training) {
            let found = functions(recording).map_err(|message| ProbeError::Task(recording.name.clone(), message))?;
            found.into_iter().for_each(|function| counts[function] += 1);
        }
        let present: Vec<usize> = counts.iter().copied().filter(|count| *count > 0).collect();
        if present.len() == 1 {
            return Err(ProbeError::Shape(
                "all frames of the `train` split have the same function: there is nothing to tell apart".to_owned(),
            ));
        }
        let inverse: Vec<f64> = counts.iter().map(|count| if *count > 0 { 1.0 / *count as f64 } else { 0.0 }).collect();
        let total: f64 = inverse.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        // The published loss: 0.1 times the mean over functions, and 0.9 x 10 x 0.01 times the boundary. The objective
        // takes the mean over all outputs instead.
        let scale = OUTPUTS as f64 / FUNCTIONS.len() as f64;
        let mut weights: Vec<f32> = inverse.iter().map(|inverse| (0.1 * scale * inverse / total) as f32).collect();
        weights.push(0.09 * OUTPUTS as f32);
        let learned = counts.iter().map(|count| *count > 0).collect();
        Ok(Self { protocol: setting.protocol, weights, learned })
    }
}

/// Sections: start, end, function. The last one reaches the end of the recording.
fn sections(of: &Annotated) -> Result<Vec<(f64, f64, usize)>, String> {
    let function = |label: &str| {
        let found = FUNCTIONS.iter().position(|function| *function == label);
        found.ok_or_else(|| format!("`{label}` is none of the functions {}", FUNCTIONS.join(", ")))
    };
    let mut sections = Vec::new();
    for (index, label) in of.labels.iter().enumerate() {
        // Annotations close with an instant.
        if label.label == "end" && label.end_s.is_none() {
            continue;
        }
        let Some(start) = label.start_s else { return Err(format!("the section `{}` has no start", label.label)) };
        let next = of.labels.get(index + 1).and_then(|next| next.start_s);
        let end = label.end_s.or(next).unwrap_or(of.end);
        if end > start {
            sections.push((start, end, function(&label.label)?));
        }
    }
    Ok(sections)
}

/// The function at the start of every frame; those before the first section have its function.
fn functions(of: &Annotated) -> Result<Vec<usize>, String> {
    let sections = sections(of)?;
    let Some(first) = sections.first() else { return Err("expected sections, found none".to_owned()) };
    let at = |time: f64| {
        let after = sections.partition_point(|section| section.0 <= time + 1e-9);
        after.checked_sub(1).map_or(first.2, |place| sections[place].2)
    };
    Ok(of.times.iter().map(|time| at(*time)).collect())
}

impl Structure {
    fn boundaries(&self, of: &Annotated) -> Result<Vec<f64>, String> {
        let sections = sections(of)?;
        let changes = sections.windows(2).filter(|pair| self.protocol == Protocol::Standard || pair[0].2 != pair[1].2);
        Ok(changes.map(|pair| pair[1].0).collect())
    }

    /// Picked boundaries, and the function of every frame and section between them.
    fn answer(&self, answer: &Answer<'_>) -> (Vec<(f64, f64, usize)>, Vec<usize>) {
        let (of, frames) = (answer.of, answer.of.times.len());
        let row = |frame: usize| &answer.logits[frame * OUTPUTS..(frame + 1) * OUTPUTS];
        let strengths: Vec<f64> = (0..frames).map(|frame| f64::from(sigmoid(row(frame)[OUTPUTS - 1]))).collect();
        let picked = segment::pick_boundaries(&strengths, of.rate, self.protocol == Protocol::Standard);
        let edges: Vec<usize> = std::iter::once(0).chain(picked).chain(std::iter::once(frames)).collect();
        let (mut sections, mut functions) = (Vec::new(), Vec::new());
        for pair in edges.windows(2).filter(|pair| pair[0] < pair[1]) {
            let mut sums = [0.0f32; FUNCTIONS.len()];
            (pair[0]..pair[1]).for_each(|frame| sums.iter_mut().zip(row(frame)).for_each(|(sum, x)| *sum += x));
            sums.iter_mut()
                .zip(&self.learned)
                .filter(|(_, known)| !**known)
                .for_each(|(sum, _)| *sum = f32::NEG_INFINITY);
            let function = largest(&sums);
            sections.push((of.times[pair[0]], of.frame_end(pair[1] - 1), function));
            functions.extend(std::iter::repeat_n(function, pair[1] - pair[0]));
        }
        (sections, functions)
    }
}

/// Sections as `mir_eval` takes them.
fn annotation(sections: &[(f64, f64, usize)]) -> segment::Segmentation {
    segment::Segmentation {
        intervals: sections.iter().map(|section| (section.0, section.1)).collect(),
        labels: sections.iter().map(|section| FUNCTIONS[section.2].to_owned()).collect(),
    }
}

impl Task for Structure {
    fn unit(&self) -> Unit {
        Unit::Frames
    }

    fn outputs(&self) -> usize {
        OUTPUTS
    }

    fn objective(&self) -> Objective {
        Objective::Binary { weights: self.weights.clone() }
    }

    fn targets(&self, of: &Annotated) -> Result<Vec<f32>, String> {
        let functions = functions(of)?;
        let frames = functions.len();
        let mut targets = vec![0.0; frames * OUTPUTS];
        for frame in 0..frames {
            // A box of ten frames around this one; less at the ends.
            for other in (frame + 1).saturating_sub(SMOOTHING / 2)..(frame + 1 + SMOOTHING / 2).min(frames) {
                targets[frame * OUTPUTS + functions[other]] += 1.0 / SMOOTHING as f32;
            }
        }
        let mut set = |frame: usize, value: f32| targets[frame * OUTPUTS + OUTPUTS - 1] = value;
        let boundaries = self.boundaries(of)?;
        let places: Vec<usize> = boundaries.iter().filter_map(|time| of.nearest(*time)).collect();
        for (distance, value) in [(2, 0.3), (1, 0.7), (0, 1.0)] {
            for place in &places {
                if let Some(before) = place.checked_sub(distance) {
                    set(before, value);
                }
                if place + distance < frames {
                    set(place + distance, value);
                }
            }
        }
        Ok(targets)
    }

    fn quality(&self, answers: &[Answer<'_>]) -> f64 {
        let each = answers.iter().map(|answer| {
            let found = self.answer(answer).1;
            let truth = functions(answer.of).unwrap_or_default();
            (truth.iter().zip(&found).filter(|(a, b)| a == b).count(), found.len())
        });
        let (right, all) = each.fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
        right as f64 / all.max(1) as f64
    }

    fn score(&self, answers: &[Answer<'_>]) -> Result<Scored, ProbeError> {
        let mut confusion = Confusion::new("frames", FUNCTIONS.map(str::to_owned).to_vec());
        let (mut truths, mut founds, mut each, mut shares, mut predictions) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for answer in answers {
            let wrong = |message: String| ProbeError::Task(answer.of.name.clone(), message);
            let (own, found) = self.answer(answer);
            let truth = functions(answer.of).map_err(wrong)?;
            truth.iter().zip(&found).for_each(|(truth, found)| confusion.counts[*truth][*found] += 1.0);
            let right = truth.iter().zip(&found).filter(|(a, b)| a == b).count();
            shares.push(right as f64 / found.len().max(1) as f64);
            let annotated = annotation(&sections(answer.of).map_err(wrong)?);
            each.push(segment::evaluate(&annotated, &annotation(&own)).map_err(|error| wrong(error.to_string()))?);
            predictions.push(own.iter().map(|(s, e, f)| Statement::between(*s, *e, FUNCTIONS[*f])).collect());
            truths.extend(truth);
            founds.extend(found);
        }
        let micro = segment::frame_accuracy_micro(&truths, &founds);
        let macro_ = segment::frame_accuracy_macro(&truths, &founds, FUNCTIONS.len());
        let n = answers.len();
        let main = if self.protocol == Protocol::Standard { micro } else { macro_ };
        let figure =
            |metric: &str, of: fn(&segment::SegmentScores) -> f64| Figure::mean(metric, each.iter().map(of).collect());
        let figures = vec![
            Figure::whole(METRIC, main, n),
            Figure::whole("macro frame accuracy", macro_, n),
            Figure::mean("frame accuracy per song", shares),
            figure("HR.5F", |s| s.hit_half.f),
            figure("HR3F", |s| s.hit_three.f),
            figure("pairwise F", |s| s.pairwise.f),
            figure("V-measure", |s| s.v_measure.f),
        ];
        Ok(Scored { figures, confusion: Some(confusion), predictions })
    }
}
