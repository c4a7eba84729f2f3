use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float32Type, SchemaRef, UInt16Type};
use omar_schemas::{
    Edge, Features, FeaturesSpec, Origin, Split, StreamSpec, Tokens, TokensSpec, TrackId, ViewSpec, column,
    fixed_tensor,
};
use omar_stages::storage::{RejectRecord, commits, locate};
use parquet::arrow::arrow_reader::{RowSelection, RowSelector};
use parquet::file::metadata::RowGroupMetaData;
use serde_json::json;

use super::*;

fn tokens_schema(codebook_size: u32) -> SchemaRef {
    let (sample_rate, crop_samples, patch_samples, positions) = (24_000, 3840, 960, 4);
    let quantizer = "random projection".to_owned();
    let streams = vec![StreamSpec { view: "mel".to_owned(), codebooks: 1, codebook_size, quantizer }];
    Tokens::schema(&TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams })
}

fn key_columns(track: u64, crops: u32) -> Vec<ArrayRef> {
    let origin = Origin { track_id: TrackId(track), path: format!("{track}.wav"), split: Split::Train };
    let mut columns: Vec<ArrayRef> = origin.columns(crops as usize);
    columns.push(Arc::new(UInt32Array::from_iter_values(0..crops)));
    columns.push(Arc::new(Float64Array::from_iter_values((0..crops).map(f64::from))));
    columns.push(Arc::new(Float64Array::from_iter_values((0..crops).map(f64::from))));
    columns
}

fn tokens(track: u64, crops: u32) -> RecordBatch {
    let mut columns = key_columns(track, crops);
    columns.push(fixed_tensor::<UInt16Type>(4, (0..crops * 4).map(|i| (u64::from(i) * track % 8192) as u16).collect()));
    RecordBatch::try_new(tokens_schema(8192), columns).expect("columns of the schema")
}

fn node(fingerprint: &str) -> Node {
    Node {
        node: "tokens".to_owned(),
        stage: "tokenize".to_owned(),
        version: 1,
        params: json!({"patch_rate": 25}),
        seed: 142,
        fingerprint: fingerprint.to_owned(),
        upstream: Vec::new(),
        edge: None,
        omar_flow: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn open(cache: &Path, run: &str) -> Result<Store, CacheError> {
    Store::open(cache, &node("0123456789abcdef"), &tokens_schema(8192), run)
}

fn key(shard: &str, hash: u8) -> ShardKey {
    ShardKey { shard: shard.to_owned(), input_hash: format!("{hash:02x}").repeat(32) }
}

fn write(store: &Store, shard: &ShardKey, tracks: &[u64]) -> Commit {
    let mut writer = store.writer(shard).expect("writer");
    for &track in tracks {
        writer.write(&tokens(track, 3)).expect("write");
        writer.end_track(true).expect("end");
    }
    writer.commit(&[]).expect("commit")
}

/// Names in the folder of the node, of files with data or records.
fn files(store: &Store) -> Vec<String> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = folder.read_dir().expect("folder");
        entries.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()).collect()
    };
    let mut names = [names(store.folder()), names(&store.folder().join(COMMITS))].concat();
    names.retain(|name| !["_node.json", "_lock", COMMITS].contains(&name.as_str()));
    names.sort();
    names
}

