//! Scalar functions that vectorise, and reductions over one row in a fixed order.

use std::f32::consts::FRAC_1_SQRT_2;

/// Lanes of a row reduction. Fixed, so that the order of additions never depends on the machine.
const LANES: usize = 16;

/// Runs `f` compiled for the widest vector unit that this machine has, whatever the program was built for. Only what is
/// inlined into `f` gains by it.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// `a * b + c`, fused where the target has the instruction; without it `f32::mul_add` is a slow library call.
#[inline(always)]
pub(crate) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// Adding `1.5 * 2^23` rounds to the nearest integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;

/// `e^x` to about 1e-7 relative, clamped to the range of normal floats: two-step reduction by ln 2 and the degree-6
/// polynomial of Cephes `expf` (S. Moshier, 1992).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    let shifted = fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma(n, 2.121_944_4e-4, fma(n, -0.693_359_4, x));
    let mut p = 1.987_569_1e-4;
    p = fma(p, r, 1.398_199_9e-3);
    p = fma(p, r, 8.333_452e-3);
    p = fma(p, r, 4.166_579_6e-2);
    p = fma(p, r, 0.166_666_65);
    p = fma(p, r, 0.5);
    let y = fma(p, r * r, r) + 1.0;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    y * f32::from_bits(power)
}

/// `2^x` to about 2e-7 relative, from -126 up to 127, below that as at -126: `2^n (1 + ..)`, `n` the nearest integer, with a
/// polynomial whose largest relative error is least. For loops that are [`vectorized`]: its steps are always fused.
#[inline(always)]
pub(crate) fn exp2(x: f32) -> f32 {
    // Not a number stays what it is.
    let x = if x < -126.0 { -126.0 } else { x };
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let mut p = 1.326_473_1e-3_f32;
    p = p.mul_add(f, 9.671_513e-3);
    p = p.mul_add(f, 5.550_733_6e-2);
    p = p.mul_add(f, 2.402_224_2e-1);
    p = p.mul_add(f, 6.931_469_8e-1);
    p = p.mul_add(f, 1.0);
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// The error function to 1.5e-7 absolute: Abramowitz and Stegun 7.1.26.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    erf_with(x, exp(-x * x))
}

/// [`erf`], where `e^(-x^2)` is known.
#[inline(always)]
fn erf_with(x: f32, exponential: f32) -> f32 {
    let t = 1.0 / fma(0.327_591_1, x.abs(), 1.0);
    let mut p = 1.061_405_4;
    p = fma(p, t, -1.453_152);
    p = fma(p, t, 1.421_413_8);
    p = fma(p, t, -0.284_496_74);
    p = fma(p, t, 0.254_829_6);
    fma(-(p * t), exponential, 1.0).copysign(x)
}

/// GELU in its exact form, `x Phi(x)`, as `torch.nn.GELU()` computes it.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The derivative of [`gelu`]: `Phi(x) + x phi(x)`.
#[inline(always)]
pub(crate) fn gelu_slope(x: f32) -> f32 {
    gelu_and_slope(x).1
}

/// [`gelu`] and its slope together: `Phi` is told through the exponential that `phi` is made of.
#[inline(always)]
pub(crate) fn gelu_and_slope(x: f32) -> (f32, f32) {
    const INV_SQRT_2PI: f32 = 0.398_942_3;
    let exponential = exp(-0.5 * x * x);
    let cumulative = 0.5 * (1.0 + erf_with(x * FRAC_1_SQRT_2, exponential));
    (x * cumulative, fma(x * INV_SQRT_2PI, exponential, cumulative))
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum of `f(value)` over a row.
#[inline(always)]
fn lanes(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += f(*value);
        }
    }
    let rest: f32 = chunks.remainder().iter().map(|value| f(*value)).sum();
    sums.iter().sum::<f32>() + rest
}

/// Sum of a row.
#[inline(always)]
pub(crate) fn sum(row: &[f32]) -> f32 {
    lanes(row, |value| value)
}

/// Mean and biased variance of a row, in two passes.
#[inline(always)]
pub(crate) fn moments(row: &[f32]) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row) / n;
    (mean, lanes(row, |value| (value - mean) * (value - mean)) / n)
}

/// Sum of the products of two rows of one length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_centred(a, b, 0.0)
}

/// Sum of the products of `a` and `b - mean`.
#[inline(always)]
pub(crate) fn dot_centred(a: &[f32], b: &[f32], mean: f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (mut left, mut right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (x, y) in (&mut left).zip(&mut right) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum = fma(*x, *y - mean, *sum);
        }
    }
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| x * (y - mean)).sum();
    sums.iter().sum::<f32>() + rest
}

/// Sum of the squares of a row in double precision, for norms over many values.
pub(crate) fn sum_of_squares(row: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    let rest: f64 = chunks.remainder().iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
    sums.iter().sum::<f64>() + rest
}

/// Largest value of a row; minus infinity for an empty one.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let mut best = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (best, value) in best.iter_mut().zip(chunk) {
            *best = if *value > *best { *value } else { *best };
        }
    }
    chunks.remainder().iter().chain(&best).fold(f32::NEG_INFINITY, |a, b| a.max(*b))
}

/// Turns a row of scores into exponentials relative to their maximum and returns `(maximum, sum)`.
#[inline(always)]
pub(crate) fn exponentials(row: &mut [f32]) -> (f32, f32) {
    let top = max(row);
    for value in row.iter_mut() {
        *value = exp(*value - top);
    }
    (top, sum(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_and_erf_keep_float_accuracy() {
        for i in -8000..8000 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 3e-7, "exp({x})");
        }
        for i in -12_500..12_500 {
            let x = i as f32 * 0.01;
            assert!((f64::from(exp2(x)) / f64::from(x).exp2() - 1.0).abs() < 2.5e-7, "exp2({x})");
        }
        assert!(exp2(f32::NEG_INFINITY) < 2e-38 && exp2(f32::NAN).is_nan());
        // erf(0.5), erf(1), erf(2) from Abramowitz and Stegun, table 7.1.
        for (x, expected) in [(0.5, 0.520_499_9), (1.0, 0.842_700_8), (2.0, 0.995_322_3), (6.0, 1.0)] {
            assert!((erf(x) - expected).abs() < 3e-7 && (erf(-x) + expected).abs() < 3e-7, "erf({x})");
        }
    }

    #[test]
    fn gelu_slope_is_the_slope_of_gelu() {
        for i in -60..60 {
            let (x, h) = (i as f32 * 0.1, 1e-2);
            let numeric = (f64::from(gelu(x + h)) - f64::from(gelu(x - h))) / f64::from(2.0 * h);
            assert!((f64::from(gelu_slope(x)) - numeric).abs() < 1e-4, "at {x}");
            let (value, slope) = gelu_and_slope(x);
            assert!((value - gelu(x)).abs() < 1e-6 && (slope - gelu_slope(x)).abs() < 1e-6, "at {x}");
        }
    }

    #[test]
    fn row_reductions_cover_lengths_that_are_no_multiple_of_the_lanes() {
        for n in [1usize, 15, 16, 17, 50] {
            let row: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let total: f64 = row.iter().map(|v| f64::from(*v)).sum();
            assert!((f64::from(sum(&row)) - total).abs() < 1e-5);
            assert_eq!(max(&row), row.iter().copied().fold(f32::MIN, f32::max));
            assert!((f64::from(dot(&row, &row)) - sum_of_squares(&row)).abs() < 1e-5);
        }
    }
}
