//! Position, told to attention: rotary angles, or sinusoidal encodings added to queries and keys.

use super::kernel::rows::map_rows;
use candle_core::{Device, Result, Tensor};

/// Base of the rotary frequencies (RoFormer, section 3.2.2).
const THETA: f32 = 10_000.0;

/// The `head_dim / 2` rotary frequencies of a head: `theta^(-2 i / head_dim)`, radians per position.
pub fn rotary_frequencies(head_dim: usize) -> Vec<f32> {
    (0..head_dim / 2).map(|i| 1.0 / THETA.powf(2.0 * i as f32 / head_dim as f32)).collect()
}

/// Cosines and sines of every position's rotary angles.
#[derive(Clone, Debug)]
pub struct Angles {
    pairs: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Angles `position * frequency` for positions `0..positions`.
    pub fn new(frequencies: &[f32], positions: usize) -> Self {
        let angles = |f: fn(f32) -> f32| -> Vec<f32> {
            (0..positions).flat_map(|t| frequencies.iter().map(move |frequency| f(t as f32 * frequency))).collect()
        };
        Self { pairs: frequencies.len(), cos: angles(f32::cos), sin: angles(f32::sin) }
    }

    /// Rotates the interleaved pairs of one row, `2 pairs` values, by the angles of position `t`.
    pub(crate) fn rotate(&self, t: usize, row: &mut [f32]) {
        let (cos, sin) = self.row(t);
        for ((pair, c), s) in row.chunks_exact_mut(2).zip(cos).zip(sin) {
            (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s);
        }
    }

    /// Undoes [`Angles::rotate`]: the way back for gradients.
    pub(crate) fn rotate_back(&self, t: usize, row: &mut [f32]) {
        let (cos, sin) = self.row(t);
        for ((pair, c), s) in row.chunks_exact_mut(2).zip(cos).zip(sin) {
            (pair[0], pair[1]) = (pair[0] * c + pair[1] * s, pair[1] * c - pair[0] * s);
        }
    }

    fn row(&self, t: usize) -> (&[f32], &[f32]) {
        let at = t * self.pairs..(t + 1) * self.pairs;
        (&self.cos[at.clone()], &self.sin[at])
    }

    /// The same rotation made of candle's operations, for any device.
    ///
    /// # Shapes
    /// `x (batch, heads, positions, 2 pairs)`, and the result alike.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, heads, positions, dim) = x.dims4()?;
        let shape = (1, 1, positions, self.pairs, 1);
        let table = |values: &[f32]| Tensor::from_slice(&values[..positions * self.pairs], shape, x.device());
        let (cos, sin) = (table(&self.cos)?, table(&self.sin)?);
        let pairs = x.reshape((batch, heads, positions, self.pairs, 2))?;
        let (even, odd) = (pairs.narrow(4, 0, 1)?, pairs.narrow(4, 1, 1)?);
        let first = (even.broadcast_mul(&cos)? - odd.broadcast_mul(&sin)?)?;
        let second = (odd.broadcast_mul(&cos)? + even.broadcast_mul(&sin)?)?;
        Tensor::cat(&[first, second], 4)?.reshape((batch, heads, positions, dim))
    }
}

/// Sinusoidal encodings laid out to be added to `qkv`: queries and keys get them, values get zeros.
///
/// Column `2 i` of a position is `sin(position / 10000^(2 i / dim))`, column `2 i + 1` the cosine (Attention Is All You
/// Need, section 3.5), over the whole model dimension.
///
/// # Shapes
/// The result is `(positions, 3 dim)`.
pub fn sinusoidal_for_qkv(positions: usize, dim: usize, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(sinusoidal(positions, dim), (positions, 3 * dim), device)
}

/// Adds them to the rows of `qkv (batch, positions, 3 dim)`.
pub(crate) fn add_sinusoidal(qkv: &mut [f32], positions: usize, dim: usize) {
    let table = sinusoidal(positions, dim);
    map_rows(qkv, 3 * dim, |row, qkv| {
        for (value, encoding) in qkv.iter_mut().zip(&table[row % positions * 3 * dim..]) {
            *value += encoding;
        }
    });
}

fn sinusoidal(positions: usize, dim: usize) -> Vec<f32> {
    let mut table = vec![0.0f32; positions * 3 * dim];
    for (t, row) in table.chunks_exact_mut(3 * dim).enumerate() {
        for i in 0..dim {
            let angle = t as f32 / THETA.powf((i - i % 2) as f32 / dim as f32);
            let value = if i % 2 == 0 { angle.sin() } else { angle.cos() };
            row[i] = value;
            row[dim + i] = value;
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_lengths_and_comes_back() {
        let angles = Angles::new(&rotary_frequencies(8), 5);
        let row = [1.0f32, 2.0, -3.0, 0.5, 0.1, 0.2, 4.0, -1.0];
        let mut turned = row;
        angles.rotate(4, &mut turned);
        let energy = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>();
        assert!((energy(&row) - energy(&turned)).abs() < 1e-4);
        assert!((turned[0] - row[0]).abs() > 0.1);
        angles.rotate_back(4, &mut turned);
        for (a, b) in row.iter().zip(turned) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}
