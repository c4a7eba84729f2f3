//! How well found sections agree with annotated ones: the figures of `mir_eval.segment`, accuracy over frames, and the
//! picking of boundaries from an activation.

use std::collections::{BTreeMap, BTreeSet};

use super::ScoreError;
use super::beat::median;
use super::chord::{adjust_intervals, check_intervals};
use super::matching;

/// Sections over time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segmentation {
    /// In seconds.
    pub intervals: Vec<(f64, f64)>,
    /// One per interval.
    pub labels: Vec<String>,
}

/// Precision, recall and what both make.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rate {
    /// Share of what was found that is right.
    pub precision: f64,
    /// Share of what is right that was found.
    pub recall: f64,
    /// Harmonic mean.
    pub f: f64,
}

/// All figures of a recording.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentScores {
    /// Boundaries that are at most 0.5 s apart.
    pub hit_half: Rate,
    /// Boundaries that are at most 3 s apart.
    pub hit_three: Rate,
    /// Median distance in seconds from an annotated boundary to the nearest found one, and the other way.
    pub deviation: (f64, f64),
    /// Pairs of frames that have the same label (Levy and Sandler 2008).
    pub pairwise: Rate,
    /// Share of pairs of frames that are treated alike.
    pub rand_index: f64,
    /// The same, corrected for chance (Hubert and Arabie 1985).
    pub adjusted_rand_index: f64,
    /// Mutual information of labels in nats, and as share of the geometric mean of both entropies.
    pub mutual_information: (f64, f64),
    /// The same, corrected for chance and as share of the larger entropy (Vinh, Epps and Bailey 2010).
    pub adjusted_mutual_information: f64,
    /// Normalised conditional entropies (Lukashevich 2008): over-segmentation, under-segmentation, and what both make.
    pub nce: Rate,
    /// The same, normalised by the entropies that there are (Rosenberg and Hirschberg 2007).
    pub v_measure: Rate,
}

/// Seconds of a frame of the figures of labels.
const FRAME: f32 = 0.1;

/// All figures. The reference is filled from 0 s; the estimate is cut to it and filled at both ends.
///
/// # Errors
/// When an interval does not end after it starts, or labels are missing.
pub fn evaluate(reference: &Segmentation, estimate: &Segmentation) -> Result<SegmentScores, ScoreError> {
    for side in [reference, estimate] {
        let (intervals, labels) = (side.intervals.len(), side.labels.len());
        if intervals != labels {
            return Err(ScoreError::Lengths { intervals, labels });
        }
        check_intervals(&side.intervals)?;
    }
    let fills = ("__T_MIN", "__T_MAX");
    let (truth, truth_labels) = adjust_intervals(&reference.intervals, &reference.labels, (Some(0.0), None), fills);
    let end = truth.iter().map(|interval| interval.1).fold(0.0, f64::max);
    let (found, found_labels) = adjust_intervals(&estimate.intervals, &estimate.labels, (Some(0.0), Some(end)), fills);
    let table = Contingency::new(&samples(&truth, &truth_labels), &samples(&found, &found_labels));
    let (mutual, normalized) = table.mutual_information();
    Ok(SegmentScores {
        hit_half: detection(&truth, &found, 0.5, false),
        hit_three: detection(&truth, &found, 3.0, false),
        deviation: deviation(&truth, &found),
        pairwise: table.pairwise(),
        rand_index: table.rand_index(),
        adjusted_rand_index: table.adjusted_rand_index(),
        mutual_information: (mutual, normalized),
        adjusted_mutual_information: table.adjusted_mutual_information(Ceiling::Maximum),
        nce: table.conditional_entropies(false),
        v_measure: table.conditional_entropies(true),
    })
}

/// Starts and ends in order, each once, to five decimals.
fn boundaries(intervals: &[(f64, f64)]) -> Vec<f64> {
    let round = |time: f64| (time * 1e5).round_ties_even() / 1e5;
    let mut times: Vec<f64> = intervals.iter().flat_map(|interval| [round(interval.0), round(interval.1)]).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    times
}

