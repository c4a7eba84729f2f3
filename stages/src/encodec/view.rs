//! EnCodec's encoder as a view: what it gives before quantisation, standardised.

use std::path::PathBuf;

use candle_core::{Device, Tensor};

use super::{Encodec, EncodecConfig, EncodecError};
use crate::dsp::DspError;
use crate::dsp::compress::Standardize;
use crate::dsp::view::View;

/// Crops that are computed together: they share the reading of the weights.
const BATCH: usize = 8;

/// Parameters of the EnCodec view.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodecViewConfig {
    /// Folder with `config.json` and the weights.
    pub folder: PathBuf,
    /// What `config.json` says.
    pub encoder: EncodecConfig,
    /// Standardisation of the frames.
    pub standardize: Standardize,
}

impl EncodecViewConfig {
    /// The constants of the published 24 kHz models.
    pub const PUBLISHED: Standardize =
        Standardize::Global { mean: -0.557_742_846_357_477_1, std: 5.863_781_862_801_963 };

    /// Every parameter but the standardisation, by name, as text.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![
            ("hop_len", self.encoder.hop_len().to_string()),
            ("bins", self.encoder.bins().to_string()),
            ("filters", self.encoder.num_filters.to_string()),
        ]
    }

    /// The files that decide the values.
    pub fn files(&self) -> Vec<PathBuf> {
        ["config.json", "model.safetensors"].map(|name| self.folder.join(name)).into()
    }
}

/// The loaded encoder. Another one shares the weights.
#[derive(Clone)]
pub struct EncodecView {
    encoder: Encodec,
    device: Device,
    pairs: Vec<(f32, f32)>,
}

impl EncodecView {
    /// Loads the weights.
    ///
    /// # Errors
    /// [`DspError::Model`] when they are missing or do not fit, [`DspError::Param`] as in [`Standardize::pairs`].
    pub fn new(config: &EncodecViewConfig, device: &Device) -> Result<Self, DspError> {
        let encoder = Encodec::load(&config.folder, device).map_err(failed)?;
        let pairs = config.standardize.pairs(config.encoder.bins())?;
        Ok(Self { encoder, device: device.clone(), pairs })
    }

    /// On an accelerator: the composed form, all crops as one tensor.
    fn on_device(&self, crops: &[&[f32]], out: &mut [f32]) -> Result<(), EncodecError> {
        let samples = crops.first().map_or(0, |crop| crop.len());
        let input = Tensor::from_vec(crops.concat(), (crops.len(), samples), &self.device)?;
        let frames = self.encoder.encode_tensor(&input)?.flatten_all()?.to_vec1::<f32>()?;
        out.copy_from_slice(&frames);
        Ok(())
    }
}

fn failed(error: EncodecError) -> DspError {
    DspError::Model(error.to_string())
}

impl View for EncodecView {
    fn bins(&self) -> usize {
        self.pairs.len()
    }

    fn frames(&self, samples: usize) -> usize {
        self.encoder.frames(samples)
    }

    fn another(&self) -> Box<dyn View> {
        Box::new(self.clone())
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn forward_batch_into(&mut self, crops: &[&[f32]], out: &mut [f32]) -> Result<(), DspError> {
        let Some(first) = crops.first() else { return Ok(()) };
        if first.is_empty() {
            return Err(DspError::Empty);
        }
        DspError::check_len("features", out.len(), crops.len() * self.frames(first.len()) * self.bins())?;
        if self.device.is_cpu() {
            self.encoder.encode(crops, out).map_err(failed)?;
        } else {
            self.on_device(crops, out).map_err(failed)?;
        }
        for frame in out.chunks_exact_mut(self.pairs.len()) {
            for (value, (mean, std)) in frame.iter_mut().zip(&self.pairs) {
                *value = (*value - mean) / std;
            }
        }
        Ok(())
    }

    fn forward_into(&mut self, samples: &[f32], out: &mut [f32]) -> Result<(), DspError> {
        self.forward_batch_into(&[samples], out)
    }
}
