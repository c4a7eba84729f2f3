//! Typed access to columns, and tensors in fixed-size lists.

use std::any::type_name;
use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, FixedSizeListArray, Float32Array, ListArray, PrimitiveArray, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field, Schema};

use crate::SchemaError;

/// A column by name and array type.
///
/// # Errors
/// When there is no such column or it holds another type.
pub fn column<'a, A: Array + 'static>(batch: &'a RecordBatch, name: &str) -> Result<&'a A, SchemaError> {
    let error = |found: String| SchemaError::Column {
        column: name.to_owned(),
        expected: type_name::<A>().rsplit("::").next().unwrap_or_default().to_owned(),
        found,
    };
    let array = batch.column_by_name(name).ok_or_else(|| error("no such column".to_owned()))?;
    array.as_any().downcast_ref::<A>().ok_or_else(|| error(array.data_type().to_string()))
}

/// A fixed-size list that says it is a tensor: Arrow's canonical `arrow.fixed_shape_tensor`, which pyarrow turns into
/// NumPy arrays of that shape. `shape` lists (dimension name, length), slowest first.
pub fn fixed_tensor_field(name: &str, values: DataType, shape: &[(&str, usize)]) -> Field {
    let lengths: Vec<usize> = shape.iter().map(|dimension| dimension.1).collect();
    let names: Vec<&str> = shape.iter().map(|dimension| dimension.0).collect();
    let len = i32::try_from(lengths.iter().product::<usize>()).expect("bind keeps rows below 2^31 values");
    let item = tensor_item(values);
    let metadata = serde_json::json!({ "shape": lengths, "dim_names": names }).to_string();
    Field::new(name, DataType::FixedSizeList(item, len), false).with_metadata(HashMap::from([
        ("ARROW:extension:name".to_owned(), "arrow.fixed_shape_tensor".to_owned()),
        ("ARROW:extension:metadata".to_owned(), metadata),
    ]))
}

/// The values of a tensor. They are never null, but the storage of `arrow.fixed_shape_tensor` is defined as a list that
/// may hold nulls, and pyarrow forgets the tensor when it is another.
fn tensor_item(values: DataType) -> Arc<Field> {
    Arc::new(Field::new("item", values, true))
}

/// The shape that [`fixed_tensor_field`] noted for a column.
pub fn fixed_tensor_shape(schema: &Schema, name: &str) -> Option<Vec<usize>> {
    let metadata = schema.field_with_name(name).ok()?.metadata().get("ARROW:extension:metadata")?;
    let value: serde_json::Value = serde_json::from_str(metadata).ok()?;
    serde_json::from_value(value.get("shape")?.clone()).ok()
}

/// A column of equally long rows, `values` holding all of them one after the other.
///
/// # Panics
/// When `values` is not a whole number of rows of `len`.
pub fn fixed_tensor<T: ArrowPrimitiveType>(len: usize, values: Vec<T::Native>) -> ArrayRef {
    assert!(len > 0 && values.len().is_multiple_of(len), "{} values are not rows of {len}", values.len());
    let item = tensor_item(T::DATA_TYPE);
    let rows = PrimitiveArray::<T>::new(ScalarBuffer::from(values), None);
    let len = i32::try_from(len).expect("bind keeps rows below 2^31 values");
    Arc::new(FixedSizeListArray::new(item, len, Arc::new(rows), None))
}

/// Row `row` of a fixed-size list column.
///
/// # Errors
/// When the column is missing, is no fixed-size list, or holds another type.
pub fn fixed_values<'a, T: ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &str,
    row: usize,
) -> Result<&'a [T::Native], SchemaError> {
    let list = column::<FixedSizeListArray>(batch, name)?;
    let len = list.value_length() as usize;
    let start = (list.offset() + row) * len;
    // `values()` is not sliced by the list's offset when the list itself was sliced, but arrow slices it eagerly for
    // fixed-size lists, so `offset()` is 0 there; adding it keeps both conventions right.
    let values = list.values().as_any().downcast_ref::<PrimitiveArray<T>>().ok_or_else(|| SchemaError::Column {
        column: name.to_owned(),
        expected: T::DATA_TYPE.to_string(),
        found: list.values().data_type().to_string(),
    })?;
    Ok(&values.values()[start..start + len])
}

/// Row `row` of a list-of-f32 column.
///
/// # Errors
/// When the column is missing or holds another type.
pub fn list_values<'a>(batch: &'a RecordBatch, name: &str, row: usize) -> Result<&'a [f32], SchemaError> {
    let list = column::<ListArray>(batch, name)?;
    let values = list.values().as_any().downcast_ref::<Float32Array>().ok_or_else(|| SchemaError::Column {
        column: name.to_owned(),
        expected: "Float32".to_owned(),
        found: list.values().data_type().to_string(),
    })?;
    let (start, end) = (list.value_offsets()[row] as usize, list.value_offsets()[row + 1] as usize);
    Ok(&values.values()[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::UInt16Type;

    #[test]
    fn rows_survive_slicing() {
        let field = fixed_tensor_field("t", DataType::UInt16, &[("positions", 3), ("codebooks", 1)]);
        let schema = Arc::new(Schema::new(vec![field]));
        let column = fixed_tensor::<UInt16Type>(3, (0..12).collect());
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).expect("one column");
        assert_eq!(fixed_values::<UInt16Type>(&batch, "t", 2).expect("row"), [6, 7, 8]);
        assert_eq!(fixed_values::<UInt16Type>(&batch.slice(1, 2), "t", 1).expect("row"), [6, 7, 8]);
        assert_eq!(fixed_tensor_shape(&schema, "t"), Some(vec![3, 1]));
    }
}
