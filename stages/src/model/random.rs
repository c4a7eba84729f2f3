//! Random numbers by address, on top of [`crate::seed`]: a stream is a seed with named and numbered parts.

use crate::seed;

/// A sequence of random numbers addressed by index: a number never depends on how many were drawn before, so there is no
/// generator state to save in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(u64);

impl Stream {
    /// The root stream of a seed for one purpose; different purposes share no numbers.
    pub fn new(seed: u64, purpose: &str) -> Self {
        Self(seed::derive_named(seed, purpose))
    }

    /// The sub-stream of a name.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self(seed::derive_named(self.0, name))
    }

    /// The sub-stream of a number: a step, a track, a row.
    #[must_use]
    pub fn at(self, key: u64) -> Self {
        Self(seed::derive(self.0, &[key]))
    }

    /// What tells it from others: with an index, [`seed::at`] gives its bits.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn key(self) -> u64 {
        self.0
    }

    /// 64 random bits.
    pub fn bits(self, index: u64) -> u64 {
        seed::at(self.0, index)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn uniform(self, index: u64) -> f32 {
        (self.bits(index) >> 40) as f32 * (1.0 / 16_777_216.0)
    }

    /// Standard normal, by the form of Box and Muller on the two halves of one draw: faster than two draws, and 32 bits
    /// are enough for f32.
    pub fn normal(self, index: u64) -> f32 {
        let bits = self.bits(index);
        let unit = 1.0 / 4_294_967_296.0;
        let radius = (-2.0 * (((bits >> 32) as f64 + 0.5) * unit).ln()).sqrt();
        let angle = std::f64::consts::TAU * ((bits & 0xffff_ffff) as f64 * unit);
        (radius * angle.cos()) as f32
    }

    /// Uniform over `0..n`; zero for `n` zero.
    pub fn below(self, index: u64, n: usize) -> usize {
        ((u128::from(self.bits(index)) * n as u128) >> 64) as usize
    }

    /// A uniform random order of `0..n` (Fisher and Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_distributions() {
        let stream = Stream::new(7, "test").named("a").at(3);
        let n = 200_000u64;
        let mean = |f: &dyn Fn(u64) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        assert!((mean(&|i| f64::from(stream.uniform(i))) - 0.5).abs() < 3e-3);
        assert!(mean(&|i| f64::from(stream.normal(i))).abs() < 1e-2);
        assert!((mean(&|i| f64::from(stream.normal(i)).powi(2)) - 1.0).abs() < 2e-2);
        assert!((mean(&|i| stream.below(i, 10) as f64) - 4.5).abs() < 3e-2);
    }

    #[test]
    fn streams_of_different_purposes_names_and_keys_differ() {
        let root = Stream::new(1, "mask");
        let others = [Stream::new(1, "dropout"), Stream::new(2, "mask"), root.named("x"), root.at(0), root.at(1)];
        for other in others {
            assert_ne!(root.bits(0), other.bits(0));
        }
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Stream::new(5, "shuffle").permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
