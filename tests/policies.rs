//! Does every policy on failing recordings do what it says: retry, drop, the circuit breaker, the second chance?

mod program;

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use omar_flow::Plan;
use omar_flow::run::{self, RunOptions};
use omar_flow::stop::Stop;
use omar_schemas::{Origin, TrackId};
use omar_stages::{Operator, Output, Port, Progress, Rejection, Stage, StageContext, StageError};
use program::{Options, Program, swap, text};
use serde_json::Value;

/// Changes the graph of the tests.
fn edit(program: &Program, from: &str, to: &str) {
    let graph = fs::read_to_string(program.path("graph.yaml")).expect("the graph");
    assert!(graph.contains(from), "{graph}");
    fs::write(program.path("graph.yaml"), graph.replace(from, to)).expect("written");
}

const DECODE: &str = "{stage: decode, from: tracks}";

#[test]
fn the_breaker_ends_a_run_that_rejects_too_much() {
    let program = Program::new(&Options { tracks: 20, ..Options::default() });
    for index in 0..20 {
        fs::write(program.path(&format!("audio/broken_{index:02}.mp3")), "not music").expect("written");
    }
    edit(&program, "seed: 7\n", "seed: 7\nflow: {shard_tracks: 5}\nerrors: {stop_if: {rate: 0.2, after: 10}}\n");
    for executor in ["--json", "--direct"] {
        program.clear();
        let output = program.output(&["run", "graph.yaml", executor]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{message}");
        assert!(message.contains("recordings were rejected (") && message.contains("`errors.stop_if` allows 20 %"));
        let examples = message.lines().filter(|line| line.trim_start().starts_with("broken_")).count();
        assert!((1..=3).contains(&examples), "{message}");
        if executor == "--json" {
            let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            assert!(answer["rejects"][0]["count"].as_u64() > Some(2) && answer["rejects"][0]["class"].is_string());
        }
        let quarantine = program.runs()[0].join("quarantine");
        assert!(fs::read_dir(quarantine).expect("a quarantine").count() > 0, "what was rejected is kept");
    }
    // Half of the recordings are broken: a breaker that allows it lets the run through, whatever is the default.
    edit(&program, "rate: 0.2", "rate: 0.9");
    assert_eq!(program.json(&["run", "graph.yaml"])["rejected"], 20);
    // What is known from the caches is judged at the end.
    edit(&program, "rate: 0.9", "rate: 0.4");
    let output = program.output(&["run", "graph.yaml"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("20 of 40 recordings were rejected, more than 40 %"));
}

#[test]
fn only_what_cannot_be_read_is_tried_again_and_then_given_up() {
    let program = Program::new(&Options { tracks: 4, ..Options::default() });
    fs::write(program.path("audio/corrupt.mp3"), "not music").expect("written");
    let mut list = "path\naudio/gone.wav\naudio/corrupt.mp3\n".to_owned();
    (0..4).for_each(|track| list += &format!("audio/track_{track:03}.wav\n"));
    fs::write(program.path("list.csv"), list).expect("written");
    edit(&program, "{root: audio, valid_fraction: 0.2}", "{manifest: list.csv}");
    let retry = "{stage: decode, from: tracks, on_error: {retry: {attempts: 3, on: [io], wait: 5ms}}}";
    edit(&program, DECODE, retry);
    let summary = program.json(&["run", "graph.yaml"]);
    assert_eq!(summary["rejected"], 2);
    let message = |class: &str| {
        let classes = summary["rejects"].as_array().expect("classes");
        let class = classes.iter().find(|found| found["class"] == class).unwrap_or_else(|| panic!("{summary:#}"));
        class["examples"][0]["message"].as_str().expect("a message").to_owned()
    };
    assert!(message("io").ends_with("(tried 3 times)"), "{}", message("io"));
    let other = summary["rejects"].as_array().expect("classes").iter().find(|class| class["class"] != "io");
    let other = other.and_then(|class| class["class"].as_str()).expect("another class");
    assert!(!message(other).contains("tried"), "{}", message(other));
    // After the tries comes the policy.
    edit(&program, "wait: 5ms}}}", "wait: 5ms}, then: fail}}");
    program.clear();
    let output = program.output(&["run", "graph.yaml"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[test]
fn what_is_dropped_is_counted_by_class_also_from_the_cache() {
    let program = Program::new(&Options { tracks: 6, ..Options::default() });
    fs::write(program.path("audio/text.mp3"), "not music").expect("written");
    edit(&program, DECODE, "{stage: decode, from: tracks, on_error: drop}");
    for _ in 0..2 {
        let summary = program.json(&["run", "graph.yaml"]);
        assert_eq!((summary["rejected"].as_u64(), summary["dropped"][0]["count"].as_u64()), (Some(0), Some(1)));
    }
    for run in program.runs() {
        assert!(!run.join("quarantine").exists(), "no rows");
    }
    let table = program.ok(&["run", "graph.yaml"]);
    assert!(table.contains("0 rejected, 1 dropped") && table.contains("text.mp3: "), "{table}");
}

/// A stage whose operators fail at the end of every recording, as often as they are told.
struct Flaky {
    inner: Arc<dyn Stage>,
    failures: u32,
    seen: Arc<Mutex<HashMap<TrackId, u32>>>,
    tries: Arc<Mutex<Vec<TrackId>>>,
}

struct FlakyOperator {
    inner: Box<dyn Operator>,
    failures: u32,
    seen: Arc<Mutex<HashMap<TrackId, u32>>>,
    tries: Arc<Mutex<Vec<TrackId>>>,
    track: Option<TrackId>,
}

impl Stage for Flaky {
    fn output(&self) -> SchemaRef {
        self.inner.output()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let inner = self.inner.start(context)?;
        let (failures, seen, tries) = (self.failures, self.seen.clone(), self.tries.clone());
        Ok(Box::new(FlakyOperator { inner, failures, seen, tries, track: None }))
    }
}

impl Operator for FlakyOperator {
    fn push(&mut self, port: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        self.track = Some(Origin::read(batch, 0)?.track_id);
        self.inner.push(port, batch, out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, StageError> {
        self.inner.resume(out)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        self.inner.flush(out)?;
        if let Some(track) = self.track.take() {
            self.tries.lock().expect("no panic").push(track);
            let mut seen = self.seen.lock().expect("no panic");
            let failed = seen.entry(track).or_default();
            *failed += 1;
            if *failed <= self.failures {
                out.reject(track, Rejection::new("io", "the disk is busy"));
            }
        }
        Ok(())
    }
}

#[test]
fn a_recording_that_is_tried_again_gives_the_same_bytes() {
    let program = Program::new(&Options::default());
    edit(&program, DECODE, "{stage: decode, from: tracks, on_error: {retry: {attempts: 3, wait: 1ms}}}");
    let sets = [
        format!("nodes.tracks.params.root={}", program.path("audio").display()),
        format!("nodes.tokens.cache={}", program.path("cache").display()),
    ];
    let plan = |failures: u32| {
        let mut plan = Plan::load(&program.path("graph.yaml"), &sets, &omar_stages::ops::registry()).expect("a plan");
        let node = plan.nodes.iter_mut().find(|node| node.id == "audio").expect("a node");
        node.stage =
            Arc::new(Flaky { inner: node.stage.clone(), failures, seen: Arc::default(), tries: Arc::default() });
        plan
    };
    run::run(&plan(0), &RunOptions::default(), &Stop::new()).expect("it ends");
    let clean = program.cache();
    for direct in [true, false] {
        program.clear();
        let options = RunOptions { direct, ..RunOptions::default() };
        let summary = run::run(&plan(2), &options, &Stop::new()).expect("it ends");
        assert_eq!(summary.rejected, 0);
        assert!(program.cache() == clean, "rows are doubled or lost (direct: {direct})");
    }
    program.clear();
    let summary = run::run(&plan(3), &RunOptions::default(), &Stop::new()).expect("it ends");
    assert_eq!((summary.rejected, summary.rejects[0].class.as_str()), (12, "io"));
}

#[test]
fn a_pause_before_the_next_try_holds_no_thread() {
    let program = Program::new(&Options::default());
    edit(&program, DECODE, "{stage: decode, from: tracks, on_error: {retry: {attempts: 2, wait: 50ms}}}");
    let root = format!("nodes.tracks.params.root={}", program.path("audio").display());
    let cache = format!("nodes.tokens.cache={}", program.path("cache").display());
    let registry = omar_stages::ops::registry();
    let mut plan = Plan::load(&program.path("graph.yaml"), &[root, cache], &registry).expect("a plan");
    plan.resources.threads = Some(1);
    let tries = Arc::new(Mutex::new(Vec::new()));
    let node = plan.nodes.iter_mut().find(|node| node.id == "audio").expect("a node");
    let flaky = Flaky { inner: node.stage.clone(), failures: 1, seen: Arc::default(), tries: tries.clone() };
    node.stage = Arc::new(flaky);
    assert_eq!(run::run(&plan, &RunOptions::default(), &Stop::new()).expect("it ends").rejected, 0);
    let tries = tries.lock().expect("no panic");
    assert_eq!(tries.len(), 24);
    assert_ne!(tries[0], tries[1], "the only thread of the pool takes another recording meanwhile");
}

/// A graph with two caches, one after the other, and a recording that cannot be read.
fn with_a_bad_disk() -> (Program, std::path::PathBuf, Vec<u8>) {
    let program = Program::new(&Options::default());
    edit(&program, "seed: 7\n", "seed: 7\nflow: {shard_tracks: 4}\n");
    edit(&program, "{views: {mel: {}}}}", "{views: {mel: {}}}, cache: cache}");
    let path = program.path("audio/track_003.wav");
    let good = fs::read(&path).expect("a recording");
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    for entry in fs::read_dir(program.path("audio")).expect("recordings") {
        let file = fs::File::options().append(true).open(entry.expect("a file").path()).expect("opens");
        file.set_modified(yesterday).expect("its time");
    }
    (program, path, good)
}

#[test]
fn what_caches_remember_as_rejected_is_tried_again_on_request() {
    let (program, path, good) = with_a_bad_disk();
    let clean = program.json(&["run", "graph.yaml"]);
    let whole = program.cache();
    program.clear();
    swap(&path, &vec![0; good.len()]);
    // The first cache knows of the rejection, the second one, made from the first, does not.
    program.json(&["run", "graph.yaml", "--until", "mel"]);
    assert_eq!(program.json(&["run", "graph.yaml"])["rejected"], 1);
    let lacking = program.cache();
    assert_ne!(lacking, whole);
    let summary = program.json(&["run", "graph.yaml", "--retry-quarantined"]);
    assert_eq!((summary["rejected"].as_u64(), summary["retried"]["recovered"].as_u64()), (Some(1), Some(0)));
    assert!(program.cache() == lacking, "what cannot be mended stays");
    swap(&path, &good);
    assert_eq!(program.json(&["run", "graph.yaml"])["rejected"], 1, "nobody asked to try again");
    let table = program.ok(&["run", "graph.yaml", "--retry-quarantined", "--until", "tokens"]);
    let line = "tried 1 rejected recordings again: 1 can be used now, 2 cached shards made again";
    assert!(table.contains(line) && table.contains(" 0 rejected"), "{table}");
    assert!(program.cache() == whole, "the caches are those of a run in which nothing failed");
    let again = program.json(&["run", "graph.yaml", "--retry-quarantined", "--direct"]);
    assert_eq!((again["rejected"].as_u64(), again["retried"]["tried"].as_u64()), (Some(0), Some(0)));
    assert_eq!(again["codebooks"], clean["codebooks"], "the counts of the codes are those of the corpus");
}

#[test]
fn processes_share_the_trials_as_they_share_the_recordings() {
    let (program, path, good) = with_a_bad_disk();
    let other = program.path("audio/track_010.wav");
    let other_good = fs::read(&other).expect("a recording");
    program.json(&["run", "graph.yaml"]);
    let whole = program.cache();
    program.clear();
    swap(&path, &vec![0; good.len()]);
    swap(&other, &vec![0; other_good.len()]);
    assert_eq!(program.json(&["run", "graph.yaml", "--processes", "2"])["rejected"], 2);
    swap(&path, &good);
    swap(&other, &other_good);
    let summary = program.json(&["run", "graph.yaml", "--processes", "2", "--retry-quarantined"]);
    let expected = serde_json::json!({"tried": 2, "recovered": 2, "shards": 4});
    assert_eq!((&summary["rejected"], &summary["retried"]), (&0.into(), &expected), "{summary:#}");
    assert!(program.cache() == whole, "the caches are those of a run in which nothing failed");
}

#[test]
fn a_shard_is_not_replaced_by_one_that_lacks_more() {
    let (program, path, good) = with_a_bad_disk();
    edit(&program, "shard_tracks: 4", "shard_tracks: 16");
    swap(&path, &vec![0; good.len()]);
    program.json(&["run", "graph.yaml"]);
    let before = program.cache();
    // One can be read again, and meanwhile all others cannot.
    swap(&path, &good);
    for track in (0..12).filter(|&track| track != 3) {
        let other = program.path(&format!("audio/track_{track:03}.wav"));
        let len = fs::metadata(&other).expect("a file").len() as usize;
        swap(&other, &vec![0; len]);
    }
    let direct = program.output(&["run", "graph.yaml", "--retry-quarantined", "--json", "--direct"]);
    let summary: Value = serde_json::from_slice(&direct.stdout).expect("JSON");
    assert_eq!(summary["retried"]["recovered"], 1, "{summary:#}");
    assert!(program.cache() == before, "what was committed stands");
}
