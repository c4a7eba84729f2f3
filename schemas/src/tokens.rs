//! Training targets.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::column::fixed_tensor_field;
use crate::crop::{Crop, crop_fields};
use crate::edge::Edge;

/// One row per crop: the crop's key columns, then one u16 column per view, shape `(positions, codebooks)`.
#[derive(Debug)]
pub enum Tokens {}

/// Constants of a [`Tokens`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokensSpec {
    /// Rate of the audio in Hz.
    pub sample_rate: u32,
    /// Length of the crop in samples.
    pub crop_samples: u32,
    /// Samples that one position stands for; `sample_rate / patch_samples` is the token rate in Hz.
    pub patch_samples: u32,
    /// Positions per crop, the same for all views.
    pub positions: u32,
    /// In column order.
    pub streams: Vec<StreamSpec>,
}

impl TokensSpec {
    /// Positions of a crop with `audio_s` seconds of audio that look at it; the rest looks at padding alone.
    pub fn audible(&self, audio_s: f64) -> usize {
        Crop::audible(audio_s, self.token_rate()).min(self.positions as usize)
    }

    /// Tokens per second and stream.
    pub fn token_rate(&self) -> f64 {
        f64::from(self.sample_rate) / f64::from(self.patch_samples)
    }
}

/// The tokens of one view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// Which view was quantised: also the name of the column.
    pub view: String,
    /// Tokens per position.
    pub codebooks: u32,
    /// Codes are 0..codebook_size.
    pub codebook_size: u32,
    /// How patches became tokens, in words.
    pub quantizer: String,
}

impl Edge for Tokens {
    const NAME: &'static str = "tokens";
    const VERSION: u16 = 2;
    type Spec = TokensSpec;

    fn fields(spec: &TokensSpec) -> Vec<Field> {
        let mut fields = crop_fields();
        for stream in &spec.streams {
            let shape = [("positions", spec.positions as usize), ("codebooks", stream.codebooks as usize)];
            fields.push(fixed_tensor_field(&stream.view, DataType::UInt16, &shape));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_audible_when_some_of_it_is_audio() {
        let (sample_rate, crop_samples, patch_samples, positions) = (24_000, 720_000, 960, 750);
        let spec = TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams: Vec::new() };
        assert_eq!([0.0, 0.01, 0.04, 0.041, 30.0, 99.0].map(|s| spec.audible(s)), [0, 1, 1, 2, 750, 750]);
    }
}
