//! What can go wrong in quantization.

use std::ops::RangeInclusive;

use thiserror::Error;

/// A refused parameter, weights that do not fit, or input that has no nearest code.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A parameter outside its range.
    #[error("`{param}` is {found}, expected {expected}")]
    Param {
        /// Name of the parameter, as the user writes it.
        param: &'static str,
        /// The value it has.
        found: String,
        /// The values it may have.
        expected: String,
    },
    /// An input, output or weight slice whose length does not fit.
    #[error("`{buffer}` holds {found} values, expected {expected}")]
    Length {
        /// Which slice.
        buffer: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A patch that holds an infinity or NaN.
    #[error("position {position} holds values that are not finite")]
    NonFinite {
        /// Index of the first such patch.
        position: usize,
    },
    /// A weights file that is not one.
    #[error("not a weights file: {0}")]
    Weights(String),
    /// A tensor that the weights file must hold.
    #[error("tensor `{name}` is {found}, expected f32 {expected:?}")]
    Tensor {
        /// Name of the tensor.
        name: String,
        /// `missing`, or its type and shape.
        found: String,
        /// The shape it must have.
        expected: Vec<usize>,
    },
}

impl QuantizeError {
    /// A parameter outside its range.
    pub fn param(param: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Param { param, found: found.to_string(), expected: expected.into() }
    }

    /// `Ok` when every value is in its range: name, value, range, and the range in words.
    pub(super) fn check_limits(limits: &[(&'static str, usize, RangeInclusive<usize>, &str)]) -> Result<(), Self> {
        match limits.iter().find(|(_, value, range, _)| !range.contains(value)) {
            Some(&(param, value, _, expected)) => Err(Self::param(param, value, expected)),
            None => Ok(()),
        }
    }

    /// `Ok` when a slice has the length it must have.
    pub fn check_len(buffer: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Length { buffer, found, expected }) }
    }
}
