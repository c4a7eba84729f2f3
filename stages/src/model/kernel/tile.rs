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

/// `out = left right`, with the left factor's columns as they follow each other. Every sum runs over the depth in one
/// order of fused multiply-adds, so it does not depend on the vector unit.
///
/// # Shapes
/// `left (depth, M)`, transposed; `right (depth, PANEL)`; `out (M, PANEL)`.
#[inline(always)]
pub(super) fn multiply<S: Simd, const M: usize>(simd: S, left: &[[f32; M]], right: &[Row], out: &mut [Row; M]) {
    // With narrower vectors than `LANES` a panel is done part by part.
    for part in 0..LANES / S::F32_LANES {
        let mut totals = [[simd.splat_f32s(0.0); VECTORS]; M];
        for (left, right) in left.iter().zip(right) {
            let right = &S::as_simd_f32s(&right.0).0[part * VECTORS..][..VECTORS];
            let right: [S::f32s; VECTORS] = std::array::from_fn(|v| right[v]);
            for (totals, left) in totals.iter_mut().zip(left) {
                let left = simd.splat_f32s(*left);
                for (total, right) in totals.iter_mut().zip(&right) {
                    *total = simd.mul_add_f32s(left, *right, *total);
                }
            }
        }
        for (out, totals) in out.iter_mut().zip(&totals) {
            S::as_mut_simd_f32s(&mut out.0).0[part * VECTORS..][..VECTORS].copy_from_slice(totals);
        }
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
