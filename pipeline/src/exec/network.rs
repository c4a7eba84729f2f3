//! The track-level part of a plan: the nodes that work on one recording at a time, and how they are connected.
//!
//! These nodes are run together, recording by recording (see [`super::lane`]), so that a block of samples goes from
//! decoding to tokens while it is warm and no edge ever holds a whole recording.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use omar_stages::{Port, Scope, Stage, StageContext};

use super::breaker::Breaker;
use super::traffic::Traffic;
use crate::metrics::NodeMetrics;
use crate::plan::{OnError, Plan, Retry};

/// All nodes of a plan with what running them needs.
pub(crate) struct Network {
    /// In topological order.
    pub(crate) nodes: Vec<Node>,
    pub(crate) breaker: Breaker,
    pub(crate) traffic: Traffic,
}

/// One node.
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) stage_name: &'static str,
    pub(crate) scope: Scope,
    pub(crate) stage: Arc<dyn Stage>,
    pub(crate) context: StageContext,
    pub(crate) schema: SchemaRef,
    /// Producers, by port.
    pub(crate) inputs: Vec<usize>,
    pub(crate) consumers: Vec<(usize, Port)>,
    pub(crate) on_error: OnError,
    pub(crate) retry: Option<Retry>,
    pub(crate) metrics: Arc<NodeMetrics>,
}

impl Node {
    /// Whether it works on the corpus as a whole.
    pub(crate) fn is_corpus(&self) -> bool {
        matches!(self.scope, Scope::Corpus { .. })
    }
}

impl Network {
    /// Connects the nodes of a plan. `context` makes the surroundings of a node.
    pub(crate) fn new(plan: &Plan, context: impl Fn(&crate::plan::PlanNode) -> StageContext) -> Self {
        let mut nodes: Vec<Node> = plan
            .nodes
            .iter()
            .map(|node| Node {
                id: node.id.clone(),
                stage_name: node.stage_name,
                scope: node.scope,
                stage: node.stage.clone(),
                context: context(node),
                schema: node.schema.clone(),
                inputs: node.inputs.iter().map(|input| input.node).collect(),
                consumers: Vec::new(),
                on_error: node.on_error,
                retry: node.retry,
                metrics: Arc::default(),
            })
            .collect();
        for consumer in 0..nodes.len() {
            for port in 0..nodes[consumer].inputs.len() {
                let producer = nodes[consumer].inputs[port];
                nodes[producer].consumers.push((consumer, port));
            }
        }
        Self { nodes, breaker: Breaker::new(plan.stop_if), traffic: Traffic::default() }
    }
}

impl Network {
    /// No nodes.
    #[cfg(test)]
    pub(crate) fn empty() -> Self {
        Self { nodes: Vec::new(), breaker: Breaker::new(None), traffic: Traffic::default() }
    }

    /// A thread of the pool had nothing to do for some time. It goes to the account of the node that it would have
    /// worked for: the one whose rows have to wait, or else the source.
    pub(crate) fn idle(&self, time: Duration) {
        let (wait, node) = self.traffic.idle_because();
        self.nodes[node.unwrap_or(0)].metrics.waited(wait, time);
    }

    /// A number that changes whenever any node has done anything.
    pub(crate) fn moves(&self) -> u64 {
        self.nodes.iter().fold(self.traffic.moves(), |sum, node| sum.wrapping_add(node.metrics.moves()))
    }
}

/// What a node does for a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nobody needs its rows.
    Skip,
    /// Its operator runs.
    Compute,
    /// Its rows come from the cache.
    Replay,
}

impl Network {
    /// What every node does, given which nodes are wanted for themselves and which have the shard in their cache.
    ///
    /// A wanted node that is cached needs nothing; one that is not makes its inputs wanted, and so on. What stands
    /// above a replayed node and serves nobody else is skipped: that is how a warm cache prunes the graph.
    pub(crate) fn modes(&self, wanted: impl Fn(usize) -> bool, cached: impl Fn(usize) -> bool) -> Vec<Mode> {
        let mut modes = vec![Mode::Skip; self.nodes.len()];
        for index in (0..self.nodes.len()).rev() {
            let consumed = self.nodes[index].consumers.iter().any(|&(consumer, _)| modes[consumer] == Mode::Compute);
            let wanted = wanted(index);
            modes[index] = match (cached(index), consumed, wanted) {
                (true, true, _) => Mode::Replay,
                (false, true, _) | (false, _, true) => Mode::Compute,
                (_, false, _) => Mode::Skip,
            };
        }
        modes
    }
}