#[test]
fn what_was_written_is_read_track_by_track() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let shard = key("s-01", 1);
    assert_eq!(store.committed(&shard).expect("look"), None);

    let mut writer = store.writer(&shard).expect("writer");
    for (track, ok) in [(3, true), (5, false), (7, true)] {
        writer.write(&tokens(track, 2)).expect("write");
        writer.write(&tokens(track, 4).slice(2, 2)).expect("write");
        writer.end_track(ok).expect("end");
    }
    let reject = RejectRecord {
        track_id: TrackId(5),
        path: "5.wav".to_owned(),
        node: "audio".to_owned(),
        stage: "decode".to_owned(),
        class: "truncated".to_owned(),
        message: "ends early".to_owned(),
    };
    let commit = writer.commit(&[reject]).expect("commit");

    assert_eq!((commit.rows, commit.tracks, commit.rejects.len()), (8, 2, 1));
    assert_eq!(store.committed(&shard).expect("look"), Some(commit.clone()));
    assert_eq!(store.committed(&key("s-01", 2)).expect("look"), None);
    assert_eq!(files(&store), ["s-01-01010101.json", "s-01-01010101.parquet"]);
    let content = std::fs::read(store.folder().join(&commit.file)).expect("file");
    assert_eq!(blake3::hash(&content).to_hex().as_str(), commit.blake3);

    let reader = store.reader(&commit).expect("reader");
    assert_eq!(reader.tracks().expect("tracks"), [TrackId(3), TrackId(7)]);
    let rows = concat_batches(&tokens_schema(8192), &reader.read_track(TrackId(7)).expect("rows")).expect("rows");
    assert_eq!(rows.schema(), tokens_schema(8192));
    assert_eq!(rows, concat_batches(&rows.schema(), &[tokens(7, 2), tokens(7, 4).slice(2, 2)]).expect("rows"));
    assert_eq!(reader.read_track(TrackId(5)).expect("rejected"), []);
    let provenance: Node = serde_json::from_str(reader.provenance().expect("provenance")).expect("node");
    assert_eq!(provenance.edge.as_ref().map(|edge| (edge.name.as_str(), edge.version)), Some(("tokens", 2)));
    assert_eq!(Node::read(store.folder()).expect("node"), Some(provenance));
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let hashes: Vec<String> = (0..4)
        .map(|_| {
            let cache = tempfile::tempdir().expect("folder");
            write(&open(cache.path(), "a").expect("open"), &key("s-all", 1), &[1, 2, 3]).blake3
        })
        .collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let mut writer = store.writer(&key("s-all", 1)).expect("writer");
    writer.write(&tokens(1, 2)).expect("write");
    assert_eq!(files(&store).len(), 1);
    drop(writer);
    assert_eq!(files(&store), [""; 0]);
}

#[test]
fn a_commit_is_not_replaced() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let first = write(&store, &key("s-all", 1), &[1]);
    assert_eq!(write(&store, &key("s-all", 1), &[1, 2]), first);
    assert_eq!(files(&store).len(), 2);
}

#[test]
fn what_does_not_agree_with_its_record_is_not_committed() {
    let shard = key("s-all", 1);
    let damaged = |damage: fn(&Path, &Path)| {
        let cache = tempfile::tempdir().expect("folder");
        let store = open(cache.path(), "a").expect("open");
        let commit = write(&store, &shard, &[1, 2]);
        damage(&store.folder().join(&commit.file), &record_path(store.folder(), &shard));
        let seen = store.committed(&shard).expect("look").is_some();
        // And it can be made good.
        let again = write(&store, &shard, &[1, 2]);
        seen || (store.committed(&shard).expect("look") != Some(again))
    };
    assert!(!damaged(|file, _| std::fs::remove_file(file).expect("remove")));
    assert!(!damaged(|_, record| std::fs::write(record, b"{\"file\":").expect("write")));
    assert!(!damaged(|file, _| {
        let content = std::fs::read(file).expect("read");
        std::fs::write(file, &content[..content.len() - 1]).expect("write");
    }));
    assert!(!damaged(|file, _| {
        let len = std::fs::metadata(file).expect("metadata").len();
        std::fs::write(file, vec![0; len as usize]).expect("write");
    }));
}

#[test]
fn rows_of_another_schema_are_neither_written_nor_trusted() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let commit = write(&store, &key("s-all", 1), &[1]);
    let other = Store::look(cache.path(), &node("0123456789abcdef"), &tokens_schema(1024));
    assert_eq!(other.committed(&key("s-all", 1)).expect("look"), None);
    assert!(other.reader(&commit).is_err());
    let mut writer = store.writer(&key("s-all", 2)).expect("writer");
    let renamed = RecordBatch::try_new(tokens_schema(1024), tokens(1, 1).columns().to_vec()).expect("batch");
    assert!(writer.write(&renamed).expect_err("schema").to_string().starts_with("node `tokens`: expected rows of"));
}

#[test]
fn one_run_at_a_time_and_all_processes_of_it() {
    let cache = tempfile::tempdir().expect("folder");
    let first = open(cache.path(), "a").expect("open");
    let error = open(cache.path(), "b").expect_err("locked").to_string();
    assert!(error.contains(&format!("process {} on ", std::process::id())) && error.contains("(run `a`)"), "{error}");
    let second = open(cache.path(), "a").expect("same run");
    drop(first);
    open(cache.path(), "b").expect_err("still locked");
    drop(second);
    open(cache.path(), "b").expect("free");
}

#[test]
fn what_dead_processes_left_is_removed_unless_others_of_the_run_live() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let debris = store.folder().join(".s-all-01010101.parquet.1.0.tmp");
    std::fs::write(&debris, b"half").expect("write");
    let peer = open(cache.path(), "a").expect("same run");
    assert!(debris.exists());
    drop((store, peer));
    open(cache.path(), "a").expect("open");
    assert!(!debris.exists());
}

