//! Do several processes train what one trains, and what happens when one is lost or does not belong?

mod program;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use candle_core::{DType, Device, Tensor, safetensors};
use program::{Options, Program, swap, text, walk};

/// A training of `steps` steps, six crops each.
fn training(steps: u64) -> Program {
    let program = Program::new(&Options { train: true, steps, ..Options::default() });
    let graph = std::fs::read_to_string(program.path("graph.yaml")).expect("it was written");
    let graph = graph.replace("minibatch: 4", "minibatch: 6\n      valid: {every: 3, crops: 8}");
    std::fs::write(program.path("graph.yaml"), graph).expect("it can be written");
    program
}

/// The tensors of the last checkpoint of a run.
fn model(run: &Path) -> Vec<(String, Tensor)> {
    let mut files: Vec<PathBuf> = walk(run).into_iter().filter(|path| path.ends_with("model.safetensors")).collect();
    files.sort();
    let tensors = safetensors::load(files.last().expect("a checkpoint"), &Device::Cpu).expect("tensors");
    let mut tensors: Vec<_> = tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

/// Largest difference of two models, over the largest value of each tensor.
fn apart(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let largest =
        |t: &Tensor| f64::from(t.abs().and_then(|t| t.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("f32"));
    let f32 = |t: &Tensor| t.to_dtype(DType::F32).expect("a tensor");
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b).map(|((name, a), (other, b))| {
        assert_eq!(name, other);
        largest(&(f32(a) - f32(b)).expect("equal shapes")) / largest(&f32(a)).max(1e-3)
    });
    pairs.fold(0.0, f64::max)
}

/// Names of the files in a run folder, whatever their content; those of event files, which hold the time, cut short.
fn names(run: &Path) -> BTreeSet<String> {
    let name = |path: &PathBuf| path.strip_prefix(run).expect("below").display().to_string();
    let short = |name: String| name.split_once("tfevents.").map_or(name.clone(), |(before, _)| before.to_owned());
    walk(run).iter().map(name).map(short).collect()
}

/// A hosts file with this many free ports of this machine.
fn hosts(program: &Program, count: usize) -> Vec<String> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().expect("bound").to_string()).collect();
    std::fs::write(program.path("hosts.txt"), addresses.join("\n")).expect("it can be written");
    addresses
}

/// Process `process` of a cluster, started.
fn member(program: &Program, process: usize, more: &[&str]) -> Command {
    let process = process.to_string();
    let mut arguments = vec!["run", "graph.yaml", "--cluster", "hosts.txt", "--process", &process];
    arguments.extend(more);
    let mut command = program.command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn end(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    (status.code(), text(&stderr))
}

/// The lines of errors.
fn errors(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("error: ")).collect()
}

/// The checkpoints below `runs`.
fn checkpoints(program: &Program) -> BTreeSet<PathBuf> {
    walk(&program.path("runs")).into_iter().filter(|path| path.ends_with("state.json")).collect()
}

