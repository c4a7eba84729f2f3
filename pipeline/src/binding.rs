//! Binding: parameters checked, edges typed, stages made.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use omar_schemas::{Crop, Edge, Track, edge_name};
use omar_stages::corpus::address::Address;
use omar_stages::{At, BindError, Bound, Inputs, ParamsError, Registered, Registry};
use serde_json::Value;

use crate::diagnostic::{Diagnostic, Place, closest, one_of};
use crate::edges;
use crate::expectations::Given;
use crate::fingerprint::{self, Fingerprint};
use crate::graph::{Graph, Node};
use crate::params::{Mistake, MistakeKind, ParamsSchema};
use crate::plan::{Input, PlanNode};
use crate::reader::Reader;
use crate::repair;
use crate::spans::KeyPath;
use crate::wiring::Wiring;

/// A node about to be bound.
struct Binding<'a> {
    node: &'a Node,
    kind: &'a Registered,
    /// Producers with the path of each reference, by port.
    producers: Vec<(&'a PlanNode, KeyPath)>,
}

/// Binds all nodes that can be bound, in topological order; mistakes go to the report. Nodes behind one that could not
/// be bound are skipped in silence, but their keys are checked.
pub(crate) fn bind(graph: &Graph, wiring: &Wiring<'_>, registry: &Registry, reader: &mut Reader<'_>) -> Vec<PlanNode> {
    let mut nodes: Vec<PlanNode> = Vec::new();
    let mut placed = vec![None; graph.nodes.len()];
    let behind = (0..graph.nodes.len()).filter(|index| !wiring.order.contains(index));
    for index in wiring.order.iter().copied().chain(behind) {
        let (node, wired) = (&graph.nodes[index], &wiring.nodes[index]);
        let Some(kind) = wired.kind else { continue };
        let fit = check_params(node, kind, reader);
        let producers = wired.inputs.iter().flatten().map(|(producer, path)| Some((placed[*producer]?, path.clone())));
        let producers: Option<Vec<(usize, KeyPath)>> = producers.collect();
        let Some(producers) = producers.filter(|_| wired.inputs.is_some() && node.sound && fit) else { continue };
        let inputs = producers.iter().zip(kind.inputs).map(|((node, _), port)| Input { port, node: *node }).collect();
        let producers = producers.into_iter().map(|(producer, path)| (&nodes[producer], path)).collect();
        let binding = Binding { node, kind, producers };
        if let Some(bound) = binding.bind(&nodes, registry, reader)
            && binding.check_crops(&nodes, reader)
            && let Some(made) = binding.finish(bound, inputs, graph, reader)
        {
            placed[index] = Some(nodes.len());
            nodes.push(made);
        }
    }
    nodes
}

/// Reports what can be said about the parameters without knowing the inputs; says whether that was nothing.
fn check_params(node: &Node, kind: &Registered, reader: &mut Reader<'_>) -> bool {
    let schema = ParamsSchema::new(&(kind.params)());
    let mut params = Value::Object(node.params.clone());
    let mistakes = schema.mistakes(&params);
    let mut none = mistakes.is_empty();
    for mistake in mistakes {
        let wrong = match mistake.kind {
            MistakeKind::Missing => KeyPath::default(),
            MistakeKind::Choice => mistake.path.parent(),
            MistakeKind::Unknown | MistakeKind::Value => mistake.path.clone(),
        };
        remove(&mut params, &wrong);
        // A parameter that stands beside `params` is reported there.
        if !node.unknown.contains(&mistake.name) {
            report_mistake(node, mistake, reader);
        }
    }
    // serde stops at the first mistake, so the value is taken out and the rest looked at again.
    while let Err(ParamsError::Form { path, message }) = (kind.read)(params.clone()) {
        if !none && message.starts_with("missing field") {
            break;
        }
        none = false;
        let path = KeyPath::parse(&path);
        let value = find(&params, &path).cloned().unwrap_or(Value::Null);
        report_mistake(node, schema.explain(&path, &value, &message), reader);
        if !remove(&mut params, &path) {
            break;
        }
    }
    none
}

fn report_mistake(node: &Node, mistake: Mistake, reader: &mut Reader<'_>) {
    let path = node.path().child("params").join(&mistake.path);
    if reader.document.is_poisoned(&path) {
        return;
    }
    let place = if mistake.kind != MistakeKind::Value {
        reader.document.key_place(&path)
    } else {
        reader.document.place(&path)
    };
    let diagnostic = Diagnostic::error(mistake.message).at(place, mistake.label);
    reader.report.push(diagnostic.maybe_hint(mistake.hint));
}

