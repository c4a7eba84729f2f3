//! Reading a list of recordings: CSV, TSV, JSON lines or parquet, with a column `path` and optionally `id`, `split`,
//! `hash` and `bytes`.
//!
//! Other columns are ignored. Everything that is wrong is an error that names the file and the line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use omar_schemas::Split;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::{ChunkReader, Length};

use super::location::{Content, Handle, Location};
use super::objects::Stores;

/// The extensions of the formats.
pub const FORMATS: [&str; 5] = ["csv", "tsv", "jsonl", "ndjson", "parquet"];

const COLUMNS: [&str; 5] = ["path", "id", "split", "hash", "bytes"];

/// The values of a row, in the order of [`COLUMNS`].
type Values<T> = [Option<T>; COLUMNS.len()];

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands: the line, or the row of a parquet file, from 1.
    pub line: u64,
    /// As written.
    pub path: String,
    /// As written, if it is.
    pub id: Option<String>,
    /// What it is used for, if the list says so.
    pub split: Option<Split>,
    /// A hash of the content as written, if it is.
    pub hash: Option<String>,
    /// Size in bytes, if it is written.
    pub bytes: Option<u64>,
}

/// A list cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("`{list}`{}: {message}", line.map_or(String::new(), |line| format!(", line {line}")))]
pub struct ManifestError {
    /// The list.
    pub list: String,
    /// From 1, where there is one.
    pub line: Option<u64>,
    /// What is wrong.
    pub message: String,
}

/// Calls `found` for every entry, in the order of the list.
///
/// # Errors
/// When the list cannot be read, has no column `path`, or an entry is malformed.
pub fn read(
    location: &Location,
    stores: &Stores,
    found: &mut dyn FnMut(Entry) -> Result<(), ManifestError>,
) -> Result<(), ManifestError> {
    let list = List { location };
    let refused = |error: std::io::Error| match super::location::store_error(&error) {
        Some(store) => list.error(None, store.message.clone()),
        None => list.error(None, error.to_string()),
    };
    let handle = location.handle(stores).map_err(refused)?;
    let open = || handle.open().map_err(refused);
    match location.extension() {
        Some("csv") => list.delimited(open()?, b',', found),
        Some("tsv") => list.delimited(open()?, b'\t', found),
        Some("jsonl" | "ndjson") => list.json_lines(open()?, found),
        Some("parquet") => match handle {
            Handle::File(path) => list.parquet(File::open(path).map_err(refused)?, found),
            Handle::Object(_) => list.parquet(Chunks { content: Arc::new(Mutex::new(open()?)) }, found),
        },
        _ => Err(list.error(None, format!("expected a list that ends in .{}", FORMATS.join(", .")))),
    }
}

struct List<'a> {
    location: &'a Location,
}

/// An object as the reader of parquet wants it: its parts, in any order, through the blocks of one reader.
struct Chunks {
    content: Arc<Mutex<Content>>,
}

