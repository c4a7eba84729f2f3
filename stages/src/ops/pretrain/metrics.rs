//! Rows of the output edge.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Float32Array, Float64Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::DataType;

use super::Plan;
use super::shown::Unigram;
use crate::error::StageError;
use crate::train::{StepMetrics, ValidMetrics};

impl Plan {
    /// A row of metrics: of the step, or of the held-out crops after it.
    pub(super) fn row(
        &self,
        step: &StepMetrics,
        valid: Option<(&ValidMetrics, &Unigram)>,
        elapsed: Duration,
    ) -> Result<RecordBatch, StageError> {
        let (split, grad_norm) = if valid.is_some() { ("valid", None) } else { ("train", Some(step.grad_norm)) };
        let (loss, accuracy, per_stream) = valid
            .map_or_else(|| (step.loss, step.accuracy, step.stream_accuracy.clone()), |(metrics, _)| metrics.means());
        let (unigram, unigrams) = valid.and_then(|(_, unigram)| unigram.accuracy()).unzip();
        let schema = &self.output;
        let DataType::List(item) = schema.field_with_name("stream_accuracy")?.data_type() else {
            return Err(StageError::Failed("`stream_accuracy` is no list".to_owned()));
        };
        let list = |values: Vec<f32>| -> ArrayRef {
            let offsets = OffsetBuffer::from_lengths([values.len()]);
            Arc::new(ListArray::new(item.clone(), offsets, Arc::new(Float32Array::from(values)), None))
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(vec![step.step])),
            Arc::new(StringArray::from(vec![split])),
            Arc::new(Float64Array::from(vec![loss])),
            Arc::new(Float64Array::from(vec![accuracy])),
            list(per_stream),
            Arc::new(Float64Array::from(vec![unigram])),
            list(unigrams.unwrap_or_default()),
            Arc::new(Float64Array::from(vec![step.lr])),
            Arc::new(Float64Array::from(vec![grad_norm])),
            Arc::new(UInt64Array::from(vec![step.step * self.params.minibatch as u64])),
            Arc::new(Float64Array::from(vec![elapsed.as_secs_f64()])),
        ];
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}
