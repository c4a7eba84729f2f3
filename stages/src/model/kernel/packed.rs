//! Products with a weight that stays what it is: laid out once, multiplied with many inputs.
//!
//! A general product lays both factors out for its inner loop every time, and what follows it, bias, activation, residual
//! sum, is another pass over memory. Here the weight is laid out when a model is loaded, and `finish` sees every stretch of
//! a row as soon as it is there, while it is in the cache. Every sum runs over the inputs in one order, in the same
//! pieces, so results do not depend on the number of threads, nor on the rows beside them.

use super::matmul::LANES;
use super::tile::{BLOCK, PANEL, Row, multiply_rows, prefetch};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Inputs per pass: a panel of so many rows stays in the second-level cache while all rows of a task go by.
const DEPTH: usize = 768;
/// Rows of a task, at most: a multiple of the rows of a tile, whichever it is.
const ROWS: usize = 864;
/// Rows of a task, at least.
const FEWEST_ROWS: usize = 36;

/// A weight `(outputs, inputs)` in panels `(panels, inputs, PANEL)`; lanes past the outputs are zero.
#[derive(Debug)]
pub(crate) struct Packed {
    inputs: usize,
    outputs: usize,
    rows: Vec<Row>,
}

/// Input rows `step` values apart: they may overlap, as the windows that a convolution sees do.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) count: usize,
    pub(crate) step: usize,
}

impl Packed {
    /// # Shapes
    /// `weight (outputs, inputs)`.
    pub(crate) fn new(weight: &[f32], inputs: usize) -> Self {
        let outputs = weight.len() / inputs.max(1);
        assert_eq!(outputs * inputs, weight.len(), "a weight has whole rows");
        let mut rows = vec![Row::ZERO; outputs.div_ceil(PANEL) * inputs];
        if inputs > 0 {
            rows.par_chunks_mut(inputs).zip(weight.par_chunks(PANEL * inputs)).for_each(|(panel, weight)| {
                for (lane, weight) in weight.chunks_exact(inputs).enumerate() {
                    for (row, value) in panel.iter_mut().zip(weight) {
                        row.0[lane] = *value;
                    }
                }
            });
        }
        Self { inputs, outputs, rows }
    }

    /// Values of an input row.
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Width of the results.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// As [`Packed::run`] for rows one after another.
    pub(crate) fn apply(&self, x: &[f32], out: &mut [f32], finish: impl Fn(usize, usize, &mut [f32]) + Sync) {
        let count = x.len() / self.inputs.max(1);
        self.run(Rows { values: x, count, step: self.inputs }, out, finish);
    }

    /// `out = x weight^T`, rows one after another, and then `finish(row, first column, values)` once for every stretch of
    /// every row. It is compiled for the vector unit at hand.
    ///
    /// # Panics
    /// When the sizes do not fit.
    pub(crate) fn run(&self, x: Rows<'_>, out: &mut [f32], finish: impl Fn(usize, usize, &mut [f32]) + Sync) {
        assert_eq!(out.len(), x.count * self.outputs, "a product fits its place");
        if out.is_empty() {
            return;
        }
        assert!((x.count - 1) * x.step + self.inputs <= x.values.len(), "a matrix lies within its values");
        let share = x.count.div_ceil(rayon::current_num_threads()).next_multiple_of(FEWEST_ROWS);
        let rows = share.clamp(FEWEST_ROWS, ROWS);
        out.par_chunks_mut(rows * self.outputs).enumerate().for_each_init(Vec::new, |left, (task, out)| {
            let first = task * rows;
            Arch::new().dispatch(Task { weight: self, x, first, out, left, finish: &finish });
        });
    }
}

/// Some rows of a product.
struct Task<'a, F> {
    weight: &'a Packed,
    x: Rows<'a>,
    first: usize,
    out: &'a mut [f32],
    /// The rows' inputs of a pass, tile after tile, `(blocks, rows of a tile, BLOCK)`.
    left: &'a mut Vec<[f32; BLOCK]>,
    finish: &'a F,
}

