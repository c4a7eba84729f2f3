//! Figures of a whole recording.

use super::{Chord, Comparison, compare};
use crate::score::ScoreError;

/// Chords over time.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Annotation {
    /// In seconds.
    pub intervals: Vec<(f64, f64)>,
    /// One per interval.
    pub labels: Vec<String>,
}

/// All figures of a recording, 0 to 1: shares of the time in which comparable chords sound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChordScores {
    /// See [`Comparison`], here and below.
    pub root: f64,
    /// Roots and thirds.
    pub thirds: f64,
    /// With basses.
    pub thirds_inv: f64,
    /// Notes up to the fifth.
    pub triads: f64,
    /// With basses.
    pub triads_inv: f64,
    /// All notes.
    pub tetrads: f64,
    /// With basses.
    pub tetrads_inv: f64,
    /// Three notes.
    pub mirex: f64,
    /// Major and minor.
    pub majmin: f64,
    /// With basses.
    pub majmin_inv: f64,
    /// Sevenths.
    pub sevenths: f64,
    /// With basses.
    pub sevenths_inv: f64,
    /// How little is split that belongs together (Harte 2010).
    pub overseg: f64,
    /// How little is joined that does not.
    pub underseg: f64,
    /// The smaller of the two.
    pub seg: f64,
}

/// All figures. The estimate is cut to the time of the reference, and filled with `N`.
///
/// # Errors
/// When a label is no chord, an interval does not end after it starts, or reference intervals overlap.
pub fn evaluate(reference: &Annotation, estimate: &Annotation) -> Result<ChordScores, ScoreError> {
    check(reference)?;
    check(estimate)?;
    let begin = reference.intervals.iter().map(|interval| interval.0).fold(f64::INFINITY, f64::min);
    let end = reference.intervals.iter().map(|interval| interval.1).fold(f64::NEG_INFINITY, f64::max);
    let estimate = adjusted(estimate, begin, end);
    let chords =
        |annotation: &Annotation| annotation.labels.iter().map(|l| Chord::parse(l)).collect::<Result<Vec<_>, _>>();
    let pairs = merged((&reference.intervals, &chords(reference)?), (&estimate.intervals, &chords(&estimate)?));
    let figure = |how: Comparison| weighted(pairs.iter().map(|(time, a, b)| (compare(how, a, b), *time)));
    let (whole, parts) = (runs(reference)?, runs(&estimate)?);
    let (overseg, underseg) = (1.0 - hamming(&whole, &parts)?, 1.0 - hamming(&parts, &whole)?);
    Ok(ChordScores {
        root: figure(Comparison::Root),
        thirds: figure(Comparison::Thirds),
        thirds_inv: figure(Comparison::ThirdsInv),
        triads: figure(Comparison::Triads),
        triads_inv: figure(Comparison::TriadsInv),
        tetrads: figure(Comparison::Tetrads),
        tetrads_inv: figure(Comparison::TetradsInv),
        mirex: figure(Comparison::Mirex),
        majmin: figure(Comparison::Majmin),
        majmin_inv: figure(Comparison::MajminInv),
        sevenths: figure(Comparison::Sevenths),
        sevenths_inv: figure(Comparison::SeventhsInv),
        overseg,
        underseg,
        seg: overseg.min(underseg),
    })
}

fn check(annotation: &Annotation) -> Result<(), ScoreError> {
    let (intervals, labels) = (annotation.intervals.len(), annotation.labels.len());
    if intervals != labels {
        return Err(ScoreError::Lengths { intervals, labels });
    }
    check_intervals(&annotation.intervals)
}

/// Every interval ends after it starts, at 0 s or later.
pub(in crate::score) fn check_intervals(intervals: &[(f64, f64)]) -> Result<(), ScoreError> {
    for (index, &(start, end)) in intervals.iter().enumerate() {
        let reason = if !(start.is_finite() && end.is_finite() && start >= 0.0) {
            "expected times of at least 0 s"
        } else if end <= start {
            "expected an end after the start"
        } else {
            continue;
        };
        return Err(ScoreError::Interval { index, start, end, reason });
    }
    Ok(())
}

/// Cut to `begin..end`, with `N` where nothing is at either side (`mir_eval.util.adjust_intervals`).
fn adjusted(annotation: &Annotation, begin: f64, end: f64) -> Annotation {
    let (intervals, labels) = adjust(&annotation.intervals, &annotation.labels, (Some(begin), Some(end)), ("N", "N"));
    Annotation { intervals, labels }
}

