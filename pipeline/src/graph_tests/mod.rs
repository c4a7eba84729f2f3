//! `tests:` of a graph: recordings that are fed to it, up to which node, and what must come out.
//!
//! | file | does |
//! |---|---|
//! | here | what is written, and whether it makes sense |
//! | [`feed`] | recordings: files, and signals made up for the test |
//! | [`amount`] | numbers that are exact or within bounds |
//! | [`runner`] | runs one test, away from caches and run folders |
//! | [`values`] | what the columns of the rows hold |
//! | [`verdict`] | what came out against what was expected |

pub mod amount;
pub mod feed;
pub mod runner;
mod values;
mod verdict;

use std::collections::BTreeMap;

use omar_stages::ops::files::Files;
use omar_stages::{Registry, StageKind};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::graph::Graph;
use crate::params::{MistakeKind, ParamsSchema};
use crate::reader::Reader;
use crate::spans::KeyPath;
use crate::yaml::describe;
use amount::{Amount, Rejects};
use feed::Feed;

/// One test of a graph.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphTest {
    /// What it shows, in words.
    pub name: String,
    /// Recordings, by the `files` node that they take the place of. Without it the graph reads its own corpus.
    #[serde(default)]
    pub feed: BTreeMap<String, Vec<Feed>>,
    /// The node whose rows are looked at. Only it and what feeds it runs.
    pub until: String,
    /// What must come out.
    pub expect: Expect,
}

/// What must come out of a test.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// How many rows.
    #[serde(default)]
    pub rows: Option<Amount>,
    /// How many recordings are rejected: in all, or by class. By default none may be.
    #[serde(default)]
    pub rejects: Rejects,
    /// Facts of the edge, as under `expect` of a node.
    #[serde(default)]
    pub schema: Map<String, Value>,
    /// What the columns hold, by column.
    #[serde(default)]
    pub values: BTreeMap<String, Values>,
}

/// What a column must hold; every number of a list counts.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// No value is smaller.
    #[serde(default)]
    pub min: Option<f64>,
    /// No value is larger.
    #[serde(default)]
    pub max: Option<f64>,
    /// How many different values there are.
    #[serde(default)]
    pub distinct: Option<Amount>,
    /// Whether all values are finite numbers.
    #[serde(default)]
    pub finite: Option<bool>,
}

/// The form of a test.
pub(crate) fn schema() -> schemars::Schema {
    schemars::schema_for!(GraphTest)
}

/// The tests of a graph; mistakes in their form go to the report.
pub(crate) fn read(reader: &mut Reader<'_>) -> Vec<GraphTest> {
    let path = KeyPath::new(["tests"]);
    let items = match reader.document.value.get("tests") {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(items)) => items.clone(),
        Some(other) => {
            let message = format!("`tests` must be a list of tests, found {}", describe(other));
            let hint = "a test begins with a dash: `- name: ...`";
            reader.refuse(&path, Diagnostic::error(message).hint(hint));
            return Vec::new();
        }
    };
    let schema = ParamsSchema::new(&schema());
    let items = items.into_iter().enumerate();
    items.filter_map(|(index, item)| read_one(reader, &path.child(index.to_string()), item, &schema)).collect()
}

fn read_one(reader: &mut Reader<'_>, path: &KeyPath, item: Value, schema: &ParamsSchema) -> Option<GraphTest> {
    let mut mistakes = schema.mistakes(&item);
    let read = serde_path_to_error::deserialize::<_, GraphTest>(item.clone());
    if let (true, Err(error)) = (mistakes.is_empty(), &read) {
        let at = KeyPath::parse(&error.path().to_string());
        let value = at.0.iter().try_fold(&item, |value, key| match value {
            Value::Object(map) => map.get(key),
            Value::Array(items) => items.get(key.parse::<usize>().ok()?),
            _ => None,
        });
        mistakes.push(schema.explain(&at, value.unwrap_or(&Value::Null), &error.inner().to_string()));
    }
    let sound = mistakes.is_empty();
    for mistake in mistakes {
        let at = path.join(&mistake.path);
        // A test is an item of a list and has no key: its name stands for it.
        let at = if at == *path { at.child("name") } else { at };
        let place = match mistake.kind {
            MistakeKind::Value => reader.document.place(&at),
            _ => reader.document.key_place(&at),
        };
        let plain = |text: String| text.replace("parameter", "key");
        if !reader.document.is_poisoned(&at) {
            let diagnostic = Diagnostic::error(plain(mistake.message)).at(place, plain(mistake.label));
            reader.report.push(diagnostic.maybe_hint(mistake.hint.map(plain)));
        }
    }
    read.ok().filter(|_| sound)
}

/// Whether the nodes that tests name are there, and can be used in this way.
pub(crate) fn check(graph: &Graph, registry: &Registry, reader: &mut Reader<'_>) {
    // Tests that have no form were reported, and the others would be counted wrongly.
    let written = graph.document.value.get("tests").and_then(Value::as_array).map_or(0, Vec::len);
    if written != graph.tests.len() {
        return;
    }
    let names = || graph.nodes.iter().map(|node| node.id.as_str());
    for (index, test) in graph.tests.iter().enumerate() {
        let path = KeyPath::new(["tests", &index.to_string()]);
        let unknown = |name: &str| {
            let all = || format!("the nodes are {}", names().collect::<Vec<_>>().join(", "));
            Diagnostic::error(format!("no node is called `{name}`"))
                .hint(did_you_mean(name, names()).unwrap_or_else(all))
        };
        if !names().any(|name| name == test.until) {
            reader.refuse(&path.child("until"), unknown(&test.until));
        }
        for name in test.feed.keys() {
            let at = path.child("feed").child(name.as_str());
            let Some(node) = graph.nodes.iter().find(|node| node.id == *name) else {
                let diagnostic = unknown(name);
                reader.refuse_key(&at, "no such node", diagnostic);
                continue;
            };
            let stage = node.stage.as_deref().unwrap_or_default();
            if stage != Files::NAME && registry.get(stage).is_some() {
                let message = format!("`{name}` is no `{}` node, and only these can be fed", Files::NAME);
                let of_files = graph.nodes.iter().filter(|node| node.stage.as_deref() == Some(Files::NAME));
                let meant = of_files.map(|node| format!("`{}`", node.id)).collect::<Vec<_>>().join(" or ");
                let hint = (!meant.is_empty()).then(|| format!("feed {meant}"));
                reader.refuse_key(&at, &format!("a `{stage}` node"), Diagnostic::error(message).maybe_hint(hint));
            }
        }
    }
}
