//! Parameters of a stage against their JSON Schema.
//!
//! serde stops at the first mistake and knows no lines. So unknown and missing keys are found here first, all of them
//! at once, and what serde says about the rest is put into words that name what was expected.

use serde_json::{Map, Value};

use crate::diagnostic::{closest, did_you_mean, one_of};
use crate::spans::KeyPath;
use crate::yaml::describe;

/// The schema of the parameters of a stage.
#[derive(Debug, Clone)]
pub(crate) struct ParamsSchema {
    root: Value,
}

/// A mistake in parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Where, below `params`.
    pub(crate) path: KeyPath,
    pub(crate) kind: MistakeKind,
    /// The parameter.
    pub(crate) name: String,
    pub(crate) message: String,
    pub(crate) label: String,
    pub(crate) hint: Option<String>,
}

/// What is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MistakeKind {
    /// A key that is not known.
    Unknown,
    /// A key that is none of the choices.
    Choice,
    /// A map that lacks a key.
    Missing,
    /// A value.
    Value,
}

/// What a value must look like.
#[derive(Debug, Default)]
struct Choices<'a> {
    /// Maps, with their properties.
    maps: Vec<&'a Value>,
    /// Words, when only certain words are allowed.
    words: Vec<&'a str>,
    /// Everything else.
    others: Vec<&'a Value>,
}

impl ParamsSchema {
    pub(crate) fn new(schema: &schemars::Schema) -> Self {
        Self { root: schema.as_value().clone() }
    }

