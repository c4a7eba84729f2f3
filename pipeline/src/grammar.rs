//! The JSON Schema of graph files, which lets editors complete and check them while they are written.
//!
//! A file with `compare:` on top is no graph but a table of graphs: its part is in [`crate::comparison::schema`].

use omar_stages::{Registered, Registry};
use serde_json::{Map, Value, json};

use crate::comparison;
use crate::graph::FORMAT;
use crate::graph_tests;
use crate::include::PART_KEYS;
use crate::policy::{self, OnError};

/// Anything may be written as `${...}` instead.
const VARIABLE: &str = "variable";

/// The definition of a test.
const TEST: &str = "test";

/// The definition of a graph.
const GRAPH: &str = "graph";

/// The schema of a graph made of these stages, or of a table of such graphs.
pub(crate) fn schema(registry: &Registry) -> Value {
    let mut definitions = definitions(registry);
    let graph = json!({
        "type": "object",
        // The nodes may all be in included files.
        "anyOf": [{ "required": ["nodes"] }, { "required": ["include"] }],
        "additionalProperties": false,
        "properties": properties(),
    });
    definitions.insert(GRAPH.to_owned(), graph);
    definitions.insert(comparison::spec::KEY.to_owned(), comparison::schema::schema(&head()));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "omar-flow graph",
        "type": "object",
        "required": ["omar"],
        "if": { "required": [comparison::spec::KEY] },
        "then": { "$ref": format!("#/$defs/{}", comparison::spec::KEY) },
        "else": { "$ref": format!("#/$defs/{GRAPH}") },
        "$defs": definitions,
    })
}

/// What graphs and tables of graphs begin with.
fn head() -> Map<String, Value> {
    let mut head = properties();
    head.retain(|name, _| ["omar", "name", "vars"].contains(&name.as_str()));
    head
}

/// The schema of the files that graphs include.
pub(crate) fn included(registry: &Registry) -> Value {
    let mut properties = properties();
    properties.retain(|name, _| PART_KEYS.contains(&name.as_str()));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "part of an omar-flow graph",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
        "$defs": definitions(registry),
    })
}

fn definitions(registry: &Registry) -> Map<String, Value> {
    let mut definitions = Map::new();
    definitions.insert(VARIABLE.to_owned(), json!({ "type": "string", "pattern": r"\$\{.*\}" }));
    let mut rules = Vec::new();
    for kind in registry.iter() {
        define(kind.name, (kind.params)().as_value().clone(), &mut definitions);
        rules.push(rule(kind));
    }
    define(TEST, graph_tests::schema().as_value().clone(), &mut definitions);
    let names: Vec<&str> = registry.iter().map(|kind| kind.name).collect();
    definitions.insert("node".to_owned(), node(&names, &rules));
    definitions
}

/// The keys of a graph.
fn properties() -> Map<String, Value> {
    let count = json!({ "type": "integer", "minimum": 1 });
    let auto_or_count = json!({ "anyOf": [{ "const": "auto" }, count] });
    let device = json!({ "type": "string", "pattern": r"^(auto|cpu|cuda:\d+)$|\$\{" });
    let properties = json!({
        "omar": { "const": FORMAT, "description": "Version of the format." },
        "name": { "type": "string", "description": "Name of the graph; by default that of the file." },
        "include": {
            "type": "array",
            "description": "Files with more variables, templates and nodes, from the folder of this file.",
            "items": { "type": "string" },
        },
        "seed": or_variable(json!({ "type": "integer", "minimum": 0, "description": "Where all randomness starts." })),
        "vars": {
            "type": "object",
            "description": "Values to use as `${vars.name}` below.",
            "additionalProperties": { "type": ["string", "number", "boolean"] },
        },
        "resources": {
            "type": "object",
            "description": "What a run may use.",
            "additionalProperties": false,
            "properties": {
                "threads": or_variable(auto_or_count.clone()),
                "workers": or_variable(count.clone()),
                "memory": { "type": "string", "description": "Memory for batches under way, such as `2GiB`." },
                "device": device,
            },
        },
        "flow": {
            "type": "object",
            "description": "How the corpus is cut.",
            "additionalProperties": false,
            "properties": { "shard_tracks": or_variable(auto_or_count), "window": or_variable(count) },
        },
        "errors": {
            "type": "object",
            "description": "What to do about recordings that fail, in the graph as a whole.",
            "additionalProperties": false,
            "properties": { "stop_if": stop_if() },
        },
        "templates": {
            "type": "object",
            "description": "Maps that nodes merge: `name: &name {...}` here, `<<: *name` there.",
            "additionalProperties": { "type": "object" },
        },
        "nodes": {
            "type": "object",
            "description": "The steps, by name.",
            "minProperties": 1,
            "additionalProperties": { "$ref": "#/$defs/node" },
        },
        "tests": {
            "type": "array",
            "description": "What `omar-flow test` does with the graph.",
            "items": { "$ref": format!("#/$defs/{TEST}") },
        },
    });
    properties.as_object().cloned().unwrap_or_default()
}

fn stop_if() -> Value {
    let rate =
        json!({ "type": "number", "minimum": 0, "maximum": 1, "description": "Largest share of rejected recordings." });
    let after = json!({ "type": "integer", "minimum": 1, "description": "Recordings to try before that is judged." });
    json!({
        "type": "object",
        "description": "When the run ends because too many recordings are rejected.",
        "required": ["rate", "after"],
        "additionalProperties": false,
        "properties": { "rate": or_variable(rate), "after": or_variable(after) },
    })
}

