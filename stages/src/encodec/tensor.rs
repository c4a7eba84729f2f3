//! The encoder composed of candle's operations, whole crops at a time: the form for a GPU, and the one that the other is
//! tested against.

use candle_core::{D, Device, Result, Tensor};
use candle_nn::ops::sigmoid;

use super::convolution::Convolution;
use super::encoder::CpuNetwork;
use super::lstm::Lstm;
use super::network::{ConvolutionShape, Network};

/// The network on a device.
pub(super) type TensorNetwork = Network<TensorConvolution, TensorLstm>;

/// A convolution on a device.
pub(super) struct TensorConvolution {
    shape: ConvolutionShape,
    /// `(out, in, kernel)`.
    weight: Tensor,
    /// `(1, out, 1)`.
    bias: Tensor,
}

/// One layer of the LSTM on a device; both weights are `(size, 4 size)`.
pub(super) struct TensorLstm {
    input: Tensor,
    recurrent: Tensor,
    bias: Tensor,
}

impl TensorNetwork {
    /// Copies a network to a device.
    pub(super) fn new(network: &CpuNetwork, device: &Device) -> Result<Self> {
        network.try_map(|layer| TensorConvolution::new(layer, device), |layer| TensorLstm::new(layer, device))
    }

    /// Frames of audio: `(batch, samples)` to `(batch, frames, bins)`.
    pub(super) fn forward(&self, audio: &Tensor) -> Result<Tensor> {
        let mut x = self.first.forward(&audio.unsqueeze(1)?.contiguous()?)?;
        for stage in &self.stages {
            for block in &stage.residuals {
                let y = block.inner.forward(&x.elu(1.0)?)?;
                let y = block.outer.forward(&y.elu(1.0)?)?;
                x = match &block.shortcut {
                    Some(shortcut) => (shortcut.forward(&x)? + y)?,
                    None => (x + y)?,
                };
            }
            x = stage.down.forward(&x.elu(1.0)?)?;
        }
        let input = x.transpose(1, 2)?.contiguous()?;
        let mut y = input.clone();
        for layer in &self.lstm {
            y = layer.forward(&y)?;
        }
        let x = (input + y)?.elu(1.0)?.transpose(1, 2)?.contiguous()?;
        self.last.forward(&x)?.transpose(1, 2)?.contiguous()
    }
}

impl TensorConvolution {
    fn new(layer: &Convolution, device: &Device) -> Result<Self> {
        let weights = layer.weights();
        let shape = layer.shape.clone();
        let dims = (shape.out_channels, shape.in_channels, shape.kernel);
        let bias = Tensor::from_vec(weights.bias, (1, shape.out_channels, 1), device)?;
        Ok(Self { weight: Tensor::from_vec(weights.weight, dims, device)?, bias, shape })
    }

    /// `(batch, in, rows)` to `(batch, out, rows / stride)`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.pad(x)?;
        x.conv1d(&self.weight, 0, self.shape.stride, self.shape.dilation, 1)?.broadcast_add(&self.bias)
    }

    /// Reflection on the left, and on the right as far as the last window needs. A signal that is not longer than that
    /// is first followed by zeros, which are cut off again.
    fn pad(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(D::Minus1)?;
        let (left, right) = (self.shape.context(), self.shape.extra(rows));
        if left == 0 && right == 0 {
            return Ok(x.clone());
        }
        let padding = left.max(right);
        let zeros = if rows <= padding { padding - rows + 1 } else { 0 };
        let x = x.pad_with_zeros(D::Minus1, 0, zeros)?;
        let pick = |rows: Vec<u32>| {
            let count = rows.len();
            x.index_select(&Tensor::from_vec(rows, count, x.device())?, D::Minus1)
        };
        let end = (rows + zeros) as u32;
        let mut parts = Vec::new();
        if left > 0 {
            parts.push(pick((1..=left as u32).rev().collect())?);
        }
        parts.push(x.clone());
        if right > 0 {
            parts.push(pick((0..right as u32).map(|distance| end - 2 - distance).collect())?);
        }
        Tensor::cat(&parts, D::Minus1)?.narrow(D::Minus1, 0, left + rows + right)?.contiguous()
    }
}

impl TensorLstm {
    fn new(layer: &Lstm, device: &Device) -> Result<Self> {
        let (weights, size) = (layer.weights(), layer.size());
        let matrix = |values| Tensor::from_vec(values, (4 * size, size), device)?.t()?.contiguous();
        Ok(Self {
            input: matrix(weights.input)?,
            recurrent: matrix(weights.recurrent)?,
            bias: Tensor::from_vec(weights.bias, 4 * size, device)?,
        })
    }

    /// `(batch, steps, size)` to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, steps, size) = x.dims3()?;
        let gates = x.reshape((batch * steps, size))?.matmul(&self.input)?.broadcast_add(&self.bias)?;
        // Steps first, so that each step is one run of memory.
        let gates = gates.reshape((batch, steps, 4 * size))?.transpose(0, 1)?.contiguous()?;
        let mut hidden = Tensor::zeros((batch, size), x.dtype(), x.device())?;
        let mut cell = hidden.clone();
        let mut outputs = Vec::with_capacity(steps);
        for step in 0..steps {
            let gates = (gates.get(step)? + hidden.matmul(&self.recurrent)?)?;
            let gate = |index: usize| gates.narrow(1, index * size, size)?.contiguous();
            let kept = (sigmoid(&gate(1)?)? * cell)?;
            cell = (kept + (sigmoid(&gate(0)?)? * gate(2)?.tanh()?)?)?;
            hidden = (sigmoid(&gate(3)?)? * cell.tanh()?)?;
            outputs.push(hidden.clone());
        }
        Tensor::stack(&outputs, 1)
    }
}
