//! The file that asks for a table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::protocol::{self, Protocol};
use crate::diagnostic::{Diagnostic, Report, one_of};
use crate::document::Document;
use crate::evaluation::paper;
use crate::graph::check_format;
use crate::reader::Reader;
use crate::spans::KeyPath;
use crate::vars::process_environment;
use crate::yaml::describe;

/// The key that tells such a file from a graph.
pub(crate) const KEY: &str = "compare";
pub(super) const TOP: [&str; 4] = ["omar", "name", "vars", KEY];
pub(super) const PARTS: [&str; 6] = ["rows", "columns", "set", "jobs", "protocol", "protocols"];
pub(super) const ROW: [&str; 6] = ["name", "model", "layers", "until", "paper", "without"];
pub(super) const COLUMN: [&str; 5] = ["task", "graph", "data", "set", "help"];
/// The node of the shipped evaluation graphs that judges an encoder.
const UNTIL: &str = "of_trained";

/// Paths of a graph, with what to write there.
pub(crate) type Changes = Vec<(String, Value)>;

/// A table to make.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    /// By which the cells are made; absent where the file has none, and they are made as the graphs say.
    pub(crate) protocol: Option<Protocol>,
    /// Cells that are filled at the same time; absent: as many as this machine is good for.
    pub(crate) jobs: Option<usize>,
    pub(crate) rows: Vec<RowSpec>,
    pub(crate) columns: Vec<ColumnSpec>,
}

/// An encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowSpec {
    pub(crate) name: String,
    /// Its folder.
    pub(crate) model: String,
    pub(crate) layers: Option<String>,
    /// The node of the evaluation graphs whose result is taken.
    pub(crate) until: String,
    pub(crate) paper: Option<String>,
    /// Tasks that it is not made for, with why.
    pub(crate) without: BTreeMap<String, String>,
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ColumnSpec {
    pub(crate) task: String,
    pub(crate) graph: PathBuf,
    /// The folder with its data.
    pub(crate) data: Option<String>,
    /// Where to get them.
    pub(crate) help: Option<String>,
    /// Changes to the graph; `{until}` is the row's node.
    pub(crate) set: Changes,
}

/// What a path leads to.
pub(crate) enum Found {
    /// Anything else: graphs say themselves what is wrong with them.
    Graph,
    Spec(Spec),
}

/// Reads a file, if it asks for a table.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn load(path: &Path, sets: &[String]) -> Result<Found, Report> {
    let mut report = Report::default();
    let Some(document) = Document::load(path, sets, &process_environment, &mut report) else { return Ok(Found::Graph) };
    if !document.value.contains_key(KEY) {
        return Ok(Found::Graph);
    }
    let spec = read(&document, &mut report);
    report.map_text(|text| document.secrets.redact(text));
    report.sort();
    match spec {
        Some(spec) if report.errors() == 0 => Ok(Found::Spec(spec)),
        _ => Err(report),
    }
}

fn read(document: &Document, report: &mut Report) -> Option<Spec> {
    let mut reader = Reader { document, report };
    reader.unknown_keys(&KeyPath::new([]), &document.value, &TOP, "a comparison");
    check_format(&mut reader);
    let name = document.value.get("name").and_then(Value::as_str).unwrap_or("comparison").to_owned();
    let root = KeyPath::new([KEY]);
    let map = reader.map(&root, &PARTS, "`compare`")?;
    let everywhere = changes(&mut reader, &root, &map, "set");
    let mut columns =
        list(&mut reader, &root, &map, "columns", |reader, path, map| column(reader, path, map, &everywhere));
    let tasks: Vec<&str> = columns.iter().map(|column| column.task.as_str()).collect();
    let protocol = protocol::read(&mut reader, &root, &map, &tasks);
    let jobs = map.get("jobs").filter(|jobs| jobs.as_str() != Some("auto"));
    let jobs = jobs.and_then(|jobs| reader.count(&root.child("jobs"), jobs, 1..=64));
    let rows = list(&mut reader, &root, &map, "rows", |reader, path, map| row(reader, path, map, &tasks));
    for (what, names) in [
        ("rows", rows.iter().map(|row| &row.name).collect::<Vec<_>>()),
        ("columns", columns.iter().map(|column| &column.task).collect()),
    ] {
        if let Some((at, twice)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            let path = root.child(what).child(at.to_string());
            reader.refuse(&path, Diagnostic::error(format!("`{twice}` is there twice: cells would be mixed up")));
        }
    }
    for column in &mut columns {
        column.set.extend(protocol.iter().flat_map(|protocol| protocol.changes(&column.task)));
    }
    Some(Spec { name, protocol, jobs, rows, columns })
}

