//! How long do features and tokens of one 30 s crop at 24 kHz take, on one thread?
//!
//! `cargo run --release -p omar-stages --example bench_features [ROUNDS] [VIEW]`; ROUNDS is 40 unless given, and with a
//! VIEW such as `cqt` only that one is timed, without tokens. Prints the median and the fastest round and, on Linux, the
//! mean processor time, which other programs disturb less; all in milliseconds per crop. The last column is seconds of
//! audio per second of processor time.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::time::Instant;

use candle_core::Device;
use measure::processor_ms;
use omar_stages::dsp::cqt::CqtConfig;
use omar_stages::dsp::mel::MelConfig;
use omar_stages::dsp::patch::PatchShape;
use omar_stages::dsp::view::{ViewConfig, WaveformConfig};
use omar_stages::quantize::finite_scalar::Bound;
use omar_stages::quantize::{FiniteScalar, FiniteScalarConfig, Quantizer, RandomProjection, RandomProjectionConfig};

const CROP_S: f64 = 30.0;
const SAMPLES: usize = 720_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    measure::keep_freed_memory();
    let rounds = std::env::args().nth(1).map_or(Ok(40), |rounds| rounds.parse())?;
    let only = std::env::args().nth(2);
    let samples: Vec<f32> = noise(SAMPLES);
    let [a, b, c, d, e] = ["one 30 s crop at 24 kHz", "median ms", "best ms", "cpu ms", "x real time"];
    println!("{a:32} {b:>10} {c:>10} {d:>10} {e:>12}");

    let mut patches = Vec::new();
    for (name, config, frames) in [
        ("mel 512/320/96", ViewConfig::Mel(MelConfig::mel_24k()), 3),
        ("cqt 320/188", ViewConfig::Cqt(CqtConfig::cqt_24k()), 3),
        ("waveform", ViewConfig::Waveform(WaveformConfig::default()), 960),
    ] {
        if only.as_ref().is_some_and(|only| only != config.name()) {
            continue;
        }
        let mut view = config.build(&Device::Cpu)?;
        let mut out = vec![0.0; view.frames(SAMPLES) * view.bins()];
        time(name, rounds, || view.forward_into(&samples, &mut out))?;
        if only.is_some() {
            continue;
        }
        let shape = PatchShape::new(frames, view.bins())?;
        let mut cut = vec![0.0; 750 * shape.values()];
        time(&format!("{name}, patches at 25 Hz"), rounds, || shape.cut_into(&out, &mut cut))?;
        patches.push((name, shape.values(), cut));
    }

    for (name, input_len, patches) in &patches {
        for (codebooks, codebook_size) in [(1, 8192), (4, 8192), (16, 8192), (16, 2048), (1, 32_768)] {
            let config = RandomProjectionConfig { input_len: *input_len, codebooks, codebook_size, codebook_dim: 16 };
            let mut quantizer = RandomProjection::seeded(config, 0)?;
            let mut tokens = vec![0; 750 * codebooks];
            let what = format!("{name}, {codebooks} x {codebook_size} x 16");
            time(&what, rounds, || quantizer.forward_into(patches, &mut tokens))?;
        }
        let config = FiniteScalarConfig { input_len: *input_len, levels: vec![6; 5], bound: Bound::Symmetric };
        let mut quantizer = FiniteScalar::seeded(config, 0)?;
        let mut tokens = vec![0; 750];
        time(&format!("{name}, FSQ 6^5"), rounds, || quantizer.forward_into(patches, &mut tokens))?;
    }
    Ok(())
}

/// Runs `work` a few times to warm up, then `rounds` times against the clock.
fn time<E>(name: &str, rounds: usize, mut work: impl FnMut() -> Result<(), E>) -> Result<(), E> {
    for _ in 0..3 {
        work()?;
    }
    let mut times = Vec::with_capacity(rounds);
    let cpu = processor_ms();
    for _ in 0..rounds {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = cpu.zip(processor_ms()).map(|(before, after)| (after - before) / rounds as f64);
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    let cpu_text = cpu.map_or("-".to_string(), |ms| format!("{ms:.3}"));
    let rate = CROP_S * 1e3 / cpu.unwrap_or(median);
    println!("{name:32} {median:>10.3} {best:>10.3} {cpu_text:>10} {rate:>12.0}");
    Ok(())
}

/// White noise in [-0.5, 0.5).
fn noise(len: usize) -> Vec<f32> {
    let mut random = omar_stages::seed::Random::new(1, &[]);
    (0..len).map(|_| random.uniform() as f32 - 0.5).collect()
}
