//! Convolutions over the spectrogram, on the CPU.
//!
//! An image has channels last and a border of zeros, so the three taps of a row of a filter lie one after another, and a
//! row of outputs is the sum of three products of matrices, one for each row of the filter, without anything being copied.
//! The convolutions that do not halve the image, most of the work, take fewer multiplications (see [`winograd`](super::winograd)).

use candle_core::Tensor;

use crate::model::ModelError;
use crate::model::kernel::gemm::{Into, Matrix, multiply};
use crate::model::kernel::rows::map_rows;

use super::super::blocks::Part;
use super::winograd::Winograd;
use super::{BANDS, MusicFmConfig, REDUCTION, on_host};

const EPS: f64 = 1e-5;
/// Rows and columns of a filter.
pub(super) const SIDE: usize = 3;
/// Images of fewer channels are copied out tap by tap, so that one product does it all.
const FEW: usize = 16;

/// Bands by frames by channels, with a border of zeros.
pub(super) struct Image {
    pub(super) height: usize,
    pub(super) width: usize,
    channels: usize,
    values: Vec<f32>,
}

impl Image {
    pub(super) fn new(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels, values: vec![0.0; (height + 2) * (width + 2) * channels] }
    }

    /// First value of row `row`, the border above being row 0, with its border.
    fn start(&self, row: usize) -> usize {
        row * (self.width + 2) * self.channels
    }

    /// Row `row` with its borders, `(width + 2, channels)`; the border above is row 0.
    pub(super) fn bordered(&self, row: usize) -> &[f32] {
        &self.values[self.start(row)..self.start(row + 1)]
    }

    /// Row `row` without its borders, `(width, channels)`; the first row is 0.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[self.start(row + 1) + self.channels..][..self.width * self.channels]
    }

    pub(super) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let start = self.start(row + 1) + self.channels;
        &mut self.values[start..][..self.width * self.channels]
    }

    /// Size of the image that is half as large.
    fn halved(&self) -> (usize, usize) {
        (self.height.div_ceil(2), self.width.div_ceil(2))
    }
}

/// A convolution of 3 by 3 with the batch normalisation after it.
#[derive(Debug)]
struct Convolution {
    /// `(filter rows, outputs, filter columns, inputs)`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    inputs: usize,
    stride: usize,
}

impl Convolution {
    fn new(
        block: &Part<'_>,
        number: usize,
        (inputs, outputs): (usize, usize),
        stride: usize,
    ) -> Result<Self, ModelError> {
        let convolution = block.part(format_args!("conv{number}"));
        let map = convolution.convolution(&[outputs, inputs, SIDE, SIDE], true)?;
        let (factors, summands) = block.part(format_args!("bn{number}")).batch_norm(outputs, EPS)?;
        let (weight, bias) = (&map.weight, map.bias.as_ref());
        // (outputs, inputs, rows, columns) to (rows, outputs, columns, inputs).
        let mut weight = on_host(&weight.permute((2, 0, 3, 1))?.contiguous()?)?;
        for (i, filter) in weight.chunks_exact_mut(SIDE * inputs).enumerate() {
            filter.iter_mut().for_each(|value| *value *= factors[i % outputs]);
        }
        let bias = bias.map(on_host).transpose()?.unwrap_or_else(|| vec![0.0; outputs]);
        let bias = bias.iter().zip(&factors).zip(&summands).map(|((bias, f), s)| bias * f + s).collect();
        Ok(Self { weight, bias, inputs, stride })
    }

    /// The convolution without its bias.
    fn run(&self, x: &Image, out: &mut Image) {
        let (width, outputs) = (out.width, out.channels);
        let columns = SIDE * self.inputs;
        let filter = |row: usize| &self.weight[row * outputs * columns..][..outputs * columns];
        let whole: Vec<f32> = if self.inputs < FEW {
            let taps = |output: usize| (0..SIDE).map(move |row| (row, output));
            let all = (0..outputs).flat_map(taps);
            all.flat_map(|(row, output)| filter(row)[output * columns..][..columns].to_vec()).collect()
        } else {
            Vec::new()
        };
        let mut copied = Vec::new();
        for row in 0..out.height {
            let seen = |tap: usize| &x.values[x.start(row * self.stride + tap)..];
            if !whole.is_empty() {
                copied.clear();
                for t in 0..width {
                    for tap in 0..SIDE {
                        copied.extend_from_slice(&seen(tap)[t * self.stride * self.inputs..][..columns]);
                    }
                }
                let (a, b) = (Matrix::new(&copied, SIDE * columns), Matrix::new(&whole, SIDE * columns).t());
                multiply(out.row_mut(row), a, b, Into::Replace);
                continue;
            }
            for tap in 0..SIDE {
                let a = Matrix::strided(seen(tap), width, columns, self.stride * self.inputs);
                let into = if tap == 0 { Into::Replace } else { Into::Add };
                multiply(out.row_mut(row), a, Matrix::new(filter(tap), columns).t(), into);
            }
        }
    }
}

