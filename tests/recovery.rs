//! Whatever breaks, nothing that was committed is lost or doubled, and the next run heals what it finds.

mod program;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use program::{Options, Program, text, walk};

/// A corpus in shards of two recordings.
fn corpus(tracks: usize, train: bool) -> Program {
    let program = Program::new(&Options { tracks, train, steps: 20 });
    edit(&program, |graph| graph.replace("seed: 7\n", "seed: 7\nflow: {shard_tracks: 2}\n"));
    program
}

fn edit(program: &Program, change: impl FnOnce(String) -> String) {
    let graph = std::fs::read_to_string(program.path("graph.yaml")).expect("it was written");
    std::fs::write(program.path("graph.yaml"), change(graph)).expect("it can be written");
}

fn shards(program: &Program) -> Vec<PathBuf> {
    let mut files = walk(&program.path("cache"));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
    files.sort();
    files
}

/// The records of committed shards.
fn commits(program: &Program) -> BTreeSet<PathBuf> {
    let mut files = walk(&program.path("cache"));
    files.retain(|path| {
        let record = path.extension().is_some_and(|extension| extension == "json");
        record && path.parent().is_some_and(|folder| folder.ends_with("_commits"))
    });
    files.into_iter().collect()
}

fn temporaries(program: &Program) -> Vec<PathBuf> {
    walk(&program.path("cache")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "tmp")).collect()
}

/// A run that is killed after some milliseconds; whether it was still at work.
fn killed(program: &Program, after: u64, more: &[&str]) -> bool {
    let mut child = program.spawn(&[&["run", "graph.yaml"][..], more].concat());
    std::thread::sleep(Duration::from_millis(after));
    let at_work = child.try_wait().expect("it can be asked").is_none();
    let _gone = child.kill();
    child.wait().expect("it ends");
    at_work
}

