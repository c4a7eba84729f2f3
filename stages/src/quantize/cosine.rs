//! The two inner loops of random projection: project patches, and find the codebook row with the largest cosine.
//!
//! Both give the same bits however patches are grouped into calls, and with any vector unit: every sum runs in one
//! fixed order, with a separate multiplication and addition (never fused), and vector lanes only ever hold different
//! outputs. So the tokens of a crop do not depend on the machine, the batch or the tile sizes below.

/// Outputs computed side by side.
pub(super) const LANES: usize = 16;
/// Patches that share one pass over a weight: as many accumulators as the registers of a plain AVX2 machine hold.
const TILE: usize = 4;
/// Codebook rows that stay in the first-level cache while a panel of vectors passes over them: 16 KiB at 16 dimensions.
const CHUNK_BLOCKS: usize = 16;
/// Inputs summed in f32 before the partial sum moves to f64, which keeps the rounding error of a projection near that
/// of its last step.
const PARTIAL: usize = 32;

type Lanes = [f32; LANES];

/// A `(inputs, dim)` matrix, `dim` padded with zeros to whole lanes.
pub(super) struct Projection {
    inputs: usize,
    dim: usize,
    /// `(dim / LANES, inputs, LANES)`.
    rows: Vec<Lanes>,
}

impl Projection {
    /// From a row-major `(inputs, dim)` matrix.
    pub(super) fn new(matrix: &[f32], dim: usize) -> Self {
        let inputs = matrix.len() / dim;
        let mut rows = Vec::with_capacity(inputs * dim.div_ceil(LANES));
        for group in (0..dim).step_by(LANES) {
            for row in matrix.chunks_exact(dim) {
                let part = &row[group..dim.min(group + LANES)];
                let mut lanes = [0.0; LANES];
                lanes[..part.len()].copy_from_slice(part);
                rows.push(lanes);
            }
        }
        Self { inputs, dim, rows }
    }

    /// Directions of the projected patches: `patch x matrix`, scaled to unit length; zero stays zero.
    ///
    /// Returns the index of the first patch whose projection is not finite.
    ///
    /// # Shapes
    /// `patches`: `(n, inputs)`; `out`: `(n, dim)`.
    pub(super) fn directions(&self, patches: &[f32], out: &mut [f32]) -> Result<(), usize> {
        let (tiles, rest) = patches.split_at(patches.len() / (self.inputs * TILE) * self.inputs * TILE);
        let (out_tiles, out_rest) = out.split_at_mut(tiles.len() / self.inputs * self.dim);
        for (tile, slot) in tiles.chunks_exact(self.inputs * TILE).zip(out_tiles.chunks_exact_mut(self.dim * TILE)) {
            self.project::<TILE>(tile, slot);
        }
        for (patch, slot) in rest.chunks_exact(self.inputs).zip(out_rest.chunks_exact_mut(self.dim)) {
            self.project::<1>(patch, slot);
        }
        for (position, vector) in out.chunks_exact_mut(self.dim).enumerate() {
            if !normalize(vector) {
                return Err(position);
            }
        }
        Ok(())
    }

