//! Do `cache ls`, `gc` and `verify` tell what is there, and touch only what is ours and of no use?

mod program;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use program::{Options, Program, text, walk};
use serde_json::Value;

const OTHER: &str = "nodes.tokens.params.quantizer.random_projection.codebook_size=32";

/// The folders of nodes in the cache.
fn folders(program: &Program) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(program.path("cache")).expect("a cache").map(|entry| entry.expect("an entry").path()).collect();
    folders.sort();
    folders
}

/// The folder that the graph of the tests uses, and the one that nobody uses.
fn used_and_unused(program: &Program) -> (PathBuf, PathBuf) {
    let listed = program.json(&["cache", "ls", "graph.yaml"]);
    let find = |used: bool| {
        let mut entries = listed.as_array().expect("a list").iter();
        let entry = entries.find(|entry| entry["used_by"].is_string() == used).expect("one of each");
        program.path(entry["folder"].as_str().expect("a path"))
    };
    (find(true), find(false))
}

fn two_caches() -> Program {
    let program = Program::new(&Options::default());
    program.ok(&["run", "graph.yaml"]);
    program.ok(&["run", "graph.yaml", "--set", OTHER]);
    program
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = walk(folder).iter().map(|path| path.display().to_string()).collect();
    names.sort();
    names
}

