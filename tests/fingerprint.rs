//! What changes the fingerprint of a node, and what does not?

use omar_flow::diagnostic::Report;
use omar_flow::graph::Graph;
use omar_flow::plan::Plan;

const GRAPH: &str = "
omar: 1
seed: 142
nodes:
  tracks:  {stage: files, params: {root: tests/graphs}}
  audio:   {stage: decode, from: tracks}
  mono:    {stage: resample, from: audio, params: {sample_rate: 24000}}
  crops:   {stage: crop, from: mono, params: {duration: 30s}}
  targets: {stage: features, from: crops, params: {views: {mel: {hop_len: 320}}}}
  tokens:  {stage: tokenize, from: targets, params: {patch_rate: 25, quantizer: {random_projection: {codebook_size: 8192}}}}
  input:   {stage: features, from: crops, params: {views: {waveform: {}}}}
  model:   {stage: pretrain, from: {input: input, targets: tokens}, params: {steps: 100}}
";

fn plan(text: &str, sets: &[&str]) -> Plan {
    let sets: Vec<String> = sets.iter().map(|&set| set.to_owned()).collect();
    let mut report = Report::default();
    let graph = Graph::parse("graph.yaml", text, &sets, &|_| None, &mut report);
    Plan::finish(graph.as_ref(), &omar_stages::ops::registry(), report).unwrap_or_else(|report| panic!("{report}"))
}

/// Ids of the nodes whose fingerprints differ from those of [`GRAPH`].
fn changed(text: &str, sets: &[&str]) -> Vec<String> {
    let (before, after) = (plan(GRAPH, &[]), plan(text, sets));
    let differs =
        |id: &str| before.node(id).map(|node| node.fingerprint) != after.node(id).map(|node| node.fingerprint);
    before.nodes.iter().map(|node| node.id.clone()).filter(|id| differs(id)).collect()
}

#[test]
fn a_learning_rate_leaves_the_tokens() {
    assert_eq!(changed(GRAPH, &["nodes.model.params.optimizer.lr=2.0e-4"]), ["model"]);
}

#[test]
fn a_hop_changes_all_that_is_made_from_it() {
    assert_eq!(changed(GRAPH, &["nodes.targets.params.views.mel.hop_len=160"]), ["targets", "tokens", "model"]);
}

#[test]
fn a_seed_changes_everything() {
    assert_eq!(changed(GRAPH, &["seed=1"]).len(), 8);
}

#[test]
fn what_is_not_computed_does_not_matter() {
    let nothing: [String; 0] = [];
    let sets =
        ["resources.threads=3", "flow.window=2", "nodes.tokens.cache=runs/elsewhere", "nodes.audio.on_error=drop"];
    assert_eq!(changed(GRAPH, &sets), nothing);
    // A default that is written out.
    assert_eq!(
        changed(
            GRAPH,
            &["nodes.crops.params.policy=grid", "nodes.tokens.params.quantizer.random_projection.codebooks=1"]
        ),
        nothing
    );
    // Another unit for the same time.
    assert_eq!(changed(GRAPH, &["nodes.crops.params.duration=30000ms"]), nothing);
    // Comments, the order of keys and of nodes.
    let (head, nodes) = GRAPH.split_once("nodes:\n").expect("nodes");
    let reversed: Vec<&str> = nodes.lines().rev().collect();
    let reversed = format!("# the same\n{head}nodes:   # upside down\n{}\n", reversed.join("\n"));
    let reversed = reversed.replace(
        "{patch_rate: 25, quantizer: {random_projection: {codebook_size: 8192}}}",
        "{quantizer: {random_projection: {codebook_size: 8192}}, patch_rate: 25}",
    );
    assert_eq!(changed(&reversed, &[]), nothing);
}

#[test]
fn names_of_nodes_do_not_matter() {
    let renamed = plan(
        &GRAPH
            .replace("mono", "resampled")
            .replace("targets:", "mels:")
            .replace("from: targets", "from: mels")
            .replace(", mels: tokens", ", targets: tokens"),
        &[],
    );
    let plan = plan(GRAPH, &[]);
    let of = |plan: &Plan, id: &str| plan.node(id).map(|node| node.fingerprint);
    assert_eq!(of(&plan, "model"), of(&renamed, "model"));
    assert_eq!(of(&plan, "mono"), of(&renamed, "resampled"));
}
