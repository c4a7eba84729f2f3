use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{SchemaRef, UInt16Type};
use clap::Parser;
use omar_schemas::{Edge, Origin, Split, StreamSpec, Tokens, TokensSpec, TrackId, fixed_tensor};
use omar_stages::storage::{Node, RejectRecord, ShardKey, Upstream};
use serde_json::{Value, json};

use super::*;
use crate::cache::Store;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: InspectArgs,
}

fn inspect(words: &[&str]) -> Result<String, String> {
    let line = Line::try_parse_from([&["inspect"], words].concat()).map_err(|error| error.to_string())?;
    describe(&line.args).map_err(|error| error.to_string())
}

fn schema() -> SchemaRef {
    let (sample_rate, crop_samples, patch_samples, positions) = (24_000, 3840, 960, 4);
    let quantizer = "random projection".to_owned();
    let streams = vec![StreamSpec { view: "mel".to_owned(), codebooks: 2, codebook_size: 16, quantizer }];
    Tokens::schema(&TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams })
}

/// Three crops of a track; the first codebook always says 3, the second counts.
fn rows(track: u64, split: Split) -> RecordBatch {
    let origin = Origin { track_id: TrackId(track), path: format!("album/{track}.flac"), split };
    let mut columns: Vec<ArrayRef> = origin.columns(3);
    columns.push(Arc::new(UInt32Array::from_iter_values(0..3)));
    columns.push(Arc::new(Float64Array::from(vec![0.0, 30.0, 60.0])));
    columns.push(Arc::new(Float64Array::from(vec![30.0, 30.0, 12.0])));
    columns.push(fixed_tensor::<UInt16Type>(8, (0..24).map(|i| if i % 2 == 0 { 3 } else { i / 2 % 4 }).collect()));
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

fn node(fingerprint: &str, patch_rate: u32) -> Node {
    Node {
        node: "tokens".to_owned(),
        stage: "tokenize".to_owned(),
        version: 1,
        params: json!({ "patch_rate": patch_rate }),
        seed: 142,
        fingerprint: fingerprint.to_owned(),
        upstream: vec![Upstream {
            node: "tracks".to_owned(),
            stage: "files".to_owned(),
            version: 1,
            params: json!({ "root": "music" }),
        }],
        edge: None,
        omar_flow: "0.1.0".to_owned(),
    }
}

fn fill(cache: &Path, node: &Node) {
    let store = Store::open(cache, node, &schema(), "test").expect("open");
    for (shard, tracks) in [("s-0", [1, 2]), ("s-1", [3, 4])] {
        let key = ShardKey { shard: shard.to_owned(), input_hash: "ab".repeat(32) };
        let mut writer = store.writer(&key).expect("writer");
        for track in tracks {
            let split = if track == 4 { Split::Valid } else { Split::Train };
            writer.write(&rows(track, split)).expect("write");
            writer.end_track(true).expect("end");
        }
        let reject = RejectRecord {
            track_id: TrackId(9),
            path: format!("{shard}.mp3"),
            node: "audio".to_owned(),
            stage: "decode".to_owned(),
            class: "corrupt".to_owned(),
            message: "no frames".to_owned(),
        };
        writer.commit(&[reject]).expect("commit");
    }
}

#[test]
fn a_cache_is_described_with_its_origin_contents_and_rejects() {
    let cache = tempfile::tempdir().expect("folder");
    fill(cache.path(), &node("aaaaaaaaaaaa", 25));
    let text = inspect(&[&cache.path().display().to_string(), "--head", "1"]).expect("text");
    for part in [
        "tokens: 4 positions at 25 Hz",
        "rows     12 of 4 tracks, 0.08 h of audio (train 9, valid 3)",
        "made by  tokens: tokenize v1 {patch_rate: 25}",
        "from     tracks: files v1 {root: music}",
        "seed 142, omar-flow 0.1.0, fingerprint aaaaaaaaaaaa",
        "(positions 4, codebooks 2)",
        "corrupt        2  audio (decode)  s-0.mp3: no frames",
        "1 of 12 rows",
        "0000000000000001  album/1.flac  train  0        0        30       [3 0 3 1 ...]",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn statistics_show_how_codebooks_are_used() {
    let cache = tempfile::tempdir().expect("folder");
    fill(cache.path(), &node("aaaaaaaaaaaa", 25));
    let target = cache.path().display().to_string();
    let json: Value = serde_json::from_str(&inspect(&[&target, "--stats", "--json"]).expect("json")).expect("json");
    let statistics = json["rows"]["statistics"].as_array().expect("statistics");
    let of = |name: &str| &statistics.iter().find(|column| column["column"] == name).expect("column")["values"];
    let books = of("mel")["codebooks"].as_array().expect("codebooks");
    assert_eq!((&books[0]["perplexity"], &books[0]["usage_percent"]), (&json!(1.0), &json!(6.25)));
    assert_eq!((&books[1]["perplexity"], &books[1]["used"], &books[1]["tokens"]), (&json!(4.0), &json!(4), &json!(48)));
    assert_eq!(of("audio_s")["numbers"]["mean"], json!(24.0));
    assert_eq!(of("track_id")["texts"]["distinct"], json!(4));
    let text = inspect(&[&target, "--stats"]).expect("text");
    assert!(text.contains("mel/0") && text.contains("3 (100.00)"), "{text}");
}

#[test]
fn conditions_choose_rows() {
    let cache = tempfile::tempdir().expect("folder");
    fill(cache.path(), &node("aaaaaaaaaaaa", 25));
    let target = cache.path().display().to_string();
    let text = inspect(&[&target, "--where", "split=valid", "--head", "9"]).expect("text");
    assert!(text.contains("3 of 3 rows with split=valid") && text.contains("album/4.flac"), "{text}");
    assert!(!text.contains("album/1.flac"), "{text}");
    let text = inspect(&[&target, "--where", "track=0000000000000003"]).expect("text");
    assert!(text.contains("album/3.flac"), "{text}");
    assert_eq!(inspect(&[&target, "--where", "path=x.mp3"]), Err("no row has path=x.mp3".to_owned()));
    assert!(inspect(&[&target, "--where", "bpm=1"]).expect_err("condition").contains("found `bpm`"));
}

#[test]
fn a_cache_of_several_nodes_is_listed_with_their_differences() {
    let cache = tempfile::tempdir().expect("folder");
    fill(cache.path(), &node("aaaaaaaaaaaa", 25));
    fill(cache.path(), &node("bbbbbbbbbbbb", 50));
    let text = inspect(&[&cache.path().display().to_string()]).expect("text");
    assert!(text.contains("the rows of 2 nodes") && text.contains("params.patch_rate=50"), "{text}");
    let one = inspect(&[&cache.path().join("bbbbbbbbbbbb").display().to_string(), "--schema"]).expect("text");
    assert!(one.contains("codebooks 2") && !one.contains("made by"), "{one}");
}

#[test]
fn what_is_not_ours_is_said_to_be_so() {
    let folder = tempfile::tempdir().expect("folder");
    let error = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("write");
        inspect(&[&path.display().to_string()]).expect_err("refused")
    };
    assert!(
        error("a.wav", b"RIFF....WAVE")
            .ends_with("a.wav`: expected a parquet file, a run or a cache, found an audio file")
    );
    assert!(error("b.parquet", b"").ends_with("found an empty file"));
    assert!(error("c.csv", b"path,split\n").contains("found a text that begins with `path,split"));
    assert!(error("d.parquet", b"PAR1 and then nothing").contains("d.parquet`: "));
    let empty = tempfile::tempdir().expect("folder");
    assert!(inspect(&[&empty.path().display().to_string()]).expect_err("empty").contains("found none"));
    assert!(inspect(&["nowhere"]).expect_err("missing").contains("no such file or folder"));
}

#[test]
fn a_run_is_described() {
    let run = tempfile::tempdir().expect("folder");
    let manifest = json!({ "graph": "quickstart", "seed": 1, "started": 0, "outcome": "complete" });
    std::fs::write(run.path().join("manifest.json"), manifest.to_string()).expect("write");
    let summary = json!({ "nodes": [{ "node": "tokens", "stage": "tokenize", "rows_out": 12, "busy_s": 1.25 }] });
    std::fs::write(run.path().join("summary.json"), summary.to_string()).expect("write");
    let checkpoint = run.path().join("model/checkpoints/step-000000010");
    std::fs::create_dir_all(&checkpoint).expect("mkdir");
    std::fs::write(checkpoint.join("state.json"), b"{}").expect("write");
    let text = inspect(&[&run.path().display().to_string()]).expect("text");
    for part in ["a run of graph `quickstart`", "1970-01-01 00:00 UTC", "tokenize", "model/checkpoints/step-000000010"]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}
