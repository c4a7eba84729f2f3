//! A convolution of 3 by 3 in half the multiplications.
//!
//! Along time, four outputs of three taps take six products instead of twelve when inputs and taps are combined first:
//! Winograd's F(4, 3) (Lavin and Gray, 2016, section 4.3). The three rows of the filter are summed as products of
//! matrices, one for each of the six combinations.

use crate::model::kernel::gemm::{Into, Matrix, multiply};
use crate::model::kernel::rows::map_rows;

use super::stem::{Image, SIDE};

/// Outputs of a tile, along time.
const TILE: usize = 4;
/// Products of a tile.
const PRODUCTS: usize = TILE + SIDE - 1;
/// Rows of outputs that are computed together, so that a filter is read once for all of them.
const ROWS: usize = 8;

/// Filters, combined: `(PRODUCTS, filter rows, outputs, inputs)`.
#[derive(Debug)]
pub(super) struct Winograd {
    weight: Vec<f32>,
    inputs: usize,
    outputs: usize,
}

impl Winograd {
    /// # Shapes
    /// `weight (filter rows, outputs, filter columns, inputs)`.
    pub(super) fn new(weight: &[f32], inputs: usize, outputs: usize) -> Self {
        const COMBINATIONS: [[f64; SIDE]; PRODUCTS] = [
            [1.0 / 4.0, 0.0, 0.0],
            [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
            [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
            [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
            [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
            [0.0, 0.0, 1.0],
        ];
        let mut combined = Vec::with_capacity(PRODUCTS * SIDE * outputs * inputs);
        for factors in &COMBINATIONS {
            for taps in weight.chunks_exact(SIDE * inputs) {
                let tap = |column: usize, input: usize| f64::from(taps[column * inputs + input]);
                let sum = |input| (0..SIDE).map(|column| factors[column] * tap(column, input)).sum::<f64>() as f32;
                combined.extend((0..inputs).map(sum));
            }
        }
        Self { weight: combined, inputs, outputs }
    }

    /// Adds the convolution of `x` to `out`, an image of the same height and width.
    pub(super) fn add(&self, x: &Image, out: &mut Image) {
        let tiles = out.width.div_ceil(TILE);
        let (inputs, outputs) = (self.inputs, self.outputs);
        let mut combined = vec![0.0; (ROWS + SIDE - 1) * tiles * PRODUCTS * inputs];
        let mut products = vec![0.0; PRODUCTS * ROWS * tiles * outputs];
        for first in (0..out.height).step_by(ROWS) {
            let rows = ROWS.min(out.height - first);
            let seen = &mut combined[..(rows + SIDE - 1) * tiles * PRODUCTS * inputs];
            map_rows(seen, PRODUCTS * inputs, |index, tile| {
                let row = x.bordered(first + index / tiles);
                combine(&row[index % tiles * TILE * inputs..], inputs, tile);
            });
            let plane = rows * tiles * outputs;
            for (k, product) in products[..PRODUCTS * plane].chunks_exact_mut(plane).enumerate() {
                for tap in 0..SIDE {
                    let seen = &combined[(tap * tiles * PRODUCTS + k) * inputs..];
                    let seen = Matrix::strided(seen, rows * tiles, inputs, PRODUCTS * inputs);
                    let weight = &self.weight[(k * SIDE + tap) * outputs * inputs..][..outputs * inputs];
                    let into = if tap == 0 { Into::Replace } else { Into::Add };
                    multiply(product, seen, Matrix::new(weight, inputs).t(), into);
                }
            }
            for row in 0..rows {
                map_rows(out.row_mut(first + row), TILE * outputs, |tile, out| {
                    let at = (row * tiles + tile) * outputs;
                    separate(|k| &products[k * plane + at..][..outputs], out, outputs);
                });
            }
        }
    }
}

/// The combinations of the inputs of a tile, `(PRODUCTS, inputs)`; what is not there is zero.
#[inline(always)]
fn combine(row: &[f32], inputs: usize, tile: &mut [f32]) {
    if row.len() >= PRODUCTS * inputs {
        return combine_whole(&row[..PRODUCTS * inputs], inputs, tile);
    }
    let mut padded = vec![0.0; PRODUCTS * inputs];
    padded[..row.len()].copy_from_slice(row);
    combine_whole(&padded, inputs, tile);
}

#[inline(always)]
fn combine_whole(row: &[f32], inputs: usize, tile: &mut [f32]) {
    let x: [&[f32]; PRODUCTS] = std::array::from_fn(|t| &row[t * inputs..][..inputs]);
    let (first, tile) = tile.split_at_mut(inputs);
    fill(first, x, |x| 4.0 * x[0] - 5.0 * x[2] + x[4]);
    let (second, tile) = tile.split_at_mut(inputs);
    fill(second, x, |x| (x[3] + x[4]) - 4.0 * (x[1] + x[2]));
    let (third, tile) = tile.split_at_mut(inputs);
    fill(third, x, |x| (x[4] - x[3]) + 4.0 * (x[1] - x[2]));
    let (fourth, tile) = tile.split_at_mut(inputs);
    fill(fourth, x, |x| (x[4] - x[2]) + 2.0 * (x[3] - x[1]));
    let (fifth, sixth) = tile.split_at_mut(inputs);
    fill(fifth, x, |x| (x[4] - x[2]) - 2.0 * (x[3] - x[1]));
    fill(sixth, x, |x| 4.0 * x[1] - 5.0 * x[3] + x[5]);
}

/// A function of six rows, value by value.
#[inline(always)]
fn fill(out: &mut [f32], x: [&[f32]; PRODUCTS], f: impl Fn([f32; PRODUCTS]) -> f32) {
    let x = x.map(|row| &row[..out.len()]);
    for (i, value) in out.iter_mut().enumerate() {
        *value = f([x[0][i], x[1][i], x[2][i], x[3][i], x[4][i], x[5][i]]);
    }
}

/// Adds the outputs of a tile, `(TILE, outputs)` or the first of them.
#[inline(always)]
fn separate<'a>(product: impl Fn(usize) -> &'a [f32], out: &mut [f32], outputs: usize) {
    let m: [&[f32]; PRODUCTS] = std::array::from_fn(product);
    for (j, out) in out.chunks_exact_mut(outputs).enumerate() {
        match j {
            0 => append(out, m, |m| m[0] + (m[1] + m[2]) + (m[3] + m[4])),
            1 => append(out, m, |m| (m[1] - m[2]) + 2.0 * (m[3] - m[4])),
            2 => append(out, m, |m| (m[1] + m[2]) + 4.0 * (m[3] + m[4])),
            _ => append(out, m, |m| (m[1] - m[2]) + 8.0 * (m[3] - m[4]) + m[5]),
        }
    }
}

/// As [`fill`], added to what is there.
#[inline(always)]
fn append(out: &mut [f32], m: [&[f32]; PRODUCTS], f: impl Fn([f32; PRODUCTS]) -> f32) {
    let m = m.map(|row| &row[..out.len()]);
    for (i, value) in out.iter_mut().enumerate() {
        *value += f([m[0][i], m[1][i], m[2][i], m[3][i], m[4][i], m[5][i]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_at_every_width() {
        let (inputs, outputs, height) = (3, 5, 9);
        let weight: Vec<f32> = (0..SIDE * outputs * SIDE * inputs).map(|i| (i as f32 * 0.37).sin()).collect();
        let winograd = Winograd::new(&weight, inputs, outputs);
        for width in 1..10 {
            let mut x = Image::new(height, width, inputs);
            for row in 0..height {
                let values = x.row_mut(row).iter_mut().enumerate();
                values.for_each(|(i, value)| *value = ((row * 31 + i) as f32 * 0.73).cos());
            }
            let mut out = Image::new(height, width, outputs);
            out.row_mut(2).fill(1.0);
            winograd.add(&x, &mut out);
            for row in 0..height {
                for (i, found) in out.row(row).iter().enumerate() {
                    let (t, o) = (i / outputs, i % outputs);
                    let mut expected = if row == 2 { 1.0 } else { 0.0 };
                    for tap in 0..SIDE {
                        let seen = &x.bordered(row + tap)[t * inputs..][..SIDE * inputs];
                        let taps = &weight[(tap * outputs + o) * SIDE * inputs..][..SIDE * inputs];
                        expected += seen.iter().zip(taps).map(|(a, b)| a * b).sum::<f32>();
                    }
                    assert!((found - expected).abs() < 1e-4, "{width} {row} {i}: {found} {expected}");
                }
            }
        }
    }
}
