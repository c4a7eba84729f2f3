//! From power to what a model sees: logarithmic compression, then standardisation.

use super::DspError;

/// `log10(1 + gain * power)`: about linear where `power` is far below `1 / gain`, logarithmic above.
///
/// The published models use a gain of 10,000 for mel and constant-Q power alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogCompress {
    /// What power is multiplied by first.
    pub gain: f32,
}

impl Default for LogCompress {
    fn default() -> Self {
        Self { gain: 10_000.0 }
    }
}

impl LogCompress {
    /// Compresses in place. Power is not negative; what is not finite stays as it is.
    ///
    /// Within 2e-7 relative (or 1e-7 absolute) of the exact function of the same f32 argument.
    pub fn apply(self, power: &mut [f32]) {
        for value in power {
            *value = log10_from_one(1.0 + self.gain * *value);
        }
    }
}

/// `log10` for `x >= 1`, without a branch, so that loops over it become vector code: several times faster than
/// `f32::log10`, which is a function call for every value.
#[inline]
fn log10_from_one(x: f32) -> f32 {
    const SQRT_HALF_BITS: u32 = 0x3f35_04f3;
    const LOG10_2_HIGH: f32 = 0.301_025_39; // 13 bits: times any exponent it is exact
    const LOG10_2_LOW: f32 = 4.605_039e-6;
    // x = 2^e m with m in [sqrt(1/2), sqrt(2)).
    let bits = x.to_bits();
    let e = (bits.wrapping_sub(SQRT_HALF_BITS) as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub((e << 23) as u32));
    // ln m = 2 atanh(s), s = (m - 1) / (m + 1); |s| <= 0.172, so the series is exact in f32 after the ninth power.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = z * (1.0 / 3.0 + z * (0.2 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    let ln_m = 2.0 * s + 2.0 * s * series;
    let e = e as f32;
    let log = e * LOG10_2_HIGH + (ln_m * std::f32::consts::LOG10_E + e * LOG10_2_LOW);
    if x < f32::INFINITY { log } else { x }
}

/// `(x - mean) / std`, with one pair for a whole view or one pair per bin.
#[derive(Debug, Clone, PartialEq)]
pub enum Standardize {
    /// One mean and one standard deviation for all bins, as the published models have it.
    Global {
        /// Subtracted.
        mean: f64,
        /// Divided by; above zero.
        std: f64,
    },
    /// A mean and a standard deviation for every bin, as BEST-RQ (arXiv 2202.01855, section 3.1) prescribes.
    PerBin {
        /// Subtracted, one per bin.
        mean: Vec<f64>,
        /// Divided by, one per bin; all above zero.
        std: Vec<f64>,
    },
}

impl Standardize {
    /// Leaves values as they are.
    pub const NONE: Self = Self::Global { mean: 0.0, std: 1.0 };

    /// Means and deviations as lists: nothing for [`Standardize::NONE`], one value, or one per bin.
    pub fn constants(&self) -> (Vec<f64>, Vec<f64>) {
        match self {
            none if *none == Self::NONE => (Vec::new(), Vec::new()),
            Self::Global { mean, std } => (vec![*mean], vec![*std]),
            Self::PerBin { mean, std } => (mean.clone(), std.clone()),
        }
    }

    /// The `(mean, std)` of every one of `bins` bins.
    ///
    /// # Errors
    /// [`DspError::Param`] when a value is not finite, a deviation not above zero, or their number is not `bins`.
    pub fn pairs(&self, bins: usize) -> Result<Vec<(f32, f32)>, DspError> {
        let pairs: Vec<(f64, f64)> = match self {
            Self::Global { mean, std } => vec![(*mean, *std); bins],
            Self::PerBin { mean, std } => {
                for (param, len) in [("mean", mean.len()), ("std", std.len())] {
                    if len != bins {
                        return Err(DspError::param(param, format!("a list of {len}"), format!("{bins}, one per bin")));
                    }
                }
                mean.iter().copied().zip(std.iter().copied()).collect()
            }
        };
        for &(mean, std) in &pairs {
            if !mean.is_finite() {
                return Err(DspError::param("mean", mean, "a finite number"));
            }
            if !(std.is_finite() && std as f32 > 0.0) {
                return Err(DspError::param("std", std, "a finite number above 0"));
            }
        }
        Ok(pairs.into_iter().map(|(mean, std)| (mean as f32, std as f32)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_within_two_units_of_the_last_place() {
        let mut worst = 0.0f64;
        let mut x = 1.0f32;
        while x < 1e30 {
            let exact = f64::from(x).log10();
            let error = (f64::from(log10_from_one(x)) - exact).abs() / exact.max(0.5);
            worst = worst.max(error);
            x = f32::from_bits(x.to_bits() + 997);
        }
        assert!(worst < 2e-7, "{worst:e}");
    }

    #[test]
    fn silence_stays_zero_and_the_non_finite_stays_visible() {
        let mut values = [0.0, f32::INFINITY, f32::NAN];
        LogCompress::default().apply(&mut values);
        assert_eq!(values[0], 0.0);
        assert_eq!(values[1], f32::INFINITY);
        assert!(values[2].is_nan());
    }

    #[test]
    fn one_pair_serves_all_bins_and_lists_must_have_one_each() {
        assert_eq!(Standardize::Global { mean: 2.0, std: 4.0 }.pairs(2).unwrap(), [(2.0, 4.0), (2.0, 4.0)]);
        let short = Standardize::PerBin { mean: vec![0.0; 2], std: vec![1.0; 3] };
        assert_eq!(short.pairs(3).unwrap_err().to_string(), "`mean` is a list of 2, expected 3, one per bin");
        let flat = Standardize::Global { mean: 0.0, std: 0.0 };
        assert_eq!(flat.pairs(1).unwrap_err().to_string(), "`std` is 0, expected a finite number above 0");
    }
}