    fn project<const N: usize>(&self, patches: &[f32], out: &mut [f32]) {
        let inputs: [&[f32]; N] = std::array::from_fn(|n| &patches[n * self.inputs..(n + 1) * self.inputs]);
        for (group, rows) in self.rows.chunks_exact(self.inputs).enumerate() {
            let mut total = [[0.0f64; LANES]; N];
            for start in (0..self.inputs).step_by(PARTIAL) {
                let end = self.inputs.min(start + PARTIAL);
                let mut sum = [[0.0f32; LANES]; N];
                for (i, row) in (start..end).zip(&rows[start..end]) {
                    for n in 0..N {
                        multiply_add(&mut sum[n], inputs[n][i], row);
                    }
                }
                for n in 0..N {
                    for lane in 0..LANES {
                        total[n][lane] += f64::from(sum[n][lane]);
                    }
                }
            }
            let width = LANES.min(self.dim - group * LANES);
            for n in 0..N {
                let slot = &mut out[n * self.dim + group * LANES..][..width];
                for (value, sum) in slot.iter_mut().zip(&total[n]) {
                    *value = *sum as f32;
                }
            }
        }
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

#[inline(always)]
fn multiply_add(sum: &mut Lanes, factor: f32, row: &Lanes) {
    for lane in 0..LANES {
        sum[lane] += factor * row[lane];
    }
}

/// The rows of a codebook, scaled to unit length.
pub(super) struct UnitRows {
    dim: usize,
    /// `(ceil(size / LANES), dim, LANES)`; lanes past the last row are NaN, which no comparison picks.
    blocks: Vec<Lanes>,
}

/// The best row seen so far in each lane: the first of the largest.
#[derive(Clone)]
struct Best {
    cosine: Lanes,
    block: [u32; LANES],
}

impl Best {
    const NONE: Self = Self { cosine: [f32::NEG_INFINITY; LANES], block: [0; LANES] };

    /// The row: largest cosine, lowest index among equals.
    fn row(&self) -> usize {
        let index = |lane: usize| self.block[lane] as usize * LANES + lane;
        let better = |a: usize, b: usize| {
            let (x, y) = (self.cosine[a], self.cosine[b]);
            if y > x || (y == x && index(b) < index(a)) { b } else { a }
        };
        index((1..LANES).fold(0, better))
    }
}

impl UnitRows {
    /// From a row-major `(size, dim)` matrix.
    pub(super) fn new(matrix: &[f32], dim: usize) -> Self {
        let mut rows = matrix.to_vec();
        for row in rows.chunks_exact_mut(dim) {
            normalize(row);
        }
        let mut blocks = Vec::with_capacity(matrix.len().div_ceil(LANES));
        for block in rows.chunks(dim * LANES) {
            for d in 0..dim {
                let mut lanes = [f32::NAN; LANES];
                for (lane, row) in lanes.iter_mut().zip(block.chunks_exact(dim)) {
                    *lane = row[d];
                }
                blocks.push(lanes);
            }
        }
        Self { dim, blocks }
    }

    /// For each vector the row with the largest product, the first of them on ties.
    ///
    /// # Shapes
    /// `vectors`: `(n, dim)`; `emit(i, row)` is called once for each of them, in order.
    pub(super) fn nearest(&self, vectors: &[f32], scratch: &mut NearestScratch, mut emit: impl FnMut(usize, usize)) {
        let dim = self.dim;
        let count = vectors.len() / dim;
        scratch.best.clear();
        scratch.best.resize(count.next_multiple_of(TILE), Best::NONE);
        // Vectors of a tile are interleaved, `(dim, TILE)`, so that the inner loop reads straight on. The last tile is
        // filled up with zeros, whose result nobody reads.
        scratch.tiles.clear();
        scratch.tiles.resize(count.next_multiple_of(TILE) * dim, 0.0);
        for (i, vector) in vectors.chunks_exact(dim).enumerate() {
            let tile = &mut scratch.tiles[i / TILE * TILE * dim..];
            for (d, value) in vector.iter().enumerate() {
                tile[d * TILE + i % TILE] = *value;
            }
        }
        for (chunk, blocks) in self.blocks.chunks(CHUNK_BLOCKS * dim).enumerate() {
            let first = (chunk * CHUNK_BLOCKS) as u32;
            for (tile, best) in scratch.tiles.chunks_exact(TILE * dim).zip(scratch.best.chunks_exact_mut(TILE)) {
                scan(tile, blocks, dim, first, best);
            }
        }
        for (i, best) in scratch.best[..count].iter().enumerate() {
            emit(i, best.row());
        }
    }
}

/// Reused between calls of [`UnitRows::nearest`].
#[derive(Default)]
pub(super) struct NearestScratch {
    tiles: Vec<f32>,
    best: Vec<Best>,
}

/// Passes one tile over a chunk of the codebook.
fn scan(tile: &[f32], blocks: &[Lanes], dim: usize, first: u32, best: &mut [Best]) {
    let mut seen: [Best; TILE] = std::array::from_fn(|n| best[n].clone());
    for (number, block) in (first..).zip(blocks.chunks_exact(dim)) {
        let mut cosine = [[0.0f32; LANES]; TILE];
        for (row, factors) in block.iter().zip(tile.chunks_exact(TILE)) {
            for n in 0..TILE {
                multiply_add(&mut cosine[n], factors[n], row);
            }
        }
        for n in 0..TILE {
            for lane in 0..LANES {
                let better = cosine[n][lane] > seen[n].cosine[lane];
                seen[n].cosine[lane] = if better { cosine[n][lane] } else { seen[n].cosine[lane] };
                seen[n].block[lane] = if better { number } else { seen[n].block[lane] };
            }
        }
    }
    best.clone_from_slice(&seen);
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

    #[test]
    fn the_row_found_is_the_first_of_the_largest_for_any_size_and_dimension() {
        for (size, dim, count) in [(1, 16, 3), (15, 16, 1), (16, 3, 4), (300, 16, 9), (1000, 5, 13), (700, 24, 6)] {
            let (matrix, vectors) = (integers(size * dim, 1), integers(count * dim, 2));
            let rows = UnitRows { dim, blocks: UnitRows::new(&matrix, dim).blocks };
            let unit: Vec<f32> = {
                let mut unit = matrix.clone();
                unit.chunks_exact_mut(dim).for_each(|row| assert!(normalize(row)));
                unit
            };
            let mut found = Vec::new();
            rows.nearest(&vectors, &mut NearestScratch::default(), |_, row| found.push(row));
            for (vector, row) in vectors.chunks_exact(dim).zip(&found) {
                let dots: Vec<f32> =
                    unit.chunks_exact(dim).map(|u| u.iter().zip(vector).fold(0.0, |s, (a, b)| s + a * b)).collect();
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
    fn projections_do_not_depend_on_the_number_of_patches_in_a_call() {
        let (inputs, dim) = (100, 20);
        let matrix: Vec<f32> = integers(inputs * dim, 3).iter().map(|x| x * 0.37 + 0.01).collect();
        let patches: Vec<f32> = integers(inputs * 11, 4).iter().map(|x| x * 1.7 - 0.3).collect();
        let projection = Projection::new(&matrix, dim);
        let mut together = vec![0.0; 11 * dim];
        projection.directions(&patches, &mut together).unwrap();
        for (patch, expected) in patches.chunks_exact(inputs).zip(together.chunks_exact(dim)) {
            let mut alone = vec![0.0; dim];
            projection.directions(patch, &mut alone).unwrap();
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
