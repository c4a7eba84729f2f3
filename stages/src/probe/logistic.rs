//! Multinomial logistic regression.
//!
//! Minimises the mean cross-entropy over the examples plus `l2 / 2` times the sum of squared weights, biases excepted
//! (scikit-learn's `LogisticRegression(C = 1 / (n l2))`). The problem is convex: where the fit starts only decides how
//! soon it ends. Sums run in an order that does not depend on the number of threads.

use candle_core::{Device, Tensor};

use super::ProbeError;
use super::lbfgs::{Stop, minimize};

/// Deviations below this are those of a constant.
const CONSTANT: f64 = 1e-6;

/// Brings every column of a matrix to mean 0 and deviation 1, as measured on the examples to fit.
#[derive(Debug, Clone)]
pub struct Standardizer {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl Standardizer {
    /// Measures rows of `dim` values. Columns that do not vary are only centred.
    pub fn of(rows: &[f32], dim: usize) -> Self {
        let n = (rows.len() / dim.max(1)).max(1) as f64;
        let mut mean = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim.max(1)) {
            mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        mean.iter_mut().for_each(|sum| *sum /= n);
        let mut variance = vec![0.0f64; dim];
        for row in rows.chunks_exact(dim.max(1)) {
            let columns = variance.iter_mut().zip(&mean).zip(row);
            columns.for_each(|((sum, mean), x)| *sum += (f64::from(*x) - mean).powi(2));
        }
        let scale = |sum: &f64| {
            let deviation = (sum / n).sqrt();
            if deviation > CONSTANT { (1.0 / deviation) as f32 } else { 1.0 }
        };
        Self { mean: mean.iter().map(|mean| *mean as f32).collect(), scale: variance.iter().map(scale).collect() }
    }

    /// Standardises rows in place.
    pub fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len().max(1)) {
            let columns = row.iter_mut().zip(&self.mean).zip(&self.scale);
            columns.for_each(|((x, mean), scale)| *x = (*x - mean) * scale);
        }
    }
}

/// Vectors to classify, `(n, dim)` in f32.
#[derive(Debug, Clone)]
pub struct Vectors {
    x: Tensor,
    n: usize,
    dim: usize,
}

impl Vectors {
    /// `rows`, flat, of `dim` values each.
    ///
    /// # Errors
    /// When that is not a whole number of rows.
    pub fn new(rows: Vec<f32>, dim: usize) -> Result<Self, ProbeError> {
        let n = rows.len() / dim.max(1);
        if dim == 0 || n * dim != rows.len() {
            return Err(ProbeError::Shape(format!("{} values are not rows of {dim}", rows.len())));
        }
        Ok(Self { x: Tensor::from_vec(rows, (n, dim), &Device::Cpu)?, n, dim })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }
}

/// A fitted classifier.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// `(dim + 1, classes)`, the biases last.
    weights: Vec<f64>,
    classes: usize,
    /// The penalised loss at the end of the fit, in nats.
    pub loss: f64,
    /// Steps of the fit.
    pub iterations: usize,
    /// Whether the fit ended at its tolerance.
    pub converged: bool,
}

