//! Are the codes of all tokens of the corpus counted, once each, whatever was computed when and by what?

mod program;

use std::fs;
use std::path::Path;

use arrow::array::{AsArray, Float64Array, ListArray, StringArray, UInt32Array};
use arrow::datatypes::{UInt16Type, UInt64Type};
use omar_schemas::{Codebooks, Edge, column, fixed_values};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{Options, Program, text, walk, write_wav};
use serde_json::Value;

/// View, codebook, and how often each code occurs.
type Books = Vec<(String, u32, Vec<u64>)>;

/// What `codebooks.parquet` of a run says.
fn books(run: &Path) -> Books {
    let file = fs::File::open(run.join("codebooks.parquet")).expect("the run has counted");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("is parquet");
    assert!(Codebooks::spec(reader.schema()).is_ok(), "the file says what it holds");
    let mut books = Books::new();
    for batch in reader.build().expect("reads") {
        let batch = batch.expect("reads");
        let views = column::<StringArray>(&batch, "view").expect("view");
        let codebooks = column::<UInt32Array>(&batch, "codebook").expect("codebook");
        let counts = column::<ListArray>(&batch, "counts").expect("counts");
        books.extend((0..batch.num_rows()).map(|row| {
            let counts = counts.value(row).as_primitive::<UInt64Type>().values().to_vec();
            (views.value(row).to_owned(), codebooks.value(row), counts)
        }));
    }
    books
}

/// The same, of the run that was the last one.
fn last(program: &Program) -> Books {
    books(program.runs().last().expect("a run"))
}

/// The same, by reading all tokens in the cache that look at audio: two codebooks of 64 codes for the view mel.
fn recounted(program: &Program) -> Books {
    let mut books: Books = (0..2).map(|codebook| ("mel".to_owned(), codebook, vec![0; 64])).collect();
    for name in program.cache().keys() {
        let file = fs::File::open(program.path("cache").join(name)).expect("opens");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("is parquet");
        for batch in reader.build().expect("reads") {
            let batch = batch.expect("reads");
            let audio_s = column::<Float64Array>(&batch, "audio_s").expect("seconds of audio");
            for row in 0..batch.num_rows() {
                let tokens = fixed_values::<UInt16Type>(&batch, "mel", row).expect("tokens");
                let audible = 2 * (audio_s.value(row) * 15.625 - 1e-6).ceil() as usize;
                for (index, &token) in tokens.iter().take(audible).enumerate() {
                    books[index % 2].2[usize::from(token)] += 1;
                }
            }
        }
    }
    books
}

/// The files with counts in the cache, with their content.
fn kept(program: &Program) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = walk(&program.path("cache"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "codes"))
        .collect();
    files.sort();
    files.iter().map(|path| (path.display().to_string(), fs::read(path).expect("reads"))).collect()
}

/// Tokens without a cache.
fn uncached(program: &Program) {
    let graph = fs::read_to_string(program.path("graph.yaml")).expect("the graph");
    assert!(graph.contains(", cache: cache}"));
    fs::write(program.path("graph.yaml"), graph.replace(", cache: cache}", "}")).expect("written");
}

