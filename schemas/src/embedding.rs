//! What a trained encoder makes of recordings.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, RecordBatch};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::column;
use crate::crop::crop_fields;
use crate::edge::{Edge, SchemaError, required};

/// Rows of a recording in the order of time, each with any number of vectors of every chosen layer.
///
/// Columns: origin; `crop_ix`, which crop of the recording the row comes from; `start_s`, where the first vector's
/// interval starts in the recording, in seconds; `audio_s`, how many seconds of audio the row's vectors stand for; then
/// `layer_K` for every layer, a list of vectors of `dim` values, equally many in every layer of a row.
///
/// Vector `i` of a row stands for the interval of `1 / rate` seconds that **starts** at `start_s + i / rate`; its centre
/// is half an interval later. Consecutive rows of a recording continue one another, each being what is kept of a crop
/// (`crop_ix` is that of the crop): a long recording is many rows, none of them large. Pooled, every row has one vector
/// for all of its `audio_s` seconds, and there is no rate.
#[derive(Debug)]
pub enum Embeddings {}

/// Constants of an [`Embeddings`] edge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingsSpec {
    /// Which blocks of the encoder, from 0, in column order.
    pub layers: Vec<u32>,
    /// Values per vector.
    pub dim: u32,
    /// Vectors per second, in Hz; `None` when they are pooled: then every row has one.
    pub rate: Option<f64>,
    /// What a vector stands for.
    pub pooling: Pooling,
    /// Rate of the audio that the encoder heard, in Hz.
    pub sample_rate: u32,
    /// The encoder.
    pub model: ModelLabel,
}

/// What a vector of an [`Embeddings`] edge stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// A position of the encoder: a patch of the input.
    Frames,
    /// The mean over a window of the recording.
    Window,
    /// The mean over the recording.
    Track,
}

/// Names an encoder, and what may be done with what is derived from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelLabel {
    /// For people.
    pub name: String,
    /// Hash of weights and manifest, in hexadecimal digits.
    pub fingerprint: String,
    /// Licence of the weights, as an SPDX identifier or in words.
    pub licence: String,
}

impl Embeddings {
    /// The column of a layer: `layer_6`.
    pub fn column(layer: u32) -> String {
        format!("layer_{layer}")
    }

    /// The vectors of a layer in row `row`, one after the other: a multiple of `dim` values.
    ///
    /// # Errors
    /// When there is no such column, or it holds another type.
    pub fn vectors(batch: &RecordBatch, layer: u32, row: usize) -> Result<&[f32], SchemaError> {
        let name = Self::column(layer);
        let list = column::<ListArray>(batch, &name)?;
        let wrong = || SchemaError::Column {
            column: name.clone(),
            expected: "a list of vectors of f32".to_owned(),
            found: list.data_type().to_string(),
        };
        let vectors = list.values().as_any().downcast_ref::<FixedSizeListArray>().ok_or_else(wrong)?;
        let values = vectors.values().as_any().downcast_ref::<Float32Array>().ok_or_else(wrong)?;
        let dim = vectors.value_length() as usize;
        let at = |row: usize| (vectors.offset() + list.value_offsets()[row] as usize) * dim;
        Ok(&values.values()[at(row)..at(row + 1)])
    }

    /// A column of vectors: `rows` holds those of each row, one after the other.
    ///
    /// # Panics
    /// When a row is not a whole number of vectors of `dim` values.
    pub fn vectors_column(dim: usize, rows: &[&[f32]]) -> ArrayRef {
        assert!(dim > 0 && rows.iter().all(|row| row.len().is_multiple_of(dim)), "rows are not vectors of {dim}");
        let offsets = OffsetBuffer::from_lengths(rows.iter().map(|row| row.len() / dim));
        let field = vector_field(dim);
        let DataType::FixedSizeList(item, len) = field.data_type() else {
            unreachable!("a tensor is a fixed-size list")
        };
        let values = Arc::new(Float32Array::from(rows.concat()));
        let vectors = FixedSizeListArray::new(item.clone(), *len, values, None);
        Arc::new(ListArray::new(Arc::new(field), offsets, Arc::new(vectors), None))
    }
}

/// The vector inside a list: `fixed_size_list<f32>[dim]`, which every reader of Arrow knows.
fn vector_field(dim: usize) -> Field {
    let dim = i32::try_from(dim).expect("bind keeps vectors below 2^31 values");
    required("item", DataType::FixedSizeList(Arc::new(required("item", DataType::Float32)), dim))
}

impl Edge for Embeddings {
    const NAME: &'static str = "embedding";
    const VERSION: u16 = 1;
    type Spec = EmbeddingsSpec;

    fn fields(spec: &EmbeddingsSpec) -> Vec<Field> {
        let mut fields = crop_fields();
        let vectors = DataType::List(Arc::new(vector_field(spec.dim as usize)));
        fields.extend(spec.layers.iter().map(|layer| required(&Self::column(*layer), vectors.clone())));
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_rows_of_any_length_come_back() {
        let (a, b): (Vec<f32>, Vec<f32>) = ((0..6).map(|i| i as f32).collect(), vec![9.0, 8.0, 7.0]);
        let column = Embeddings::vectors_column(3, &[&a, &b, &[]]);
        let batch = RecordBatch::try_from_iter([("layer_4", column)]).expect("a column");
        let row = |batch: &RecordBatch, row| Embeddings::vectors(batch, 4, row).expect("a layer").to_vec();
        assert_eq!([row(&batch, 0), row(&batch, 1), row(&batch, 2)], [a, b.clone(), vec![]]);
        assert_eq!(row(&batch.slice(1, 1), 0), b);
        assert!(Embeddings::vectors(&batch, 5, 0).is_err_and(|error| error.to_string().contains("layer_5")));
    }

    #[test]
    fn the_columns_are_those_of_the_edge() {
        let model = ModelLabel { name: "a".into(), fingerprint: "b".into(), licence: "c".into() };
        let (pooling, rate) = (Pooling::Frames, Some(15.625));
        let spec = EmbeddingsSpec { layers: vec![6, 11], dim: 3, rate, pooling, sample_rate: 16_000, model };
        let schema = Embeddings::schema(&spec);
        assert_eq!(Embeddings::spec(&schema), Ok(spec));
        let column = Embeddings::vectors_column(3, &[]);
        assert_eq!(column.data_type(), schema.field_with_name("layer_11").expect("the second layer").data_type());
    }
}