/// The maps of a list, which must have some.
fn list<T>(
    reader: &mut Reader<'_>,
    root: &KeyPath,
    map: &Map<String, Value>,
    key: &str,
    mut each: impl FnMut(&mut Reader<'_>, &KeyPath, &Map<String, Value>) -> Option<T>,
) -> Vec<T> {
    let path = root.child(key);
    let items = match map.get(key) {
        Some(Value::Array(items)) if !items.is_empty() => items,
        other => {
            let found = other.map_or("nothing".to_owned(), describe);
            reader.refuse(&path, Diagnostic::error(format!("`{key}` must be a list of {key}, found {found}")));
            return Vec::new();
        }
    };
    let mut all = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.child(index.to_string());
        match item {
            Value::Object(map) => all.extend(each(reader, &path, map)),
            other => {
                let message = format!("expected keys and values, found {}", describe(other));
                reader.refuse(&path, Diagnostic::error(message));
            }
        }
    }
    all
}

pub(super) fn text(
    reader: &mut Reader<'_>,
    path: &KeyPath,
    map: &Map<String, Value>,
    key: &str,
    what: &str,
) -> Option<String> {
    let value = map.get(key)?;
    reader.text(&path.child(key), value, what)
}

pub(super) fn needed(
    reader: &mut Reader<'_>,
    path: &KeyPath,
    map: &Map<String, Value>,
    key: &str,
    what: &str,
) -> Option<String> {
    if !map.contains_key(key) {
        reader.refuse(path, Diagnostic::error(format!("`{key}` is missing: {what}")));
    }
    text(reader, path, map, key, what)
}

/// Paths of a graph with their new values, below a key.
pub(super) fn changes(reader: &mut Reader<'_>, path: &KeyPath, map: &Map<String, Value>, key: &str) -> Changes {
    match map.get(key) {
        None => Vec::new(),
        Some(Value::Object(set)) => set.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        Some(other) => {
            let message = format!("`{key}` must be paths of the graph with their values, found {}", describe(other));
            reader.refuse(&path.child(key), Diagnostic::error(message));
            Vec::new()
        }
    }
}

fn column(
    reader: &mut Reader<'_>,
    path: &KeyPath,
    map: &Map<String, Value>,
    everywhere: &[(String, Value)],
) -> Option<ColumnSpec> {
    reader.unknown_keys(path, map, &COLUMN, "a column");
    let task = needed(reader, path, map, "task", "the task that the graph evaluates");
    let tasks: Vec<&str> = paper::TASKS.iter().map(|task| task.0).collect();
    if let Some(task) = task.as_ref().filter(|task| !tasks.contains(&task.as_str())) {
        let message = format!("there is no task `{task}`");
        let diagnostic = Diagnostic::error(message).hint(format!("the tasks are {}", one_of(tasks)));
        reader.refuse(&path.child("task"), diagnostic);
    }
    let graph = needed(reader, path, map, "graph", "the file of the evaluation graph").map(PathBuf::from);
    if let Some(graph) = graph.as_ref().filter(|graph| !graph.is_file()) {
        let message = format!("there is no graph `{}`", graph.display());
        let hint = "paths start from the folder where omar-flow runs";
        reader.refuse(&path.child("graph"), Diagnostic::error(message).hint(hint));
    }
    let data = text(reader, path, map, "data", "the folder of the data, for the graph's `vars.data`");
    let help = text(reader, path, map, "help", "a sentence that says where to get the data");
    let mut set = everywhere.to_vec();
    set.extend(changes(reader, path, map, "set"));
    Some(ColumnSpec { task: task?, graph: graph?, data, help, set })
}

fn row(reader: &mut Reader<'_>, path: &KeyPath, map: &Map<String, Value>, tasks: &[&str]) -> Option<RowSpec> {
    reader.unknown_keys(path, map, &ROW, "a row");
    let name = needed(reader, path, map, "name", "what the row is called");
    let model = needed(reader, path, map, "model", "the folder of the encoder, for the graphs' `vars.model`");
    let layers = text(reader, path, map, "layers", "layers in words, such as `all` or `6,11`");
    let until = text(reader, path, map, "until", "a node of the graphs").unwrap_or_else(|| UNTIL.to_owned());
    let paper = text(reader, path, map, "paper", "a model of the paper's table 4");
    let models: Vec<&str> = paper::ROWS.iter().map(|row| row.model).collect();
    if let Some(model) = paper.as_ref().filter(|model| !models.contains(&model.as_str())) {
        let diagnostic = Diagnostic::error(format!("the paper's table 4 has no `{model}`"));
        reader.refuse(&path.child("paper"), diagnostic.hint(format!("it has {}", one_of(models))));
    }
    let mut without = BTreeMap::new();
    if let Some(Value::Object(reasons)) = map.get("without") {
        let path = path.child("without");
        reader.unknown_keys(&path, reasons, tasks, "`without`, which has tasks of the columns");
        for (task, reason) in reasons {
            let reason = reader.text(&path.child(task.as_str()), reason, "a sentence that says why");
            without.extend(reason.map(|reason| (task.clone(), reason)));
        }
    } else if let Some(other) = map.get("without") {
        let message = format!("`without` must be tasks with why they are left out, found {}", describe(other));
        reader.refuse(&path.child("without"), Diagnostic::error(message));
    }
    Some(RowSpec { name: name?, model: model?, layers, until, paper, without })
}
