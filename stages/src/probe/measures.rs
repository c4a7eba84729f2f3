//! How good the answers of linear probes are, beside [`crate::score`].

/// Share of rows of `classes` scores whose largest is that of the label; the first of equals counts.
pub fn accuracy(scores: &[f32], labels: &[u32], classes: usize) -> f64 {
    let right = scores.chunks_exact(classes).zip(labels).filter(|(row, label)| largest(row) == **label as usize);
    right.count() as f64 / labels.len().max(1) as f64
}

/// The place of the largest value, the first of equals.
pub(crate) fn largest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Share of `test` that the most frequent label of `train` is right about: what accuracy is by chance.
pub fn majority(train: &[u32], test: &[u32], classes: usize) -> f64 {
    let mut counts = vec![0u64; classes];
    train.iter().for_each(|label| counts[*label as usize] += 1);
    let most = (0..classes).fold(0, |best, i| if counts[i] > counts[best] { i } else { best });
    test.iter().filter(|label| **label as usize == most).count() as f64 / test.len().max(1) as f64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_scores_is_the_class() {
        assert_eq!(accuracy(&[0.5, 0.5, 0.1, 0.9, 2.0, 1.0], &[0, 1, 1], 2), 2.0 / 3.0);
        assert_eq!(majority(&[2, 2, 1], &[2, 0, 1, 2], 3), 0.5);
    }

    #[test]
    fn plateaus_have_one_peak() {
        let times: Vec<f64> = (0..8).map(f64::from).collect();
        let activation = [0.9, 0.1, 0.6, 0.6, 0.2, 0.3, 0.1, 0.7];
        assert_eq!(peaks(&times, &activation, 0.5), [0.0, 2.0, 7.0]);
    }
}