/// `relu(convolution 2 of relu(convolution 1 of x) + convolution 3 of x)`; the first and the third halve the image.
#[derive(Debug)]
struct Residual {
    first: Convolution,
    second: Winograd,
    shortcut: Convolution,
    /// Of the second and the third together.
    bias: Vec<f32>,
}

impl Residual {
    fn new(part: &Part<'_>, inputs: usize, outputs: usize) -> Result<Self, ModelError> {
        let first = Convolution::new(part, 1, (inputs, outputs), 2)?;
        let second = Convolution::new(part, 2, (outputs, outputs), 1)?;
        let shortcut = Convolution::new(part, 3, (inputs, outputs), 2)?;
        let bias = second.bias.iter().zip(&shortcut.bias).map(|(a, b)| a + b).collect();
        Ok(Self { first, second: Winograd::new(&second.weight, outputs, outputs), shortcut, bias })
    }

    fn forward(&self, x: &Image) -> Image {
        let ((height, width), outputs) = (x.halved(), self.bias.len());
        let mut inner = Image::new(height, width, outputs);
        self.first.run(x, &mut inner);
        rectify(&mut inner, &self.first.bias);
        let mut out = Image::new(height, width, outputs);
        self.shortcut.run(x, &mut out);
        self.second.add(&inner, &mut out);
        rectify(&mut out, &self.bias);
        out
    }
}

/// `relu(x + bias)`.
fn rectify(image: &mut Image, bias: &[f32]) {
    for row in 0..image.height {
        map_rows(image.row_mut(row), bias.len(), |_, values| {
            for (value, bias) in values.iter_mut().zip(bias) {
                *value = (*value + bias).max(0.0);
            }
        });
    }
}

/// From a spectrogram to positions.
#[derive(Debug)]
pub(super) struct Stem {
    blocks: [Residual; 2],
    /// `(bands / REDUCTION, dim, channels)`.
    weight: Vec<f32>,
    bias: Vec<f32>,
    channels: usize,
}

impl Stem {
    pub(super) fn new(part: &Part<'_>, config: &MusicFmConfig) -> Result<Self, ModelError> {
        let MusicFmConfig { channels, dim, .. } = *config;
        let rows = BANDS / REDUCTION;
        let block = |index: usize, inputs| Residual::new(&part.part(format_args!("conv.{index}")), inputs, channels);
        let map = part.part("linear").linear(channels * rows, dim, true)?;
        let (weight, bias) = (&map.weight, map.bias.as_ref());
        let weight: Tensor = weight.reshape((dim, channels, rows))?.permute((2, 0, 1))?.contiguous()?;
        let bias = bias.map(on_host).transpose()?.unwrap_or_default();
        Ok(Self { blocks: [block(0, 1)?, block(1, channels)?], weight: on_host(&weight)?, bias, channels })
    }

    /// # Shapes
    /// `spectrogram (frames, BANDS)` to `(positions, dim)`.
    pub(super) fn forward(&self, spectrogram: &[f32]) -> Vec<f32> {
        let frames = spectrogram.len() / BANDS;
        let mut image = Image::new(BANDS, frames, 1);
        for band in 0..BANDS {
            for (value, frame) in image.row_mut(band).iter_mut().zip(spectrogram.chunks_exact(BANDS)) {
                *value = frame[band];
            }
        }
        for block in &self.blocks {
            image = block.forward(&image);
        }
        let dim = self.bias.len();
        let mut out = vec![0.0; image.width * dim];
        for (row, weight) in self.weight.chunks_exact(dim * self.channels).enumerate() {
            let (a, b) = (Matrix::new(image.row(row), self.channels), Matrix::new(weight, self.channels).t());
            multiply(&mut out, a, b, if row == 0 { Into::Replace } else { Into::Add });
        }
        map_rows(&mut out, dim, |_, values| {
            values.iter_mut().zip(&self.bias).for_each(|(value, bias)| *value += bias);
        });
        out
    }
}
