//! Does an evaluation graph end in figures that are right, kept, compared, and made again only where something changed?

mod program;

use std::f64::consts::TAU;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{Array, Float64Array, RecordBatch, StringArray, UInt64Array};
use omar_schemas::column;
use omar_stages::storage::TrackFile;
use program::{Options, Program, write_samples};

const GRAPH: &str = "omar: 1
name: eval_pitch
seed: 3
nodes:
  tracks: {stage: files, params: {root: audio}}
  labels: {stage: dataset, params: {root: audio, sets: [{layout: generic, task: pitch, audio: audio, annotations: tracks.csv}]}}
  audio:  {stage: decode, from: tracks}
  mono:   {stage: resample, from: audio, params: {sample_rate: 16000}}
  crops:  {stage: crop, from: mono, params: {duration: 1s, policy: grid, min_duration: 200ms}}
  views:  {stage: features, from: crops, params: {views: {mel: {}, cqt: {}}}, cache: runs/views}
  probe:
    stage: probe
    from: {in: views, labels: labels}
    params:
      name: spectra
      layers: [cqt, mel+cqt]
      keep: runs/probes
      repeats: 2
      hidden: 64
      training: {steps: 300, batch: 16, lr: 3.0e-3, warmup: 30, dropout: 0.1}
";

/// Seconds of a note.
const SECONDS: f64 = 0.8;

/// A harmonic tone with a timbre of its own.
fn write_tone(path: &Path, midi: usize, timbre: usize) {
    let (rate, f0) = (16_000u32, 440.0 * 2f64.powf((midi as f64 - 69.0) / 12.0));
    let sample = |i: u32| {
        let time = f64::from(i) / f64::from(rate);
        let partial = |k: i32| (TAU * f0 * f64::from(k) * time).sin() / f64::from(k).powf(0.6 + 0.35 * timbre as f64);
        (1..8).map(partial).sum::<f64>() * 0.15 * (-time * (1.0 + timbre as f64)).exp()
    };
    write_samples(path, rate, &(0..(SECONDS * f64::from(rate)) as u32).map(sample).collect::<Vec<_>>());
}

/// Notes of 20 pitches and 5 timbres, of which one is for validation and one for the test.
fn program() -> Program {
    let program = Program::new(&Options { tracks: 0, ..Options::default() });
    let mut table = "path,split,label\n".to_owned();
    for timbre in 0..5 {
        let split = ["train", "train", "train", "valid", "test"][timbre];
        for midi in 50..70 {
            let name = format!("note_{timbre}_{midi}.wav");
            write_tone(&program.path(&format!("audio/{name}")), midi, timbre);
            writeln!(table, "{name},{split},{midi}").expect("text");
        }
    }
    fs::write(program.path("tracks.csv"), table).expect("written");
    fs::write(program.path("eval.yaml"), GRAPH).expect("written");
    program
}

/// The newest run folder.
fn newest(program: &Program) -> PathBuf {
    let entries = fs::read_dir(program.path("runs")).expect("runs");
    let mut runs: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    runs.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("eval_pitch-")));
    runs.sort();
    runs.pop().expect("a run")
}

/// `accuracy` on the test split of the first repeat, by layer.
fn accuracies(run: &Path) -> Vec<(String, f64)> {
    let file = TrackFile::open(&run.join("results.parquet")).expect("results");
    let batches: Vec<RecordBatch> = file.scan(None, None).expect("rows").map(|batch| batch.expect("rows")).collect();
    let mut found = Vec::new();
    for batch in &batches {
        let word = |name| column::<StringArray>(batch, name).expect("words");
        let (metric, split, layer, class) = (word("metric"), word("split"), word("layer"), word("class"));
        let value = column::<Float64Array>(batch, "value").expect("numbers");
        for row in (0..batch.num_rows()).filter(|row| class.is_null(*row)) {
            if metric.value(row) == "accuracy" && split.value(row) == "test" {
                found.push((layer.value(row).to_owned(), value.value(row)));
            }
        }
    }
    found
}