#[test]
fn ls_says_what_is_there_and_who_uses_it() {
    let program = two_caches();
    let summary = program.json(&["run", "graph.yaml"]);
    let listed = program.json(&["cache", "ls", "graph.yaml"]);
    let entry = listed.as_array().expect("a list").iter().find(|entry| entry["used_by"] == "test: tokens");
    let entry = entry.unwrap_or_else(|| panic!("nobody uses {listed:#}"));
    assert_eq!((entry["shards"].as_u64(), entry["stage"].as_str()), (summary["shards"].as_u64(), Some("tokenize")));
    assert!(
        entry["rows"].as_u64() > Some(0)
            && entry["bytes"].as_u64() > Some(0)
            && entry["leftovers"] == Value::Array(vec![])
    );
    let shown = program.ok(&["cache", "ls", "graph.yaml"]);
    assert!(
        shown.contains("\n2 caches, ") && shown.contains("; 1 of them (") && shown.contains("test: tokens"),
        "{shown}"
    );
    // A folder above a cache, and the folder of a node, will do as well.
    for target in [".", "cache", &folders(&program)[0].display().to_string()] {
        assert!(program.ok(&["cache", "ls", target]).contains("tokenize"), "{target}");
    }
    assert_eq!(program.ok(&["cache", "ls", "audio"]), "no caches\n");
    let output = program.output(&["cache", "ls", "cash"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("`cash` does not exist: expected a graph or a folder"));
}

#[test]
fn gc_removes_what_no_graph_uses_and_only_when_told_to() {
    let program = two_caches();
    let (used, unused) = used_and_unused(&program);
    let before = program.cache();
    let said = program.ok(&["cache", "gc", "graph.yaml"]);
    assert!(said.contains("tokens, ") && said.contains("would be removed; `--yes` does it"), "{said}");
    assert_eq!(program.cache(), before);
    let done = program.json(&["cache", "gc", "graph.yaml", "--yes"]);
    assert_eq!((done["done"].as_bool(), done["folders"].as_array().map(Vec::len)), (Some(true), Some(1)));
    assert!(!unused.exists() && used.exists());
    assert_eq!(program.ok(&["cache", "gc", "graph.yaml", "--yes"]), "nothing to remove\n");
    let summary = program.json(&["run", "graph.yaml"]);
    let tokens = summary["nodes"].as_array().expect("nodes").iter().find(|node| node["node"] == "tokens");
    assert_eq!(tokens.expect("tokens")["rows_out"], 0, "what is used was kept");
    let output = program.output(&["cache", "gc", "cache", "--yes"]);
    assert_eq!(output.status.code(), Some(2), "without a graph everything would be unused");
    assert!(text(&output.stderr).contains("none is named") && used.exists());
}

#[test]
fn gc_leaves_what_is_not_ours_and_clears_what_the_dead_left() {
    let program = two_caches();
    let (used, unused) = used_and_unused(&program);
    // Looks like ours, and is not.
    let strange = program.path("cache/0123456789ab");
    fs::create_dir_all(strange.join("_commits")).expect("made");
    fs::write(strange.join("s-0-01234567.parquet"), "mine").expect("written");
    let renamed = program.path("cache/renamed");
    fs::create_dir_all(renamed.join("_commits")).expect("made");
    fs::copy(used.join("_node.json"), renamed.join("_node.json")).expect("copied");
    #[cfg(unix)]
    std::os::unix::fs::symlink(&unused, program.path("cache/link")).expect("linked");
    fs::write(unused.join("notes.txt"), "mine").expect("written");
    let dead = [used.join(".s-0-01234567.parquet.1.0.tmp"), used.join("s-0-01234567.parquet")];
    dead.iter().for_each(|path| fs::write(path, "half").expect("written"));
    let kept = [names(&strange), names(&renamed)];
    let said = program.ok(&["cache", "gc", "graph.yaml", "--yes"]);
    assert!(said.contains("  stays for what is not ours: ") && said.contains("notes.txt\n"), "{said}");
    assert!(said.contains("2 files that no shard needs"), "{said}");
    assert_eq!(names(&unused).len(), 3, "{:?}", names(&unused));
    assert!(unused.join("notes.txt").exists() && dead.iter().all(|path| !path.exists()));
    assert_eq!([names(&strange), names(&renamed)], kept);
    assert!(program.ok(&["cache", "verify", "cache"]).contains("every byte is what was committed"));
}

#[test]
fn what_a_run_holds_stays() {
    let program = two_caches();
    let (_, unused) = used_and_unused(&program);
    let before = program.cache();
    let held = File::open(unused.join("_lock")).expect("a lock");
    held.lock_shared().expect("nobody holds it");
    for extra in [&[][..], &["--yes"]] {
        let output = program.output(&[&["cache", "gc", "graph.yaml"], extra].concat());
        assert!(text(&output.stderr).contains("is left as it is: held by process "), "{}", text(&output.stderr));
        assert_eq!(output.status.success(), extra.is_empty());
    }
    assert_eq!(program.cache(), before);
    drop(held);
    program.ok(&["cache", "gc", "graph.yaml", "--yes"]);
    assert!(!unused.exists());
}

#[test]
fn verify_finds_every_flipped_bit_and_repair_makes_the_next_run_heal_it() {
    let program = Program::new(&Options { tracks: 30, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let good = program.cache();
    assert!(program.ok(&["cache", "verify", "graph.yaml"]).contains("every byte is what was committed"));
    let (name, bytes) = good.iter().next().expect("a shard");
    let path = program.path("cache").join(name);
    let mut bad = bytes.clone();
    bad[bytes.len() / 2] ^= 1;
    fs::write(&path, &bad).expect("written");
    let output = program.output(&["cache", "verify", "graph.yaml"]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("corrupt: cache/{name} (tokens): has hash ")) && said.contains("1 corrupt; `--repair`"),
        "{said}"
    );
    let found: Value =
        serde_json::from_slice(&program.output(&["cache", "verify", "cache", "--json"]).stdout).expect("JSON");
    assert_eq!(
        (found["corrupt"].as_array().map(Vec::len), &found["corrupt"][0]["repaired"]),
        (Some(1), &Value::Bool(false))
    );
    assert!(program.ok(&["cache", "verify", "cache", "--repair"]).contains("the next run computes it again"));
    let summary = program.json(&["run", "graph.yaml"]);
    let tokens = summary["nodes"].as_array().expect("nodes").iter().find(|node| node["node"] == "tokens");
    assert_eq!(tokens.expect("tokens")["shards_committed"], 1, "that shard and no other");
    assert_eq!(program.cache(), good);

    // A file that is gone, one that is cut, and a record that is no record.
    let paths: Vec<PathBuf> = good.keys().map(|name| program.path("cache").join(name)).collect();
    fs::remove_file(&paths[0]).expect("removed");
    fs::write(&paths[1], &good.values().nth(1).expect("a shard")[..100]).expect("written");
    let records = paths[2].parent().expect("a folder").join("_commits");
    fs::write(records.join(paths[2].file_name().expect("a name")).with_extension("json"), "{").expect("written");
    let output = program.output(&["cache", "verify", "graph.yaml"]);
    let said = text(&output.stdout);
    for words in ["is missing", "has 100 bytes, expected ", "the commit record cannot be parsed", "3 corrupt"] {
        assert!(said.contains(words), "no `{words}` in\n{said}");
    }
    program.ok(&["cache", "verify", "graph.yaml", "--repair"]);
    program.ok(&["run", "graph.yaml"]);
    assert_eq!(program.cache(), good);
}
