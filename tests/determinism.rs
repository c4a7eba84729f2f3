//! Do the same graph and the same corpus give the same bytes, whatever runs them?

mod program;

use program::{Options, Program};

/// Threads, workers, and the plain loop that knows nothing of the dataflow.
const EXECUTORS: [&[&str]; 5] = [
    &["--direct"],
    &["--threads", "1"],
    &["--threads", "2"],
    &["--threads", "4"],
    &["--threads", "2", "--set", "resources.workers=3"],
];

#[test]
fn all_executors_give_the_same_tokens_and_the_same_model() {
    let program = Program::new(&Options { train: true, ..Options::default() });
    let mut first = None;
    for executor in EXECUTORS {
        program.clear();
        program.ok(&[&["run", "graph.yaml"], executor].concat());
        let tokens = program.cache();
        let model = program.last_below(&program.runs()[0], "model.safetensors");
        assert!(tokens.len() > 1, "several shards: {:?}", tokens.keys());
        let (tokens_of_first, model_of_first) = first.get_or_insert_with(|| (tokens.clone(), model.clone()));
        assert_eq!(tokens.keys().collect::<Vec<_>>(), tokens_of_first.keys().collect::<Vec<_>>(), "{executor:?}");
        assert!(tokens == *tokens_of_first, "tokens differ with {executor:?}");
        assert!(model == *model_of_first, "models differ with {executor:?}");
    }
}

#[test]
fn a_warm_cache_trains_the_same_model_as_a_cold_one() {
    let program = Program::new(&Options { train: true, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let warm = program.json(&["run", "graph.yaml"]);
    let runs = program.runs();
    let model = |run: usize| program.last_below(&runs[run], "model.safetensors");
    assert!(model(0) == model(1));
    let tokens = warm["nodes"].as_array().expect("nodes").iter().find(|node| node["node"] == "tokens").expect("tokens");
    assert_eq!(tokens["rows_out"], 0, "nothing was tokenised again");
    assert!(tokens["rows_cached"].as_u64() > Some(0));
}
