//! What probes say about recordings.

use arrow::datatypes::{DataType, Field};
use serde::{Deserialize, Serialize};

use crate::edge::{Edge, required};
use crate::origin;

/// One row per statement of a probe about a recording, in the words of the annotations.
///
/// Columns: origin; `fold`, null where recordings are split once; `layer`, which layer or view the probe sees; `start_s` and `end_s`, in seconds, null as in
/// [`crate::Labels`]; `label`.
#[derive(Debug)]
pub enum Predictions {}

/// Constants of a [`Predictions`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionsSpec {
    /// What is predicted.
    pub task: String,
    /// Name of the representation.
    pub input: String,
}

impl Edge for Predictions {
    const NAME: &'static str = "prediction";
    const VERSION: u16 = 2;
    type Spec = PredictionsSpec;

    fn fields(_: &PredictionsSpec) -> Vec<Field> {
        let mut fields = origin::fields();
        let time = |name| Field::new(name, DataType::Float64, true);
        let word = |name| required(name, DataType::Utf8);
        fields.push(Field::new("fold", DataType::UInt64, true));
        fields.extend([word("layer"), time("start_s"), time("end_s"), word("label")]);
        fields
    }
}
