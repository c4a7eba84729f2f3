//! A small matrix product for one thread: the many little products of attention, one per head.
//!
//! candle's matrix product is the right one for large matrices; per head it would start the thread pool for each of
//! hundreds of products of a few hundred rows.

/// Rows of one register tile. Six rows by sixteen columns fill the vector registers of AVX2.
const TILE_ROWS: usize = 6;
/// Columns of one register tile.
const TILE_COLUMNS: usize = 16;
/// Every row of `b` and `c` is padded to a multiple of this.
pub(crate) const PAD: usize = 8;

/// `n` rounded up to the padding of a row.
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(PAD)
}

/// The left factor: element `(i, p)` is `values[i * row_stride + p * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

/// `c = a b`, or `c += a b` where `add`. Shapes: `a (m, k)`, `b (k, n)` and `c (m, n)`, the latter two with rows of
/// `b_stride` and `c_stride` values; `n` is a multiple of [`PAD`]. `panel` is scratch space.
#[expect(clippy::too_many_arguments, reason = "the usual signature of a matrix product")]
pub(crate) fn matmul(
    (m, n, k): (usize, usize, usize),
    a: Left<'_>,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    add: bool,
    panel: &mut Vec<f32>,
) {
    debug_assert!(n.is_multiple_of(PAD) && n <= b_stride && n <= c_stride);
    for row in (0..m).step_by(TILE_ROWS) {
        let c = &mut c[row * c_stride..];
        match m - row {
            1 => rows::<1>(row, n, k, a, b, b_stride, c, c_stride, add, panel),
            2 => rows::<2>(row, n, k, a, b, b_stride, c, c_stride, add, panel),
            3 => rows::<3>(row, n, k, a, b, b_stride, c, c_stride, add, panel),
            4 => rows::<4>(row, n, k, a, b, b_stride, c, c_stride, add, panel),
            5 => rows::<5>(row, n, k, a, b, b_stride, c, c_stride, add, panel),
            _ => rows::<TILE_ROWS>(row, n, k, a, b, b_stride, c, c_stride, add, panel),
        }
    }
}

/// `M` rows of the product, from row `row` of `a`; `c` starts at that row.
#[expect(clippy::too_many_arguments, reason = "the inner part of a matrix product")]
fn rows<const M: usize>(
    row: usize,
    n: usize,
    k: usize,
    a: Left<'_>,
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    add: bool,
    panel: &mut Vec<f32>,
) {
    panel.clear();
    for p in 0..k {
        for i in 0..M {
            panel.push(a.values[(row + i) * a.row_stride + p * a.column_stride]);
        }
    }
    let mut column = 0;
    while column + TILE_COLUMNS <= n {
        tile::<M, TILE_COLUMNS>(panel, &b[column..], b_stride, &mut c[column..], c_stride, add);
        column += TILE_COLUMNS;
    }
    if column < n {
        tile::<M, PAD>(panel, &b[column..], b_stride, &mut c[column..], c_stride, add);
    }
}

/// One tile: `panel` holds the `M` values of each `p` side by side.
#[inline(always)]
fn tile<const M: usize, const N: usize>(
    panel: &[f32],
    b: &[f32],
    b_stride: usize,
    c: &mut [f32],
    c_stride: usize,
    add: bool,
) {
    let mut sums = [[0.0f32; N]; M];
    for (left, right) in panel.chunks_exact(M).zip(b.chunks(b_stride)) {
        let right = &right[..N];
        for i in 0..M {
            for j in 0..N {
                sums[i][j] = super::maths::fma(left[i], right[j], sums[i][j]);
            }
        }
    }
    for (sums, out) in sums.iter().zip(c.chunks_mut(c_stride)) {
        for (sum, out) in sums.iter().zip(out) {
            *out = if add { *out + *sum } else { *sum };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_for_every_remainder() {
        for (m, n, k) in [(1, 8, 1), (5, 24, 7), (6, 16, 3), (13, 40, 9), (64, 64, 24)] {
            let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.73).cos()).collect();
            let transposed: Vec<f32> = (0..m * k).map(|i| a[(i % m) * k + i / m]).collect();
            for (values, row_stride, column_stride) in [(&a, k, 1), (&transposed, 1, m)] {
                let mut c = vec![1.0; m * n];
                let left = Left { values, row_stride, column_stride };
                matmul((m, n, k), left, &b, n, &mut c, n, true, &mut Vec::new());
                for i in 0..m {
                    for j in 0..n {
                        let expected: f32 = (0..k).map(|p| a[i * k + p] * b[p * n + j]).sum();
                        assert!((c[i * n + j] - 1.0 - expected).abs() < 1e-5);
                    }
                }
            }
        }
    }
}
