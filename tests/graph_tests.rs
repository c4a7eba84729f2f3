//! Does `omar-flow test` run the tests of a graph, leave nothing behind, and say what is wrong?

mod program;

use std::fs;
use std::path::Path;

use program::{Options, Program, text};
use serde_json::Value;

fn with_tests(tests: &str) -> Program {
    let program = Program::new(&Options { tracks: 0, ..Options::default() });
    let graph = fs::read_to_string(program.path("graph.yaml")).expect("the graph");
    let stats = "  mean: {stage: statistics, from: raw, params: {to: statistics}}\n  \
                 raw: {stage: features, from: crops, params: {views: {mel: {}}, normalize: none}}\n";
    fs::write(program.path("graph.yaml"), format!("{graph}{stats}tests:\n{tests}")).expect("written");
    fs::write(program.path("audio/here.wav"), b"RIFF").expect("written");
    program
}

/// Names of what lies in the folder of the program.
fn listed(program: &Program) -> Vec<String> {
    let entries = fs::read_dir(program.path("")).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

const PASSING: &str = "
  - name: tones and noise become tokens
    feed: {tracks: [{sine: {hz: 440, seconds: 4, sample_rate: 44100}}, {noise: {seconds: 2.5, sample_rate: 8000}}]}
    until: tokens
    expect:
      rows: {min: 3, max: 6}
      schema: {edge: tokens, sample_rate: 16000, mel: {codebooks: 2, codebook_size: 64}, columns: {path: utf8}}
      values: {mel: {min: 0, max: 63, distinct: {min: 2}}, path: {distinct: 2}, split: {distinct: {max: 1}}}
  - name: what is broken is rejected with its class
    feed:
      tracks:
        - {truncated: {of: {sine: {hz: 440, seconds: 4}}, keep: 0.5}}
        - audio/here.wav
        - {silence: {seconds: 3}}
    until: crops
    expect: {rows: {min: 1, max: 2}, rejects: 2, values: {samples: {min: 0, max: 0}}}
  - name: statistics go nowhere
    feed: {tracks: [{noise: {seconds: 4}}]}
    until: mean
    expect: {rows: 1, values: {mean: {finite: true}, view: {distinct: 1}}}
";

#[test]
fn passing_tests_leave_nothing_behind() {
    let program = with_tests(PASSING);
    let before = listed(&program);
    let out = program.ok(&["test", "graph.yaml"]);
    assert!(out.starts_with("graph.yaml: 3 tests\nok    tones and noise become tokens ("), "{out}");
    assert!(out.ends_with("3 passed, 0 failed\n"), "{out}");
    assert_eq!(listed(&program), before, "no caches, no run folders, no statistics");
    let out = program.ok(&["test", "graph.yaml", "--filter", "broken"]);
    assert!(out.starts_with("graph.yaml: 1 test\n") && out.contains("what is broken"), "{out}");
    let output = program.output(&["test", "graph.yaml", "--filter", "tonse"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no test of `graph.yaml` has `tonse`"), "{}", text(&output.stderr));
}

#[test]
fn failing_tests_say_what_was_expected_and_what_was_found() {
    let program = with_tests(
        "
  - name: wrong in many ways
    feed: {tracks: [{sine: {hz: 440, seconds: 4}}, {garbage: {bytes: 3000}}]}
    until: tokens
    expect:
      rows: {min: 50}
      schema: {codebook_size: 128, colour: red}
      values: {mel: {max: -1, distinct: 1}, path: {finite: true}, mle: {min: 0}}
  - name: another class
    feed: {tracks: [{garbage: {bytes: 3000}}]}
    until: audio
    expect: {rows: 0, rejects: {io: 1}}
  - name: a recording that is not there
    feed: {tracks: [no/such/file.wav]}
    until: mono
    expect: {}
",
    );
    let output = program.output(&["test", "graph.yaml"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    for words in [
        "FAIL  wrong in many ways (",
        "        rows: expected at least 50, found ",
        "        rejects: expected 0, found 1 ",
        " (001_garbage.wav: ",
        "        schema: `codebook_size` of `mel`: expected `128`, found `64`\n",
        "        schema: edge `tokens` has no fact `colour` (",
        "        values of `mel`: expected at most -1, found ",
        "        values of `mel`: expected 1 that are distinct, found ",
        "        values of `path`: expected numbers, found utf8\n",
        "        values: there is no column `mle` (did you mean `mel`?)\n",
        "        rejects: expected 1 io, found 0\n",
        "        feed: `no/such/file.wav` cannot be read: ",
        "0 passed, 3 failed\n",
    ] {
        assert!(out.contains(words), "no `{words}` in\n{out}");
    }
    let output = program.output(&["test", "graph.yaml", "--filter", "class", "--json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((answer["passed"].as_u64(), answer["failed"].as_u64()), (Some(0), Some(1)));
    assert_eq!(answer["tests"][0]["failures"][0], "rejects: expected 1 io, found 0");
}

#[test]
fn a_test_that_makes_no_sense_is_refused_before_anything_runs() {
    let program = with_tests("  - {name: a, until: tokesn, expect: {rows: 1}}\n");
    for verb in ["test", "validate", "run"] {
        let output = program.output(&[verb, "graph.yaml"]);
        assert_eq!(output.status.code(), Some(3), "{verb}");
        assert!(text(&output.stderr).contains("did you mean `tokens`?"), "{}", text(&output.stderr));
    }
}

#[test]
fn the_quickstart_passes_its_tests() {
    let program = Program::new(&Options { tracks: 0, ..Options::default() });
    let graph = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart.yaml");
    let before = listed(&program);
    let out = program.ok(&["test", &graph.display().to_string()]);
    assert!(out.contains(" passed, 0 failed") && !out.contains("\n0 passed"), "{out}");
    assert_eq!(listed(&program), before);
}