impl<F: Fn(usize, usize, &mut [f32])> Task<'_, F> {
    #[inline(always)]
    fn tiles<S: Simd, const M: usize>(self, simd: S) {
        let Task { weight, x, first, out, left, finish } = self;
        let Packed { inputs, outputs, rows: right } = weight;
        let (inputs, outputs) = (*inputs, *outputs);
        let count = out.len() / outputs;
        let mut sums = [Row::ZERO; M];
        for from in (0..inputs.max(1)).step_by(DEPTH) {
            let depth = DEPTH.min(inputs - from);
            let is_last = from + depth == inputs;
            arrange::<M>(x, (first, count), (from, depth), left);
            for (panel, column) in right.chunks(inputs.max(1)).zip((0..outputs).step_by(PANEL)) {
                let right = &panel[from..from + depth];
                let width = PANEL.min(outputs - column);
                for (tile, left) in left.chunks_exact(depth.div_ceil(BLOCK) * M).enumerate() {
                    let rows = tile * M..count.min((tile + 1) * M);
                    multiply_rows::<S, M>(simd, left.as_chunks::<M>().0, right, &mut sums, || {
                        // By the time that the sums are there, so is the place where they go.
                        rows.clone().for_each(|row| prefetch(&out[row * outputs + column..][..width]));
                    });
                    for (sums, row) in sums.iter().zip(rows) {
                        let out = &mut out[row * outputs + column..][..width];
                        if from == 0 {
                            out.copy_from_slice(&sums.0[..width]);
                        } else {
                            for (out, sum) in out.iter_mut().zip(&sums.0) {
                                *out += sum;
                            }
                        }
                        if is_last {
                            finish(first + row, column, out);
                        }
                    }
                }
            }
        }
    }
}

/// Lays rows out for the inner loop: `(tiles, blocks, M, BLOCK)`; what is missing in the last tile repeats its last row.
#[inline(always)]
fn arrange<const M: usize>(
    x: Rows<'_>,
    (first, count): (usize, usize),
    (from, depth): (usize, usize),
    left: &mut Vec<[f32; BLOCK]>,
) {
    let blocks = depth.div_ceil(BLOCK);
    left.resize(count.div_ceil(M) * blocks * M, [0.0; BLOCK]);
    for (tile, left) in left.chunks_exact_mut(blocks * M).enumerate() {
        for i in 0..M {
            let row = first + (tile * M + i).min(count - 1);
            let (whole, rest) = x.values[row * x.step + from..][..depth].as_chunks();
            for (left, block) in left[i..].iter_mut().step_by(M).zip(whole) {
                *left = *block;
            }
            if !rest.is_empty() {
                left[whole.len() * M + i][..rest.len()].copy_from_slice(rest);
            }
        }
    }
}

impl<F: Fn(usize, usize, &mut [f32])> WithSimd for Task<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::F32_LANES == LANES { self.tiles::<S, 9>(simd) } else { self.tiles::<S, 4>(simd) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    #[test]
    fn agrees_with_the_definition_for_every_remainder() {
        for (rows, inputs, outputs) in
            [(1, 1, 1), (9, 16, 48), (10, 300, 49), (257, 7, 100), (80, 513, 47), (5, 600, 3)]
        {
            let (x, weight) = (wave(rows * inputs, 0.37), wave(outputs * inputs, 0.73));
            let packed = Packed::new(&weight, inputs);
            assert_eq!(packed.outputs(), outputs);
            let mut out = vec![f32::NAN; rows * outputs];
            packed.apply(&x, &mut out, |row, column, values| {
                for (i, value) in values.iter_mut().enumerate() {
                    *value += (1000 * row + column + i) as f32;
                }
            });
            for (at, found) in out.iter().enumerate() {
                let (i, j) = (at / outputs, at % outputs);
                let sum: f64 =
                    (0..inputs).map(|k| f64::from(x[i * inputs + k]) * f64::from(weight[j * inputs + k])).sum();
                let expected = sum + (1000 * i + j) as f64;
                assert!((f64::from(*found) - expected).abs() < 1e-4 + 1e-6 * expected, "{found} {expected}");
            }
        }
    }

    #[test]
    fn rows_may_overlap() {
        let values: Vec<f32> = (0..7).map(|i| i as f32).collect();
        let mut out = vec![0.0; 3];
        let packed = Packed::new(&[1.0, 10.0, 100.0], 3);
        packed.run(Rows { values: &values, count: 3, step: 2 }, &mut out, |_, _, _| ());
        assert_eq!(out, [210.0, 432.0, 654.0]);
    }

    #[test]
    fn threads_and_neighbours_change_no_bit() {
        let (x, weight) = (wave(600 * 300, 0.37), wave(70 * 300, 0.73));
        let packed = Packed::new(&weight, 300);
        let run = |threads: usize, rows: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            let mut out = vec![0.0; rows * 70];
            pool.install(|| packed.apply(&x[..rows * 300], &mut out, |_, _, _| ()));
            out
        };
        let all = run(1, 600);
        assert_eq!(all, run(3, 600));
        assert_eq!(all[..5 * 70], run(2, 5));
    }
}