#[test]
fn figures_are_right_and_a_changed_annotation_costs_a_score_only() {
    let program = program();
    let printed = program.ok(&["run", "eval.yaml"]);
    for words in ["pitch, test split", "spectra", "accuracy", "top-5 accuracy"] {
        assert!(printed.contains(words), "{words}:\n{printed}");
    }
    let run = newest(&program);
    let first = accuracies(&run);
    assert_eq!(first.len(), 4, "two layers, two repeats: {first:?}");
    assert!(first.iter().all(|(_, accuracy)| *accuracy >= 0.9), "{first:?}");
    let page = fs::read_to_string(run.join("report.html")).expect("a report");
    for words in ["what was taken for what", "Coverage", "Validation while training", "The paper"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org").count());
    assert!(fs::read_to_string(run.join("results.md")).expect("tables").contains("## pitch (generic)"));
    let kept = || fs::read_dir(program.path("runs/probes")).expect("kept probes").count();
    assert_eq!(kept(), 4);

    // One wrong note in the test split: nothing is fitted or embedded again, one in twenty answers is wrong now.
    let table = fs::read_to_string(program.path("tracks.csv")).expect("a table");
    fs::write(program.path("tracks.csv"), table.replace("note_4_60.wav,test,60", "note_4_60.wav,test,61"))
        .expect("written");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let summary = program.json(&["run", "eval.yaml"]);
    let views = summary["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["node"] == "views"));
    assert_eq!(views.expect("a node")["shards_committed"], 0, "{summary:#}");
    assert_eq!(kept(), 4);
    let second = accuracies(&newest(&program));
    for ((layer, before), (_, after)) in first.iter().zip(&second) {
        assert!((before - after - 0.05).abs() < 1e-9, "{layer}: {before} {after}");
    }

    // One in the train split: its probes are fitted again.
    fs::write(program.path("tracks.csv"), table.replace("note_0_60.wav,train,60", "note_0_60.wav,train,61"))
        .expect("written");
    program.ok(&["run", "eval.yaml"]);
    assert_eq!(kept(), 8);

    let compared = program.ok(&["compare", &run.display().to_string(), "--paper", "--markdown"]);
    assert!(compared.contains("| spectra |") && compared.contains("OMAR-RQ base (paper) | 0.892"), "{compared}");
}

#[test]
fn the_loop_and_any_number_of_threads_give_the_same_figures() {
    let program = program();
    let results = |how: &[&str]| {
        let how = [&["run", "eval.yaml", "--set", "nodes.probe.params.keep=null"], how].concat();
        let summary = program.json(&how);
        let node = summary["nodes"].as_array().and_then(|nodes| nodes.iter().find(|node| node["node"] == "probe"));
        node.expect("the node is in the summary")["results"].clone()
    };
    let rows = results(&[]);
    for how in [&["--direct"][..], &["--threads", "1"]] {
        assert_eq!(results(how), rows, "{how:?}");
    }
}

#[test]
fn every_fold_is_run_in_one_graph() {
    let program = program();
    // Timbres are folds; the fifth is in the fold of the first.
    let notes =
        (0..5).flat_map(|timbre| (50..70).map(move |midi| format!("note_{timbre}_{midi}.wav\t{}\n", timbre % 4)));
    fs::write(program.path("four.split"), notes.collect::<String>()).expect("written");
    let folded = GRAPH.replace("annotations: tracks.csv", "annotations: tracks.csv, splits: four.split, fold: all");
    fs::write(program.path("folds.yaml"), &folded).expect("written");
    program.ok(&["run", "folds.yaml"]);
    let run = newest(&program);
    let file = TrackFile::open(&run.join("results.parquet")).expect("results");
    let batches: Vec<RecordBatch> = file.scan(None, None).expect("rows").map(|batch| batch.expect("rows")).collect();
    let rows = batches.iter().flat_map(|batch| {
        let fold = column::<UInt64Array>(batch, "fold").expect("folds");
        let [split, metric] = ["split", "metric"].map(|name| column::<StringArray>(batch, name).expect("words"));
        let n = column::<UInt64Array>(batch, "n").expect("counts");
        let of = |row: &usize| split.value(*row) == "test" && metric.value(*row) == "accuracy";
        (0..batch.num_rows()).filter(of).map(|row| (fold.value(row), n.value(row))).collect::<Vec<_>>()
    });
    let mut rows: Vec<(u64, u64)> = rows.collect();
    assert_eq!(rows.len(), 16, "four folds, two layers, two repeats: {rows:?}");
    rows.dedup();
    assert_eq!(rows, [(0, 40), (1, 20), (2, 20), (3, 20)]);
    let tables = fs::read_to_string(run.join("results.md")).expect("tables");
    assert!(tables.contains("Folds of spectra") && tables.contains("| 3 |"), "{tables}");
    assert!(fs::read_to_string(run.join("report.html")).expect("a report").contains("means over 4 folds"));

    fs::write(program.path("four.split"), "note_0_50.wav\ttrain\n").expect("written");
    let output = program.output(&["run", "folds.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("`all` wants folds, numbered from 0, in `four.split`, found none"), "{message}");
}

#[test]
fn what_is_missing_is_named() {
    let program = program();
    let table = fs::read_to_string(program.path("tracks.csv")).expect("a table");
    fs::write(program.path("tracks.csv"), table + "gone.wav,test,60\n").expect("written");
    program.ok(&["run", "eval.yaml", "--set", "nodes.probe.params.repeats=1"]);
    let run = newest(&program);
    let details = fs::read_to_string(run.join("probe/details.json")).expect("details");
    assert!(details.contains("gone.wav"), "{details}");
    let dataset = fs::read_to_string(run.join("labels/dataset.json")).expect("a description");
    assert!(dataset.contains("missing_audio"), "{dataset}");

    fs::write(program.path("strict.yaml"), GRAPH.replace("layout: generic,", "layout: generic, strict: true,"))
        .expect("written");
    let output = program.output(&["run", "strict.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("gone.wav"), "{message}");

    // Audio below another root has other names: nothing meets.
    let output = program.output(&["run", "eval.yaml", "--set", "nodes.labels.params.root=."]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("matched by their paths below the root"), "{message}");

    let output = program.output(&["compare", "audio"]);
    assert_eq!(output.status.code(), Some(2));
}
