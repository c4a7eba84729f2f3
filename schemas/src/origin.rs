//! The columns that say which recording a row belongs to. Every edge from [`crate::Track`] to [`crate::Tokens`] starts
//! with them.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field};

use crate::edge::required;
use crate::{SchemaError, Split, TrackId, column};

/// `track_id`, `path`, `split`.
pub fn fields() -> Vec<Field> {
    vec![required("track_id", DataType::UInt64), required("path", DataType::Utf8), required("split", DataType::Utf8)]
}

/// The recording that a row belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its id.
    pub track_id: TrackId,
    /// Its path as the corpus names it: relative to the root of the source where there is one.
    pub path: String,
    /// What it is used for.
    pub split: Split,
}

impl Origin {
    /// Reads the origin of row `row`.
    ///
    /// # Errors
    /// When the batch lacks one of the columns, or `split` is not a split.
    pub fn read(batch: &RecordBatch, row: usize) -> Result<Self, SchemaError> {
        let track_id = TrackId(column::<UInt64Array>(batch, "track_id")?.value(row));
        let path = column::<StringArray>(batch, "path")?.value(row).to_owned();
        let split = column::<StringArray>(batch, "split")?.value(row);
        let split = Split::parse(split).ok_or_else(|| SchemaError::Column {
            column: "split".to_owned(),
            expected: "train, valid or test".to_owned(),
            found: split.to_owned(),
        })?;
        Ok(Self { track_id, path, split })
    }

    /// The three columns, repeated for `rows` rows.
    pub fn columns(&self, rows: usize) -> Vec<ArrayRef> {
        vec![
            Arc::new(UInt64Array::from_value(self.track_id.0, rows)),
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.path, rows))),
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(self.split.as_str(), rows))),
        ]
    }
}
