//! `expect:`: facts of an edge that somebody relies on, checked when the graph is bound.
//!
//! | key | is compared with |
//! |---|---|
//! | `edge` | the name of the edge |
//! | `columns` | the types of columns: `{mel: "fixed_list<u16, 1500>", path: utf8}` |
//! | `version`, `fingerprint` | those of the node |
//! | a constant of the edge, such as `sample_rate` | its value |
//! | a constant of views or streams, such as `codebook_size` | the value of each of them |
//! | a view, such as `mel` | a map with constants of this one |

use arrow::datatypes::{DataType, Schema};
use omar_schemas::{Crop, Edge, edge_name, edge_spec};
use serde_json::{Map, Value, json};

use crate::diagnostic::did_you_mean;
use crate::spans::KeyPath;
use crate::yaml::describe;

/// An edge, and what is known about the node that gives it.
pub(crate) struct Given<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) version: u32,
    /// In hexadecimal.
    pub(crate) fingerprint: String,
}

/// A fact that is not as expected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mismatch {
    /// The way to it below `expect`.
    pub(crate) path: KeyPath,
    /// `codebook_size` of `mel`: expected `8192`, found `1024`.
    pub(crate) message: String,
    /// The key is not known, not the value wrong.
    pub(crate) unknown: bool,
    pub(crate) hint: Option<String>,
}

impl Given<'_> {
    /// The facts that are not as expected, in the order in which they are written.
    pub(crate) fn mismatches(&self, expected: &Map<String, Value>) -> Vec<Mismatch> {
        let facts = Facts::of(self.schema);
        let mut found = Vec::new();
        for (name, wanted) in expected {
            let path = KeyPath::new([name.as_str()]);
            match (name.as_str(), wanted) {
                ("edge", _) => compare(&path, name, wanted, &json!(edge_name(self.schema)), &mut found),
                ("version", _) => compare(&path, "version of the stage", wanted, &json!(self.version), &mut found),
                ("fingerprint", Value::String(digits)) if !digits.is_empty() => {
                    // As many digits as are written: `plan` shows some of them.
                    let found_digits = self.fingerprint.get(..digits.len()).unwrap_or(&self.fingerprint);
                    compare(&path, name, wanted, &json!(found_digits), &mut found);
                }
                ("fingerprint", _) => {
                    let message = format!("`fingerprint` must be its first digits in quotes, found {}", words(wanted));
                    let hint = Some("without quotes, YAML reads some digits as a number".to_owned());
                    found.push(Mismatch { path, message, unknown: false, hint });
                }
                ("columns", Value::Object(columns)) => self.columns(&path, columns, &mut found),
                _ => facts.check(&path, name, wanted, &mut found),
            }
        }
        found
    }

    fn columns(&self, path: &KeyPath, columns: &Map<String, Value>, found: &mut Vec<Mismatch>) {
        for (name, wanted) in columns {
            let path = path.child(name.as_str());
            let Ok(field) = self.schema.field_with_name(name) else {
                let names = || self.schema.fields().iter().map(|field| field.name().as_str());
                let all = || format!("the columns are {}", names().collect::<Vec<_>>().join(", "));
                let message = format!("there is no column `{name}`");
                let hint = Some(did_you_mean(name, names()).unwrap_or_else(all));
                found.push(Mismatch { path, message, unknown: true, hint });
                continue;
            };
            let plain = |text: &str| text.replace(' ', "").to_lowercase();
            let (ours, arrows) = (type_words(field.data_type()), field.data_type().to_string());
            let same =
                wanted.as_str().is_some_and(|wanted| [&ours, &arrows].into_iter().any(|t| plain(t) == plain(wanted)));
            if !same {
                found.push(mismatch(&path, &format!("type of column `{name}`"), wanted, &json!(ours)));
            }
        }
    }
}

/// The constants of an edge.
struct Facts {
    edge: String,
    /// Those of the edge as a whole.
    whole: Map<String, Value>,
    /// Those of its views or streams, by name.
    parts: Vec<(String, Map<String, Value>)>,
}

