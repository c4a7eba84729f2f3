//! Which positions are masked, and what stands there instead.

use super::random::Stream;
use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Standard deviation of the noise in place of a masked patch (OMAR-RQ, section 3.2; BEST-RQ, section 3.1).
const NOISE: f32 = 0.1;

/// What stands at a masked position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaskMethod {
    /// Normal noise of mean 0 and standard deviation 0.1.
    Noise,
    /// The patch of a random other position of the crop: a copy of the crop shuffled in time.
    Shuffle,
}

/// Masking in spans: they tile the sequence from its first position, and each is masked or not as a whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Masking {
    /// Probability of each span, above 0 and at most 1.
    pub probability: f64,
    /// Positions per span; of several lengths, each crop draws one.
    pub spans: Vec<usize>,
    /// What stands at a masked position.
    pub method: MaskMethod,
}

impl Masking {
    /// Positions of a span of `seconds`: `ceil(seconds * frame_rate) / frames_per_patch`, the division rounding down, and
    /// at least one.
    pub fn span_positions(seconds: f64, frame_rate: f64, frames_per_patch: usize) -> usize {
        // 0.4 s at 62.5 frames per second is 25 frames, and not 26 for a last bit.
        let frames = (seconds * frame_rate - 1e-9).ceil().max(0.0) as usize;
        (frames / frames_per_patch.max(1)).max(1)
    }

    /// The mask of one crop of `positions` positions.
    pub fn mask(&self, stream: Stream, positions: usize) -> Vec<bool> {
        let length = match &self.spans[..] {
            [] => 1,
            [length] => *length,
            several => several[stream.named("span length").below(0, several.len())],
        };
        let spans = stream.named("spans");
        (0..positions).map(|i| f64::from(spans.uniform((i / length.max(1)) as u64)) < self.probability).collect()
    }

    /// Replaces the masked rows of one crop.
    ///
    /// # Shapes
    /// `patches (positions, patch_dim)` flat, `mask (positions)`.
    pub fn apply(&self, stream: Stream, mask: &[bool], patches: &mut [f32]) {
        let Some(dim) = patches.len().checked_div(mask.len()) else { return };
        match self.method {
            MaskMethod::Noise => {
                let noise = stream.named("noise");
                for (i, row) in patches.chunks_exact_mut(dim).enumerate().filter(|(i, _)| mask[*i]) {
                    let noise = noise.at(i as u64);
                    for (d, value) in row.iter_mut().enumerate() {
                        *value = NOISE * noise.normal(d as u64);
                    }
                }
            }
            MaskMethod::Shuffle => {
                let original = patches.to_vec();
                let order = stream.named("shuffle").permutation(mask.len());
                for (i, row) in patches.chunks_exact_mut(dim).enumerate().filter(|(i, _)| mask[*i]) {
                    row.copy_from_slice(&original[order[i] * dim..(order[i] + 1) * dim]);
                }
            }
        }
    }

    /// Masks a minibatch, one stream per example.
    ///
    /// Gives the patches with masked rows replaced and the flat indices `example * positions + position` of those rows,
    /// ascending.
    ///
    /// # Shapes
    /// `patches (batch, positions, patch_dim)`, and the result alike.
    ///
    /// # Errors
    /// When there is not one stream per example.
    pub fn apply_to_minibatch(&self, patches: &Tensor, streams: &[Stream]) -> Result<(Tensor, Vec<u32>)> {
        let (batch, positions, dim) = patches.dims3()?;
        if streams.len() != batch {
            bail!("masking: {} streams for {batch} examples", streams.len());
        }
        let mut values = patches.flatten_all()?.to_vec1::<f32>()?;
        let masks: Vec<Vec<bool>> = values
            .par_chunks_mut((positions * dim).max(1))
            .zip(streams)
            .map(|(patches, stream)| {
                let mask = self.mask(*stream, positions);
                self.apply(*stream, &mask, patches);
                mask
            })
            .collect();
        let flat = masks.into_iter().flatten().enumerate();
        let masked = flat.filter(|(_, masked)| *masked).map(|(i, _)| i as u32).collect();
        Ok((Tensor::from_vec(values, (batch, positions, dim), patches.device())?, masked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masking(method: MaskMethod) -> Masking {
        Masking { probability: 0.6, spans: vec![10], method }
    }

    #[test]
    fn spans_follow_the_published_rates() {
        // 0.4 s: mel at 24 kHz, hop 320, patches of 3; mel at 16 kHz, hop 256, patches of 4; waveform, patches of 960.
        assert_eq!(Masking::span_positions(0.4, 75.0, 3), 10);
        assert_eq!(Masking::span_positions(0.4, 62.5, 4), 6);
        assert_eq!(Masking::span_positions(0.4, 24_000.0, 960), 10);
        assert_eq!(Masking::span_positions(0.001, 75.0, 3), 1);
    }

    #[test]
    fn spans_are_masked_as_a_whole_and_as_often_as_asked() {
        let masking = masking(MaskMethod::Noise);
        let mut share = 0.0;
        for crop in 0..200 {
            let mask = masking.mask(Stream::new(1, "mask").at(crop), 155);
            for span in mask.chunks(10) {
                assert!(span.iter().all(|m| *m == span[0]));
            }
            share += mask.iter().filter(|m| **m).count() as f64 / (155.0 * 200.0);
        }
        assert!((share - 0.6).abs() < 0.03, "{share}");
    }

    #[test]
    fn noise_has_its_deviation_and_leaves_the_rest_alone() {
        let (masking, stream) = (masking(MaskMethod::Noise), Stream::new(2, "mask"));
        let mask = masking.mask(stream, 100);
        let mut patches = vec![3.0f32; 100 * 50];
        masking.apply(stream, &mask, &mut patches);
        let noise: Vec<f32> = (0..5000).filter(|i| mask[i / 50]).map(|i| patches[i]).collect();
        let power = noise.iter().map(|v| f64::from(v * v)).sum::<f64>() / noise.len() as f64;
        assert!((power.sqrt() - 0.1).abs() < 5e-3, "{}", power.sqrt());
        assert!((0..5000).filter(|i| !mask[i / 50]).all(|i| patches[i] == 3.0));
    }

    #[test]
    fn shuffling_takes_patches_of_the_same_crop() {
        let (masking, stream) = (masking(MaskMethod::Shuffle), Stream::new(3, "mask"));
        let mask = masking.mask(stream, 64);
        let mut patches: Vec<f32> = (0..128).map(|i| (i / 2) as f32).collect();
        masking.apply(stream, &mask, &mut patches);
        let changed = (0..64).filter(|i| patches[2 * i] != *i as f32).count();
        assert!(changed > 20);
        for i in 0..64 {
            assert!(patches[2 * i] == patches[2 * i + 1]);
            assert!(mask[i] || patches[2 * i] == i as f32);
        }
    }
}
