//! Fitting centroids to patches: k-means++ (Arthur, Vassilvitskii 2007), then Lloyd's iterations.
//!
//! The result depends on the patches, their order and the seed, not on the machine: nearest centroids are found with
//! sums in a fixed order, and everything else is added up in f64, in order.

use pulp::Arch;

use super::check_finite;
use crate::quantize::kernel::{NearestScratch, Rows};
use crate::quantize::{CodeUsage, QuantizeError};
use crate::seed::Random;

/// How to fit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitConfig {
    /// Values in one patch.
    pub input_len: usize,
    /// Centroids.
    pub codebook_size: usize,
    /// Most iterations.
    pub iterations: usize,
    /// Stop when an iteration lowers the distortion by less than this share of it.
    pub tolerance: f64,
    /// For the first centroids.
    pub seed: u64,
}

/// What was fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// Row-major `(codebook_size, input_len)`.
    pub centroids: Vec<f32>,
    /// Iterations that were made.
    pub iterations: usize,
    /// Mean squared distance of a value of a patch to that of its centroid, after each iteration.
    pub distortion: Vec<f64>,
    /// How often each centroid was the nearest in the end.
    pub usage: CodeUsage,
}

/// Fits centroids.
///
/// # Shapes
/// `patches`: `(n, input_len)` with `n >= codebook_size`.
///
/// # Errors
/// [`QuantizeError::Param`] with fewer patches than centroids, [`QuantizeError::NonFinite`] for patches that no
/// centroid is near to.
pub fn fit(patches: &[f32], config: &FitConfig) -> Result<Fit, QuantizeError> {
    let FitConfig { input_len, codebook_size, .. } = *config;
    let positions = patches.len() / input_len;
    QuantizeError::check_len("patches", patches.len(), positions * input_len)?;
    if positions < codebook_size {
        let expected = format!("at most the {positions} patches that there are");
        return Err(QuantizeError::param("codebook_size", codebook_size, expected));
    }
    check_finite(patches, input_len)?;
    let mut lloyd = Lloyd {
        patches,
        config,
        arch: Arch::new(),
        centroids: spread(patches, config),
        nearest: vec![0; positions],
        scratch: NearestScratch::default(),
    };
    let mut distortion: Vec<f64> = Vec::new();
    for _ in 0..config.iterations.max(1) {
        lloyd.assign();
        lloyd.update();
        let now = lloyd.distortion();
        let before = distortion.last().copied().unwrap_or(f64::INFINITY);
        distortion.push(now);
        if before - now <= config.tolerance * now {
            break;
        }
    }
    lloyd.assign();
    let mut usage = CodeUsage::new(codebook_size);
    usage.add(&lloyd.nearest)?;
    Ok(Fit { centroids: lloyd.centroids, iterations: distortion.len(), distortion, usage })
}

fn square_distance(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (x, y) in a.iter().zip(b) {
        for lane in 0..16 {
            let difference = x[lane] - y[lane];
            lanes[lane] += difference * difference;
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| (x - y) * (x - y)).sum::<f32>()
}

/// The first centroids: patches, each drawn with a probability in proportion to its squared distance from those before.
fn spread(patches: &[f32], config: &FitConfig) -> Vec<f32> {
    let FitConfig { input_len, codebook_size, .. } = *config;
    let positions = patches.len() / input_len;
    let mut random = Random::new(config.seed, &[]);
    let mut distance = vec![f32::INFINITY; positions];
    let mut centroids = Vec::with_capacity(codebook_size * input_len);
    let mut chosen = random.below(positions as u64) as usize;
    loop {
        let centroid = &patches[chosen * input_len..][..input_len];
        centroids.extend_from_slice(centroid);
        if centroids.len() == codebook_size * input_len {
            return centroids;
        }
        for (distance, patch) in distance.iter_mut().zip(patches.chunks_exact(input_len)) {
            *distance = distance.min(square_distance(patch, centroid));
        }
        let total: f64 = distance.iter().map(|&distance| f64::from(distance)).sum();
        let mut left = random.uniform() * total;
        let drawn = distance.iter().position(|&distance| {
            left -= f64::from(distance);
            distance > 0.0 && left <= 0.0
        });
        // Without a distance left, every patch is a centroid already: any will do.
        chosen = drawn.unwrap_or_else(|| random.below(positions as u64) as usize);
    }
}

struct Lloyd<'a> {
    patches: &'a [f32],
    config: &'a FitConfig,
    arch: Arch,
    centroids: Vec<f32>,
    nearest: Vec<u16>,
    scratch: NearestScratch,
}

