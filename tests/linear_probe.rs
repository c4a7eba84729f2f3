//! Does a graph end in a table of what can be read off a representation?

mod program;

use std::fmt::Write as _;
use std::fs;

use program::{Options, Program};

const GRAPH: &str = "omar: 1
name: probe
seed: 3
nodes:
  tracks: {stage: files, params: {root: audio, manifest: manifest.csv}}
  audio:  {stage: decode, from: tracks}
  mono:   {stage: resample, from: audio, params: {sample_rate: 16000}}
  crops:  {stage: crop, from: mono, params: {duration: 2s, policy: grid, min_duration: 64ms}}
  views:  {stage: features, from: crops, params: {views: {mel: {}, cqt: {}}}}
  probe:  {stage: linear_probe, from: views, params: {labels: labels.csv, tasks: {half: intervals, parity: recording}, rate: 15.625}}
";

/// Nine recordings, three of each split, with labels of halves and of whole recordings.
fn program() -> Program {
    let program = Program::new(&Options { tracks: 9, ..Options::default() });
    let (mut manifest, mut labels) = ("path,split\n".to_owned(), "path,task,start,end,label\n".to_owned());
    for track in 0..9 {
        let path = format!("track_{track:03}.wav");
        let split = ["train", "valid", "test"][track % 3];
        writeln!(manifest, "{path},{split}").expect("text");
        let parity = if (track / 3) % 2 == 0 { "even" } else { "odd" };
        write!(labels, "{path},parity,,,{parity}\n{path},half,0,1,first\n{path},half,1,9,second\n").expect("text");
    }
    fs::write(program.path("manifest.csv"), manifest).expect("written");
    fs::write(program.path("labels.csv"), labels).expect("written");
    fs::write(program.path("probe.yaml"), GRAPH).expect("written");
    program
}

#[test]
fn scores_are_printed_kept_and_the_same_for_any_number_of_threads() {
    let program = program();
    let printed = program.ok(&["run", "probe.yaml"]);
    for words in ["task", "mel+cqt", "parity", "accuracy", "n train"] {
        assert!(printed.contains(words), "{words}:\n{printed}");
    }
    let results = |how: &[&str]| {
        let summary = program.json(&[&["run", "probe.yaml"], how].concat());
        let node = summary["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["node"] == "probe"));
        node.expect("the node is in the summary")["results"].clone()
    };
    let rows = results(&[]);
    // Two tasks, each on both views and on the views side by side.
    assert_eq!(rows.as_array().map(Vec::len), Some(6));
    assert_eq!(rows[0]["input"], "features");
    for how in [&["--direct"][..], &["--threads", "1"]] {
        assert_eq!(results(how), rows, "{how:?}");
    }
}

#[test]
fn labels_that_do_not_fit_end_the_run_with_a_line() {
    let program = program();
    let labels = fs::read_to_string(program.path("labels.csv")).expect("it is there");
    fs::write(program.path("labels.csv"), labels.replacen("half,0,1", "half,0,one", 1)).expect("written");
    let output = program.output(&["run", "probe.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("labels.csv`, line 3: `end`: expected seconds, found `one`"), "{message}");
}
