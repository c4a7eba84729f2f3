//! `stages [NAME]`: what a graph can be made of, generated from the code.

use std::fmt::Write as _;

use omar_stages::{Registered, Registry};
use serde_json::{Value, json};

use super::{write_json, write_message, write_result};
use crate::cli::{Exit, StagesArgs};
use crate::diagnostic::did_you_mean;
use crate::explain::scope_words;
use crate::params::ParamsSchema;
use crate::repair::flow;

/// Lists the stages, or describes one.
pub fn stages(args: &StagesArgs, registry: &Registry) -> Exit {
    let Some(name) = &args.name else {
        if args.json {
            write_json(&registry.iter().map(to_json).collect());
        } else {
            write_result(&list(registry));
        }
        return Exit::Done;
    };
    let Some(kind) = registry.get(name) else {
        let hint = did_you_mean(name, registry.iter().map(|kind| kind.name));
        let hint = hint.unwrap_or_else(|| "`omar-flow stages` lists them".to_owned());
        write_message(&format!("error: no stage is called `{name}`\n  = help: {hint}\n"));
        return Exit::Usage;
    };
    if args.json {
        write_json(&to_json(kind));
    } else {
        write_result(&describe(kind));
    }
    Exit::Done
}

fn to_json(kind: &Registered) -> Value {
    json!({
        "name": kind.name,
        "version": kind.version,
        "summary": kind.summary,
        "scope": scope_words(kind.scope),
        "inputs": kind.inputs,
        "example": kind.example,
        "params": (kind.params)(),
    })
}

fn list(registry: &Registry) -> String {
    let width = registry.iter().map(|kind| kind.name.len()).max().unwrap_or(0);
    registry.iter().fold(String::new(), |mut out, kind| {
        let _ = writeln!(out, "{:width$}  {}", kind.name, kind.summary);
        out
    })
}

/// Everything about a stage, as text.
pub fn describe(kind: &Registered) -> String {
    let inputs = match kind.inputs {
        [] => "none, it is a source".to_owned(),
        [_] => "one, written `from: NODE`".to_owned(),
        ports => {
            let ports: Vec<String> = ports.iter().map(|port| format!("{port}: NODE")).collect();
            format!("{}, written `from: {{{}}}`", ports.len(), ports.join(", "))
        }
    };
    let mut out = format!("{} (version {}): {}\n\n", kind.name, kind.version, kind.summary);
    let _ = writeln!(out, "works on: {}\ninputs:   {inputs}\nexample:  {}\n", scope_words(kind.scope), kind.example);
    let schema = ParamsSchema::new(&(kind.params)());
    let rows = rows(&schema);
    if rows.is_empty() {
        out.push_str("no parameters\n");
    } else {
        out.push_str("parameters:\n");
    }
    for row in rows {
        let default = row.default.map_or(String::new(), |default| format!(", {default}"));
        let indent = "  ".repeat(row.depth + 1);
        let _ = writeln!(out, "{indent}{}: {}{default}", row.name, row.type_words);
        for line in wrap(&row.description, 100) {
            let _ = writeln!(out, "{indent}    {line}");
        }
    }
    out
}

/// A parameter as documented.
struct Row {
    depth: usize,
    name: String,
    type_words: String,
    default: Option<String>,
    description: String,
}

fn rows(schema: &ParamsSchema) -> Vec<Row> {
    let mut rows = Vec::new();
    add_rows(schema, schema.root(), 0, &mut rows);
    rows
}

fn add_rows(schema: &ParamsSchema, of: &Value, depth: usize, rows: &mut Vec<Row>) {
    if let Some(variants) = schema.variants_of(of) {
        for (name, content) in variants {
            rows.push(row(schema, name, content, depth, None));
            add_rows(schema, content, depth + 1, rows);
        }
    } else if let Some(map) = schema.map_of(of) {
        let required: Vec<&str> =
            map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        for (name, content) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let default = match content.get("default") {
                _ if required.contains(&name.as_str()) => Some("required".to_owned()),
                Some(Value::Null) | None => Some("optional".to_owned()),
                Some(default) => Some(format!("default {}", flow(default))),
            };
            rows.push(row(schema, name, content, depth, default));
            add_rows(schema, content, depth + 1, rows);
        }
    }
}

fn row(schema: &ParamsSchema, name: &str, content: &Value, depth: usize, default: Option<String>) -> Row {
    let description = schema.description(content).unwrap_or_default().to_owned();
    Row { depth, name: name.to_owned(), type_words: schema.type_words(content), default, description }
}

/// Lines of at most `width` characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.is_empty() || line.len() + word.len() < width);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}