impl Lloyd<'_> {
    fn assign(&mut self) {
        let input_len = self.config.input_len;
        let rows = Rows::euclidean(&self.centroids, input_len);
        for (patches, nearest) in self.patches.chunks(256 * input_len).zip(self.nearest.chunks_mut(256)) {
            rows.best(self.arch, patches, &mut self.scratch, |i, row| nearest[i] = row as u16);
        }
    }

    /// Moves every centroid to the mean of its patches. One without patches takes the place of the patch that is
    /// farthest from its own.
    fn update(&mut self) {
        let FitConfig { input_len, codebook_size, .. } = *self.config;
        let mut sums = vec![0.0f64; codebook_size * input_len];
        let mut counts = vec![0u64; codebook_size];
        for (patch, &nearest) in self.patches.chunks_exact(input_len).zip(&self.nearest) {
            counts[usize::from(nearest)] += 1;
            for (sum, &value) in sums[usize::from(nearest) * input_len..][..input_len].iter_mut().zip(patch) {
                *sum += f64::from(value);
            }
        }
        let means = sums.chunks_exact(input_len).zip(self.centroids.chunks_exact_mut(input_len)).zip(&counts);
        for ((sum, centroid), &count) in means.filter(|(_, count)| **count > 0) {
            for (slot, sum) in centroid.iter_mut().zip(sum) {
                *slot = (sum / count as f64) as f32;
            }
        }
        let empty: Vec<usize> = (0..codebook_size).filter(|&code| counts[code] == 0).collect();
        if empty.is_empty() {
            return;
        }
        let mut far: Vec<(f32, usize)> = self.distances().zip(0..).collect();
        far.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (code, (_, position)) in empty.into_iter().zip(far) {
            let patch = &self.patches[position * input_len..][..input_len];
            self.centroids[code * input_len..][..input_len].copy_from_slice(patch);
        }
    }

    fn distances(&self) -> impl Iterator<Item = f32> {
        let input_len = self.config.input_len;
        let centroid = move |&code: &u16| &self.centroids[usize::from(code) * input_len..][..input_len];
        let patches = self.patches.chunks_exact(input_len).zip(&self.nearest);
        patches.map(move |(patch, code)| square_distance(patch, centroid(code)))
    }

    fn distortion(&self) -> f64 {
        self.distances().map(f64::from).sum::<f64>() / self.patches.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(codebook_size: usize) -> FitConfig {
        FitConfig { input_len: 3, codebook_size, iterations: 50, tolerance: 0.0, seed: 3 }
    }

    /// Twenty patches around each of four corners.
    fn clouds() -> Vec<f32> {
        let mut random = Random::new(1, &[]);
        let corners = [[0.0, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]];
        let mut patches = Vec::new();
        for i in 0..80 {
            patches.extend(corners[i % 4].map(|x: f64| (x + 0.1 * random.normal()) as f32));
        }
        patches
    }

    #[test]
    fn separate_clouds_get_a_centroid_each() {
        let fitted = fit(&clouds(), &config(4)).unwrap();
        assert_eq!(fitted.usage.counts(), [20; 4]);
        assert!(fitted.distortion.last().is_some_and(|&distortion| distortion < 0.02), "{:?}", fitted.distortion);
        assert_eq!(fitted, fit(&clouds(), &config(4)).unwrap());
    }

    #[test]
    fn the_distortion_never_rises() {
        let mut random = Random::new(2, &[]);
        let patches: Vec<f32> = (0..3000).map(|_| random.normal() as f32).collect();
        let fitted = fit(&patches, &config(40)).unwrap();
        assert!(fitted.distortion.windows(2).all(|pair| pair[1] <= pair[0] + 1e-9), "{:?}", fitted.distortion);
        assert!(fitted.iterations > 2 && fitted.usage.used() == 40);
    }

    #[test]
    fn too_few_patches_and_equal_ones_are_handled() {
        assert!(fit(&[1.0; 9], &config(4)).is_err());
        let fitted = fit(&[1.0; 30], &config(4)).unwrap();
        assert_eq!(fitted.distortion.last(), Some(&0.0));
        assert_eq!(fit(&[f32::NAN; 30], &config(4)), Err(QuantizeError::NonFinite { position: 0 }));
    }
}