/// Hit rate of boundaries that are at most `window` seconds apart; `trim` leaves out the first and the last of either
/// side. Nothing is 0.
pub fn detection(reference: &[(f64, f64)], estimate: &[(f64, f64)], window: f64, trim: bool) -> Rate {
    let (truth, found) = (boundaries(reference), boundaries(estimate));
    let inner =
        |times: Vec<f64>| if trim { times.get(1..times.len().max(1) - 1).unwrap_or_default().to_vec() } else { times };
    let (truth, found) = (inner(truth), inner(found));
    if truth.is_empty() || found.is_empty() {
        return Rate::default();
    }
    let hits = matching::matched(&truth, &found, window) as f64;
    rate(hits / found.len() as f64, hits / truth.len() as f64)
}

fn rate(precision: f64, recall: f64) -> Rate {
    Rate { precision, recall, f: matching::f_measure(precision, recall, 1.0) }
}

/// Median distance to the nearest boundary of the other side: from the reference, and from the estimate.
fn deviation(reference: &[(f64, f64)], estimate: &[(f64, f64)]) -> (f64, f64) {
    let (truth, found) = (boundaries(reference), boundaries(estimate));
    let from = |a: &[f64], b: &[f64]| {
        let nearest = |time: &f64| b.iter().map(|other| (time - other).abs()).fold(f64::INFINITY, f64::min);
        if a.is_empty() || b.is_empty() { f64::NAN } else { median(&mut a.iter().map(nearest).collect::<Vec<_>>()) }
    };
    (from(&truth, &found), from(&found, &truth))
}

/// Labels ten times a second, as numbers; 0 where there is none.
fn samples(intervals: &[(f64, f64)], labels: &[String]) -> Vec<usize> {
    let end = intervals.iter().map(|interval| interval.1).fold(0.0, f64::max);
    let count = (end / 0.1).floor() as usize;
    // In single precision, as numpy makes the grid.
    let times: Vec<f64> = (0..count).map(|i| f64::from(i as f32 * FRAME)).collect();
    let names: BTreeSet<&String> = labels.iter().collect();
    let numbers: BTreeMap<&String, usize> = names.into_iter().zip(1..).collect();
    let mut samples = vec![0; count];
    for (interval, label) in intervals.iter().zip(labels) {
        let (from, to) = (times.partition_point(|t| *t < interval.0), times.partition_point(|t| *t <= interval.1));
        samples[from..to.max(from)].fill(numbers[label]);
    }
    samples
}

/// What mutual information is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ceiling {
    /// The larger entropy of the two, as in `mir_eval`.
    Maximum,
    /// The mean of both, as in scikit-learn unless it is told otherwise.
    Mean,
}

/// Mutual information of two labelings of the same frames, corrected for chance: 1 where they are the same up to names, 0
/// on average where they have nothing to do with each other (`sklearn.metrics.adjusted_mutual_info_score`).
pub fn adjusted_mutual_information(truth: &[usize], found: &[usize], ceiling: Ceiling) -> f64 {
    Contingency::new(truth, found).adjusted_mutual_information(ceiling)
}

/// Logarithms of the factorials of 0 to `n`; sums are compensated (Kahan), their differences are what counts.
fn ln_factorials(n: usize) -> Vec<f64> {
    let (mut sum, mut lost) = (0.0f64, 0.0);
    let next = |count: usize| {
        let term = (count.max(1) as f64).ln() - lost;
        let total = sum + term;
        (lost, sum) = ((total - sum) - term, total);
        sum
    };
    (0..=n).map(next).collect()
}

/// How often each pair of labels meets.
struct Contingency {
    cells: Vec<f64>,
    rows: Vec<f64>,
    columns: Vec<f64>,
    n: f64,
}

impl Contingency {
    fn new(truth: &[usize], found: &[usize]) -> Self {
        let mut cells: BTreeMap<(usize, usize), f64> = BTreeMap::new();
        let (mut rows, mut columns): (BTreeMap<usize, f64>, BTreeMap<usize, f64>) = Default::default();
        for (truth, found) in truth.iter().zip(found) {
            *cells.entry((*truth, *found)).or_default() += 1.0;
            *rows.entry(*truth).or_default() += 1.0;
            *columns.entry(*found).or_default() += 1.0;
        }
        let n = truth.len().min(found.len()) as f64;
        let values = |map: BTreeMap<usize, f64>| map.into_values().collect::<Vec<_>>();
        Self { cells: cells.into_values().collect(), rows: values(rows), columns: values(columns), n }
    }

