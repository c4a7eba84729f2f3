use omar_schemas::{Split, TrackId};
use serde_json::{Value, json};

use super::*;
use crate::error::Rejection;
use crate::stage::Recording;

fn bind(params: Value) -> Result<Files, BindError> {
    Files::bind(serde_json::from_value(params).expect("params"), &Inputs::new(Vec::new()))
}

fn list(params: Value) -> Result<Vec<Recording>, String> {
    let mut recordings = Vec::new();
    let listed = bind(params).expect("bind").list(&mut |recording| recordings.push(recording));
    listed.map(|()| recordings).map_err(|error| error.to_string())
}

fn corpus(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    for (file, content) in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        std::fs::write(path, content).expect("write");
    }
    folder
}

#[test]
fn the_same_corpus_elsewhere_has_the_same_ids() {
    let (here, there) = (corpus(&[("x/a.wav", "1"), ("b.mp3", "22")]), corpus(&[("x/a.wav", "1"), ("b.mp3", "22")]));
    let params = |root: &tempfile::TempDir| json!({"root": root.path(), "identity": "content"});
    let recordings = list(params(&here)).expect("list");
    assert_eq!(recordings, list(params(&there)).expect("list"));
    let summary: Vec<_> = recordings.iter().map(|r| (r.path.as_str(), r.bytes, r.track_id)).collect();
    assert_eq!(summary, [("b.mp3", 2, TrackId::of("b.mp3", 0)), ("x/a.wav", 1, TrackId::of("x/a.wav", 0))]);
    std::fs::write(there.path().join("b.mp3"), "23").expect("write");
    let changed = list(params(&there)).expect("list");
    assert_ne!(changed[0].identity, recordings[0].identity);
    assert_eq!(changed[1], recordings[1]);
}

#[test]
fn splits_come_in_the_asked_shares_and_do_not_move_when_shares_grow() {
    let bound = |valid: f64| bind(json!({"root": ".", "valid_fraction": valid, "test_fraction": 0.1})).expect("bind");
    let count = |files: &Files, split| (0..10_000).filter(|i| files.draw_split(&format!("{i}.wav")) == split).count();
    let small = bound(0.1);
    assert!((900..1100).contains(&count(&small, Split::Valid)), "{}", count(&small, Split::Valid));
    assert!((900..1100).contains(&count(&small, Split::Test)), "{}", count(&small, Split::Test));
    let large = bound(0.3);
    let valid = |files: &Files, i: u32| files.draw_split(&format!("{i}.wav")) == Split::Valid;
    assert!((0..1000).all(|i| !valid(&small, i) || valid(&large, i)));
}

#[test]
fn a_manifest_names_splits_and_repeats_tracks() {
    let manifest = "path,split,id\n./x//a.wav,test,\nx/a.wav,,\nb.wav,valid,beta\ngone.wav,train,\n";
    let folder = corpus(&[("x/a.wav", "1"), ("b.wav", "22"), ("list.csv", manifest)]);
    let recordings = list(json!({"manifest": folder.path().join("list.csv")})).expect("list");
    let summary: Vec<_> = recordings.iter().map(|r| (r.path.as_str(), r.split, r.bytes)).collect();
    let expected = [
        ("x/a.wav", Split::Test, 1),
        ("x/a.wav", Split::Train, 1),
        ("b.wav", Split::Valid, 2),
        ("gone.wav", Split::Train, 0),
    ];
    assert_eq!(summary, expected);
    assert_eq!(recordings[0].track_id, TrackId::of("x/a.wav", 0));
    assert_eq!(recordings[1].track_id, TrackId::of("x/a.wav", 1));
    assert_eq!(recordings[2].track_id, TrackId::of("beta", 0));
}

#[test]
fn absolute_entries_below_the_root_are_named_as_relative_ones() {
    let folder = corpus(&[("x/a.wav", "1")]);
    let manifest = folder.path().join("list.tsv");
    std::fs::write(&manifest, format!("path\n{}\n", folder.path().join("x/a.wav").display())).expect("write");
    let recordings = list(json!({"manifest": manifest})).expect("list");
    assert_eq!((recordings[0].path.as_str(), recordings[0].bytes), ("x/a.wav", 1));
}

#[test]
fn a_repeated_id_is_refused_with_both_lines() {
    let folder = corpus(&[("list.csv", "path,id\na.wav,1\nb.wav,2\nc.wav,1\n")]);
    let error = list(json!({"manifest": folder.path().join("list.csv")})).expect_err("repeat");
    assert!(error.ends_with("list.csv`, line 4: `1` names a track that line 2 names already"), "{error}");
}

