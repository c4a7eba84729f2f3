//! Codebooks that were fitted to a corpus.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per fitted codebook.
///
/// Columns: `view`; `codebook`, 0-based; `codebook_size`; `patches` that it was fitted to; `iterations` until it stood
/// still or was stopped; `distortion`, the mean squared distance of a value of a patch to that of its code;
/// `perplexity` of the codes over those patches.
#[derive(Debug)]
pub enum CodebookFit {}

/// Constants of a [`CodebookFit`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodebookFitSpec {
    /// Patches per second, in Hz.
    pub patch_rate: f64,
}

impl Edge for CodebookFit {
    const NAME: &'static str = "codebook_fit";
    const VERSION: u16 = 1;
    type Spec = CodebookFitSpec;

    fn fields(_: &CodebookFitSpec) -> Vec<Field> {
        vec![
            required("view", DataType::Utf8),
            required("codebook", DataType::UInt32),
            required("codebook_size", DataType::UInt32),
            required("patches", DataType::UInt64),
            required("iterations", DataType::UInt32),
            required("distortion", DataType::Float64),
            required("perplexity", DataType::Float64),
        ]
    }
}
