//! Is every stage registered, documented, and described by a schema that matches what it reads?

use std::collections::BTreeSet;

use omar_stages::{Inputs, ParamsError, Registered};
use serde_json::{Map, Value, json};

fn kinds() -> Vec<Registered> {
    omar_stages::ops::registry().iter().cloned().collect()
}

fn example(kind: &Registered) -> Map<String, Value> {
    match serde_yaml::from_str(kind.example) {
        Ok(Value::Object(node)) => node,
        other => panic!("the example of `{}` is no node: {other:?}", kind.name),
    }
}

#[test]
fn every_file_in_ops_is_a_registered_stage() {
    let files = std::fs::read_dir("stages/src/ops").expect("folder").map(|entry| entry.expect("entry").path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let text = |path: &std::path::Path| std::fs::read_to_string(path).expect("readable");
    let stages: BTreeSet<String> = files
        .filter(|path| !path.ends_with("mod.rs") && text(path).contains("StageKind for "))
        .map(|path| path.file_stem().expect("name").to_string_lossy().into_owned())
        .collect();
    let registered: BTreeSet<String> = kinds().iter().map(|kind| kind.name.to_owned()).collect();
    assert_eq!(stages, registered, "ops/<name>.rs declares the stage `<name>`, and ops/mod.rs lists it");
}

#[test]
fn every_stage_says_what_it_is_and_shows_how_it_is_used() {
    for kind in kinds() {
        let name = kind.name;
        assert!(!kind.summary.is_empty() && !kind.summary.ends_with('.'), "summary of `{name}`: no full stop");
        let node = example(&kind);
        assert_eq!(node.get("stage"), Some(&json!(name)), "the example of `{name}` shows another stage");
        let from = node.get("from");
        match kind.inputs {
            [] => assert_eq!(from, None, "`{name}` is a source"),
            [_] => assert!(from.is_some_and(Value::is_string), "the example of `{name}` needs `from: node`"),
            ports => {
                let from = from.and_then(Value::as_object).expect("ports");
                assert!(from.keys().eq(ports), "the example of `{name}` needs the ports {ports:?}");
            }
        }
        let params = node.get("params").cloned().unwrap_or_else(|| json!({}));
        check_params(&kind, params);
    }
}

/// Parameters are read, or refused for the lack of an input only.
fn check_params(kind: &Registered, params: Value) {
    let bound = std::panic::catch_unwind(|| (kind.bind)(params, &Inputs::new(Vec::new())));
    // A stage that asks for a port that is not there panics: then the parameters were read.
    if let Ok(Err(error @ ParamsError::Form { .. })) = bound {
        panic!("the example of `{}` has wrong parameters: {error}", kind.name);
    }
}

#[test]
fn every_parameter_is_described() {
    for kind in kinds() {
        let schema = (kind.params)();
        let mut missing = Vec::new();
        undescribed(schema.as_value(), schema.as_value(), kind.name, &mut missing);
        assert!(missing.is_empty(), "parameters without a description: {}", missing.join(", "));
    }
}

/// Properties without a description of their own or of their type.
fn undescribed(root: &Value, schema: &Value, path: &str, missing: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let target = property.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
                let of_type = target.and_then(|pointer| root.pointer(pointer)).and_then(|of| of.get("description"));
                let variant =
                    map.get("description").is_some() && map["properties"].as_object().is_some_and(|p| p.len() == 1);
                if property.get("description").or(of_type).is_none() && !variant {
                    missing.push(format!("{path}.{name}"));
                }
            }
            for (key, value) in map.iter().filter(|entry| entry.0 != "default" && entry.0 != "properties") {
                undescribed(root, value, &format!("{path}.{key}"), missing);
            }
            for (name, value) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                undescribed(root, value, &format!("{path}.{name}"), missing);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| undescribed(root, item, path, missing)),
        _ => {}
    }
}

#[test]
fn unknown_parameters_are_refused() {
    for kind in kinds() {
        let mut params = example(&kind).remove("params").unwrap_or_else(|| json!({}));
        params["no_such_parameter"] = json!(1);
        let refused = (kind.bind)(params, &Inputs::new(Vec::new()));
        assert!(matches!(refused, Err(ParamsError::Form { .. })), "`{}` takes any parameter", kind.name);
        assert_eq!(closed((kind.params)().as_value()), Vec::<String>::new(), "`{}` has open maps", kind.name);
    }
}

/// Maps with named properties that take other keys as well.
fn closed(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(map) => {
            let open = map.contains_key("properties") && map.get("additionalProperties") != Some(&json!(false));
            let own = open.then(|| map["properties"].to_string());
            own.into_iter().chain(map.values().flat_map(closed)).collect()
        }
        Value::Array(items) => items.iter().flat_map(closed).collect(),
        _ => Vec::new(),
    }
}
