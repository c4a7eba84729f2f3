//! The matrix product behind every convolution and the recurrence, with fixed weights packed once.
//!
//! Activations are rows of channels, so the window that a convolution slides over is a run of values in memory: the left
//! factor of the product needs no copy (no im2col), only a distance between rows. Output channels are the lanes of a
//! vector. The vector unit is chosen while running (by `pulp`). Every sum runs over the window in one fixed order of
//! fused multiply-adds, so an output has the same bits in whichever call, tile or batch it is computed, and with any
//! vector unit.

use pulp::{Arch, Simd, WithSimd};

use super::maths;

/// Outputs in one block of a weight: the widest vector register; narrower ones take a block in parts.
pub(super) const LANES: usize = 16;
/// One row of a block.
pub(super) type Lanes = [f32; LANES];
/// Inputs of one pass, at most.
const DEPTH: usize = 512;
/// Rows of one pass: their inputs of one depth fit the second-level cache beside the weights.
const ROWS: usize = 192;

/// A fixed right factor, `(depth, width)`.
pub(super) struct Matrix {
    depth: usize,
    width: usize,
    /// `(ceil(width / LANES), depth, LANES)`; lanes past the width are zero.
    blocks: Vec<Lanes>,
}

impl Matrix {
    /// Packs `element(row, column)`.
    pub(super) fn pack(depth: usize, width: usize, element: impl Fn(usize, usize) -> f32) -> Self {
        let mut blocks = vec![[0.0; LANES]; depth * width.div_ceil(LANES)];
        for (block, rows) in blocks.chunks_exact_mut(depth).enumerate() {
            for (row, lanes) in rows.iter_mut().enumerate() {
                let columns = block * LANES..width.min((block + 1) * LANES);
                for (lane, column) in lanes.iter_mut().zip(columns) {
                    *lane = element(row, column);
                }
            }
        }
        Self { depth, width, blocks }
    }

    /// The element that was packed.
    pub(super) fn element(&self, row: usize, column: usize) -> f32 {
        self.blocks[column / LANES * self.depth + row][column % LANES]
    }

    /// `(depth, width)`.
    pub(super) const fn shape(&self) -> (usize, usize) {
        (self.depth, self.width)
    }
}

/// A vector of `values`, padded with zeros to whole blocks.
pub(super) fn pack_vector(values: &[f32]) -> Vec<Lanes> {
    Matrix::pack(1, values.len(), |_, column| values[column]).blocks
}

/// The left factor: entry `tap * depth + channel` of row `r` is `values[r * row_step + tap * tap_step + channel]`.
#[derive(Clone, Copy)]
pub(super) struct Windows<'a> {
    pub(super) values: &'a [f32],
    pub(super) row_step: usize,
    pub(super) taps: usize,
    pub(super) tap_step: usize,
    pub(super) depth: usize,
}

/// What the product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// A vector, one value per output.
    Bias(&'a [Lanes]),
    /// What `out` holds.
    Out,
    /// Both.
    OutAndBias(&'a [Lanes]),
}

/// `out = activation(start + windows x matrix)` for `rows` rows of `out`, `out_step` values apart.
///
/// Whole blocks are written: `out_step` is at least the width of the matrix rounded up to [`LANES`].
pub(super) struct Product<'a> {
    pub(super) rows: usize,
    pub(super) windows: Windows<'a>,
    pub(super) matrix: &'a Matrix,
    pub(super) start: Start<'a>,
    /// Whether ELU follows.
    pub(super) elu: bool,
    /// Whether outputs are computed from the last to the first: taken in turns, a large weight that is used again and
    /// again is still partly in the cache where the last pass ended.
    pub(super) backward: bool,
    pub(super) out: &'a mut [f32],
    pub(super) out_step: usize,
}

impl Product<'_> {
    /// Computes it.
    pub(super) fn run(self, arch: Arch) {
        debug_assert_eq!(self.windows.taps * self.windows.depth, self.matrix.depth);
        debug_assert!(self.out_step >= self.matrix.width.next_multiple_of(LANES));
        arch.dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        for first in (0..self.rows).step_by(ROWS) {
            let rows = first..self.rows.min(first + ROWS);
            let mut start = 0;
            while start < self.matrix.depth {
                let pass = Pass::starting_at(start, &self);
                start += pass.depth;
                if S::F32_LANES == LANES {
                    pass.blocks::<S, 12, 2>(simd, rows.clone(), &mut self);
                } else {
                    pass.blocks::<S, 6, 2>(simd, rows.clone(), &mut self);
                }
            }
        }
    }
}

/// A run of the window that is contiguous in memory, short enough for the caches.
struct Pass {
    /// Where it starts in the values of a row, and in the rows of the matrix.
    value: usize,
    row: usize,
    depth: usize,
    first: bool,
    last: bool,
}

