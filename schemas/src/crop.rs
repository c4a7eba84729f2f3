//! Windows of fixed length.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::column::fixed_tensor_field;
use crate::edge::{Edge, required};
use crate::origin;

/// One row per window of a track.
///
/// Columns: origin; `crop_ix`, 0-based within the track; `start_s`, where it starts in the track, in seconds;
/// `audio_s`, how many seconds of it are audio (the rest is zero padding at the end); `samples`, shape `(samples)`.
#[derive(Debug)]
pub enum Crop {}

/// Constants of a [`Crop`] edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CropSpec {
    /// In Hz.
    pub sample_rate: u32,
    /// Length of every crop in samples.
    pub samples: u32,
    /// How windows are chosen, e.g. `grid`. A cached crop is a function of (seed, track, crop_ix).
    pub policy: String,
}

impl CropSpec {
    /// Length of every crop in seconds.
    pub fn duration_s(&self) -> f64 {
        f64::from(self.samples) / f64::from(self.sample_rate)
    }
}

/// The columns that name a crop: origin, `crop_ix`, `start_s`, `audio_s`.
pub(crate) fn crop_fields() -> Vec<Field> {
    let mut fields = origin::fields();
    fields.extend([
        required("crop_ix", DataType::UInt32),
        required("start_s", DataType::Float64),
        required("audio_s", DataType::Float64),
    ]);
    fields
}

impl Crop {
    /// How many steps of a grid of `rate` Hz from the start of a crop look at its `audio_s` seconds of audio; those after
    /// them look at padding alone.
    pub fn audible(audio_s: f64, rate: f64) -> usize {
        // A hair less, so that whole seconds are not rounded up.
        (audio_s * rate - 1e-6).ceil().max(0.0) as usize
    }

    /// How many leading columns name the crop; they are the same on [`crate::Features`] and [`crate::Tokens`].
    pub const KEY_COLUMNS: usize = 6;
}

impl Edge for Crop {
    const NAME: &'static str = "crop";
    const VERSION: u16 = 1;
    type Spec = CropSpec;

    fn fields(spec: &CropSpec) -> Vec<Field> {
        let mut fields = crop_fields();
        fields.push(fixed_tensor_field("samples", DataType::Float32, &[("samples", spec.samples as usize)]));
        fields
    }
}
