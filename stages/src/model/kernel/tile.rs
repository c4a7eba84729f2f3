//! The inner loop of products: some rows by a panel of columns, in registers.

use super::matmul::LANES;
use pulp::Simd;

/// Vectors of [`LANES`] values beside each other in a panel: with nine rows all but four of 32 registers hold sums.
const VECTORS: usize = 3;
/// Columns of a panel.
pub(super) const PANEL: usize = VECTORS * LANES;

/// A row of a panel. Aligned, since a load across two cache lines costs twice.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Row(pub(super) [f32; PANEL]);

impl Row {
    pub(super) const ZERO: Self = Self([0.0; PANEL]);
}

/// Inputs of a row that lie together in [`multiply_rows`].
pub(super) const BLOCK: usize = 16;
/// Blocks that are left when [`multiply_rows`] is about to be through: so many stay in the first-level cache.
const LAST_BLOCKS: usize = 4;

/// `out = left right`, with the left factor's columns as they follow each other. Every sum runs over the depth in one
/// order of fused multiply-adds, so it does not depend on the vector unit.
///
/// # Shapes
/// `left (depth, M)`, transposed; `right (depth, PANEL)`; `out (M, PANEL)`.
#[inline(always)]
pub(super) fn multiply<S: Simd, const M: usize>(simd: S, left: &[[f32; M]], right: &[Row], out: &mut [Row; M]) {
    // With narrower vectors than `LANES` a panel is done part by part.
    for part in 0..LANES / S::F32_LANES {
        let mut totals = zeros(simd);
        for (left, right) in left.iter().zip(right) {
            add_products(simd, left, right, part, &mut totals);
        }
        keep::<S, M>(&totals, part, out);
    }
}

/// As [`multiply`], with the left factor in blocks of its rows: laying it out so transposes nothing. Shortly before the end
/// it is `near_the_end`.
///
/// # Shapes
/// `left (depth / BLOCK, M, BLOCK)`, the last block filled up; `right (depth, PANEL)`; `out (M, PANEL)`.
#[inline(always)]
pub(super) fn multiply_rows<S: Simd, const M: usize>(
    simd: S,
    left: &[[[f32; BLOCK]; M]],
    right: &[Row],
    out: &mut [Row; M],
    near_the_end: impl Fn(),
) {
    let (blocks, rest) = right.as_chunks::<BLOCK>();
    let (most, last) = blocks.split_at(blocks.len().saturating_sub(LAST_BLOCKS));
    for part in 0..LANES / S::F32_LANES {
        let mut totals = zeros(simd);
        for (left, right) in left.iter().zip(most) {
            for (k, right) in right.iter().enumerate() {
                add_products(simd, &std::array::from_fn(|i| left[i][k]), right, part, &mut totals);
            }
        }
        near_the_end();
        for (left, right) in left[most.len()..].iter().zip(last) {
            for (k, right) in right.iter().enumerate() {
                add_products(simd, &std::array::from_fn(|i| left[i][k]), right, part, &mut totals);
            }
        }
        for (k, right) in rest.iter().enumerate() {
            let left = &left[blocks.len()];
            add_products(simd, &std::array::from_fn(|i| left[i][k]), right, part, &mut totals);
        }
        keep::<S, M>(&totals, part, out);
    }
}

/// Sums in registers.
type Totals<S, const M: usize> = [[<S as Simd>::f32s; VECTORS]; M];

#[inline(always)]
fn zeros<S: Simd, const M: usize>(simd: S) -> Totals<S, M> {
    [[simd.splat_f32s(0.0); VECTORS]; M]
}

#[inline(always)]
fn add_products<S: Simd, const M: usize>(
    simd: S,
    left: &[f32; M],
    right: &Row,
    part: usize,
    totals: &mut Totals<S, M>,
) {
    let right = &S::as_simd_f32s(&right.0).0[part * VECTORS..][..VECTORS];
    let right: [S::f32s; VECTORS] = std::array::from_fn(|v| right[v]);
    for (totals, left) in totals.iter_mut().zip(left) {
        let left = simd.splat_f32s(*left);
        for (total, right) in totals.iter_mut().zip(&right) {
            *total = simd.mul_add_f32s(left, *right, *total);
        }
    }
}

#[inline(always)]
fn keep<S: Simd, const M: usize>(totals: &Totals<S, M>, part: usize, out: &mut [Row; M]) {
    for (out, totals) in out.iter_mut().zip(totals) {
        S::as_mut_simd_f32s(&mut out.0).0[part * VECTORS..][..VECTORS].copy_from_slice(totals);
    }
}

/// Brings values that are about to be written into the first-level cache, where the processor can be asked to.
#[inline(always)]
pub(super) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[allow(unsafe_code, reason = "a hint: it reads nothing, faults at no address, and every x86-64 has it")]
        // SAFETY: as above.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Values in a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 16;
