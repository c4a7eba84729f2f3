//! Decodes every file below `OMAR_TORTURE` and prints what came of it, one line per file: for use by hand, against
//! collections that are too big or too odd to commit.
//!
//! ```text
//! OMAR_TORTURE=/music cargo test --release -p omar-stages --test torture -- --ignored --nocapture
//! ```
//!
//! Fails on a panic, and on a file that takes longer than a minute.

use std::io::Write as _;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use omar_stages::codec::{DecodeError, DecodeOptions, Decoder};

const TIME_LIMIT: Duration = Duration::from_secs(60);

fn decode(path: &std::path::Path) -> Result<String, DecodeError> {
    let mut decoder = Decoder::open(path, &DecodeOptions::default())?;
    let (mut block, mut len, mut peak) = (Vec::new(), 0, 0.0f32);
    while decoder.next_block(&mut block)? {
        len += block.len();
        peak = block.iter().fold(peak, |peak, sample| peak.max(sample.abs()));
    }
    let (info, faults) = (decoder.info(), decoder.faults());
    let declared = info.declared_len.map_or("-".to_owned(), |declared| declared.to_string());
    Ok(format!(
        "{len}\t{}\t{}\t{}/{}\tdeclared {declared}\tpeak {peak:.3}\tfaults {}/{}",
        info.sample_rate, info.channels, info.container, info.codec, faults.count, faults.samples
    ))
}

#[test]
#[ignore = "reads the folder in OMAR_TORTURE"]
fn no_file_panics_or_hangs() {
    let root = PathBuf::from(std::env::var_os("OMAR_TORTURE").expect("OMAR_TORTURE names a folder"));
    let mut bad = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name().into_iter().filter_map(Result::ok) {
        if !entry.file_type().is_file() {
            continue;
        }
        let (send, receive) = mpsc::channel();
        let path = entry.path().to_owned();
        let begun = Instant::now();
        std::thread::spawn(move || send.send(catch_unwind(|| decode(&path))));
        let outcome = match receive.recv_timeout(TIME_LIMIT) {
            Ok(Ok(Ok(line))) => format!("ok\t{line}"),
            Ok(Ok(Err(error))) => format!("{}\t{error}", error.class()),
            Ok(Err(_)) => "PANIC".to_owned(),
            Err(_) => "HANG".to_owned(),
        };
        if outcome == "PANIC" || outcome == "HANG" {
            bad.push(entry.path().to_owned());
        }
        let seconds = begun.elapsed().as_secs_f64();
        writeln!(std::io::stdout(), "{}\t{outcome}\t{seconds:.3}", entry.path().display()).expect("stdout is open");
    }
    assert!(bad.is_empty(), "{bad:?}");
}
