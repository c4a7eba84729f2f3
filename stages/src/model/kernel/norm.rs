//! Layer normalisation of rows.

use super::maths::{fma, moments};
use super::rows::map_rows;

/// `(x - mean) / sqrt(variance + eps) weight + bias` of every row of `x` into `out`, with the biased variance.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let channels = weight.len();
    map_rows(out, channels, |row, out| {
        let x = &x[row * channels..][..channels];
        let (mean, variance) = moments(x);
        let inverse = 1.0 / (variance + eps).sqrt();
        for (((out, x), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *out = fma((x - mean) * inverse, *w, *b);
        }
    });
}
