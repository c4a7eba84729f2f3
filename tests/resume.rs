//! Does a run that was stopped or killed lose or double anything?

mod program;

use std::time::{Duration, Instant};

use program::{Options, Program, walk};

#[test]
fn kill_9_at_any_point_loses_and_doubles_nothing() {
    let program = Program::new(&Options { tracks: 40, ..Options::default() });
    let started = Instant::now();
    program.ok(&["run", "graph.yaml"]);
    let whole = started.elapsed();
    let expected = program.cache();
    program.clear();
    // Later and later, from before the first file is opened to about the last shard; SIGKILL cannot be caught.
    let mut survivors = 0;
    for twentieth in 1..25 {
        let mut child = program.spawn(&["run", "graph.yaml"]);
        std::thread::sleep(whole * twentieth / 20);
        let _gone = child.kill();
        child.wait().expect("it has ended");
        for (name, bytes) in
            program.cache().into_iter().filter(|(name, _)| !name.contains("tmp") && !name.contains("/."))
        {
            assert!(expected.get(&name) == Some(&bytes), "{name} is not what an undisturbed run writes");
            survivors += 1;
        }
    }
    assert!(survivors > 0, "no shard was ever committed before a kill");
    program.ok(&["run", "graph.yaml"]);
    assert!(program.cache() == expected, "the healed cache differs");
    let stray: Vec<_> = walk(&program.path("cache"))
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("tmp")))
        .collect();
    assert!(stray.is_empty(), "{stray:?}");
}

#[test]
#[cfg(unix)]
fn sigterm_commits_and_resume_continues_with_the_same_bits() {
    let program = Program::new(&Options { train: true, steps: 60, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let straight = program.last_below(&program.runs()[0], "model.safetensors");
    program.clear();
    let mut child = program.spawn(&["run", "graph.yaml"]);
    let checkpoints = || walk(&program.path("runs")).iter().filter(|path| path.ends_with("model.safetensors")).count();
    while checkpoints() < 2 && child.try_wait().expect("the child can be asked").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let killed = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    let ended = child.wait().expect("it ends");
    // On a slow machine it may have been through before the signal came; then there is nothing to resume.
    if killed.is_ok_and(|status| status.success()) && ended.code() == Some(130) {
        let run = program.runs()[0].display().to_string();
        program.ok(&["run", "graph.yaml", "--resume", &run]);
    }
    assert!(program.last_below(&program.runs()[0], "model.safetensors") == straight);
}

#[test]
#[cfg(unix)]
fn a_killed_training_continues_from_its_last_checkpoint_with_the_same_bits() {
    let program = Program::new(&Options { train: true, steps: 60, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let straight = program.last_below(&program.runs()[0], "model.safetensors");
    program.clear();
    let mut child = program.spawn(&["run", "graph.yaml"]);
    let checkpoints = || walk(&program.path("runs")).iter().filter(|path| path.ends_with("state.json")).count();
    while checkpoints() < 3 && child.try_wait().expect("the child can be asked").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _gone = child.kill();
    child.wait().expect("it has ended");
    let run = program.runs()[0].display().to_string();
    program.ok(&["run", "graph.yaml", "--resume", &run]);
    assert!(program.last_below(&program.runs()[0], "model.safetensors") == straight);
}
