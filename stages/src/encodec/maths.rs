//! ELU, the logistic function and the hyperbolic tangent on vectors.

use pulp::{Arch, Simd, WithSimd};

/// `e^x - 1` for `-87 <= x <= 88`, to about 1e-7 relative: two-step reduction by ln 2 and the degree-6 polynomial of
/// Cephes `expf` (S. Moshier, 1992); without cancellation near zero.
#[inline(always)]
fn exp_m1<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let c = |value: f32| simd.splat_f32s(value);
    let shifted = simd.mul_add_f32s(x, c(std::f32::consts::LOG2_E), c(ROUND));
    let n = simd.sub_f32s(shifted, c(ROUND));
    let r = simd.mul_add_f32s(n, c(2.121_944_4e-4), simd.mul_add_f32s(n, c(-0.693_359_4), x));
    let mut p = c(1.987_569_1e-4);
    p = simd.mul_add_f32s(p, r, c(1.398_199_9e-3));
    p = simd.mul_add_f32s(p, r, c(8.333_452e-3));
    p = simd.mul_add_f32s(p, r, c(4.166_579_6e-2));
    p = simd.mul_add_f32s(p, r, c(0.166_666_65));
    p = simd.mul_add_f32s(p, r, c(0.5));
    let fraction = simd.mul_add_f32s(p, simd.mul_f32s(r, r), r);
    let bits = simd.add_u32s(simd.transmute_u32s_f32s(shifted), simd.splat_u32s(127u32.wrapping_sub(ROUND.to_bits())));
    let power = simd.transmute_f32s_u32s(simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(23)));
    simd.mul_add_f32s(power, fraction, simd.sub_f32s(power, c(1.0)))
}

/// `max(x, low)`, NaN kept.
#[inline(always)]
fn at_least<S: Simd>(simd: S, x: S::f32s, low: f32) -> S::f32s {
    let low = simd.splat_f32s(low);
    simd.select_f32s(simd.less_than_f32s(x, low), low, x)
}

/// `min(x, high)`, NaN kept.
#[inline(always)]
fn at_most<S: Simd>(simd: S, x: S::f32s, high: f32) -> S::f32s {
    let high = simd.splat_f32s(high);
    simd.select_f32s(simd.greater_than_f32s(x, high), high, x)
}

/// `x` where positive, else `e^x - 1`; NaN stays NaN.
#[inline(always)]
pub(super) fn elu<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    // Where x is not a number, whatever comes out here is not taken.
    let negative = exp_m1(simd, simd.max_f32s(x, simd.splat_f32s(-87.0)));
    simd.select_f32s(simd.less_than_f32s(x, simd.splat_f32s(0.0)), negative, x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let x = at_most(simd, at_least(simd, x, -87.0), 87.0);
    let exp_m1 = exp_m1(simd, simd.sub_f32s(simd.splat_f32s(0.0), x));
    simd.div_f32s(simd.splat_f32s(1.0), simd.add_f32s(exp_m1, simd.splat_f32s(2.0)))
}

/// The hyperbolic tangent.
#[inline(always)]
pub(super) fn tanh<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let x = at_most(simd, at_least(simd, x, -20.0), 20.0);
    let exp_m1 = exp_m1(simd, simd.add_f32s(x, x));
    simd.div_f32s(exp_m1, simd.add_f32s(exp_m1, simd.splat_f32s(2.0)))
}

/// `out = elu(values)`, lengths equal.
pub(super) fn elu_into(arch: Arch, values: &[f32], out: &mut [f32]) {
    arch.dispatch(EluInto { values, out });
}

struct EluInto<'a> {
    values: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for EluInto<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (values, values_rest) = S::as_simd_f32s(self.values);
        let (out, out_rest) = S::as_mut_simd_f32s(self.out);
        for (value, out) in values.iter().zip(out) {
            *out = elu(simd, *value);
        }
        simd.partial_store_f32s(out_rest, elu(simd, simd.partial_load_f32s(values_rest)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tabulate<'a> {
        values: &'a [f32],
        out: &'a mut [[f32; 3]],
    }

    impl WithSimd for Tabulate<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            for (value, out) in self.values.iter().zip(self.out) {
                let x = simd.splat_f32s(*value);
                let first = |y: S::f32s| {
                    let mut lane = [0.0];
                    simd.partial_store_f32s(&mut lane, y);
                    lane[0]
                };
                *out = [first(elu(simd, x)), first(sigmoid(simd, x)), first(tanh(simd, x))];
            }
        }
    }

    #[test]
    fn functions_keep_float_accuracy_and_saturate() {
        let mut values: Vec<f32> = (-30_000..30_000).map(|i| i as f32 * 0.003_1).collect();
        values.extend([0.0, -0.0, 1e-20, -1e-20, -200.0, 200.0, f32::INFINITY, f32::NEG_INFINITY]);
        for arch in [Arch::new(), Arch::Scalar] {
            let mut out = vec![[0.0; 3]; values.len()];
            arch.dispatch(Tabulate { values: &values, out: &mut out });
            for (x, [elu, sigmoid, tanh]) in values.iter().map(|x| f64::from(*x)).zip(&out) {
                let relative = |found: f32, expected: f64| {
                    f64::from(found) == expected || (f64::from(found) - expected).abs() <= 3e-7 * expected.abs() + 1e-37
                };
                assert!(relative(*elu, if x < 0.0 { x.exp_m1() } else { x }), "elu({x}) = {elu}");
                assert!(relative(*sigmoid, 1.0 / (1.0 + (-x.max(-87.0)).exp())), "sigmoid({x}) = {sigmoid}");
                assert!(relative(*tanh, x.tanh()), "tanh({x}) = {tanh}");
            }
        }
    }

    #[test]
    fn not_a_number_stays_not_a_number() {
        let mut out = [[0.0; 3]; 1];
        Arch::new().dispatch(Tabulate { values: &[f32::NAN], out: &mut out });
        assert!(out[0].iter().all(|y| y.is_nan()));
        let mut elus = [0.0; 19];
        elu_into(Arch::new(), &[f32::NAN; 19], &mut elus);
        assert!(elus.iter().all(|y| y.is_nan()));
    }
}