impl Classifier {
    /// Fits `labels`, one class below `classes` for every vector, from the weights of `start` where one is given.
    ///
    /// # Errors
    /// When sizes do not fit together, or the loss stops being a number.
    pub fn fit(
        vectors: &Vectors,
        labels: &[u32],
        classes: usize,
        l2: f64,
        stop: Stop,
        start: Option<&Self>,
    ) -> Result<Self, ProbeError> {
        let Vectors { x, n, dim } = vectors;
        let known = labels.iter().all(|label| (*label as usize) < classes);
        if labels.len() != *n || *n == 0 || !known {
            let message =
                format!("expected a label below {classes} for each of {n} vectors, found {} labels", labels.len());
            return Err(ProbeError::Shape(message));
        }
        let start = match start {
            Some(start) if start.weights.len() == (dim + 1) * classes => start.weights.clone(),
            Some(_) => return Err(ProbeError::Shape("the classifier to start from has another size".to_owned())),
            None => vec![0.0; (dim + 1) * classes],
        };
        let minimum = minimize(start, stop, |weights, gradient| {
            let (loss, errors) = cross_entropy(logits(x, weights, (*dim, classes))?, labels, classes);
            let errors = Tensor::from_vec(errors, (*n, classes), &Device::Cpu)?;
            let inner: Vec<f32> = x.t()?.matmul(&errors)?.flatten_all()?.to_vec1()?;
            let biases: Vec<f64> = column_sums(&errors.flatten_all()?.to_vec1::<f32>()?, classes);
            let w = &weights[..dim * classes];
            let (inner_gradient, bias_gradient) = gradient.split_at_mut(dim * classes);
            for ((g, w), inner) in inner_gradient.iter_mut().zip(w).zip(inner) {
                *g = f64::from(inner) / *n as f64 + l2 * w;
            }
            for (g, sum) in bias_gradient.iter_mut().zip(biases) {
                *g = sum / *n as f64;
            }
            Ok::<_, ProbeError>(loss / *n as f64 + 0.5 * l2 * w.iter().map(|w| w * w).sum::<f64>())
        })?;
        if !minimum.value.is_finite() {
            return Err(ProbeError::NotFinite { loss: minimum.value, iterations: minimum.iterations });
        }
        let (loss, iterations, converged) = (minimum.value, minimum.iterations, minimum.converged);
        Ok(Self { weights: minimum.x, classes, loss, iterations, converged })
    }

    /// Logarithms of the odds, `(n, classes)` flat: the largest is the class.
    ///
    /// # Errors
    /// When the vectors have another length than those of the fit.
    pub fn scores(&self, vectors: &Vectors) -> Result<Vec<f32>, ProbeError> {
        if (vectors.dim + 1) * self.classes != self.weights.len() {
            let fitted = self.weights.len() / self.classes - 1;
            let message = format!("fitted to vectors of {fitted} values, asked about vectors of {}", vectors.dim);
            return Err(ProbeError::Shape(message));
        }
        logits(&vectors.x, &self.weights, (vectors.dim, self.classes))
    }
}

/// `x w + b`.
fn logits(x: &Tensor, weights: &[f64], (dim, classes): (usize, usize)) -> Result<Vec<f32>, ProbeError> {
    let narrow: Vec<f32> = weights.iter().map(|w| *w as f32).collect();
    let w = Tensor::from_slice(&narrow[..dim * classes], (dim, classes), &Device::Cpu)?;
    let mut logits: Vec<f32> = x.matmul(&w)?.flatten_all()?.to_vec1()?;
    for row in logits.chunks_exact_mut(classes) {
        row.iter_mut().zip(&narrow[dim * classes..]).for_each(|(logit, bias)| *logit += bias);
    }
    Ok(logits)
}

/// The sum of the cross-entropies, and in place of the logits its derivatives by them: softmax minus one-hot.
fn cross_entropy(mut logits: Vec<f32>, labels: &[u32], classes: usize) -> (f64, Vec<f32>) {
    let mut loss = 0.0;
    for (row, label) in logits.chunks_exact_mut(classes).zip(labels) {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let target = row[*label as usize] - largest;
        let mut sum = 0.0;
        for value in row.iter_mut() {
            *value = (*value - largest).exp();
            sum += *value;
        }
        row.iter_mut().for_each(|value| *value /= sum);
        row[*label as usize] -= 1.0;
        loss += f64::from(sum.ln() - target);
    }
    (loss, logits)
}

