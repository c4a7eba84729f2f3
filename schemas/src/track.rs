//! Recordings.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};
use crate::origin;

/// One row per recording: the origin columns and `bytes`, the size of the file (0 if unknown).
#[derive(Debug)]
pub enum Track {}

/// Constants of a [`Track`] edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackSpec {
    /// Folder that relative paths start from.
    pub root: String,
}

impl Edge for Track {
    const NAME: &'static str = "track";
    const VERSION: u16 = 1;
    type Spec = TrackSpec;

    fn fields(_: &TrackSpec) -> Vec<Field> {
        let mut fields = origin::fields();
        fields.push(required("bytes", DataType::UInt64));
        fields
    }
}

/// What a recording is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Split {
    /// Updates weights.
    Train,
    /// Chooses between models and settings.
    Valid,
    /// Is looked at once, at the end.
    Test,
}

impl Split {
    /// As written in the `split` column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }

    /// The inverse of [`Split::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Train, Self::Valid, Self::Test].into_iter().find(|split| split.as_str() == text)
    }
}
