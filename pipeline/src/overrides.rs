//! `--set nodes.model.params.steps=100`: values of a graph changed from the command line.
//!
//! All options together form one [`Source`] called `command line`, a line each, so that messages point into them just
//! as they point into the file.

use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Place, Report, Source, did_you_mean};
use crate::spans::{KeyPath, Tree};
use crate::yaml;

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
    let place = |range: Range<usize>| Some(Place { source: source.clone(), range });
    let (left, right) = set.split_once('=').ok_or_else(|| {
        let diagnostic = Diagnostic::error("`--set` wants a path and a value")
            .at(place(offset..offset + set.len()), "expected `path=value`")
            .hint("for example `--set nodes.model.params.steps=100`");
        Box::new(diagnostic)
    })?;
    let path = KeyPath::parse(left.trim());
    let keys = key_ranges(left, offset);
    let value_at = offset + left.len() + 1;
    let value = yaml::parse_value(right).map_err(|reason| {
        let range = place(value_at..value_at + right.len());
        Box::new(Diagnostic::error(format!("the value of `--set {left}` is not valid YAML: {reason}")).at(range, ""))
    })?;
    let tree = Tree::scan(right).unwrap_or(Tree { range: 0..right.len(), kind: crate::spans::Kind::Scalar });
    let mut parent = graph;
    for depth in 0..path.0.len().saturating_sub(1) {
        known_node(parent, &path, depth).map_err(|diagnostic| at_key(diagnostic, place(keys[depth].clone())))?;
        let next = parent.entry(path.0[depth].clone()).or_insert_with(|| Value::Object(Map::new()));
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        if let (Value::Array(items), Some(index)) = (&mut *next, path.0[depth + 1].parse::<usize>().ok()) {
            let len = items.len();
            let item = items.get_mut(index).filter(|_| depth + 2 == path.0.len());
            let refused = || {
                let message = format!("`{}` has {len} items", KeyPath(path.0[..=depth].to_vec()));
                let hint = "count from 0; set the whole list to change what is deeper inside";
                Box::new(Diagnostic::error(message).at(place(keys[depth + 1].clone()), "").hint(hint))
            };
            *item.ok_or_else(refused)? = value;
            return Ok(Override { source: source.clone(), path, keys, value: tree.shift(value_at) });
        }
        let Value::Object(map) = next else {
            let message = format!("`{}` is a single value, nothing can be set inside it", path.0[depth]);
            return Err(Box::new(Diagnostic::error(message).at(place(keys[depth].clone()), "")));
        };
        parent = map;
    }
    if path.0.is_empty() {
        let range = place(offset..offset + set.len());
        return Err(Box::new(Diagnostic::error("`--set` wants a path before `=`").at(range, "")));
    }
    let depth = path.0.len() - 1;
    known_node(parent, &path, depth).map_err(|diagnostic| at_key(diagnostic, place(keys[depth].clone())))?;
    parent.insert(path.last().to_owned(), value);
    Ok(Override { source: source.clone(), path, keys, value: tree.shift(value_at) })
}

/// Options change nodes, they do not add any.
fn known_node(nodes: &Map<String, Value>, path: &KeyPath, depth: usize) -> Result<(), Diagnostic> {
    let name = &path.0[depth];
    if depth != 1 || path.0[0] != "nodes" || nodes.contains_key(name) {
        return Ok(());
    }
    let known = || nodes.keys().map(String::as_str);
    let names: Vec<&str> = known().collect();
    let hint = did_you_mean(name, known()).unwrap_or_else(|| format!("the nodes are {}", names.join(", ")));
    Err(Diagnostic::error(format!("the graph has no node `{name}`")).hint(hint))
}

fn at_key(diagnostic: Diagnostic, place: Option<Place>) -> Box<Diagnostic> {
    Box::new(diagnostic.at(place, "no such node"))
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
        graph["nodes"] = json!({"a": {"stage": "x", "params": {"list": [1, 2], "n": 1}}});
        let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
        let mut report = Report::default();
        apply(graph.as_object_mut().expect("map"), &sets, &mut report);
        (graph, report.diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    #[test]
    fn values_are_replaced_and_added() {
        let (graph, errors) =
            set(&["nodes.a.params.n=5", "nodes.a.params.list[1]=x", "seed=7", "nodes.a.cache=runs/a"]);
        assert_eq!(errors, Vec::<String>::new());
        let node = json!({"stage": "x", "params": {"list": [1, "x"], "n": 5}, "cache": "runs/a"});
        assert_eq!(graph, json!({"nodes": {"a": node}, "seed": 7}));
    }

    #[test]
    fn unknown_nodes_and_paths_are_refused() {
        let (_, errors) =
            set(&["nodes.b.params.n=5", "nodes.a.params.n.m=5", "seed", "nodes.a.params.list[7]=1", "=3"]);
        assert_eq!(errors.len(), 5, "{errors:?}");
    }
}
