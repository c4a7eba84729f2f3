//! How well found beats agree with annotated ones: the figures of `mir_eval.beat` (Davies, Degara and Plumbley 2009).

use super::ScoreError;
use super::matching;

/// Latest time that is believed, in seconds.
const MAX_TIME: f64 = 30_000.0;
/// Beats before this time are not scored by [`evaluate`], in seconds.
pub const TRIM: f64 = 5.0;
/// Seconds around a beat within which another is the same.
const WINDOW: f64 = 0.07;
/// Bins of the histogram of errors.
const BINS: usize = 41;

/// All figures of a recording, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeatScores {
    /// See [`f_measure`].
    pub f_measure: f64,
    /// See [`cemgil`]: at the annotated metrical level, and at the best one.
    pub cemgil: (f64, f64),
    /// See [`goto`].
    pub goto: f64,
    /// See [`p_score`].
    pub p_score: f64,
    /// Correct metrical level, longest continuous part.
    pub cmlc: f64,
    /// Correct metrical level, in total.
    pub cmlt: f64,
    /// Any metrical level, longest continuous part.
    pub amlc: f64,
    /// Any metrical level, in total.
    pub amlt: f64,
    /// See [`information_gain`].
    pub information_gain: f64,
}

/// Events of one side: they ascend and are at believable times.
///
/// # Errors
/// The first that does not.
pub fn validate(events: &[f64]) -> Result<(), ScoreError> {
    for (index, time) in events.iter().enumerate() {
        let reason = if !time.is_finite() || *time > MAX_TIME {
            "expected a time below 30000 s"
        } else if index > 0 && *time < events[index - 1] {
            "expected times that ascend"
        } else {
            continue;
        };
        return Err(ScoreError::Event { index, time: *time, reason });
    }
    Ok(())
}

/// All figures, without the beats of the first 5 s.
///
/// # Errors
/// When times do not ascend.
pub fn evaluate(reference: &[f64], estimate: &[f64]) -> Result<BeatScores, ScoreError> {
    validate(reference)?;
    validate(estimate)?;
    let trim = |events: &[f64]| events.iter().copied().filter(|time| *time >= TRIM).collect::<Vec<_>>();
    let (reference, estimate) = (trim(reference), trim(estimate));
    let [cmlc, cmlt, amlc, amlt] = continuity(&reference, &estimate)?;
    Ok(BeatScores {
        f_measure: f_measure(&reference, &estimate, WINDOW)?,
        cemgil: cemgil(&reference, &estimate)?,
        goto: goto(&reference, &estimate)?,
        p_score: p_score(&reference, &estimate)?,
        cmlc,
        cmlt,
        amlc,
        amlt,
        information_gain: information_gain(&reference, &estimate)?,
    })
}

/// F-measure of beats that are at most `window` seconds apart; 0 where one side has none.
///
/// # Errors
/// When times do not ascend.
pub fn f_measure(reference: &[f64], estimate: &[f64], window: f64) -> Result<f64, ScoreError> {
    validate(reference)?;
    validate(estimate)?;
    if reference.is_empty() || estimate.is_empty() {
        return Ok(0.0);
    }
    let hits = matching::matched(reference, estimate, window) as f64;
    Ok(matching::f_measure(hits / estimate.len() as f64, hits / reference.len() as f64, 1.0))
}

/// The beats of both sides that stand for one another, at most `window` seconds apart: pairs of indices. Both ascend.
pub fn matches(reference: &[f64], estimate: &[f64], window: f64) -> Vec<(usize, usize)> {
    matching::matches(reference, estimate, window)
}

/// The annotated beats, off-beats, double tempo, and half tempo from the first and the second beat.
fn variations(reference: &[f64]) -> [Vec<f64>; 5] {
    let mut double = Vec::with_capacity(2 * reference.len());
    for (index, beat) in reference.iter().enumerate() {
        double.push(*beat);
        // As numpy interpolates: slope times distance.
        double.extend(reference.get(index + 1).map(|next| (next - beat) * 0.5 + beat));
    }
    let every_second = |from: usize, beats: &[f64]| beats.iter().skip(from).step_by(2).copied().collect::<Vec<_>>();
    [
        reference.to_vec(),
        every_second(1, &double),
        double.clone(),
        every_second(0, reference),
        every_second(1, reference),
    ]
}

