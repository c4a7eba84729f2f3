//! One file per stage kind, in the order of the pipeline.
//!
//! To add one: write `ops/<name>.rs` (a struct that implements [`StageKind`](crate::StageKind) and
//! [`Stage`](crate::Stage), and its operator), add its `mod` line and its line in [`registry`]. Nothing else.

use crate::Registry;

/// Every stage kind that a graph can name.
pub fn registry() -> Registry {
    Registry::default()
}
