//! Which node feeds which: names resolved, ports assigned, cycles found, an order chosen.

use omar_stages::{Registered, Registry, Scope};

use crate::diagnostic::{Diagnostic, closest, did_you_mean};
use crate::graph::{From, Graph, NODE_KEYS, Node};
use crate::params::ParamsSchema;
use crate::reader::Reader;
use crate::spans::KeyPath;

/// The nodes of a graph, connected.
#[derive(Debug)]
pub(crate) struct Wiring<'a> {
    /// By node, in the order of the file.
    pub(crate) nodes: Vec<Wired<'a>>,
    /// A topological order; the order of the file decides between equals. Nodes on or behind a cycle are left out.
    pub(crate) order: Vec<usize>,
}

/// A node with its stage kind and its producers.
#[derive(Debug)]
pub(crate) struct Wired<'a> {
    /// What it runs, if that is known.
    pub(crate) kind: Option<&'a Registered>,
    /// The producer and the path of the reference, for every port; `None` when something is wrong with them.
    pub(crate) inputs: Option<Vec<(usize, KeyPath)>>,
    /// All producers that could be resolved, whatever the port.
    producers: Vec<(usize, KeyPath)>,
}

/// Connects the nodes; mistakes go to the report.
pub(crate) fn connect<'a>(graph: &Graph, registry: &'a Registry, reader: &mut Reader<'_>) -> Wiring<'a> {
    let nodes: Vec<Wired<'a>> = graph.nodes.iter().map(|node| wire(graph, node, registry, reader)).collect();
    let order = order(&nodes);
    for cycle in cycles(&nodes, &order) {
        report_cycle(graph, &nodes, &cycle, reader);
    }
    Wiring { nodes, order }
}

fn wire<'a>(graph: &Graph, node: &Node, registry: &'a Registry, reader: &mut Reader<'_>) -> Wired<'a> {
    let kind = find_kind(node, registry, reader);
    unknown_keys(node, kind, reader);
    let mut producers = Vec::new();
    let mut sound = node.sound;
    for (path, name) in node.references() {
        match graph.nodes.iter().position(|other| other.id == name) {
            Some(producer) => producers.push((producer, path)),
            None => {
                sound = false;
                unknown_node(graph, node, &path, name, reader);
            }
        }
    }
    let inputs = kind.and_then(|kind| assign_ports(graph, node, kind, &producers, sound, reader));
    Wired { kind, inputs, producers }
}

fn find_kind<'a>(node: &Node, registry: &'a Registry, reader: &mut Reader<'_>) -> Option<&'a Registered> {
    let name = node.stage.as_deref()?;
    let path = node.path().child("stage");
    let kind = registry.get(name);
    if kind.is_none() && !reader.document.is_poisoned(&path) {
        let names = || registry.iter().map(|kind| kind.name);
        let hint = did_you_mean(name, names()).unwrap_or_else(|| {
            let names: Vec<&str> = names().collect();
            format!("the stages are {}", names.join(", "))
        });
        reader.refuse(&path, Diagnostic::error(format!("no stage is called `{name}`")).hint(hint));
    }
    kind
}

/// The key of a node that was probably meant.
fn meant_key(key: &str) -> Option<&'static str> {
    let others =
        [("inputs", "from"), ("input", "from"), ("parameters", "params"), ("args", "params"), ("config", "params")];
    let alias = others.iter().find(|other| other.0 == key).map(|other| other.1);
    alias.or_else(|| closest(key, NODE_KEYS))
}

fn unknown_keys(node: &Node, kind: Option<&Registered>, reader: &mut Reader<'_>) {
    for key in &node.unknown {
        let schema = kind.map(|kind| ParamsSchema::new(&(kind.params)()));
        let is_param = schema.and_then(|schema| schema.find(std::slice::from_ref(key)).map(drop)).is_some();
        let hint = if is_param {
            format!("parameters of the stage stand under `params`: `params: {{{key}: ...}}`")
        } else {
            let all = || format!("the keys of a node are {}", NODE_KEYS.join(", "));
            meant_key(key).map_or_else(all, |meant| format!("did you mean `{meant}`?"))
        };
        let diagnostic = Diagnostic::error(format!("unknown key `{key}` in node `{}`", node.id)).hint(hint);
        reader.refuse_key(&node.path().child(key.as_str()), "no such key", diagnostic);
    }
}

