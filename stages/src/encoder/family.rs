//! What an encoder is to everybody else: rates, layers, lengths, and hidden states of audio.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use omar_schemas::Pooling;

use super::import::{Found, ImportOptions, Imported};
use super::{EncoderError, EncoderFolder, EncoderManifest};

/// What is known of an encoder before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The family that it is of.
    pub family: &'static str,
    /// Rate of the audio in Hz.
    pub sample_rate: u32,
    /// Samples from one position to the next.
    pub hop: usize,
    /// Sample of the audio that position 0 is about, in the middle of what it sees; `hop / 2` where position `i` is about
    /// the samples `i hop .. (i + 1) hop`.
    pub first_centre: f64,
    /// Hidden states that can be asked for.
    pub layers: usize,
    /// Values per position.
    pub dim: usize,
    /// Values that stand for a whole crop beside its positions: those of class tokens; 0 where there are none.
    pub summary: usize,
    /// The shortest audio that has a position.
    pub min_samples: usize,
    /// The longest audio that can be heard at once. Longer audio is heard in overlapping parts.
    pub max_samples: Option<usize>,
}

impl Facts {
    /// Positions per second.
    pub fn rate(&self) -> f64 {
        f64::from(self.sample_rate) / self.hop.max(1) as f64
    }

    /// Seconds by which the interval of position 0 starts after the audio, so that its middle is what the position is
    /// about; below zero where that is the very first sample.
    pub fn offset_s(&self) -> f64 {
        (self.first_centre - self.hop as f64 / 2.0) / f64::from(self.sample_rate.max(1))
    }

    /// Values of a vector: pooled ones start with what stands for the whole crop.
    pub fn vector_dim(&self, pooling: Pooling) -> usize {
        if pooling == Pooling::Frames { self.dim } else { self.summary + self.dim }
    }
}

/// What the front end makes of a crop.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Heard {
    /// Positions that the encoder will give.
    pub positions: usize,
    /// What goes into the network; as many values for every crop of equal length.
    pub values: Vec<f32>,
}

/// A hidden state of a crop.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hidden {
    /// `(positions, dim)`.
    pub frames: Vec<f32>,
    /// `(summary,)`: what stands for the whole crop.
    pub summary: Vec<f32>,
}

/// From samples to what goes into the network: spectra, standardisation. Every thread has its own.
pub trait FrontEnd: Send {
    /// Hears a crop.
    ///
    /// # Errors
    /// A sentence when something in it cannot be computed with.
    fn hear(&mut self, samples: &[f32]) -> Result<Heard, String>;
}

/// A trained encoder in memory, whatever its family.
pub trait Encoder: Send + Sync {
    /// Rates, layers and lengths.
    fn facts(&self) -> &Facts;

    /// Licence of the weights.
    fn licence(&self) -> &str;

    /// A front end for one thread.
    fn front_end(&self) -> Box<dyn FrontEnd>;

    /// Hidden states of crops with equally many positions, as the network has them: those of `layers`, in that order.
    /// Layers that were not loaded cannot be asked for.
    ///
    /// # Shapes
    /// Each result is `(crops, tokens, dim)`; tokens are positions, but where the family says otherwise.
    ///
    /// # Errors
    /// When the device fails.
    fn states(&self, crops: &[&Heard], layers: &[usize]) -> candle_core::Result<Vec<Tensor>>;

    /// A crop's hidden state from its tokens.
    ///
    /// # Shapes
    /// `tokens (tokens, dim)`.
    fn hidden(&self, tokens: &[f32], positions: usize) -> Hidden {
        let _ = positions;
        Hidden { frames: tokens.to_vec(), summary: Vec::new() }
    }

    /// Hidden states of crops with equally many positions: per crop those of `layers`, in that order.
    ///
    /// # Errors
    /// When the device fails.
    fn forward(&self, crops: &[&Heard], layers: &[usize]) -> candle_core::Result<Vec<Vec<Hidden>>> {
        let mut results: Vec<Vec<Hidden>> = vec![Vec::new(); crops.len()];
        for state in self.states(crops, layers)? {
            let values = state.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            let each = values.chunks_exact((values.len() / crops.len().max(1)).max(1));
            for ((result, tokens), crop) in results.iter_mut().zip(each).zip(crops) {
                result.push(self.hidden(tokens, crop.positions));
            }
        }
        Ok(results)
    }

    /// Rate of the audio in Hz.
    fn sample_rate(&self) -> u32 {
        self.facts().sample_rate
    }

    /// Positions per second.
    fn rate(&self) -> f64 {
        self.facts().rate()
    }

    /// Hidden states that can be asked for.
    fn layers(&self) -> usize {
        self.facts().layers
    }

    /// The longest audio that can be heard at once, in samples.
    fn max_samples(&self) -> Option<usize> {
        self.facts().max_samples
    }

    /// Hidden states of one piece of audio that is not too long.
    ///
    /// # Errors
    /// A sentence when it is too long or too short, has values that are not finite, or the device fails.
    fn embed(&self, samples: &[f32], layers: &[usize]) -> Result<Vec<Hidden>, String> {
        let (found, facts) = (samples.len(), self.facts());
        if facts.max_samples.is_some_and(|most| found > most) {
            let most = facts.max_samples.unwrap_or(0);
            return Err(format!("the encoder hears {most} samples at once, found {found}"));
        }
        let heard = self.front_end().hear(samples)?;
        if heard.positions == 0 {
            return Err(format!("the encoder needs {} samples for a position, found {found}", facts.min_samples));
        }
        let mut hidden = self.forward(&[&heard], layers).map_err(|error| error.to_string())?;
        hidden.pop().ok_or_else(|| "the encoder gave nothing".to_owned())
    }
}

/// How an encoder is to be loaded.
#[derive(Debug, Clone)]
pub struct Want<'a> {
    /// The deepest hidden state that will be asked for; what is after it is left out.
    pub deepest: usize,
    /// Where the network runs.
    pub device: &'a Device,
    /// Random weights by this seed in place of those of the file.
    pub untrained: Option<u64>,
    /// Folder with the weights of EnCodec, for encoders that hear it.
    pub encodec: Option<&'a Path>,
}

/// The encoder in the words of its family, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// What goes in.
    pub hears: String,
    /// What the network is made of.
    pub model: String,
    /// How the input is standardised.
    pub normalised: String,
}

/// A family of encoders, implemented by what a manifest keeps of its networks.
pub(super) trait Family: Sized {
    /// As manifests have it.
    const NAME: &'static str;

    /// Whether published files are of this family, to judge by the names of files and tensors.
    fn recognises(found: &Found) -> bool;

    /// Reads a published model.
    fn import(found: Found, options: &ImportOptions) -> Result<Imported, EncoderError>;

    fn facts(&self, manifest: &EncoderManifest) -> Facts;

    fn describe(&self, manifest: &EncoderManifest) -> Description;

    /// Files beside manifest and weights that decide what it computes, once they are found to be there.
    fn files(&self, manifest: &EncoderManifest, encodec: Option<&Path>) -> Result<Vec<PathBuf>, String> {
        let _ = (manifest, encodec);
        Ok(Vec::new())
    }

    fn load(&self, folder: &EncoderFolder, want: &Want<'_>) -> Result<Arc<dyn Encoder>, EncoderError>;
}