    fn pairwise(&self) -> Rate {
        let (both, truth, found) = (pairs(&self.cells), pairs(&self.rows), pairs(&self.columns));
        rate(both / found, both / truth)
    }

    fn rand_index(&self) -> f64 {
        let all = self.n * (self.n - 1.0) / 2.0;
        let (both, truth, found) = (pairs(&self.cells), pairs(&self.rows), pairs(&self.columns));
        (all + 2.0 * both - truth - found) / all
    }

    fn adjusted_rand_index(&self) -> f64 {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        if rows == columns && (rows <= 1 || rows as f64 == self.n) {
            return 1.0;
        }
        let (both, truth, found) = (pairs(&self.cells), pairs(&self.rows), pairs(&self.columns));
        let product = truth * found / (self.n * (self.n - 1.0) / 2.0);
        (both - product) / (f64::midpoint(truth, found) - product)
    }

    /// In nats, and as share of the geometric mean of both entropies.
    fn mutual_information(&self) -> (f64, f64) {
        let (truth, found) = (self.entropy(&self.rows), self.entropy(&self.columns));
        let mutual = truth + found - self.entropy(&self.cells);
        if self.rows.len() == self.columns.len() && self.rows.len() <= 1 {
            return (mutual, 1.0);
        }
        (mutual, mutual / (truth * found).sqrt().max(1e-10))
    }

    fn adjusted_mutual_information(&self, ceiling: Ceiling) -> f64 {
        let (rows, columns) = (self.rows.len(), self.columns.len());
        if rows <= 1 || columns <= 1 {
            return if rows == columns { 1.0 } else { 0.0 };
        }
        let (truth, found) = (self.entropy(&self.rows), self.entropy(&self.columns));
        let chance = self.expected_mutual_information();
        let ceiling = match ceiling {
            Ceiling::Maximum => truth.max(found),
            Ceiling::Mean => f64::midpoint(truth, found),
        };
        // Where every frame has a label of its own, chance alone reaches the ceiling: as scikit-learn has it, that is 1.
        let away_from_zero = |value: f64| if value < 0.0 { value.min(-f64::EPSILON) } else { value.max(f64::EPSILON) };
        let mutual = truth + found - self.entropy(&self.cells);
        away_from_zero(mutual - chance) / away_from_zero(ceiling - chance)
    }

    /// Mutual information, in nats, that labels as frequent as these have by chance: the mean over all ways to deal them
    /// out.
    fn expected_mutual_information(&self) -> f64 {
        let n = self.n as usize;
        let factorials = ln_factorials(n);
        let ln = |count: usize| factorials[count];
        let mut sum = 0.0;
        for a in self.rows.iter().map(|count| *count as usize) {
            for b in self.columns.iter().map(|count| *count as usize) {
                let dealt = ln(a) + ln(b) + ln(n - a) + ln(n - b) - ln(n);
                for both in (a + b).saturating_sub(n).max(1)..=a.min(b) {
                    let ways = ln(both) + ln(a - both) + ln(b - both) + ln(n + both - a - b);
                    let share = both as f64 / self.n;
                    let information = (self.n * both as f64).ln() - (a as f64 * b as f64).ln();
                    sum += share * information * (dealt - ways).exp();
                }
            }
        }
        sum
    }

    /// In nats.
    fn entropy(&self, counts: &[f64]) -> f64 {
        -counts.iter().map(|count| count / self.n * (count / self.n).ln()).sum::<f64>()
    }

    /// One less the entropy that is left of one side when the other is known, as share of what is possible, or of what
    /// there is (`marginal`): precision is that of the estimate given the reference.
    fn conditional_entropies(&self, marginal: bool) -> Rate {
        let (truth, found, both) = (self.entropy(&self.rows), self.entropy(&self.columns), self.entropy(&self.cells));
        let possible = |own: f64, classes: usize| if marginal { own } else { (classes as f64).ln() };
        let score = |left: f64, possible: f64| if possible > 0.0 { 1.0 - left / possible } else { 0.0 };
        let under = score(both - found, possible(truth, self.rows.len()));
        let over = score(both - truth, possible(found, self.columns.len()));
        rate(over, under)
    }
}

