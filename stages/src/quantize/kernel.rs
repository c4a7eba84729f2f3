//! The two inner loops of quantization: project patches, and find the codebook row that suits a vector best.
//!
//! Both give the same bits however patches are grouped into calls, and with any vector unit, none included: every sum
//! runs in one fixed order of fused multiply-adds, which are exact wherever they run, and vector lanes only ever hold
//! different outputs. So the token of a patch does not depend on the machine, the batch or the tile sizes below.
//!
//! The vector unit is chosen while running (AVX-512, AVX2 or none, by `pulp`), not by compiler flags: left to itself
//! the compiler turns these loops into shuffles that take from three to a hundred times as long.

use pulp::{Arch, Simd, WithSimd};

use super::QuantizeError;

/// Outputs in one block of a weight: the widest vector register; narrower ones take a block in parts.
const LANES: usize = 16;
/// Patches that share one pass over a weight: as many sums as hide the latency of a multiply-add.
const TILE: usize = 8;
/// Blocks of codebook rows that stay in the first-level cache while the tiles of a panel pass over them: 16 KiB at 16
/// dimensions.
const CHUNK: usize = 16;
/// Inputs summed before the partial sum joins the total: keeps rounding errors of long patches near those of short ones.
const PARTIAL: usize = 32;

type Lanes = [f32; LANES];

/// A `(inputs, dim)` matrix, `dim` padded with zeros to whole blocks.
pub(super) struct Projection {
    inputs: usize,
    dim: usize,
    /// `(dim / LANES, inputs, LANES)`.
    blocks: Vec<Lanes>,
}

impl Projection {
    /// From a row-major `(inputs, dim)` matrix.
    pub(super) fn new(matrix: &[f32], dim: usize) -> Self {
        let inputs = matrix.len() / dim;
        let mut blocks = Vec::with_capacity(inputs * dim.div_ceil(LANES));
        for start in (0..dim).step_by(LANES) {
            for row in matrix.chunks_exact(dim) {
                let part = &row[start..dim.min(start + LANES)];
                let mut lanes = [0.0; LANES];
                lanes[..part.len()].copy_from_slice(part);
                blocks.push(lanes);
            }
        }
        Self { inputs, dim, blocks }
    }

    /// Directions of the projected patches: `patch x matrix`, scaled to unit length; zero stays zero.
    ///
    /// # Shapes
    /// `patches`: `(n, inputs)`; `out`: `(n, dim)`.
    ///
    /// # Errors
    /// [`QuantizeError::NonFinite`] for the first patch that is not finite.
    pub(super) fn directions(&self, arch: Arch, patches: &[f32], out: &mut [f32]) -> Result<(), QuantizeError> {
        arch.dispatch(Project { weights: self, patches, out });
        for (position, vector) in out.chunks_exact_mut(self.dim).enumerate() {
            if !normalize(vector) {
                return Err(QuantizeError::NonFinite { position });
            }
        }
        Ok(())
    }
}

/// Scales a vector to unit length, in f64; zero stays zero. False when it is not finite.
fn normalize(vector: &mut [f32]) -> bool {
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if square > 0.0 {
        let scale = 1.0 / square.sqrt();
        for value in vector.iter_mut() {
            *value = (f64::from(*value) * scale) as f32;
        }
    }
    square.is_finite()
}

/// The product of all patches and the matrix.
struct Project<'a> {
    weights: &'a Projection,
    patches: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for Project<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Projection { inputs, dim, .. } = *self.weights;
        let whole = self.patches.len() / (TILE * inputs) * TILE;
        let (tiles, rest) = self.patches.split_at(whole * inputs);
        let (out_tiles, out_rest) = self.out.split_at_mut(whole * dim);
        for (tile, out) in tiles.chunks_exact(TILE * inputs).zip(out_tiles.chunks_exact_mut(TILE * dim)) {
            project::<S, TILE>(simd, self.weights, tile, out);
        }
        for (patch, out) in rest.chunks_exact(inputs).zip(out_rest.chunks_exact_mut(dim)) {
            project::<S, 1>(simd, self.weights, patch, out);
        }
    }
}

