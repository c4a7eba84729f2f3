//! The EnCodec encoder at 24 kHz (arXiv 2210.13438, section 3.1): a SEANet of causal convolutions and an LSTM that turns
//! audio into 75 frames of 128 values per second, here before quantisation.
//!
//! [`Encodec::load`] reads a folder in the published `encodec_24khz` layout. The network exists twice, with one result
//! up to rounding: [`Encodec::encode`] for one core of a CPU, and [`Encodec::encode_tensor`], composed of candle's
//! operations, for a GPU. No weights come with this crate: the published ones carry a licence of their own.
//!
//! ```no_run
//! use candle_core::Device;
//! use omar_stages::encodec::Encodec;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let encoder = Encodec::load("models/encodec_24khz".as_ref(), &Device::Cpu)?;
//! let crop = vec![0.0; 24_000];
//! let mut out = vec![0.0; encoder.frames(crop.len()) * encoder.bins()];
//! encoder.encode(&[&crop], &mut out)?;
//! # Ok(())
//! # }
//! ```

mod config;
mod convolution;
mod encoder;
mod error;
mod kernel;
mod lstm;
mod maths;
mod network;
mod tensor;
mod view;
mod weights;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use candle_core::{Device, Tensor};

pub use config::EncodecConfig;
pub use error::EncodecError;
pub use view::{EncodecView, EncodecViewConfig};

use convolution::Convolution;
use encoder::{CpuNetwork, Encoding, GROUP};
use lstm::Lstm;
use tensor::TensorNetwork;
use weights::WeightsFile;

/// An encoder. Clones share the weights, and any number of threads may use it at once.
///
/// # Memory
/// The weights once on the CPU, 30 MB in the published size, and once more on the device from the first
/// [`Encodec::encode_tensor`] on. What a call needs beside that is stated there.
#[derive(Clone)]
pub struct Encodec {
    shared: Arc<Shared>,
}

struct Shared {
    config: EncodecConfig,
    network: CpuNetwork,
    device: Device,
    tensors: OnceLock<TensorNetwork>,
}

impl Encodec {
    /// Reads `config.json` and `model.safetensors` of a folder in the published `encodec_24khz` layout. `device` is the
    /// one of [`Encodec::encode_tensor`].
    ///
    /// Convolution weights may be under weight norm, as `weight_g` and `weight_v` or as
    /// `parametrizations.weight.original0` and `original1`, or plain, as `weight`. Tensors of the decoder and the
    /// quantizer are not looked at. The file is in memory while it is read: 93 MB in the published size.
    ///
    /// # Errors
    /// [`EncodecError::File`] for a file that is not there, [`EncodecError::Format`] for one that is not what it should
    /// be, [`EncodecError::Config`] for a configuration that is not supported, [`EncodecError::Tensor`] and
    /// [`EncodecError::NonFinite`] for weights that do not fit it.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, EncodecError> {
        let config = EncodecConfig::read(folder)?;
        let file = WeightsFile::read(folder)?;
        let weights = file.open()?;
        let network = config.network().try_map(
            |shape| Ok::<_, EncodecError>(Convolution::new(shape, weights.convolution(shape)?)),
            |shape| Ok(Lstm::new(shape.size, weights.lstm(shape)?)),
        )?;
        let shared = Shared { config, network, device: device.clone(), tensors: OnceLock::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What `config.json` says.
    pub fn config(&self) -> &EncodecConfig {
        &self.shared.config
    }

    /// Frames of `samples` samples.
    pub fn frames(&self, samples: usize) -> usize {
        self.shared.config.frames(samples)
    }

    /// Values per frame.
    pub fn bins(&self) -> usize {
        self.shared.config.bins()
    }

    /// Number of weights: 7.4 million in the published size.
    pub fn parameters(&self) -> usize {
        self.shared.network.parameters()
    }

    /// Encodes crops of one length, on one core: no threads are started, so that callers can encode many batches at
    /// once.
    ///
    /// Several crops in a call cost less per crop than one, as the steps of the LSTM share its weights: up to 12 are
    /// taken together. A crop has the same bits alone and in any batch.
    ///
    /// # Shapes
    /// `crops`: `batch` slices of `samples` samples at [`EncodecConfig::sampling_rate`], full scale 1; `out`: `(batch,
    /// frames, bins)`, row-major.
    ///
    /// # Memory
    /// In the published size 11 MB, and 1.5 MB for each of at most 12 crops, whatever their length.
    ///
    /// # Errors
    /// [`EncodecError::Empty`] for a crop without samples, [`EncodecError::Length`] for crops of different lengths or an
    /// output of another length than stated.
    pub fn encode(&self, crops: &[&[f32]], out: &mut [f32]) -> Result<(), EncodecError> {
        let samples = crops.first().map_or(0, |crop| crop.len());
        for (index, crop) in crops.iter().enumerate() {
            if crop.is_empty() {
                return Err(EncodecError::Empty { crop: index });
            }
            check_len(|| format!("crop {index}"), crop.len(), samples)?;
        }
        let values = self.frames(samples) * self.bins();
        check_len(|| "the output".to_string(), out.len(), crops.len() * values)?;
        for (crops, out) in crops.chunks(GROUP).zip(out.chunks_mut(GROUP * values.max(1))) {
            Encoding::new(&self.shared.network, crops.len(), samples).run(crops, out);
        }
        Ok(())
    }

    /// Encodes crops on the device that the encoder was loaded for, composed of candle's operations.
    ///
    /// # Shapes
    /// `audio`: `(batch, samples)`, f32, on that device; gives `(batch, frames, bins)`, contiguous.
    ///
    /// # Memory
    /// Grows with batch and samples: whole activations and the windows that candle makes of them, 0.7 GB for one crop of
    /// 30 s at the published size on a CPU.
    ///
    /// # Errors
    /// [`EncodecError::Empty`] for no samples, [`EncodecError::Candle`] for another shape, type or device.
    pub fn encode_tensor(&self, audio: &Tensor) -> Result<Tensor, EncodecError> {
        let (_, samples) = audio.dims2()?;
        if samples == 0 {
            return Err(EncodecError::Empty { crop: 0 });
        }
        Ok(self.tensors()?.forward(audio)?)
    }

    /// The weights on the device, copied there at the first use.
    fn tensors(&self) -> Result<&TensorNetwork, EncodecError> {
        let Shared { network, device, tensors, .. } = &*self.shared;
        if let Some(tensors) = tensors.get() {
            return Ok(tensors);
        }
        let made = TensorNetwork::new(network, device)?;
        Ok(tensors.get_or_init(|| made))
    }
}

fn check_len(what: impl FnOnce() -> String, found: usize, expected: usize) -> Result<(), EncodecError> {
    if found == expected { Ok(()) } else { Err(EncodecError::Length { what: what(), found, expected }) }
}
