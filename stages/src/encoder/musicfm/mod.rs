//! MusicFM (Won et al., ICASSP 2024): convolutions over a mel spectrogram in decibels, and a conformer with rotary
//! positions, pre-trained to predict random-projection codes.
//!
//! Two residual blocks of convolutions halve bands and frames twice, so that a position is four frames, 25 a second; then
//! come twelve blocks of feed-forward network, attention, convolution, feed-forward network. The rotation is applied to
//! what queries and keys are made of, not to queries and keys.
//!
//! Mean and deviation of the spectrogram are those of the data that the weights were trained on, in a file of statistics
//! beside them.
//!
//! **Hidden states**: 0 is the output of the convolutions, `k` is the output of block `k` from 1 on; that of the last
//! block is after the final norm. These are the numbers of the authors' `get_latent`.

mod block;
mod import;
mod network;
mod stem;
mod winograd;

use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::dsp::stft::Padding;
use crate::model::{Form, ModelError};

use super::blocks::{Logarithm, MelBands, MelFrames, Part};
use super::family::{Description, Facts, Family, FrontEnd, Heard, Want};
use super::import::{Found, ImportOptions, Imported};
use super::{Encoder, EncoderError, EncoderFolder, EncoderManifest};

use network::Network;

/// Rate of the audio in Hz.
const RATE: u32 = 24_000;
/// Length of the transform.
const N_FFT: usize = 2048;
/// Samples from one frame to the next.
const HOP: usize = 240;
/// Mel bands.
const BANDS: usize = 128;
/// Frames of a position, and by how much bands become fewer.
const REDUCTION: usize = 4;

/// The network of a MusicFM, and what the spectrogram is standardised by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MusicFmConfig {
    /// Blocks.
    pub layers: usize,
    /// Width.
    pub dim: usize,
    /// Heads of attention.
    pub heads: usize,
    /// Width inside of feed-forward networks.
    pub hidden: usize,
    /// Channels of the convolutions over the spectrogram.
    pub channels: usize,
    /// Length of the depthwise convolutions.
    pub kernel: usize,
    /// Mean of the training data in decibels.
    pub mean: f64,
    /// Its deviation.
    pub std: f64,
}

impl Family for MusicFmConfig {
    const NAME: &'static str = "musicfm";

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
            hop: HOP * REDUCTION,
            // The first frame is centred on the first sample, and the convolutions keep centres.
            first_centre: 0.0,
            layers: self.layers + 1,
            dim: self.dim,
            summary: 0,
            // The mirrored ends of the audio need so many.
            min_samples: N_FFT / 2 + 1,
            max_samples: None,
        }
    }

    fn describe(&self, _: &EncoderManifest) -> Description {
        let Self { layers, dim, heads, channels, kernel, .. } = self;
        Description {
            hears: format!("mel {BANDS} in decibels"),
            model: format!(
                "convolutions of {channels} channels, conformer of {layers} blocks, width {dim}, {heads} heads, kernel \
                 {kernel}, rotary positions"
            ),
            normalised: format!("mel by mean {}, deviation {}", self.mean, self.std),
        }
    }

    fn load(&self, folder: &EncoderFolder, want: &Want<'_>) -> Result<Arc<dyn Encoder>, EncoderError> {
        let build = |part: &Part<'_>| Ok((self.front_end(part)?, Network::new(part, self, want.deepest)?));
        let (front_end, network) = folder.read(want, build)?;
        Ok(Arc::new(MusicFm {
            facts: folder.manifest.facts(),
            licence: folder.manifest.licence.clone(),
            front_end,
            network,
            form: Form::for_device(want.device),
        }))
    }
}

impl MusicFmConfig {
    /// The spectrogram by the filters of the checkpoint.
    fn front_end(&self, root: &Part<'_>) -> Result<MelFront, ModelError> {
        use crate::dsp::compress::{LogCompress, Standardize};
        use crate::dsp::mel::{MelConfig, MelFilterbank, MelNorm, MelScale};
        let wrong = |error: crate::dsp::DspError| ModelError::Layout { reason: error.to_string() };
        let bins = N_FFT / 2 + 1;
        let config = MelConfig {
            sample_rate: RATE,
            n_fft: N_FFT,
            win_len: N_FFT,
            hop_len: HOP,
            n_mels: BANDS,
            f_min: 0.0,
            f_max: f64::from(RATE) / 2.0,
            scale: MelScale::Htk,
            norm: MelNorm::Peak,
            compress: LogCompress::default(),
            standardize: Standardize::NONE,
        };
        let designed = MelFilterbank::new(&config).map_err(wrong)?.dense();
        let transposed = || (0..bins * BANDS).map(|i| designed[i % BANDS * bins + i / BANDS]).collect();
        let part = root.on_host().part("preprocessor_melspec_2048.mel_stft");
        let filters = part.given("mel_scale.fb", &[bins, BANDS], transposed)?.t()?.contiguous()?;
        let bands = MelBands::new(&filters.flatten_all()?.to_vec1::<f32>()?, bins);
        let shape = (N_FFT, HOP, Padding::Reflect);
        let frames = MelFrames::new(shape, bands, Logarithm::Decibel, (self.mean, self.std)).map_err(wrong)?;
        Ok(MelFront(frames))
    }
}

/// The standardised mel spectrogram.
#[derive(Clone)]
struct MelFront(MelFrames);

impl FrontEnd for MelFront {
    /// Values are `(frames, bands)`; the last of the centred frames is left out.
    fn hear(&mut self, samples: &[f32]) -> Result<Heard, String> {
        let frames = if samples.len() > N_FFT / 2 { samples.len() / HOP } else { 0 };
        let values = self.0.forward(samples, frames);
        // The logarithm of what is not a number is that of silence, so the audio itself is looked at.
        if !samples.iter().chain(&values).all(|value| value.is_finite()) {
            return Err("the audio has values that are not finite".to_owned());
        }
        Ok(Heard { positions: frames.div_ceil(REDUCTION), values })
    }
}

/// A loaded encoder.
struct MusicFm {
    facts: Facts,
    licence: String,
    front_end: MelFront,
    network: Network,
    form: Form,
}

impl Encoder for MusicFm {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn licence(&self) -> &str {
        &self.licence
    }

    fn front_end(&self) -> Box<dyn FrontEnd> {
        Box::new(self.front_end.clone())
    }

    fn states(&self, crops: &[&Heard], layers: &[usize]) -> candle_core::Result<Vec<Tensor>> {
        self.network.states(crops, layers, self.form)
    }
}

/// Values of a tensor, wherever it is.
fn on_host(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()
}