/// Waits until there are two checkpoints more than `before`.
fn wait_for_checkpoints(program: &Program, before: &BTreeSet<PathBuf>, child: &mut Child) {
    while checkpoints(program).difference(before).count() < 2 {
        assert!(child.try_wait().expect("it can be asked").is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The processes whose parent a process is.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<String> {
    let is_child = |process: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // `pid (name) state parent ...`, and names may hold anything.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let all = std::fs::read_dir("/proc").expect("Linux has it").flatten();
    all.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(is_child).collect()
}

/// Weights and running statistics after eight steps differ by at most 1e-4 of the largest value of their tensor: what
/// changes is the order in which sums are rounded.
#[test]
fn two_and_three_processes_train_what_one_trains() {
    let program = training(8);
    program.ok(&["run", "graph.yaml"]);
    let run = program.runs().remove(0);
    let (alone, files, cache) = (model(&run), names(&run), program.cache());
    for processes in ["2", "3"] {
        program.clear();
        // Nothing is cached: every process computes, and process 0 alone writes.
        program.ok(&["run", "graph.yaml", "--processes", processes]);
        let run = program.runs().remove(0);
        let together = model(&run);
        assert!(apart(&alone, &together) < 1e-4, "{processes} processes: {}", apart(&alone, &together));
        assert!(program.cache() == cache, "{processes} processes leave another cache");
        // Of the others there is what they said and what they did, and nothing else.
        let count = processes.parse::<usize>().expect("a number");
        let others = (1..count).flat_map(|other| [format!("process-{other}.log"), format!("live-{other}.jsonl")]);
        assert_eq!(names(&run), files.iter().cloned().chain(others).collect());
        let picture = program.json(&["top", &run.display().to_string()]);
        let seen: Vec<_> = picture["processes"].as_array().expect("a list").iter().map(|one| &one["process"]).collect();
        assert_eq!(seen, (0..count).collect::<Vec<_>>(), "top shows all of them");
        assert_eq!(picture["state"], "complete");
        // Warm: all read the cache, and the bits are those of the cold run.
        program.ok(&["run", "graph.yaml", "--processes", processes]);
        assert!(apart(&model(&program.runs()[1]), &together) == 0.0, "a second run gives other bits");
    }
}

#[test]
fn a_second_chance_for_a_recording_is_one_for_all() {
    let program = training(6);
    let path = program.path("audio/track_003.wav");
    let good = std::fs::read(&path).expect("a recording");
    let train = |more: &[&str]| program.json(&[&["run", "graph.yaml"], more].concat());
    train(&[]);
    let expected = model(program.runs().last().expect("a run"));
    program.clear();
    swap(&path, &vec![0; good.len()]);
    train(&["--until", "tokens"]);
    swap(&path, &good);
    let summary = train(&["--retry-quarantined", "--processes", "2"]);
    assert_eq!(summary["retried"]["recovered"], 1, "{summary:#}");
    let apart = apart(&model(program.runs().last().expect("a run")), &expected);
    assert!(apart < 1e-4, "{apart:e}: one process read the cache that lacks the recording");
}

#[test]
#[cfg(target_os = "linux")]
fn a_killed_process_ends_all_and_the_restart_goes_on() {
    let program = training(60);
    program.ok(&["run", "graph.yaml", "--processes", "2"]);
    let straight = model(&program.runs()[0]);
    program.clear();
    let mut parent = program.command(&["run", "graph.yaml", "--processes", "2"]);
    let mut parent = parent.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for_checkpoints(&program, &BTreeSet::new(), &mut parent);
    let children = children(parent.id());
    assert_eq!(children.len(), 1);
    Command::new("kill").args(["-KILL", &children[0]]).status().expect("kill runs");
    let (code, stderr) = end(parent);
    assert_eq!(code, Some(1), "{stderr}");
    let [error] = errors(&stderr)[..] else { panic!("{stderr}") };
    assert!(error.contains("process 1 (127.0.0.1:") && error.contains("signal: 9"), "{error}");
    let run = program.runs()[0].display().to_string();
    assert!(stderr.contains("--resume runs/"), "{stderr}");
    program.ok(&["run", "graph.yaml", "--processes", "2", "--resume", &run]);
    assert!(apart(&model(&program.runs()[0]), &straight) == 0.0, "the resumed run gives other bits");
}

#[test]
#[cfg(target_os = "linux")]
fn in_a_cluster_too_and_a_stop_of_one_stops_all_at_the_same_step() {
    let program = training(4000);
    let addresses = hosts(&program, 2);
    let start = |more: &[&str]| [0, 1].map(|process| member(&program, process, more).spawn().expect("it starts"));
    let [mut first, second] = start(&[]);
    wait_for_checkpoints(&program, &BTreeSet::new(), &mut first);
    // A signal to the one that writes nothing.
    Command::new("kill").args(["-TERM", &second.id().to_string()]).status().expect("kill runs");
    let ended = [end(first), end(second)];
    assert!(ended.iter().all(|(code, _)| *code == Some(130)), "{ended:?}");
    let run = program.runs()[0].display().to_string();
    let before = checkpoints(&program);
    let [mut first, second] = start(&["--resume", &run]);
    wait_for_checkpoints(&program, &before, &mut first);
    Command::new("kill").args(["-KILL", &first.id().to_string()]).status().expect("kill runs");
    let ((_, _), (code, stderr)) = (end(first), end(second));
    assert_eq!(code, Some(1), "{stderr}");
    let expected = format!(
        "error: process 0 ({}) has ended without a word: it was killed, or its machine or network went down",
        addresses[0]
    );
    assert_eq!(errors(&stderr), [expected]);
}

#[test]
fn who_does_not_belong_is_refused_by_name() {
    let program = training(8);
    let refused = |other: Command, expected: &str| {
        hosts(&program, 2);
        let (mut first, mut other) = (member(&program, 0, &["--connect-timeout", "60"]), other);
        let children = [&mut first, &mut other].map(|c| c.env("OMAR_FLOW_TOKEN", "a").spawn().expect("it starts"));
        let [(code, stderr), (other_code, other_stderr)] = children.map(end);
        assert_eq!((code, other_code), (Some(1), Some(1)), "{stderr}{other_stderr}");
        let [error] = errors(&stderr)[..] else { panic!("{stderr}") };
        assert!(error.contains("process 1 (127.0.0.1:") && error.ends_with(expected), "{error}");
        assert!(errors(&other_stderr)[0].contains("process 0 (127.0.0.1:"), "{other_stderr}");
    };
    let with = |more: &[&str]| member(&program, 1, &[&["--connect-timeout", "60"][..], more].concat());
    refused(with(&["--set", "seed=8"]), "has another seed: 8 there, 7 here");
    let lr = "nodes.model.params.optimizer.lr=0.5";
    refused(with(&["--set", lr]), "runs another graph: node `model` has other parameters, inputs or weights");
    refused(with(&["--limit", "11"]), "finds another number of recordings: 11 there, 12 here");
    // The same program with a byte more.
    let copy = program.path("omar-flow");
    let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_omar-flow")).expect("the program");
    bytes.push(0);
    std::fs::write(&copy, bytes).expect("it can be written");
    std::fs::set_permissions(&copy, std::fs::metadata(env!("CARGO_BIN_EXE_omar-flow")).expect("it").permissions())
        .expect("permissions");
    let mut other = Command::new(&copy);
    other.args(with(&[]).get_args()).current_dir(program.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
    hosts(&program, 2);
    let first = member(&program, 0, &[]).spawn().expect("it starts");
    let (other, (_, stderr)) = (other.spawn().expect("it starts"), end(first));
    let error = errors(&stderr)[0].to_owned();
    assert!(error.contains("is another build of omar-flow: its executable is: "), "{error}");
    drop(end(other));
}

#[test]
fn what_cannot_be_shared_or_reached_is_said_before_anything_starts() {
    let program = training(8);
    let said = |arguments: &[&str], code: i32| {
        let output = program.output(&[&["run", "graph.yaml"][..], arguments].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        errors(&stderr).first().copied().unwrap_or_default().to_owned()
    };
    assert_eq!(
        said(&["--processes", "4"], 2),
        "error: --processes: node `model`: 4 processes cannot share `minibatch`, 6, evenly: make it a multiple of 4"
    );
    std::fs::write(program.path("hosts.txt"), "127.0.0.1:7001\n127.0.0.1\n").expect("it can be written");
    assert_eq!(
        said(&["--cluster", "hosts.txt", "--process", "0"], 2),
        "error: --cluster: hosts.txt:2: expected `host:port`, e.g. `10.0.0.1:7001`, found `127.0.0.1`"
    );
    let addresses = hosts(&program, 2);
    assert_eq!(
        said(&["--cluster", "hosts.txt", "--process", "2"], 2),
        "error: --cluster: `hosts.txt` lists 2 processes: --process must be below that, found 2 (the first is 0)"
    );
    let error = said(&["--cluster", "hosts.txt", "--process", "1", "--connect-timeout", "1"], 1);
    let expected = format!("error: after 1 s there is no connection to process 0 ({}): ", addresses[0]);
    assert!(error.starts_with(&expected), "{error}");
    assert!(!program.path("runs").exists());
}