/// Pairs within counts.
fn pairs(counts: &[f64]) -> f64 {
    counts.iter().map(|count| count * (count - 1.0) / 2.0).sum()
}

/// Share of frames that are right.
pub fn frame_accuracy_micro(truth: &[usize], found: &[usize]) -> f64 {
    let right = truth.iter().zip(found).filter(|(truth, found)| truth == found).count();
    right as f64 / truth.len().min(found.len()).max(1) as f64
}

/// Share of right frames within each true class, then the mean over classes that occur on either side; one that was only
/// answered counts 0 (torchmetrics' multiclass accuracy, `average="macro"`).
pub fn frame_accuracy_macro(truth: &[usize], found: &[usize], classes: usize) -> f64 {
    let (mut right, mut all, mut occurs) = (vec![0.0; classes], vec![0.0f64; classes], vec![false; classes]);
    for (truth, found) in truth.iter().zip(found) {
        all[*truth] += 1.0;
        right[*truth] += if truth == found { 1.0 } else { 0.0 };
        (occurs[*truth], occurs[*found]) = (true, true);
    }
    let recalls = (0..classes).filter(|class| occurs[*class]).map(|class| right[class] / all[class].max(1.0));
    let count = occurs.iter().filter(|occurs| **occurs).count();
    recalls.sum::<f64>() / count.max(1) as f64
}

/// Seconds around a boundary in which no other is as strong, and seconds from the start in which there is none.
const SUPPRESSION: f64 = 6.0;
const START: f64 = 12.0;
/// How much a boundary must exceed the mean around it.
const STRENGTH: f64 = 0.1;

/// Frames of boundaries: those whose activation is the largest within 6 s, not in the first 12 s or the last 6 s. With
/// `compensated` it must also exceed the mean of the 12 s before and the 6 s after it by 0.1 (Ullrich, Schlüter and Grill
/// 2014, as the published code of OMAR-RQ has it in an earlier version; its last version asks for nothing).
pub fn pick_boundaries(activation: &[f64], rate: f64, compensated: bool) -> Vec<usize> {
    let frames = activation.len();
    let [reach, start] = [SUPPRESSION, START].map(|seconds| (seconds * rate).round() as usize);
    let mean = |from: usize, to: usize| activation[from..to].iter().sum::<f64>() / (to - from).max(1) as f64;
    let is_boundary = |frame: &usize| {
        let frame = *frame;
        let around = &activation[frame.saturating_sub(reach)..(frame + reach + 1).min(frames)];
        let value = activation[frame];
        // The first of equals.
        let before = &activation[frame.saturating_sub(reach)..frame];
        if around.iter().any(|other| *other > value) || before.contains(&value) {
            return false;
        }
        let (past, future) =
            (mean(frame.saturating_sub(start), frame), mean((frame + 1).min(frames), (frame + 1 + reach).min(frames)));
        !compensated || value - f64::midpoint(past, future) > STRENGTH
    };
    (start..frames.saturating_sub(reach)).filter(is_boundary).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_are_those_of_torchmetrics() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        close(frame_accuracy_macro(&[0, 1, 0, 0], &[0, 1, 1, 2], 4), 4.0 / 9.0);
        close(frame_accuracy_macro(&[0, 1, 0, 0], &[0, 1, 1, 0], 4), 5.0 / 6.0);
        close(frame_accuracy_micro(&[0, 1, 0, 0], &[0, 1, 1, 2]), 0.5);
    }

    #[test]
    fn boundaries_are_the_strongest_around() {
        let mut activation = vec![0.05; 400];
        activation[20] = 0.9;
        activation[100] = 0.8;
        activation[115] = 0.7;
        activation[200] = 0.6;
        activation[201] = 0.6;
        activation[395] = 0.9;
        // 5 Hz: not before frame 60, not after 370.
        assert_eq!(pick_boundaries(&activation, 5.0, true), [100, 200]);
        assert!(pick_boundaries(&activation[..50], 5.0, true).is_empty());
        assert!(pick_boundaries(&[], 5.0, false).is_empty());
    }
}
