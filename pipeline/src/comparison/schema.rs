//! The JSON Schema of a file that asks for a table. What is refused here [`super::spec`] refuses too.

use serde_json::{Map, Value, json};

use super::spec::KEY;
use crate::evaluation::paper;

/// The schema; `head` has what such a file shares with graphs.
pub(crate) fn schema(head: &Map<String, Value>) -> Value {
    let mut properties = head.clone();
    properties.insert(KEY.to_owned(), compare());
    json!({ "type": "object", "required": [KEY], "additionalProperties": false, "properties": properties })
}

fn compare() -> Value {
    let list =
        |items: Value, about: &str| json!({ "type": "array", "minItems": 1, "items": items, "description": about });
    closed(
        "Several evaluations as one table: a row per encoder, a column per task.",
        &["rows", "columns"],
        json!({
            "rows": list(row(), "The encoders."),
            "columns": list(column(), "The tasks."),
            "set": changes("Changes to all graphs, such as `nodes.{until}.params.repeats: 1`; `{until}` is the row's node."),
            "jobs": {
                "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": 64 }, { "$ref": "#/$defs/variable" }],
                "description": "Cells that are filled at the same time, each with its share of the threads.",
            },
            "protocol": text("The name of one of `protocols`, by which the cells are made."),
            "protocols": {
                "type": "object",
                "description": "How thoroughly cells can be evaluated, by name.",
                "additionalProperties": protocol(),
            },
        }),
    )
}

fn row() -> Value {
    let models: Vec<&str> = paper::ROWS.iter().map(|row| row.model).collect();
    let tasks = tasks().into_iter().map(|task| (task.to_owned(), text("Why.")));
    closed(
        "An encoder.",
        &["name", "model"],
        json!({
            "name": text("What the row is called."),
            "model": text("The folder of the encoder, for the graphs' `vars.model`."),
            "layers": text("Layers in words, such as `all` or `6,11`, for `vars.layers`."),
            "until": text("The node of the graphs whose result is taken; `of_trained` unless it is said."),
            "paper": one_of(&models, "The model of the paper's table 4 that it repeats."),
            "without": closed("Tasks that it is not made for, and why.", &[], Value::Object(tasks.collect())),
        }),
    )
}

fn column() -> Value {
    closed(
        "A task.",
        &["task", "graph"],
        json!({
            "task": one_of(&tasks(), "The task that the graph evaluates."),
            "graph": text("The file of the evaluation graph."),
            "data": text("The folder of the data, for the graph's `vars.data`."),
            "help": text("A sentence that says where to get the data."),
            "set": changes("Changes to this graph."),
        }),
    )
}

fn protocol() -> Value {
    let columns =
        tasks().into_iter().map(|task| (task.to_owned(), changes("Further changes to the graph of this task.")));
    closed(
        "A way to evaluate.",
        &["about"],
        json!({
            "about": text("A sentence that says what figures made so are good for."),
            "set": changes("Changes to all graphs."),
            "columns": closed("Further changes, by task.", &[], Value::Object(columns.collect())),
        }),
    )
}

fn tasks() -> Vec<&'static str> {
    paper::TASKS.iter().map(|task| task.0).collect()
}

fn text(about: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "description": about })
}

fn changes(about: &str) -> Value {
    json!({ "type": "object", "description": about })
}

/// One of these names, or a variable that holds one.
fn one_of(names: &[&str], about: &str) -> Value {
    json!({ "anyOf": [{ "enum": names }, { "$ref": "#/$defs/variable" }], "description": about })
}

/// A map of these keys and no others.
fn closed(about: &str, required: &[&str], mut properties: Value) -> Value {
    // Merge keys are worked out before anybody looks.
    properties["<<"] = json!({});
    json!({
        "type": "object",
        "description": about,
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{protocol, spec};
    use super::*;

    /// The keys that a schema names, but for the one of merges.
    fn keys(schema: &Value) -> Vec<&str> {
        let properties = schema["properties"].as_object();
        let mut keys: Vec<&str> = properties.into_iter().flatten().map(|entry| entry.0.as_str()).collect();
        keys.retain(|key| *key != "<<");
        keys.sort_unstable();
        keys
    }

    #[test]
    fn the_schema_has_the_keys_that_are_read() {
        let head = ["omar", "name", "vars"].map(|key| (key.to_owned(), json!({})));
        let schema = schema(&head.into_iter().collect());
        let compare = &schema["properties"][KEY];
        let columns = &compare["properties"]["columns"]["items"];
        for (schema, mut read) in [
            (&schema, spec::TOP.to_vec()),
            (compare, spec::PARTS.to_vec()),
            (&compare["properties"]["rows"]["items"], spec::ROW.to_vec()),
            (columns, spec::COLUMN.to_vec()),
            (&compare["properties"]["protocols"]["additionalProperties"], protocol::PROTOCOL.to_vec()),
        ] {
            read.sort_unstable();
            assert_eq!(keys(schema), read);
        }
    }
}
