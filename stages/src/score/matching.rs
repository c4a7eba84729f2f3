//! Events that stand for one another.

/// Size of the largest matching of reference and estimated events that are at most `window` apart, each used once. Both
/// ascend.
///
/// In one dimension with one window the greedy matching in the order of time is a largest one. Bounds are evaluated as
/// `estimate - window` and `estimate + window`, both inclusive, as `mir_eval.util.match_events` does.
pub(super) fn matched(reference: &[f64], estimate: &[f64], window: f64) -> usize {
    let (mut next, mut count) = (0, 0);
    for event in estimate {
        while next < reference.len() && reference[next] < event - window {
            next += 1;
        }
        if next < reference.len() && reference[next] <= event + window {
            count += 1;
            next += 1;
        }
    }
    count
}

/// Harmonic mean of precision and recall, recall weighing `beta` times as much; 0 where both are.
pub(super) fn f_measure(precision: f64, recall: f64, beta: f64) -> f64 {
    if precision == 0.0 && recall == 0.0 {
        return 0.0;
    }
    (1.0 + beta * beta) * precision * recall / (beta * beta * precision + recall)
}
