//! Analysis windows.

use std::f64::consts::TAU;

/// The shape of an analysis window. Periodic, as spectral analysis wants it, not symmetric as filter design does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// `0.5 - 0.5 cos(2 pi i / len)`.
    Hann,
    /// All ones.
    Rectangular,
}

impl Window {
    /// The `len` coefficients, designed in f64.
    pub fn coefficients(self, len: usize) -> Vec<f64> {
        match self {
            Self::Hann => (0..len).map(|i| 0.5 - 0.5 * (TAU * i as f64 / len as f64).cos()).collect(),
            Self::Rectangular => vec![1.0; len],
        }
    }

    /// The `win_len` coefficients in the middle of `n_fft` values, zero elsewhere: the place where a transform longer
    /// than its window looks.
    pub fn centred(self, win_len: usize, n_fft: usize) -> Vec<f32> {
        let mut out = vec![0.0; n_fft];
        let start = n_fft.saturating_sub(win_len) / 2;
        for (slot, value) in out[start..].iter_mut().zip(self.coefficients(win_len)) {
            *slot = value as f32;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::Window;

    #[test]
    fn hann_is_periodic_and_starts_at_zero() {
        let hann = Window::Hann.coefficients(8);
        assert_eq!(hann[0], 0.0);
        assert!((hann[4] - 1.0).abs() < 1e-15);
        // Periodic: the value after the last would be the first, so the ends differ.
        assert!(hann[7] > 0.1);
    }

    #[test]
    fn half_overlapped_hann_windows_sum_to_one() {
        let hann = Window::Hann.coefficients(512);
        for i in 0..256 {
            assert!((hann[i] + hann[i + 256] - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn a_short_window_sits_in_the_middle() {
        assert_eq!(Window::Rectangular.centred(2, 6), [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]);
    }
}
