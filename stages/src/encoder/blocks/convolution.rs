//! Convolutions over time as products of matrices.
//!
//! With channels last, the values that an output of a convolution sees lie one after another, and those of the next
//! output `stride` frames further on: a matrix with overlapping rows, so nothing has to be copied.

use candle_core::{Device, Result, Tensor};

use crate::model::kernel::packed::{Packed, Rows};
use crate::model::kernel::storage::values;

/// A convolution over time without padding: the first `kernel` frames give the first output.
#[derive(Debug)]
pub(in super::super) struct TimeConvolution {
    /// `(outputs, kernel * inputs)`, taps one after another.
    weight: Packed,
    pub(in super::super) inputs: usize,
    pub(in super::super) outputs: usize,
    pub(in super::super) kernel: usize,
    pub(in super::super) stride: usize,
}

impl TimeConvolution {
    /// # Shapes
    /// `weight (outputs, inputs, kernel)`, as PyTorch has it.
    pub(in super::super) fn new(weight: &Tensor, stride: usize) -> Result<Self> {
        let (outputs, inputs, kernel) = weight.dims3()?;
        let weight = weight.to_device(&Device::Cpu)?.transpose(1, 2)?.contiguous()?;
        let weight = Packed::new(&values(&weight)?, kernel * inputs);
        Ok(Self { weight, inputs, outputs, kernel, stride })
    }

    /// Outputs over so many frames.
    pub(in super::super) fn frames(&self, frames: usize) -> usize {
        if frames < self.kernel { 0 } else { (frames - self.kernel) / self.stride + 1 }
    }

    /// # Shapes
    /// `x (frames, inputs)` to `out`, which becomes `(outputs over frames, outputs)`.
    pub(in super::super) fn forward(&self, x: &[f32], out: &mut Vec<f32>) {
        self.forward_then(x, out, |_, _, _| ());
    }

    /// As [`TimeConvolution::forward`], with `finish(frame, first output, values)` for every stretch of outputs.
    pub(in super::super) fn forward_then(
        &self,
        x: &[f32],
        out: &mut Vec<f32>,
        finish: impl Fn(usize, usize, &mut [f32]) + Sync,
    ) {
        let count = self.frames(x.len() / self.inputs);
        out.resize(count * self.outputs, 0.0);
        self.weight.run(Rows { values: x, count, step: self.stride * self.inputs }, out, finish);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition() {
        let value = |i: usize| (i as f32 * 0.7).sin();
        for (inputs, outputs, kernel, stride, frames) in [(1, 4, 10, 5, 43), (3, 5, 3, 2, 20), (2, 6, 2, 2, 9)] {
            let weights: Vec<f32> = (0..outputs * inputs * kernel).map(value).collect();
            let weight = Tensor::from_slice(&weights, (outputs, inputs, kernel), &Device::Cpu).unwrap();
            let convolution = TimeConvolution::new(&weight, stride).unwrap();
            let x: Vec<f32> = (0..frames * inputs).map(|i| value(3 * i + 1)).collect();
            let mut out = Vec::new();
            convolution.forward(&x, &mut out);
            assert_eq!(out.len(), ((frames - kernel) / stride + 1) * outputs);
            for (i, found) in out.iter().enumerate() {
                let (t, o) = (i / outputs, i % outputs);
                let sum = |k: usize| -> f32 {
                    (0..inputs).map(|c| weights[(o * inputs + c) * kernel + k] * x[(t * stride + k) * inputs + c]).sum()
                };
                let expected: f32 = (0..kernel).map(sum).sum();
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
            assert_eq!(convolution.frames(kernel - 1), 0);
        }
    }
}
