//! Do dependencies point inward only? Pure maths < stages < pipeline < render.

use std::path::{Path, PathBuf};

/// All Rust files below a folder.
fn sources(folder: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Lines of code below `folder` that name one of `words` as a path, `file:line: code`. Comments and tests at the end
/// of a file may name what they like.
fn mentions(folder: &str, words: &[&str], except: impl Fn(&Path) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(folder).into_iter().filter(|path| !except(path)) {
        let text = std::fs::read_to_string(&path).expect("readable");
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (index, line) in code.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            if words.iter().any(|word| names(line, word)) {
                found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    found
}

/// Whether a line names a crate or module: `word::`, or `use word;`.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + word.len()..];
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        starts && (after.starts_with("::") || after.starts_with(';') || after.starts_with(" as "))
    })
}

fn none(_: &Path) -> bool {
    false
}

#[test]
fn pure_folders_know_no_arrow_no_files_of_columns_and_no_threads() {
    for folder in ["codec", "dsp", "encodec", "quantize", "model", "train", "probe", "score"] {
        let words =
            ["arrow", "parquet", "omar_schemas", "timely", "differential_dataflow", "std::thread", "crate::ops"];
        // Tests may play several processes by several threads.
        let tests = |path: &Path| path.ends_with("tests.rs");
        let found = mentions(&format!("stages/src/{folder}"), &words, tests);
        assert!(found.is_empty(), "pure maths reaches outward:\n{}", found.join("\n"));
    }
}

#[test]
fn stages_know_no_dataflow() {
    for folder in ["schemas/src", "stages/src"] {
        let found = mentions(folder, &["timely", "differential_dataflow", "omar_flow"], none);
        assert!(found.is_empty(), "stages reach outward:\n{}", found.join("\n"));
    }
    for manifest in ["schemas/Cargo.toml", "stages/Cargo.toml"] {
        let text = std::fs::read_to_string(manifest).expect("readable");
        assert!(!text.contains("timely") && !text.contains("differential"), "{manifest} depends on the dataflow");
    }
}

#[test]
fn only_render_knows_timely() {
    let render = |path: &Path| path.starts_with("pipeline/src/render");
    let found = mentions("pipeline/src", &["timely", "differential_dataflow"], render);
    assert!(found.is_empty(), "timely outside of render/:\n{}", found.join("\n"));
}

#[test]
fn a_path_is_recognised_and_a_word_is_not() {
    assert!(names("use timely::dataflow::Scope;", "timely"));
    assert!(names("    std::thread::spawn(", "std::thread"));
    assert!(!names("let untimely::x", "timely") && !names("a timely answer", "timely"));
}
