//! Memory that is used again: what a step needs, the next one needs too.
//!
//! Large vectors that come and go with every operation cost page faults and clearing, as much as a tenth of a training
//! step.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Vectors that are free. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<f32>>>>);

impl Pool {
    /// A buffer of `len` values, whatever they are.
    pub(crate) fn take(&self, len: usize) -> Buffer {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that is large enough, and not much too large.
        let fits = |v: &Vec<f32>| v.capacity() >= len && v.capacity() <= 2 * len.max(64);
        let best = (0..free.len()).filter(|i| fits(&free[*i])).min_by_key(|i| free[*i].capacity());
        let mut values = best.map(|i| free.swap_remove(i)).unwrap_or_default();
        drop(free);
        // Values beyond the length of old are cleared; the rest stays.
        values.resize(len, 0.0);
        Buffer { values, pool: self.clone() }
    }

    /// A buffer with these values.
    pub(crate) fn copy(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

/// Values that go back to their pool.
#[derive(Debug)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    pool: Pool,
}

impl Buffer {
    /// The values for good.
    pub(crate) fn into_vec(mut self) -> Vec<f32> {
        std::mem::take(&mut self.values)
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.values.capacity() > 0 {
            let values = std::mem::take(&mut self.values);
            self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_keeps_its_size() {
        let pool = Pool::default();
        let mut first = pool.take(1000);
        first.fill(3.0);
        let at = first.as_ptr();
        drop(first);
        let again = pool.take(900);
        assert_eq!((again.as_ptr(), again.len()), (at, 900));
        // Too large to be wasted on it.
        assert_ne!(pool.take(100).as_ptr(), at);
        assert_eq!(pool.copy(&[1.0, 2.0]).into_vec(), [1.0, 2.0]);
    }
}