/// Reads on from a place.
struct Chunk {
    content: Arc<Mutex<Content>>,
    at: u64,
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.content.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl ChunkReader for Chunks {
    type T = BufReader<Chunk>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(Chunk { content: self.content.clone(), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<bytes::Bytes> {
        let mut bytes = vec![0; length];
        Chunk { content: self.content.clone(), at: start }.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

impl Read for Chunk {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        content.seek(SeekFrom::Start(self.at))?;
        let read = content.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

type Found<'a> = &'a mut dyn FnMut(Entry) -> Result<(), ManifestError>;

impl List<'_> {
    fn error(&self, line: Option<u64>, message: impl Into<String>) -> ManifestError {
        ManifestError { list: self.location.to_string(), line, message: message.into() }
    }

    /// Positions of [`COLUMNS`] among `names`.
    fn columns<'n>(&self, names: impl Iterator<Item = &'n str> + Clone) -> Result<Values<usize>, ManifestError> {
        let positions = COLUMNS.map(|column| names.clone().position(|name| name == column));
        if positions[0].is_none() {
            let found: Vec<String> = names.map(|name| format!("`{name}`")).collect();
            return Err(self.error(None, format!("expected a column `path`, found {}", found.join(", "))));
        }
        Ok(positions)
    }

    fn entry(&self, line: u64, [path, id, split, hash, bytes]: Values<&str>) -> Result<Entry, ManifestError> {
        let filled = |value: Option<&str>| value.filter(|value| !value.is_empty()).map(str::to_owned);
        let path = filled(path).ok_or_else(|| self.error(Some(line), "`path` is empty"))?;
        let split = filled(split).map(|split| {
            Split::parse(&split)
                .ok_or_else(|| self.error(Some(line), format!("expected split train, valid or test, found `{split}`")))
        });
        let bytes = filled(bytes).map(|bytes| {
            let message = || format!("expected `bytes` as a whole number, found `{bytes}`");
            bytes.parse().map_err(|_| self.error(Some(line), message()))
        });
        let (split, bytes) = (split.transpose()?, bytes.transpose()?);
        Ok(Entry { line, path, id: filled(id), split, hash: filled(hash), bytes })
    }

    fn delimited(&self, file: Content, delimiter: u8, found: Found<'_>) -> Result<(), ManifestError> {
        let mut input = BufReader::new(file);
        skip_byte_order_mark(&mut input).map_err(|error| self.error(None, error.to_string()))?;
        // Where lines end in CR LF, the csv crate counts the LF as part of the next record.
        let ends_late = u64::from(input.buffer().windows(2).any(|pair| pair == b"\r\n"));
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).trim(csv::Trim::Headers).from_reader(input);
        let headers = reader.headers().map_err(|error| self.csv_error(&error, 0))?.clone();
        let expected = if delimiter == b',' { "commas" } else { "tabs" };
        if headers.len() <= 1 && headers.get(0).is_some_and(|header| header.contains([',', ';', '\t', '|'])) {
            let header = headers.get(0).unwrap_or_default();
            let message =
                format!("expected columns separated by {expected}, found the header `{}`", header.escape_debug());
            return Err(self.error(Some(1), message));
        }
        let columns = self.columns(headers.iter())?;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| self.csv_error(&error, ends_late))? {
            let line = record.position().map_or(0, csv::Position::line) + ends_late;
            found(self.entry(line, columns.map(|column| column.and_then(|column| record.get(column))))?)?;
        }
        Ok(())
    }

    fn csv_error(&self, error: &csv::Error, ends_late: u64) -> ManifestError {
        let line = error.position().map(|position| position.line() + ends_late);
        let message = match error.kind() {
            csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
                format!("expected {expected_len} fields as in the header, found {len}")
            }
            csv::ErrorKind::Utf8 { err, .. } => format!("field {} is not valid UTF-8", err.field() + 1),
            csv::ErrorKind::Io(error) => error.to_string(),
            _ => error.to_string(),
        };
        self.error(line, message)
    }

    fn json_lines(&self, file: Content, found: Found<'_>) -> Result<(), ManifestError> {
        let mut input = BufReader::new(file);
        skip_byte_order_mark(&mut input).map_err(|error| self.error(None, error.to_string()))?;
        for (line, text) in (1..).zip(input.lines()) {
            let text = text.map_err(|error| self.error(Some(line), error.to_string()))?;
            if text.trim().is_empty() {
                continue;
            }
            let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).map_err(|error| {
                self.error(Some(line), format!("expected a JSON object, column {}: {error}", error.column()))
            })?;
            let mut values: Values<String> = Default::default();
            for (value, column) in values.iter_mut().zip(COLUMNS) {
                *value = match object.get(column) {
                    None | Some(serde_json::Value::Null) => None,
                    Some(serde_json::Value::String(text)) => Some(text.clone()),
                    Some(serde_json::Value::Number(number)) if matches!(column, "id" | "bytes") => {
                        Some(number.to_string())
                    }
                    Some(other) => {
                        return Err(self.error(Some(line), format!("expected text in `{column}`, found {other}")));
                    }
                };
            }
            if !object.contains_key("path") {
                self.columns(object.keys().map(String::as_str))
                    .map_err(|error| self.error(Some(line), error.message))?;
            }
            found(self.entry(line, values.each_ref().map(Option::as_deref))?)?;
        }
        Ok(())
    }

    fn parquet(&self, file: impl ChunkReader + 'static, found: Found<'_>) -> Result<(), ManifestError> {
        let refused = |error: parquet::errors::ParquetError| self.error(None, error.to_string());
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(refused)?;
        let columns = self.columns(builder.schema().fields().iter().map(|field| field.name().as_str()))?;
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns.into_iter().flatten());
        let mut row = 0;
        for batch in builder.with_projection(mask).build().map_err(refused)? {
            let batch = batch.map_err(|error| self.error(None, error.to_string()))?;
            let mut texts: Values<StringArray> = Default::default();
            for (text, name) in texts.iter_mut().zip(COLUMNS) {
                if let Some(column) = batch.column_by_name(name) {
                    let column = cast(column, &DataType::Utf8)
                        .map_err(|error| self.error(None, format!("expected text in `{name}`: {error}")))?;
                    *text = column.as_any().downcast_ref::<StringArray>().cloned();
                }
            }
            for index in 0..batch.num_rows() {
                row += 1;
                let value = |text: &'_ Option<StringArray>| -> Option<String> {
                    text.as_ref().filter(|text| text.is_valid(index)).map(|text| text.value(index).to_owned())
                };
                let values = texts.each_ref().map(value);
                found(self.entry(row, values.each_ref().map(Option::as_deref))?)?;
            }
        }
        Ok(())
    }
}

