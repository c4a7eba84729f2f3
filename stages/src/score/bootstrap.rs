//! How far a mean could be off: resampling (Efron 1979).

use crate::seed;

/// The interval that holds the mean of `share` of `resamples` resamples of `values` (percentiles, the same mass left out on
/// both sides). Depends on `seed` alone; without values it is `(0, 0)`.
pub fn interval(values: &[f64], share: f64, resamples: usize, seed: u64) -> (f64, f64) {
    if values.is_empty() || resamples == 0 {
        return (0.0, 0.0);
    }
    let mut means: Vec<f64> = (0..resamples)
        .map(|resample| {
            let mut dice = seed::Random::new(seed, &[resample as u64]);
            let sum: f64 = values.iter().map(|_| values[dice.below(values.len() as u64) as usize]).sum();
            sum / values.len() as f64
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - share.clamp(0.0, 1.0)) / 2.0;
    let at = |quantile: f64| means[((quantile * resamples as f64) as usize).min(resamples - 1)];
    (at(tail), at(1.0 - tail))
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn the_interval_of_a_mean_has_its_standard_error() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let (low, high) = interval(&values, 0.95, 4000, 7);
        // 1.96 standard errors of 0.025 on both sides.
        assert!((low - 0.451).abs() < 0.006 && (high - 0.549).abs() < 0.006, "{low} {high}");
        assert_eq!(interval(&values, 0.95, 4000, 7), (low, high));
        assert_eq!(interval(&[3.0], 0.95, 10, 1), (3.0, 3.0));
        assert_eq!(interval(&[], 0.95, 10, 1), (0.0, 0.0));
    }
}
