//! A causal convolution over a signal that arrives in tiles.
//!
//! Rows are points of time, their values channels. A [`Line`] holds the rows of one tile behind the rows before them that
//! the first windows reach; between tiles a crop keeps these in a history, so tiles of any length give what the whole
//! signal would, in the same bits.

use pulp::Arch;

use super::kernel::{LANES, Lanes, Matrix, Product, Start, Windows, pack_vector};
use super::network::ConvolutionShape;
use super::weights::ConvolutionWeights;

/// Values from one row to the next. Rows are whole vectors; where many rows would fall on the same places of a cache,
/// they are moved apart.
pub(super) const fn pitch(channels: usize) -> usize {
    if channels == 1 {
        return 1;
    }
    let lanes = channels.next_multiple_of(LANES);
    if lanes.is_multiple_of(256) { lanes + LANES } else { lanes }
}

/// Which part of a signal a tile is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Whether the signal starts here.
    pub(super) first: bool,
    /// Whether the signal ends here.
    pub(super) last: bool,
}

/// A convolution in memory.
pub(super) struct Convolution {
    pub(super) shape: ConvolutionShape,
    matrix: Matrix,
    bias: Vec<Lanes>,
    plain_bias: Vec<f32>,
}

impl Convolution {
    pub(super) fn new(shape: &ConvolutionShape, weights: ConvolutionWeights) -> Self {
        let ConvolutionShape { in_channels, out_channels, kernel, .. } = *shape;
        let weight = |row: usize, out: usize| {
            weights.weight[(out * in_channels + row % in_channels) * kernel + row / in_channels]
        };
        Self {
            shape: shape.clone(),
            matrix: Matrix::pack(kernel * in_channels, out_channels, weight),
            bias: pack_vector(&weights.bias),
            plain_bias: weights.bias,
        }
    }

    /// The weights it was made of.
    pub(super) fn weights(&self) -> ConvolutionWeights {
        let ConvolutionShape { in_channels, out_channels, kernel, .. } = self.shape;
        let mut weight = Vec::with_capacity(out_channels * in_channels * kernel);
        for out in 0..out_channels {
            for channel in 0..in_channels {
                weight.extend((0..kernel).map(|tap| self.matrix.element(tap * in_channels + channel, out)));
            }
        }
        ConvolutionWeights { weight, bias: self.plain_bias.clone() }
    }

    /// Number of weights.
    pub(super) fn parameters(&self) -> usize {
        let (depth, width) = self.matrix.shape();
        (depth + 1) * width
    }

    /// A line for tiles of at most `rows` rows.
    pub(super) fn line(&self, rows: usize) -> Line {
        Line::new(self.shape.context(), rows + self.shape.stride - 1, pitch(self.shape.in_channels))
    }

    /// An empty history of one crop.
    pub(super) fn history(&self) -> Vec<f32> {
        vec![0.0; self.shape.context() * pitch(self.shape.in_channels)]
    }

    /// The convolution of the `rows` rows that were written to `line`, and an ELU if asked for. Gives the number of rows
    /// of the output.
    pub(super) fn forward(
        &self,
        arch: Arch,
        line: &mut Line,
        (rows, place): (usize, Place),
        history: &mut [f32],
        elu: bool,
        (out, out_step): (&mut [f32], usize),
    ) -> usize {
        let extra = self.shape.extra(rows);
        debug_assert!(place.last || extra == 0);
        if place.first {
            line.reflect_left(rows);
        } else {
            line.values[..history.len()].copy_from_slice(history);
        }
        let end = rows * line.pitch;
        history.copy_from_slice(&line.values[end..end + history.len()]);
        line.reflect_right(rows, extra, place.first);
        let count = (rows + extra) / self.shape.stride;
        self.product(&line.values, count, Start::Bias(&self.bias), elu, (out, out_step)).run(arch);
        count
    }