/// Accuracy with a Gaussian window of 40 ms around each beat (Cemgil et al. 2000): at the annotated level, and the best of
/// five.
///
/// # Errors
/// When times do not ascend.
pub fn cemgil(reference: &[f64], estimate: &[f64]) -> Result<(f64, f64), ScoreError> {
    const SIGMA: f64 = 0.04;
    validate(reference)?;
    validate(estimate)?;
    if reference.is_empty() || estimate.is_empty() {
        return Ok((0.0, 0.0));
    }
    let accuracy = |reference: &Vec<f64>| {
        let nearest = |beat: &f64| estimate.iter().map(|other| (beat - other).abs()).fold(f64::INFINITY, f64::min);
        let sum: f64 = reference.iter().map(|beat| (-nearest(beat).powi(2) / (2.0 * SIGMA * SIGMA)).exp()).sum();
        sum / (0.5 * (estimate.len() + reference.len()) as f64)
    };
    let all = variations(reference).each_ref().map(accuracy);
    Ok((all[0], all.into_iter().fold(f64::NEG_INFINITY, f64::max)))
}

/// Whether a long enough part is tracked well: 0 or 1 (Goto and Muraoka 1997).
///
/// # Errors
/// When times do not ascend.
pub fn goto(reference: &[f64], estimate: &[f64]) -> Result<f64, ScoreError> {
    const THRESHOLD: f64 = 0.35;
    const LIMIT: f64 = 0.2;
    validate(reference)?;
    validate(estimate)?;
    if reference.is_empty() || estimate.is_empty() {
        return Ok(0.0);
    }
    let mut errors = vec![1.0; reference.len()];
    for n in 1..reference.len().saturating_sub(1) {
        let (before, after) = (0.5 * (reference[n] - reference[n - 1]), 0.5 * (reference[n + 1] - reference[n]));
        let (low, high) = (reference[n] - before, reference[n] + after);
        let mut inside = estimate.iter().filter(|time| **time >= low && **time < high);
        if let (Some(only), None) = (inside.next(), inside.next()) {
            let offset = only - reference[n];
            errors[n] = offset / if offset < 0.0 { before } else { after };
        }
    }
    let wrong: Vec<usize> = (0..errors.len()).filter(|n| errors[*n].abs() > THRESHOLD).collect();
    let track = if wrong.len() < 3 {
        let (from, to) = (wrong[0] + 1, wrong[wrong.len() - 1].saturating_sub(1));
        errors.get(from..to).unwrap_or_default()
    } else {
        let longest = wrong.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0);
        let place = wrong.windows(2).position(|pair| pair[1] - pair[0] == longest).unwrap_or(0);
        // In floats: fewer than two beats leave nothing to be a quarter of.
        if (longest as f64 - 1.0) > 0.25 * (reference.len() as f64 - 2.0) {
            &errors[wrong[place]..=wrong[place + 1]]
        } else {
            &[]
        }
    };
    let n = track.len() as f64;
    let mean_size = track.iter().map(|error| error.abs()).sum::<f64>() / n;
    let mean = track.iter().sum::<f64>() / n;
    let deviation = (track.iter().map(|error| (error - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    // Where a mean is not defined neither is below anything.
    Ok(f64::from(u8::from(mean_size < LIMIT && deviation < LIMIT)))
}

/// Correlation of pulse trains at 100 Hz within a fifth of the median beat (McKinney et al. 2007).
///
/// # Errors
/// When times do not ascend.
pub fn p_score(reference: &[f64], estimate: &[f64]) -> Result<f64, ScoreError> {
    validate(reference)?;
    validate(estimate)?;
    if reference.len() <= 1 || estimate.len() <= 1 {
        return Ok(0.0);
    }
    let offset = reference[0].min(estimate[0]);
    let train = |events: &[f64]| {
        let mut pulses: Vec<i64> = events.iter().map(|time| ((time - offset) * 100.0).ceil() as i64).collect();
        pulses.dedup();
        pulses
    };
    let (annotated, found) = (train(reference), train(estimate));
    let mut steps: Vec<f64> = annotated.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
    if steps.is_empty() {
        return Ok(0.0);
    }
    let window = (0.2 * median(&mut steps)).round_ties_even() as i64;
    let close = |pulse: &i64| {
        (found.partition_point(|other| *other <= pulse + window)
            - found.partition_point(|other| *other < pulse - window)) as f64
    };
    Ok(annotated.iter().map(close).sum::<f64>() / reference.len().max(estimate.len()) as f64)
}

/// The middle value, or the mean of the two.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n.is_multiple_of(2) { f64::midpoint(values[n / 2 - 1], values[n / 2]) } else { values[n / 2] }
}

/// Continuity (Hainsworth 2004; Klapuri, Eronen and Astola 2006): CMLc, CMLt, AMLc, AMLt. A beat is right when it and the
/// step to it are within 17.5 %.
///
/// # Errors
/// When times do not ascend.
pub fn continuity(reference: &[f64], estimate: &[f64]) -> Result<[f64; 4], ScoreError> {
    validate(reference)?;
    validate(estimate)?;
    if reference.len() <= 1 || estimate.len() <= 1 {
        return Ok([0.0; 4]);
    }
    let all = variations(reference).each_ref().map(|reference| level(reference, estimate));
    let best = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).fold(0.0, f64::max);
    Ok([all[0].0, all[0].1, best(|level| level.0), best(|level| level.1)])
}

