//! What was written: a [`Graph`] holds the keys of a YAML file, checked for form but not for meaning.
//!
//! Names are not resolved and parameters not looked at; that makes it a [`crate::plan::Plan`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Report, Source, closest};
use crate::document::Document;
use crate::graph_tests::{self, GraphTest};
use crate::include;
pub use crate::policy::OnError;
use crate::policy::{Retry, StopIf, read_errors, read_on_error};
use crate::reader::Reader;
use crate::resources::{Device, Flow, Resources, read_device, read_flow, read_resources};
use crate::spans::KeyPath;
use crate::vars::{Environment, process_environment};
use crate::yaml::describe;

/// The version of the format that this program reads.
pub const FORMAT: u64 = 1;

/// Keys of a graph.
pub const GRAPH_KEYS: [&str; 11] =
    ["omar", "name", "include", "seed", "vars", "resources", "flow", "errors", "templates", "nodes", "tests"];

/// Keys of a node.
pub const NODE_KEYS: [&str; 7] = ["stage", "from", "params", "cache", "on_error", "device", "expect"];

/// A graph as it was written.
#[derive(Debug, Clone)]
pub struct Graph {
    /// Its name: `name:`, else that of the file.
    pub name: String,
    /// Where all randomness starts.
    pub seed: u64,
    /// What a run may use.
    pub resources: Resources,
    /// How the corpus is cut.
    pub flow: Flow,
    /// When too many recordings fail, the run ends.
    pub stop_if: Option<StopIf>,
    /// In the order of the file, those of included files first.
    pub nodes: Vec<Node>,
    /// What `omar-flow test` does with it.
    pub tests: Vec<GraphTest>,
    pub(crate) document: Document,
}

/// A node as it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its name.
    pub id: String,
    /// Name of its stage.
    pub stage: Option<String>,
    /// Where its input comes from.
    pub from: From,
    /// Parameters.
    pub params: Map<String, Value>,
    /// Folder that keeps its rows.
    pub cache: Option<PathBuf>,
    /// What to do with recordings that fail.
    pub on_error: OnError,
    /// Before that, whether to try them again.
    pub retry: Option<Retry>,
    /// Facts that its output edge must have.
    pub expect: Map<String, Value>,
    /// Where its model runs, if not where the others run.
    pub device: Option<Device>,
    /// Keys that no node has.
    pub(crate) unknown: Vec<String>,
    /// Nothing was wrong with it so far.
    pub(crate) sound: bool,
}

/// `from:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Not written.
    Nothing,
    /// `from: node`
    One(String),
    /// `from: {port: node, ...}`
    Ports(Vec<(String, String)>),
}

impl Node {
    /// Where it stands in the file.
    pub fn path(&self) -> KeyPath {
        KeyPath::new(["nodes", &self.id])
    }

    /// The nodes that it reads, with the path of each reference.
    pub(crate) fn references(&self) -> Vec<(KeyPath, &str)> {
        let from = self.path().child("from");
        match &self.from {
            From::Nothing => Vec::new(),
            From::One(node) => vec![(from, node)],
            From::Ports(ports) => ports.iter().map(|(port, node)| (from.child(port), node.as_str())).collect(),
        }
    }
}

impl Graph {
    /// Reads a file; mistakes go to the report. `None` when nothing is left to check.
    pub fn load(path: &Path, sets: &[String], report: &mut Report) -> Option<Self> {
        Document::load(path, sets, &process_environment, report).map(|document| Self::read(document, report))
    }

    /// Reads a text; `name` stands for the file in messages.
    pub fn parse(
        name: &str,
        text: &str,
        sets: &[String],
        environment: Environment<'_>,
        report: &mut Report,
    ) -> Option<Self> {
        Document::parse(name, text, sets, environment, report).map(|document| Self::read(document, report))
    }

    /// The file as it was given.
    pub fn source(&self) -> &Arc<Source> {
        &self.document.source
    }

    /// The files that it includes.
    pub fn included(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.document.files.included()
    }

    /// What the file says once includes, merge keys, `--set` and `${...}` are worked out.
    pub fn resolved(&self) -> Value {
        Value::Object(self.document.value.clone())
    }

