//! A plan for people: as text, as JSON, as a drawing.

use std::fmt::Write as _;

use omar_schemas::edge_name;
use omar_schemas::units::Bytes;
use omar_stages::Scope;
use serde_json::{Map, Value, json};

use crate::cli::DrawFormat;
use crate::edges;
use crate::plan::{Plan, PlanNode};
use crate::repair::flow;

/// What is said about the cache of a node: `cached 3/7 shards`. `None` when nothing is known.
pub type CacheWords<'a> = &'a dyn Fn(&PlanNode) -> Option<String>;

/// Longer values of parameters are cut.
const PARAM_CHARS: usize = 60;

/// The plan as text, a paragraph for each node.
pub fn text(plan: &Plan, cached: CacheWords<'_>) -> String {
    let mut out = String::new();
    let resources = &plan.resources;
    let threads = resources.threads.map_or("auto".to_owned(), |threads| threads.to_string());
    let _ = writeln!(
        out,
        "{}: {} nodes, seed {}, {threads} threads, {} of memory, device {}",
        plan.name,
        plan.nodes.len(),
        plan.seed,
        resources.memory,
        resources.device,
    );
    for node in &plan.nodes {
        let _ = writeln!(out, "\n{} ({} v{})  {}", node.id, node.stage_name, node.version, node.fingerprint);
        for (name, value) in lines(plan, node, cached) {
            let _ = writeln!(out, "  {name:<7} {value}");
        }
    }
    out
}

fn lines(plan: &Plan, node: &PlanNode, cached: CacheWords<'_>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let params = node.params.as_object().map(params_words).unwrap_or_default();
    if !params.is_empty() {
        lines.push(("params", params));
    }
    for input in &node.inputs {
        let producer = &plan.nodes[input.node];
        let port = if node.inputs.len() > 1 { format!("{} = ", input.port) } else { String::new() };
        lines.push(("in", format!("{port}{}: {}", producer.id, edges::words(&producer.schema))));
    }
    let size = edges::bytes_per_row(&node.schema).map_or(String::new(), |bytes| format!(", {} a row", Bytes(bytes)));
    lines.push(("out", format!("{}{size}", edges::words(&node.schema))));
    if let Some(folder) = &node.cache {
        let words = cached(node).map_or(String::new(), |words| format!(" ({words})"));
        lines.push(("cache", format!("{}{words}", folder.display())));
    }
    lines
}

fn params_words(params: &Map<String, Value>) -> String {
    let pairs = params.iter().filter(|(_, value)| !is_empty(value)).map(|(name, value)| {
        let value = flow(value);
        let cut: String = value.chars().take(PARAM_CHARS).collect();
        if cut.len() < value.len() { format!("{name}: {cut}...") } else { format!("{name}: {value}") }
    });
    pairs.collect::<Vec<_>>().join(", ")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The plan as JSON.
pub fn json(plan: &Plan, cached: CacheWords<'_>) -> Value {
    let nodes = plan.nodes.iter().map(|node| {
        let inputs = node.inputs.iter().map(|input| (input.port.to_owned(), plan.nodes[input.node].id.clone().into()));
        let columns = node.schema.fields().iter().map(|field| {
            json!({ "name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable() })
        });
        json!({
            "id": node.id,
            "stage": node.stage_name,
            "version": node.version,
            "scope": scope_words(node.scope),
            "params": node.params,
            "inputs": inputs.collect::<Map<String, Value>>(),
            "output": {
                "edge": edge_name(&node.schema),
                "words": edges::words(&node.schema),
                "columns": columns.collect::<Value>(),
                "bytes_per_row": edges::bytes_per_row(&node.schema),
            },
            "fingerprint": node.fingerprint,
            "cache": node.cache,
            "cached": cached(node),
            "on_error": node.on_error,
            "retry": node.retry,
            "device": node.device,
            "estimate": node.stage.estimate(),
        })
    });
    json!({
        "name": plan.name,
        "seed": plan.seed,
        "resources": plan.resources,
        "flow": plan.flow,
        "stop_if": plan.stop_if,
        "nodes": nodes.collect::<Value>(),
        "warnings": plan.warnings.to_json(),
    })
}

/// How batches arrive, in words.
pub fn scope_words(scope: Scope) -> &'static str {
    match scope {
        Scope::Source => "source",
        Scope::Track => "one recording at a time",
        Scope::Corpus { repeats: false } => "the corpus as a whole",
        Scope::Corpus { repeats: true } => "the corpus as a whole, pass after pass",
    }
}

/// The plan as a drawing.
pub fn draw(plan: &Plan, format: DrawFormat) -> String {
    match format {
        DrawFormat::Mermaid => mermaid(plan),
        DrawFormat::Dot => dot(plan),
    }
}

fn mermaid(plan: &Plan) -> String {
    let mut out = "flowchart LR\n".to_owned();
    for (index, node) in plan.nodes.iter().enumerate() {
        let (id, stage) = (&node.id, node.stage_name);
        let (open, close) = match node.scope {
            Scope::Source => ("([", "])"),
            Scope::Track if node.cache.is_some() => ("[(", ")]"),
            Scope::Track => ("[", "]"),
            Scope::Corpus { .. } => ("[[", "]]"),
        };
        let _ = writeln!(out, "  n{index}{open}\"{id}<br/><i>{stage}</i>\"{close}");
    }
    for (index, node) in plan.nodes.iter().enumerate() {
        for input in &node.inputs {
            let label = edge_label(plan, node, input.port, input.node);
            let _ = writeln!(out, "  n{} -- \"{label}\" --> n{index}", input.node);
        }
    }
    out
}

fn dot(plan: &Plan) -> String {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR; node [shape=box];\n", quote(&plan.name));
    for (index, node) in plan.nodes.iter().enumerate() {
        let shape = match node.scope {
            Scope::Source => ", shape=oval",
            Scope::Track if node.cache.is_some() => ", shape=cylinder",
            Scope::Track => "",
            Scope::Corpus { .. } => ", peripheries=2",
        };
        let _ = writeln!(out, "  n{index} [label=\"{}\\n{}\"{shape}];", quote(&node.id), node.stage_name);
    }
    for (index, node) in plan.nodes.iter().enumerate() {
        for input in &node.inputs {
            let label = quote(&edge_label(plan, node, input.port, input.node));
            let _ = writeln!(out, "  n{} -> n{index} [label=\"{label}\"];", input.node);
        }
    }
    out.push_str("}\n");
    out
}

/// The edge, and the port where that is not clear.
fn edge_label(plan: &Plan, node: &PlanNode, port: &str, producer: usize) -> String {
    let edge = edges::plural(edge_name(&plan.nodes[producer].schema).unwrap_or("rows"));
    if node.inputs.len() > 1 && port != edge { format!("{port}: {edge}") } else { edge }
}