#[inline(always)]
fn project<S: Simd, const N: usize>(simd: S, weights: &Projection, patches: &[f32], out: &mut [f32]) {
    let Projection { inputs, dim, .. } = *weights;
    let patches: [&[f32]; N] = std::array::from_fn(|n| &patches[n * inputs..(n + 1) * inputs]);
    for (rows, start) in weights.blocks.chunks_exact(inputs).zip((0..dim).step_by(LANES)) {
        let mut products = [[0.0f32; LANES]; N];
        for part in 0..LANES / S::F32_LANES {
            let mut total = [simd.splat_f32s(0.0); N];
            for first in (0..inputs).step_by(PARTIAL) {
                let mut sum = [simd.splat_f32s(0.0); N];
                for i in first..inputs.min(first + PARTIAL) {
                    let row = S::as_simd_f32s(&rows[i]).0[part];
                    for n in 0..N {
                        sum[n] = simd.mul_add_f32s(simd.splat_f32s(patches[n][i]), row, sum[n]);
                    }
                }
                for n in 0..N {
                    total[n] = simd.add_f32s(total[n], sum[n]);
                }
            }
            for n in 0..N {
                S::as_mut_simd_f32s(&mut products[n]).0[part] = total[n];
            }
        }
        let width = LANES.min(dim - start);
        for n in 0..N {
            out[n * dim + start..][..width].copy_from_slice(&products[n][..width]);
        }
    }
}

/// The rows of a codebook, laid out to be compared with many vectors. The best row is the one with the largest product.
pub(super) struct Rows {
    /// Values of a vector.
    dim: usize,
    /// Values of a row: those of a vector, and one more that every vector has a 1 for if there is an offset.
    depth: usize,
    /// `(ceil(size / LANES), depth, LANES)`; lanes past the last row are NaN, which no comparison picks.
    blocks: Vec<Lanes>,
}

/// The best row seen so far in each lane: the first of the largest.
#[derive(Clone)]
struct Best {
    product: Lanes,
    block: [u32; LANES],
}

impl Best {
    const NONE: Self = Self { product: [f32::NEG_INFINITY; LANES], block: [0; LANES] };

    /// The row: largest product, lowest index among equals.
    fn row(&self) -> usize {
        let index = |lane: usize| self.block[lane] as usize * LANES + lane;
        let better = |a: usize, b: usize| {
            let (x, y) = (self.product[a], self.product[b]);
            if y > x || (y == x && index(b) < index(a)) { b } else { a }
        };
        index((1..LANES).fold(0, better))
    }
}

/// Reused between calls of [`Rows::best`].
#[derive(Default)]
pub(super) struct NearestScratch {
    /// Vectors, interleaved within each tile: `(tiles, depth, TILE)`.
    tiles: Vec<[f32; TILE]>,
    best: Vec<[Best; TILE]>,
}

impl Rows {
    /// The rows of a row-major `(size, dim)` matrix, scaled to unit length: the best has the largest cosine.
    pub(super) fn unit(matrix: &[f32], dim: usize) -> Self {
        let mut rows = matrix.to_vec();
        for row in rows.chunks_exact_mut(dim) {
            normalize(row);
        }
        Self { dim, depth: dim, blocks: interleave(&rows, dim) }
    }

    /// The rows of a row-major `(size, dim)` matrix as they are: the best is the nearest, since
    /// `|x - c|^2 = |x|^2 - 2 (x c - |c|^2 / 2)`.
    pub(super) fn euclidean(matrix: &[f32], dim: usize) -> Self {
        let offset = |row: &[f32]| -row.iter().map(|&c| f64::from(c) * f64::from(c)).sum::<f64>() / 2.0;
        let rows = matrix.chunks_exact(dim).flat_map(|row| row.iter().copied().chain([offset(row) as f32]));
        Self { dim, depth: dim + 1, blocks: interleave(&rows.collect::<Vec<f32>>(), dim + 1) }
    }

