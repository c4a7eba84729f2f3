//! Do several processes that share the recordings make what one makes, and what happens when one is lost?

mod program;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use program::{Options, Program, text, walk};
use serde_json::json;

/// A corpus in shards of two recordings, to tokens.
fn corpus(tracks: usize) -> Program {
    let program = Program::new(&Options { tracks, ..Options::default() });
    std::fs::write(program.path("audio/broken.wav"), b"RIFF no more").expect("it can be written");
    edit(&program, |graph| graph.replace("seed: 7\n", "seed: 7\nflow: {shard_tracks: 2}\n"));
    program
}

fn edit(program: &Program, change: impl FnOnce(String) -> String) {
    let graph = std::fs::read_to_string(program.path("graph.yaml")).expect("it was written");
    std::fs::write(program.path("graph.yaml"), change(graph)).expect("it can be written");
}

/// What must not depend on the number of processes.
fn essence(summary: &serde_json::Value) -> Vec<serde_json::Value> {
    let of_node = |node: &serde_json::Value| {
        let counts = ["node", "rows_out", "audio_s", "rejected", "shards_cached", "shards_committed", "results"];
        counts.iter().map(|key| node[key].clone()).collect()
    };
    let nodes = summary["nodes"].as_array().expect("a list").iter().map(of_node);
    let whole = ["tracks", "shards", "rejected", "rejects", "codebooks"].map(|key| summary[key].clone());
    nodes.chain(whole).collect()
}

fn member(program: &Program, process: usize) -> Command {
    let process = process.to_string();
    let mut command = program.command(&["run", "graph.yaml", "--cluster", "hosts.txt", "--process", &process]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn hosts(program: &Program, count: usize) {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().expect("bound").to_string()).collect();
    std::fs::write(program.path("hosts.txt"), addresses.join("\n")).expect("it can be written");
}

fn end(child: Child) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = child.wait_with_output().expect("it ends");
    (status.code(), text(&stderr))
}

fn commits(program: &Program, cache: &str) -> BTreeSet<String> {
    let files = walk(&program.path(cache)).into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"));
    files.map(|path| path.file_name().expect("a file").to_string_lossy().into_owned()).collect()
}

