//! The recurrence: an LSTM as wide as its input, several crops at once.
//!
//! Every step reads all recurrent weights, 4 MB per layer in the published size, which is more than the caches near a
//! core hold. Crops that take the step together share that.

use pulp::{Arch, Simd, WithSimd};

use super::convolution::pitch;
use super::kernel::{Lanes, Matrix, Product, Start, Windows, pack_vector};
use super::maths;
use super::weights::LstmWeights;

/// One layer in memory.
pub(super) struct Lstm {
    size: usize,
    input: Matrix,
    recurrent: Matrix,
    bias: Vec<Lanes>,
    plain_bias: Vec<f32>,
}

/// What one layer keeps between steps, for every crop of a batch.
pub(super) struct Memory {
    /// `(batch, pitch)`: the last output.
    hidden: Vec<f32>,
    /// `(batch, size)`.
    cell: Vec<f32>,
}

impl Lstm {
    pub(super) fn new(size: usize, weights: LstmWeights) -> Self {
        let pack = |weight: &[f32]| Matrix::pack(size, 4 * size, |row, column| weight[column * size + row]);
        Self {
            size,
            input: pack(&weights.input),
            recurrent: pack(&weights.recurrent),
            bias: pack_vector(&weights.bias),
            plain_bias: weights.bias,
        }
    }

    /// The weights it was made of.
    pub(super) fn weights(&self) -> LstmWeights {
        let unpack = |matrix: &Matrix| {
            (0..4 * self.size * self.size).map(|i| matrix.element(i % self.size, i / self.size)).collect()
        };
        LstmWeights { input: unpack(&self.input), recurrent: unpack(&self.recurrent), bias: self.plain_bias.clone() }
    }

    /// Channels in and out.
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Number of weights, both biases of the published layout counted.
    pub(super) const fn parameters(&self) -> usize {
        8 * self.size * (self.size + 1)
    }

    /// The memory of `batch` crops before their first step.
    pub(super) fn memory(&self, batch: usize) -> Memory {
        Memory { hidden: vec![0.0; batch * pitch(self.size)], cell: vec![0.0; batch * self.size] }
    }

    /// Values of `gates` that [`Lstm::forward`] needs.
    pub(super) const fn gates(&self, rows: usize) -> usize {
        rows * pitch(4 * self.size)
    }

    /// Rows of `size` channels as the left factor of a product.
    const fn windows<'a>(&self, values: &'a [f32]) -> Windows<'a> {
        Windows { values, row_step: pitch(self.size), taps: 1, tap_step: self.size, depth: self.size }
    }

    /// `steps` steps of `batch` crops: rows of `input` and `out` are `(step, batch)`, both with [`pitch`].
    pub(super) fn forward(
        &self,
        arch: Arch,
        input: &[f32],
        (steps, batch): (usize, usize),
        memory: &mut Memory,
        gates: &mut [f32],
        out: &mut [f32],
    ) {
        let (pitch, out_step) = (pitch(self.size), pitch(4 * self.size));
        let start = Start::Bias(&self.bias);
        let rows = steps * batch;
        Product {
            rows,
            windows: self.windows(input),
            matrix: &self.input,
            start,
            elu: false,
            backward: false,
            out: gates,
            out_step,
        }
        .run(arch);
        for step in 0..steps {
            let (past, now) = out.split_at_mut(step * batch * pitch);
            let hidden = if step == 0 { &memory.hidden[..] } else { &past[(step - 1) * batch * pitch..] };
            let gates = &mut gates[step * batch * out_step..][..batch * out_step];
            let (windows, start) = (self.windows(hidden), Start::Out);
            Product {
                rows: batch,
                windows,
                matrix: &self.recurrent,
                start,
                elu: false,
                backward: step % 2 == 1,
                out: gates,
                out_step,
            }
            .run(arch);
            let crops = gates.chunks_exact(out_step).zip(memory.cell.chunks_exact_mut(self.size));
            for ((gates, cell), out) in crops.zip(now.chunks_exact_mut(pitch)) {
                let (gates, out) = (&gates[..4 * self.size], &mut out[..self.size]);
                arch.dispatch(Cell { gates, cell, out });
            }
        }
        let last = (steps - 1) * batch * pitch;
        memory.hidden.copy_from_slice(&out[last..last + batch * pitch]);
    }
}

/// `cell = sigmoid(forget) cell + sigmoid(input) tanh(candidate)`, `out = sigmoid(output) tanh(cell)`.
struct Cell<'a> {
    /// Input, forget, candidate and output side by side.
    gates: &'a [f32],
    cell: &'a mut [f32],
    out: &'a mut [f32],
}

impl WithSimd for Cell<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let size = self.cell.len();
        for start in (0..size).step_by(S::F32_LANES) {
            let end = size.min(start + S::F32_LANES);
            let gate = |index: usize| simd.partial_load_f32s(&self.gates[index * size..][start..end]);
            let input = simd.mul_f32s(maths::sigmoid(simd, gate(0)), maths::tanh(simd, gate(2)));
            let cell = simd.partial_load_f32s(&self.cell[start..end]);
            let cell = simd.mul_add_f32s(maths::sigmoid(simd, gate(1)), cell, input);
            simd.partial_store_f32s(&mut self.cell[start..end], cell);
            let out = simd.mul_f32s(maths::sigmoid(simd, gate(3)), maths::tanh(simd, cell));
            simd.partial_store_f32s(&mut self.out[start..end], out);
        }
    }
}