    /// For each vector the best row, the first of them on ties.
    ///
    /// # Shapes
    /// `vectors`: `(n, dim)`; `emit(i, row)` is called once for each of them, in order.
    pub(super) fn best(
        &self,
        arch: Arch,
        vectors: &[f32],
        scratch: &mut NearestScratch,
        mut emit: impl FnMut(usize, usize),
    ) {
        let (dim, depth) = (self.dim, self.depth);
        let tiles = (vectors.len() / dim).div_ceil(TILE);
        scratch.best.clear();
        scratch.best.resize(tiles, [Best::NONE; TILE]);
        // The last tile is filled up with zeros, whose results nobody reads.
        scratch.tiles.clear();
        scratch.tiles.resize(tiles * depth, [0.0; TILE]);
        for (i, vector) in vectors.chunks_exact(dim).enumerate() {
            let extended = vector.iter().chain(&[1.0]);
            for (slot, value) in scratch.tiles[i / TILE * depth..][..depth].iter_mut().zip(extended) {
                slot[i % TILE] = *value;
            }
        }
        arch.dispatch(Scan { rows: self, scratch });
        for (i, best) in scratch.best.as_flattened()[..vectors.len() / dim].iter().enumerate() {
            emit(i, best.row());
        }
    }
}

/// Blocks of `LANES` rows, the rows of a block side by side.
fn interleave(rows: &[f32], depth: usize) -> Vec<Lanes> {
    let mut blocks = Vec::with_capacity(rows.len().div_ceil(LANES));
    for block in rows.chunks(depth * LANES) {
        for d in 0..depth {
            let mut lanes = [f32::NAN; LANES];
            for (lane, row) in lanes.iter_mut().zip(block.chunks_exact(depth)) {
                *lane = row[d];
            }
            blocks.push(lanes);
        }
    }
    blocks
}

/// All vectors against all rows.
struct Scan<'a> {
    rows: &'a Rows,
    scratch: &'a mut NearestScratch,
}

impl WithSimd for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let depth = self.rows.depth;
        for (chunk, blocks) in self.rows.blocks.chunks(CHUNK * depth).enumerate() {
            let first = (chunk * CHUNK) as u32;
            for (tile, best) in self.scratch.tiles.chunks_exact(depth).zip(&mut self.scratch.best) {
                scan(simd, tile, blocks, first, best);
            }
        }
    }
}

