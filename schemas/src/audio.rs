//! Blocks of samples.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};
use crate::origin;

/// Mono samples of a track, in blocks: one row per block, blocks of a track in order and without gaps.
///
/// Columns: origin; `sample_rate` in Hz; `start`, index of the block's first sample; `declared_len`, the length of the
/// whole track in samples as the file's header states it (null when it does not); `samples`, nominally in [-1, 1].
#[derive(Debug)]
pub enum Audio {}

/// Constants of an [`Audio`] edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioSpec {
    /// Rate of every track in Hz; `None` while each track still has the rate of its file.
    pub sample_rate: Option<u32>,
}

impl Edge for Audio {
    const NAME: &'static str = "audio";
    const VERSION: u16 = 1;
    type Spec = AudioSpec;

    fn fields(_: &AudioSpec) -> Vec<Field> {
        let mut fields = origin::fields();
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        fields.extend([
            required("sample_rate", DataType::UInt32),
            required("start", DataType::UInt64),
            Field::new("declared_len", DataType::UInt64, true),
            required("samples", DataType::List(item)),
        ]);
        fields
    }
}
