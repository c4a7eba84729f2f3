//! A random sample of all patches, of bounded size, in one pass.

use std::collections::BinaryHeap;

use crate::seed;

/// The patches with the smallest random numbers: a uniform sample whatever the order in which they come.
pub(super) struct Sample {
    input_len: usize,
    capacity: usize,
    seed: u64,
    /// (random number, slot), largest first.
    kept: BinaryHeap<(u64, usize)>,
    /// `(slots, input_len)`.
    values: Vec<f32>,
}

impl Sample {
    /// A sample of at most `capacity` patches of `input_len` values.
    pub(super) fn new(input_len: usize, capacity: usize, seed: u64) -> Self {
        Self { input_len, capacity, seed, kept: BinaryHeap::new(), values: Vec::new() }
    }

    /// Offers the patches of a crop, `(positions, input_len)`, named by `key`.
    pub(super) fn offer(&mut self, patches: &[f32], key: &[u64]) {
        let seed = seed::derive(self.seed, key);
        for (position, patch) in (0..).zip(patches.chunks_exact(self.input_len)) {
            let number = seed::at(seed, position);
            let slot = if self.kept.len() < self.capacity {
                self.values.extend_from_slice(patch);
                self.kept.len()
            } else {
                match self.kept.peek() {
                    Some(&(largest, slot)) if number < largest => {
                        self.kept.pop();
                        self.values[slot * self.input_len..][..self.input_len].copy_from_slice(patch);
                        slot
                    }
                    _ => continue,
                }
            };
            self.kept.push((number, slot));
        }
    }

    /// The patches, in the order of their random numbers, `(patches, input_len)`.
    pub(super) fn patches(&self) -> Vec<f32> {
        let mut kept: Vec<(u64, usize)> = self.kept.iter().copied().collect();
        kept.sort_unstable();
        kept.iter().flat_map(|&(_, slot)| &self.values[slot * self.input_len..][..self.input_len]).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_the_same_in_any_order_and_spread_over_all() {
        let crop = |name: u64| -> Vec<f32> { (0..20).map(|i| (name * 20 + i) as f32).collect() };
        let mut forward = Sample::new(2, 50, 9);
        let mut backward = Sample::new(2, 50, 9);
        for name in 0..30 {
            forward.offer(&crop(name), &[name]);
            backward.offer(&crop(29 - name), &[29 - name]);
        }
        assert_eq!(forward.patches(), backward.patches());
        assert_eq!(forward.patches().len(), 100);
        let mean = forward.patches().iter().sum::<f32>() / 100.0;
        assert!((200.0..400.0).contains(&mean), "{mean}");
        assert!(forward.patches().chunks(2).all(|patch| patch[1] == patch[0] + 1.0), "patches stay whole");
    }

    #[test]
    fn a_small_corpus_is_kept_as_a_whole() {
        let mut sample = Sample::new(1, 50, 1);
        sample.offer(&[1.0, 2.0, 3.0], &[0]);
        let mut patches = sample.patches();
        patches.sort_by(f32::total_cmp);
        assert_eq!(patches, [1.0, 2.0, 3.0]);
    }
}
