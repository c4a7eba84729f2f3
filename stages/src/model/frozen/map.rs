//! Affine maps with what comes right after them, and norms.

use super::super::kernel::maths::{fma, gelu, sigmoid};
use super::super::kernel::norm::layer_norm;
use super::super::kernel::packed::Packed;

/// `x weight^T + bias`.
#[derive(Debug)]
pub(crate) struct Map {
    weight: Packed,
    bias: Vec<f32>,
}

impl Map {
    /// # Shapes
    /// `weight (outputs, inputs)`, `bias (outputs)`, zeros where there is none.
    pub(crate) fn new(weight: &[f32], inputs: usize, bias: Option<Vec<f32>>) -> Self {
        let weight = Packed::new(weight, inputs);
        let bias = bias.unwrap_or_else(|| vec![0.0; weight.outputs()]);
        assert_eq!(bias.len(), weight.outputs(), "an output has one bias");
        Self { weight, bias }
    }

    /// Values of an input row.
    pub(crate) fn inputs(&self) -> usize {
        self.weight.inputs()
    }

    /// Values of a result's row.
    pub(crate) fn outputs(&self) -> usize {
        self.weight.outputs()
    }

    /// The map alone.
    pub(crate) fn run(&self, x: &[f32], out: &mut [f32]) {
        self.each(x, out, |value| value);
    }

    /// The map, then GELU.
    pub(crate) fn gelu(&self, x: &[f32], out: &mut [f32]) {
        self.each(x, out, gelu);
    }

    /// The map, then SiLU, `x sigmoid(x)`.
    pub(crate) fn silu(&self, x: &[f32], out: &mut [f32]) {
        self.each(x, out, |value| value * sigmoid(value));
    }

    /// `alpha sum + factor (x weight^T + bias)`.
    pub(crate) fn add_to(&self, (sum, alpha): (&[f32], f32), factor: f32, x: &[f32], out: &mut [f32]) {
        let outputs = self.outputs();
        self.weight.apply(x, out, |row, column, out| {
            let sum = &sum[row * outputs + column..];
            for ((out, bias), sum) in out.iter_mut().zip(&self.bias[column..]).zip(sum) {
                *out = fma(factor, *out + bias, alpha * *sum);
            }
        });
    }

    #[inline(always)]
    fn each(&self, x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
        self.weight.apply(x, out, |_, column, out| {
            for (out, bias) in out.iter_mut().zip(&self.bias[column..]) {
                *out = f(*out + bias);
            }
        });
    }
}

/// Layer normalisation.
#[derive(Debug)]
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) eps: f32,
}

impl Norm {
    /// Normalises the rows of `x` into `out`.
    pub(crate) fn run(&self, x: &[f32], out: &mut [f32]) {
        layer_norm(x, &self.weight, &self.bias, self.eps, out);
    }
}
