//! Parallel passes over the rows of a matrix, with results that do not depend on the number of threads.

use super::maths::vectorized;
use rayon::prelude::*;

/// Rows of one task. Fixed: partial sums are per task, and tasks are the same however many threads run them.
const ROWS: usize = 32;

/// Fills `out`, a matrix of rows of `width` values, by `f(row index, row)`.
pub(crate) fn map_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if width == 0 {
        return;
    }
    out.par_chunks_mut(ROWS * width).enumerate().for_each(|(task, block)| {
        vectorized(|| {
            for (i, row) in block.chunks_mut(width).enumerate() {
                f(task * ROWS + i, row);
            }
        });
    });
}

/// Sums what `f(row index, total)` adds to `total`, `width` values long, over `rows` rows.
pub(crate) fn sum_rows(rows: usize, width: usize, f: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let partials: Vec<Vec<f32>> = (0..rows.div_ceil(ROWS))
        .into_par_iter()
        .map(|task| {
            let mut total = vec![0.0; width];
            vectorized(|| {
                for row in task * ROWS..rows.min((task + 1) * ROWS) {
                    f(row, &mut total);
                }
            });
            total
        })
        .collect();
    in_order(&partials, width)
}

/// [`map_rows`] and [`sum_rows`] in one pass: `f(row index, row of out, total)`.
pub(crate) fn map_and_sum_rows(
    out: &mut [f32],
    width: usize,
    total_width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    if width == 0 {
        return vec![0.0; total_width];
    }
    let partials: Vec<Vec<f32>> = out
        .par_chunks_mut(ROWS * width)
        .enumerate()
        .map(|(task, block)| {
            let mut total = vec![0.0; total_width];
            vectorized(|| {
                for (i, row) in block.chunks_mut(width).enumerate() {
                    f(task * ROWS + i, row, &mut total);
                }
            });
            total
        })
        .collect();
    in_order(&partials, total_width)
}

/// As [`map_and_sum_rows`] over two matrices of as many rows: `f(row index, row of a, row of b, total)`.
pub(crate) fn map_two_and_sum_rows(
    (a, a_width): (&mut [f32], usize),
    (b, b_width): (&mut [f32], usize),
    total_width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32], &mut [f32]) + Sync,
) -> Vec<f32> {
    if a_width == 0 || b_width == 0 {
        return vec![0.0; total_width];
    }
    let blocks = a.par_chunks_mut(ROWS * a_width).zip(b.par_chunks_mut(ROWS * b_width)).enumerate();
    let partials: Vec<Vec<f32>> = blocks
        .map(|(task, (a, b))| {
            let mut total = vec![0.0; total_width];
            vectorized(|| {
                for (i, (a, b)) in a.chunks_mut(a_width).zip(b.chunks_mut(b_width)).enumerate() {
                    f(task * ROWS + i, a, b, &mut total);
                }
            });
            total
        })
        .collect();
    in_order(&partials, total_width)
}

/// Adds partial sums in their order.
pub(crate) fn in_order(partials: &[Vec<f32>], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for partial in partials {
        for (sum, value) in total.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    total
}
