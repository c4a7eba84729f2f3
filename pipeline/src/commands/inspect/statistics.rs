//! What values the columns have.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt16Type};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use omar_schemas::{Edge, Tokens, TokensSpec, TrackId};
use omar_stages::quantize::CodeUsage;
use serde::Serialize;

use super::cells::{abbreviate, numbers, short};
use super::table::Table;
use crate::codebooks::{self, CodebookHealth};

/// How many different texts are counted.
const DISTINCT: usize = 1 << 16;

/// What values a column has.
#[derive(Debug, Serialize)]
pub(super) struct ColumnStatistics {
    column: String,
    values: Values,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Values {
    Numbers(Moments),
    Texts { distinct: usize, more: bool, most_frequent: Option<(String, u64)> },
    Codebooks(Vec<Codebook>),
}

/// How the codes of a codebook are used.
#[derive(Debug, Serialize)]
struct Codebook {
    #[serde(flatten)]
    health: CodebookHealth,
    out_of_range: bool,
}

/// Collects the values of one column.
pub(super) struct Collector {
    column: String,
    kind: Kind,
}

enum Kind {
    Numbers(Moments),
    Texts {
        counts: HashMap<String, u64>,
        more: bool,
    },
    /// Of positions that look at audio.
    Codebooks {
        spec: TokensSpec,
        usages: Vec<CodeUsage>,
        out_of_range: Vec<bool>,
    },
}

/// Collectors for all columns whose values can be described.
pub(super) fn collectors(schema: &Schema) -> Vec<Collector> {
    let spec = Tokens::spec(schema).ok();
    schema.fields().iter().filter_map(|field| Collector::new(field, spec.as_ref())).collect()
}

impl Collector {
    fn new(field: &Field, tokens: Option<&TokensSpec>) -> Option<Self> {
        let stream = tokens.and_then(|spec| {
            let stream = spec.streams.iter().find(|stream| stream.view == *field.name());
            stream.map(|stream| (spec, stream))
        });
        let numeric = match field.data_type() {
            DataType::FixedSizeList(item, _) | DataType::List(item) => item.data_type().is_numeric(),
            other => other.is_numeric() && field.name() != "track_id",
        };
        let text = field.name() == "track_id" || matches!(field.data_type(), DataType::Utf8 | DataType::Boolean);
        let kind = match stream {
            Some((spec, stream)) => Kind::Codebooks {
                spec: spec.clone(),
                usages: vec![CodeUsage::new(stream.codebook_size as usize); stream.codebooks as usize],
                out_of_range: vec![false; stream.codebooks as usize],
            },
            None if numeric => Kind::Numbers(Moments::default()),
            None if text => Kind::Texts { counts: HashMap::new(), more: false },
            None => return None,
        };
        Some(Self { column: field.name().clone(), kind })
    }

    /// Names of the columns that it needs.
    pub(super) fn columns(&self) -> Vec<&str> {
        match self.kind {
            Kind::Codebooks { .. } => vec!["audio_s", &self.column],
            Kind::Numbers(_) | Kind::Texts { .. } => vec![&self.column],
        }
    }

