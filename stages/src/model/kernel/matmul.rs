//! A matrix product for one thread: the many little products of attention, one per head.
//!
//! The product of `gemm` is the right one for large matrices. Here right factors are packed once per head and used for
//! every block of queries, and left factors are read where they lie, rows or columns. The vector unit is chosen while
//! running (by `pulp`); every sum runs over the depth in one order of fused multiply-adds, so results do not depend on it.

use pulp::{Arch, Simd, WithSimd};
use std::ops::Range;

/// Columns of a panel: the widest vector register. Rows of results are padded to a multiple of it.
pub(crate) const LANES: usize = 16;
/// One row of a panel. Aligned, since a load across two cache lines costs twice.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Lanes([f32; LANES]);

/// `n` rounded up to whole panels.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// A right factor `(depth, width)` in panels of [`LANES`] columns: `(panels, depth, LANES)`, lanes past the width zero.
#[derive(Default)]
pub(crate) struct Panels {
    depth: usize,
    values: Vec<Lanes>,
}

impl Panels {
    /// Packs the matrix whose row `k` is `row(k)`, all of one length.
    pub(crate) fn pack_rows<'a>(&mut self, depth: usize, width: usize, row: impl Fn(usize) -> &'a [f32]) {
        self.resize(depth, width);
        for k in 0..depth {
            for (panel, part) in row(k)[..width].chunks(LANES).enumerate() {
                self.values[panel * depth + k].0[..part.len()].copy_from_slice(part);
            }
        }
    }

    /// Packs the matrix whose column `j` is `column(j)`, all of length `depth`.
    pub(crate) fn pack_columns<'a>(&mut self, depth: usize, width: usize, column: impl Fn(usize) -> &'a [f32]) {
        self.resize(depth, width);
        for j in 0..width {
            let panel = &mut self.values[j / LANES * depth..][..depth];
            for (lanes, value) in panel.iter_mut().zip(column(j)) {
                lanes.0[j % LANES] = *value;
            }
        }
    }

    fn resize(&mut self, depth: usize, width: usize) {
        self.depth = depth;
        self.values.clear();
        self.values.resize(width.div_ceil(LANES) * depth, Lanes([0.0; LANES]));
    }
}

/// The left factor: element `(i, k)` is `values[i * row_step + k * depth_step]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_step: usize,
    pub(crate) depth_step: usize,
}

/// `out = left x right[depth]`, or `out +=` where `add`, for `rows` rows of `out`, `out_step` values apart, and the first
/// `columns` columns, rounded up to whole panels.
pub(crate) struct Product<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) left: Left<'a>,
    pub(crate) right: &'a Panels,
    /// The rows of the right factor that take part; the left factor's depth counts from the first of them.
    pub(crate) depth: Range<usize>,
    pub(crate) add: bool,
    pub(crate) out: &'a mut [f32],
    pub(crate) out_step: usize,
}

impl Product<'_> {
    /// Computes it.
    pub(crate) fn run(self) {
        debug_assert!(self.out_step >= padded(self.columns) && self.depth.end <= self.right.depth);
        Arch::new().dispatch(self);
    }

    #[inline(always)]
    fn columns<S: Simd, const M: usize, const V: usize>(&mut self, simd: S) {
        let vectors = self.columns.div_ceil(LANES) * (LANES / S::F32_LANES);
        let mut vector = 0;
        while vector + V <= vectors {
            self.column::<S, M, V>(simd, vector);
            vector += V;
        }
        while vector < vectors {
            self.column::<S, M, 1>(simd, vector);
            vector += 1;
        }
    }

    #[inline(always)]
    fn column<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, vector: usize) {
        let mut row = 0;
        while row + M <= self.rows {
            self.tile::<S, M, V>(simd, row, vector);
            row += M;
        }
        if M > 4 {
            while row + 4 <= self.rows {
                self.tile::<S, 4, V>(simd, row, vector);
                row += 4;
            }
        }
        while row < self.rows {
            self.tile::<S, 1, V>(simd, row, vector);
            row += 1;
        }
    }

    /// `M` rows by `V` vectors.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(&mut self, simd: S, row: usize, vector: usize) {
        let per_panel = LANES / S::F32_LANES;
        let depth = self.depth.len();
        let right: [&[Lanes]; V] = std::array::from_fn(|v| {
            let panel = (vector + v) / per_panel;
            &self.right.values[panel * self.right.depth + self.depth.start..][..depth]
        });
        let part: [usize; V] = std::array::from_fn(|v| (vector + v) % per_panel);
        let Left { values, row_step, depth_step } = self.left;
        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        if depth_step == 1 {
            let left: [&[f32]; M] = std::array::from_fn(|m| &values[(row + m) * row_step..][..depth]);
            for k in 0..depth {
                let lanes: [S::f32s; V] = std::array::from_fn(|v| S::as_simd_f32s(&right[v][k].0).0[part[v]]);
                for m in 0..M {
                    let value = simd.splat_f32s(left[m][k]);
                    for v in 0..V {
                        sums[m][v] = simd.mul_add_f32s(value, lanes[v], sums[m][v]);
                    }
                }
            }
        } else {
            debug_assert_eq!(row_step, 1);
            for k in 0..depth {
                let lanes: [S::f32s; V] = std::array::from_fn(|v| S::as_simd_f32s(&right[v][k].0).0[part[v]]);
                let column = &values[k * depth_step + row..][..M];
                for m in 0..M {
                    let value = simd.splat_f32s(column[m]);
                    for v in 0..V {
                        sums[m][v] = simd.mul_add_f32s(value, lanes[v], sums[m][v]);
                    }
                }
            }
        }
        let first = vector * S::F32_LANES;
        for (m, sums) in sums.iter().enumerate() {
            let at = (row + m) * self.out_step + first;
            let out = S::as_mut_simd_f32s(&mut self.out[at..at + V * S::F32_LANES]).0;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if self.add { simd.add_f32s(*out, *sum) } else { *sum };
            }
        }
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if S::F32_LANES == LANES { self.columns::<S, 12, 2>(simd) } else { self.columns::<S, 6, 2>(simd) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_for_every_remainder() {
        for (m, n, k) in [(1, 8, 1), (5, 24, 7), (6, 16, 3), (13, 40, 9), (64, 64, 24), (31, 50, 17)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..(k + 2) * n).map(|i| (i as f32 * 0.73).cos()).collect();
            let a_columns: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
            let b_columns: Vec<f32> = (0..(k + 2) * n).map(|i| b[(i % (k + 2)) * n + i / (k + 2)]).collect();
            let (mut by_rows, mut by_columns) = (Panels::default(), Panels::default());
            by_rows.pack_rows(k + 2, n, |row| &b[row * n..(row + 1) * n]);
            by_columns.pack_columns(k + 2, n, |column| &b_columns[column * (k + 2)..(column + 1) * (k + 2)]);
            for (values, row_step, depth_step) in [(&a, k, 1), (&a_columns, 1, m)] {
                for right in [&by_rows, &by_columns] {
                    let out_step = padded(n);
                    let mut out = vec![1.0; m * out_step];
                    let left = Left { values, row_step, depth_step };
                    // The last rows of the right factor.
                    let depth = 2..k + 2;
                    Product { rows: m, columns: n, left, right, depth, add: true, out: &mut out, out_step }.run();
                    for i in 0..m {
                        for j in 0..n {
                            let expected: f32 = (0..k).map(|p| a[i * k + p] * b[(p + 2) * n + j]).sum();
                            assert!((out[i * out_step + j] - 1.0 - expected).abs() < 1e-5);
                        }
                    }
                }
            }
        }
    }
}
