//! Normal numbers whose bits are the same on every machine.
//!
//! Box-Muller, sixteen at a time, with the polynomial logarithm, sine and cosine of the Cephes library (S. Moshier,
//! `logf.c`, `sinf.c`) instead of the C library's, which differ between platforms. PyTorch's CPU generator does the
//! same on x86-64, and with the order of operations used here, bit for bit.

/// Numbers drawn together.
pub(super) const GROUP: usize = 16;

/// Replaces uniform numbers in `[0, 1)` by normal ones, `n * std + mean`: the first eight give the radii, the last eight
/// the angles.
pub(super) fn box_muller(group: &mut [f32; GROUP], mean: f32, std: f32) {
    for i in 0..GROUP / 2 {
        // 1 - u is in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * ln(1.0 - group[i])).sqrt();
        let (sin, cos) = sin_cos(std::f32::consts::TAU * group[i + GROUP / 2]);
        group[i] = (radius * cos).mul_add(std, mean);
        group[i + GROUP / 2] = (radius * sin).mul_add(std, mean);
    }
}

/// Natural logarithm for normal `x > 0`: Cephes `logf`, error below one unit of the last place.
fn ln(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_87e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_48e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts, the first short enough that its multiples are exact.
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LN_2_HIGH: f32 = 0.693_359_375;
    let bits = x.to_bits();
    let mut e = (bits >> 23) as f32 - 126.0;
    let mut x = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        e -= 1.0;
        x += x;
    }
    x -= 1.0;
    let square = x * x;
    let series = COEFFICIENTS[1..].iter().fold(COEFFICIENTS[0], |sum, &c| mad(sum, x, c)) * x;
    let y = mad(series, square, e * LN_2_LOW);
    let y = mad(square, -0.5, y);
    mad(e, LN_2_HIGH, x + y)
}

/// Sine and cosine for `0 <= x < 8192`: Cephes `sinf` and `cosf`.
fn sin_cos(x: f32) -> (f32, f32) {
    // pi / 4 in three parts, for a reduction that loses nothing.
    const PARTS: [f32; 3] = [-0.785_156_25, -2.418_756_5e-4, -3.774_895e-8];
    const SIN: [f32; 3] = [-1.951_529_6e-4, 8.332_161e-3, -1.666_665_5e-1];
    const COS: [f32; 3] = [2.443_315_7e-5, -1.388_731_6e-3, 4.166_664_6e-2];
    // Octant, rounded up to an even one, so that what is left lies in [-pi/4, pi/4].
    let octant = ((x * (4.0 / std::f32::consts::PI)) as u32 + 1) & !1;
    let turns = octant as f32;
    let r = PARTS.iter().fold(x, |rest, &part| mad(turns, part, rest));
    let z = r * r;
    let cos = mad(mad(mad(COS[0], z, COS[1]), z, COS[2]) * z, z, -0.5 * z) + 1.0;
    let sin = mad(mad(mad(SIN[0], z, SIN[1]), z, SIN[2]) * z, r, r);
    match octant & 6 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// `a * b + c` with one rounding, in hardware or, where that has no such instruction, in software: the same bits.
#[inline(always)]
fn mad(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_that_of_the_library_to_the_last_place() {
        for i in 1..20_000 {
            let x = i as f32 / 20_000.0;
            let exact = f64::from(x).ln();
            assert!((f64::from(ln(x)) - exact).abs() <= 1.2e-7 * exact.abs().max(0.1), "{x}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn sine_and_cosine_are_those_of_the_library_over_a_full_turn() {
        for i in 0..20_000 {
            let x = std::f32::consts::TAU * (i as f32 / 20_000.0);
            let (sin, cos) = sin_cos(x);
            let (s, c) = f64::from(x).sin_cos();
            assert!((f64::from(sin) - s).abs() < 1.2e-7 && (f64::from(cos) - c).abs() < 1.2e-7, "{x}");
        }
    }
}
