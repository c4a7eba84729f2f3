use std::path::PathBuf;

use thiserror::Error;

/// What can be wrong with an encoder: its folder, its configuration, its weights, or what it is given.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncodecError {
    /// A file that cannot be read.
    #[error("{}: {source}; expected a folder in the published encodec_24khz layout: config.json + model.safetensors", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that is not what its name says.
    #[error("{}: not a {format} file: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What it should be.
        format: &'static str,
        /// Why it is not.
        reason: String,
    },
    /// A configuration that this encoder does not support.
    #[error("{}: `{field}` is {found}, expected {expected}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// The values it may have.
        expected: String,
    },
    /// A tensor that is missing, or of another type or shape than the configuration needs.
    #[error("{}: tensor `{name}` is {found}, expected f32 {expected:?}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Name in the published layout.
        name: String,
        /// Its type and shape, or `missing`.
        found: String,
        /// The shape that config.json asks for.
        expected: Vec<usize>,
    },
    /// A weight that is infinite or not a number.
    #[error("{}: tensor `{name}` has values that are not finite", path.display())]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// Name in the published layout.
        name: String,
    },
    /// Nothing to encode.
    #[error("crop {crop} holds no samples")]
    Empty {
        /// Index in the batch.
        crop: usize,
    },
    /// An input or output whose length does not fit.
    #[error("{what} holds {found} values, expected {expected}")]
    Length {
        /// Which slice.
        what: String,
        /// Its length.
        found: usize,
        /// The length it must have.
        expected: usize,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
