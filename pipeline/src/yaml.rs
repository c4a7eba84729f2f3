//! From YAML text to JSON values, and explanations of what YAML itself refuses.

use std::ops::Range;

use serde_json::{Map, Number, Value};

use crate::diagnostic::{Diagnostic, Place, Report, about_file};
use crate::spans::{KeyPath, Tree};
use crate::text::{Files, IMPORTED, Text};

/// Parses a file that must be a map; mistakes go to the report. `tree` is of the same text, and `files` has it.
pub(crate) fn parse(
    text: &Text,
    tree: Option<&Tree>,
    files: &Files,
    report: &mut Report,
) -> Option<Map<String, Value>> {
    let source = &text.source;
    let duplicates = tree.map(Tree::duplicates).unwrap_or_default();
    for duplicate in &duplicates {
        let place = |range: &Range<usize>| Some(files.place(range.clone()));
        let diagnostic = Diagnostic::error(format!("key `{}` is written twice", duplicate.key))
            .at(place(&duplicate.second), "again here")
            .see(place(&duplicate.first), "first here")
            .hint("keep one of them, or rename one");
        report.push(diagnostic);
    }
    if !duplicates.is_empty() {
        return None;
    }
    let value = match serde_yaml::from_str::<serde_yaml::Value>(&text.text) {
        Ok(mut value) => {
            value.as_mapping_mut().and_then(|map| map.shift_remove(IMPORTED));
            value
        }
        Err(error) => {
            report.push(syntax_error(text, &error));
            return None;
        }
    };
    let errors = report.errors();
    let json = to_json(value, &KeyPath::default(), &mut |path, message, hint| {
        let range = tree.and_then(|tree| tree.find(&path.0)).map(|found| found.1.range.clone());
        let place = range.map(|range| files.place(range));
        report.push(Diagnostic::error(message).at(place, "").hint(hint));
    });
    match json {
        Value::Object(map) => (report.errors() == errors).then_some(map),
        Value::Null => {
            let hint = "`omar-flow stages` lists what a graph can be made of; configs/ holds graphs to start from";
            report.push(about_file(&source.name, format!("`{}` is empty", source.name)).hint(hint));
            None
        }
        other => {
            let place = Place { source: source.clone(), range: first_line(&source.text) };
            let message = format!("expected a map with `omar`, `nodes`, ..., found {}", describe(&other));
            report.push(Diagnostic::error(message).at(Some(place), ""));
            None
        }
    }
}

/// Parses a value as it stands after `--set path=`.
pub(crate) fn parse_value(text: &str) -> Result<Value, String> {
    let parsed: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let mut problem = None;
    let value = to_json(parsed, &KeyPath::default(), &mut |_, message, _| problem = Some(message));
    problem.map_or(Ok(value), Err)
}

fn to_json(value: serde_yaml::Value, path: &KeyPath, refuse: &mut dyn FnMut(&KeyPath, String, &str)) -> Value {
    use serde_yaml::Value as Yaml;
    match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(value) => Value::String(value),
        Yaml::Number(number) => {
            let whole = number.as_u64().map(Number::from).or_else(|| number.as_i64().map(Number::from));
            let number = whole.or_else(|| number.as_f64().and_then(Number::from_f64));
            number.map(Value::Number).unwrap_or_else(|| {
                refuse(path, "expected a finite number".to_owned(), "infinity and NaN have no meaning here");
                Value::Null
            })
        }
        Yaml::Sequence(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(index, item)| to_json(item, &path.child(index.to_string()), refuse)).collect()
        }
        Yaml::Mapping(mut map) => {
            let merged = map.shift_remove("<<").map(|bases| merged(bases, path, refuse)).unwrap_or_default();
            let entries = map.into_iter().map(|(key, value)| {
                let key = match key {
                    Yaml::String(key) => key,
                    other => serde_yaml::to_string(&other).unwrap_or_default().trim().to_owned(),
                };
                let value = to_json(value, &path.child(key.as_str()), refuse);
                (key, value)
            });
            let mut entries: Map<String, Value> = entries.collect();
            merged.into_iter().for_each(|(key, value)| {
                entries.entry(key).or_insert(value);
            });
            Value::Object(entries)
        }
        Yaml::Tagged(tagged) => {
            refuse(path, format!("the tag `{}` has no meaning here", tagged.tag), "remove it, or quote the value");
            Value::Null
        }
    }
}

/// The entries that `<<` brings to the map at `path`: those of one map, or of several, the first of which has the say.
fn merged(
    bases: serde_yaml::Value,
    path: &KeyPath,
    refuse: &mut dyn FnMut(&KeyPath, String, &str),
) -> Map<String, Value> {
    let bases = match bases {
        serde_yaml::Value::Sequence(bases) => bases,
        base => vec![base],
    };
    let mut entries = Map::new();
    for base in bases {
        match to_json(base, path, refuse) {
            Value::Object(base) => base.into_iter().for_each(|(key, value)| {
                entries.entry(key).or_insert(value);
            }),
            other => {
                let message =
                    format!("`<<` takes a map whose keys it adds, or a list of maps, found {}", describe(&other));
                refuse(&path.child("<<"), message, "write `<<: *name`, the name of a template with its `*`");
            }
        }
    }
    entries
}