fn node(stages: &[&str], rules: &[Value]) -> Value {
    json!({
        "type": "object",
        "required": ["stage"],
        "additionalProperties": false,
        "properties": {
            // Editors that know merge keys look at what they bring; others at least let them stand.
            "<<": {},
            "stage": { "enum": stages, "description": "What the node does." },
            "from": {
                "description": "The node that it reads, or one for each input.",
                "anyOf": [{ "type": "string" }, { "type": "object", "additionalProperties": { "type": "string" } }],
            },
            "params": { "description": "Parameters of the stage." },
            "cache": { "type": "string", "description": "Folder that keeps its rows." },
            "on_error": on_error(),
            "device": { "type": "string", "description": "Where its model runs: `auto`, `cpu` or `cuda:0`." },
            "expect": {
                "type": "object",
                "description": "Facts that its output must have: `edge`, `columns`, `version`, `fingerprint`, constants of the edge.",
                "properties": {
                    "edge": { "type": "string" },
                    "columns": { "type": "object", "additionalProperties": { "type": "string" } },
                    "version": { "type": "integer" },
                    "fingerprint": { "type": "string" },
                },
            },
        },
        "allOf": rules,
    })
}

fn on_error() -> Value {
    let word = json!({ "enum": OnError::NAMES });
    let retry = json!({
        "type": "object",
        "description": "Try recordings again that could not be read.",
        "additionalProperties": false,
        "properties": {
            "attempts": or_variable(json!({ "type": "integer", "minimum": 2, "maximum": 100, "description": "Tries in all." })),
            "on": { "const": [policy::IO], "description": "Classes of rejections to try again." },
            "wait": { "type": "string", "description": "Pause before the second try; further ones double." },
        },
    });
    let policy = json!({
        "type": "object",
        "required": ["retry"],
        "additionalProperties": false,
        "properties": { "retry": retry, "then": word },
    });
    json!({ "anyOf": [word, policy], "description": "What to do with recordings that fail." })
}

/// If a node is of this stage, then these are its inputs and parameters.
fn rule(kind: &Registered) -> Value {
    let mut then = json!({ "properties": { "params": { "$ref": format!("#/$defs/{}", kind.name) } } });
    let ports = |ports: &[&str]| {
        let properties: Map<String, Value> =
            ports.iter().map(|&port| (port.to_owned(), json!({ "type": "string" }))).collect();
        json!({ "type": "object", "properties": properties, "required": ports, "additionalProperties": false })
    };
    then["properties"]["from"] = match kind.inputs {
        [] => Value::Bool(false),
        [_] => json!({ "type": "string" }),
        several => ports(several),
    };
    let needs_params = (kind.params)().get("required").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let required = [(!kind.inputs.is_empty(), "from"), (needs_params, "params")];
    then["required"] = required.iter().filter(|one| one.0).map(|one| one.1).collect();
    json!({ "if": { "properties": { "stage": { "const": kind.name } }, "required": ["stage"] }, "then": then })
}

/// Adds a schema, such as that of the parameters of a stage, and the types that it uses, under names that cannot clash.
fn define(owner: &str, mut schema: Value, definitions: &mut Map<String, Value>) {
    let mut own = Map::new();
    if let Some(map) = schema.as_object_mut() {
        map.shift_remove("$schema");
        if let Some(Value::Object(inner)) = map.shift_remove("$defs") {
            own = inner;
        }
    }
    definitions.insert(owner.to_owned(), adapt(owner, schema));
    for (name, schema) in own {
        definitions.insert(format!("{owner}.{name}"), adapt(owner, schema));
    }
}

/// Points references at the new names, and lets `${...}` stand for every number and boolean.
fn adapt(stage: &str, schema: Value) -> Value {
    match schema {
        Value::Object(map) => {
            let scalar = matches!(map.get("type").and_then(Value::as_str), Some("integer" | "number" | "boolean"));
            let quantity = map.contains_key("pattern");
            let adapted = map.into_iter().map(|(key, value)| match (key.as_str(), &value) {
                ("$ref", Value::String(name)) => {
                    let name = name.trim_start_matches("#/$defs/");
                    (key, format!("#/$defs/{stage}.{name}").into())
                }
                ("default" | "enum" | "const" | "required", _) => (key, value),
                ("properties", Value::Object(fields)) => {
                    let fields = fields.iter().map(|(name, field)| (name.clone(), adapt(stage, field.clone())));
                    (key, Value::Object(fields.collect()))
                }
                _ => (key, adapt(stage, value)),
            });
            let adapted = Value::Object(adapted.collect());
            if scalar || quantity { or_variable(adapted) } else { adapted }
        }
        Value::Array(items) => items.into_iter().map(|item| adapt(stage, item)).collect(),
        other => other,
    }
}

fn or_variable(mut schema: Value) -> Value {
    let about = schema.as_object_mut().and_then(|map| map.shift_remove("description"));
    let default = schema.as_object_mut().and_then(|map| map.shift_remove("default"));
    let mut either = json!({ "anyOf": [schema, { "$ref": format!("#/$defs/{VARIABLE}") }] });
    for (key, value) in [("description", about), ("default", default)] {
        value.into_iter().for_each(|value| either[key] = value);
    }
    either
}
