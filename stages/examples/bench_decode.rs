//! How fast do files become mono at 24 kHz, on one thread?
//!
//! `cargo run --release -p omar-stages --example bench_decode [--only-decode] FILE...`; `benches/peers/decode.py` runs it
//! beside librosa and ffmpeg. Prints a line per file: seconds of audio, processor seconds (Linux; elsewhere seconds),
//! and seconds of audio per second of those.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::path::Path;

use measure::spent_ms;
use omar_stages::codec::{DecodeOptions, Decoder};
use omar_stages::dsp::resample::{Method, Resampler};

const SAMPLE_RATE: u32 = 24_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    measure::keep_freed_memory();
    let mut resample = true;
    for argument in std::env::args().skip(1) {
        if argument == "--only-decode" {
            resample = false;
            continue;
        }
        let mut seconds = 0.0;
        let spent = spent_ms(|| decode(argument.as_ref(), resample).map(|found| seconds = found))? / 1e3;
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
