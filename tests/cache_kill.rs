//! A process that is killed while it fills the cache loses nothing that it has committed, and leaves nothing half done.
//!
//! The test starts itself as a child that writes generation after generation of the same shards, kills it at random
//! moments, and looks at what is there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{SchemaRef, UInt16Type};
use omar_flow::cache::Store;
use omar_schemas::{Edge, Origin, Split, StreamSpec, Tokens, TokensSpec, TrackId, fixed_tensor};
use omar_stages::storage::{Commit, Node, ShardKey, commits};

const SHARDS: [&str; 3] = ["s-0", "s-10", "s-11"];
const FOLDER: &str = "OMAR_FLOW_TEST_FOLDER";
const KILLS: usize = 40;

fn schema() -> SchemaRef {
    let (sample_rate, crop_samples, patch_samples, positions) = (24_000, 38_400, 960, 40);
    let quantizer = "none".to_owned();
    let streams = vec![StreamSpec { view: "mel".to_owned(), codebooks: 1, codebook_size: 8192, quantizer }];
    Tokens::schema(&TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams })
}

/// The rows of a track: a function of shard and generation.
fn rows(shard: usize, generation: u32) -> RecordBatch {
    let crops = 20 + generation % 7;
    let track_id = TrackId(shard as u64);
    let origin = Origin { track_id, path: format!("{shard}.wav"), split: Split::Train };
    let mut columns: Vec<ArrayRef> = origin.columns(crops as usize);
    columns.push(Arc::new(UInt32Array::from_iter_values(0..crops)));
    columns.push(Arc::new(Float64Array::from_iter_values((0..crops).map(f64::from))));
    columns.push(Arc::new(Float64Array::from_iter_values((0..crops).map(f64::from))));
    let token = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(generation) % 8192) as u16;
    columns.push(fixed_tensor::<UInt16Type>(40, (0..crops * 40).map(token).collect()));
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

fn key(shard: usize, generation: u32) -> ShardKey {
    ShardKey { shard: SHARDS[shard].to_owned(), input_hash: format!("{generation:08x}").repeat(8) }
}

fn open(cache: &Path) -> Store {
    let node = Node {
        node: "tokens".to_owned(),
        stage: "tokenize".to_owned(),
        version: 1,
        params: serde_json::json!({}),
        seed: 0,
        fingerprint: "feedfeedfeed".to_owned(),
        upstream: Vec::new(),
        edge: None,
        omar_flow: String::new(),
    };
    Store::open(cache, &node, &schema(), "test").expect("open the cache")
}

fn generation(commit: &Commit) -> u32 {
    u32::from_str_radix(&commit.input_hash[..8], 16).expect("a generation")
}

/// The newest generation of which every shard is there, after checking every shard of every generation.
fn newest(store: &Store) -> Option<u32> {
    let commits = commits(store.folder()).expect("commits");
    for commit in &commits {
        let content = std::fs::read(store.folder().join(&commit.file)).expect("a committed file");
        assert_eq!(blake3::hash(&content).to_hex().as_str(), commit.blake3, "{}", commit.file);
        assert_eq!(store.committed(&commit.key()).expect("look").as_ref(), Some(commit));
        let shard = SHARDS.iter().position(|shard| *shard == commit.shard).expect("a shard");
        let read = store.reader(commit).expect("reader").read_track(TrackId(shard as u64)).expect("rows");
        assert_eq!(read, [rows(shard, generation(commit))], "{}", commit.file);
    }
    let complete = |of: &u32| commits.iter().filter(|commit| generation(commit) == *of).count() == SHARDS.len();
    commits.iter().map(generation).filter(complete).max()
}

/// Not a test of its own: what the child does.
#[test]
fn child_that_fills_the_cache() {
    let Some(cache) = std::env::var_os(FOLDER) else { return };
    let store = open(Path::new(&cache));
    let first = newest(&store).map_or(0, |newest| newest + 1);
    for generation in first.. {
        let keys = [0, 1, 2].map(|shard| key(shard, generation));
        for (shard, key) in keys.iter().enumerate() {
            if store.committed(key).expect("look").is_some() {
                continue;
            }
            let mut writer = store.writer(key).expect("writer");
            writer.write(&rows(shard, generation)).expect("write");
            writer.end_track(true).expect("end");
            writer.commit(&[]).expect("commit");
        }
        store.sweep(&keys).expect("sweep");
    }
}

#[test]
fn killed_at_any_moment_the_cache_holds_the_old_rows_or_the_new() {
    let folder = tempfile::tempdir().expect("folder");
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").subsec_nanos();
    let mut random = omar_stages::seed::Random::new(u64::from(seed), &[]);
    let records = folder.path().join("feedfeedfeed/_commits");
    let mut before = None;
    let mut kills_in_the_middle = 0;
    for _ in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "child_that_fills_the_cache"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("child");
        // Let it commit a few shards, so that it dies anywhere between two of them.
        let start = before.map_or(0, |before: u32| before as usize + 1) * SHARDS.len();
        let goal = start + random.below(7) as usize;
        let deadline = Instant::now() + Duration::from_secs(60);
        while furthest(&records) < Some(goal) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(100));
        }
        std::thread::sleep(Duration::from_micros(random.below(5_000)));
        child.kill().expect("kill");
        let status = child.wait().expect("wait");
        assert!(status.code().is_none(), "seed {seed}: the child ended by itself: {status}");

        kills_in_the_middle += usize::from(furthest(&records).is_some_and(|last| last % SHARDS.len() != 2));
        let store = open(folder.path());
        let after = newest(&store);
        assert!(after >= before, "seed {seed}: generation {before:?} was complete, now {after:?} is");
        before = after;
        let left: Vec<_> = [store.folder().to_owned(), store.folder().join("_commits")]
            .iter()
            .flat_map(|folder| folder.read_dir().expect("folder").map(|entry| entry.expect("entry").file_name()))
            .filter(|name| name.to_string_lossy().ends_with(".tmp"))
            .collect();
        assert!(left.is_empty(), "seed {seed}: {left:?}");
    }
    assert!(before.is_some() && kills_in_the_middle > 0, "seed {seed}: the kills came too early or too late");
}

/// How many shards were committed up to and including the furthest one there is a record of, less one.
fn furthest(records: &Path) -> Option<usize> {
    let names = records.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let place = |name: String| {
        let (shard, generation) = name.strip_suffix(".json")?.rsplit_once('-')?;
        let shard = SHARDS.iter().position(|known| *known == shard)?;
        Some(u32::from_str_radix(generation, 16).ok()? as usize * SHARDS.len() + shard)
    };
    names.filter_map(place).max()
}