impl Facts {
    fn of(schema: &Schema) -> Self {
        let edge = edge_name(schema).unwrap_or("rows").to_owned();
        let (mut whole, mut parts) = (Map::new(), Vec::new());
        let spec = edge_spec(schema);
        let spec = spec.as_ref().and_then(Value::as_object);
        let number = |name: &str| spec.and_then(|spec| spec.get(name)).and_then(Value::as_f64);
        for (name, value) in spec.into_iter().flatten() {
            let items = value.as_array().filter(|items| items.iter().any(Value::is_object));
            let Some(items) = items else {
                whole.insert(name.clone(), value.clone());
                continue;
            };
            for item in items.iter().filter_map(Value::as_object) {
                let Some(part) = ["name", "view"].iter().find_map(|key| item.get(*key)?.as_str()) else { continue };
                let mut facts = item.clone();
                if let (Some(rate), Some(hop)) = (number("sample_rate"), item.get("hop_len").and_then(Value::as_f64)) {
                    facts.insert("frame_rate".to_owned(), json!(rate / hop));
                }
                parts.push((part.to_owned(), facts));
            }
        }
        if let (Some(rate), Some(patch)) = (number("sample_rate"), number("patch_samples")) {
            whole.insert("token_rate".to_owned(), json!(rate / patch));
        }
        if let (true, Some(samples), Some(rate)) = (edge == Crop::NAME, number("samples"), number("sample_rate")) {
            whole.insert("duration_s".to_owned(), json!(samples / rate));
        }
        Self { edge, whole, parts }
    }

    fn check(&self, path: &KeyPath, name: &str, wanted: &Value, found: &mut Vec<Mismatch>) {
        if let Some(value) = self.whole.get(name) {
            return compare(path, name, wanted, value, found);
        }
        if let (Some((part, facts)), Value::Object(wanted)) = (self.parts.iter().find(|part| part.0 == name), wanted) {
            for (key, wanted) in wanted {
                let path = path.child(key.as_str());
                match facts.get(key) {
                    Some(value) => compare(&path, &format!("`{key}` of `{part}`"), wanted, value, found),
                    None => found.push(unknown(&path, &format!("`{part}`"), key, facts.keys().map(String::as_str))),
                }
            }
            return;
        }
        let mut known = false;
        for (part, facts) in &self.parts {
            if let Some(value) = facts.get(name) {
                known = true;
                compare(path, &format!("`{name}` of `{part}`"), wanted, value, found);
            }
        }
        if !known {
            let mut names = vec!["edge", "columns", "version", "fingerprint"];
            names.extend(self.whole.keys().map(String::as_str));
            names.extend(self.parts.iter().map(|part| part.0.as_str()));
            names.extend(self.parts.iter().flat_map(|part| part.1.keys()).map(String::as_str));
            let mut seen = Vec::new();
            names.retain(|name| {
                !seen.contains(name) && {
                    seen.push(*name);
                    true
                }
            });
            found.push(unknown(path, &format!("edge `{}`", self.edge), name, names.into_iter()));
        }
    }
}

fn compare(path: &KeyPath, what: &str, wanted: &Value, value: &Value, found: &mut Vec<Mismatch>) {
    if !same(wanted, value) {
        let what = if what.contains('`') || what.contains(' ') { what.to_owned() } else { format!("`{what}`") };
        found.push(mismatch(path, &what, wanted, value));
    }
}

fn mismatch(path: &KeyPath, what: &str, wanted: &Value, value: &Value) -> Mismatch {
    let message = format!("{what}: expected {}, found {}", words(wanted), words(value));
    Mismatch { path: path.clone(), message, unknown: false, hint: None }
}

fn unknown<'a>(path: &KeyPath, of: &str, name: &str, names: impl Iterator<Item = &'a str> + Clone) -> Mismatch {
    let all = || format!("what can be expected: {}", names.clone().collect::<Vec<_>>().join(", "));
    let hint = Some(did_you_mean(name, names.clone()).unwrap_or_else(all));
    Mismatch { path: path.clone(), message: format!("{of} has no fact `{name}`"), unknown: true, hint }
}