/// The kind of a value, in words.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("`{value}`"),
        Value::Number(number) => format!("`{number}`"),
        Value::String(text) => format!("`{text}`"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}

fn first_line(text: &str) -> Range<usize> {
    0..text.lines().next().map_or(0, str::len)
}

fn syntax_error(file: &Text, error: &serde_yaml::Error) -> Diagnostic {
    let (source, text) = (&file.source, &file.source.text);
    let at = |line: usize, column: usize| {
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let rest = text.get(start..).unwrap_or_default();
        let start = start + rest.chars().take(column).map(char::len_utf8).sum::<usize>();
        let start = start.min(text.trim_end().len().saturating_sub(1));
        let start = (0..=start).rev().find(|&start| text.is_char_boundary(start)).unwrap_or(0);
        let len = text[start..].chars().next().map_or(0, char::len_utf8);
        Some(Place { source: source.clone(), range: start..start + len })
    };
    let location = error.location().map_or((0, 0), |at| (at.line().saturating_sub(1), at.column().saturating_sub(1)));
    let location = (file.line(location.0), location.1);
    let tab = text.lines().position(|line| line[..line.len() - line.trim_start().len()].contains('\t'));
    if let Some(line) = tab.filter(|&line| line <= location.0 + 1) {
        let column = text.lines().nth(line).and_then(|line| line.find('\t')).unwrap_or(0);
        return Diagnostic::error("this line is indented with a tab, YAML allows only spaces")
            .at(at(line, column), "tab")
            .hint("replace it by two spaces, and set your editor to indent YAML with spaces");
    }
    let message = error.to_string();
    let (line, column) = location;
    let what = message.split(" at line ").next().unwrap_or_default();
    let mut diagnostic = Diagnostic::error(format!("this is not valid YAML: {}", explain(what)));
    // What was being read when it went wrong began here.
    let begun = ["flow mapping", "flow sequence", "quoted scalar"].iter().find_map(|kind| {
        let (line, column) = message.split_once(&format!("{kind} at line "))?.1.split_once(" column ")?;
        at(file.line(line.parse::<usize>().ok()?.checked_sub(1)?), column.parse::<usize>().ok()?.checked_sub(1)?)
    });
    diagnostic = match begun {
        Some(begun) if what.contains("end of stream") => diagnostic.at(Some(begun), "this quote is not closed"),
        Some(begun) => diagnostic.at(Some(begun), "opened here").see(at(line, column), "not closed before this"),
        None => diagnostic.at(at(line, column), "the reader got stuck here"),
    };
    diagnostic.maybe_hint(hint(what).map(str::to_owned))
}

fn explain(message: &str) -> String {
    let known = [
        (
            "mapping values are not allowed in this context",
            "a second `: ` on a line, or a line that is indented too far",
        ),
        ("did not find expected ',' or '}'", "a `{` that is not closed, or a `,` that is missing"),
        ("did not find expected ',' or ']'", "a `[` that is not closed, or a `,` that is missing"),
        ("did not find expected key", "a line that is not indented like its neighbours"),
        ("did not find expected node content", "a value is missing, or a bracket closes too early"),
        ("could not find expected ':'", "a key without `:` after it"),
        ("found unexpected end of stream", "a quote that is not closed"),
        ("found character that cannot start any token", "a character that must stand in quotes here"),
        ("unknown anchor", "`*name` without a `&name` above it"),
        ("more than one document", "a second document after `---`, a graph is one document"),
        ("recursion limit exceeded", "values nested too deeply"),
        ("repetition limit exceeded", "aliases that multiply without end"),
    ];
    let found = known.iter().find(|known| message.contains(known.0));
    found.map_or_else(|| message.to_owned(), |known| known.1.to_owned())
}

fn hint(message: &str) -> Option<&'static str> {
    let hints = [
        ("mapping values", "give keys of one map the same indentation; quote a value that holds `: `"),
        ("',' or '}'", "inside `{...}` every pair but the last ends with a comma"),
        ("',' or ']'", "inside `[...]` every item but the last ends with a comma"),
        ("expected key", "give keys of one map the same indentation"),
        ("cannot start any token", "put the value in quotes: \"...\""),
        ("could not find expected ':'", "write `key: value`, with a space after the colon"),
        (
            "unknown anchor",
            "write `name: &name {...}` above; templates of included files are known below `include`, by their keys",
        ),
    ];
    hints.iter().find(|hint| message.contains(hint.0)).map(|hint| hint.1)
}
