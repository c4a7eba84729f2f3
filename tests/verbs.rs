//! Do the verbs that only look print results to stdout, messages to stderr, and end with the right status?

use std::io::Read;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const RIGHT: &str = "tests/graphs/verbs/crops.yaml";
const WRONG: &str = "tests/graphs/verbs/wrong.yaml";

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_omar-flow")).args(args).output().expect("starts")
}

/// Status, stdout and stderr.
fn outcome(args: &[&str]) -> (i32, String, String) {
    let output = run(args);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("a status"), text(output.stdout), text(output.stderr))
}

fn json(args: &[&str]) -> Value {
    let (_, out, _) = outcome(args);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{args:?} printed no JSON: {error}\n{out}"))
}

#[test]
fn a_right_graph_is_valid() {
    let (status, out, err) = outcome(&["validate", RIGHT]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert_eq!(out, format!("{RIGHT}: 4 nodes, nothing wrong\n"));
    assert_eq!(json(&["validate", RIGHT, "--json"]), serde_json::json!([]));
}

#[test]
fn a_wrong_graph_is_explained_on_stderr_with_status_3() {
    let (status, out, err) = outcome(&["validate", WRONG]);
    assert_eq!((status, out.as_str()), (3, ""));
    assert!(err.contains("did you mean `resample`?") && err.contains(&format!("{WRONG}:5:")), "{err}");
    assert!(!err.contains('\u{1b}'), "colours without a terminal");
    assert!(err.ends_with("2 errors\n"), "{err}");
    for verb in ["plan", "graph", "run"] {
        assert_eq!(outcome(&[verb, WRONG]).0, 3, "{verb}");
    }
}

#[test]
fn messages_are_there_for_programs() {
    let messages = json(&["validate", WRONG, "--json"]);
    let first = &messages[0];
    assert_eq!(first["file"], WRONG);
    assert_eq!((first["line"].as_u64(), first["severity"].as_str()), (Some(5), Some("error")));
    assert!(first["column"].is_u64() && first["message"].is_string() && first["hint"].is_string(), "{first}");
    assert_eq!(messages.as_array().map(Vec::len), Some(2));
}

#[test]
fn set_changes_the_graph_and_its_mistakes_are_explained() {
    assert_eq!(outcome(&["validate", RIGHT, "--set", "nodes.crops.params.duration=10s"]).0, 0);
    let (status, _, err) = outcome(&["validate", RIGHT, "--set", "nodes.crops.params.duration=10"]);
    assert_eq!(status, 3);
    assert!(err.contains("--> command line:1:") && err.contains("--set nodes.crops.params.duration=10"), "{err}");
}

#[test]
fn a_graph_that_is_not_there_is_no_crash() {
    let (status, _, err) = outcome(&["validate", "tests/graphs/verbs/crop.yaml"]);
    assert_eq!(status, 3);
    assert!(err.contains("did you mean `tests/graphs/verbs/crops.yaml`?"), "{err}");
}

#[test]
fn a_command_line_that_makes_no_sense_has_status_2() {
    assert_eq!(outcome(&["validate"]).0, 2);
    assert_eq!(outcome(&["stages", "resampel"]).0, 2);
}

#[test]
fn a_plan_names_every_edge_with_its_constants() {
    let (status, out, _) = outcome(&["plan", RIGHT]);
    assert_eq!(status, 0);
    for words in ["audio at 24000 Hz", "crops of 30 s (720000 samples at 24000 Hz, grid)", "MiB a row"] {
        assert!(out.contains(words), "no `{words}` in\n{out}");
    }
    let plan = json(&["plan", RIGHT, "--json"]);
    let node = &plan["nodes"][3];
    assert_eq!((node["id"].as_str(), node["stage"].as_str()), (Some("crops"), Some("crop")));
    assert_eq!(node["fingerprint"].as_str().map(str::len), Some(12));
    assert_eq!(node["inputs"]["in"], "mono");
}

#[test]
fn graphs_are_drawn() {
    let (_, mermaid, _) = outcome(&["graph", RIGHT]);
    assert!(mermaid.starts_with("flowchart LR\n") && mermaid.contains("n2 -- \"audio\" --> n3"), "{mermaid}");
    let (_, dot, _) = outcome(&["graph", RIGHT, "--format", "dot"]);
    assert!(dot.starts_with("digraph \"crops\" {") && dot.contains("n2 -> n3 [label=\"audio\"];"), "{dot}");
}

#[test]
fn every_stage_is_listed_and_described() {
    let (_, list, _) = outcome(&["stages"]);
    for kind in omar_stages::ops::registry().iter() {
        assert!(list.lines().any(|line| line.starts_with(kind.name)), "`{}` is not listed", kind.name);
        let (status, text, _) = outcome(&["stages", kind.name]);
        assert_eq!(status, 0);
        assert!(text.contains(kind.summary) && text.contains(kind.example), "{text}");
        let properties = (kind.params)().get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        for name in properties.keys() {
            assert!(text.contains(&format!("  {name}: ")), "no `{name}` in\n{text}");
        }
    }
    assert_eq!(json(&["stages", "resample", "--json"])["name"], "resample");
}

#[test]
fn the_schema_for_editors_holds_together() {
    let schema = json(&["schema"]);
    let mut references = Vec::new();
    collect_references(&schema, &mut references);
    assert!(references.len() > 10);
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(schema.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    for kind in omar_stages::ops::registry().iter() {
        assert!(schema["$defs"].get(kind.name).is_some(), "no definition of `{}`", kind.name);
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_omar-flow"))
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    drop(child.stdout.take());
    let mut err = String::new();
    child.stderr.take().expect("stderr").read_to_string(&mut err).expect("UTF-8");
    assert!(child.wait().expect("ends").success() && err.is_empty(), "{err}");
}

#[test]
fn doctor_looks_at_the_machine_and_at_what_a_graph_needs() {
    let (status, out, err) = outcome(&["doctor", RIGHT]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    for line in ["build ", "processor ", "memory ", "open files ", "run folder ", "cuda toolkit ", "models run on "] {
        assert!(out.lines().any(|found| found[9..].starts_with(line)), "no `{line}` in\n{out}");
    }
    let found = json(&["doctor", "--json"]);
    let checks = found["checks"].as_array().expect("checks");
    assert!(checks.iter().all(|check| check["name"].is_string() && check["found"].is_string()));
    assert!(checks.iter().filter(|check| check["state"] != "ok").all(|check| check["advice"].is_string()), "{found}");
}

#[test]
fn a_gpu_that_cannot_be_used_is_explained_with_status_5() {
    // The highest number: no machine has it, and most builds have no GPU support at all.
    let (status, out, _) = outcome(&["doctor", "--device", "cuda:4096"]);
    assert_eq!(status, 5, "{out}");
    assert!(out.contains("not cuda:4096"), "{out}");
    assert_eq!(outcome(&["doctor", "--device", "cpu"]).0, 0);
    let (status, _, err) = outcome(&["doctor", "--device", "gpu"]);
    assert_eq!(status, 2);
    assert!(err.contains("the first GPU is `cuda:0`"), "{err}");
    let (status, out, err) = outcome(&["run", "configs/quickstart.yaml", "--set", "resources.device=cuda:4096"]);
    assert_eq!((status, out.as_str()), (5, ""));
    assert!(err.contains("wants cuda:4096") && err.contains("or use `device: cpu`"), "{err}");
    if !cfg!(feature = "cuda") {
        assert!(err.contains("built without GPU support") && err.contains("--features cuda"), "{err}");
    }
}
