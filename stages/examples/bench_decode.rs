//! How fast do files become mono at 24 kHz, on one thread?
//!
//! `cargo run --release -p omar-stages --example bench_decode [--only-decode] FILE...`; `benches/peers/decode.py` runs it
//! beside librosa and ffmpeg. Prints a line per file: seconds of audio, processor seconds (Linux; elsewhere seconds),
//! and seconds of audio per second of those.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::path::Path;
use std::time::Instant;

use omar_stages::codec::{DecodeOptions, Decoder};
use omar_stages::dsp::resample::{Method, Resampler};

const SAMPLE_RATE: u32 = 24_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut resample = true;
    for argument in std::env::args().skip(1) {
        if argument == "--only-decode" {
            resample = false;
            continue;
        }
        let (wall, cpu) = (Instant::now(), processor_s());
        let seconds = decode(argument.as_ref(), resample)?;
        let spent = processor_s().zip(cpu).map_or(wall.elapsed().as_secs_f64(), |(now, then)| now - then);
        println!("{seconds:10.2} {spent:10.4} {:10.0}  {argument}", seconds / spent);
    }
    Ok(())
}

/// Decodes the file at `path` block by block and gives its length in seconds.
fn decode(path: &Path, resample: bool) -> Result<f64, Box<dyn std::error::Error>> {
    let mut decoder = Decoder::open(path, &DecodeOptions::default())?;
    let sample_rate = decoder.info().sample_rate;
    let mut resampler = Resampler::new(sample_rate, SAMPLE_RATE, Method::Fft)?;
    let (mut block, mut out, mut len) = (Vec::new(), Vec::new(), 0);
    while decoder.next_block(&mut block)? {
        len += block.len();
        if resample {
            out.clear();
            resampler.push(&block, &mut out)?;
        }
    }
    resampler.finish(&mut out)?;
    Ok(len as f64 / f64::from(sample_rate))
}

/// Processor time of this thread so far, in seconds, where the system tells.
fn processor_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(stat.split_ascii_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}
