//! Does everything that cannot be read become a row of the quarantine, and nothing else?

mod program;

use std::fs;

use omar_schemas::{Edge, Reject, column};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{Options, Program, walk};

/// Bytes that are not the audio that their name promises.
fn odd_files(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let patched = |at: usize, bytes: &[u8]| {
        let mut file = good.to_vec();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    vec![
        ("empty.wav", Vec::new()),
        ("empty.mp3", Vec::new()),
        ("one_byte.flac", vec![0x66]),
        ("text.mp3", b"this is not music, but it is a file\n".repeat(50)),
        ("text.ogg", b"OggS is how it should begin".to_vec()),
        ("header_only.wav", good[..44].to_vec()),
        ("half_a_header.wav", good[..20].to_vec()),
        ("cut.wav", good[..good.len() / 2].to_vec()),
        ("rate_zero.wav", patched(24, &0u32.to_le_bytes())),
        ("rate_huge.wav", patched(24, &u32::MAX.to_le_bytes())),
        ("no_channels.wav", patched(22, &0u16.to_le_bytes())),
        ("many_channels.wav", patched(22, &u16::MAX.to_le_bytes())),
        ("data_1_gib.wav", patched(40, &(1u32 << 30).to_le_bytes())),
        ("bits_zero.wav", patched(34, &0u16.to_le_bytes())),
        ("wavpack.wav", [b"wvpk".as_slice(), &[7; 4000]].concat()),
        ("tak.mp3", [b"tBaK".as_slice(), &[9; 4000]].concat()),
        ("zeros.m4a", vec![0; 5000]),
        ("noise.flac", (0..9000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()),
    ]
}

#[test]
fn odd_files_become_rows_and_the_others_are_used() {
    // More good files than odd ones: a corpus that is mostly rejected is an error.
    let program = Program::new(&Options { tracks: 24, ..Options::default() });
    let good = fs::read(program.path("audio/track_000.wav")).expect("a good file");
    let odd = odd_files(&good);
    for (name, bytes) in &odd {
        fs::write(program.path(&format!("audio/{name}")), bytes).expect("the folder is there");
    }
    let summary = program.json(&["run", "graph.yaml"]);
    assert_eq!(summary["rejected"].as_u64(), Some(odd.len() as u64), "{:#}", summary["rejects"]);
    let mut rejected = Vec::new();
    for file in walk(&program.runs()[0].join("quarantine")) {
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(fs::File::open(file).expect("opens")).expect("is parquet");
        assert!(Reject::spec(reader.schema()).is_ok(), "the file says what it holds");
        for batch in reader.build().expect("reads") {
            let batch = batch.expect("reads");
            let text = |name| column::<arrow::array::StringArray>(&batch, name).expect("column").clone();
            for row in 0..batch.num_rows() {
                assert_eq!(text("stage").value(row), "decode");
                assert!(!text("class").value(row).is_empty() && text("message").value(row).len() > 10);
                rejected.push(text("path").value(row).to_owned());
            }
        }
    }
    rejected.sort();
    let mut expected: Vec<String> = odd.iter().map(|(name, _)| (*name).to_owned()).collect();
    expected.sort();
    assert_eq!(rejected, expected);
    let again = program.json(&["run", "graph.yaml"]);
    assert_eq!(again["rejected"], summary["rejected"], "a cached run knows them too");
}

#[test]
fn on_error_fail_ends_the_run_and_drop_only_counts() {
    let program = Program::new(&Options::default());
    fs::write(program.path("audio/text.mp3"), "not music").expect("the folder is there");
    let graph = fs::read_to_string(program.path("graph.yaml")).expect("the graph");
    let with = |policy: &str| {
        let node = format!("{{stage: decode, from: tracks, on_error: {policy}}}");
        fs::write(program.path("graph.yaml"), graph.replace("{stage: decode, from: tracks}", &node)).expect("written");
    };
    with("fail");
    let output = program.output(&["run", "graph.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(program::text(&output.stderr).contains("text.mp3"), "{}", program::text(&output.stderr));
    with("drop");
    program.clear();
    assert_eq!(program.json(&["run", "graph.yaml"])["rejected"], 0);
}
