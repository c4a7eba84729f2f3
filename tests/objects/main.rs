//! Is a corpus in an object store, or on the web, like one on a disk? Against a real server that speaks S3, with a proxy in
//! between that counts and fails.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(unreachable_pub, reason = "its modules are its own")]

#[path = "../program/mod.rs"]
mod program;
mod proxy;
mod reading;
mod server;

use std::collections::BTreeMap;
use std::fs::File;
use std::process::Output;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{Options, Program, text, walk, write_wav};
use proxy::{Fault, Proxy};
use serde_json::{Value, json};
use server::{KEY, SECRET, Server};

/// A corpus on the disk, the same one in a store, and a proxy before that.
struct Both {
    program: Program,
    server: Server,
    proxy: Proxy,
    /// Whether everyone may read.
    open: bool,
}

impl Both {
    fn new(tracks: usize, open: bool) -> Self {
        let program = Program::new(&Options { tracks, ..Options::default() });
        let server = Server::start(open);
        for path in walk(&program.path("audio")) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            server.put(&format!("jazz/{name}"), &std::fs::read(path).unwrap());
        }
        let proxy = Proxy::before(server.address());
        Self { program, server, proxy, open }
    }

    /// `graph.yaml` with other parameters for `files`, as NAME.
    fn graph(&self, name: &str, files: &str) {
        let graph = std::fs::read_to_string(self.program.path("graph.yaml")).unwrap();
        let graph = graph
            .replace("root: audio, valid_fraction: 0.2", files)
            .replace("seed: 7\n", "seed: 7\nflow: {shard_tracks: 4}\n");
        std::fs::write(self.program.path(name), graph).unwrap();
    }

    fn output(&self, args: &[&str], secret: &str) -> Output {
        let mut command = self.program.command(args);
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", secret).env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT", self.proxy.endpoint()).env("AWS_ALLOW_HTTP", "true").env("NO_PROXY", "127.0.0.1");
        if self.open {
            command.env("AWS_SKIP_SIGNATURE", "true");
        }
        command.output().unwrap()
    }

    fn run(&self, graph: &str) -> Value {
        let output = self.output(&["run", graph, "--json"], SECRET);
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(!text(&output.stderr).contains(SECRET));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The rows of the cache, in the order of the shards, and forgets it.
    fn tokens(&self) -> BTreeMap<String, Vec<RecordBatch>> {
        let mut shards = BTreeMap::new();
        for path in walk(&self.program.path("cache"))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap().build().unwrap();
            // Metadata name the fingerprint of what was read, and that has another root.
            let bare = |batch: RecordBatch| {
                let fields = batch.schema().fields().clone();
                RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec()).unwrap()
            };
            let shard = name.rsplit_once('-').unwrap().0.to_owned();
            shards.insert(shard, reader.map(|batch| bare(batch.unwrap())).collect());
        }
        assert!(!shards.is_empty());
        self.program.clear();
        shards
    }
}

#[test]
fn tokens_are_those_of_the_same_corpus_on_a_disk() {
    let both = Both::new(12, false);
    both.graph("local.yaml", "root: audio, valid_fraction: 0.2");
    both.graph("stored.yaml", "root: 's3://music/jazz', valid_fraction: 0.2");
    assert_eq!(both.run("local.yaml")["tracks"], 12);
    let expected = both.tokens();
    assert!(both.proxy.requests().is_empty());
    assert_eq!(both.run("stored.yaml")["tracks"], 12);
    assert!(both.tokens() == expected, "the same tokens");
    // A page that fails, a connection that breaks, answers that are cut short: no row is lost.
    both.proxy.requests();
    both.proxy.fail("list-type", Fault::Status(503), 1);
    both.proxy.fail("track_003", Fault::Reset, 1);
    both.proxy.fail("track_005", Fault::Cut, 2);
    both.proxy.fail("track_007", Fault::Status(500), 2);
    let summary = both.run("stored.yaml");
    assert_eq!((&summary["tracks"], &summary["rejected"]), (&json!(12), &json!(0)), "{summary}");
    assert!(both.tokens() == expected, "the same tokens in spite of all");
    assert!(both.proxy.requests().iter().filter(|request| request.line.contains("track_007")).count() > 2);
}