impl Pass {
    #[inline(always)]
    fn starting_at(start: usize, product: &Product<'_>) -> Self {
        let Windows { tap_step, depth, .. } = product.windows;
        let total = product.matrix.depth;
        // Taps that follow each other without a gap are one run.
        let run = if tap_step == depth { total } else { depth };
        let part = run.div_ceil(run.div_ceil(DEPTH));
        let (tap, within) = (start / run, start % run);
        let length = part.min(run - within);
        let value = tap * tap_step + within;
        Self { value, row: start, depth: length, first: start == 0, last: start + length == total }
    }

    /// All outputs of some rows: tiles of `M` rows by `V` vectors.
    #[inline(always)]
    fn blocks<S: Simd, const M: usize, const V: usize>(
        &self,
        simd: S,
        rows: std::ops::Range<usize>,
        product: &mut Product<'_>,
    ) {
        let vectors = product.matrix.width.div_ceil(LANES) * LANES / S::F32_LANES;
        let whole = vectors / V;
        for index in 0..whole {
            let index = if product.backward { whole - 1 - index } else { index };
            self.column::<S, M, V>(simd, rows.clone(), index * V, product);
        }
        for vector in whole * V..vectors {
            self.column::<S, M, 1>(simd, rows.clone(), vector, product);
        }
    }

    /// `V` vectors of outputs of some rows, from vector `vector`.
    #[inline(always)]
    fn column<S: Simd, const M: usize, const V: usize>(
        &self,
        simd: S,
        rows: std::ops::Range<usize>,
        vector: usize,
        product: &mut Product<'_>,
    ) {
        let mut row = rows.start;
        while row + M <= rows.end {
            self.tile::<S, M, V>(simd, row, vector, product);
            row += M;
        }
        if M > 8 && row + 8 <= rows.end {
            self.tile::<S, 8, V>(simd, row, vector, product);
            row += 8;
        }
        if M > 4 && row + 4 <= rows.end {
            self.tile::<S, 4, V>(simd, row, vector, product);
            row += 4;
        }
        if M > 2 && row + 2 <= rows.end {
            self.tile::<S, 2, V>(simd, row, vector, product);
            row += 2;
        }
        if M > 1 && row < rows.end {
            self.tile::<S, 1, V>(simd, row, vector, product);
        }
    }

    /// `M` rows by `V` vectors.
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const V: usize>(
        &self,
        simd: S,
        row: usize,
        vector: usize,
        product: &mut Product<'_>,
    ) {
        let per_block = LANES / S::F32_LANES;
        let Windows { values, row_step, .. } = product.windows;
        let left: [&[f32]; M] = std::array::from_fn(|m| &values[(row + m) * row_step + self.value..][..self.depth]);
        let right: [&[Lanes]; V] = std::array::from_fn(|v| {
            let block = (vector + v) / per_block;
            &product.matrix.blocks[block * product.matrix.depth + self.row..][..self.depth]
        });
        let part: [usize; V] = std::array::from_fn(|v| (vector + v) % per_block);
        let first = vector * S::F32_LANES;
        let out_at =
            |m: usize| (row + m) * product.out_step + first..(row + m) * product.out_step + first + V * S::F32_LANES;

        let mut sums = [[simd.splat_f32s(0.0); V]; M];
        for (m, sums) in sums.iter_mut().enumerate() {
            let out = S::as_simd_f32s(&product.out[out_at(m)]).0;
            for (v, sum) in sums.iter_mut().enumerate() {
                let bias = |bias: &[Lanes]| S::as_simd_f32s(&bias[(vector + v) / per_block]).0[part[v]];
                *sum = match product.start {
                    Start::Bias(values) if self.first => bias(values),
                    Start::OutAndBias(values) if self.first => simd.add_f32s(out[v], bias(values)),
                    _ => out[v],
                };
            }
        }
        sums = multiply_add(simd, left, right, part, sums);
        let elu = self.last && product.elu;
        for (m, sums) in sums.iter().enumerate() {
            let out = S::as_mut_simd_f32s(&mut product.out[out_at(m)]).0;
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if elu { maths::elu(simd, *sum) } else { *sum };
            }
        }
    }
}