/// Numbers are equal when they differ by rounding only.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(_), Value::Number(_)) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        _ => a == b,
    }
}

fn words(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => format!("`{value}`"),
        Value::Number(number) => match number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 1e15) {
            Some(whole) => format!("`{whole}`"),
            None => describe(value),
        },
        other => describe(other),
    }
}

/// The type of a column as it is written in `expect`: `fixed_list<u16, 750>`.
pub(crate) fn type_words(data_type: &DataType) -> String {
    let plain = match data_type {
        DataType::Boolean => "bool",
        DataType::UInt8 => "u8",
        DataType::UInt16 => "u16",
        DataType::UInt32 => "u32",
        DataType::UInt64 => "u64",
        DataType::Int8 => "i8",
        DataType::Int16 => "i16",
        DataType::Int32 => "i32",
        DataType::Int64 => "i64",
        DataType::Float16 => "f16",
        DataType::Float32 => "f32",
        DataType::Float64 => "f64",
        DataType::Utf8 => "utf8",
        DataType::List(item) => return format!("list<{}>", type_words(item.data_type())),
        DataType::FixedSizeList(item, len) => return format!("fixed_list<{}, {len}>", type_words(item.data_type())),
        other => return other.to_string(),
    };
    plain.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_schemas::{StreamSpec, Tokens, TokensSpec};

    fn messages(expected: Value) -> Vec<String> {
        let stream = |view: &str, codebook_size| StreamSpec {
            view: view.to_owned(),
            codebooks: 2,
            codebook_size,
            quantizer: "random".to_owned(),
        };
        let (mel, cqt) = (stream("mel", 8192), stream("cqt", 1024));
        let spec = TokensSpec {
            sample_rate: 24_000,
            crop_samples: 720_000,
            patch_samples: 960,
            positions: 750,
            streams: vec![mel, cqt],
        };
        let schema = Tokens::schema(&spec);
        let given = Given { schema: &schema, version: 2, fingerprint: "0123456789abcdef".to_owned() };
        let found = given.mismatches(expected.as_object().expect("a map"));
        found.into_iter().map(|mismatch| format!("{}: {}", mismatch.path, mismatch.message)).collect()
    }

    #[test]
    fn facts_that_hold_say_nothing() {
        let expected = json!({
            "edge": "tokens", "sample_rate": 24_000, "token_rate": 25, "codebooks": 2, "mel": {"codebook_size": 8192},
            "columns": {"mel": "fixed_list<u16, 1500>", "path": "utf8", "start_s": "Float64"}, "version": 2,
            "fingerprint": "01234567",
        });
        assert_eq!(messages(expected), Vec::<String>::new());
    }

    #[test]
    fn facts_that_do_not_hold_are_named_with_both_values() {
        let expected = json!({
            "edge": "features", "codebook_size": 8192, "cqt": {"codebooks": 4, "size": 1}, "fingerprint": "ff",
            "columns": {"mel": "list<u16>", "mle": "utf8"}, "sampel_rate": 1,
        });
        let found = [
            "edge: `edge`: expected `features`, found `tokens`",
            "codebook_size: `codebook_size` of `cqt`: expected `8192`, found `1024`",
            "cqt.codebooks: `codebooks` of `cqt`: expected `4`, found `2`",
            "cqt.size: `cqt` has no fact `size`",
            "fingerprint: `fingerprint`: expected `ff`, found `01`",
            "columns.mel: type of column `mel`: expected `list<u16>`, found `fixed_list<u16, 1500>`",
            "columns.mle: there is no column `mle`",
            "sampel_rate: edge `tokens` has no fact `sampel_rate`",
        ];
        assert_eq!(messages(expected), found);
        let digits = messages(json!({"fingerprint": 12_345_678}));
        assert_eq!(digits, ["fingerprint: `fingerprint` must be its first digits in quotes, found `12345678`"]);
    }
}