fn column_sums(rows: &[f32], columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for row in rows.chunks_exact(columns) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::measures::accuracy;

    /// `n` points of `dim` values of a small deterministic cloud around a centre per class.
    fn clouds(n: usize, dim: usize, classes: usize, spread: f32) -> (Vec<f32>, Vec<u32>) {
        let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
        let value = |i: usize, d: usize| {
            let centre = if d == i % classes { 2.0 } else { 0.0 };
            centre + spread * ((i * 131 + d * 37) as f32).sin()
        };
        ((0..n).flat_map(|i| (0..dim).map(move |d| value(i, d))).collect(), labels)
    }

    fn fit(rows: &[f32], labels: &[u32], dim: usize, classes: usize, l2: f64) -> Classifier {
        let vectors = Vectors::new(rows.to_vec(), dim).expect("whole rows");
        let stop = Stop { iterations: 500, gradient: 1e-7, decrease: 0.0 };
        Classifier::fit(&vectors, labels, classes, l2, stop, None).expect("it fits")
    }

    #[test]
    fn separable_classes_are_told_apart() {
        let (rows, labels) = clouds(120, 6, 4, 0.5);
        let classifier = fit(&rows, &labels, 6, 4, 1e-3);
        let scores = classifier.scores(&Vectors::new(rows, 6).expect("whole rows")).expect("the same length");
        assert_eq!(accuracy(&scores, &labels, 4), 1.0);
        assert!(classifier.converged && classifier.loss < 0.1, "{classifier:?}");
    }

    #[test]
    fn without_information_the_classes_have_their_shares() {
        // Closed form: with vectors of zeros only the biases count, and their softmax is the share of each class.
        let labels: Vec<u32> = (0..100).map(|i| u32::from(i % 10 < 3) + 2 * u32::from(i % 10 == 9)).collect();
        let classifier = fit(&[0.0; 200], &labels, 2, 3, 1e-2);
        let entropy: f64 = [0.6f64, 0.3, 0.1].iter().map(|p| -p * p.ln()).sum();
        assert!((classifier.loss - entropy).abs() < 1e-6, "{} {entropy}", classifier.loss);
    }

    #[test]
    fn agrees_with_scikit_learn() {
        // LogisticRegression(C=1 / (60 * 0.05), tol=1e-10, max_iter=10000) of scikit-learn 1.9.1 on the same points.
        let (rows, labels) = clouds(60, 3, 3, 2.5);
        let classifier = fit(&rows, &labels, 3, 3, 0.05);
        let scores = classifier.scores(&Vectors::new(rows, 3).expect("whole rows")).expect("the same length");
        let probability = |i: usize| {
            let row = &scores[3 * i..3 * i + 3];
            let sum: f32 = row.iter().map(|z| z.exp()).sum();
            f64::from(row[labels[i] as usize].exp() / sum)
        };
        for (i, expected) in SCIKIT_LEARN {
            assert!((probability(i) - expected).abs() < 1e-5, "{i}: {} {expected}", probability(i));
        }
    }

    /// Example, and the probability of its class.
    const SCIKIT_LEARN: [(usize, f64); 3] = [(0, 0.923_098), (7, 0.914_281), (59, 0.293_378)];

    #[test]
    fn a_warm_start_ends_at_the_same_place() {
        let (rows, labels) = clouds(90, 4, 3, 2.0);
        let strong = fit(&rows, &labels, 4, 3, 1.0);
        let vectors = Vectors::new(rows.clone(), 4).expect("whole rows");
        let stop = Stop { iterations: 500, gradient: 1e-7, decrease: 0.0 };
        let warm = Classifier::fit(&vectors, &labels, 3, 0.01, stop, Some(&strong)).expect("it fits");
        assert!((warm.loss - fit(&rows, &labels, 4, 3, 0.01).loss).abs() < 1e-6);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let vectors = Vectors::new(vec![0.0; 6], 2).expect("whole rows");
        let stop = Stop::default();
        let error = Classifier::fit(&vectors, &[0, 5, 1], 2, 0.1, stop, None).expect_err("there is no class 5");
        assert_eq!(error.to_string(), "expected a label below 2 for each of 3 vectors, found 3 labels");
        assert!(Vectors::new(vec![0.0; 5], 2).is_err());
    }

    #[test]
    fn columns_are_standardised_and_constants_survive() {
        let mut rows = vec![1.0, 7.0, 3.0, 7.0, 5.0, 7.0];
        Standardizer::of(&rows, 2).apply(&mut rows);
        let edge = 1.5f32.sqrt();
        for (found, expected) in rows.iter().zip([-edge, 0.0, 0.0, 0.0, edge, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{rows:?}");
        }
    }
}