#[test]
fn an_empty_result_says_what_was_looked_for_and_what_was_found() {
    let folder = corpus(&[("a.txt", ""), ("b.txt", ""), ("c.jpg", ""), ("README", "")]);
    let error = list(json!({"root": folder.path()})).expect_err("no audio");
    assert!(error.contains(".flac,") && error.ends_with("found 2 .txt, 1 without extension, 1 .jpg"), "{error}");
    let error = list(json!({"root": folder.path(), "include": "*.wav"})).expect_err("no audio");
    assert!(error.contains("looked for files like `*.wav`"), "{error}");
    let error = list(json!({"root": folder.path().join("nowhere")})).expect_err("no folder");
    assert!(error.contains("does not exist (working directory: `/"), "{error}");
}

#[test]
fn what_cannot_work_is_refused_when_bound() {
    let error = |params| bind(params).expect_err("refused").message;
    assert_eq!(error(json!({})), "expected `root`, `paths` or `manifest`, found none of them");
    assert!(error(json!({"root": "x", "valid_fraction": 1.5})).contains("between 0 and 1, found 1.5"));
    assert!(error(json!({"root": "x", "valid_fraction": 0.6, "test_fraction": 0.6})).contains("add up to 1.2"));
    assert!(error(json!({"root": "x", "include": ["a[.wav"]})).contains("a[.wav"));
    assert!(error(json!({"manifest": "list.xlsx"})).contains("expected a list that ends in .csv"));
    assert!(error(json!({"manifest": "list.csv", "exclude": "x"})).contains("patterns have no effect"));
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_become_rejects() {
    use std::os::unix::ffi::OsStrExt;
    struct Rejects(Vec<(TrackId, Rejection)>);
    impl Output for Rejects {
        fn emit(&mut self, _: RecordBatch) {}
        fn reject(&mut self, track: TrackId, reason: Rejection) {
            self.0.push((track, reason));
        }
    }
    let folder = corpus(&[]);
    for name in [b"\xff.wav", b"\xfe.wav"] {
        std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), "1").expect("write");
    }
    let recordings = list(json!({"root": folder.path()})).expect("list");
    assert_eq!(recordings.len(), 2);
    assert_ne!(recordings[0].track_id, recordings[1].track_id);
    let files = bind(json!({"root": folder.path()})).expect("bind");
    let origin = Origin { track_id: recordings[0].track_id, path: recordings[0].path.clone(), split: Split::Train };
    let mut columns = origin.columns(1);
    columns.push(std::sync::Arc::new(UInt64Array::from(vec![recordings[0].bytes])));
    let batch = RecordBatch::try_new(files.output(), columns).expect("batch");
    let mut rejects = Rejects(Vec::new());
    let mut operator = files.start(&StageContext::detached("tracks")).expect("start");
    assert_eq!(operator.push(0, &batch, &mut rejects).expect("push"), Progress::Idle);
    assert_eq!(rejects.0[0].1.class, "io");
}

#[test]
fn places_are_named_below_the_root_or_by_all_of_their_path() {
    let folder = corpus(&[("x/a.wav", "1"), ("x/y/b.wav", "22"), ("x/notes.txt", ""), ("z/odd.bin", "333")]);
    let elsewhere = corpus(&[("c.wav", "4444")]);
    let other = elsewhere.path().join("c.wav");
    let named = list(json!({"root": folder.path(), "paths": ["x", "./z/odd.bin", &other]})).expect("list");
    let names: Vec<_> = named.iter().map(|recording| (recording.path.as_str(), recording.bytes)).collect();
    assert_eq!(names, [("x/a.wav", 1), ("x/y/b.wav", 2), ("z/odd.bin", 3), (other.to_str().expect("text"), 4)]);
    let all = list(json!({"root": folder.path()})).expect("list");
    assert_eq!(all, named[..2], "as if they were found");
    let error = list(json!({"root": folder.path(), "paths": ["x", "gone.wav"]})).expect_err("not there");
    assert!(error.contains("gone.wav` does not exist"), "{error}");
    let error = bind(json!({"manifest": "list.csv", "paths": ["x"]})).expect_err("both").message;
    assert!(error.contains("there is nothing to search"), "{error}");
}

#[test]
fn addresses_are_looked_at_when_bound() {
    let error = |params| bind(params).expect_err("refused").message;
    assert!(error(json!({"root": "ftp://host/x"})).contains("expected an address with one of s3://"));
    assert!(error(json!({"paths": ["a", "s3://"]})).contains("the name of a bucket"));
    if AVAILABLE {
        assert!(error(json!({"root": "https://host/x"})).contains("the web has no listing"));
        assert!(bind(json!({"root": "s3://bucket/x", "paths": ["a.wav", "gs://other"]})).is_ok());
        assert!(bind(json!({"manifest": "https://host/list.csv"})).is_ok());
    } else {
        let error = bind(json!({"root": "s3://bucket/x"})).expect_err("not built");
        assert_eq!(error.message, "`s3://bucket/x`: this program was built without object stores");
        assert_eq!(error.hint.as_deref(), Some("rebuild it with `--features objects`"));
    }
}