fn unknown_node(graph: &Graph, node: &Node, path: &KeyPath, name: &str, reader: &mut Reader<'_>) {
    let names = || graph.nodes.iter().map(|other| other.id.as_str()).filter(|&other| other != node.id);
    let hint = did_you_mean(name, names()).unwrap_or_else(|| {
        let names: Vec<&str> = names().collect();
        format!("the other nodes are {}", names.join(", "))
    });
    reader.refuse(path, Diagnostic::error(format!("no node is called `{name}`")).hint(hint));
}

fn assign_ports(
    graph: &Graph,
    node: &Node,
    kind: &Registered,
    producers: &[(usize, KeyPath)],
    mut sound: bool,
    reader: &mut Reader<'_>,
) -> Option<Vec<(usize, KeyPath)>> {
    let (id, name, from) = (&node.id, kind.name, node.path().child("from"));
    let form = || {
        let ports: Vec<String> = kind.inputs.iter().map(|port| format!("{port}: ...")).collect();
        format!("from: {{{}}}", ports.join(", "))
    };
    match (&node.from, kind.inputs) {
        (_, []) => {
            if node.from != From::Nothing {
                let diagnostic = Diagnostic::error(format!("`{name}` is a source, it reads from no other node"));
                reader.refuse_key(&from, "", diagnostic.hint("remove `from`"));
                return None;
            }
        }
        (From::Nothing, ports) => {
            if !node.sound || node.unknown.iter().any(|key| meant_key(key) == Some("from")) {
                return None;
            }
            let hint = match (ports, previous(graph, node)) {
                ([_], Some(previous)) => format!("add the node that it reads, for example `from: {previous}`"),
                ([_], None) => "add the node that it reads: `from: ...`".to_owned(),
                _ => format!("it has {} inputs: add `{}`", ports.len(), form()),
            };
            let message = format!("`{id}` has no input: `{name}` works on what another node gives");
            reader.refuse_key(&node.path(), "expected `from` here", Diagnostic::error(message).hint(hint));
            return None;
        }
        (From::One(_), [_]) => {}
        (From::One(_), ports) => {
            let message = format!("`{name}` has {} inputs, and each needs a node of its own", ports.len());
            reader.refuse(&from, Diagnostic::error(message).hint(format!("write `{}`", form())));
            return None;
        }
        (From::Ports(written), [_]) => {
            let example = written.first().map_or("NODE", |first| first.1.as_str());
            let message = format!("`{name}` has one input, which is not named");
            let diagnostic = Diagnostic::error(message).hint(format!("write `from: {example}`"));
            reader.refuse_key(&from, "", diagnostic);
            return None;
        }
        (From::Ports(written), ports) => {
            for (port, _) in written.iter().filter(|entry| !ports.contains(&entry.0.as_str())) {
                sound = false;
                let hint = did_you_mean(port, ports.iter().copied());
                let hint = hint.unwrap_or_else(|| format!("its inputs are {}", ports.join(", ")));
                let diagnostic = Diagnostic::error(format!("`{name}` has no input `{port}`")).hint(hint);
                reader.refuse_key(&from.child(port.as_str()), "no such input", diagnostic);
            }
            let given = |port: &str| written.iter().any(|entry| entry.0 == port);
            let unknown = written.iter().filter(|entry| !ports.contains(&entry.0.as_str())).count();
            let missing: Vec<&str> = ports.iter().copied().filter(|&port| !given(port)).collect();
            sound &= missing.is_empty();
            // A misspelt input explains one that is missing.
            for port in missing.iter().skip(unknown) {
                let message = format!("input `{port}` of `{id}` is missing");
                let diagnostic = Diagnostic::error(message).hint(format!("add `{port}: NODE`"));
                reader.refuse_key(&from, &format!("expected `{port}` here"), diagnostic);
            }
        }
    }
    let find = |port: &&'static str| match node.from {
        From::Ports(_) => producers.iter().find(|producer| producer.1.last() == *port),
        _ => producers.first(),
    };
    let inputs: Option<Vec<_>> = kind.inputs.iter().map(|port| find(port).cloned()).collect();
    inputs.filter(|_| sound)
}