impl Binding<'_> {
    fn inputs(&self) -> Inputs<'_> {
        let schemas = self.producers.iter().map(|producer| &producer.0.schema);
        Inputs::new(self.kind.inputs.iter().copied().zip(schemas).collect())
    }

    /// Binds, or reports why not; `others` are the nodes that are bound already.
    fn bind(&self, others: &[PlanNode], registry: &Registry, reader: &mut Reader<'_>) -> Option<Bound> {
        let error = match (self.kind.bind)(Value::Object(self.node.params.clone()), &self.inputs()) {
            Ok(bound) => return Some(bound),
            Err(ParamsError::Form { message, .. }) => BindError::node(message),
            Err(ParamsError::Bind(error)) => error,
        };
        let node = self.node.path();
        let diagnostic = match &error.at {
            At::Node => Diagnostic::error(error.message).at(reader.document.key_place(&node), ""),
            At::Param(param) => {
                let path = node.child("params").join(&KeyPath::parse(param));
                Diagnostic::error(error.message).at(reader.document.place(&path), "")
            }
            At::Input(port) => {
                let index = self.kind.inputs.iter().position(|input| input == port).unwrap_or(0);
                let refusal = self.refuse_input(index, &error, reader);
                reader.report.push(match &error.hint {
                    Some(hint) => refusal.hint(hint),
                    None => refusal.maybe_hint(self.repair(index, others, registry)),
                });
                return None;
            }
        };
        reader.report.push(diagnostic.maybe_hint(error.hint));
        None
    }

    /// Inputs are brought into step by the number of the crop, so they must all stem from the same cutting of the
    /// recordings. Says whether they do.
    fn check_crops(&self, nodes: &[PlanNode], reader: &mut Reader<'_>) -> bool {
        let mut cuts: Vec<(usize, &PlanNode)> = Vec::new();
        for (port, (producer, _)) in self.producers.iter().enumerate() {
            if let [only] = cuttings(nodes, producer)[..] {
                cuts.push((port, only));
            }
        }
        let different = |other: &&(usize, &PlanNode)| other.1.fingerprint != cuts[0].1.fingerprint;
        let Some(&(port, other)) = cuts.iter().find(different) else { return true };
        let (first_port, first) = cuts[0];
        let ports = self.kind.inputs;
        let message = format!(
            "`{}` needs inputs made from the same crops: `{}` is made from `{}`, `{}` from `{}`",
            self.node.id, ports[first_port], first.id, ports[port], other.id,
        );
        let place = reader.document.place(&self.producers[port].1);
        let diagnostic = Diagnostic::error(message)
            .at(place, "")
            .see(first.place.clone(), format!("`{}` is made from these crops", ports[first_port]))
            .see(other.place.clone(), format!("`{}` is made from these", ports[port]))
            .hint(format!("make both from `{}`, or both from `{}`", first.id, other.id));
        reader.report.push(diagnostic);
        false
    }

    /// What arrives at a port does not suit: points at the reference, and at the node that it names.
    fn refuse_input(&self, index: usize, error: &BindError, reader: &Reader<'_>) -> Diagnostic {
        let (producer, path) = &self.producers[index];
        let words = edges::words(&producer.schema);
        let gives = format!("`{}`{} gives {words}", producer.id, on_line(producer.place.as_ref(), reader));
        let port = match self.kind.inputs {
            [_] => String::new(),
            ports => format!(" at `{}`", ports[index]),
        };
        let message = match error.wanted {
            Some(wanted) => format!("`{}` reads {}{port}, but {gives}", self.node.id, edges::plural(wanted)),
            None => format!("{}; {gives}", error.message),
        };
        let diagnostic = Diagnostic::error(message).at(reader.document.place(path), "");
        diagnostic.see(producer.place.clone(), format!("gives {words}"))
    }

    /// Another node to read from, else a stage to put in between.
    fn repair(&self, index: usize, others: &[PlanNode], registry: &Registry) -> Option<String> {
        let params = Value::Object(self.node.params.clone());
        let schemas: Vec<&SchemaRef> = self.producers.iter().map(|producer| &producer.0.schema).collect();
        let refused = repair::Refused { kind: self.kind, params: &params, inputs: &schemas, index };
        let fitting: Vec<&str> =
            others.iter().filter(|other| refused.fits(&other.schema)).map(|other| other.id.as_str()).collect();
        match fitting[..] {
            [] => refused.suggest(&self.producers[index].0.id, registry),
            _ => Some(format!("did you mean {}?", one_of(fitting))),
        }
    }

    /// Checks the files that the stage needs, and makes the node of the plan.
    fn finish(&self, bound: Bound, inputs: Vec<Input>, graph: &Graph, reader: &mut Reader<'_>) -> Option<PlanNode> {
        let schema = bound.stage.output();
        let files = bound.stage.files();
        let mut found = files.iter().all(|file| self.check_path(file, "file", reader));
        if let Some(root) = source_root(&schema).filter(|_| self.kind.inputs.is_empty()) {
            found &= self.check_path(Path::new(&root), "folder", reader);
        }
        if !found {
            return None;
        }
        let upstream: Vec<_> = self.producers.iter().map(|producer| producer.0.fingerprint).collect();
        let what = fingerprint::Stage {
            name: self.kind.name,
            version: self.kind.version,
            schema: &schema,
            params: &bound.params,
            seed: graph.seed,
            files: &files,
        };
        let fingerprint = fingerprint::of(&what, &upstream)
            .map_err(|(file, error)| {
                let message = format!("cannot read `{}`: {error}", file.display());
                reader.report.push(Diagnostic::error(message).at(self.place_of(&file, reader), ""));
            })
            .ok()?;
        self.check_expectations(&schema, fingerprint, reader);
        Some(PlanNode {
            id: self.node.id.clone(),
            stage_name: self.kind.name,
            version: self.kind.version,
            scope: self.kind.scope,
            params: bound.params,
            inputs,
            schema,
            stage: Arc::from(bound.stage),
            cache: self.node.cache.clone(),
            on_error: self.node.on_error,
            retry: self.node.retry,
            device: self.node.device.unwrap_or(graph.resources.device),
            place: reader.document.key_place(&self.node.path()),
            fingerprint,
        })
    }

    /// Compares what the node gives with its `expect`.
    fn check_expectations(&self, schema: &Schema, fingerprint: Fingerprint, reader: &mut Reader<'_>) {
        let given = Given { schema, version: self.kind.version, fingerprint: fingerprint.to_hex() };
        for mismatch in given.mismatches(&self.node.expect) {
            let path = self.node.path().child("expect").join(&mismatch.path);
            let (place, label) = match mismatch.unknown {
                true => (reader.document.key_place(&path), ""),
                false => (reader.document.place(&path), "expected here"),
            };
            let message = format!("`{}` does not give what is expected of it: {}", self.node.id, mismatch.message);
            reader.report.push(Diagnostic::error(message).at(place, label).maybe_hint(mismatch.hint));
        }
    }

    fn check_path(&self, path: &Path, what: &str, reader: &mut Reader<'_>) -> bool {
        if path.exists() {
            return true;
        }
        let diagnostic = Diagnostic::error(format!("there is no {what} `{}`", path.display()));
        let hint = if path.is_absolute() {
            None
        } else {
            Some("relative paths start from the folder where you run omar-flow")
        };
        let diagnostic = diagnostic.at(self.place_of(path, reader), "").maybe_hint(neighbour(path));
        reader.report.push(diagnostic.maybe_hint(hint.map(str::to_owned)));
        false
    }

    /// The parameter that holds a path, else the node.
    fn place_of(&self, path: &Path, reader: &Reader<'_>) -> Option<Place> {
        let params = Value::Object(self.node.params.clone());
        let param = find_text(&params, &path.to_string_lossy(), &self.node.path().child("params"));
        param.map_or_else(|| reader.document.key_place(&self.node.path()), |param| reader.document.place(&param))
    }
}

