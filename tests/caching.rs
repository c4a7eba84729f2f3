//! Is exactly that computed again which has to be?

mod program;

use std::collections::BTreeSet;
use std::fs;

use program::{Options, Program, write_wav};
use serde_json::Value;

fn node<'a>(summary: &'a Value, id: &str) -> &'a Value {
    summary["nodes"].as_array().expect("nodes").iter().find(|node| node["node"] == id).expect("the node is there")
}

#[test]
fn a_second_run_computes_nothing_and_says_so() {
    let program = Program::new(&Options::default());
    program.ok(&["run", "graph.yaml"]);
    let before = program.cache();
    let summary = program.json(&["run", "graph.yaml"]);
    for id in ["tracks", "audio", "mono", "crops", "mel", "tokens"] {
        assert_eq!(node(&summary, id)["rows_out"], 0, "{id} computed something");
    }
    assert_eq!(node(&summary, "tokens")["shards_cached"], summary["shards"]);
    assert!(program.ok(&["run", "graph.yaml"]).contains("were cached"));
    assert!(program.ok(&["plan", "graph.yaml"]).contains("cached"));
    assert!(program.cache() == before);
}

#[test]
fn only_what_depends_on_a_parameter_is_computed_again() {
    let program = Program::new(&Options { train: true, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let files = program.cache().len();
    let lr = program.json(&["run", "graph.yaml", "--set", "nodes.model.params.optimizer.lr=0.01"]);
    assert_eq!(node(&lr, "tokens")["rows_out"], 0, "a learning rate leaves the tokens");
    let size = "nodes.tokens.params.quantizer.random_projection.codebook_size=32";
    let tokens = program.json(&["run", "graph.yaml", "--set", size]);
    assert!(node(&tokens, "tokens")["rows_out"].as_u64() > Some(0), "another codebook makes other tokens");
    assert_eq!(program.cache().len(), 2 * files, "beside the old ones");
}

#[test]
fn a_new_recording_touches_one_shard_and_a_removed_one_leaves_no_rows() {
    let program = Program::new(&Options { tracks: 30, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let names = |program: &Program| program.cache().into_keys().collect::<BTreeSet<_>>();
    let before = names(&program);
    write_wav(&program.path("audio/newcomer.wav"), 16_000, 4.0, 999);
    program.ok(&["run", "graph.yaml"]);
    let after = names(&program);
    assert!(after.difference(&before).count() <= 2, "one shard, or the two it was split into");
    assert!(before.difference(&after).count() <= 1, "the shard as it was is gone");
    fs::remove_file(program.path("audio/newcomer.wav")).expect("it is there");
    program.ok(&["run", "graph.yaml"]);
    assert_eq!(names(&program), before);
}
