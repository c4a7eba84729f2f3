//! The small modules that the conformer is built of: weights with an operation.

use super::error::ModelError;
use super::kernel::storage::{Values, values};
use super::op;
use super::pass::Form;
use super::weights::{Builder, kaiming};
use candle_core::{Result, Tensor, Var};
use std::ops::Range;

/// An affine map.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    weight: Var,
    bias: Option<Var>,
}

/// Part of a linear layer's initial weights that DeepNorm makes smaller: output rows and their factor.
pub(crate) type Damped = (Range<usize>, f64);

impl Linear {
    /// A layer `(inputs) -> (outputs)`; `pointwise` gives the weight the third dimension of a convolution of length one.
    pub(crate) fn new(
        mut builder: Builder<'_>,
        inputs: usize,
        outputs: usize,
        has_bias: bool,
        pointwise: bool,
        damped: Option<Damped>,
    ) -> std::result::Result<Self, ModelError> {
        let shape: &[usize] = if pointwise { &[outputs, inputs, 1] } else { &[outputs, inputs] };
        let weight = builder.parameter("weight", shape, |stream| {
            let mut values = kaiming(outputs * inputs, inputs)(stream);
            if let Some((rows, factor)) = damped {
                for value in &mut values[rows.start * inputs..rows.end * inputs] {
                    *value *= factor as f32;
                }
            }
            values
        })?;
        let bias = if has_bias { Some(builder.parameter("bias", &[outputs], kaiming(outputs, inputs))?) } else { None };
        Ok(Self { weight, bias })
    }

    /// # Shapes
    /// `x (.., inputs)` to `(.., outputs)`.
    pub(crate) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        op::linear(x, &self.weight, self.bias.as_deref(), form)
    }

    pub(crate) fn weight(&self) -> &Var {
        &self.weight
    }

    pub(crate) fn bias(&self) -> Option<&Var> {
        self.bias.as_ref()
    }

    /// The bias of a layer that was made with one.
    pub(crate) fn bias_var(&self) -> Result<&Var> {
        self.bias.as_ref().ok_or_else(|| candle_core::Error::Msg("a linear layer lacks its bias".to_owned()))
    }

    /// The values of the bias of a layer on the CPU that was made with one.
    pub(crate) fn bias_values(&self) -> Result<Values<'_>> {
        values(self.bias_var()?)
    }

    /// Width of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }
}

/// Layer normalisation over the channels.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Var,
    bias: Var,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(mut builder: Builder<'_>, channels: usize, eps: f64) -> std::result::Result<Self, ModelError> {
        Ok(Self {
            weight: builder.parameter("weight", &[channels], |_| vec![1.0; channels])?,
            bias: builder.parameter("bias", &[channels], |_| vec![0.0; channels])?,
            eps,
        })
    }

    pub(crate) fn weight(&self) -> &Var {
        &self.weight
    }

    pub(crate) fn bias(&self) -> &Var {
        &self.bias
    }

    pub(crate) fn eps(&self) -> f64 {
        self.eps
    }

    /// # Shapes
    /// `x (.., channels)`, and the result alike.
    pub(crate) fn forward(&self, x: &Tensor, form: Form) -> Result<Tensor> {
        op::layer_norm(x, &self.weight, &self.bias, self.eps, form)
    }
}
