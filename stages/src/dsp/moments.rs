//! Mean and deviation of a view over a corpus, in one pass.

use super::DspError;

/// Adds up what standardisation needs to know, crop by crop, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    crops: u64,
    frames: u64,
    /// Sums over crops of a crop's mean and of its standard deviation.
    crop_mean: f64,
    crop_std: f64,
    min: f32,
    max: f32,
    /// Per bin: sums over frames of the value and of its square, both about `origin`.
    bins: Vec<[f64; 2]>,
    /// The first frame: sums about a value of the right size keep the digits that a variance needs.
    origin: Vec<f64>,
}

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Crops that had frames.
    pub crops: u64,
    /// Frames.
    pub frames: u64,
    /// Mean over crops of a crop's mean.
    pub mean: f64,
    /// Mean over crops of a crop's standard deviation (over all its values; the published models' constants are made
    /// this way).
    pub std: f64,
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Mean of each bin over all frames.
    pub bin_mean: Vec<f64>,
    /// Standard deviation of each bin over all frames.
    pub bin_std: Vec<f64>,
}

impl Moments {
    /// Nothing seen yet of a view of `bins` bins.
    pub fn new(bins: usize) -> Self {
        let (bins, origin) = (vec![[0.0; 2]; bins], Vec::new());
        Self { crops: 0, frames: 0, crop_mean: 0.0, crop_std: 0.0, min: f32::MAX, max: f32::MIN, bins, origin }
    }

    /// Adds a crop.
    ///
    /// # Shapes
    /// `features`: `(frames, bins)`, frame-major; no frames add nothing.
    ///
    /// # Errors
    /// [`DspError::Length`] when it is not a whole number of frames.
    pub fn add(&mut self, features: &[f32]) -> Result<(), DspError> {
        let bins = self.bins.len();
        let frames = features.len() / bins;
        DspError::check_len("features", features.len(), frames * bins)?;
        let Some(first) = features.chunks_exact(bins).next() else { return Ok(()) };
        if self.origin.is_empty() {
            self.origin = first.iter().map(|&value| f64::from(value)).collect();
        }
        let (mut sum, mut square) = (0.0, 0.0);
        for frame in features.chunks_exact(bins) {
            for ((&value, moments), origin) in frame.iter().zip(&mut self.bins).zip(&self.origin) {
                let value64 = f64::from(value);
                sum += value64;
                square += value64 * value64;
                let about = value64 - origin;
                moments[0] += about;
                moments[1] += about * about;
                self.min = self.min.min(value);
                self.max = self.max.max(value);
            }
        }
        let values = features.len() as f64;
        let mean = sum / values;
        self.crop_mean += mean;
        self.crop_std += (square / values - mean * mean).max(0.0).sqrt();
        self.crops += 1;
        self.frames += frames as u64;
        Ok(())
    }

    /// What was seen; nothing when there was no frame.
    pub fn summary(&self) -> Option<Summary> {
        if self.crops == 0 {
            return None;
        }
        let (crops, frames) = (self.crops as f64, self.frames as f64);
        let about = self.bins.iter().map(|moments| moments.map(|sum| sum / frames));
        let (bin_mean, bin_std) = about
            .zip(&self.origin)
            .map(|([mean, square], origin)| (origin + mean, (square - mean * mean).max(0.0).sqrt()))
            .unzip();
        Some(Summary {
            crops: self.crops,
            frames: self.frames,
            mean: self.crop_mean / crops,
            std: self.crop_std / crops,
            min: self.min,
            max: self.max,
            bin_mean,
            bin_std,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crops_count_equally_and_bins_count_frames() {
        let mut moments = Moments::new(2);
        moments.add(&[0.0, 10.0]).unwrap();
        moments.add(&[2.0, 4.0, 4.0, 8.0, 6.0, 6.0]).unwrap();
        moments.add(&[]).unwrap();
        let summary = moments.summary().unwrap();
        assert_eq!((summary.crops, summary.frames), (2, 4));
        assert_eq!(summary.mean, (5.0 + 5.0) / 2.0);
        let second = (9.0f64 + 1.0 + 1.0 + 9.0 + 1.0 + 1.0) / 6.0;
        assert!((summary.std - (5.0 + second.sqrt()) / 2.0).abs() < 1e-12);
        assert_eq!((summary.min, summary.max), (0.0, 10.0));
        assert_eq!(summary.bin_mean, [3.0, 7.0]);
        assert_eq!(summary.bin_std, [5.0f64.sqrt(), 5.0f64.sqrt()]);
    }

    #[test]
    fn a_small_deviation_about_a_large_mean_is_not_lost() {
        let mut moments = Moments::new(1);
        for i in 0..10_000u32 {
            moments.add(&[10_000.0 + (i % 2) as f32 / 64.0]).unwrap();
        }
        let summary = moments.summary().unwrap();
        assert!((summary.bin_std[0] - 1.0 / 128.0).abs() < 1e-9, "{}", summary.bin_std[0]);
    }

    #[test]
    fn nothing_seen_is_nothing_and_half_a_frame_is_refused() {
        assert_eq!(Moments::new(3).summary(), None);
        assert!(Moments::new(3).add(&[1.0; 4]).is_err());
    }
}