/// The nodes that cut recordings into the crops that a node works on.
fn cuttings<'n>(nodes: &'n [PlanNode], node: &'n PlanNode) -> Vec<&'n PlanNode> {
    if edge_name(&node.schema) == Some(Crop::NAME) {
        return vec![node];
    }
    let mut found: Vec<_> = node.inputs.iter().flat_map(|input| cuttings(nodes, &nodes[input.node])).collect();
    found.dedup_by_key(|node| node.fingerprint);
    found
}

/// The folder on a disk of this machine that a source searches.
fn source_root(schema: &Schema) -> Option<String> {
    if edge_name(schema) != Some(Track::NAME) {
        return None;
    }
    Track::spec(schema).ok().map(|spec| spec.root).filter(|root| !Address::is_one(root))
}

/// ` (line 8)`, or ` (part.yaml, line 8)` when the place is in an included file.
fn on_line(place: Option<&Place>, reader: &Reader<'_>) -> String {
    let Some(place) = place else { return String::new() };
    let (line, file) = (place.line(), &place.source.name);
    if *file == reader.document.source.name { format!(" (line {line})") } else { format!(" ({file}, line {line})") }
}

/// The deepest folder of a path that exists may hold something with a similar name.
fn neighbour(path: &Path) -> Option<String> {
    let folder = path.parent()?;
    let listed = std::fs::read_dir(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok()?;
    let names: Vec<String> = listed.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let name = path.file_name()?.to_string_lossy().into_owned();
    let meant = closest(&name, names.iter().map(String::as_str))?;
    Some(format!("did you mean `{}`?", folder.join(meant).display()))
}

/// The path of the parameter whose value is, or leads to, a text.
fn find_text(value: &Value, text: &str, path: &KeyPath) -> Option<KeyPath> {
    match value {
        Value::String(found) => {
            (!found.is_empty() && text.starts_with(found.trim_end_matches('/'))).then(|| path.clone())
        }
        Value::Object(map) => map.iter().find_map(|(key, value)| find_text(value, text, &path.child(key.as_str()))),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| find_text(item, text, &path.child(index.to_string())))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn find<'a>(value: &'a Value, path: &KeyPath) -> Option<&'a Value> {
    path.0.iter().try_fold(value, |value, key| match value {
        Value::Object(map) => map.get(key),
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Takes a value out of a map; says whether it was there.
fn remove(value: &mut Value, path: &KeyPath) -> bool {
    let Some((last, above)) = path.0.split_last() else { return false };
    let above = above.iter().try_fold(value, |value, key| match value {
        Value::Object(map) => map.get_mut(key),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    });
    above.and_then(Value::as_object_mut).is_some_and(|map| map.shift_remove(last).is_some())
}