#[test]
fn fingerprints_that_share_a_folder_are_an_error() {
    let cache = tempfile::tempdir().expect("folder");
    drop(open(cache.path(), "a").expect("open"));
    let clash = Store::open(cache.path(), &node("0123456789abXXXX"), &tokens_schema(8192), "a");
    assert!(matches!(clash, Err(CacheError::Fingerprint { .. })));
}

#[test]
fn sweeping_leaves_the_current_shards() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let keys = [key("s-0", 1), key("s-1", 1), key("s-1", 2)];
    keys.iter().for_each(|key| _ = write(&store, key, &[1]));
    std::fs::write(store.folder().join("s-orphan.parquet"), b"").expect("write");
    assert_eq!(store.sweep(&[keys[0].clone(), keys[2].clone()]).expect("sweep"), 1);
    assert_eq!(
        files(&store),
        ["s-0-01010101.json", "s-0-01010101.parquet", "s-1-02020202.json", "s-1-02020202.parquet"]
    );
    assert_eq!(commits(store.folder()).expect("commits").len(), 2);
    assert_eq!(locate(cache.path()).expect("one node").len(), 2);
}

#[test]
fn code_counts_are_made_when_missing_kept_and_swept_with_their_shard() {
    let cache = tempfile::tempdir().expect("folder");
    let store = open(cache.path(), "a").expect("open");
    let commits = [key("s-0", 1), key("s-0", 2)].map(|key| write(&store, &key, &[1, 2]));
    assert_eq!(store.kept_codes(&commits[0]).expect("read"), None);
    let counts = store.codes(&commits[0]).expect("count").expect("tokens");
    // The first crop of each track is padding alone.
    assert_eq!(counts.views().map(|(view, books)| (view, books[0].total())).collect::<Vec<_>>(), [("mel", 16)]);
    assert_eq!(store.kept_codes(&commits[0]).expect("read"), Some(counts));
    store.codes(&commits[1]).expect("count");
    assert_eq!(store.stale(&[key("s-0", 2)]).expect("look"), [commits[0].clone()]);
    assert_eq!(store.sweep(&[key("s-0", 2)]).expect("sweep"), 1);
    assert_eq!(files(&store), ["s-0-02020202.codes", "s-0-02020202.json", "s-0-02020202.parquet"]);
}

#[test]
fn row_groups_end_with_tracks_and_stay_small() {
    let spec =
        FeaturesSpec { sample_rate: 24_000, crop_samples: 24_000, views: vec![ViewSpec::new("mel", 96, 1000, 24)] };
    let schema = Features::schema(&spec);
    let rows = |track: u64, crops: u32| {
        let mut columns = key_columns(track, crops);
        let values = (0..crops * 96_000).map(|i| (i as f32 + track as f32).sin()).collect();
        columns.push(fixed_tensor::<Float32Type>(96_000, values));
        RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
    };
    let cache = tempfile::tempdir().expect("folder");
    let store = Store::open(cache.path(), &node("feedfeedfeed"), &schema, "a").expect("open");
    let mut writer = store.writer(&key("s-all", 1)).expect("writer");
    for (track, batches) in [(1, 2), (2, 9), (3, 1), (4, 50)] {
        (0..batches).for_each(|_| writer.write(&rows(track, 2)).expect("write"));
        writer.end_track(true).expect("end");
    }
    let commit = writer.commit(&[]).expect("commit");
    let reader = store.reader(&commit).expect("reader");
    let groups: Vec<i64> = reader.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).collect();
    // 0.77 MB a batch of two rows: tracks 1 and 2 reach 4 MiB together; track 4 fills 32 MiB and goes on.
    assert_eq!(groups, [22, 86, 16]);
    assert_eq!(reader.read_track(TrackId(4)).expect("rows").iter().map(RecordBatch::num_rows).sum::<usize>(), 100);
    let second = reader.read_track(TrackId(2)).expect("rows");
    assert_eq!(concat_batches(&schema, &second).expect("rows").slice(0, 2), rows(2, 2));
    let selection = RowSelection::from(vec![RowSelector::skip(21), RowSelector::select(2)]);
    let scan = reader.scan(Some(&["track_id"]), Some(selection)).expect("scan");
    let ids: Vec<u64> = scan
        .flat_map(|batch| column::<UInt64Array>(&batch.expect("rows"), "track_id").expect("ids").values().to_vec())
        .collect();
    assert_eq!(ids, [2, 3]);
}