/// `OMAR_KILLS` says how often (8 by default), e.g. 200.
#[test]
fn killed_again_and_again_a_run_gets_done_and_every_row_is_there_once() {
    let kills: u64 = std::env::var("OMAR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let program = corpus(if kills > 50 { 1000 } else { 120 }, false);
    program.ok(&["run", "graph.yaml"]);
    let (cache, records) = (program.cache(), commits(&program));
    program.clear();
    let (mut state, mut at_work, mut grown) = (kills | 1, 0, BTreeSet::new());
    for kill in 0..kills {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let more: &[&str] = if kill % 4 == 3 { &["--processes", "2"] } else { &[] };
        at_work += usize::from(killed(&program, 20 + (state >> 33) % 180, more));
        let now = commits(&program);
        assert!(now.is_superset(&grown), "a commit is lost");
        grown = now;
        if grown.len() == records.len() {
            program.clear();
            grown.clear();
        }
    }
    assert!(at_work > 0, "every run was done before it could be killed");
    // Processes that lost their first end within seconds; only then is the cache free.
    let again = || program.output(&["run", "graph.yaml"]);
    let mut last = again();
    for _ in 0..60 {
        if last.status.success() {
            break;
        }
        assert!(text(&last.stderr).contains("is being written by"), "{}", text(&last.stderr));
        std::thread::sleep(Duration::from_millis(500));
        last = again();
    }
    assert!(program.cache() == cache && commits(&program) == records, "the cache is not that of a run in peace");
    assert!(temporaries(&program).is_empty(), "{:?}", temporaries(&program));
}

#[test]
fn a_broken_shard_is_noticed_and_made_again() {
    let program = corpus(8, true);
    program.ok(&["run", "graph.yaml"]);
    let cache = program.cache();
    let files = shards(&program);
    // Bits that flip, a file that is cut short, one that has gone, and a record that is no JSON.
    let mut bytes = std::fs::read(&files[0]).expect("a shard");
    // A page of rows: the footer, most of so small a file, is looked at anyway.
    bytes[40] ^= 0x10;
    std::fs::write(&files[0], bytes).expect("it can be written");
    let bytes = std::fs::read(&files[1]).expect("a shard");
    std::fs::write(&files[1], &bytes[..bytes.len() / 2]).expect("it can be written");
    std::fs::remove_file(&files[2]).expect("it was there");
    let record = commits(&program).into_iter().next_back();
    std::fs::write(record.expect("a record"), "{").expect("it can be written");
    let output = program.output(&["run", "graph.yaml"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("has other bytes than were committed: made again"), "{stderr}");
    assert!(program.cache() == cache, "not healed");
}

#[test]
#[cfg(unix)]
fn a_full_disk_ends_the_run_with_a_reason_and_the_next_one_goes_on() {
    let program = corpus(40, false);
    program.ok(&["run", "graph.yaml"]);
    let (cache, records) = (program.cache(), commits(&program));
    program.clear();
    // No file may be longer than a block: what a full disk says, at a place of our choice.
    let command = format!("trap '' XFSZ; ulimit -f 1; exec '{}' run graph.yaml", env!("CARGO_BIN_EXE_omar-flow"));
    let limited = Command::new("sh").args(["-c", &command]).current_dir(program.path("")).output().expect("a shell");
    let stderr = text(&limited.stderr);
    assert_eq!(limited.status.code(), Some(1), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("File too large"), "{stderr}");
    program.ok(&["run", "graph.yaml"]);
    assert!(program.cache() == cache && commits(&program) == records && temporaries(&program).is_empty());
}

#[test]
fn what_cannot_be_written_is_said_before_anything_is_computed() {
    let program = corpus(2, false);
    edit(&program, |graph| graph.replace("cache: cache", "cache: audio/track_000.wav/cache"));
    let output = program.output(&["run", "graph.yaml"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("error: node `tokens`: ") && stderr.contains("audio/track_000.wav/cache"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn two_runs_do_not_write_one_cache_at_a_time() {
    let program = corpus(300, false);
    let mut first = program.spawn(&["run", "graph.yaml"]);
    let first_id = first.id().to_string();
    while shards(&program).is_empty() {
        assert!(first.try_wait().expect("it can be asked").is_none(), "it ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
    // The first one holds still meanwhile.
    let signal = |name: &str| {
        assert!(Command::new("kill").args([name, &first_id]).status().expect("kill runs").success());
    };
    signal("-STOP");
    let second = program.command(&["run", "graph.yaml"]).stderr(Stdio::piped()).output().expect("it ends");
    signal("-CONT");
    let stderr = text(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    let owner = format!("is being written by process {} on ", first.id());
    assert!(stderr.contains(&owner) && stderr.contains("(run `runs/test-"), "{stderr}");
    assert!(first.wait().expect("it ends").success());
    program.ok(&["run", "graph.yaml"]);
}

#[test]
fn an_input_that_vanishes_is_quarantined_and_back_it_is_used() {
    let program = corpus(12, false);
    let whole = program.json(&["run", "graph.yaml"]);
    let cache = program.cache();
    program.clear();
    std::fs::rename(program.path("audio"), program.path("elsewhere")).expect("it was there");
    let output = program.output(&["run", "graph.yaml"]);
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("there is no folder `audio`"), "{}", text(&output.stderr));
    std::fs::create_dir(program.path("audio")).expect("it can be made");
    for track in 0..12 {
        let name = format!("audio/track_{track:03}.wav");
        // The names are there, what they lead to is not.
        #[cfg(unix)]
        std::os::unix::fs::symlink("nowhere", program.path(&name)).expect("a link");
    }
    let output = program.output(&["run", "graph.yaml"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("12 io"), "{}", text(&output.stdout));
    std::fs::remove_dir_all(program.path("audio")).expect("links");
    std::fs::rename(program.path("elsewhere"), program.path("audio")).expect("it was there");
    let back = program.json(&["run", "graph.yaml"]);
    assert!(program.cache() == cache);
    assert_eq!((&back["rejected"], &back["tracks"]), (&whole["rejected"], &whole["tracks"]));
}
