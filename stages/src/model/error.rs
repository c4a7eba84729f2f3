use candle_core::Error as CandleError;
use thiserror::Error;

/// What can be wrong with a model: its configuration, its weights, or a tensor operation.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A configuration that no model can have.
    #[error("`{field}`: {reason}")]
    Config {
        /// The offending field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights lack a tensor that the configuration needs.
    #[error("tensor `{name}` is missing, expected shape {expected:?}")]
    Missing {
        /// Name in the published layout.
        name: String,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
    },
    /// The weights have a tensor of another shape than the configuration needs.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Name in the published layout.
        name: String,
        /// Shape that the configuration asks for.
        expected: Vec<usize>,
        /// Shape found.
        found: Vec<usize>,
    },
    /// Names from which no configuration can be inferred.
    #[error("the tensors are no conformer's: {reason}")]
    Layout {
        /// What is missing or odd.
        reason: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] CandleError),
}
