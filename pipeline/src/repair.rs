//! Stages that would make a refused edge fit.
//!
//! Nothing here knows any stage: every kind is tried between the two nodes, with the parameters of its own example,
//! and suggested if the refused node would then bind. So a suggestion is never wrong, and new stages are suggested
//! without being listed anywhere.

use arrow::datatypes::SchemaRef;
use omar_stages::{At, Inputs, ParamsError, Registered, Registry, Scope};
use serde_json::{Map, Value};

/// How many stages to put in between at most.
const MOST: usize = 3;

/// A node that refuses what arrives at port `index`.
pub(crate) struct Refused<'a> {
    pub(crate) kind: &'a Registered,
    pub(crate) params: &'a Value,
    pub(crate) inputs: &'a [&'a SchemaRef],
    pub(crate) index: usize,
}

impl Refused<'_> {
    /// Whether it would take another edge there.
    pub(crate) fn fits(&self, schema: &SchemaRef) -> bool {
        let schemas = self.inputs.iter().enumerate();
        let schemas = schemas.map(|(port, given)| if port == self.index { schema } else { *given });
        let inputs = Inputs::new(self.kind.inputs.iter().copied().zip(schemas).collect());
        match (self.kind.bind)(self.params.clone(), &inputs) {
            Ok(_) | Err(ParamsError::Form { .. }) => true,
            Err(ParamsError::Bind(error)) => error.at != At::Input(self.kind.inputs[self.index].to_owned()),
        }
    }

    /// A hint that names what to put between it and what it reads.
    pub(crate) fn suggest(&self, upstream: &str, registry: &Registry) -> Option<String> {
        let mut reached: Vec<(Vec<(&str, Value)>, SchemaRef)> = vec![(Vec::new(), self.inputs[self.index].clone())];
        for _ in 0..MOST {
            let mut next = Vec::new();
            for (chain, schema) in &reached {
                for (name, params, output) in steps(registry, schema) {
                    if chain.iter().any(|step| step.0 == name) || name == self.kind.name {
                        continue;
                    }
                    let chain: Vec<_> = chain.iter().cloned().chain([(name, params)]).collect();
                    if self.fits(&output) {
                        return Some(sentence(&chain, upstream));
                    }
                    next.push((chain, output));
                }
            }
            reached = next;
        }
        None
    }
}

/// What the stages with one input make of an edge.
fn steps<'a>(registry: &'a Registry, schema: &SchemaRef) -> Vec<(&'a str, Value, SchemaRef)> {
    let one_input = registry.iter().filter(|kind| kind.scope == Scope::Track && kind.inputs.len() == 1);
    let bound = one_input.filter_map(|kind| {
        let example: Value = serde_yaml::from_str(kind.example).ok()?;
        let params = example.get("params").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        let output = (kind.bind)(params.clone(), &Inputs::new(vec![(kind.inputs[0], schema)])).ok()?.stage.output();
        Some((kind.name, params, output))
    });
    bound.collect()
}

fn sentence(chain: &[(&str, Value)], upstream: &str) -> String {
    match chain {
        [(name, params)] => {
            let empty = params.as_object().is_some_and(Map::is_empty);
            let params = if empty { String::new() } else { format!(", params: {}", flow(params)) };
            format!("put a node in between, such as `{{stage: {name}, from: {upstream}{params}}}`, and read from it")
        }
        _ => {
            let names: Vec<String> = chain.iter().map(|step| format!("`{}`", step.0)).collect();
            format!("put {} in between", names.join(", then "))
        }
    }
}

/// A value as one line of YAML.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<String> = map.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(flow).collect();
            format!("[{}]", items.join(", "))
        }
        Value::String(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | ' ');
            let is_text = matches!(serde_yaml::from_str(text), Ok(Value::String(_)));
            if is_text && text.chars().all(plain) { text.clone() } else { format!("{text:?}") }
        }
        other => other.to_string(),
    }
}