#[test]
fn what_has_changed_in_a_store_is_known() {
    let both = Both::new(10, false);
    both.graph("stored.yaml", "root: 's3://music/jazz'");
    both.run("stored.yaml");
    let again = both.run("stored.yaml");
    assert_eq!(again["corpus"]["since"], json!({"new": 0, "moved": 0, "changed": 0, "removed": 0}));
    assert_eq!(again["corpus"]["cached"], 10);
    write_wav(&both.server.path("jazz/newcomer.wav"), 16_000, 3.0, 100);
    write_wav(&both.server.path("jazz/track_004.wav"), 16_000, 9.5, 101);
    std::fs::remove_file(both.server.path("jazz/track_007.wav")).unwrap();
    let since = both.run("stored.yaml")["corpus"]["since"].clone();
    assert_eq!(since, json!({"new": 1, "moved": 0, "changed": 1, "removed": 1}));
}

#[test]
fn archives_and_named_places_are_found_in_a_store() {
    let both = Both::new(6, false);
    std::fs::create_dir(both.program.path("shards")).unwrap();
    let mut archive = tar::Builder::new(File::create(both.program.path("shards/000.tar")).unwrap());
    for track in 0..4 {
        let name = format!("track_{track:03}.wav");
        archive.append_path_with_name(both.program.path(&format!("audio/{name}")), &name).unwrap();
    }
    archive.into_inner().unwrap();
    let bytes = std::fs::read(both.program.path("shards/000.tar")).unwrap();
    both.server.put("shards/000.tar", &bytes);
    both.server.put("shards/notes.txt", b"not audio");
    both.graph("local.yaml", "root: shards");
    both.graph("stored.yaml", "root: 's3://music/shards'");
    assert_eq!(both.run("local.yaml")["tracks"], 4);
    let expected = both.tokens();
    assert_eq!(both.run("stored.yaml")["tracks"], 4);
    assert!(both.tokens() == expected);
    // A folder, an archive, and two files, one of which is on the disk.
    both.server.put("rock/live/x.wav", &std::fs::read(both.program.path("audio/track_000.wav")).unwrap());
    both.server.put("rock/.hidden/y.wav", b"never taken");
    let paths =
        "paths: ['s3://music/rock', 's3://music/shards/000.tar', 's3://music/jazz/track_001.wav', audio/track_000.wav]";
    both.graph("paths.yaml", paths);
    let summary = both.run("paths.yaml");
    assert_eq!((&summary["tracks"], &summary["rejected"]), (&json!(7), &json!(0)), "{summary}");
    let listed = both.tokens();
    let names: Vec<String> = listed
        .values()
        .flatten()
        .flat_map(|batch| {
            let paths = arrow::compute::cast(batch.column_by_name("path").unwrap(), &DataType::Utf8).unwrap();
            paths
                .as_any()
                .downcast_ref::<StringArray>()
                .unwrap()
                .iter()
                .flatten()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    for name in [
        "s3://music/rock/live/x.wav",
        "s3://music/shards/000.tar/track_003.wav",
        "s3://music/jazz/track_001.wav",
        "audio/track_000.wav",
    ] {
        assert!(names.iter().any(|found| found == name), "{name} among {names:?}");
    }
}

#[test]
fn lists_are_read_from_stores_and_name_objects() {
    let both = Both::new(5, true);
    let web = both.proxy.endpoint();
    let lines = format!(
        "path,split\n{web}/music/jazz/track_000.wav,train\n{web}/music/jazz/gone.wav,train\ns3://music/jazz/track_001.wav,valid\n"
    );
    both.server.put("list.csv", lines.as_bytes());
    let paths = StringArray::from(vec!["jazz/track_002.wav", "s3://music/jazz/track_003.wav"]);
    let schema = Arc::new(Schema::new(vec![Field::new("path", DataType::Utf8, false)]));
    let mut writer =
        ArrowWriter::try_new(File::create(both.server.path("list.parquet")).unwrap(), schema.clone(), None).unwrap();
    writer.write(&RecordBatch::try_new(schema, vec![Arc::new(paths)]).unwrap()).unwrap();
    writer.close().unwrap();
    both.graph("csv.yaml", &format!("manifest: '{web}/music/list.csv'"));
    both.graph("parquet.yaml", "manifest: 's3://music/list.parquet'");
    let summary = both.run("parquet.yaml");
    assert_eq!((&summary["tracks"], &summary["rejected"]), (&json!(2), &json!(0)), "{summary}");
    // A policy of the graph does not multiply what the store was asked already: once for the list, once to read.
    let graph = std::fs::read_to_string(both.program.path("csv.yaml")).unwrap();
    let graph = graph.replace("from: tracks}", "from: tracks, on_error: {retry: {attempts: 3, wait: 10ms}}}");
    std::fs::write(both.program.path("csv.yaml"), graph).unwrap();
    both.proxy.requests();
    let summary = both.run("csv.yaml");
    assert_eq!((&summary["tracks"], &summary["rejected"]), (&json!(3), &json!(1)), "{summary}");
    assert_eq!(both.proxy.requests().iter().filter(|request| request.line.contains("gone.wav")).count(), 2);
    let run = both.program.runs().pop().unwrap();
    let shown = text(&both.output(&["inspect", run.to_str().unwrap()], SECRET).stdout);
    let expected = format!("cannot read `{web}/music/jazz/gone.wav`: 404 Not Found: there is no such object");
    assert!(shown.replace('\n', " ").contains(&expected), "{shown}");
}

#[test]
fn what_cannot_be_listed_is_said_at_the_start() {
    let both = Both::new(1, false);
    let error = |files: &str, secret: &str| {
        both.graph("wrong.yaml", files);
        let output = both.output(&["run", "wrong.yaml"], secret);
        assert!(!output.status.success());
        let stderr = text(&output.stderr);
        assert!(!stderr.contains(secret));
        stderr
    };
    let denied = error("root: 's3://music/jazz'", "wrong-secret");
    assert!(denied.contains("`s3://music/jazz`: 403 Forbidden (set AWS_ACCESS_KEY_ID"), "{denied}");
    let missing = error("root: 's3://nowhere/jazz'", SECRET);
    assert!(missing.contains("`s3://nowhere/jazz`: 404 Not Found: there is no such bucket"), "{missing}");
    let nothing = error("root: 's3://music/jaz'", SECRET);
    assert!(nothing.contains("no recordings in `s3://music/jaz`"), "{nothing}");
    let gone = error("paths: ['s3://music/jazz/gone.wav']", SECRET);
    assert!(gone.contains("`s3://music/jazz/gone.wav`"), "{gone}");
    let web = error("root: 'https://host/folder'", SECRET);
    assert!(web.contains("the web has no listing"), "{web}");
    let scheme = error("root: 'ftp://host/folder'", SECRET);
    assert!(scheme.contains("expected an address with one of s3://"), "{scheme}");

    both.graph("right.yaml", "root: 's3://music/jazz'");
    let doctor = |secret: &str| text(&both.output(&["doctor", "right.yaml"], secret).stdout);
    let well = doctor(SECRET);
    assert!(well.contains("`s3://music/jazz`: answers, and has objects there"), "{well}");
    let ill = doctor("wrong-secret");
    assert!(ill.contains("`s3://music/jazz`: 403 Forbidden\n") && ill.contains("= set AWS_ACCESS_KEY_ID"), "{ill}");
}

#[test]
fn processes_that_share_a_corpus_list_it_on_their_own() {
    let both = Both::new(8, false);
    both.graph("stored.yaml", "root: 's3://music/jazz'");
    both.run("stored.yaml");
    let expected = both.tokens();
    let output = both.output(&["run", "stored.yaml", "--processes", "2"], SECRET);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(both.tokens() == expected);
}
