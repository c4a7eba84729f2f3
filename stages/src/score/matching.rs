//! Events that stand for one another.

/// Size of the largest matching of reference and estimated events that are at most `window` apart, each used once. Both
/// ascend.
///
/// In one dimension with one window the greedy matching in the order of time is a largest one. Bounds are evaluated as
/// `estimate - window` and `estimate + window`, both inclusive, as `mir_eval.util.match_events` does.
pub(super) fn matched(reference: &[f64], estimate: &[f64], window: f64) -> usize {
    matches(reference, estimate, window).len()
}

/// The same matching, as pairs of a reference and an estimate.
pub(super) fn matches(reference: &[f64], estimate: &[f64], window: f64) -> Vec<(usize, usize)> {
    let (mut next, mut pairs) = (0, Vec::new());
    for (index, event) in estimate.iter().enumerate() {
        while next < reference.len() && reference[next] < event - window {
            next += 1;
        }
        if next < reference.len() && reference[next] <= event + window {
            pairs.push((next, index));
            next += 1;
        }
    }
    pairs
}

/// Harmonic mean of precision and recall, recall weighing `beta` times as much; 0 where both are.
pub(super) fn f_measure(precision: f64, recall: f64, beta: f64) -> f64 {
    if precision == 0.0 && recall == 0.0 {
        return 0.0;
    }
    (1.0 + beta * beta) * precision * recall / (beta * beta * precision + recall)
}
