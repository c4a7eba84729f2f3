//! Values as people want to see them.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, UInt64Type};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use omar_schemas::TrackId;
use serde_json::{Value, json};

/// How many values of a tensor are shown.
const SHOWN: usize = 4;
/// How many characters of a text are shown.
const TEXT: usize = 44;

/// A value: for people, and for programs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) json: Value,
}

impl serde::Serialize for Cell {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

/// Row `row` of a column.
pub(super) fn cell(field: &Field, array: &ArrayRef, row: usize) -> Result<Cell, ArrowError> {
    if array.is_null(row) {
        return Ok(Cell { text: "-".to_owned(), json: Value::Null });
    }
    Ok(match array.data_type() {
        DataType::UInt64 if field.name() == "track_id" => {
            let id = TrackId(array.as_primitive::<UInt64Type>().value(row)).to_string();
            Cell { json: json!(id), text: id }
        }
        DataType::FixedSizeList(..) => tensor(&array.as_fixed_size_list().value(row))?,
        DataType::List(_) => tensor(&array.as_list::<i32>().value(row))?,
        kind if kind.is_numeric() => {
            let number = numbers(&array.slice(row, 1))?.value(0);
            let json = if kind.is_floating() { json!(number) } else { json!(number as i64) };
            Cell { text: short(number), json }
        }
        _ => {
            let text = array_value_to_string(array, row)?;
            Cell { text: abbreviate(&text), json: json!(text) }
        }
    })
}

fn tensor(values: &ArrayRef) -> Result<Cell, ArrowError> {
    if !values.data_type().is_numeric() {
        let text = format!("{} values", values.len());
        return Ok(Cell { json: json!({ "len": values.len() }), text });
    }
    let numbers = numbers(values)?;
    let first: Vec<f64> = numbers.values().iter().take(SHOWN).copied().collect();
    let mut words: Vec<String> = first.iter().map(|&number| short(number)).collect();
    if numbers.len() > SHOWN {
        words.push("...".to_owned());
    }
    Ok(Cell { text: format!("[{}]", words.join(" ")), json: json!({ "len": numbers.len(), "first": first }) })
}

/// A column of numbers as f64.
pub(super) fn numbers(array: &dyn Array) -> Result<Float64Array, ArrowError> {
    Ok(cast(array, &DataType::Float64)?.as_primitive().clone())
}

/// A type, and the shape of its tensors.
pub(super) fn type_words(field: &Field) -> (String, String) {
    match field.data_type() {
        DataType::FixedSizeList(item, len) => {
            let shape = shape(field).unwrap_or_else(|| format!("({len})"));
            (type_words(item).0, shape)
        }
        DataType::List(item) => (format!("list of {}", type_words(item).0), String::new()),
        DataType::Utf8 | DataType::LargeUtf8 => ("text".to_owned(), String::new()),
        DataType::Float32 => ("f32".to_owned(), String::new()),
        DataType::Float64 => ("f64".to_owned(), String::new()),
        kind if kind.is_unsigned_integer() => (kind.to_string().replace("UInt", "u"), String::new()),
        kind if kind.is_signed_integer() => (kind.to_string().replace("Int", "i"), String::new()),
        other => (other.to_string(), String::new()),
    }
}

/// `(positions 750, codebooks 1)`, as `arrow.fixed_shape_tensor` notes it.
fn shape(field: &Field) -> Option<String> {
    let metadata: Value = serde_json::from_str(field.metadata().get("ARROW:extension:metadata")?).ok()?;
    let (lengths, names) = (metadata.get("shape")?.as_array()?, metadata.get("dim_names")?.as_array()?);
    let dimensions = names.iter().zip(lengths).map(|(name, len)| format!("{} {len}", name.as_str().unwrap_or("?")));
    Some(format!("({})", dimensions.collect::<Vec<_>>().join(", ")))
}

/// A number with four digits.
pub(super) fn short(number: f64) -> String {
    if number == number.trunc() && number.abs() < 1e15 {
        return format!("{number}");
    }
    let magnitude = number.abs().log10().floor();
    if !(-4.0..6.0).contains(&magnitude) {
        return format!("{number:.3e}");
    }
    let digits = (3.0 - magnitude).max(0.0) as usize;
    format!("{number:.digits$}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The end of a long text says more than its beginning: it is mostly paths.
pub(super) fn abbreviate(text: &str) -> String {
    let len = text.chars().count();
    if len <= TEXT { text.to_owned() } else { format!("...{}", text.chars().skip(len - TEXT + 3).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_schemas::{fixed_tensor, fixed_tensor_field};
    use std::sync::Arc;

    #[test]
    fn numbers_have_four_digits_and_tensors_a_beginning() {
        let shown: Vec<String> =
            [0.0, 3.0, -1.5, 0.123_456, 1234.56, 1e-9, 1.5e20, f64::NAN].into_iter().map(short).collect();
        assert_eq!(shown, ["0", "3", "-1.5", "0.1235", "1235", "1.000e-9", "1.500e20", "NaN"]);
        let field = fixed_tensor_field("mel", DataType::Float32, &[("frames", 3), ("bins", 2)]);
        let column = fixed_tensor::<arrow::datatypes::Float32Type>(6, (0..12).map(|i| i as f32 / 3.0).collect());
        assert_eq!(cell(&field, &column, 1).expect("cell").text, "[2 2.333 2.667 3 ...]");
        assert_eq!(type_words(&field), ("f32".to_owned(), "(frames 3, bins 2)".to_owned()));
    }

    #[test]
    fn ids_are_hexadecimal_and_long_paths_lose_their_beginning() {
        let ids: ArrayRef = Arc::new(arrow::array::UInt64Array::from(vec![u64::MAX]));
        let field = Field::new("track_id", DataType::UInt64, false);
        assert_eq!(cell(&field, &ids, 0).expect("cell").json, json!("ffffffffffffffff"));
        let path = format!("{}/song.flac", "folder/".repeat(10));
        assert!(abbreviate(&path).ends_with("/song.flac") && abbreviate(&path).starts_with("..."));
        assert_eq!(abbreviate(&path).chars().count(), TEXT);
    }
}
