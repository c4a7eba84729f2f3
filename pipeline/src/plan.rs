//! What a graph means: a [`Plan`] has every name resolved, every edge typed and every stage bound.
//!
//! A plan that exists can be run: all that can be refused without looking at the data has been.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use omar_stages::{Registry, Scope, Stage};
use serde_json::Value;

use crate::binding;
use crate::diagnostic::{Diagnostic, Place, Report, Severity};
use crate::fingerprint::Fingerprint;
use crate::graph::Graph;
use crate::graph_tests;
pub use crate::policy::{OnError, Retry, StopIf};
use crate::reader::Reader;
use crate::resources::{Device, Flow, Resources};
use crate::wiring;

/// A graph that can be run.
#[derive(Clone)]
pub struct Plan {
    /// Name of the graph.
    pub name: String,
    /// Where all randomness starts.
    pub seed: u64,
    /// What a run may use.
    pub resources: Resources,
    /// How the corpus is cut.
    pub flow: Flow,
    /// In topological order; the order of the file decides between equals.
    pub nodes: Vec<PlanNode>,
    /// What is allowed but probably not meant.
    pub warnings: Report,
    /// When too many recordings fail, the run ends.
    pub stop_if: Option<StopIf>,
    /// The file as it was given.
    pub given: String,
    /// The files that it includes, as they were given: names and texts.
    pub included: Vec<(String, String)>,
    /// What the file says once merge keys, `--set` and `${...}` are worked out.
    pub resolved: Value,
}

/// A node of a plan.
#[derive(Clone)]
pub struct PlanNode {
    /// Its name.
    pub id: String,
    /// Its stage kind.
    pub stage_name: &'static str,
    /// Version of the stage kind.
    pub version: u32,
    /// How batches arrive.
    pub scope: Scope,
    /// Parameters with every default filled in.
    pub params: Value,
    /// Where its inputs come from, by port.
    pub inputs: Vec<Input>,
    /// Its output edge.
    pub schema: SchemaRef,
    /// The bound stage.
    pub stage: Arc<dyn Stage>,
    /// Folder that keeps its rows.
    pub cache: Option<PathBuf>,
    /// What to do with recordings that it rejects.
    pub on_error: OnError,
    /// Before that, whether to try them again.
    pub retry: Option<Retry>,
    /// Where its model runs.
    pub device: Device,
    /// Where it stands in the file, for messages.
    pub place: Option<Place>,
    /// Changes when its output would.
    pub fingerprint: Fingerprint,
}

/// An input of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Input {
    /// Name of the port.
    pub port: &'static str,
    /// Index of the producer in [`Plan::nodes`].
    pub node: usize,
}

impl Plan {
    /// Reads and checks a file. `sets` are `path=value` options that change it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path, sets: &[String], registry: &Registry) -> Result<Self, Report> {
        let mut report = Report::default();
        let graph = Graph::load(path, sets, &mut report);
        Self::finish(graph.as_ref(), registry, report)
    }

    /// Checks a graph that was read; `report` holds what reading it found.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn finish(graph: Option<&Graph>, registry: &Registry, mut report: Report) -> Result<Self, Report> {
        let plan = graph.and_then(|graph| {
            let plan = Self::check(graph, registry, &mut report);
            report.map_text(|text| graph.document.secrets.redact(text));
            plan
        });
        report.sort();
        match plan {
            Some(plan) if report.errors() == 0 => Ok(Self { warnings: report, ..plan }),
            _ => {
                // A warning about what is missing somewhere is often due to a mistake elsewhere.
                report.diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
                Err(report)
            }
        }
    }

    /// The node with a name.
    pub fn node(&self, id: &str) -> Option<&PlanNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The part of the plan that ends at a node: it and all that feeds it.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn until(&self, id: &str) -> Result<Self, String> {
        let names = || self.nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>().join(", ");
        let last = self.nodes.iter().position(|node| node.id == id);
        let last = last.ok_or_else(|| format!("there is no node `{id}`; the nodes are {}", names()))?;
        let mut wanted = vec![false; self.nodes.len()];
        wanted[last] = true;
        for index in (0..self.nodes.len()).rev().filter(|&index| index <= last) {
            if wanted[index] {
                self.nodes[index].inputs.iter().for_each(|input| wanted[input.node] = true);
            }
        }
        let place = |index: usize| wanted[..index].iter().filter(|&&wanted| wanted).count();
        let kept = self.nodes.iter().enumerate().filter(|(index, _)| wanted[*index]).map(|(_, node)| {
            let inputs = node.inputs.iter().map(|input| Input { port: input.port, node: place(input.node) });
            PlanNode { inputs: inputs.collect(), ..node.clone() }
        });
        Ok(Self { nodes: kept.collect(), ..self.clone() })
    }

    /// For every node, the nodes that read from it.
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| consumers[input.node].push(index));
        }
        consumers
    }

    fn check(graph: &Graph, registry: &Registry, report: &mut Report) -> Option<Self> {
        let reader = &mut Reader { document: &graph.document, report };
        let wiring = wiring::connect(graph, registry, reader);
        let nodes = binding::bind(graph, &wiring, registry, reader);
        graph_tests::check(graph, registry, reader);
        let complete = nodes.len() == graph.nodes.len();
        let plan = Self {
            name: graph.name.clone(),
            seed: graph.seed,
            resources: graph.resources.clone(),
            flow: graph.flow.clone(),
            nodes,
            warnings: Report::default(),
            stop_if: graph.stop_if,
            given: graph.source().text.clone(),
            included: graph.included().map(|file| (file.name.clone(), file.text.clone())).collect(),
            resolved: graph.resolved(),
        };
        plan.warn(report);
        complete.then_some(plan)
    }

    fn warn(&self, report: &mut Report) {
        for (node, consumers) in self.nodes.iter().zip(self.consumers()) {
            let corpus = matches!(node.scope, Scope::Corpus { .. });
            if consumers.is_empty() && node.cache.is_none() && !corpus {
                let message = format!("what `{}` gives goes nowhere", node.id);
                let hint =
                    format!("keep it with `cache: runs/{}`, read it from another node, or remove the node", node.id);
                report.push(Diagnostic::warning(message).at(node.place.clone(), "no node reads this").hint(hint));
            }
        }
    }
}

impl std::fmt::Debug for PlanNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanNode").field("id", &self.id).field("stage_name", &self.stage_name).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("name", &self.name).field("nodes", &self.nodes).finish_non_exhaustive()
    }
}