    /// Adds the values of a batch, which has its columns.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let missing = || ArrowError::SchemaError(format!("there is no column `{}`", self.column));
        let array = batch.column_by_name(&self.column).ok_or_else(missing)?;
        let flat = match array.data_type() {
            DataType::FixedSizeList(..) => array.as_fixed_size_list().values().clone(),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                let (start, end) = (list.value_offsets()[0], list.value_offsets()[list.len()]);
                list.values().slice(start as usize, (end - start) as usize)
            }
            _ => array.clone(),
        };
        match &mut self.kind {
            Kind::Numbers(moments) => moments.add(&flat)?,
            Kind::Texts { counts, more } => {
                for row in (0..array.len()).filter(|&row| array.is_valid(row)) {
                    let text = match array.data_type() {
                        DataType::UInt64 => {
                            TrackId(array.as_primitive::<arrow::datatypes::UInt64Type>().value(row)).to_string()
                        }
                        _ => array_value_to_string(array, row)?,
                    };
                    let room = counts.len() < DISTINCT;
                    match counts.entry(text) {
                        Entry::Occupied(mut count) => *count.get_mut() += 1,
                        Entry::Vacant(count) if room => _ = count.insert(1),
                        Entry::Vacant(_) => *more = true,
                    }
                }
            }
            Kind::Codebooks { spec, usages, out_of_range } => {
                let tokens = flat.as_primitive::<UInt16Type>().values();
                let (books, positions) = (usages.len(), spec.positions as usize);
                let audio_s = batch.column_by_name("audio_s").map(AsArray::as_primitive::<Float64Type>);
                for (row, tokens) in tokens.chunks_exact(positions * books).enumerate() {
                    let audible = audio_s.map_or(positions, |audio_s| spec.audible(audio_s.value(row)));
                    for (book, (usage, out)) in usages.iter_mut().zip(out_of_range.iter_mut()).enumerate() {
                        *out |= usage.add(tokens[..audible * books].iter().skip(book).step_by(books)).is_err();
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> ColumnStatistics {
        let values = match self.kind {
            Kind::Numbers(moments) => Values::Numbers(moments),
            Kind::Texts { counts, more } => {
                let distinct = counts.len();
                let most_frequent = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)));
                Values::Texts { distinct, more, most_frequent }
            }
            Kind::Codebooks { usages, out_of_range, .. } => {
                let books = usages.iter().zip(out_of_range).zip(0u32..);
                let book = |((usage, out_of_range), codebook): ((&CodeUsage, bool), u32)| Codebook {
                    health: CodebookHealth::new("", &self.column, codebook, usage),
                    out_of_range,
                };
                Values::Codebooks(books.map(book).collect())
            }
        };
        ColumnStatistics { column: self.column, values }
    }
}

/// Count, extremes, mean and spread, gathered in parts (Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise
/// algorithm for computing sample variances"), without the values that are no numbers.
#[derive(Debug, Default, Serialize)]
pub(super) struct Moments {
    count: u64,
    nulls: u64,
    nan: u64,
    infinite: u64,
    min: Option<f64>,
    mean: f64,
    max: Option<f64>,
    std: f64,
    #[serde(skip)]
    squares: f64,
}

impl Moments {
    fn add(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        self.nulls += array.null_count() as u64;
        let numbers = numbers(array)?;
        let (mut count, mut sum) = (0u64, 0.0);
        for number in numbers.iter().flatten() {
            if number.is_finite() {
                count += 1;
                sum += number;
                self.min = Some(self.min.map_or(number, |min| min.min(number)));
                self.max = Some(self.max.map_or(number, |max| max.max(number)));
            } else if number.is_nan() {
                self.nan += 1;
            } else {
                self.infinite += 1;
            }
        }
        if count == 0 {
            return Ok(());
        }
        let mean = sum / count as f64;
        let finite = numbers.iter().flatten().filter(|number| number.is_finite());
        let squares: f64 = finite.map(|number| (number - mean).powi(2)).sum();
        let (before, all) = (self.count as f64, (self.count + count) as f64);
        let apart = mean - self.mean;
        self.squares += squares + apart * apart * before * count as f64 / all;
        self.mean += apart * count as f64 / all;
        self.count += count;
        self.std = (self.squares / all).sqrt();
        Ok(())
    }
}

/// The statistics as tables.
pub(super) fn text(statistics: &[ColumnStatistics]) -> String {
    let mut moments =
        Table::new(&["numbers", "values>", "min>", "mean>", "max>", "std>", "null>", "NaN>", "infinite>"]);
    let mut texts = Table::new(&["texts", "different>", "most frequent", "times>"]);
    let mut codes = Table::new(&[
        "codebooks",
        "size>",
        "tokens>",
        "used>",
        "%>",
        "perplexity>",
        "bits>",
        "of>",
        "most frequent codes (%)",
    ]);
    let mut warnings = Vec::new();
    for ColumnStatistics { column, values } in statistics {
        match values {
            Values::Numbers(of) => {
                let extreme = |value: Option<f64>| value.map_or("-".to_owned(), short);
                let counts = [of.nulls, of.nan, of.infinite].map(|count| count.to_string());
                let mut row = vec![column.clone(), of.count.to_string(), extreme(of.min), short(of.mean)];
                row.extend([extreme(of.max), short(of.std)]);
                row.extend(counts);
                moments.row(row);
            }
            Values::Texts { distinct, more, most_frequent } => {
                let distinct = if *more { format!("> {distinct}") } else { distinct.to_string() };
                let (text, times) = most_frequent.clone().unwrap_or_default();
                texts.row(vec![column.clone(), distinct, abbreviate(&text), times.to_string()]);
            }
            Values::Codebooks(books) => {
                for Codebook { health: book, out_of_range } in books {
                    let percent = |count: u64| 100.0 * count as f64 / book.tokens.max(1) as f64;
                    let top = book.top.iter().map(|top| format!("{} ({:.2})", top.code, percent(top.count)));
                    let mut top: Vec<String> = top.collect();
                    if *out_of_range {
                        top.insert(0, "codes out of range!".to_owned());
                    }
                    codes.row(vec![
                        format!("{column}/{}", book.codebook),
                        book.size.to_string(),
                        book.tokens.to_string(),
                        book.used.to_string(),
                        format!("{:.1}", book.usage_percent),
                        format!("{:.1}", book.perplexity),
                        format!("{:.2}", book.entropy_bits),
                        format!("{:.2}", book.max_entropy_bits()),
                        top.join(", "),
                    ]);
                }
                let healths: Vec<CodebookHealth> = books.iter().map(|book| book.health.clone()).collect();
                warnings.extend(codebooks::warnings(&healths));
            }
        }
    }
    let shown = [&codes, &moments, &texts].map(|table| !table.is_empty());
    let warnings: String = warnings.into_iter().map(|line| line + "\n").collect();
    let tables = [codes.to_string() + &warnings, moments.to_string(), texts.to_string()];
    let tables = tables.into_iter().zip(shown).filter(|(_, shown)| *shown);
    tables.map(|(table, _)| table).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Float32Array;
    use std::sync::Arc;

    #[test]
    fn moments_gathered_in_parts_are_those_of_the_whole() {
        let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 3.0 + 100.0).collect();
        let array = |values: &[f32]| -> ArrayRef { Arc::new(Float32Array::from(values.to_vec())) };
        let (mut whole, mut parts) = (Moments::default(), Moments::default());
        whole.add(&array(&values)).expect("numbers");
        values.chunks(37).for_each(|part| parts.add(&array(part)).expect("numbers"));
        parts.add(&array(&[f32::NAN, f32::INFINITY])).expect("numbers");
        assert!((whole.mean - parts.mean).abs() < 1e-9 && (whole.std - parts.std).abs() < 1e-9);
        assert!((whole.std - 3.0 / 2f64.sqrt()).abs() < 0.01, "{}", whole.std);
        assert_eq!((parts.min, parts.max, parts.count), (whole.min, whole.max, 1000));
        assert_eq!((parts.nan, parts.infinite), (1, 1));
    }
}
