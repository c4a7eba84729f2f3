//! Can a run be watched while it goes on, and understood when it is over?

mod program;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStderr, Stdio};
use std::time::Duration;

use program::{Options, Program, text};
use serde_json::Value;

fn node<'a>(picture: &'a Value, id: &str) -> &'a Value {
    picture["nodes"].as_array().expect("nodes").iter().find(|node| node["node"] == id).expect("the node is there")
}

fn run_folder(program: &Program) -> String {
    program.runs().last().expect("a run").display().to_string()
}

#[test]
fn a_run_that_is_over_is_shown_and_explained() {
    let program = Program::new(&Options { train: true, ..Options::default() });
    fs::write(program.path("audio/text.mp3"), "not music").expect("the folder is there");
    let summary = program.json(&["run", "graph.yaml"]);
    let run = run_folder(&program);
    let picture = program.json(&["top", &run]);
    assert_eq!((picture["state"].as_str(), picture["processes"][0]["process"].as_u64()), (Some("complete"), Some(0)));
    assert_eq!((&picture["shards"]["done"], &picture["shards"]["total"]), (&summary["shards"], &summary["shards"]));
    assert_eq!((&picture["tracks"]["done"], &picture["rejected"]), (&summary["tracks"], &summary["rejected"]));
    for counter in ["rows_in", "rows_out", "bytes_out", "rejected", "shards_committed", "bytes_committed"] {
        for id in ["tracks", "audio", "mel", "tokens", "model"] {
            assert_eq!(node(&picture, id)[counter], node(&summary, id)[counter], "{counter} of {id}");
        }
    }
    let shown = program.ok(&["top", &run]);
    assert!(shown.starts_with("test: complete after ") && !shown.contains('\x1b'), "{shown}");
    assert!(shown.lines().any(|line| line.starts_with("audio ") && line.contains(" decode ")), "{shown}");

    let told = program.ok(&["explain", &run]);
    for words in ["test: complete after", "\n└ audio ", "        └ tokens ", "└ model (+ mel) ", " made"] {
        assert!(told.contains(words), "no `{words}` in\n{told}");
    }
    assert!(told.contains("rejected by audio: 1 ") && told.contains("such as text.mp3"), "{told}");
    assert!(told.contains("bottleneck: ") || told.contains("busiest: "), "{told}");
    let program_reads = program.json(&["explain", &run]);
    assert_eq!(program_reads["rejects"][0]["count"], 1);
    assert!(program_reads["sentence"].is_string() && program_reads["memory_resident_most"].as_u64() > Some(1 << 20));

    program.ok(&["run", "graph.yaml", "--until", "tokens"]);
    let told = program.ok(&["explain", &run_folder(&program)]);
    assert!(told.contains(" cached") && told.contains("nothing was computed"), "{told}");
}

#[test]
fn the_loop_without_a_dataflow_is_watched_too() {
    let program = Program::new(&Options::default());
    let summary = program.json(&["run", "graph.yaml", "--direct"]);
    let picture = program.json(&["top", &run_folder(&program)]);
    assert_eq!(picture["shards"]["done"], summary["shards"]);
    assert_eq!(node(&picture, "tokens")["rows_out"], node(&summary, "tokens")["rows_out"]);
}

#[test]
fn what_is_no_run_is_explained() {
    let program = Program::new(&Options::default());
    for verb in ["top", "explain"] {
        let output = program.output(&[verb, "graph.yaml"]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{said}");
        assert!(said.contains("`omar-flow plan graph.yaml` tells what a graph would do"), "{said}");
    }
}

/// A run that goes on for long, and what it says.
struct LongRun(Child, BufReader<ChildStderr>);

impl LongRun {
    fn start(program: &Program, args: &[&str]) -> Self {
        let args = [&["run", "graph.yaml"], args].concat();
        let mut child =
            program.command(&args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let said = BufReader::new(child.stderr.take().expect("it is piped"));
        Self(child, said)
    }

    /// The first line with these words.
    fn line_with(&mut self, words: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.1.read_line(&mut line).expect("UTF-8") > 0, "no `{words}` in\n{all}");
            if line.contains(words) {
                return line;
            }
            all += &line;
        }
    }

    fn kill(&mut self) {
        self.0.kill().expect("it is there");
        self.0.wait().expect("it ends");
    }
}

