//! Representations of crops.

use std::collections::BTreeMap;

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::column::fixed_tensor_field;
use crate::crop::crop_fields;
use crate::edge::Edge;

/// One row per crop: the crop's key columns, then one f32 column per view, named as the view, shape `(frames, bins)`.
#[derive(Debug)]
pub enum Features {}

/// Constants of a [`Features`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FeaturesSpec {
    /// Rate of the audio in Hz.
    pub sample_rate: u32,
    /// Length of the crop in samples.
    pub crop_samples: u32,
    /// In column order.
    pub views: Vec<ViewSpec>,
}

/// One representation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ViewSpec {
    /// `mel`, `waveform`, ...: also the name of its column.
    pub name: String,
    /// Values per frame.
    pub bins: u32,
    /// Frames per crop.
    pub frames: u32,
    /// Samples from one frame to the next.
    pub hop_len: u32,
    /// The parameters of the transform, as text: what statistics of this view depend on.
    pub parameters: BTreeMap<String, String>,
    /// What was done to the values last.
    pub standardized: Standardized,
    /// What was subtracted: nothing, one value, or one per bin.
    pub mean: Vec<f64>,
    /// What was divided by: nothing, one value, or one per bin.
    pub std: Vec<f64>,
}

/// Whether the values of a view were brought to mean 0 and deviation 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standardized {
    /// They are as the transform gives them.
    No,
    /// With one mean and one deviation for the view.
    Global,
    /// With a mean and a deviation for every bin.
    PerBin,
}

impl ViewSpec {
    /// A view whose transform is not described.
    pub fn new(name: impl Into<String>, bins: u32, frames: u32, hop_len: u32) -> Self {
        let (parameters, standardized) = (BTreeMap::new(), Standardized::No);
        let (mean, std) = (Vec::new(), Vec::new());
        Self { name: name.into(), bins, frames, hop_len, parameters, standardized, mean, std }
    }

    /// Frames per second at a sample rate.
    pub fn frame_rate(&self, sample_rate: u32) -> f64 {
        f64::from(sample_rate) / f64::from(self.hop_len)
    }
}

impl Edge for Features {
    const NAME: &'static str = "features";
    const VERSION: u16 = 3;
    type Spec = FeaturesSpec;

    fn fields(spec: &FeaturesSpec) -> Vec<Field> {
        let mut fields = crop_fields();
        for view in &spec.views {
            let shape = [("frames", view.frames as usize), ("bins", view.bins as usize)];
            fields.push(fixed_tensor_field(&view.name, DataType::Float32, &shape));
        }
        fields
    }
}
