//! Recordings that could not be used.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};

/// One row per rejected recording: which, where in the graph, and why.
///
/// Columns: `track_id`, `path`; `node` and `stage` that rejected it; `class`, a short word to group by (`io`,
/// `corrupt`, `truncated`, `unsupported`, `mismatch`, ...); `message` for people; `shard` it belongs to.
#[derive(Debug)]
pub enum Reject {}

/// A reject edge has no constants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectSpec {}

impl Edge for Reject {
    const NAME: &'static str = "reject";
    const VERSION: u16 = 1;
    type Spec = RejectSpec;

    fn fields(_: &RejectSpec) -> Vec<Field> {
        let text = |name| required(name, DataType::Utf8);
        vec![
            required("track_id", DataType::UInt64),
            text("path"),
            text("node"),
            text("stage"),
            text("class"),
            text("message"),
            text("shard"),
        ]
    }
}
