//! How well scores rank what is positive above what is not.

/// Positions from the highest score to the lowest.
fn order(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

/// Area under precision over recall: the sum over distinct scores, from the highest, of the precision there times the
/// recall gained, without interpolation (scikit-learn's `average_precision_score`, torchmetrics without thresholds).
/// Without a positive it is 0.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    let total = positive.iter().filter(|positive| **positive).count() as f64;
    let (mut area, mut seen, mut right) = (0.0, 0usize, 0usize);
    for equal in order(scores).chunk_by(|a, b| scores[*a] == scores[*b]) {
        let gained = equal.iter().filter(|i| positive[**i]).count();
        seen += equal.len();
        right += gained;
        area += gained as f64 / total * (right as f64 / seen as f64);
    }
    if total > 0.0 { area } else { 0.0 }
}

/// Area under the ROC curve: the probability that a positive scores above a negative, ties counting half (Mann and
/// Whitney). NaN where one of them is missing.
pub fn roc_auc(scores: &[f64], positive: &[bool]) -> f64 {
    let (mut above, mut wins, mut negatives) = (0.0, 0.0, 0.0);
    for equal in order(scores).chunk_by(|a, b| scores[*a] == scores[*b]) {
        let hits = equal.iter().filter(|i| positive[**i]).count() as f64;
        let misses = equal.len() as f64 - hits;
        wins += misses * (above + hits / 2.0);
        above += hits;
        negatives += misses;
    }
    wins / (above * negatives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_are_one_threshold() {
        let scores = [0.9, 0.8, 0.8, 0.5, 0.4, 0.3, 0.3, 0.1];
        let positive = [true, false, true, false, true, false, true, false];
        assert!((average_precision(&scores, &positive) - 0.709_523_809_523_809_4).abs() < 1e-12);
        assert!((roc_auc(&scores, &positive) - 0.6875).abs() < 1e-12);
    }

    #[test]
    fn what_is_not_defined_says_so() {
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), 0.0);
        assert_eq!(average_precision(&[0.1, 0.2], &[true, true]), 1.0);
        assert!(roc_auc(&[0.1, 0.2], &[false, false]).is_nan());
        assert_eq!(roc_auc(&[0.5; 4], &[true, false, true, false]), 0.5);
    }
}