/// Passes a tile of vectors over a chunk of the codebook that starts at block `first`.
#[inline(always)]
fn scan<S: Simd>(simd: S, tile: &[[f32; TILE]], blocks: &[Lanes], first: u32, best: &mut [Best; TILE]) {
    for part in 0..LANES / S::F32_LANES {
        let mut product: [S::f32s; TILE] = std::array::from_fn(|n| S::as_simd_f32s(&best[n].product).0[part]);
        let mut number: [S::u32s; TILE] = std::array::from_fn(|n| S::as_simd_u32s(&best[n].block).0[part]);
        for (this, rows) in (first..).zip(blocks.chunks_exact(tile.len())) {
            let mut sum = [simd.splat_f32s(0.0); TILE];
            for (row, factors) in rows.iter().zip(tile) {
                let row = S::as_simd_f32s(row).0[part];
                for n in 0..TILE {
                    sum[n] = simd.mul_add_f32s(simd.splat_f32s(factors[n]), row, sum[n]);
                }
            }
            let this = simd.splat_u32s(this);
            for n in 0..TILE {
                let better = simd.greater_than_f32s(sum[n], product[n]);
                product[n] = simd.select_f32s(better, sum[n], product[n]);
                number[n] = simd.select_u32s(better, this, number[n]);
            }
        }
        for n in 0..TILE {
            S::as_mut_simd_f32s(&mut best[n].product).0[part] = product[n];
            S::as_mut_simd_u32s(&mut best[n].block).0[part] = number[n];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, so that every sum is exact and ties are real.
    fn integers(len: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) % 7) as f32 - 3.0
        };
        (0..len).map(|_| next()).collect()
    }

    fn found(rows: &Rows, arch: Arch, vectors: &[f32]) -> Vec<usize> {
        let mut found = Vec::new();
        rows.best(arch, vectors, &mut NearestScratch::default(), |_, row| found.push(row));
        found
    }

    #[test]
    fn the_row_found_is_the_first_of_the_largest_for_any_size_and_dimension() {
        for (size, dim, count) in [(1, 16, 3), (15, 16, 1), (16, 3, 4), (300, 16, 9), (1000, 5, 13), (700, 24, 6)] {
            let (matrix, vectors) = (integers(size * dim, 1), integers(count * dim, 2));
            let rows = Rows::unit(&matrix, dim);
            let unit: Vec<f32> = {
                let mut unit = matrix.clone();
                unit.chunks_exact_mut(dim).for_each(|row| assert!(normalize(row)));
                unit
            };
            let found = found(&rows, Arch::new(), &vectors);
            assert_eq!(found, self::found(&rows, Arch::Scalar, &vectors));
            for (vector, row) in vectors.chunks_exact(dim).zip(&found) {
                let dots: Vec<f32> = unit
                    .chunks_exact(dim)
                    .map(|u| u.iter().zip(vector).fold(0.0, |s, (a, b)| a.mul_add(*b, s)))
                    .collect();
                let mut expected = 0;
                for (i, dot) in dots.iter().enumerate() {
                    if *dot > dots[expected] {
                        expected = i;
                    }
                }
                assert_eq!(*row, expected, "{size} x {dim}");
            }
        }
    }

    #[test]
    fn the_nearest_row_is_the_one_at_the_smallest_distance() {
        let (size, dim, count) = (130, 7, 21);
        let (matrix, vectors) = (integers(size * dim, 5), integers(count * dim, 6));
        let rows = Rows::euclidean(&matrix, dim);
        let found = found(&rows, Arch::new(), &vectors);
        assert_eq!(found, self::found(&rows, Arch::Scalar, &vectors));
        for (vector, row) in vectors.chunks_exact(dim).zip(found) {
            let distance = |row: &[f32]| row.iter().zip(vector).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let all: Vec<f32> = matrix.chunks_exact(dim).map(distance).collect();
            let expected = (0..size).fold(0, |best, i| if all[i] < all[best] { i } else { best });
            assert_eq!(row, expected);
        }
    }

    #[test]
    fn projections_depend_neither_on_the_number_of_patches_in_a_call_nor_on_the_vector_unit() {
        let (inputs, dim) = (100, 20);
        let matrix: Vec<f32> = integers(inputs * dim, 3).iter().map(|x| x * 0.37 + 0.01).collect();
        let patches: Vec<f32> = integers(inputs * 11, 4).iter().map(|x| x * 1.7 - 0.3).collect();
        let projection = Projection::new(&matrix, dim);
        let mut together = vec![0.0; 11 * dim];
        projection.directions(Arch::new(), &patches, &mut together).unwrap();
        let mut plain = vec![0.0; 11 * dim];
        projection.directions(Arch::Scalar, &patches, &mut plain).unwrap();
        assert_eq!(together, plain);
        for (patch, expected) in patches.chunks_exact(inputs).zip(together.chunks_exact(dim)) {
            let mut alone = vec![0.0; dim];
            projection.directions(Arch::new(), patch, &mut alone).unwrap();
            assert_eq!(alone, expected);
            let norm: f32 = alone.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn tiny_vectors_keep_their_direction_and_zero_has_none() {
        let mut tiny = [3e-30, 4e-30];
        assert!(normalize(&mut tiny));
        assert!((tiny[0] - 0.6).abs() < 1e-7 && (tiny[1] - 0.8).abs() < 1e-7);
        let mut zero = [0.0; 2];
        assert!(normalize(&mut zero));
        assert_eq!(zero, [0.0; 2]);
        assert!(!normalize(&mut [f32::NAN, 1.0]));
    }
}
