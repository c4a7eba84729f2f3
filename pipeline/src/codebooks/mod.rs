//! The health of codebooks: how evenly the codes of a run's tokens are used.
//!
//! A frozen quantizer cannot be mended while a model trains on it, so its health is looked at before: at the end of
//! every run there is a [table](mod@table) with warnings, and in the run folder `codebooks.parquet` (all there is, see
//! [`omar_schemas::Codebooks`]) and a [picture](mod@picture). What it is computed from is in [`crate::exec`] (`codes`).

mod picture;
mod table;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, ListArray, RecordBatch, StringArray, StructArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, UInt64Type};
use omar_schemas::{Codebooks, CodebooksSpec, Edge, Tokens, column};
use omar_stages::quantize::CodeUsage;
use omar_stages::storage::StorageError;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use crate::exec::codes::CodeTotals;
use crate::files::{WriteError, write_parquet, write_text};
use crate::plan::Plan;

pub(crate) use picture::draw as picture;
pub(crate) use table::{table, warnings};

/// Names of the files in a run folder.
pub(crate) const TABLE_FILE: &str = "codebooks.parquet";
const PICTURE_FILE: &str = "codebooks.svg";

/// How many of the most frequent codes are listed.
const TOP: usize = 5;

/// How evenly the codes of a codebook are used.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CodebookHealth {
    /// Node.
    pub node: String,
    /// View.
    pub view: String,
    /// Codebook of the view.
    pub codebook: u32,
    /// Codes that exist.
    pub size: u32,
    /// Tokens counted.
    pub tokens: u64,
    /// Codes that occur.
    pub used: u64,
    /// The same as a share of `size`, in percent.
    pub usage_percent: f64,
    /// How many equally frequent codes would be as hard to predict.
    pub perplexity: f64,
    /// Entropy of the codes, at most log2 of `size`.
    pub entropy_bits: f64,
    /// The most frequent codes, most frequent first.
    pub top: Vec<CodeCount>,
    /// What is wrong with it, if it has collapsed.
    pub collapse: Option<String>,
    /// How often each code occurs.
    #[serde(skip)]
    pub counts: Vec<u64>,
}

/// A code and how often it occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CodeCount {
    /// Code.
    pub code: u32,
    /// How often.
    pub count: u64,
}

impl CodebookHealth {
    /// From counts.
    pub fn new(node: &str, view: &str, codebook: u32, usage: &CodeUsage) -> Self {
        let top = usage.top(TOP).into_iter().map(|(code, count)| CodeCount { code: u32::from(code), count });
        Self {
            node: node.to_owned(),
            view: view.to_owned(),
            codebook,
            size: usage.counts().len() as u32,
            tokens: usage.total(),
            used: usage.used() as u64,
            usage_percent: usage.usage_percent(),
            perplexity: usage.perplexity(),
            entropy_bits: usage.entropy_bits(),
            top: top.collect(),
            collapse: usage.collapse().map(|collapse| collapse.to_string()),
            counts: usage.counts().to_vec(),
        }
    }

    /// Share of the tokens that the most frequent code has, in percent.
    pub fn top_percent(&self) -> f64 {
        100.0 * self.top.first().map_or(0, |top| top.count) as f64 / self.tokens.max(1) as f64
    }

    /// The entropy that equally frequent codes would have, in bits.
    pub fn max_entropy_bits(&self) -> f64 {
        f64::from(self.size.max(1)).log2()
    }

    /// `node/view`, or the view alone where there is no node.
    pub fn stream(&self) -> String {
        if self.node.is_empty() { self.view.clone() } else { format!("{}/{}", self.node, self.view) }
    }
}

/// The codebooks of all nodes of a plan that have been counted, in the order of the graph.
pub(crate) fn of_run(plan: &Plan, totals: &CodeTotals) -> Vec<CodebookHealth> {
    let mut books = Vec::new();
    for (node, index) in plan.nodes.iter().zip(0u32..) {
        let Ok(spec) = Tokens::spec(&node.schema) else { continue };
        for (stream, view) in spec.streams.iter().zip(0u32..) {
            for codebook in 0..stream.codebooks {
                let usage = totals.usage((index, view, codebook), stream.codebook_size);
                books.push(CodebookHealth::new(&node.id, &stream.view, codebook, &usage));
            }
        }
    }
    books.retain(|book| book.tokens > 0);
    books
}

/// Writes table and picture into a run folder. Nodes that this part of a run did not count, since they were counted
/// before it was continued, stay as they are.
pub(crate) fn write(folder: &Path, name: &str, books: &[CodebookHealth]) -> Result<(), WriteError> {
    if books.is_empty() {
        return Ok(());
    }
    let path = folder.join(TABLE_FILE);
    let mut all = read(&path).unwrap_or_default();
    all.retain(|old| books.iter().all(|book| book.node != old.node));
    all.extend_from_slice(books);
    write_parquet(&path, &[batch(&all)])?;
    write_text(&folder.join(PICTURE_FILE), &picture::draw(name, &all))
}

