//! Reading values of a document one by one, noting everything that is wrong instead of stopping at the first.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Report, did_you_mean, one_of};
use crate::document::Document;
use crate::spans::KeyPath;
use crate::yaml::describe;

/// A document and the report on it.
pub(crate) struct Reader<'a> {
    pub(crate) document: &'a Document,
    pub(crate) report: &'a mut Report,
}

impl Reader<'_> {
    /// Reports a mistake at a value, unless one was reported there.
    pub(crate) fn refuse(&mut self, path: &KeyPath, mut diagnostic: Diagnostic) {
        if !self.document.is_poisoned(path) {
            diagnostic.place = self.document.place(path);
            self.report.push(diagnostic);
        }
    }

    /// Reports a mistake at a key.
    pub(crate) fn refuse_key(&mut self, path: &KeyPath, label: &str, diagnostic: Diagnostic) {
        let place = self.document.key_place(path);
        self.report.push(diagnostic.at(place, label));
    }

    /// The map at a top-level key, `None` if it is not there; unknown keys are reported.
    pub(crate) fn map(&mut self, path: &KeyPath, known: &[&str], of: &str) -> Option<Map<String, Value>> {
        let value = self.document.value.get(path.last())?;
        let Value::Object(map) = value else {
            if !value.is_null() {
                let message = format!("expected keys and values under {of}, found {}", describe(value));
                self.refuse(path, Diagnostic::error(message).hint(format!("its keys are {}", one_of(known.to_vec()))));
            }
            return None;
        };
        self.unknown_keys(path, map, known, of);
        Some(map.clone())
    }

    /// Reports keys that are not known.
    pub(crate) fn unknown_keys(&mut self, path: &KeyPath, map: &Map<String, Value>, known: &[&str], of: &str) {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let names = known.join(", ");
            let hint = did_you_mean(key, known.iter().copied()).unwrap_or_else(|| format!("the keys are {names}"));
            let diagnostic = Diagnostic::error(format!("unknown key `{key}` in {of}")).hint(hint);
            self.refuse_key(&path.child(key.as_str()), "no such key", diagnostic);
        }
    }

    /// A whole number in a range.
    pub(crate) fn count(&mut self, path: &KeyPath, value: &Value, range: RangeInclusive<u64>) -> Option<usize> {
        let count = value.as_u64().filter(|count| range.contains(count));
        if count.is_none() {
            let (least, most) = (range.start(), range.end());
            let (name, found) = (path.last(), describe(value));
            let message = format!("`{name}` must be a whole number from {least} to {most}, found {found}");
            self.refuse(path, Diagnostic::error(message));
        }
        count.map(|count| count as usize)
    }

    /// A text that is not empty.
    pub(crate) fn text(&mut self, path: &KeyPath, value: &Value, what: &str) -> Option<String> {
        let text = value.as_str().filter(|text| !text.is_empty());
        if text.is_none() {
            let message = format!("`{}` must be {what}, found {}", path.last(), describe(value));
            self.refuse(path, Diagnostic::error(message));
        }
        text.map(str::to_owned)
    }
}
