//! Does the schema for editors take what the program takes, and refuse what it refuses?

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod json_schema;
mod program;

use std::fs;
use std::path::Path;
use std::process::Command;

use program::{text, walk};
use serde_json::Value;

fn schema() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_omar-flow")).arg("schema").output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What an editor sees: the file as it stands, variables and merge keys unresolved.
fn written(yaml: &str) -> Value {
    serde_yaml::from_str(yaml).unwrap()
}

#[test]
fn every_shipped_file_fits_the_schema() {
    let (schema, root) = (schema(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let files = walk(&root.join("configs"));
    assert!(files.len() >= 16 && files.contains(&root.join("configs/table4.yaml")));
    for file in files {
        let complaints = json_schema::complaints(&schema, &written(&fs::read_to_string(&file).unwrap()));
        assert!(complaints.is_empty(), "{}:\n{}", file.display(), complaints.join("\n"));
    }
}

#[test]
fn a_mistake_in_a_table_is_one_for_the_editor_and_for_the_program() {
    let (schema, root) = (schema(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let table = fs::read_to_string(root.join("configs/table4.yaml")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("wrong.yaml");
    for (old, new, path) in [
        ("\ncompare:", "\ncomparre:", ""),
        ("\nname: table4", "\nnome: table4", "/nome"),
        ("\n  rows:", "\n  roes:", "/compare/roes"),
        ("\n  jobs: \"${JOBS:-auto}\"", "\n  jobs: several", "/compare/jobs"),
        ("task: tagging", "task: tags", "/compare/columns/0/task"),
        ("task: tagging, graph", "task: tagging, graf", "/compare/columns/0/graf"),
        ("model: models/mert-330m", "modell: models/mert-330m", "/compare/rows/5/modell"),
        ("paper: MERT-330M", "paper: MERT", "/compare/rows/5/paper"),
        ("without: &slow {beats:", "without: &slow {beat:", "/compare/rows/7/without/beat"),
        ("      about: one", "      abaut: one", "/compare/protocols/quick/abaut"),
        ("        beats:\n", "        beets:\n", "/compare/protocols/quick/columns/beets"),
    ] {
        assert_eq!(table.matches(old).count(), 1, "`{old}` is there once");
        let yaml = table.replace(old, new);
        let complaints = json_schema::complaints(&schema, &written(&yaml));
        assert!(complaints.iter().any(|complaint| complaint.starts_with(&format!("{path}:"))), "{new}: {complaints:?}");
        fs::write(&wrong, &yaml).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_omar-flow"));
        let output = command.arg("validate").arg(&wrong).current_dir(root).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{new}: {}", text(&output.stderr));
    }
}

#[test]
fn a_mistake_in_a_graph_is_one_for_the_editor_too() {
    let (schema, root) = (schema(), Path::new(env!("CARGO_MANIFEST_DIR")));
    let graph = fs::read_to_string(root.join("configs/quickstart.yaml")).unwrap();
    for (old, new) in [("\nnodes:", "\nnods:"), ("stage: crop,", "stage: crops,"), ("minibatch:", "minibach:")] {
        assert_eq!(graph.matches(old).count(), 1, "`{old}` is there once");
        let complaints = json_schema::complaints(&schema, &written(&graph.replace(old, new)));
        assert!(!complaints.is_empty(), "{new} passes");
    }
}
