//! Does a run notice what has come, changed, moved and gone, and work on nothing else?

mod program;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use program::{Options, Program, text, walk, write_wav};
use serde_json::{Value, json};

fn corpus(tracks: usize) -> Program {
    let program = Program::new(&Options { tracks, ..Options::default() });
    edit(&program, |graph| graph.replace("seed: 7\n", "seed: 7\nflow: {shard_tracks: 2}\n"));
    program
}

fn edit(program: &Program, change: impl FnOnce(String) -> String) {
    let graph = std::fs::read_to_string(program.path("graph.yaml")).expect("it was written");
    std::fs::write(program.path("graph.yaml"), change(graph)).expect("it can be written");
}

/// What a run said about its corpus.
fn said(program: &Program) -> String {
    let output = program.output(&["run", "graph.yaml"]);
    let stderr = text(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let corpus = stderr.lines().skip_while(|line| !line.starts_with("corpus: "));
    let lines: Vec<&str> = corpus.take_while(|line| line.starts_with("corpus: ") || line.contains("content")).collect();
    lines.join("\n")
}

#[test]
fn a_run_says_what_has_changed_and_works_on_that() {
    let program = corpus(30);
    assert_eq!(said(&program), "corpus: 30 tracks");
    let audio = |name: &str| program.path(&format!("audio/{name}.wav"));
    write_wav(&audio("newcomer"), 16_000, 3.0, 100);
    write_wav(&audio("track_004"), 16_000, 6.5, 101);
    std::fs::rename(audio("track_010"), audio("renamed")).expect("it was there");
    std::fs::remove_file(audio("track_020")).expect("it was there");
    let before = program.cache();
    let summary = program.json(&["run", "graph.yaml"]);
    let corpus = &summary["corpus"];
    assert_eq!(corpus["since"], json!({"new": 2, "moved": 1, "changed": 1, "removed": 2}));
    let (cached, tracks) = (corpus["cached"].as_u64().expect("a count"), corpus["tracks"].as_u64().expect("a count"));
    // Five recordings touch at most five shards of two, and a split or a join.
    assert!(tracks == 30 && (16..=27).contains(&cached), "{corpus}");
    let after = program.cache();
    let kept = after.iter().filter(|(name, bytes)| before.get(*name) == Some(bytes)).count();
    assert_eq!(summary["nodes"][5]["shards_cached"], kept);
    assert_eq!(said(&program), "corpus: 30 tracks, 30 cached; since the last run 0 new, 0 changed, 0 removed");
    // A run over a part of the corpus, or a part of the graph, forgets nothing.
    program.ok(&["run", "graph.yaml", "--limit", "3"]);
    program.ok(&["run", "graph.yaml", "--until", "mel"]);
    assert_eq!(said(&program), "corpus: 30 tracks, 30 cached; since the last run 0 new, 0 changed, 0 removed");
    program.clear();
    program.ok(&["run", "graph.yaml"]);
    assert!(program.cache() == after, "the caches are those of a run from nothing");
}

#[test]
fn equal_recordings_are_named_and_one_is_enough() {
    let program = corpus(9);
    let copy = |to: &str| {
        std::fs::copy(program.path("audio/track_002.wav"), program.path(&format!("audio/{to}.wav"))).expect("a copy");
    };
    copy("again");
    copy("and_again");
    assert_eq!(said(&program), "corpus: 11 tracks", "sizes and times say nothing about the content");
    edit(&program, |graph| graph.replace("root: audio, ", "root: audio, identity: content, "));
    let sentence = said(&program);
    assert!(sentence.contains("\n2 with the same content as another one, e.g. "), "{sentence}");
    edit(&program, |graph| graph.replace("identity: content, ", "identity: content, duplicates: drop, "));
    let summary = program.json(&["run", "graph.yaml"]);
    assert_eq!((&summary["tracks"], &summary["corpus"]["duplicates"]["left_out"]), (&json!(9), &json!(true)));
    assert_eq!(summary["corpus"]["duplicates"]["count"], 2);
}

#[test]
fn a_list_with_hashes_is_trusted() {
    let program = corpus(4);
    let list = |last: &str| {
        let lines = ["path,hash,bytes", "track_000.wav,a,1", "track_001.wav,b,2", "track_002.wav,c,3", last];
        std::fs::write(program.path("audio/list.csv"), lines.join("\n")).expect("it can be written");
    };
    list("track_003.wav,c,3");
    edit(&program, |graph| graph.replace("root: audio, ", "manifest: audio/list.csv, "));
    assert_eq!(
        said(&program),
        "corpus: 4 tracks\n1 with the same content as another one, e.g. track_002.wav = track_003.wav"
    );
    // Another time says nothing, another hash does.
    write_wav(&program.path("audio/track_001.wav"), 16_000, 5.0, 77);
    list("track_003.wav,d,4");
    assert_eq!(
        said(&program).lines().next(),
        Some("corpus: 4 tracks, 2 cached; since the last run 0 new, 1 changed, 0 removed")
    );
    list("track_000.wav,a,1\ntrack_003.wav,d,4\n/missing/id.wav,e,none");
    let output = program.output(&["run", "graph.yaml"]);
    let stderr = text(&output.stderr);
    assert!(stderr.contains("line 7: expected `bytes` as a whole number, found `none`"), "{stderr}");
}

#[test]
#[cfg(unix)]
fn watching_works_on_what_arrives_until_it_is_stopped() {
    let program = corpus(5);
    let mut command = program.command(&["run", "graph.yaml", "--watch=1", "--json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let shards = || {
        let rows =
            walk(&program.path("cache")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "parquet"));
        rows.count()
    };
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(60), "{what} takes too long");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let snapshot =
        || walk(&program.path("cache/_corpus")).into_iter().next().and_then(|path| std::fs::metadata(path).ok());
    wait("the first round", &|| snapshot().is_some());
    let (before, first) = (shards(), snapshot().and_then(|file| file.modified().ok()));
    for track in 0..6 {
        write_wav(&program.path(&format!("audio/later_{track}.wav")), 16_000, 3.0, 50 + track);
    }
    wait("the second round", &|| shards() > before && snapshot().and_then(|file| file.modified().ok()) > first);
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    let rounds: Vec<Value> =
        serde_json::Deserializer::from_str(&stdout).into_iter().map(|v| v.expect("JSON")).collect();
    let counts = |round: &Value| (round["corpus"]["tracks"].as_u64(), round["corpus"]["since"]["new"].as_u64());
    assert_eq!(rounds.iter().map(counts).collect::<Vec<_>>(), [(Some(5), None), (Some(11), Some(6))], "{stderr}");
    let refused = program.output(&["run", "graph.yaml", "--watch", "--processes", "2"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn an_archive_is_a_folder() {
    let program = corpus(6);
    let plain = program.json(&["run", "graph.yaml"]);
    let contents = |program: &Program| -> Vec<Vec<u8>> { program.cache().into_values().collect() };
    assert_eq!(contents(&program).len(), plain["shards"].as_u64().expect("a count") as usize);
    program.clear();
    // A shard as WebDataset writes it: recordings with their descriptions beside them.
    let files: Vec<PathBuf> = walk(&program.path("audio"));
    let mut builder = tar::Builder::new(std::fs::File::create(program.path("audio/train-000.tar")).expect("a file"));
    for (number, file) in files.iter().enumerate() {
        builder.append_path_with_name(file, format!("{number:03}.wav")).expect("a member");
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        builder.append_data(&mut header, format!("{number:03}.json"), &b"{}"[..]).expect("a member");
        std::fs::remove_file(file).expect("it was there");
    }
    builder.into_inner().expect("the end");
    let archived = program.json(&["run", "graph.yaml"]);
    let rows = |summary: &Value| (summary["tracks"].clone(), summary["nodes"][5]["rows_out"].clone());
    assert_eq!(rows(&archived), rows(&plain));
    assert_eq!(archived["codebooks"], plain["codebooks"], "the same tokens");
    assert_eq!(said(&program), "corpus: 6 tracks, 6 cached; since the last run 0 new, 0 changed, 0 removed");
    // Cut short, it is one recording that cannot be used.
    let bytes = std::fs::read(program.path("audio/train-000.tar")).expect("an archive");
    std::fs::write(program.path("audio/train-000.tar"), &bytes[..bytes.len() / 2]).expect("it can be written");
    let output = program.output(&["run", "graph.yaml"]);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("train-000.tar"), "{}", text(&output.stdout));
}
