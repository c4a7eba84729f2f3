//! What can go wrong in signal processing.

use thiserror::Error;

/// A refused parameter, or a buffer of the wrong length.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DspError {
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
    /// An input or output slice whose length does not fit.
    #[error("`{buffer}` holds {found} values, expected {expected}")]
    Length {
        /// Which slice.
        buffer: &'static str,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A model that cannot be loaded or run.
    #[error("{0}")]
    Model(String),
    /// A transform of nothing.
    #[error("no samples to transform")]
    Empty,
}

impl DspError {
    /// A parameter outside its range.
    pub fn param(param: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Param { param, found: found.to_string(), expected: expected.into() }
    }

    /// `Ok` when a slice has the length it must have.
    pub fn check_len(buffer: &'static str, found: usize, expected: usize) -> Result<(), Self> {
        if found == expected { Ok(()) } else { Err(Self::Length { buffer, found, expected }) }
    }
}
