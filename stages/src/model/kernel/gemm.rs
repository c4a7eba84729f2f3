//! The product of large matrices, on all threads.
//!
//! A thin wrapper of the `gemm` crate, which candle multiplies with too: through candle every product would allocate and
//! clear its result, and could not be added to another.

/// A matrix in memory: element `(i, j)` is `values[i * row_step + j * column_step]`.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `columns` values, one after another.
    pub(crate) fn new(values: &'a [f32], columns: usize) -> Self {
        let rows = values.len() / columns.max(1);
        assert_eq!(rows * columns, values.len(), "a matrix has whole rows");
        Self { values, rows, columns, row_step: columns, column_step: 1 }
    }

    /// `rows` rows of `columns` values, each `step` values after the one before: they may overlap, as the windows that a
    /// convolution sees do, or leave values out.
    pub(crate) fn strided(values: &'a [f32], rows: usize, columns: usize, step: usize) -> Self {
        assert!(rows == 0 || (rows - 1) * step + columns <= values.len(), "a matrix lies within its values");
        Self { values, rows, columns, row_step: step, column_step: 1 }
    }

    /// Transposed.
    pub(crate) fn t(self) -> Self {
        let Self { values, rows, columns, row_step, column_step } = self;
        Self { values, rows: columns, columns: rows, row_step: column_step, column_step: row_step }
    }
}

/// What becomes of the values that are there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// Overwritten.
    Replace,
    /// Added to.
    Add,
}

/// `out = a b` or `out += a b`; `out` has the rows of the result one after another.
///
/// # Panics
/// When the sizes do not fit.
pub(crate) fn multiply(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>, into: Into) {
    assert_eq!(a.columns, b.rows, "the factors of a product fit");
    assert_eq!(out.len(), a.rows * b.columns, "a product fits its place");
    if out.is_empty() {
        return;
    }
    let threads = rayon::current_num_threads();
    let parallelism = if threads > 1 { gemm::Parallelism::Rayon(threads) } else { gemm::Parallelism::None };
    let last = |m: &Matrix<'_>| (m.rows.max(1) - 1) * m.row_step + (m.columns.max(1) - 1) * m.column_step;
    assert!(
        a.columns == 0 || (last(&a) < a.values.len() && last(&b) < b.values.len()),
        "a matrix lies within its values"
    );
    #[expect(unsafe_code, reason = "gemm takes pointers; every index it reaches was checked above")]
    // SAFETY: `out` is exclusively borrowed and holds `rows x columns` values; the largest index into `a` and `b` lies
    // within their slices; strides are those of these slices.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out.as_mut_ptr(),
            1,
            b.columns as isize,
            into == Into::Add,
            a.values.as_ptr(),
            a.column_step as isize,
            a.row_step as isize,
            b.values.as_ptr(),
            b.column_step as isize,
            b.row_step as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_may_overlap() {
        let values: Vec<f32> = (0..7).map(|i| i as f32).collect();
        let mut out = vec![0.0; 3];
        multiply(&mut out, Matrix::strided(&values, 3, 3, 2), Matrix::new(&[1.0, 10.0, 100.0], 1), Into::Replace);
        assert_eq!(out, [210.0, 432.0, 654.0]);
    }

    #[test]
    fn agrees_with_the_definition_transposed_or_not() {
        let (m, n, k) = (37, 19, 23);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.73).cos()).collect();
        let turned = |values: &[f32], rows: usize, columns: usize| -> Vec<f32> {
            (0..rows * columns).map(|i| values[i % rows * columns + i / rows]).collect()
        };
        let (at, bt) = (turned(&a, m, k), turned(&b, k, n));
        for left in [Matrix::new(&a, k), Matrix::new(&at, m).t()] {
            for right in [Matrix::new(&b, n), Matrix::new(&bt, k).t()] {
                let mut out = vec![1.0; m * n];
                multiply(&mut out, left, right, Into::Replace);
                multiply(&mut out, left, right, Into::Add);
                for (i, found) in out.iter().enumerate() {
                    let expected: f32 = (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum();
                    assert!((found - 2.0 * expected).abs() < 1e-4, "{found} {expected}");
                }
            }
        }
    }
}