fn skip_byte_order_mark(input: &mut BufReader<Content>) -> std::io::Result<()> {
    if input.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        input.read_exact(&mut [0; 3])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(name: &str, content: &[u8]) -> Result<Vec<Entry>, String> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("write");
        let mut entries = Vec::new();
        let result = read(&Location::File(path), Stores::shared(), &mut |entry| {
            entries.push(entry);
            Ok(())
        });
        result.map(|()| entries).map_err(|error| error.to_string().replace(&folder.path().display().to_string(), ""))
    }

    fn entry(line: u64, path: &str, id: Option<&str>, split: Option<Split>) -> Entry {
        Entry { line, path: path.to_owned(), id: id.map(str::to_owned), split, hash: None, bytes: None }
    }

    #[test]
    fn hashes_and_sizes_are_taken_as_they_stand() {
        let expected = Entry { hash: Some("ab12".into()), bytes: Some(7), ..entry(2, "a.wav", None, None) };
        assert_eq!(entries("l.csv", b"path,hash,bytes\na.wav,ab12,7\n"), Ok(vec![expected]));
        let error = entries("l.jsonl", b"{\"path\": \"a.wav\", \"bytes\": 1.5}").expect_err("half a byte");
        assert_eq!(error, "`/l.jsonl`, line 1: expected `bytes` as a whole number, found `1.5`");
    }

    #[test]
    fn all_formats_say_the_same() {
        let expected = vec![entry(2, "a b.wav", Some("7"), Some(Split::Test)), entry(3, "c,d.wav", None, None)];
        let csv = entries("l.csv", b"\xef\xbb\xbfpath,bpm, split ,id\r\na b.wav,120,test,7\r\n\"c,d.wav\",,,\r\n");
        assert_eq!(csv.as_ref(), Ok(&expected));
        let tsv = entries("l.tsv", b"id\tpath\tsplit\n7\ta b.wav\ttest\n\tc,d.wav\t\n");
        assert_eq!(tsv.as_ref(), Ok(&expected));
        let jsonl = br#"
            {"path": "a b.wav", "id": 7, "split": "test", "tags": ["x"]}
            {"path": "c,d.wav", "split": null}"#;
        assert_eq!(entries("l.jsonl", jsonl).as_ref(), Ok(&expected));
    }

    #[test]
    fn mistakes_are_reported_with_their_line() {
        let error = |name: &str, content: &[u8]| entries(name, content).expect_err("a mistake");
        assert_eq!(
            error("l.csv", b"file,split\nx,train\n"),
            "`/l.csv`: expected a column `path`, found `file`, `split`"
        );
        assert_eq!(
            error("l.csv", b"path;split\nx;train\n"),
            "`/l.csv`, line 1: expected columns separated by commas, found the header `path;split`"
        );
        assert_eq!(
            error("l.csv", b"path,split\nx,train\ny,validation\n"),
            "`/l.csv`, line 3: expected split train, valid or test, found `validation`"
        );
        assert_eq!(error("l.csv", b"path,split\nx\n"), "`/l.csv`, line 2: expected 2 fields as in the header, found 1");
        assert_eq!(error("l.csv", b"path,id\n,1\n"), "`/l.csv`, line 2: `path` is empty");
        assert_eq!(error("l.csv", b"path\n\xff.wav\n"), "`/l.csv`, line 2: field 1 is not valid UTF-8");
        assert!(error("l.jsonl", b"{\"path\": \"x\"}\n[1]\n").contains("line 2: expected a JSON object"));
        assert_eq!(
            error("l.jsonl", b"{\"file\": \"x\"}\n"),
            "`/l.jsonl`, line 1: expected a column `path`, found `file`"
        );
        assert!(error("l.xlsx", b"").contains("expected a list that ends in .csv"));
        assert!(error("l.parquet", b"not parquet").starts_with("`/l.parquet`: "));
    }
}
