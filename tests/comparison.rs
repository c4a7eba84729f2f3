//! A table of encoders by tasks: figures where they can be had, named holes elsewhere.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod program;

use std::fs;
use std::path::Path;

use arrow::array::{Array, Float64Array, StringArray};
use omar_schemas::column;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{Options, Program, text};

const TABLE: &str = r#"
omar: 1
name: small
compare:
  set: {"nodes.{until}.params.repeats": 1}
  jobs: 2
  protocol: "${PROTOCOL:-short}"
  protocols:
    short: {about: to look at, set: {"nodes.{until}.params.training.steps": 20}, columns: {pitch: {"nodes.{until}.params.hidden": 32}}}
    long: {about: as the graphs say}
  columns:
    - {task: tagging, graph: ROOT/configs/eval_tagging.yaml, data: gone, help: "ask the authors"}
    - {task: pitch, graph: ROOT/configs/eval_pitch.yaml, data: ROOT/examples/benchmark/nsynth}
  rows:
    - {name: a network, model: ROOT/examples/encoders/omar-rq, paper: OMAR-RQ base}
    - {name: to come, model: models/later}
    - {name: not for it, model: models/later, without: {pitch: too slow}}
    - {name: broken, model: models/broken}
"#;

fn program() -> Program {
    let program = Program::new(&Options { tracks: 0, ..Options::default() });
    fs::write(program.path("table.yaml"), TABLE.replace("ROOT", env!("CARGO_MANIFEST_DIR"))).unwrap();
    fs::create_dir_all(program.path("models/broken")).unwrap();
    let manifest = format!("{}/examples/encoders/mert/manifest.json", env!("CARGO_MANIFEST_DIR"));
    let manifest = fs::read_to_string(manifest).unwrap();
    let manifest: String = manifest.lines().filter(|line| !line.contains("random_seed")).collect();
    fs::write(program.path("models/broken/manifest.json"), manifest).unwrap();
    fs::write(program.path("models/broken/model.safetensors"), "half a downl").unwrap();
    program
}