/// `mir_eval.util.adjust_intervals`: intervals cut to a span, which is filled at its ends.
pub(in crate::score) fn adjust(
    intervals: &[(f64, f64)],
    labels: &[String],
    (begin, end): (Option<f64>, Option<f64>),
    (first, last): (&str, &str),
) -> (Vec<(f64, f64)>, Vec<String>) {
    let (mut intervals, mut labels) = (intervals.to_vec(), labels.to_vec());
    if intervals.is_empty() {
        if let (Some(begin), Some(end)) = (begin, end) {
            return (vec![(begin, end)], vec![first.to_owned()]);
        }
        return (intervals, labels);
    }
    if let Some(begin) = begin {
        if let Some(from) = intervals.iter().position(|interval| interval.1 >= begin) {
            intervals.drain(..from);
            labels.drain(..from);
        }
        intervals.iter_mut().for_each(|interval| *interval = (interval.0.max(begin), interval.1.max(begin)));
        let lowest = intervals.iter().map(|interval| interval.0.min(interval.1)).fold(f64::INFINITY, f64::min);
        if lowest > begin {
            intervals.insert(0, (begin, lowest));
            labels.insert(0, first.to_owned());
        }
    }
    if let Some(end) = end {
        if let Some(to) = intervals.iter().position(|interval| interval.0 > end) {
            intervals.truncate(to);
            labels.truncate(to);
        }
        intervals.iter_mut().for_each(|interval| *interval = (interval.0.min(end), interval.1.min(end)));
        let highest = intervals.iter().map(|interval| interval.0.max(interval.1)).fold(f64::NEG_INFINITY, f64::max);
        if highest < end {
            intervals.push((highest, end));
            labels.push(last.to_owned());
        }
    }
    (intervals, labels)
}

/// Both annotations on the union of their boundaries: durations with the chords of either. A gap has the chord before it.
fn merged(a: (&[(f64, f64)], &[Chord]), b: (&[(f64, f64)], &[Chord])) -> Vec<(f64, Chord, Chord)> {
    let mut times: Vec<f64> = a.0.iter().chain(b.0).flat_map(|interval| [interval.0, interval.1]).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let at = |(intervals, chords): (&[(f64, f64)], &[Chord]), time: f64| {
        intervals.iter().rposition(|interval| interval.0 <= time).map(|place| chords[place])
    };
    let pair = |times: &[f64]| Some((times[1] - times[0], at(a, times[0])?, at(b, times[0])?));
    times.windows(2).filter_map(pair).collect()
}

/// The share of the compared time that is right; 0 where nothing can be compared.
fn weighted(compared: impl Iterator<Item = (Option<bool>, f64)>) -> f64 {
    let (mut right, mut all) = (0.0, 0.0);
    for (outcome, time) in compared {
        let Some(outcome) = outcome else { continue };
        all += time;
        right += if outcome { time } else { 0.0 };
    }
    if all > 0.0 { right / all } else { 0.0 }
}

/// Neighbours that are the same chord as one interval.
fn runs(annotation: &Annotation) -> Result<Vec<(f64, f64)>, ScoreError> {
    let mut runs: Vec<(f64, f64)> = Vec::new();
    let mut before = None;
    for (interval, label) in annotation.intervals.iter().zip(&annotation.labels) {
        let chord = Chord::parse_reduced(label)?;
        match runs.last_mut() {
            Some(last) if before == Some(chord) => last.1 = interval.1,
            _ => runs.push(*interval),
        }
        before = Some(chord);
    }
    Ok(runs)
}

/// Directional Hamming distance: what of each reference interval the longest estimated part leaves, as share of all.
fn hamming(reference: &[(f64, f64)], estimate: &[(f64, f64)]) -> Result<f64, ScoreError> {
    if let Some(index) = (1..reference.len()).find(|index| reference[index - 1].1 > reference[*index].0) {
        let (start, end) = reference[index];
        return Err(ScoreError::Interval { index, start, end, reason: "expected intervals that do not overlap" });
    }
    let mut times: Vec<f64> = estimate.iter().flat_map(|interval| [interval.0, interval.1]).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let left = reference.iter().map(|&(start, end)| {
        let inside = times.iter().copied().filter(|time| *time >= start && *time < end);
        let cuts: Vec<f64> = std::iter::once(start).chain(inside).chain(std::iter::once(end)).collect();
        let longest = cuts.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::NEG_INFINITY, f64::max);
        end - start - longest
    });
    let left: f64 = left.sum();
    Ok(match (reference.first(), reference.last()) {
        (Some(first), Some(last)) => left / (last.1 - first.0),
        _ => 0.0,
    })
}