    fn read(document: Document, report: &mut Report) -> Self {
        let reader = &mut Reader { document: &document, report };
        check_format(reader);
        reader.unknown_keys(&KeyPath::default(), &document.value, &GRAPH_KEYS, "the graph");
        let name = document
            .value
            .get("name")
            .and_then(|value| reader.text(&KeyPath::new(["name"]), value, "a name such as `pretrain`"));
        let stem = || Path::new(&document.source.name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let name = name.or_else(stem).unwrap_or_else(|| "graph".to_owned());
        let seed = document.value.get("seed").and_then(|value| {
            let path = KeyPath::new(["seed"]);
            let seed = value.as_u64();
            if seed.is_none() {
                let message = format!("`seed` must be a whole number that is not negative, found {}", describe(value));
                reader.refuse(&path, Diagnostic::error(message));
            }
            seed
        });
        check_vars(reader);
        check_templates(reader);
        let (resources, flow, stop_if) = (read_resources(reader), read_flow(reader), read_errors(reader));
        let nodes = read_nodes(reader);
        let tests = graph_tests::read(reader);
        Self { name, seed: seed.unwrap_or(0), resources, flow, stop_if, nodes, tests, document }
    }
}

/// Refuses a file that is written in another version of the format, or does not say in which.
pub(crate) fn check_format(reader: &mut Reader<'_>) {
    let path = KeyPath::new(["omar"]);
    match reader.document.value.get("omar") {
        Some(value) if value.as_u64() == Some(FORMAT) => {}
        Some(value) => {
            let message = format!("this program reads graphs of format {FORMAT}, found format {}", describe(value));
            reader.refuse(&path, Diagnostic::error(message).hint(format!("write `omar: {FORMAT}`")));
        }
        None => {
            let first = reader.document.value.keys().next().cloned().unwrap_or_default();
            let diagnostic = Diagnostic::error("the file does not say which version of the format it is written in")
                .hint(format!("add the line `omar: {FORMAT}` at the top"));
            reader.refuse_key(&KeyPath::new([first.as_str()]), "expected `omar: 1` before this", diagnostic);
        }
    }
}

fn check_vars(reader: &mut Reader<'_>) {
    let path = KeyPath::new(["vars"]);
    match reader.document.value.get("vars") {
        None | Some(Value::Null) => {}
        Some(Value::Object(vars)) => {
            for (name, value) in vars.iter().filter(|var| var.1.is_array() || var.1.is_object() || var.1.is_null()) {
                let message = format!("a variable must be a text, a number or a boolean, found {}", describe(value));
                reader.refuse(&path.child(name.as_str()), Diagnostic::error(message));
            }
        }
        Some(other) => {
            let message = format!("expected names and values under `vars`, found {}", describe(other));
            reader.refuse(&path, Diagnostic::error(message).hint("for example `vars: {corpus: music}`"));
        }
    }
}

/// Templates are looked at for form only: what they hold is checked where it is used.
fn check_templates(reader: &mut Reader<'_>) {
    let path = KeyPath::new(["templates"]);
    let templates = match reader.document.value.get("templates") {
        None | Some(Value::Null) => return,
        Some(Value::Object(templates)) => templates,
        Some(other) => {
            let message = format!("expected names and templates under `templates`, found {}", describe(other));
            let hint = "for example `templates: {slow: &slow {stage: decode, on_error: drop}}`";
            reader.refuse(&path, Diagnostic::error(message).hint(hint));
            return;
        }
    };
    for (name, value) in templates {
        let path = path.child(name.as_str());
        if !include::is_name(name) {
            let diagnostic = Diagnostic::error(format!("`{name}` cannot be the name of a template"));
            let hint = "names start with a letter and go on with letters, digits and `_`";
            reader.refuse_key(&path, "", diagnostic.hint(hint));
        } else if !value.is_object() {
            let message = format!("expected a map that nodes can merge, found {}", describe(value));
            reader.refuse(&path, Diagnostic::error(message).hint(format!("write `{name}: &{name} {{...}}`")));
        }
    }
}

fn read_nodes(reader: &mut Reader<'_>) -> Vec<Node> {
    let path = KeyPath::new(["nodes"]);
    let example = "for example `nodes: {tracks: {stage: files, params: {root: music}}}`";
    match reader.document.value.get("nodes") {
        Some(Value::Object(nodes)) if !nodes.is_empty() => {
            nodes.iter().map(|(id, value)| read_node(reader, id, value)).collect()
        }
        Some(other) if !matches!(other, Value::Object(_) | Value::Null) => {
            let message = format!("expected names and nodes under `nodes`, found {}", describe(other));
            reader.refuse(&path, Diagnostic::error(message).hint(example));
            Vec::new()
        }
        None if document_has_similar(reader, "nodes") => Vec::new(),
        written => {
            let at = if written.is_some() { path } else { KeyPath::new(["omar"]) };
            reader.refuse_key(
                &at,
                "",
                Diagnostic::error("the graph has no nodes, so there is nothing to do").hint(example),
            );
            Vec::new()
        }
    }
}

/// Whether an unknown key of the graph was meant to be `key`.
fn document_has_similar(reader: &Reader<'_>, key: &str) -> bool {
    let keys = reader.document.value.keys().filter(|written| !GRAPH_KEYS.contains(&written.as_str()));
    keys.into_iter().any(|written| closest(written, GRAPH_KEYS) == Some(key))
}

fn read_node(reader: &mut Reader<'_>, id: &str, value: &Value) -> Node {
    let before = reader.report.errors();
    let mut node = Node {
        id: id.to_owned(),
        stage: None,
        from: From::Nothing,
        params: Map::new(),
        cache: None,
        on_error: OnError::default(),
        retry: None,
        expect: Map::new(),
        device: None,
        unknown: Vec::new(),
        sound: true,
    };
    let path = node.path();
    if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || !id.starts_with(|c: char| c.is_ascii_alphabetic())
    {
        let diagnostic = Diagnostic::error(format!("`{id}` cannot be the name of a node"));
        let hint = "names start with a letter and go on with letters, digits and `_`";
        reader.refuse_key(&path, "", diagnostic.hint(hint));
    }
    let Value::Object(map) = value else {
        let diagnostic = Diagnostic::error(format!("expected a node with `stage`, found {}", describe(value)));
        reader.refuse_key(&path, "", diagnostic.hint(format!("write `{id}: {{stage: ...}}`")));
        return Node { sound: false, ..node };
    };
    for (key, value) in map {
        read_node_key(reader, &mut node, key, value);
    }
    if !map.contains_key("stage") {
        let alias = ["op", "kind", "type", "uses"].into_iter().find(|&alias| map.contains_key(alias));
        let hint = alias.map_or("add `stage: ...`; `omar-flow stages` lists them".to_owned(), |alias| {
            node.unknown.retain(|key| key != alias);
            format!("write `stage` instead of `{alias}`")
        });
        let diagnostic = Diagnostic::error(format!("`{id}` does not say which stage it is")).hint(hint);
        reader.refuse_key(&alias.map_or(path.clone(), |alias| path.child(alias)), "", diagnostic);
    }
    node.sound = reader.report.errors() == before && !reader.document.is_poisoned(&path);
    node
}

fn read_node_key(reader: &mut Reader<'_>, node: &mut Node, key: &str, value: &Value) {
    let path = node.path().child(key);
    match key {
        "stage" => node.stage = reader.text(&path, value, "the name of a stage"),
        "from" => node.from = read_from(reader, &path, value),
        "params" => match value {
            Value::Object(params) => node.params = params.clone(),
            Value::Null => {}
            other => {
                let message = format!("expected parameters as `name: value`, found {}", describe(other));
                reader.refuse(&path, Diagnostic::error(message));
            }
        },
        "cache" => node.cache = reader.text(&path, value, "a folder such as `runs/tokens`").map(PathBuf::from),
        "on_error" => {
            if let Some((on_error, retry)) = read_on_error(reader, &path, value) {
                (node.on_error, node.retry) = (on_error, retry);
            }
        }
        "expect" => match value {
            Value::Object(facts) => node.expect = facts.clone(),
            other => {
                let message = format!("expected facts of what the node gives, found {}", describe(other));
                let hint = "for example `expect: {edge: tokens, sample_rate: 24000}`";
                reader.refuse(&path, Diagnostic::error(message).hint(hint));
            }
        },
        "device" => node.device = read_device(reader, &path, value),
        _ => node.unknown.push(key.to_owned()),
    }
}

fn read_from(reader: &mut Reader<'_>, path: &KeyPath, value: &Value) -> From {
    match value {
        Value::String(node) => From::One(node.clone()),
        Value::Object(ports) => {
            let ports = ports.iter().filter_map(|(port, value)| {
                let node = reader.text(&path.child(port.as_str()), value, "the name of a node")?;
                Some((port.clone(), node))
            });
            From::Ports(ports.collect())
        }
        other => {
            let message = format!("expected the node to read from, found {}", describe(other));
            let hint = "write `from: node`, or `from: {port: node, ...}` for a stage with several inputs";
            reader.refuse(path, Diagnostic::error(message).hint(hint));
            From::Nothing
        }
    }
}