/// The inner loop: `sums[m][v] += left[m][k] right[v][k]` for every `k`.
///
/// Apart from what surrounds it, so that the sums are registers here.
#[inline(always)]
fn multiply_add<S: Simd, const M: usize, const V: usize>(
    simd: S,
    left: [&[f32]; M],
    right: [&[Lanes]; V],
    part: [usize; V],
    mut sums: [[S::f32s; V]; M],
) -> [[S::f32s; V]; M] {
    let depth = right[0].len();
    let left: [&[f32]; M] = std::array::from_fn(|m| &left[m][..depth]);
    let right: [&[Lanes]; V] = std::array::from_fn(|v| &right[v][..depth]);
    for k in 0..depth {
        let weights: [S::f32s; V] = std::array::from_fn(|v| S::as_simd_f32s(&right[v][k]).0[part[v]]);
        for m in 0..M {
            let value = simd.splat_f32s(left[m][k]);
            for v in 0..V {
                sums[m][v] = simd.mul_add_f32s(value, weights[v], sums[m][v]);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every vector unit that this machine has, and none.
    fn arches() -> Vec<Arch> {
        let mut arches = vec![Arch::new(), Arch::Scalar];
        #[cfg(target_arch = "x86_64")]
        arches.extend(pulp::x86::V3::try_new().map(Arch::V3));
        arches
    }

    fn wave(len: usize, step: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * step).sin()).collect()
    }

    /// A product of windows with the given geometry, beside its definition in f64.
    fn compare(arch: Arch, rows: usize, width: usize, (taps, depth, tap_step, row_step): (usize, usize, usize, usize)) {
        let values = wave(rows * row_step + taps * tap_step + depth, 0.37);
        let weight = wave(taps * depth * width, 0.73);
        let bias = wave(width, 1.3);
        let matrix = Matrix::pack(taps * depth, width, |row, column| weight[row * width + column]);
        let out_step = width.next_multiple_of(LANES) + LANES;
        let packed = pack_vector(&bias);
        let windows = Windows { values: &values, row_step, taps, tap_step, depth };
        let mut out = vec![f32::NAN; rows * out_step];
        for (start, elu, times) in [(Start::Bias(&packed), false, 1.0), (Start::Out, true, 2.0)] {
            Product {
                rows,
                windows,
                matrix: &matrix,
                start,
                elu,
                backward: rows.is_multiple_of(2),
                out: &mut out,
                out_step,
            }
            .run(arch);
            for row in 0..rows {
                for column in 0..width {
                    let product: f64 = (0..taps * depth)
                        .map(|k| {
                            let value = values[row * row_step + k / depth * tap_step + k % depth];
                            f64::from(value) * f64::from(weight[k * width + column])
                        })
                        .sum();
                    let mut expected = f64::from(bias[column]) + times * product;
                    if elu && expected < 0.0 {
                        expected = expected.exp_m1();
                    }
                    let found = f64::from(out[row * out_step + column]);
                    let bound = 1e-6 * (taps * depth) as f64 + 1e-6;
                    assert!((found - expected).abs() < bound, "({row}, {column}): {found}, expected {expected}");
                }
            }
        }
    }

    #[test]
    fn products_agree_with_the_definition_for_every_remainder_and_vector_unit() {
        for arch in arches() {
            for rows in [1, 2, 3, 5, 12, 29, 200] {
                compare(arch, rows, 33, (3, 2, 2, 2));
            }
            compare(arch, 15, 16, (7, 1, 1, 1));
            compare(arch, 9, 5, (3, 4, 20, 4));
            compare(arch, 7, 48, (2, 300, 310, 620));
            compare(arch, 7, 40, (4, 150, 150, 300));
        }
    }

    #[test]
    fn an_output_has_the_same_bits_in_any_call_and_with_any_vector_unit() {
        let (rows, depth, width) = (31, 90, 40);
        let values = wave(rows * depth, 0.11);
        let matrix = Matrix::pack(depth, width, |row, column| ((row * 31 + column * 17) as f32 * 0.3).cos());
        let bias = pack_vector(&wave(width, 0.9));
        let run = |arch: Arch, values: &[f32], rows: usize| {
            let mut out = vec![0.0; rows * 48];
            let windows = Windows { values, row_step: depth, taps: 1, tap_step: depth, depth };
            Product {
                rows,
                windows,
                matrix: &matrix,
                start: Start::Bias(&bias),
                elu: true,
                backward: false,
                out: &mut out,
                out_step: 48,
            }
            .run(arch);
            out
        };
        let together = run(Arch::new(), &values, rows);
        for arch in arches() {
            assert_eq!(together, run(arch, &values, rows));
        }
        for (row, expected) in values.chunks_exact(depth).zip(together.chunks_exact(48)) {
            assert_eq!(run(Arch::new(), row, 1), expected);
        }
    }

    #[test]
    fn packing_keeps_every_element() {
        let matrix = Matrix::pack(3, 20, |row, column| (row * 20 + column) as f32);
        assert_eq!(matrix.shape(), (3, 20));
        assert_eq!(matrix.element(2, 19), 59.0);
        assert_eq!(matrix.element(1, 3), 23.0);
    }
}