/// Longest continuous and total share of right beats.
fn level(reference: &[f64], estimate: &[f64]) -> (f64, f64) {
    const THRESHOLD: f64 = 0.175;
    let count = reference.len().max(estimate.len());
    let mut used = vec![false; count];
    let mut right = vec![false; count];
    // The one before the first is the last, as indices count from the end in numpy.
    let before = |index: usize| index.checked_sub(1).unwrap_or(reference.len() - 1);
    for (m, beat) in estimate.iter().enumerate() {
        let Some((nearest, distance)) = nearest(reference, *beat) else { continue };
        if used[nearest] {
            continue;
        }
        let first = m == 0 || nearest == 0;
        let annotated = if first && nearest + 1 < reference.len() {
            reference[nearest + 1] - reference[nearest]
        } else {
            reference[nearest] - reference[before(nearest)]
        };
        let found = if first && m + 1 < estimate.len() {
            estimate[m + 1] - beat
        } else {
            beat - estimate[m.checked_sub(1).unwrap_or(estimate.len() - 1)]
        };
        let (phase, period) = if first && annotated == 0.0 {
            let or = |zero: bool, value: f64| if zero { value } else { f64::INFINITY };
            (or(distance == 0.0, 1.0), or(found == 0.0, 0.0))
        } else {
            ((distance / annotated).abs(), (1.0 - found / annotated).abs())
        };
        if phase < THRESHOLD && period < THRESHOLD {
            (used[nearest], right[m]) = (true, true);
        }
    }
    let longest = right.split(|right| !right).map(<[bool]>::len).max().unwrap_or(0);
    let total = right.iter().filter(|right| **right).count();
    (longest as f64 / count as f64, total as f64 / count as f64)
}

/// The nearest event, the first of equals, and how far away it is.
fn nearest(events: &[f64], time: f64) -> Option<(usize, f64)> {
    let distances = events.iter().map(|event| (time - event).abs()).enumerate();
    distances.reduce(|best, other| if other.1 < best.1 { other } else { best })
}

/// How far the histogram of errors is from uniform, in shares of what is possible (Davies, Degara and Plumbley 2011).
///
/// # Errors
/// When times do not ascend.
pub fn information_gain(reference: &[f64], estimate: &[f64]) -> Result<f64, ScoreError> {
    validate(reference)?;
    validate(estimate)?;
    if reference.len() <= 1 || estimate.len() <= 1 {
        return Ok(0.0);
    }
    let norm = (BINS as f64).log2();
    Ok((norm - entropy(reference, estimate).max(entropy(estimate, reference))) / norm)
}

/// Entropy of the histogram of errors of `estimate`, in bits.
fn entropy(reference: &[f64], estimate: &[f64]) -> f64 {
    let last = reference.len() - 1;
    let step = 1.0 / BINS as f64;
    let edges: Vec<f64> = (0..=BINS).map(|i| if i == BINS { 0.5 } else { i as f64 * step - 0.5 }).collect();
    let mut histogram = vec![0.0f64; BINS];
    for beat in estimate {
        let Some((closest, _)) = nearest(reference, *beat) else { continue };
        let error = beat - reference[closest];
        let interval = if closest == last {
            0.5 * (reference[last] - reference[last - 1])
        } else if error < 0.0 {
            // Before the first beat comes the last, as indices count from the end in numpy.
            0.5 * (reference[closest] - reference[closest.checked_sub(1).unwrap_or(last)])
        } else {
            0.5 * (reference[closest + 1] - reference[closest])
        };
        let mut wrapped = (0.5 * error / interval + 0.5) % 1.0;
        if wrapped > 0.0 {
            wrapped -= 1.0;
        }
        let error = wrapped + 0.5;
        let bin = edges.partition_point(|edge| *edge <= error);
        if (1..=BINS + 1).contains(&bin) && error <= 0.5 {
            histogram[(bin - 1).min(BINS - 1)] += 1.0;
        }
    }
    let total: f64 = histogram.iter().sum();
    -histogram.iter().filter(|count| **count > 0.0).map(|count| count / total * (count / total).log2()).sum::<f64>()
}
