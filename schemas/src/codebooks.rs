//! How evenly codebooks are used.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per codebook: of which node and view, and how often each of its codes occurs in the tokens of the corpus.
///
/// Columns: `node`, `view`, `codebook` (0-based within the view); `size`, codes that exist; `tokens`, how many were
/// counted; `used`, codes that occur, and `usage_percent`, the same as a share of `size`; `entropy_bits`, the Shannon
/// entropy of the codes, at most `log2(size)`; `perplexity`, 2 to the power of it; `top`, the most frequent codes as
/// `{code, count}`, most frequent first; `counts`, how often each code occurs, `size` values; `collapse`, what is wrong
/// with the codebook, in words, null when nothing is.
#[derive(Debug)]
pub enum Codebooks {}

/// A codebooks edge has no constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodebooksSpec {}

impl Codebooks {
    /// The fields of an element of `top`.
    pub fn top_fields() -> Fields {
        vec![required("code", DataType::UInt32), required("count", DataType::UInt64)].into()
    }
}

impl Edge for Codebooks {
    const NAME: &'static str = "codebooks";
    const VERSION: u16 = 1;
    type Spec = CodebooksSpec;

    fn fields(_: &CodebooksSpec) -> Vec<Field> {
        let list = |item| DataType::List(Arc::new(Field::new("item", item, false)));
        vec![
            required("node", DataType::Utf8),
            required("view", DataType::Utf8),
            required("codebook", DataType::UInt32),
            required("size", DataType::UInt32),
            required("tokens", DataType::UInt64),
            required("used", DataType::UInt64),
            required("usage_percent", DataType::Float64),
            required("perplexity", DataType::Float64),
            required("entropy_bits", DataType::Float64),
            required("top", list(DataType::Struct(Self::top_fields()))),
            required("counts", list(DataType::UInt64)),
            Field::new("collapse", DataType::Utf8, true),
        ]
    }
}