    /// The schema itself.
    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Follows references.
    pub(crate) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|name| name.strip_prefix('#'));
        target.and_then(|pointer| self.root.pointer(pointer)).map_or(schema, |target| self.resolve(target))
    }

    /// Unknown and missing keys, and words that are not among those allowed.
    pub(crate) fn mistakes(&self, params: &Value) -> Vec<Mistake> {
        let mut found = Vec::new();
        self.walk(&self.root, params, &KeyPath::default(), &mut found);
        found
    }

    fn walk(&self, schema: &Value, value: &Value, path: &KeyPath, found: &mut Vec<Mistake>) {
        let choices = self.choices(schema);
        match value {
            Value::Object(map) => match (&choices.maps[..], self.variants(&choices)) {
                ([only], None) => self.walk_map(only, map, path, found),
                (_, Some(variants)) => self.walk_variant(&variants, &choices.words, map, path, found),
                _ => {}
            },
            Value::Array(items) => {
                let item_schema = choices.others.iter().find_map(|other| other.get("items"));
                for (index, item) in items.iter().enumerate() {
                    item_schema.into_iter().for_each(|schema| {
                        self.walk(schema, item, &path.child(index.to_string()), found);
                    });
                }
            }
            Value::String(word) if choices.others.is_empty() && !choices.words.contains(&word.as_str()) => {
                self.wrong_word(&choices, word, path, found);
            }
            _ => {}
        }
    }

    fn walk_map(&self, schema: &Value, map: &Map<String, Value>, path: &KeyPath, found: &mut Vec<Mistake>) {
        let empty = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        let owner = if path.0.is_empty() { String::new() } else { format!(" in `{path}`") };
        for (key, value) in map {
            let path = path.child(key.as_str());
            match (properties.get(key), schema.get("additionalProperties")) {
                (Some(schema), _) if value.is_null() && self.is_pointless(schema) => {
                    let message = format!("there is nothing after `{key}:`");
                    let hint = format!("write `{key}: {{}}` for all its defaults, or remove `{key}`");
                    found.push(wrong_value(&path, message, Some(hint)));
                }
                (Some(schema), _) => self.walk(schema, value, &path, found),
                (None, Some(schema)) if schema.is_object() => self.walk(schema, value, &path, found),
                (None, Some(Value::Bool(false))) => {
                    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
                    let all = || match &names[..] {
                        [] => "there are none here".to_owned(),
                        names => format!("the parameters{owner} are {}", names.join(", ")),
                    };
                    found.push(Mistake {
                        path,
                        kind: MistakeKind::Unknown,
                        name: key.clone(),
                        message: format!("unknown parameter `{key}`{owner}"),
                        label: "no such parameter".to_owned(),
                        hint: Some(did_you_mean(key, names.iter().copied()).unwrap_or_else(all)),
                    });
                }
                (None, _) => {}
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        // A misspelt key explains one that is missing.
        let misspelt = |name: &str| {
            let unknown = map.keys().filter(|key| !properties.contains_key(*key));
            unknown.into_iter().any(|key| closest(key, properties.keys().map(String::as_str)) == Some(name))
        };
        for name in required.filter(|&name| !map.contains_key(name) && !misspelt(name)) {
            let about = properties.get(name).map(|property| self.about(name, property));
            found.push(Mistake {
                path: path.clone(),
                kind: MistakeKind::Missing,
                name: name.to_owned(),
                message: format!("parameter `{name}` is missing{owner}"),
                label: format!("expected `{name}` here"),
                hint: about,
            });
        }
    }

    fn walk_variant(
        &self,
        variants: &[(&str, &Value)],
        words: &[&str],
        map: &Map<String, Value>,
        path: &KeyPath,
        found: &mut Vec<Mistake>,
    ) {
        let names = || variants.iter().map(|variant| variant.0).chain(words.iter().copied());
        let mut mistake = |kind: MistakeKind, path: KeyPath, message: String, label: &str, hint: String| {
            let name = path.last().to_owned();
            found.push(Mistake { path, kind, name, message, label: label.to_owned(), hint: Some(hint) });
        };
        let all = format!("choose one of {}", one_of(names()));
        match (map.len(), map.iter().next()) {
            (1, Some((key, value))) => match variants.iter().find(|variant| variant.0 == key) {
                Some((_, schema)) => self.walk(schema, value, &path.child(key.as_str()), found),
                None => {
                    let message = format!("`{}` must be {}, found `{key}`", name_of(path), one_of(names()));
                    let hint = did_you_mean(key, names()).unwrap_or(all);
                    mistake(MistakeKind::Choice, path.child(key.as_str()), message, "no such choice", hint);
                }
            },
            (0, _) => mistake(MistakeKind::Value, path.clone(), format!("`{}` is empty", name_of(path)), "", all),
            (_, _) => {
                let message = format!("`{}` takes one choice, found {}", name_of(path), map.len());
                mistake(MistakeKind::Value, path.clone(), message, "", all);
            }
        }
    }

    fn wrong_word(&self, choices: &Choices<'_>, word: &str, path: &KeyPath, found: &mut Vec<Mistake>) {
        let variants = self.variants(choices).unwrap_or_default();
        if choices.words.is_empty() && variants.is_empty() {
            return;
        }
        let names = || choices.words.iter().copied().chain(variants.iter().map(|variant| variant.0));
        let (message, hint) = if variants.iter().any(|variant| variant.0 == word) {
            let hint = format!("write `{}: {{{word}: {{}}}}`", path.last());
            (format!("`{word}` takes parameters of its own, and they are missing"), Some(hint))
        } else {
            let message = format!("`{}` must be {}, found `{word}`", path.last(), one_of(names()));
            (message, did_you_mean(word, names()))
        };
        found.push(wrong_value(path, message, hint));
    }

    /// Puts what serde said about the value at a path into words.
    pub(crate) fn explain(&self, path: &KeyPath, value: &Value, said: &str) -> Mistake {
        let schema = self.find(&path.0);
        let type_error = said.starts_with("invalid type") || said.starts_with("invalid value");
        let expected = schema.map(|schema| self.type_words(schema)).filter(|words| !words.is_empty());
        let message = match expected.filter(|_| type_error) {
            Some(expected) => {
                let negative = value.as_f64().is_some_and(|number| number < 0.0);
                let bound = if negative { " that is not negative" } else { "" };
                format!("`{}` must be {expected}{bound}, found {}", name_of(path), describe(value))
            }
            None if path.0.is_empty() => said.to_owned(),
            None => format!("`{}`: {said}", name_of(path)),
        };
        let whole = value.as_f64().filter(|number| type_error && value.is_f64() && number.fract() == 0.0);
        let hint = match (schema, whole) {
            (_, Some(number)) => Some(format!("write `{number}`")),
            (Some(_), None) if value.is_null() => Some("write `{}` for all defaults".to_owned()),
            (Some(schema), None) => {
                self.description(schema).map(|text| format!("`{}`: {}", name_of(path), first_sentence(text)))
            }
            _ => None,
        };
        wrong_value(path, message, hint)
    }

    /// Whether writing nothing after a key is the same as leaving it out, but looks like more: an optional map.
    fn is_pointless(&self, schema: &Value) -> bool {
        schema.get("default").is_none_or(Value::is_null) && !self.choices(schema).maps.is_empty()
    }

    /// What the documentation says about a parameter.
    fn about(&self, name: &str, schema: &Value) -> String {
        let words = self.type_words(schema);
        match self.description(schema) {
            Some(text) => format!("`{name}` is {words}: {}", first_sentence(text)),
            None => format!("`{name}` is {words}"),
        }
    }

    /// The documentation of a parameter: that of the field, else that of its type.
    pub(crate) fn description<'a>(&'a self, schema: &'a Value) -> Option<&'a str> {
        let own = schema.get("description").and_then(Value::as_str);
        own.or_else(|| self.resolve(schema).get("description").and_then(Value::as_str))
    }

    /// The type of a parameter in words: `a whole number, at least 1`.
    pub(crate) fn type_words(&self, schema: &Value) -> String {
        let choices = self.choices(schema);
        let variants = self.variants(&choices);
        let names = variants.iter().flatten().map(|variant| variant.0).chain(choices.words.iter().copied());
        let mut words: Vec<String> = choices.others.iter().map(|other| self.plain_type(other)).collect();
        let named = one_of(names);
        if !named.is_empty() {
            words.push(named);
        } else if !choices.maps.is_empty() {
            words.push("a map".to_owned());
        }
        words.dedup();
        words.join(" or ")
    }

    fn plain_type(&self, schema: &Value) -> String {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let bounds = match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => format!(" from {least} to {most}"),
            (Some(least), None) if least > 0.0 => format!(", at least {least}"),
            (None, Some(most)) => format!(", at most {most}"),
            (_, None) => String::new(),
        };
        let one = |types: &'_ Value| match types {
            Value::Array(all) => all.iter().filter_map(Value::as_str).find(|&name| name != "null").map(str::to_owned),
            only => only.as_str().map(str::to_owned),
        };
        match schema.get("type").and_then(one).as_deref() {
            Some("integer") => format!("a whole number{bounds}"),
            Some("number") => format!("a number{bounds}"),
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("string") if schema.get("pattern").is_some() => {
                schema.get("description").and_then(Value::as_str).unwrap_or("a text").to_owned()
            }
            Some("string") => "a text".to_owned(),
            Some("array") => match schema.get("items").map(|items| self.type_words(items)) {
                Some(item) if !item.is_empty() => format!("a list, each item {item}"),
                _ => "a list".to_owned(),
            },
            _ => "a value".to_owned(),
        }
    }

    /// The schema at a path.
    pub(crate) fn find(&self, path: &[String]) -> Option<&Value> {
        path.iter().try_fold(&self.root, |schema, key| {
            let choices = self.choices(schema);
            let own = choices.maps.iter().find_map(|map| map.get("properties")?.get(key));
            let any = || choices.maps.iter().find_map(|map| map.get("additionalProperties").filter(|s| s.is_object()));
            own.or_else(any).or_else(|| choices.others.iter().find_map(|other| other.get("items")))
        })
    }

    fn choices<'a>(&'a self, schema: &'a Value) -> Choices<'a> {
        let mut choices = Choices::default();
        self.collect_choices(schema, &mut choices);
        choices
    }

    fn collect_choices<'a>(&'a self, schema: &'a Value, choices: &mut Choices<'a>) {
        let schema = self.resolve(schema);
        let listed = |key: &str| schema.get(key).and_then(Value::as_array);
        if let Some(branches) = listed("oneOf").or_else(|| listed("anyOf")).or_else(|| listed("allOf")) {
            branches.iter().for_each(|branch| self.collect_choices(branch, choices));
            return;
        }
        if let Some(words) = listed("enum") {
            choices.words.extend(words.iter().filter_map(Value::as_str));
        } else if let Some(word) = schema.get("const").and_then(Value::as_str) {
            choices.words.push(word);
        } else {
            let types = schema.get("type");
            let is = |name: &str| match types {
                Some(Value::String(only)) => only == name,
                Some(Value::Array(all)) => all.iter().any(|one| one == name),
                _ => false,
            };
            if is("object") || schema.get("properties").is_some() {
                choices.maps.push(schema);
            } else if !(is("null") && types.is_some_and(Value::is_string)) {
                choices.others.push(schema);
            }
        }
    }

    /// If the maps are the variants of an enum, each a map with one key: their names and contents.
    pub(crate) fn variants_of<'a>(&'a self, schema: &'a Value) -> Option<Vec<(&'a str, &'a Value)>> {
        self.variants(&self.choices(schema))
    }

    /// The map that a value of this schema is, if it is one.
    pub(crate) fn map_of<'a>(&'a self, schema: &'a Value) -> Option<&'a Value> {
        let choices = self.choices(schema);
        if self.variants(&choices).is_some() { None } else { choices.maps.first().copied() }
    }

    fn variants<'a>(&self, choices: &Choices<'a>) -> Option<Vec<(&'a str, &'a Value)>> {
        let variant = |map: &&'a Value| {
            let properties = map.get("properties")?.as_object()?;
            let required = map.get("required")?.as_array()?;
            let closed = map.get("additionalProperties") == Some(&Value::Bool(false));
            let (name, schema) = properties.iter().next()?;
            (closed && properties.len() == 1 && required.len() == 1).then_some((name.as_str(), schema))
        };
        let variants: Option<Vec<_>> = choices.maps.iter().map(variant).collect();
        variants.filter(|variants| variants.len() > 1 || (variants.len() == 1 && !choices.words.is_empty()))
    }
}

/// The last key of a path that is no position in a list.
fn name_of(path: &KeyPath) -> &str {
    path.0.iter().rev().find(|key| key.parse::<usize>().is_err()).map_or("params", String::as_str)
}

fn wrong_value(path: &KeyPath, message: String, hint: Option<String>) -> Mistake {
    let name = path.last().to_owned();
    Mistake { path: path.clone(), kind: MistakeKind::Value, name, message, label: String::new(), hint }
}

/// Up to the first full stop.
pub(crate) fn first_sentence(text: &str) -> &str {
    let end = text.find(". ").or_else(|| text.find(".\n")).unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}
