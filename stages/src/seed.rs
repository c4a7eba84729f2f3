//! Random numbers that depend on what they are for, never on who drew before.
//!
//! Every number is a function of a seed and a key (node, pass, track, crop, position, ...), so results do not change
//! with the number of threads, workers or processes, and any of them can be drawn again alone.

/// Combines a seed with the parts of a key into the seed of something smaller.
pub fn derive(seed: u64, key: &[u64]) -> u64 {
    key.iter().fold(mix(seed ^ 0x6f6d_6172_2d66_6c6f), |state, &part| mix(state ^ mix(part)))
}

/// Combines a seed with a name.
pub fn derive_named(seed: u64, name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    derive(seed, &[u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))])
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection in which every input bit moves every output bit.
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Number `index` of the sequence that belongs to `seed`.
pub const fn at(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// A sequence of numbers, for where a place in a sequence is the natural key.
#[derive(Debug, Clone)]
pub struct Random {
    seed: u64,
    index: u64,
}

impl Random {
    /// The sequence of a seed and a key.
    pub fn new(seed: u64, key: &[u64]) -> Self {
        Self { seed: derive(seed, key), index: 0 }
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        let bits = at(self.seed, self.index);
        self.index += 1;
        bits
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in 0..n, n > 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// Standard normal (Box and Muller 1958; one of the pair, so that a number costs a fixed two draws).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_give_independent_reproducible_sequences() {
        let draw = |key: &[u64]| Random::new(7, key).bits();
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
    }

    #[test]
    fn moments_are_right() {
        let mut random = Random::new(1, &[]);
        let n = 100_000;
        let normals: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mean = normals.iter().sum::<f64>() / f64::from(n);
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
        let mut counts = [0u32; 5];
        (0..n).for_each(|_| counts[random.below(5) as usize] += 1);
        assert!(counts.iter().all(|&count| (19_000..21_000).contains(&count)), "{counts:?}");
    }
}
