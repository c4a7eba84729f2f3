//! What people say about recordings.

use arrow::array::{Array, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::column;
use crate::edge::{Edge, SchemaError, required};
use crate::origin;

/// One row per statement about a recording, in the order of time.
///
/// Columns: origin, `split` being that of the annotations; `start_s` and `end_s`, in seconds: both are null where the label
/// holds for the whole recording, `end_s` alone where something happens at an instant; `label`, as written in the
/// annotations: a chord in Harte's syntax, a place in the bar, a tag, a MIDI number, a grade.
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

impl Edge for Labels {
    const NAME: &'static str = "label";
    const VERSION: u16 = 1;
    type Spec = LabelsSpec;

    fn fields(_: &LabelsSpec) -> Vec<Field> {
        let mut fields = origin::fields();
        let time = |name| Field::new(name, DataType::Float64, true);
        fields.extend([time("start_s"), time("end_s"), required("label", DataType::Utf8)]);
        fields
    }
}
