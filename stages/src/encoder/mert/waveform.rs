//! Learnt features of the waveform, and the convolution that tells positions. Both run on the CPU.
//!
//! The features are computed some frames at a time: the 400 samples of the first to those of the last of them go through
//! all seven convolutions before the next ones are begun, so that nothing of the length of the audio and the width of the
//! convolutions is ever in memory.
//!
//! The norm over all outputs of the first convolution needs no pass over them either. An output is a sum over ten
//! samples, so means and variances of all channels follow from means and covariances of ten samples in a row, and the
//! norm is folded into the weights for the audio at hand.

use candle_core::{Device, Result, Tensor};

use crate::model::ModelError;
use crate::model::kernel::maths::gelu;
use crate::model::kernel::packed::{Packed, Rows};
use crate::model::kernel::rows::map_rows;

use super::super::blocks::{Part, TimeConvolution};
use super::{FIELD, HOP, KERNELS, MertConfig, STRIDES, frames};

/// Frames that are computed together.
const FRAMES: usize = 72;
/// Taps of the first convolution.
const TAPS: usize = KERNELS[0];
const EPS: f64 = 1e-5;

/// Convolutions from the waveform to frames.
#[derive(Debug)]
pub(super) struct Features {
    /// `(channels, TAPS)`: the first convolution.
    first: Vec<f32>,
    /// Those after it.
    rest: Vec<TimeConvolution>,
    /// Affine map of the norm after the first of them.
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Features {
    pub(super) fn new(part: &Part<'_>, config: &MertConfig) -> std::result::Result<Self, ModelError> {
        let channels = config.channels;
        let layers = part.part("conv_layers");
        let values = |tensor: Tensor| tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for (index, (kernel, stride)) in KERNELS.iter().zip(STRIDES).enumerate() {
            let inputs = if index == 0 { 1 } else { channels };
            let weight = layers.part(index).part("conv").weight("weight", &[channels, inputs, *kernel])?;
            match index {
                0 => first = values(weight)?,
                _ => rest.push(TimeConvolution::new(&weight, stride)?),
            }
        }
        let norm = layers.part(0).part("layer_norm");
        let weight = values(norm.constant("weight", &[channels], 1.0)?)?;
        let bias = values(norm.constant("bias", &[channels], 0.0)?)?;
        Ok(Self { first, rest, weight, bias })
    }

    /// Values per frame.
    pub(super) fn channels(&self) -> usize {
        self.weight.len()
    }

    /// # Shapes
    /// `samples (samples,)` to `(frames, channels)`.
    pub(super) fn forward(&self, samples: &[f32]) -> Vec<f32> {
        let (count, channels) = (frames(samples.len()), self.channels());
        let mut out = Vec::with_capacity(count * channels);
        let (weight, bias) = self.first_with_norm(samples);
        let first = Packed::new(&weight, TAPS);
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for start in (0..count).step_by(FRAMES) {
            let end = count.min(start + FRAMES);
            let heard = &samples[start * HOP..(end - 1) * HOP + FIELD];
            let windows = Rows { values: heard, count: (heard.len() - TAPS) / STRIDES[0] + 1, step: STRIDES[0] };
            x.resize(windows.count * channels, 0.0);
            first.run(windows, &mut x, |_, column, row| {
                for (value, bias) in row.iter_mut().zip(&bias[column..]) {
                    *value = gelu(*value + bias);
                }
            });
            for convolution in &self.rest {
                convolution
                    .forward_then(&x, &mut y, |_, _, row| row.iter_mut().for_each(|value| *value = gelu(*value)));
                std::mem::swap(&mut x, &mut y);
            }
            out.extend_from_slice(&x);
        }
        out
    }

    /// Weight and bias of the first convolution with the norm of its outputs over all of `samples`.
    fn first_with_norm(&self, samples: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (means, covariances) = moments(samples);
        let mut weight = self.first.clone();
        let mut bias = self.bias.clone();
        for ((taps, bias), norm) in weight.chunks_exact_mut(TAPS).zip(&mut bias).zip(&self.weight) {
            let mean: f64 = taps.iter().zip(&means).map(|(tap, mean)| f64::from(*tap) * mean).sum();
            let mut variance = 0.0;
            for (tap, row) in taps.iter().zip(&covariances) {
                let along: f64 = taps.iter().zip(row).map(|(tap, value)| f64::from(*tap) * value).sum();
                variance += f64::from(*tap) * along;
            }
            let scale = f64::from(*norm) / (variance.max(0.0) + EPS).sqrt();
            taps.iter_mut().for_each(|tap| *tap = (f64::from(*tap) * scale) as f32);
            *bias = (f64::from(*bias) - mean * scale) as f32;
        }
        (weight, bias)
    }
}

/// Means and biased covariances of the samples that the taps of the first convolution see.
fn moments(samples: &[f32]) -> ([f64; TAPS], [[f64; TAPS]; TAPS]) {
    let windows = || samples.windows(TAPS).step_by(STRIDES[0]);
    let count = windows().count().max(1) as f64;
    let mut means = [0.0; TAPS];
    for window in windows() {
        means.iter_mut().zip(window).for_each(|(mean, x)| *mean += f64::from(*x));
    }
    means.iter_mut().for_each(|mean| *mean /= count);
    let mut covariances = [[0.0; TAPS]; TAPS];
    for window in windows() {
        let centred: [f64; TAPS] = std::array::from_fn(|i| f64::from(window[i]) - means[i]);
        for (row, a) in covariances.iter_mut().zip(&centred) {
            row.iter_mut().zip(&centred).for_each(|(sum, b)| *sum += a * b);
        }
    }
    covariances.iter_mut().flatten().for_each(|sum| *sum /= count);
    (means, covariances)
}

/// Taps of the convolution that tells positions.
const SPAN: usize = 128;
/// Its groups of channels.
const GROUPS: usize = 16;

/// `gelu(convolution)` over 128 frames around each, in groups of channels.
#[derive(Debug)]
pub(super) struct Positions {
    groups: Vec<TimeConvolution>,
    bias: Vec<f32>,
}

impl Positions {
    /// The weight is stored as length and direction of every tap, and folded here.
    pub(super) fn new(part: &Part<'_>, dim: usize) -> std::result::Result<Self, ModelError> {
        let direction = part.weight("weight_v", &[dim, dim / GROUPS, SPAN])?.to_device(&Device::Cpu)?;
        let norms = direction.sqr()?.sum_keepdim((0, 1))?.sqrt()?;
        let fresh = || norms.flatten_all().and_then(|norms| norms.to_vec1()).unwrap_or_default();
        let length = part.given("weight_g", &[1, 1, SPAN], fresh)?.to_device(&Device::Cpu)?;
        let weight = direction.broadcast_mul(&length.broadcast_div(&norms)?)?;
        let groups = weight.chunk(GROUPS, 0)?;
        let groups = groups.iter().map(|weight| TimeConvolution::new(weight, 1)).collect::<Result<_>>()?;
        let bias = part.constant("bias", &[dim], 0.0)?.to_device(&Device::Cpu)?.to_vec1()?;
        Ok(Self { groups, bias })
    }

    /// Adds what tells positions.
    ///
    /// # Shapes
    /// `x (frames, dim)`.
    pub(super) fn add(&self, x: &mut [f32]) {
        let dim = self.bias.len();
        let count = x.len() / dim;
        let width = dim / GROUPS;
        let mut told = vec![0.0; x.len()];
        // The last of the outputs over 64 frames of silence at either end is left out: an even kernel gives one too many.
        let mut padded = vec![0.0; (count + SPAN - 1) * width];
        let mut out = vec![0.0; count * width];
        for (group, convolution) in self.groups.iter().enumerate() {
            let columns = group * width..(group + 1) * width;
            for (to, from) in padded[SPAN / 2 * width..].chunks_exact_mut(width).zip(x.chunks_exact(dim)) {
                to.copy_from_slice(&from[columns.clone()]);
            }
            convolution.forward(&padded, &mut out);
            for (to, from) in told.chunks_exact_mut(dim).zip(out.chunks_exact(width)) {
                to[columns.clone()].copy_from_slice(from);
            }
        }
        map_rows(x, dim, |row, x| {
            for ((x, told), bias) in x.iter_mut().zip(&told[row * dim..]).zip(&self.bias) {
                *x += gelu(told + bias);
            }
        });
    }
}
