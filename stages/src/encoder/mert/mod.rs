//! MERT (Li et al., ICLR 2024): a transformer over learnt features of the waveform, pre-trained like HuBERT on codes and
//! constant-Q spectra.
//!
//! Seven convolutions make 75 frames a second of the waveform; a convolution over 128 of them is the only thing that tells
//! positions. The 95M model normalises after attention and feed-forward networks, the 330M one before.
//!
//! The first convolution's outputs are normalised over the **whole** input, so a frame depends, slightly, on all audio
//! that is heard at once, and crops are never padded.
//!
//! **Hidden states**: 0 is what goes into the first block, `k` is the output of block `k` from 1 on; that of the last
//! block is after the final norm where the model has one (330M). These are the numbers of `output_hidden_states`.

mod import;
mod network;
mod waveform;

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::model::Form;

use super::family::{Description, Facts, Family, FrontEnd, Heard, Want};
use super::import::{Found, ImportOptions, Imported};
use super::{Encoder, EncoderError, EncoderFolder, EncoderManifest};

use network::Network;

/// Rate of the audio in Hz.
const RATE: u32 = 24_000;
/// Lengths of the seven convolutions.
const KERNELS: [usize; 7] = [10, 3, 3, 3, 3, 2, 2];
/// Their steps.
const STRIDES: [usize; 7] = [5, 2, 2, 2, 2, 2, 2];
/// Samples from one frame to the next: the product of the steps.
const HOP: usize = 320;
/// Samples that a frame sees.
const FIELD: usize = 400;

/// The network of a MERT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MertConfig {
    /// Blocks.
    pub layers: usize,
    /// Width.
    pub dim: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width inside of feed-forward networks.
    pub hidden: usize,
    /// Channels of the convolutions over the waveform.
    pub channels: usize,
    /// Norms come before attention and feed-forward networks, and one after the last block; else after each, and one
    /// before the first block.
    pub norm_before: bool,
    /// The waveform is brought to mean 0 and variance 1, over what is heard at once.
    pub normalize: bool,
}

/// Frames over so many samples.
fn frames(samples: usize) -> usize {
    if samples < FIELD { 0 } else { (samples - FIELD) / HOP + 1 }
}

impl Family for MertConfig {
    const NAME: &'static str = "mert";

    fn recognises(found: &Found) -> bool {
        import::recognises(found)
    }

    fn import(found: Found, options: &ImportOptions) -> Result<Imported, EncoderError> {
        import::read(found, options)
    }

    fn facts(&self, _: &EncoderManifest) -> Facts {
        Facts {
            family: Self::NAME,
            sample_rate: RATE,
            hop: HOP,
            first_centre: (FIELD - 1) as f64 / 2.0,
            layers: self.layers + 1,
            dim: self.dim,
            summary: 0,
            min_samples: FIELD,
            max_samples: None,
        }
    }

    fn describe(&self, _: &EncoderManifest) -> Description {
        let Self { layers, dim, heads, channels, .. } = self;
        let norm = if self.norm_before { "before" } else { "after" };
        Description {
            hears: "waveform".to_owned(),
            model: format!(
                "convolutions of {channels} channels, transformer of {layers} blocks, width {dim}, {heads} heads, norms \
                 {norm} them, convolutional positions"
            ),
            normalised: if self.normalize { "waveform to mean 0, variance 1" } else { "waveform not" }.to_owned(),
        }
    }

    fn load(&self, folder: &EncoderFolder, want: &Want<'_>) -> Result<Arc<dyn Encoder>, EncoderError> {
        Ok(Arc::new(Mert {
            facts: folder.manifest.facts(),
            licence: folder.manifest.licence.clone(),
            network: folder.read(want, |part| Network::new(part, self, want.deepest))?,
            normalize: self.normalize,
            form: Form::for_device(want.device),
        }))
    }
}

/// The waveform, normalised or as it is.
struct WaveFront {
    normalize: bool,
}

impl FrontEnd for WaveFront {
    /// Values are samples.
    fn hear(&mut self, samples: &[f32]) -> Result<Heard, String> {
        if !samples.iter().all(|value| value.is_finite()) {
            return Err("the audio has values that are not finite".to_owned());
        }
        let values = if self.normalize { normalized(samples) } else { samples.to_vec() };
        Ok(Heard { positions: frames(samples.len()), values })
    }
}

/// `(x - mean) / sqrt(variance + 1e-7)`.
fn normalized(samples: &[f32]) -> Vec<f32> {
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = samples.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + 1e-7).sqrt();
    samples.iter().map(|x| ((f64::from(*x) - mean) * scale) as f32).collect()
}

/// A loaded encoder.
struct Mert {
    facts: Facts,
    licence: String,
    network: Network,
    normalize: bool,
    form: Form,
}

impl Encoder for Mert {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn licence(&self) -> &str {
        &self.licence
    }

    fn front_end(&self) -> Box<dyn FrontEnd> {
        Box::new(WaveFront { normalize: self.normalize })
    }

    fn states(&self, crops: &[&Heard], layers: &[usize]) -> candle_core::Result<Vec<Tensor>> {
        self.network.states(crops, layers, self.form)
    }
}
