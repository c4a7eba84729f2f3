//! From candle's storage to slices and back.

use candle_core::{CpuStorage, Layout, Result, Storage, StorageRef, Tensor, bail};
use std::ops::{Deref, Range};

/// The values of a contiguous f32 tensor on the CPU, borrowed under its read lock.
pub(crate) struct Values<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// Borrows the values of `tensor`, which must be contiguous, f32 and on the CPU.
pub(crate) fn values(tensor: &Tensor) -> Result<Values<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a kernel needs a contiguous tensor") };
    if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
        bail!("a kernel needs an f32 tensor on the CPU, found {:?} on {:?}", tensor.dtype(), tensor.device());
    }
    Ok(Values { storage, range: start..end })
}

/// The slice that a contiguous f32 `layout` covers in `storage`.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a kernel needs a contiguous tensor") };
    match storage {
        CpuStorage::F32(values) => Ok(&values[start..end]),
        other => bail!("a kernel needs f32 values, found {:?}", candle_core::backend::BackendStorage::dtype(other)),
    }
}

/// As [`slice`], to write.
pub(crate) fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("a kernel needs a contiguous tensor") };
    match storage {
        CpuStorage::F32(values) => Ok(&mut values[start..end]),
        other => bail!("a kernel needs f32 values, found {:?}", candle_core::backend::BackendStorage::dtype(&*other)),
    }
}
