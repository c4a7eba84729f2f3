//! How good predictions are.

/// Share of rows of `classes` scores whose largest is that of the label; the first of equals counts.
pub fn accuracy(scores: &[f32], labels: &[u32], classes: usize) -> f64 {
    let right = scores.chunks_exact(classes).zip(labels).filter(|(row, label)| largest(row) == **label as usize);
    right.count() as f64 / labels.len().max(1) as f64
}

fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Share of `test` that the most frequent label of `train` is right about: what accuracy is by chance.
pub fn majority(train: &[u32], test: &[u32], classes: usize) -> f64 {
    let mut counts = vec![0u64; classes];
    train.iter().for_each(|label| counts[*label as usize] += 1);
    let most = (0..classes).fold(0, |best, i| if counts[i] > counts[best] { i } else { best });
    test.iter().filter(|label| **label as usize == most).count() as f64 / test.len().max(1) as f64
}

/// Area under precision over recall: the sum over distinct scores, from the highest, of the precision there times the
/// recall gained, without interpolation (as scikit-learn and torchmetrics have it). By chance it is the share of
/// positives; without any it is 0.
pub fn average_precision(scores: &[f32], positive: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..scores.len().min(positive.len())).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let total = positive.iter().filter(|positive| **positive).count() as f64;
    let (mut area, mut seen, mut right) = (0.0, 0usize, 0usize);
    for equal in order.chunk_by(|a, b| scores[*a] == scores[*b]) {
        let gained = equal.iter().filter(|i| positive[**i]).count();
        seen += equal.len();
        right += gained;
        area += gained as f64 / total * (right as f64 / seen as f64);
    }
    if total > 0.0 { area } else { 0.0 }
}

/// Times of local maxima of an activation that reach `threshold`; the first of equal neighbours counts.
pub fn peaks(times: &[f64], activation: &[f32], threshold: f32) -> Vec<f64> {
    let at = |i: usize| activation[i];
    let is_peak = |i: &usize| {
        let i = *i;
        at(i) >= threshold && (i == 0 || at(i - 1) < at(i)) && (i + 1 == activation.len() || at(i + 1) <= at(i))
    };
    (0..times.len().min(activation.len())).filter(is_peak).map(|i| times[i]).collect()
}

/// F-measure of found events: harmonic mean of precision and recall, where each found event stands for at most one true
/// event within `tolerance` seconds. Both ascend. 1 when there is neither.
///
/// Nearest-first in the order of time finds the largest matching, since all windows are of one width.
pub fn f_measure(found: &[f64], truth: &[f64], tolerance: f64) -> f64 {
    let (mut f, mut hits) = (0, 0usize);
    for event in truth {
        while f < found.len() && found[f] < event - tolerance {
            f += 1;
        }
        if f < found.len() && found[f] <= event + tolerance {
            hits += 1;
            f += 1;
        }
    }
    match found.len() + truth.len() {
        0 => 1.0,
        events => 2.0 * hits as f64 / events as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_scores_is_the_class() {
        assert_eq!(accuracy(&[0.5, 0.5, 0.1, 0.9, 2.0, 1.0], &[0, 1, 1], 2), 2.0 / 3.0);
        assert_eq!(majority(&[2, 2, 1], &[2, 0, 1, 2], 3), 0.5);
    }

    #[test]
    fn average_precision_is_that_of_scikit_learn_with_ties() {
        let scores = [0.9, 0.8, 0.8, 0.5, 0.4, 0.3, 0.3, 0.1];
        let positive = [true, false, true, false, true, false, true, false];
        assert!((average_precision(&scores, &positive) - 0.709_523_809_523_809_4).abs() < 1e-12);
        assert_eq!(average_precision(&scores, &[false; 8]), 0.0);
        assert!((average_precision(&[1.0; 4], &[true, false, false, false]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn plateaus_have_one_peak() {
        let times: Vec<f64> = (0..8).map(f64::from).collect();
        let activation = [0.9, 0.1, 0.6, 0.6, 0.2, 0.3, 0.1, 0.7];
        assert_eq!(peaks(&times, &activation, 0.5), [0.0, 2.0, 7.0]);
    }

    #[test]
    fn events_are_matched_once() {
        assert_eq!(f_measure(&[1.0, 2.0], &[1.05, 2.05], 0.07), 1.0);
        assert_eq!(f_measure(&[1.0, 1.01], &[1.0], 0.07), 2.0 / 3.0);
        assert_eq!(f_measure(&[0.95, 1.06], &[1.0, 1.1], 0.07), 1.0);
        assert_eq!(f_measure(&[], &[1.0], 0.07), 0.0);
        assert_eq!(f_measure(&[], &[], 0.07), 1.0);
    }
}