    /// The convolution of rows that already lie in place, for a kernel of one.
    pub(super) fn pointwise<'a>(
        &'a self,
        values: &'a [f32],
        rows: usize,
        add: bool,
        elu: bool,
        out: (&'a mut [f32], usize),
    ) -> Product<'a> {
        // The bias joins what is already there.
        let start = if add { Start::OutAndBias(&self.bias) } else { Start::Bias(&self.bias) };
        self.product(values, rows, start, elu, out)
    }

    fn product<'a>(
        &'a self,
        values: &'a [f32],
        rows: usize,
        start: Start<'a>,
        elu: bool,
        (out, out_step): (&'a mut [f32], usize),
    ) -> Product<'a> {
        let ConvolutionShape { in_channels, kernel, stride, dilation, .. } = self.shape;
        let pitch = pitch(in_channels);
        let windows =
            Windows { values, row_step: stride * pitch, taps: kernel, tap_step: dilation * pitch, depth: in_channels };
        Product { rows, windows, matrix: &self.matrix, start, elu, backward: false, out, out_step }
    }
}

/// The input of a convolution: some rows of context, then those of a tile, then room for padding.
pub(super) struct Line {
    context: usize,
    pub(super) pitch: usize,
    values: Vec<f32>,
}

impl Line {
    fn new(context: usize, rows: usize, pitch: usize) -> Self {
        Self { context, pitch, values: vec![0.0; (context + rows) * pitch] }
    }

    /// The rows of the tile, to be written.
    pub(super) fn rows(&mut self) -> &mut [f32] {
        &mut self.values[self.context * self.pitch..]
    }

    /// Fills the context at the start of a signal of which `rows` rows are there: reflection about the first row. Where
    /// that reaches past a shorter signal, zeros, as if they followed it.
    fn reflect_left(&mut self, rows: usize) {
        for distance in 1..=self.context {
            let to = (self.context - distance) * self.pitch;
            if distance < rows {
                let from = (self.context + distance) * self.pitch;
                self.values.copy_within(from..from + self.pitch, to);
            } else {
                self.values[to..to + self.pitch].fill(0.0);
            }
        }
    }

    /// Fills `extra` rows after the last: reflection about it, or zeros where the whole signal, being in this tile, is
    /// not longer than the padding of either side.
    fn reflect_right(&mut self, rows: usize, extra: usize, whole: bool) {
        let padding = self.context.max(extra);
        let zeros = if whole && rows <= padding { padding - rows + 1 } else { 0 };
        for distance in 0..extra {
            let to = (self.context + rows + distance) * self.pitch;
            // The signal, zeros included, is reflected about its last row.
            let mirror = (self.context + 2 * (rows + zeros)).checked_sub(2 + rows + distance);
            match mirror {
                Some(row) if distance >= zeros && row < self.context + rows => {
                    let from = row * self.pitch;
                    self.values.copy_within(from..from + self.pitch, to);
                }
                _ => self.values[to..to + self.pitch].fill(0.0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Padding by its definition: zeros after a signal that is too short, reflection, and the zeros cut off again.
    fn padded(signal: &[f32], left: usize, right: usize) -> Vec<f32> {
        let most = left.max(right);
        let zeros = if signal.len() <= most { most - signal.len() + 1 } else { 0 };
        let mut long = signal.to_vec();
        long.resize(signal.len() + zeros, 0.0);
        let mirrored = |at: isize| {
            let last = long.len() as isize - 1;
            let at = at.abs();
            long[(if at > last { 2 * last - at } else { at }) as usize]
        };
        let mut all: Vec<f32> = (-(left as isize)..(long.len() + right) as isize).map(mirrored).collect();
        all.truncate(left + signal.len() + right);
        all
    }

    #[test]
    fn padding_follows_its_definition_down_to_one_sample() {
        for (kernel, stride, dilation) in
            [(7, 1, 1), (16, 8, 1), (4, 2, 1), (10, 5, 1), (3, 1, 4), (2, 1, 1), (1, 1, 1)]
        {
            let shape =
                ConvolutionShape { name: String::new(), in_channels: 1, out_channels: 1, kernel, stride, dilation };
            for rows in 1..40 {
                let signal: Vec<f32> = (1..=rows).map(|i| i as f32).collect();
                let extra = shape.extra(rows);
                let mut line = Line::new(shape.context(), rows + stride - 1, 1);
                line.rows()[..rows].copy_from_slice(&signal);
                line.reflect_left(rows);
                line.reflect_right(rows, extra, true);
                let expected = padded(&signal, shape.context(), extra);
                assert_eq!(line.values[..expected.len()], expected, "{rows} rows, kernel {kernel}, stride {stride}");
            }
        }
    }
}
