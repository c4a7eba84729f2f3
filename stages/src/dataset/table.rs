//! Tables with named columns: CSV, TSV (also under the name of the other) and JSON lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use super::error::{DatasetError, Problem, ProblemKind};

/// The cells of the columns that were asked for, in that order; a missing or empty cell has no value, one of a JSON
/// list several.
pub(super) type Cells<'a> = &'a [Vec<String>];

/// Called with the line and the cells of a row.
type Found<'a> = &'a mut dyn FnMut(u64, Cells<'_>);

/// Which columns to read.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    /// Without one of these there is nothing to read.
    pub(super) required: &'a [&'a str],
    /// These come after them.
    pub(super) optional: &'a [&'a str],
}

impl Columns<'_> {
    fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.required.iter().chain(self.optional).copied()
    }

    fn missing(&self, found: &[&str]) -> Option<String> {
        let missing = self.required.iter().find(|column| !found.contains(column))?;
        Some(format!("expected a column `{missing}`, found `{}`", found.join("`, `")))
    }
}

/// Calls `found` for every row that has as many cells as its table; the others are problems.
pub(super) fn read(
    path: &Path,
    columns: Columns<'_>,
    problems: &mut Vec<Problem>,
    found: Found<'_>,
) -> Result<(), DatasetError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension {
        "jsonl" | "ndjson" => json_lines(path, columns, problems, found),
        _ => delimited(path, columns, problems, found),
    }
}

/// A reader of CSV or TSV, whichever the header says; its header; and how many lines its count is behind.
///
/// Some tables of tabs are named `.csv`, so the name does not count.
pub(super) fn open(path: &Path) -> Result<(csv::Reader<impl Read>, csv::StringRecord, u64), DatasetError> {
    let io = |error: std::io::Error| DatasetError::io(path, &error);
    let mut input = BufReader::with_capacity(1 << 16, File::open(path).map_err(io)?);
    if input.fill_buf().map_err(io)?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    let seen = input.fill_buf().map_err(io)?;
    let header = seen.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let delimiter = if header.contains(&b'\t') { b'\t' } else { b',' };
    // Where lines end in CR LF, the csv crate counts the LF as part of the next record.
    let late = u64::from(header.ends_with(b"\r") && header.len() < seen.len());
    let mut reader =
        csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).trim(csv::Trim::Headers).from_reader(input);
    let header = reader.headers().map_err(|error| DatasetError::file(path, 1, error.to_string()))?.clone();
    Ok((reader, header, late))
}

fn delimited(
    path: &Path,
    columns: Columns<'_>,
    problems: &mut Vec<Problem>,
    found: Found<'_>,
) -> Result<(), DatasetError> {
    let (mut reader, header, late) = open(path)?;
    let names: Vec<&str> = header.iter().collect();
    if let Some(message) = columns.missing(&names) {
        return Err(DatasetError::file(path, 1, message));
    }
    let places: Vec<Option<usize>> =
        columns.names().map(|column| names.iter().position(|name| *name == column)).collect();
    let mut cells = vec![Vec::new(); places.len()];
    let mut record = csv::StringRecord::new();
    while next(path, &mut reader, late, &mut record, problems)? {
        let line = record.position().map_or(0, csv::Position::line) + late;
        if record.len() != names.len() {
            problems.push(unequal(path, line, names.len(), record.len()));
            continue;
        }
        for (cell, place) in cells.iter_mut().zip(&places) {
            let value = place.and_then(|place| record.get(place)).map(str::trim).filter(|value| !value.is_empty());
            cell.clear();
            cell.extend(value.map(str::to_owned));
        }
        found(line, &cells);
    }
    Ok(())
}

/// The next record; those that are no UTF-8 are problems.
pub(super) fn next(
    path: &Path,
    reader: &mut csv::Reader<impl Read>,
    late: u64,
    record: &mut csv::StringRecord,
    problems: &mut Vec<Problem>,
) -> Result<bool, DatasetError> {
    loop {
        let error = match reader.read_record(record) {
            Ok(more) => return Ok(more),
            Err(error) => error,
        };
        let line = error.position().map(|position| position.line() + late);
        match error.kind() {
            csv::ErrorKind::Utf8 { err, .. } => {
                let message =
                    format!("expected UTF-8 in field {}, found other bytes; the row is left out", err.field() + 1);
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            }
            _ => return Err(DatasetError::file(path, line, error.to_string())),
        }
    }
}

/// A row with too few or too many cells.
pub(super) fn unequal(path: &Path, line: u64, expected: usize, found: usize) -> Problem {
    let message = format!("expected {expected} fields as in the header, found {found}; the row is left out");
    Problem::new(ProblemKind::MalformedLine, path, line, message)
}