#[test]
fn counts_follow_the_corpus() {
    let program = Program::new(&Options { tracks: 30, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let whole = last(&program);
    assert_eq!(whole, recounted(&program));
    assert!(whole.iter().all(|book| book.2.iter().sum::<u64>() > 1000));

    // One recording changes, one comes, one goes; most shards stay.
    write_wav(&program.path("audio/track_003.wav"), 16_000, 6.0, 333);
    write_wav(&program.path("audio/newcomer.wav"), 16_000, 4.0, 999);
    fs::remove_file(program.path("audio/track_007.wav")).expect("it is there");
    program.ok(&["run", "graph.yaml"]);
    let changed = last(&program);
    assert_ne!(changed, whole);
    assert_eq!(changed, recounted(&program), "the counts are those of the cache");
    assert_eq!(kept(&program).len(), program.cache().len(), "and kept for each of its shards");
    let summary = program.json(&["run", "graph.yaml", "--direct"]);
    assert_eq!(last(&program), changed, "a run that computes nothing counts the same");
    program.clear();
    assert_eq!(program.json(&["run", "graph.yaml"])["codebooks"], summary["codebooks"], "and a fresh one too");
    assert_eq!(last(&program), changed);

    // A part of the corpus is counted as that, and the rest is not forgotten.
    program.ok(&["run", "graph.yaml", "--limit", "5"]);
    let part = last(&program);
    assert!(part[0].2.iter().sum::<u64>() < changed[0].2.iter().sum::<u64>());
    program.ok(&["run", "graph.yaml"]);
    assert_eq!(last(&program), changed);
}

#[test]
fn counts_that_are_lost_or_damaged_are_counted_again() {
    let program = Program::new(&Options { tracks: 30, ..Options::default() });
    program.ok(&["run", "graph.yaml"]);
    let (counts, files) = (last(&program), kept(&program));
    assert!(files.len() > 2, "{files:?}");
    fs::remove_file(&files[0].0).expect("it is there");
    fs::write(&files[1].0, &files[1].1[..files[1].1.len() / 2]).expect("written");
    fs::write(&files[2].0, &files[0].1).expect("written");
    let summary = program.json(&["run", "graph.yaml"]);
    assert_eq!(last(&program), counts);
    assert_eq!(kept(&program), files, "and are whole again");
    let tokens = summary["nodes"].as_array().expect("nodes").iter().find(|node| node["node"] == "tokens");
    assert_eq!(tokens.expect("tokens")["rows_out"], 0, "nothing was tokenised again");
}

#[test]
fn every_executor_counts_the_tokens_of_many_passes_once() {
    let program = Program::new(&Options { train: true, steps: 12, ..Options::default() });
    program.ok(&["run", "graph.yaml", "--until", "tokens"]);
    let once = last(&program);
    uncached(&program);
    for executor in [&["--direct"][..], &["--threads", "3"], &["--threads", "2", "--set", "resources.workers=3"]] {
        program.ok(&[&["run", "graph.yaml"], executor].concat());
        assert_eq!(last(&program), once, "{executor:?}");
    }
}

#[test]
fn a_training_that_ends_in_the_first_pass_counts_the_same_with_every_executor() {
    let program = Program::new(&Options { tracks: 40, train: true, steps: 4 });
    program.ok(&["run", "graph.yaml", "--until", "tokens"]);
    let all: u64 = last(&program)[0].2.iter().sum();
    uncached(&program);
    program.ok(&["run", "graph.yaml", "--direct"]);
    let part = last(&program);
    assert!((1..all).contains(&part[0].2.iter().sum()), "a part of the corpus, of {all} tokens");
    for executor in [&["--threads", "1"][..], &["--threads", "4"], &["--threads", "2", "--set", "resources.workers=3"]]
    {
        program.ok(&[&["run", "graph.yaml"], executor].concat());
        assert_eq!(last(&program), part, "{executor:?}");
    }
}

#[test]
fn a_recording_that_is_rejected_midway_leaves_no_counts() {
    let program = Program::new(&Options::default());
    program.ok(&["run", "graph.yaml"]);
    let good = last(&program);
    // It says that it is two minutes long, and is for one, in which there is plenty to tokenise.
    write_wav(&program.path("audio/cut.wav"), 16_000, 120.0, 5);
    let whole = fs::read(program.path("audio/cut.wav")).expect("it is there");
    fs::write(program.path("audio/cut.wav"), &whole[..whole.len() / 2]).expect("written");
    let summary = program.json(&["run", "graph.yaml"]);
    assert_eq!(summary["rejected"], 1);
    assert_eq!(last(&program), good);
    uncached(&program);
    for executor in ["--direct", "--threads=2"] {
        assert_eq!(program.json(&["run", "graph.yaml", executor])["rejected"], 1);
        assert_eq!(last(&program), good, "{executor}");
    }
}

#[test]
fn health_is_printed_drawn_and_inspected_and_a_collapse_is_a_warning() {
    let program = Program::new(&Options { tracks: 24, ..Options::default() });
    let printed = program.ok(&["run", "graph.yaml"]);
    let row = |text: &str, view: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(view)).map(str::to_owned);
        line.unwrap_or_else(|| panic!("no {view} in\n{text}")).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(!printed.contains("collapsed"), "{printed}");
    let run = program.runs().pop().expect("a run");
    let inspected = program.ok(&["inspect", &run.display().to_string()]);
    assert_eq!(row(&inspected, "tokens/mel"), row(&printed, "tokens/mel"));
    let svg = fs::read_to_string(run.join("codebooks.svg")).expect("a picture");
    assert!(svg.starts_with("<svg ") && svg.matches("<path ").count() == 2, "{svg}");

    // Numbers of the summary, of its file, and of the rows themselves agree.
    let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).expect("reads")).expect("json");
    let stats = program.ok(&["inspect", "graph.yaml", "tokens", "--stats", "--json"]);
    let stats: Value = serde_json::from_str(&stats).expect("json");
    let columns = stats["rows"]["statistics"].as_array().expect("statistics");
    let mel = columns.iter().find(|column| column["column"] == "mel").expect("mel");
    for (book, of_rows) in summary["codebooks"]
        .as_array()
        .expect("books")
        .iter()
        .zip(mel["values"]["codebooks"].as_array().expect("books"))
    {
        for figure in ["size", "tokens", "used", "usage_percent", "perplexity", "entropy_bits", "top", "collapse"] {
            assert_eq!(book[figure], of_rows[figure], "{figure}");
        }
    }

    // Far from where the features are, the mean makes all patches look the same.
    let far = "nodes.mel.params.views.mel.mean=1000";
    let output = program.output(&["run", "graph.yaml", "--set", far]);
    let printed = text(&output.stdout);
    assert!(output.status.success());
    assert!(printed.contains("warning: tokens/mel: 2 of 2 codebooks have collapsed"), "{printed}");
    assert!(printed.contains("standardize: per_bin"), "{printed}");
    let run = program.runs().pop().expect("a run");
    assert!(program.ok(&["inspect", &run.display().to_string()]).contains("have collapsed"));
}
