//! Checks values against a JSON Schema, as editors do: the part of it that the schema of graphs is written in.

#![allow(unreachable_pub, reason = "the module is compiled into every test on its own")]

use regex_lite::Regex;
use serde_json::{Map, Value};

/// Keys that say nothing about which values are right.
const SILENT: [&str; 9] = ["$schema", "$defs", "title", "description", "default", "examples", "format", "then", "else"];

/// Why a value does not fit a schema, with the path of what is wrong; empty when it fits.
pub fn complaints(root: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    Check { root, found: &mut found }.against(root, value, "");
    found
}

struct Check<'a> {
    root: &'a Value,
    found: &'a mut Vec<String>,
}

impl Check<'_> {
    fn fits(&self, schema: &Value, value: &Value) -> bool {
        let mut found = Vec::new();
        Check { root: self.root, found: &mut found }.against(schema, value, "");
        found.is_empty()
    }

    fn against(&mut self, schema: &Value, value: &Value, path: &str) {
        let map = match schema {
            Value::Bool(true) => return,
            Value::Bool(false) => return self.found.push(format!("{path}: nothing may be there")),
            Value::Object(map) => map,
            other => panic!("{other} is no schema"),
        };
        for (key, rule) in map {
            self.rule(map, (key, rule), value, path);
        }
    }

    fn rule(&mut self, schema: &Map<String, Value>, (key, rule): (&str, &Value), value: &Value, path: &str) {
        let each = |list: &Value| list.as_array().expect("a list of schemas").clone();
        match key {
            "$ref" => {
                let pointer = rule.as_str().and_then(|name| name.strip_prefix('#')).expect("a reference in the schema");
                let target = self.root.pointer(pointer).unwrap_or_else(|| panic!("{pointer} leads nowhere"));
                self.against(target, value, path);
            }
            "type" => {
                let is_one = each_or_one(rule).iter().any(|name| is_of(value, name));
                self.hold(is_one, path, "is no", rule);
            }
            "enum" => self.hold(each(rule).contains(value), path, "is none of", rule),
            "const" => self.hold(rule == value, path, "is not", rule),
            "anyOf" => self.hold(each(rule).iter().any(|one| self.fits(one, value)), path, "fits none of", rule),
            "oneOf" => {
                let count = each(rule).iter().filter(|one| self.fits(one, value)).count();
                self.hold(count == 1, path, "does not fit exactly one of", rule);
            }
            "allOf" => each(rule).iter().for_each(|one| self.against(one, value, path)),
            "if" => {
                let branch = schema.get(if self.fits(rule, value) { "then" } else { "else" });
                branch.into_iter().for_each(|branch| self.against(branch, value, path));
            }
            "pattern" | "minLength" | "minimum" | "exclusiveMinimum" | "maximum" => {
                self.hold(scalar(key, rule, value), path, key, rule);
            }
            "items" | "minItems" | "maxItems" => self.list(key, rule, value, path),
            "required" | "properties" | "additionalProperties" | "minProperties" => {
                self.map(schema, (key, rule), value, path);
            }
            _ => assert!(SILENT.contains(&key), "this check does not know `{key}`"),
        }
    }

    fn hold(&mut self, is_so: bool, path: &str, what: &str, rule: &Value) {
        if !is_so {
            self.found.push(format!("{path}: {what} {rule}"));
        }
    }

    fn list(&mut self, key: &str, rule: &Value, value: &Value, path: &str) {
        let Value::Array(items) = value else { return };
        match key {
            "minItems" => self.hold(items.len() as u64 >= rule.as_u64().expect("a count"), path, key, rule),
            "maxItems" => self.hold(items.len() as u64 <= rule.as_u64().expect("a count"), path, key, rule),
            _ => items.iter().enumerate().for_each(|(at, item)| self.against(rule, item, &format!("{path}/{at}"))),
        }
    }

    fn map(&mut self, schema: &Map<String, Value>, (key, rule): (&str, &Value), value: &Value, path: &str) {
        let Value::Object(fields) = value else { return };
        let known = schema.get("properties").and_then(Value::as_object);
        match key {
            "required" => {
                for name in rule.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    self.hold(fields.contains_key(name), path, "misses", &name.into());
                }
            }
            "minProperties" => self.hold(fields.len() as u64 >= rule.as_u64().expect("a count"), path, key, rule),
            "properties" => {
                for (name, schema) in known.into_iter().flatten() {
                    let field = fields.get(name).into_iter();
                    field.for_each(|field| self.against(schema, field, &format!("{path}/{name}")));
                }
            }
            _ => {
                for (name, field) in fields.iter().filter(|(name, _)| known.is_none_or(|k| !k.contains_key(*name))) {
                    self.against(rule, field, &format!("{path}/{name}"));
                }
            }
        }
    }
}

/// Rules about texts and numbers; they say nothing of other values.
fn scalar(key: &str, rule: &Value, value: &Value) -> bool {
    match (value, key) {
        (Value::String(text), "pattern") => {
            let pattern = Regex::new(rule.as_str().expect("a pattern")).expect("a pattern that can be read");
            pattern.is_match(text)
        }
        (Value::String(text), "minLength") => text.chars().count() as u64 >= rule.as_u64().expect("a length"),
        (Value::Number(number), "minimum" | "maximum" | "exclusiveMinimum") => {
            let (number, limit) = (number.as_f64().expect("finite"), rule.as_f64().expect("a number"));
            match key {
                "minimum" => number >= limit,
                "maximum" => number <= limit,
                _ => number > limit,
            }
        }
        _ => true,
    }
}

fn each_or_one(types: &Value) -> Vec<&str> {
    match types {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("there is no type `{other}`"),
    }
}
