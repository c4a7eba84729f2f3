//! What a catalogue of millions of recordings costs: a synthetic list, read as a run reads it, and what a later run
//! makes of some changes to it.
//!
//! ```text
//! cargo run --release --example catalogue_at_scale -- 6600000 3000
//! ```
//! Needs a few hundred megabytes below the folder for temporary files.

#![allow(clippy::print_stdout, reason = "a program for people")]

use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use omar_flow::Plan;
use omar_flow::catalogue::{Delta, Snapshot};
use omar_flow::corpus;
use parquet::arrow::ArrowWriter;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| arguments.next().map_or(Ok(default), |text| text.parse());
    let (tracks, changes) = (number(1_000_000)?, number(3_000)?);
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("tracks.parquet");
    let graph = folder.path().join("graph.yaml");
    std::fs::write(
        &graph,
        format!(
            "omar: 1\nname: scale\nseed: 1\nnodes:\n  tracks: {{stage: files, params: {{manifest: \"{}\"}}}}\n  audio: \
             {{stage: decode, from: tracks}}\n",
            list.display()
        ),
    )?;
    let plan = Plan::load(&graph, &[], &omar_stages::ops::registry()).map_err(|report| format!("{report:?}"))?;
    println!("{:<44} {:>9} {:>12}", "", "seconds", "resident MB");
    step("a list of this many, as parquet", || write_list(&list, tracks, None))?;
    let before = step("read and cut into shards", || Ok(corpus::list(&plan, None)?))?;
    step("names of all shards", || Ok(before.shards.iter().map(|shard| shard.key(&[0]).stem().len()).sum::<usize>()))?;
    let snapshot = folder.path().join("tracks.snapshot");
    step("the snapshot, written", || Ok(Snapshot::write(&snapshot, before.catalogue().list(0))?))?;
    let shards = before.shards.len();
    drop(before);
    step("the list of a later day", || write_list(&list, tracks, Some(tracks / changes.max(1))))?;
    let now = step("read and cut into shards", || Ok(corpus::list(&plan, None)?))?;
    let snapshot = step("the snapshot, read", || Ok(Snapshot::read(&snapshot)?.ok_or("it was written")?))?;
    let delta = step("what has changed", || Ok(Delta::between(&snapshot, now.catalogue().list(0))))?;
    println!(
        "\n{tracks} recordings in {shards} shards, then {}: {} new, {} changed, {} removed",
        now.tracks(),
        delta.new.len(),
        delta.changed.len(),
        delta.removed.len()
    );
    println!("resident at most: {:.0} MB", memory("VmHWM:"));
    Ok(())
}

/// Does something, and says what it took and what is resident then.
fn step<T>(what: &str, work: impl FnOnce() -> Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let started = Instant::now();
    let result = work()?;
    println!("{what:<44} {:>9.3} {:>12.0}", started.elapsed().as_secs_f64(), memory("VmRSS:"));
    Ok(result)
}

/// Megabytes of this process, where the system says so (Linux).
fn memory(field: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kilobytes| kilobytes.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

/// Writes a list with `path`, `hash` and `bytes`. Of every `one_in` recordings one is changed, or gone, or new: in turn.
fn write_list(path: &Path, tracks: u64, one_in: Option<u64>) -> Result<(), Box<dyn Error>> {
    let mut writer: Option<ArrowWriter<File>> = None;
    let (mut paths, mut hashes, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for track in 0..tracks {
        let turn = one_in.filter(|one_in| track % one_in == 0).map(|one_in| track / one_in % 3);
        let name = |track: u64| format!("{:02}/{:03}/{track:010}.mp3", track % 100, track / 100 % 1000);
        match turn {
            Some(0) => continue,
            Some(1) => paths.push(name(track + tracks)),
            _ => paths.push(name(track)),
        }
        hashes.push(format!("{:016x}", track.wrapping_mul(0x9e37_79b9_7f4a_7c15) + u64::from(turn == Some(2))));
        bytes.push(4_000_000 + track % 1000);
        if paths.len() == 1 << 16 || track + 1 == tracks {
            let columns: [(&str, ArrayRef); 3] = [
                ("path", Arc::new(StringArray::from(std::mem::take(&mut paths)))),
                ("hash", Arc::new(StringArray::from(std::mem::take(&mut hashes)))),
                ("bytes", Arc::new(UInt64Array::from(std::mem::take(&mut bytes)))),
            ];
            let batch = RecordBatch::try_from_iter(columns)?;
            let open = || ArrowWriter::try_new(File::create(path)?, batch.schema(), None);
            let mut file = writer.take().map_or_else(open, Ok)?;
            file.write(&batch)?;
            writer = Some(file);
        }
    }
    writer.map(ArrowWriter::close).transpose()?;
    Ok(())
}
