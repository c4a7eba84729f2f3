//! `--set nodes.model.params.steps=100`: values of a graph changed from the command line.
//!
//! All options together form one [`Source`] called `command line`, a line each, so that messages point into them just
//! as they point into the file.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Place, Report, Source, did_you_mean};
use crate::spans::{KeyPath, Kind, Tree};
use crate::yaml::{self, describe};

/// How `--set` options are written in messages.
const PREFIX: &str = "--set ";

/// One applied option.
#[derive(Debug, Clone)]
pub(crate) struct Override {
    source: Arc<Source>,
    path: KeyPath,
    /// Range of every key of the path.
    keys: Vec<Range<usize>>,
    /// Ranges of the value.
    value: Tree,
}

impl Override {
    fn new(source: &Arc<Source>, path: KeyPath, keys: Vec<Range<usize>>, value: &str, start: usize) -> Self {
        let tree = Tree::scan(value).unwrap_or(Tree { range: 0..value.len(), kind: Kind::Scalar });
        Self { source: source.clone(), path, keys, value: tree.shift(start) }
    }

    /// Key and value at a path that this option wrote.
    pub(crate) fn find(&self, path: &KeyPath) -> Option<(Arc<Source>, Option<Range<usize>>, Tree)> {
        if !path.starts_with(&self.path) {
            return None;
        }
        let (key, tree) = self.value.find(&path.0[self.path.0.len()..])?;
        let key = key.or_else(|| self.keys.last().cloned());
        Some((self.source.clone(), key, tree.clone()))
    }

    /// The key at a path that this option passes through.
    pub(crate) fn created(&self, path: &KeyPath) -> Option<Place> {
        let range = self.path.starts_with(path).then(|| self.keys[path.0.len() - 1].clone())?;
        Some(Place { source: self.source.clone(), range })
    }
}

/// Applies the options in order; those that make no sense go to the report.
pub(crate) fn apply(graph: &mut Map<String, Value>, sets: &[String], report: &mut Report) -> Vec<Override> {
    let text = sets.iter().map(|set| format!("{PREFIX}{set}\n")).collect();
    let source = Arc::new(Source { name: "command line".to_owned(), text });
    let mut applied = Vec::new();
    let mut start = 0;
    for set in sets {
        let offset = start + PREFIX.len();
        start = offset + set.len() + 1;
        match apply_one(graph, set, offset, &source) {
            Ok(done) => applied.push(done),
            Err(diagnostic) => report.push(*diagnostic),
        }
    }
    applied
}

fn apply_one(
    graph: &mut Map<String, Value>,
    set: &str,
    offset: usize,
    source: &Arc<Source>,
) -> Result<Override, Box<Diagnostic>> {
    let refuse = |range: Range<usize>, label: &str, message: String| {
        Diagnostic::error(message).at(Some(Place { source: source.clone(), range }), label)
    };
    let whole = offset..offset + set.len();
    let (left, right) = set.split_once('=').filter(|pair| !pair.0.trim().is_empty()).ok_or_else(|| {
        let diagnostic = refuse(whole, "expected `path=value`", "`--set` needs a path and a value".to_owned());
        Box::new(diagnostic.hint("for example `--set nodes.model.params.steps=100`"))
    })?;
    let (path, keys, start) = (KeyPath::parse(left.trim()), key_ranges(left, offset), offset + left.len() + 1);
    let value = yaml::parse_value(right).map_err(|reason| {
        let message = format!("the value of `--set {left}` is not valid YAML: {reason}");
        Box::new(refuse(start..start + right.len(), "", message))
    })?;
    let at = |depth: usize| keys.get(depth).cloned().unwrap_or(offset..offset + left.len());
    if let Some(first @ ("include" | "templates")) = path.0.first().map(String::as_str) {
        let message = format!("`{first}` is worked out when the file is read, so `--set` has no effect on it");
        return Err(Box::new(refuse(at(0), "", message).hint("set the nodes: `--set nodes.NAME...`")));
    }
    if let (Some("nodes"), Some(name), Some(Value::Object(nodes))) =
        (path.0.first().map(String::as_str), path.0.get(1), graph.get("nodes"))
        && !nodes.contains_key(name)
    {
        let names: Vec<&str> = nodes.keys().map(String::as_str).collect();
        let hint = did_you_mean(name, names.iter().copied());
        let hint = hint.unwrap_or_else(|| format!("the nodes are {}", names.join(", ")));
        let diagnostic = refuse(at(1), "no such node", format!("the graph has no node `{name}`"));
        return Err(Box::new(diagnostic.hint(hint)));
    }
    let mut target = graph.entry(path.0[0].clone()).or_insert(Value::Null);
    for (depth, key) in path.0.iter().enumerate().skip(1) {
        if target.is_null() {
            *target = Value::Object(Map::new());
        }
        let kind = describe(target);
        target = match target {
            Value::Object(map) => map.entry(key.clone()).or_insert(Value::Null),
            Value::Array(items) => {
                let len = items.len();
                let item = key.parse::<usize>().ok().and_then(|index| items.get_mut(index));
                item.ok_or_else(|| {
                    let message = format!("`{}` is a list of {len}, counted from 0", path.0[..depth].join("."));
                    Box::new(refuse(at(depth), "no such item", message))
                })?
            }
            _ => {
                let message = format!("`{}` is {kind}, so nothing can be set inside it", path.0[depth - 1]);
                let diagnostic = refuse(at(depth - 1), "", message);
                return Err(Box::new(diagnostic.hint("set the whole value instead")));
            }
        };
    }
    *target = value;
    Ok(Override::new(source, path, keys, right, start))
}

fn key_ranges(left: &str, offset: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    for key in left.split_inclusive(['.', '[', ']']) {
        let name = key.trim_end_matches(['.', '[', ']']);
        if !name.is_empty() {
            let blank = name.len() - name.trim_start().len();
            ranges.push(offset + start + blank..offset + start + name.trim_end().len());
        }
        start += key.len();
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(sets: &[&str]) -> (Value, Vec<String>) {
        let mut graph = Value::Object(Map::new());
        graph["nodes"] = json!({"a": {"stage": "x", "params": {"list": [1, 2], "n": 1, "of": [{"k": 1}]}}});
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let mut report = Report::default();
        apply(graph.as_object_mut().expect("map"), &sets, &mut report);
        (graph, report.diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    #[test]
    fn values_are_replaced_and_added() {
        let (graph, errors) = set(&[
            "nodes.a.params.n=5",
            "nodes.a.params.list[1]=x",
            "nodes.a.params.of.0.k=2",
            "seed=7",
            "nodes.a.cache=runs/a",
        ]);
        assert_eq!(errors, Vec::<String>::new());
        let node = json!({"stage": "x", "params": {"list": [1, "x"], "n": 5, "of": [{"k": 2}]}, "cache": "runs/a"});
        assert_eq!(graph, json!({"nodes": {"a": node}, "seed": 7}));
    }

    #[test]
    fn unknown_nodes_and_paths_are_refused() {
        let (_, errors) = set(&[
            "nodes.b.params.n=5",
            "nodes.a.params.n.m=5",
            "seed",
            "nodes.a.params.list[7]=1",
            "nodes.a.params.of[1].k=1",
            "=3",
            "templates.a.cache=x",
        ]);
        assert_eq!(errors.len(), 7, "{errors:?}");
    }
}
