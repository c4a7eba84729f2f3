//! Reads `model.safetensors` of the published layout. Weight norm (arXiv 1602.07868), under either of its names, is
//! folded into plain weights.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::EncodecError;
use super::network::{ConvolutionShape, LstmShape};

/// File that holds the weights.
const WEIGHTS_FILE: &str = "model.safetensors";

/// Plain weights of a convolution: `weight` is `(out, in, kernel)`.
pub(super) struct ConvolutionWeights {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Weights of one layer of an LSTM: `input` and `recurrent` are `(4 size, size)`, gates in the order input, forget, cell,
/// output; `bias` is the sum of both biases.
pub(super) struct LstmWeights {
    pub(super) input: Vec<f32>,
    pub(super) recurrent: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// A weights file in memory.
pub(super) struct WeightsFile {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl WeightsFile {
    pub(super) fn read(folder: &Path) -> Result<Self, EncodecError> {
        let path = folder.join(WEIGHTS_FILE);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(source) => Err(EncodecError::File { path, source }),
        }
    }

    pub(super) fn open(&self) -> Result<Weights<'_>, EncodecError> {
        let tensors = SafeTensors::deserialize(&self.bytes).map_err(|error| EncodecError::Format {
            path: self.path.clone(),
            format: "safetensors",
            reason: error.to_string(),
        })?;
        Ok(Weights { path: &self.path, tensors })
    }
}

/// The tensors of a weights file.
pub(super) struct Weights<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl Weights<'_> {
    /// The weights of a convolution, weight norm folded: `g v / |v|`, the norm over all but the outputs.
    pub(super) fn convolution(&self, shape: &ConvolutionShape) -> Result<ConvolutionWeights, EncodecError> {
        let ConvolutionShape { name, in_channels, out_channels, kernel, .. } = shape;
        let dims = [*out_channels, *in_channels, *kernel];
        let bias = self.tensor(&format!("{name}.conv.bias"), &[*out_channels])?;
        let plain = format!("{name}.conv.weight");
        for [gain, direction] in
            [["weight_g", "weight_v"], ["parametrizations.weight.original0", "parametrizations.weight.original1"]]
        {
            let [gain, direction] = [gain, direction].map(|suffix| format!("{name}.conv.{suffix}"));
            if self.has(&gain) || self.has(&direction) {
                let gain = self.tensor(&gain, &[*out_channels, 1, 1])?;
                let mut weight = self.tensor(&direction, &dims)?;
                for (row, gain) in weight.chunks_exact_mut(in_channels * kernel).zip(gain) {
                    let norm = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
                    // A row of zeros has no direction; the published code would make it not a number.
                    let scale = if norm > 0.0 { f64::from(gain) / norm } else { 0.0 };
                    row.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
                }
                return Ok(ConvolutionWeights { weight, bias });
            }
        }
        Ok(ConvolutionWeights { weight: self.tensor(&plain, &dims)?, bias })
    }

    /// The weights of one layer of the LSTM.
    pub(super) fn lstm(&self, shape: &LstmShape) -> Result<LstmWeights, EncodecError> {
        let LstmShape { name, layer, size } = shape;
        let tensor = |what: &str, dims: &[usize]| self.tensor(&format!("{name}.{what}_l{layer}"), dims);
        let mut bias = tensor("bias_ih", &[4 * size])?;
        for (sum, other) in bias.iter_mut().zip(tensor("bias_hh", &[4 * size])?) {
            *sum += other;
        }
        Ok(LstmWeights {
            input: tensor("weight_ih", &[4 * size, *size])?,
            recurrent: tensor("weight_hh", &[4 * size, *size])?,
            bias,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// A tensor of exactly this shape.
    fn tensor(&self, name: &str, dims: &[usize]) -> Result<Vec<f32>, EncodecError> {
        let found = match self.tensors.tensor(name) {
            Ok(view) if view.dtype() == Dtype::F32 && view.shape() == dims => {
                let values: Vec<f32> =
                    view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
                if values.iter().all(|value| value.is_finite()) {
                    return Ok(values);
                }
                return Err(EncodecError::NonFinite { path: self.path.to_path_buf(), name: name.to_string() });
            }
            Ok(view) => format!("{} {:?}", view.dtype().to_string().to_lowercase(), view.shape()),
            Err(_) => "missing".to_string(),
        };
        let (path, name) = (self.path.to_path_buf(), name.to_string());
        Err(EncodecError::Tensor { path, name, found, expected: dims.to_vec() })
    }
}
