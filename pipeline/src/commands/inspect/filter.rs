//! Some of the rows.

use std::fmt;
use std::str::FromStr;

use arrow::array::{BooleanArray, RecordBatch, StringArray, UInt64Array};
use omar_schemas::{SchemaError, Split, TrackId, column};
use omar_stages::storage::{StorageError, TrackFile};
use parquet::arrow::arrow_reader::RowSelection;

use super::InspectError;

/// `track=0f3a`, `path=a/b.flac` or `split=valid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    key: Key,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    /// The id in hexadecimal, or how it begins.
    Track,
    /// The path, or how it ends.
    Path,
    Split,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("expected something like `track=0f3a`, found `{text}`"))?;
        let (key, value) = match key.trim() {
            "track" | "track_id" => (Key::Track, value.trim().to_lowercase()),
            "path" => (Key::Path, value.to_owned()),
            "split" => (Key::Split, value.trim().to_owned()),
            other => return Err(format!("expected `track`, `path` or `split`, found `{other}`")),
        };
        if key == Key::Split && Split::parse(&value).is_none() {
            return Err(format!("expected split train, valid or test, found `{value}`"));
        }
        if key == Key::Track && !value.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(format!("expected hexadecimal digits of a track id, found `{value}`"));
        }
        Ok(Self { key, value })
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.column().trim_end_matches("_id"), self.value)
    }
}

impl Filter {
    const fn column(&self) -> &'static str {
        match self.key {
            Key::Track => "track_id",
            Key::Path => "path",
            Key::Split => "split",
        }
    }

    /// The rows of a file that it lets through, and how many they are.
    pub(super) fn select(&self, file: &TrackFile) -> Result<(RowSelection, usize), InspectError> {
        let mut masks = Vec::new();
        for batch in file.scan(Some(&[self.column()]), None)? {
            let mask = self
                .mask(&batch?)
                .map_err(|error| StorageError::Content { path: file.path().to_owned(), message: error.to_string() })?;
            masks.push(mask);
        }
        let rows = masks.iter().map(BooleanArray::true_count).sum();
        Ok((RowSelection::from_filters(&masks), rows))
    }

    fn mask(&self, batch: &RecordBatch) -> Result<BooleanArray, SchemaError> {
        Ok(match self.key {
            Key::Track => {
                let ids = column::<UInt64Array>(batch, "track_id")?.values();
                let matches = ids.iter().map(|&id| TrackId(id).to_string().starts_with(&self.value));
                BooleanArray::from(matches.collect::<Vec<_>>())
            }
            Key::Path => {
                let paths = column::<StringArray>(batch, "path")?.iter();
                paths.map(|path| Some(path.is_some_and(|path| path.ends_with(&self.value)))).collect()
            }
            Key::Split => {
                let splits = column::<StringArray>(batch, "split")?.iter();
                splits.map(|split| Some(split == Some(self.value.as_str()))).collect()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_mistakes_explained() {
        let parse = |text: &str| text.parse::<Filter>();
        assert_eq!(parse("track=0F3a").map(|filter| filter.to_string()), Ok("track=0f3a".to_owned()));
        assert_eq!(parse("path=a=b.mp3").map(|filter| filter.to_string()), Ok("path=a=b.mp3".to_owned()));
        assert!(parse("track").is_err_and(|error| error.contains("`track=0f3a`")));
        assert!(parse("track=xyz").is_err_and(|error| error.contains("hexadecimal")));
        assert!(parse("split=dev").is_err_and(|error| error.contains("train, valid or test")));
        assert!(parse("bpm=120").is_err_and(|error| error.contains("found `bpm`")));
    }
}