/// Status and value of every cell.
fn cells(folder: &Path) -> Vec<(String, String, String, Option<f64>)> {
    let file = fs::File::open(folder.join("results.parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let mut cells = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let words = |name| column::<StringArray>(&batch, name).unwrap();
        let values = column::<Float64Array>(&batch, "value").unwrap();
        for row in 0..batch.num_rows() {
            let word = |name| words(name).value(row).to_owned();
            let value = values.is_valid(row).then(|| values.value(row));
            cells.push((word("representation"), word("task"), word("status"), value));
        }
    }
    cells
}

#[test]
fn a_cell_is_a_figure_or_says_why_it_is_none() {
    let program = program();
    let out = program.ok(&["plan", "table.yaml"]);
    assert!(out.contains("hole: no data at `gone`; ask the authors"), "{out}");
    assert!(out.contains("hole: too slow") && out.contains("--until of_trained --set"), "{out}");
    assert!(program.ok(&["validate", "table.yaml"]).contains("4 encoders by 2 tasks, 1 graphs checked"));

    let output = program.output(&["run", "table.yaml", "--run-folder", "made"]);
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    // What is missing is no failure, what is broken is one, and neither keeps the others from their figures.
    assert_eq!(output.status.code(), Some(1), "{printed}\n{said}");
    assert!(printed.contains("no model at `models/later`: `omar-flow import DOWNLOAD --to models/later`"), "{printed}");
    assert!(printed.contains("model.safetensors"), "the broken file is named: {printed}");
    assert!(said.contains("1 figures"), "{said}");
    let found = cells(&program.path("made"));
    let status = |row: &str, task: &str| {
        let cell = found.iter().find(|cell| cell.0 == row && cell.1 == task).unwrap();
        (cell.2.clone(), cell.3)
    };
    assert!(matches!(status("a network", "pitch"), (status, Some(value)) if status == "figure" && value > 0.0));
    assert_eq!(status("a network", "tagging"), ("missing".to_owned(), None));
    assert_eq!(status("to come", "pitch"), ("missing".to_owned(), None));
    assert_eq!(status("not for it", "pitch"), ("without".to_owned(), None));
    assert_eq!(status("broken", "pitch"), ("failed".to_owned(), None));

    let page = fs::read_to_string(program.path("made/table.html")).unwrap();
    assert!(page.contains("paper 0.892") && page.contains("too slow"), "{page}");
    // A figure says by which protocol it was made, and what that came to.
    assert!(printed.contains("protocol `short`: to look at"), "{printed}");
    assert!(page.contains("Made by protocol `short`: to look at."), "{page}");
    let table = fs::read_to_string(program.path("made/table.md")).unwrap();
    assert!(table.contains("| short | 20 updates of 32, 32 wide | standard |"), "{table}");
    let again = program.ok(&["compare", "made", "--markdown", "--paper", "--out", "copy"]);
    assert!(again.contains("| MusicFM-FMA (paper) |"), "{again}");
    assert_eq!(cells(&program.path("copy")), found);
    assert!(fs::read_to_string(program.path("copy/table.html")).unwrap() == page, "the copy is another page");
}

#[test]
fn a_protocol_changes_every_graph_and_single_ones() {
    let program = program();
    let plan = |protocol: &str| {
        let output = program.command(&["plan", "table.yaml"]).env("PROTOCOL", protocol).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let short = plan("short");
    assert!(
        short.contains("training.steps=20") && short.contains("--set nodes.of_trained.params.hidden=32"),
        "{short}"
    );
    let long = plan("long");
    assert!(!long.contains("training.steps") && !long.contains("hidden"), "{long}");
    assert!(long.contains("repeats=1"), "what is said of all protocols holds for each: {long}");
}

/// The shipped table binds by each of its protocols.
#[test]
fn the_shipped_table_can_be_made_by_every_protocol() {
    for protocol in ["quick", "graphs", "published"] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_omar-flow"))
            .args(["validate", "configs/table4.yaml"])
            .env("PROTOCOL", protocol)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success() && out.contains("6 graphs checked"), "{protocol}: {out}{err}");
    }
}

#[test]
fn mistakes_in_a_table_are_shown_where_they_are() {
    let program = program();
    let table = fs::read_to_string(program.path("table.yaml")).unwrap();
    for (old, new, expected) in [
        ("task: pitch,", "task: pitches,", "there is no task `pitches`"),
        ("paper: OMAR-RQ base", "paper: OMAR", "the paper's table 4 has no `OMAR`"),
        ("name: to come", "name: broken", "`broken` is there twice"),
        ("model: models/later}", "modell: x}", "unknown key `modell` in a row"),
        ("eval_pitch.yaml", "eval_peach.yaml", "there is no graph `"),
        ("omar: 1", "omar: 2", "this program reads graphs of format 1"),
        ("{pitch: too slow}", "too slow", "`without` must be tasks with why they are left out"),
        ("jobs: 2", "jobs: many", "`jobs` must be a whole number from 1 to 64"),
        ("${PROTOCOL:-short}", "shirt", "there is no protocol `shirt`"),
        ("  protocol: \"${PROTOCOL:-short}\"\n", "", "there are `protocols`, and none is chosen"),
        ("about: to look at,", "", "`about` is missing"),
        ("columns: {pitch: {", "columns: {peach: {", "unknown key `peach` in `columns` of a protocol"),
    ] {
        fs::write(program.path("wrong.yaml"), table.replace(old, new)).unwrap();
        let output = program.output(&["validate", "wrong.yaml"]);
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.contains(expected) && message.contains("--> wrong.yaml:"), "{message}");
    }
    let output = program.output(&["run", "table.yaml", "--direct"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--direct is for graphs"));
}