/// Waits until `count` shards are committed.
fn wait_for_commits(program: &Program, count: usize, child: &mut Child) {
    while commits(program, "cache").len() < count + 1 {
        assert!(child.try_wait().expect("it can be asked").is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill runs").success());
}

#[test]
fn two_and_three_processes_make_what_one_makes() {
    let program = corpus(15);
    let alone = program.json(&["run", "graph.yaml"]);
    let cache = program.cache();
    assert_eq!(alone["rejected"], 1);
    for processes in ["2", "3"] {
        program.clear();
        let cold = program.json(&["run", "graph.yaml", "--processes", processes]);
        assert!(program.cache() == cache, "{processes} processes leave another cache");
        assert_eq!(essence(&cold), essence(&alone), "{processes} processes");
        let picture = program.json(&["top", &program.runs()[0].display().to_string()]);
        assert_eq!(picture["tracks"], json!({"done": 16, "total": 16}), "what all have done is added up");
        let parts = picture["processes"].as_array().expect("a list");
        let own = parts.iter().map(|process| process["tracks"]["total"].as_u64().expect("a count"));
        assert!(parts.len() > 1 && own.clone().all(|own| own < 16) && own.sum::<u64>() == 16, "{picture:#}");
        let warm = program.json(&["run", "graph.yaml", "--processes", processes]);
        assert!(program.cache() == cache, "a second run leaves another cache");
        assert_eq!(warm["codebooks"], alone["codebooks"]);
        assert_eq!((&warm["rejects"], &warm["nodes"][5]["rows_out"]), (&alone["rejects"], &0.into()));
    }
}

#[test]
fn a_changed_corpus_changes_the_counts_of_all() {
    let program = corpus(14);
    program.ok(&["run", "graph.yaml", "--processes", "2"]);
    std::fs::remove_file(program.path("audio/track_003.wav")).expect("it was there");
    program::write_wav(&program.path("audio/track_005.wav"), 16_000, 9.0, 77);
    program::write_wav(&program.path("audio/newcomer.wav"), 16_000, 4.0, 78);
    let incremental = program.json(&["run", "graph.yaml", "--processes", "2"]);
    let cache = program.cache();
    let cached = incremental["nodes"][5]["shards_cached"].as_u64().expect("a count");
    assert!(cached > 0 && cached < incremental["shards"].as_u64().expect("a count"), "{incremental}");
    program.clear();
    let fresh = program.json(&["run", "graph.yaml"]);
    assert!(program.cache() == cache);
    assert_eq!(incremental["codebooks"], fresh["codebooks"]);
}

#[test]
fn caches_may_be_on_disks_that_the_others_do_not_see() {
    let program = corpus(12);
    let expected = program.json(&["run", "graph.yaml"]);
    let all = program.cache();
    program.clear();
    edit(&program, |graph| graph.replace("cache: cache", "cache: \"${OWN_CACHE:-cache}\""));
    let run = || {
        hosts(&program, 2);
        let start = |process: usize| {
            member(&program, process).env("OWN_CACHE", format!("cache/{process}")).spawn().expect("it starts")
        };
        let ended = [start(0), start(1)].map(end);
        assert!(ended.iter().all(|(code, _)| *code == Some(0)), "{ended:?}");
        let summary = std::fs::read(program.runs().last().expect("a run").join("summary.json")).expect("a summary");
        serde_json::from_slice::<serde_json::Value>(&summary).expect("JSON")
    };
    assert_eq!(essence(&run()), essence(&expected));
    let folder = program.runs().last().expect("a run").clone();
    assert!(folder.join("live-1.jsonl").is_file(), "the second process was told where to be seen");
    let files: BTreeMap<String, Vec<u8>> = program.cache();
    let plain = |name: &String| name.split_once('/').expect("of a process").1.to_owned();
    let union: BTreeMap<String, Vec<u8>> = files.iter().map(|(name, bytes)| (plain(name), bytes.clone())).collect();
    assert!(union == all && files.len() == all.len(), "every shard is in one of the caches");
    let share = files.keys().filter(|name| name.starts_with("0/")).count();
    assert!((2 * share).abs_diff(files.len()) <= 1, "{share} of {}", files.len());
    // Each goes on with what it has.
    let warm = run();
    assert_eq!(warm["nodes"][5]["shards_cached"], warm["shards"]);
    assert_eq!(warm["codebooks"], expected["codebooks"]);
    assert_eq!(warm["rejects"], expected["rejects"]);
}

#[test]
fn what_sees_the_whole_corpus_sees_it_in_the_first_process() {
    let program = corpus(9);
    let add = "  plain: {stage: features, from: crops, params: {views: {mel: {}}, normalize: none}}\n  sums:\n    stage: \
               statistics\n    from: plain\n    params: {to: sums}\n";
    edit(&program, |graph| graph + add);
    let alone = program.json(&["run", "graph.yaml"]);
    let statistics = std::fs::read(program.path("sums/statistics.json")).expect("statistics");
    for processes in ["2", "3"] {
        program.clear();
        std::fs::remove_dir_all(program.path("sums")).expect("it was there");
        let together = program.json(&["run", "graph.yaml", "--processes", processes]);
        assert_eq!(essence(&together), essence(&alone));
        assert!(std::fs::read(program.path("sums/statistics.json")).expect("statistics") == statistics, "in order");
    }
    // Audio stays where it is.
    let waveform =
        "  waves:\n    stage: features\n    from: crops\n    params: {views: {waveform: {}}, normalize: none}\n";
    edit(&program, |graph| graph.replace("from: plain\n", "from: waves\n") + waveform);
    let output = program.output(&["run", "graph.yaml", "--processes", "2"]);
    let expected = "\nerror: --processes: node `sums` sees the whole corpus, in the first process, and its input `waves` is \
                    audio, which never goes over the network: run this graph in one process\n";
    let stderr = text(&output.stderr);
    assert!(output.status.code() == Some(2) && stderr.ends_with(expected), "{stderr}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_lost_process_ends_all_and_the_next_run_heals() {
    let program = corpus(200);
    program.ok(&["run", "graph.yaml"]);
    let (cache, names) = (program.cache(), commits(&program, "cache"));
    for (victim, signal_name, code) in [(1, "-KILL", 1), (0, "-KILL", 1), (1, "-TERM", 130)] {
        program.clear();
        hosts(&program, 2);
        let mut children = [0, 1].map(|process| member(&program, process).spawn().expect("it starts"));
        wait_for_commits(&program, 4, &mut children[1 - victim]);
        signal(&children[victim], signal_name);
        let [first, second] = children.map(end);
        let (other_code, stderr) = if victim == 0 { &second } else { &first };
        assert_eq!(*other_code, Some(code), "{stderr}");
        if signal_name == "-KILL" {
            let expected = format!("error: process {victim} (127.0.0.1:");
            assert!(stderr.contains(&expected) && stderr.contains("has ended without a word"), "{stderr}");
        }
        let left = commits(&program, "cache").len();
        assert!(left < names.len(), "{left} of {} shards are committed", names.len());
        hosts(&program, 2);
        let ended = [0, 1].map(|process| member(&program, process).spawn().expect("it starts")).map(end);
        assert!(ended.iter().all(|(code, _)| *code == Some(0)), "{ended:?}");
        assert!(program.cache() == cache && commits(&program, "cache") == names);
        let left_over = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "tmp");
        assert!(!walk(&program.path("cache")).iter().any(left_over));
    }
}
