//! Classes that have an order: grades.

use std::collections::{BTreeMap, BTreeSet};

/// Squared errors, averaged within each true grade, then over the grades that occur; 0 without any.
pub fn macro_mse(truth: &[i64], found: &[i64]) -> f64 {
    by_grade(truth, found, |truth, found| ((truth - found) as f64).powi(2))
}

/// Share of right answers within each true class, then the mean over the classes that occur (scikit-learn's
/// `balanced_accuracy_score`).
pub fn balanced_accuracy(truth: &[i64], found: &[i64]) -> f64 {
    by_grade(truth, found, |truth, found| f64::from(u8::from(truth == found)))
}

fn by_grade(truth: &[i64], found: &[i64], of: impl Fn(i64, i64) -> f64) -> f64 {
    let mut sums: BTreeMap<i64, (f64, f64)> = BTreeMap::new();
    for (truth, found) in truth.iter().zip(found) {
        let (sum, count) = sums.entry(*truth).or_default();
        *sum += of(*truth, *found);
        *count += 1.0;
    }
    sums.values().map(|(sum, count)| sum / count).sum::<f64>() / sums.len().max(1) as f64
}

/// Kendall's tau-b: how much two orders agree, -1 to 1, ties considered (SciPy's `kendalltau`). NaN where one side has a
/// single value.
pub fn kendall_tau_b(a: &[i64], b: &[i64]) -> f64 {
    let n = a.len().min(b.len());
    // Grades are few: counts of pairs of values, instead of pairs of recordings.
    let mut table: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    (0..n).for_each(|i| *table.entry((a[i], b[i])).or_default() += 1);
    let cells: Vec<((i64, i64), i64)> = table.into_iter().collect();
    let (mut concordant, mut discordant) = (0i64, 0i64);
    for (i, ((a1, b1), count)) in cells.iter().enumerate() {
        for ((a2, b2), other) in &cells[i + 1..] {
            match (a2 - a1).signum() * (b2 - b1).signum() {
                1 => concordant += count * other,
                -1 => discordant += count * other,
                _ => {}
            }
        }
    }
    let pairs = |count: i64| count * (count - 1) / 2;
    let tied = |values: &[i64]| -> i64 {
        let distinct: BTreeSet<i64> = values[..n].iter().copied().collect();
        distinct.iter().map(|value| pairs(values[..n].iter().filter(|v| *v == value).count() as i64)).sum()
    };
    let all = pairs(n as i64);
    (concordant - discordant) as f64 / (((all - tied(a)) as f64) * ((all - tied(b)) as f64)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grades_weigh_alike_however_many_pieces_they_have() {
        let (truth, found) = ([0, 0, 0, 0, 5], [0, 0, 0, 2, 3]);
        assert_eq!(macro_mse(&truth, &found), f64::midpoint(1.0, 4.0));
        assert_eq!(balanced_accuracy(&truth, &found), 0.375);
        assert_eq!(macro_mse(&[], &[]), 0.0);
    }

    #[test]
    fn tau_is_that_of_scipy() {
        // scipy.stats.kendalltau([1, 2, 2, 3, 4, 4, 5], [1, 3, 2, 2, 5, 4, 4])
        let tau = kendall_tau_b(&[1, 2, 2, 3, 4, 4, 5], &[1, 3, 2, 2, 5, 4, 4]);
        assert!((tau - 0.684_210_526_315_789_5).abs() < 1e-12, "{tau}");
        assert_eq!(kendall_tau_b(&[1, 2, 3], &[3, 2, 1]), -1.0);
        assert!(kendall_tau_b(&[1, 1], &[1, 2]).is_nan());
    }
}
