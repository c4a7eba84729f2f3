//! What people say about recordings.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, SchemaError, required};
use crate::origin;
use crate::{Split, column};

/// One row per statement about a recording, in the order of time.
///
/// Columns: origin, `split` being that of the annotations; `start_s` and `end_s`, in seconds: both are null where the label
/// holds for the whole recording, `end_s` alone where something happens at an instant; `label`, as written in the
/// annotations: a chord in Harte's syntax, a place in the bar, a tag, a MIDI number, a grade; where recordings are split
/// several times, `splits`, the split in every fold with spaces between, `-` where there is none.
#[derive(Debug)]
pub enum Labels {}

/// Constants of a [`Labels`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabelsSpec {
    /// What the labels are of: `beats`, `chords`, ...
    pub task: String,
    /// The data sets, for people.
    pub dataset: String,
    /// All classes in their order, where the data set fixes one.
    pub classes: Option<Vec<String>>,
    /// How often the recordings are split, where that is more than once: there is a column `splits` then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
}

/// A row of a [`Labels`] edge without its origin.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelRow {
    /// In seconds.
    pub start_s: Option<f64>,
    /// In seconds.
    pub end_s: Option<f64>,
    /// As written.
    pub label: String,
}

impl Labels {
    /// The statements of a batch.
    ///
    /// # Errors
    /// When a column is missing or of another type.
    pub fn rows(batch: &RecordBatch) -> Result<Vec<LabelRow>, SchemaError> {
        let times = [column::<Float64Array>(batch, "start_s")?, column::<Float64Array>(batch, "end_s")?];
        let labels = column::<StringArray>(batch, "label")?;
        let row = |row: usize| {
            let [start_s, end_s] = times.map(|times| times.is_valid(row).then(|| times.value(row)));
            LabelRow { start_s, end_s, label: labels.value(row).to_owned() }
        };
        Ok((0..batch.num_rows()).map(row).collect())
    }
}

impl Labels {
    /// The column `splits` of a recording.
    pub fn splits_column(splits: &[Option<Split>], rows: usize) -> ArrayRef {
        let words: Vec<&str> = splits.iter().map(|split| split.map_or(NO_SPLIT, Split::as_str)).collect();
        let words = words.join(" ");
        Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&words, rows)))
    }

    /// The splits of the recording of row `row`, by fold.
    ///
    /// # Errors
    /// When the column is missing or holds other words.
    pub fn splits(batch: &RecordBatch, row: usize) -> Result<Vec<Option<Split>>, SchemaError> {
        let words = column::<StringArray>(batch, SPLITS)?.value(row).split(' ');
        let split = |word: &str| {
            let wrong = || SchemaError::Column {
                column: SPLITS.to_owned(),
                expected: "train, valid, test or -".to_owned(),
                found: word.to_owned(),
            };
            if word == NO_SPLIT { Ok(None) } else { Split::parse(word).map(Some).ok_or_else(wrong) }
        };
        words.map(split).collect()
    }
}

/// The column with the splits of several folds, and what stands there for none.
const SPLITS: &str = "splits";
const NO_SPLIT: &str = "-";

impl Edge for Labels {
    const NAME: &'static str = "label";
    const VERSION: u16 = 1;
    type Spec = LabelsSpec;

    fn fields(spec: &LabelsSpec) -> Vec<Field> {
        let mut fields = origin::fields();
        let time = |name| Field::new(name, DataType::Float64, true);
        fields.extend([time("start_s"), time("end_s"), required("label", DataType::Utf8)]);
        fields.extend(spec.folds.map(|_| required(SPLITS, DataType::Utf8)));
        fields
    }
}
