//! PyTorch's CPU generator, so that quantizers drawn by `torch.manual_seed(n)` can be drawn here.
//!
//! `torch.Generator` on the CPU is the 32-bit Mersenne Twister (Matsumoto and Nishimura, 1998) with its usual
//! seeding. A uniform f32 takes the low 24 bits of one draw. `normal_` on a contiguous f32 tensor of 16 values or more
//! fills it with uniform numbers and turns groups of sixteen into normal ones; shorter tensors go through a Box-Muller
//! pair in f64.

use super::normal::{self, GROUP};

const N: usize = 624;
const M: usize = 397;

/// The state of `torch.Generator(device="cpu")`.
pub struct TorchGenerator {
    state: [u32; N],
    next: usize,
    /// The second half of the last f64 Box-Muller pair.
    spare: Option<f64>,
}

impl TorchGenerator {
    /// `torch.manual_seed(seed)`. The twister takes 32 bits of it.
    pub fn new(seed: u64) -> Self {
        let mut state = [0u32; N];
        state[0] = seed as u32;
        for i in 1..N {
            let last = state[i - 1];
            state[i] = 1_812_433_253u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: N, spare: None }
    }

    fn random(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// One f32 in `[0, 1)`, from 24 bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.random() & 0x00ff_ffff) as f32 / (1 << 24) as f32
    }

    /// One f64 in `[0, 1)`, from 53 bits of two draws, the first of them the high half.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.random());
        let bits = high << 32 | u64::from(self.random());
        (bits & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }

    /// `tensor.uniform_(low, high)`.
    pub fn uniform(&mut self, out: &mut [f32], low: f32, high: f32) {
        for value in out {
            *value = self.uniform_f32().mul_add(high - low, low);
        }
    }

    /// `tensor.normal_(mean, std)` on a contiguous f32 tensor.
    pub fn normal(&mut self, out: &mut [f32], mean: f64, std: f64) {
        if out.len() < GROUP {
            for value in out {
                *value = (self.normal_f64() * std + mean) as f32;
            }
            return;
        }
        for value in out.iter_mut() {
            *value = self.uniform_f32();
        }
        let (groups, rest) = out.as_chunks_mut::<GROUP>();
        for group in groups {
            normal::box_muller(group, mean as f32, std as f32);
        }
        if !rest.is_empty() {
            // The last sixteen values are drawn anew, over some that were finished.
            let mut group: [f32; GROUP] = std::array::from_fn(|_| self.uniform_f32());
            normal::box_muller(&mut group, mean as f32, std as f32);
            let start = out.len() - GROUP;
            out[start..].copy_from_slice(&group);
        }
    }

    fn normal_f64(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let angle = std::f64::consts::TAU * self.uniform_f64();
        let radius = (-2.0 * (-self.uniform_f64()).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

#[cfg(test)]
mod tests {
    use super::TorchGenerator;

    #[test]
    fn the_twister_is_the_published_one() {
        // The 10,000th draw for the default seed 5489, from the C++ standard, [rand.predef].
        let mut generator = TorchGenerator::new(5489);
        let last = (0..10_000).map(|_| generator.random()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn two_lengths_share_the_head_but_not_the_redrawn_tail() {
        let draw = |len: usize| {
            let mut out = vec![0.0; len];
            TorchGenerator::new(3).normal(&mut out, 0.0, 1.0);
            out
        };
        let (whole, odd) = (draw(48), draw(40));
        assert_eq!(whole[..24], odd[..24]);
        assert_ne!(whole[24..32], odd[24..32]);
    }
}
