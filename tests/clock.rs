//! Does anything but names depend on the time of day? It is set back and forth by days while a run goes on.

#![cfg(target_os = "linux")]

mod program;

use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Options, Program, walk};

/// A library that comes before the C library's: every look at the time of day gives another day.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <time.h>
typedef int (*look)(clockid_t, struct timespec *);
static atomic_uint looks;
int clock_gettime(clockid_t id, struct timespec *now) {
    static _Atomic(look) real;
    if (!real) real = (look)dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec += 86400L * ((int)(atomic_fetch_add(&looks, 1) * 7 % 41) - 20);
    return result;
}
"#;

/// Compiles it; building omar-flow takes a C compiler, too.
fn shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SHIM).expect("it can be written");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut build = Command::new(compiler);
    build.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(build.status().expect("a C compiler").success());
    library
}

fn model(program: &Program) -> Vec<u8> {
    let files = walk(program.runs().last().expect("a run"));
    let last = files.into_iter().filter(|path| path.ends_with("model.safetensors")).max().expect("a checkpoint");
    std::fs::read(last).expect("weights")
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let program = Program::new(&Options { train: true, ..Options::default() });
    let shim = shim(&program.path(""));
    let date = |shim: &str| {
        let seconds = Command::new("date").arg("+%s").env("LD_PRELOAD", shim).output().expect("the time").stdout;
        String::from_utf8_lossy(&seconds).trim().parse::<i64>().expect("seconds")
    };
    assert!((date("") - date(&shim.display().to_string())).abs() > 80_000, "the library sets the clock");
    program.ok(&["run", "graph.yaml"]);
    let (cache, weights) = (program.cache(), model(&program));
    for processes in ["1", "2"] {
        program.clear();
        let jump = |more: &[&str]| {
            let mut command = program.command(&[&["run", "graph.yaml", "--processes", processes], more].concat());
            let output = command.env("LD_PRELOAD", &shim).output().expect("it runs");
            assert!(output.status.success(), "{}", program::text(&output.stderr));
        };
        // Stopped in the middle, and begun again on what is there.
        jump(&["--until", "tokens", "--limit", "5"]);
        jump(&["--until", "tokens"]);
        assert!(program.cache() == cache, "{processes}: the cache is another one");
        jump(&["--run-folder", "runs/z"]);
        assert!(processes == "2" || model(&program) == weights, "the weights are others");
        let picture = program.json(&["top", "runs/z"]);
        assert_eq!(picture["state"], "complete");
        assert!(picture["elapsed_s"].as_f64().is_some_and(|seconds| (0.0..3600.0).contains(&seconds)), "{picture:#}");
        assert!(program.ok(&["explain", "runs/z"]).contains("model"));
    }
}
