//! MAEST (Alonso-Jiménez et al., ISMIR 2023): a transformer over patches of a mel spectrogram, pre-trained to tag music.
//!
//! Sixteen mel bands by sixteen frames are a patch, with a step of ten either way: nine rows of frequency, and a column
//! every 160 ms, 6.25 a second. Two tokens for the whole crop come first. Positions are a learnt table, so a crop has as
//! many columns as the table at most; for a shorter one the first columns of the table are taken, as in the authors' own
//! package, and nothing is padded.
//!
//! **Hidden states**: 0 is the sum of patches and positions, `k` is the output of block `k` from 1 on, before the final
//! norm, and the last, one more than there are blocks, is that of the last block after the final norm. The authors'
//! `transformer_block` counts from 0: their 6 is 7 here.
//!
//! **Vectors**: a position is a column, the mean of its nine rows. A pooled vector is the class token, the distillation
//! token, and the mean of all patches, one after another.

mod import;
mod network;

use std::sync::Arc;

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::dsp::DspError;
use crate::dsp::compress::{LogCompress, Standardize};
use crate::dsp::mel::{MelConfig, MelFilterbank};
use crate::dsp::stft::{Padding, centred_frames};
use crate::model::Form;

use super::blocks::{Logarithm, MelBands, MelFrames};
use super::family::{Description, Facts, Family, FrontEnd, Heard, Hidden, Want};
use super::import::{Found, ImportOptions, Imported};
use super::{Encoder, EncoderError, EncoderFolder, EncoderManifest};

use network::Network;

/// Rate of the audio in Hz.
const RATE: u32 = 16_000;
/// Samples from one frame to the next.
const HOP: usize = 256;
/// Mel bands.
const BANDS: usize = 96;
/// Bands and frames of a patch.
const PATCH: usize = 16;
/// Bands or frames from one patch to the next.
const STEP: usize = 10;
/// Patches above one another.
const ROWS: usize = (BANDS - PATCH) / STEP + 1;
/// Class token and distillation token.
const TOKENS: usize = 2;
/// Mean of the training data after compression.
const MEAN: f64 = 2.067_556_860_985_54;
/// Its deviation; the model divides by twice of it.
const DEVIATION: f64 = 1.268_292_820_667_291;

/// What frames that reach over the ends of the audio see there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edges {
    /// Silence, as the feature extractor on Hugging Face has it.
    Zero,
    /// The audio mirrored, as the authors' own package has it.
    Reflect,
}

/// The network of a MAEST.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaestConfig {
    /// Blocks.
    pub layers: usize,
    /// Width.
    pub dim: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width inside of feed-forward networks.
    pub hidden: usize,
    /// Columns in the table of positions: 31, 62, 125 or 187 for 5, 10, 20 or 30 seconds.
    pub columns: usize,
    /// What frames at the ends see.
    pub edges: Edges,
}

/// Columns of patches over so many frames.
fn columns(frames: usize) -> usize {
    if frames < PATCH { 0 } else { (frames - PATCH) / STEP + 1 }
}

impl Family for MaestConfig {
    const NAME: &'static str = "maest";

    fn recognises(found: &Found) -> bool {
        import::recognises(found)
    }

    fn import(found: Found, options: &ImportOptions) -> Result<Imported, EncoderError> {
        import::read(found, options)
    }

    fn facts(&self, _: &EncoderManifest) -> Facts {
        // One frame more would make a column more.
        let most_frames = self.columns * STEP + PATCH - 1;
        Facts {
            family: Self::NAME,
            sample_rate: RATE,
            hop: STEP * HOP,
            // The middle of frames 0 to 15.
            first_centre: (PATCH - 1) as f64 / 2.0 * HOP as f64,
            layers: self.layers + 2,
            dim: self.dim,
            summary: TOKENS * self.dim,
            min_samples: (PATCH - 1) * HOP,
            max_samples: Some(most_frames * HOP - 1),
        }
    }

    fn describe(&self, _: &EncoderManifest) -> Description {
        let seconds = self.columns as f64 * (STEP * HOP) as f64 / f64::from(RATE);
        Description {
            hears: format!("mel {BANDS}, {seconds:.1} s at once"),
            model: format!(
                "transformer of {} blocks, width {}, {} heads, over {ROWS} x {} patches",
                self.layers, self.dim, self.heads, self.columns
            ),
            normalised: format!("mel by mean {MEAN}, deviation {}", 2.0 * DEVIATION),
        }
    }

    fn load(&self, folder: &EncoderFolder, want: &Want<'_>) -> Result<Arc<dyn Encoder>, EncoderError> {
        let network = folder.read(want, |part| Network::new(part, self, want.deepest))?;
        let front_end =
            self.front_end().map_err(|error| EncoderError::damaged(&folder.manifest_path, error.to_string()))?;
        Ok(Arc::new(Maest {
            facts: folder.manifest.facts(),
            licence: folder.manifest.licence.clone(),
            network,
            front_end,
            form: Form::for_device(want.device),
        }))
    }
}

impl MaestConfig {
    fn front_end(&self) -> Result<MelFront, DspError> {
        let config =
            MelConfig { standardize: Standardize::NONE, compress: LogCompress::default(), ..MelConfig::mel_16k() };
        let bands = MelBands::new(&MelFilterbank::new(&config)?.dense(), config.n_fft / 2 + 1);
        let padding = match self.edges {
            Edges::Zero => Padding::Zero,
            Edges::Reflect => Padding::Reflect,
        };
        let logarithm = Logarithm::OnePlus(config.compress.gain);
        Ok(MelFront(MelFrames::new((config.n_fft, HOP, padding), bands, logarithm, (MEAN, 2.0 * DEVIATION))?))
    }
}

/// The standardised mel spectrogram.
#[derive(Clone)]
struct MelFront(MelFrames);

impl FrontEnd for MelFront {
    /// Values are `(frames, bands)`.
    fn hear(&mut self, samples: &[f32]) -> Result<Heard, String> {
        let frames = if samples.is_empty() { 0 } else { centred_frames(samples.len(), HOP) };
        let values = self.0.forward(samples, frames);
        if !values.iter().all(|value| value.is_finite()) {
            return Err("the audio has values that are not finite".to_owned());
        }
        Ok(Heard { positions: columns(frames), values })
    }
}

/// A loaded encoder.
struct Maest {
    facts: Facts,
    licence: String,
    network: Network,
    front_end: MelFront,
    form: Form,
}

impl Encoder for Maest {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn licence(&self) -> &str {
        &self.licence
    }

    fn front_end(&self) -> Box<dyn FrontEnd> {
        Box::new(self.front_end.clone())
    }

    /// Tokens are the class token, the distillation token, and the patches, row after row from the lowest.
    fn states(&self, crops: &[&Heard], layers: &[usize]) -> candle_core::Result<Vec<Tensor>> {
        self.network.states(crops, layers, self.form)
    }

    fn hidden(&self, tokens: &[f32], positions: usize) -> Hidden {
        let dim = self.facts.dim;
        let (summary, patches) = tokens.split_at(TOKENS * dim);
        let mut frames = vec![0.0; positions * dim];
        for row in patches.chunks_exact(positions * dim) {
            frames.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / ROWS as f32);
        }
        Hidden { frames, summary: summary.to_vec() }
    }
}
