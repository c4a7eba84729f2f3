//! Limited-memory BFGS: Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 7.5, with the bisection of Lewis &
//! Overton (Nonsmooth optimization via quasi-Newton methods, 2013) to a step that fulfils the weak Wolfe conditions.

use std::collections::VecDeque;

/// Pairs of steps and gradient changes that stand for the curvature.
const MEMORY: usize = 10;
/// Sufficient decrease.
const ARMIJO: f64 = 1e-4;
/// Sufficient flattening.
const WOLFE: f64 = 0.9;
/// Evaluations in one search along a line.
const SEARCH: usize = 20;

/// When to stop.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// Steps at most.
    pub iterations: usize,
    /// Largest component of the gradient that counts as none.
    pub gradient: f64,
    /// Decrease of a step, relative to the value, that counts as none.
    pub decrease: f64,
}

impl Default for Stop {
    fn default() -> Self {
        Self { iterations: 300, gradient: 1e-5, decrease: 1e-7 }
    }
}

/// Where the search ended.
#[derive(Debug, Clone)]
pub struct Minimum {
    /// The point.
    pub x: Vec<f64>,
    /// The function there.
    pub value: f64,
    /// Steps that were made.
    pub iterations: usize,
    /// Whether it ended at a tolerance, and not for want of steps.
    pub converged: bool,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A step, the change of the gradient along it, and the reciprocal of their product.
struct Pair {
    s: Vec<f64>,
    y: Vec<f64>,
    rho: f64,
}

/// Minus the inverse Hessian, as far as the pairs tell it, times the gradient.
fn direction(pairs: &VecDeque<Pair>, gradient: &[f64]) -> Vec<f64> {
    let mut d: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut alphas = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let alpha = pair.rho * dot(&pair.s, &d);
        d.iter_mut().zip(&pair.y).for_each(|(d, y)| *d -= alpha * y);
        alphas.push(alpha);
    }
    let scale = match pairs.back() {
        Some(pair) => 1.0 / (pair.rho * dot(&pair.y, &pair.y)),
        // Without curvature: a step of length 1 at most.
        None => 1.0 / dot(gradient, gradient).sqrt().max(1.0),
    };
    d.iter_mut().for_each(|d| *d *= scale);
    for (pair, alpha) in pairs.iter().zip(alphas.iter().rev()) {
        let beta = pair.rho * dot(&pair.y, &d);
        d.iter_mut().zip(&pair.s).for_each(|(d, s)| *d += (alpha - beta) * s);
    }
    d
}

/// Minimises `f`, which writes the gradient at its first argument to its second and gives the value there.
///
/// # Errors
/// Those of `f`.
pub fn minimize<E>(
    start: Vec<f64>,
    stop: Stop,
    mut f: impl FnMut(&[f64], &mut [f64]) -> Result<f64, E>,
) -> Result<Minimum, E> {
    let (mut x, mut gradient) = (start, Vec::new());
    gradient.resize(x.len(), 0.0);
    let mut value = f(&x, &mut gradient)?;
    let mut pairs: VecDeque<Pair> = VecDeque::new();
    let mut next = (vec![0.0; x.len()], vec![0.0; x.len()]);
    for iterations in 0..stop.iterations {
        if gradient.iter().all(|g| g.abs() <= stop.gradient) {
            return Ok(Minimum { x, value, iterations, converged: true });
        }
        let d = direction(&pairs, &gradient);
        let slope = dot(&d, &gradient);
        let (mut low, mut high, mut step) = (0.0, f64::INFINITY, 1.0);
        let mut found = None;
        for _ in 0..SEARCH {
            next.0.iter_mut().zip(x.iter().zip(&d)).for_each(|(next, (x, d))| *next = x + step * d);
            let there = f(&next.0, &mut next.1)?;
            found = (there <= value + ARMIJO * step * slope).then_some(there);
            if found.is_none() {
                high = step;
            } else if dot(&next.1, &d) < WOLFE * slope {
                low = step;
            } else {
                break;
            }
            step = if high.is_finite() { f64::midpoint(low, high) } else { 2.0 * low };
        }
        // Without a decrease it is as far down as rounding lets see.
        let Some(there) = found else {
            return Ok(Minimum { x, value, iterations, converged: value.is_finite() });
        };
        let s: Vec<f64> = next.0.iter().zip(&x).map(|(next, x)| next - x).collect();
        let y: Vec<f64> = next.1.iter().zip(&gradient).map(|(next, g)| next - g).collect();
        let sy = dot(&s, &y);
        if sy > 1e-12 * dot(&y, &y) {
            pairs.push_back(Pair { rho: 1.0 / sy, s, y });
            if pairs.len() > MEMORY {
                pairs.pop_front();
            }
        }
        let decrease = value - there;
        x.copy_from_slice(&next.0);
        gradient.copy_from_slice(&next.1);
        value = there;
        if decrease <= stop.decrease * value.abs().max(1e-12) {
            return Ok(Minimum { x, value, iterations: iterations + 1, converged: true });
        }
    }
    Ok(Minimum { x, value, iterations: stop.iterations, converged: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rosenbrock's valley: a curved, badly scaled function with its minimum at (1, 1).
    fn valley(x: &[f64], gradient: &mut [f64]) -> Result<f64, std::convert::Infallible> {
        let (a, b) = (1.0 - x[0], x[1] - x[0] * x[0]);
        gradient[0] = -2.0 * a - 400.0 * x[0] * b;
        gradient[1] = 200.0 * b;
        Ok(a * a + 100.0 * b * b)
    }

    #[test]
    fn finds_the_bottom_of_a_curved_valley() {
        let stop = Stop { iterations: 200, gradient: 1e-9, decrease: 0.0 };
        let minimum = minimize(vec![-1.2, 1.0], stop, valley).expect("it cannot fail");
        assert!(minimum.converged && minimum.iterations < 60, "{minimum:?}");
        assert!(minimum.x.iter().all(|x| (x - 1.0).abs() < 1e-8), "{minimum:?}");
    }

    #[test]
    fn a_quadratic_is_solved_to_its_closed_form() {
        // Minimum of x' A x / 2 - b x, A = diag(1, 10, 100, ...): b / A.
        let scale = |i: usize| 10f64.powi(i as i32);
        let f = |x: &[f64], gradient: &mut [f64]| {
            let mut value = 0.0;
            for (i, (x, g)) in x.iter().zip(gradient).enumerate() {
                *g = scale(i) * x - 1.0;
                value += scale(i) * x * x / 2.0 - x;
            }
            Ok::<_, std::convert::Infallible>(value)
        };
        let stop = Stop { iterations: 500, gradient: 1e-10, decrease: 0.0 };
        let minimum = minimize(vec![0.0; 5], stop, f).expect("it cannot fail");
        for (i, x) in minimum.x.iter().enumerate() {
            assert!((x * scale(i) - 1.0).abs() < 1e-5, "{minimum:?}");
        }
    }
}
