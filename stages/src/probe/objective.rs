//! What a probe is trained to do: losses of logits with their gradients, on rows in memory.

use serde::{Deserialize, Serialize};

/// How far logits are from targets. Targets are rows as wide as the logits; a target that is NaN does not count.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Objective {
    /// Binary cross-entropy of every logit, weighted by column, the mean over all entries.
    Binary {
        /// A weight per column; none: all are 1.
        weights: Vec<f32>,
    },
    /// Cross-entropy over the columns of a row: targets are shares that sum to 1.
    Classes,
    /// Mean squared error of the raw outputs: ordinal targets are 1 up to the grade, 0 above (Cheng et al. 2008).
    Squares,
}

impl Objective {
    /// The mean loss, and its gradient in `gradient`.
    ///
    /// # Shapes
    /// `logits`, `targets` and `gradient` are `(rows, columns)`.
    ///
    /// # Panics
    /// When the lengths differ, or weights do not fit the columns.
    pub fn evaluate(&self, logits: &[f32], targets: &[f32], columns: usize, gradient: &mut [f32]) -> f64 {
        assert!(logits.len() == targets.len() && logits.len() == gradient.len(), "logits and targets fit");
        match self {
            Self::Binary { weights } => {
                assert!(weights.is_empty() || weights.len() == columns, "a weight per column");
                let weight = |at: usize| weights.get(at % columns.max(1)).copied().unwrap_or(1.0);
                entries(logits, targets, gradient, |at, logit, target| {
                    let odds = f64::from(logit);
                    let loss = odds.max(0.0) - odds * f64::from(target) + (-odds.abs()).exp().ln_1p();
                    let slope = sigmoid(logit) - target;
                    (f64::from(weight(at)) * loss, weight(at) * slope)
                })
            }
            Self::Squares => entries(logits, targets, gradient, |_, logit, target| {
                let error = logit - target;
                (f64::from(error).powi(2), 2.0 * error)
            }),
            Self::Classes => classes(logits, targets, columns, gradient),
        }
    }
}

/// The logistic function.
pub fn sigmoid(x: f32) -> f32 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// The mean over the entries with a target.
fn entries(logits: &[f32], targets: &[f32], gradient: &mut [f32], of: impl Fn(usize, f32, f32) -> (f64, f32)) -> f64 {
    let count = targets.iter().filter(|target| !target.is_nan()).count().max(1);
    let mut total = 0.0;
    for (at, ((logit, target), gradient)) in logits.iter().zip(targets).zip(gradient.iter_mut()).enumerate() {
        let (loss, slope) = if target.is_nan() { (0.0, 0.0) } else { of(at, *logit, *target) };
        total += loss;
        *gradient = slope / count as f32;
    }
    total / count as f64
}

/// Cross-entropy with softmax, the mean over the rows with a target.
fn classes(logits: &[f32], targets: &[f32], columns: usize, gradient: &mut [f32]) -> f64 {
    let rows = || targets.chunks_exact(columns);
    let count = rows().filter(|row| !row[0].is_nan()).count().max(1);
    let mut total = 0.0;
    for ((logits, targets), gradient) in
        logits.chunks_exact(columns).zip(rows()).zip(gradient.chunks_exact_mut(columns))
    {
        if targets[0].is_nan() {
            gradient.fill(0.0);
            continue;
        }
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(x - largest).exp()).sum();
        for ((logit, target), gradient) in logits.iter().zip(targets).zip(gradient) {
            let centred = f64::from(logit - largest);
            total += f64::from(*target) * (sum.ln() - centred);
            *gradient = ((centred.exp() / sum) as f32 - target) / count as f32;
        }
    }
    total / count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(objective: &Objective, targets: &[f32], columns: usize) {
        let logits: Vec<f32> = (0..targets.len()).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
        let mut gradient = vec![0.0; logits.len()];
        let mut unused = vec![0.0; logits.len()];
        objective.evaluate(&logits, targets, columns, &mut gradient);
        for at in 0..logits.len() {
            let mut moved = |by: f32| {
                let mut logits = logits.clone();
                logits[at] += by;
                objective.evaluate(&logits, targets, columns, &mut unused)
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope - f64::from(gradient[at])).abs() < 1e-4, "{objective:?} {at}: {slope} {}", gradient[at]);
        }
    }

    #[test]
    fn gradients_are_slopes_and_what_has_no_target_does_not_count() {
        let none = f32::NAN;
        check(&Objective::Binary { weights: Vec::new() }, &[1.0, 0.0, none, 0.3, 1.0, 0.0], 3);
        check(&Objective::Binary { weights: vec![0.5, 2.0] }, &[1.0, 0.0, 0.0, 1.0], 2);
        check(&Objective::Squares, &[1.0, 1.0, 0.0, none], 4);
        check(&Objective::Classes, &[0.0, 1.0, 0.0, none, none, none, 0.5, 0.0, 0.5], 3);
    }

    #[test]
    fn losses_are_those_of_the_formulas() {
        let mut gradient = [0.0; 2];
        let binary = Objective::Binary { weights: Vec::new() }.evaluate(&[0.0, 0.0], &[1.0, 0.0], 2, &mut gradient);
        assert!((binary - 2f64.ln()).abs() < 1e-12);
        let classes = Objective::Classes.evaluate(&[3.0, 3.0], &[0.0, 1.0], 2, &mut gradient);
        assert!((classes - 2f64.ln()).abs() < 1e-12);
        assert_eq!(Objective::Squares.evaluate(&[1.0, 3.0], &[1.0, 1.0], 2, &mut gradient), 2.0);
        // Far out nothing overflows.
        let far = Objective::Binary { weights: Vec::new() }.evaluate(&[200.0, -200.0], &[0.0, 0.0], 2, &mut gradient);
        assert!((far - 100.0).abs() < 1e-6);
    }
}