fn previous<'g>(graph: &'g Graph, node: &Node) -> Option<&'g str> {
    let index = graph.nodes.iter().position(|other| other.id == node.id)?;
    Some(&graph.nodes[index.checked_sub(1)?].id)
}

fn order(nodes: &[Wired<'_>]) -> Vec<usize> {
    let (mut order, mut placed) = (Vec::new(), vec![false; nodes.len()]);
    loop {
        let ready = |&index: &usize| !placed[index] && nodes[index].producers.iter().all(|producer| placed[producer.0]);
        let Some(next) = (0..nodes.len()).find(ready) else {
            return order;
        };
        placed[next] = true;
        order.push(next);
    }
}

/// Every cycle once.
fn cycles(nodes: &[Wired<'_>], order: &[usize]) -> Vec<Vec<usize>> {
    let mut done = vec![false; nodes.len()];
    order.iter().for_each(|&index| done[index] = true);
    let mut cycles: Vec<Vec<usize>> = Vec::new();
    for start in 0..nodes.len() {
        let mut path = Vec::new();
        let mut next = Some(start);
        while let Some(at) = next.filter(|&at| !done[at]) {
            if let Some(begin) = path.iter().position(|&index| index == at) {
                cycles.push(path[begin..].to_vec());
                break;
            }
            path.push(at);
            next = nodes[at].producers.iter().map(|producer| producer.0).find(|&producer| !done[producer]);
        }
        path.iter().for_each(|&index| done[index] = true);
    }
    cycles
}

/// `cycle` goes upstream: every node reads from the next, the last from the first.
fn report_cycle(graph: &Graph, nodes: &[Wired<'_>], cycle: &[usize], reader: &mut Reader<'_>) {
    let first = cycle.iter().enumerate().min_by_key(|node| node.1).map_or(0, |node| node.0);
    let upstream: Vec<usize> = cycle[first..].iter().chain(&cycle[..first]).copied().collect();
    let reference = |consumer: usize, producer: usize| {
        let reference = nodes[consumer].producers.iter().find(|reference| reference.0 == producer);
        reference.and_then(|reference| reader.document.place(&reference.1))
    };
    let name = |index: usize| graph.nodes[index].id.as_str();
    if let [only] = upstream[..] {
        let diagnostic = Diagnostic::error(format!("`{}` reads from itself", name(only)));
        let place = reference(only, only);
        let hint = previous(graph, &graph.nodes[only]).map(|previous| format!("did you mean `{previous}`?"));
        let hint = hint.filter(|_| !nodes[only].kind.is_some_and(|kind| kind.scope == Scope::Source));
        reader.report.push(diagnostic.at(place, "").maybe_hint(hint));
        return;
    }
    let mut path: Vec<&str> = upstream.iter().rev().map(|&index| name(index)).collect();
    path.rotate_right(1);
    path.push(path[0]);
    let mut diagnostic = Diagnostic::error(format!("the nodes form a circle: {}", path.join(" -> ")));
    for (index, &consumer) in upstream.iter().enumerate() {
        let producer = upstream[(index + 1) % upstream.len()];
        let (place, label) =
            (reference(consumer, producer), format!("`{}` reads `{}`", name(consumer), name(producer)));
        diagnostic = if index == 0 { diagnostic.at(place, label) } else { diagnostic.see(place, label) };
    }
    reader.report.push(diagnostic.hint("let one of them read from a node outside the circle"));
}