fn json_lines(
    path: &Path,
    columns: Columns<'_>,
    problems: &mut Vec<Problem>,
    found: Found<'_>,
) -> Result<(), DatasetError> {
    let io = |error: std::io::Error| DatasetError::io(path, &error);
    let mut input = BufReader::new(File::open(path).map_err(io)?);
    if input.fill_buf().map_err(io)?.starts_with(b"\xef\xbb\xbf") {
        input.consume(3);
    }
    for (line, text) in (1..).zip(input.split(b'\n')) {
        let text = text.map_err(io)?;
        if text.trim_ascii().is_empty() {
            continue;
        }
        match json_cells(&text, columns) {
            Ok(cells) => found(line, &cells),
            Err(message) => {
                let message = format!("{message}; the line is left out");
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            }
        }
    }
    Ok(())
}

fn json_cells(text: &[u8], columns: Columns<'_>) -> Result<Vec<Vec<String>>, String> {
    let object: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(text).map_err(|error| format!("expected a JSON object, found: {error}"))?;
    let names: Vec<&str> = object.keys().map(String::as_str).collect();
    if let Some(message) = columns.missing(&names) {
        return Err(message);
    }
    columns.names().map(|column| object.get(column).map_or(Ok(Vec::new()), |value| cell(column, value))).collect()
}

fn cell(column: &str, value: &serde_json::Value) -> Result<Vec<String>, String> {
    use serde_json::Value::{Array, Null, Number, String as Text};
    let scalar = |value: &serde_json::Value| match value {
        Text(text) => Ok(text.trim().to_owned()),
        Number(number) => Ok(number.to_string()),
        other => Err(format!("expected text or a number in `{column}`, found {other}")),
    };
    Ok(match value {
        Null => Vec::new(),
        Array(items) => items.iter().map(scalar).collect::<Result<_, _>>()?,
        value => vec![scalar(value)?].into_iter().filter(|text| !text.is_empty()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::Folder;
    use super::*;

    type Rows = Vec<(u64, Vec<String>)>;

    fn rows(name: &str, content: &[u8]) -> Result<(Rows, Vec<String>), String> {
        let folder = Folder::new(&[(name, content)]);
        let (mut rows, mut problems) = (Vec::new(), Vec::new());
        let columns = Columns { required: &["id"], optional: &["tags", "x"] };
        let read = read(&folder.path(name), columns, &mut problems, &mut |line, cells| {
            rows.push((line, cells.iter().map(|cell| cell.join("|")).collect()));
        });
        read.map(|()| (rows, problems.iter().map(|problem| folder.shorten(problem)).collect()))
            .map_err(|error| folder.shorten(error))
    }

    #[test]
    fn all_formats_say_the_same() {
        let row = |line, id: &str, tags: &str| (line, vec![id.to_owned(), tags.to_owned(), String::new()]);
        let expected = vec![row(2, "a b", "rock"), row(3, "c,d", "")];
        let csv = rows("t.csv", b"\xef\xbb\xbfbpm,tags ,id\r\n1,rock,a b\r\n2,,\"c,d\"\r\n");
        assert_eq!(csv, Ok((expected.clone(), Vec::new())));
        for name in ["t.tsv", "t.csv"] {
            let tsv = rows(name, b"\"id\"\t\"tags\"\n\"a b\"\t\"rock\"\nc,d\t\n");
            assert_eq!(tsv, Ok((expected.clone(), Vec::new())));
        }
        let json = rows(
            "t.jsonl",
            b"\n{\"id\": \"a b\", \"tags\": [\"rock\"], \"y\": {}}\n{\"id\": \"c,d\", \"tags\": null}\n",
        );
        assert_eq!(json, Ok((expected, Vec::new())));
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let (found, problems) = rows("t.csv", b"id,tags\na,b,c\nd\n\xff,x\ne,f\n").expect("a table");
        assert_eq!(found, [(5, vec!["e".to_owned(), "f".to_owned(), String::new()])]);
        let expected = [
            "`t.csv`, line 2: expected 2 fields as in the header, found 3; the row is left out",
            "`t.csv`, line 3: expected 2 fields as in the header, found 1; the row is left out",
            "`t.csv`, line 4: expected UTF-8 in field 1, found other bytes; the row is left out",
        ];
        assert_eq!(problems, expected);
        let (found, problems) = rows("t.jsonl", b"{\"id\": {}}\n[1]\n{\"x\": 1}\n{\"id\": 7}\n").expect("a table");
        assert_eq!(found.len(), 1);
        assert_eq!(problems[0], "`t.jsonl`, line 1: expected text or a number in `id`, found {}; the line is left out");
        assert!(problems[1].starts_with("`t.jsonl`, line 2: expected a JSON object, found: "), "{problems:?}");
        assert_eq!(problems[2], "`t.jsonl`, line 3: expected a column `id`, found `x`; the line is left out");
    }

    #[test]
    fn a_table_without_its_columns_is_refused() {
        assert_eq!(
            rows("t.csv", b"file;x\n"),
            Err("`t.csv`, line 1: expected a column `id`, found `file;x`".to_owned())
        );
    }
}