impl Drop for LongRun {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("UTF-8");
    answer
}

#[test]
fn a_run_is_watched_live_by_prometheus_and_top_and_found_out_when_it_is_killed() {
    let program = Program::new(&Options { train: true, steps: 1_000_000, ..Options::default() });
    let mut run = LongRun::start(&program, &["--metrics-address", "127.0.0.1:0"]);
    let line = run.line_with("metrics: http://");
    let address = line.trim().trim_start_matches("metrics: http://").trim_end_matches("/metrics").to_owned();
    // The port is there from the start, the answers when the run has listed its corpus.
    let step = |answer: &str| -> Option<f64> {
        let line = answer.lines().find(|line| line.starts_with("omar_flow_node_training_step{"))?;
        assert!(line.contains(r#"graph="test""#) && line.contains(r#"node="model",stage="pretrain""#), "{line}");
        line.rsplit_once(' ')?.1.parse().ok()
    };
    let mut answer = get(&address, "/metrics");
    while step(&answer).is_none() {
        answer = get(&address, "/metrics");
    }
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"), "{answer}");
    for family in ["resident_memory_bytes", "node_wait_seconds_total", "node_queued", "shards_done"] {
        assert!(answer.contains(&format!("# TYPE omar_flow_{family} ")), "{answer}");
    }
    assert!(get(&address, "/").contains("at /metrics") && get(&address, "/x").starts_with("HTTP/1.1 404"));

    let folder = run_folder(&program);
    // The record of the first second may be older than the first step.
    let picture = loop {
        let picture = program.json(&["top", &folder]);
        if node(&picture, "model")["steps"]["done"].as_u64() > Some(0) {
            break picture;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(
        (picture["state"].as_str(), picture["processes"][0]["pid"].as_u64()),
        (Some("running"), Some(run.0.id().into()))
    );
    let shown = program.ok(&["top", &folder, "--once"]);
    assert!(shown.contains("test: running for ") && shown.contains("step ") && shown.contains("/1000000"), "{shown}");

    run.kill();
    let picture = program.json(&["top", &folder]);
    assert_eq!(picture["state"], "lost");
    let shown = program.ok(&["explain", &folder]);
    assert!(shown.contains("test: lost after ") && shown.contains(" is gone for "), "{shown}");
}

#[test]
fn a_port_that_is_taken_ends_the_run_before_it_begins() {
    let program = Program::new(&Options::default());
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = program.output(&["run", "graph.yaml", "--metrics-address", &address]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("error: --metrics-address: {address} is in use")), "{said}");
    assert!(!program.path("runs").exists() && !program.path("cache").exists());
    let said = text(&program.output(&["run", "graph.yaml", "--metrics-address", "9184"]).stderr);
    assert!(said.contains("expected `host:port`, such as `127.0.0.1:9184`, found `9184`"), "{said}");
}

#[test]
fn the_watchdog_says_who_is_busy_and_does_no_harm() {
    let program = Program::new(&Options { train: true, steps: 2, ..Options::default() });
    let model = "nodes.model.params.model";
    let sets = [format!("{model}.dim=384"), format!("{model}.heads=6"), format!("{model}.layers=8")];
    let mut args = vec!["run", "graph.yaml", "--watchdog", "60ms", "--set", "nodes.model.params.minibatch=16"];
    sets.iter().for_each(|set| args.extend(["--set", set]));
    let output = program.output(&args);
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    let log = program.runs()[0].join("watchdog-0.log");
    let logged = fs::read_to_string(log).expect("a log");
    for found in [&said, &logged] {
        for words in ["note: model is busy since ", "on crops of pass 1, shard ", "  memory: ", "said again when"] {
            assert!(found.contains(words), "no `{words}` in\n{found}");
        }
    }
    let output = program.output(&["run", "graph.yaml", "--watchdog", "60"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("or `off`"), "{}", text(&output.stderr));
}