/// Reads a table. Empty when there is none.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<CodebookHealth>, StorageError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StorageError::io(path, error)),
    };
    let damaged = |source| StorageError::Parquet { path: path.to_owned(), source };
    let strange = |message: String| StorageError::Content { path: path.to_owned(), message };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).map_err(damaged)?;
    Codebooks::spec(reader.schema()).map_err(|error| strange(error.to_string()))?;
    let mut books = Vec::new();
    for batch in reader.build().map_err(damaged)? {
        let batch = batch.map_err(|error| damaged(error.into()))?;
        books.extend(books_of(&batch).map_err(|error| strange(error.to_string()))?);
    }
    Ok(books)
}

/// The rows of a table. Only the counts are read: the rest follows from them.
fn books_of(batch: &RecordBatch) -> Result<Vec<CodebookHealth>, omar_schemas::SchemaError> {
    let (nodes, views) = (column::<StringArray>(batch, "node")?, column::<StringArray>(batch, "view")?);
    let (codebooks, counts) = (column::<UInt32Array>(batch, "codebook")?, column::<ListArray>(batch, "counts")?);
    let book = |row| {
        let usage = CodeUsage::from_counts(counts.value(row).as_primitive::<UInt64Type>().values().to_vec());
        CodebookHealth::new(nodes.value(row), views.value(row), codebooks.value(row), &usage)
    };
    Ok((0..batch.num_rows()).map(book).collect())
}

fn batch(books: &[CodebookHealth]) -> RecordBatch {
    let text = |column: fn(&CodebookHealth) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(books.iter().map(column)))
    };
    let small = |column: fn(&CodebookHealth) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(books.iter().map(column)))
    };
    let large = |column: fn(&CodebookHealth) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(books.iter().map(column)))
    };
    let real = |column: fn(&CodebookHealth) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(books.iter().map(column)))
    };
    let list = |lengths: fn(&CodebookHealth) -> usize, values: ArrayRef| -> ArrayRef {
        let item = Arc::new(Field::new("item", values.data_type().clone(), false));
        Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(books.iter().map(lengths)), values, None))
    };
    let top: Vec<CodeCount> = books.iter().flat_map(|book| book.top.iter().copied()).collect();
    let top = StructArray::new(
        Codebooks::top_fields(),
        vec![
            Arc::new(UInt32Array::from_iter_values(top.iter().map(|top| top.code))) as ArrayRef,
            Arc::new(UInt64Array::from_iter_values(top.iter().map(|top| top.count))),
        ],
        None,
    );
    let counts = UInt64Array::from_iter_values(books.iter().flat_map(|book| book.counts.iter().copied()));
    let columns = vec![
        text(|book| &book.node),
        text(|book| &book.view),
        small(|book| book.codebook),
        small(|book| book.size),
        large(|book| book.tokens),
        large(|book| book.used),
        real(|book| book.usage_percent),
        real(|book| book.perplexity),
        real(|book| book.entropy_bits),
        list(|book| book.top.len(), Arc::new(top)),
        list(|book| book.counts.len(), Arc::new(counts)),
        Arc::new(StringArray::from_iter(books.iter().map(|book| book.collapse.as_deref()))),
    ];
    RecordBatch::try_new(Codebooks::schema(&CodebooksSpec {}), columns).expect("columns are those of the edge")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A codebook whose codes are as frequent as a power of their rank.
    pub(super) fn book(view: &str, codebook: u32, size: u32, exponent: f64) -> CodebookHealth {
        let count = |rank: u32| (1e5 * f64::from(rank + 1).powf(-exponent)) as u64;
        CodebookHealth::new("tokens", view, codebook, &CodeUsage::from_counts((0..size).map(count).collect()))
    }

    #[test]
    fn a_table_is_read_as_it_was_written_and_keeps_nodes_that_were_not_counted_again() {
        let folder = tempfile::tempdir().expect("folder");
        assert_eq!(read(&folder.path().join(TABLE_FILE)).expect("nothing there"), []);
        let books = [book("mel", 0, 64, 0.5), book("mel", 1, 64, 4.0), book("waveform", 0, 16, 0.0)];
        assert_eq!(books.each_ref().map(|book| book.collapse.is_some()), [false, true, false]);
        write(folder.path(), "test", &books).expect("written");
        assert_eq!(read(&folder.path().join(TABLE_FILE)).expect("read"), books);
        let other = CodebookHealth { node: "others".to_owned(), ..books[2].clone() };
        write(folder.path(), "test", std::slice::from_ref(&other)).expect("written");
        let [a, b, c] = books;
        assert_eq!(read(&folder.path().join(TABLE_FILE)).expect("read"), [a, b, c, other]);
    }
}
