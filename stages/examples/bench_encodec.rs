//! How long does the EnCodec encoder of the published size take for 30 s of audio, on one core?
//!
//! `RAYON_NUM_THREADS=1 cargo run --release -p omar-stages --example bench_encodec [ROUNDS]`; ROUNDS is 3 unless given.
//! The weights are random. Prints processor time per crop (the median of rounds that alternate between batches of 1,
//! 4 and 12 and the matrix product of 1024 x 1024), the share of that product's rate, and memory.
//!
//! `bench_encodec serve FOLDER` encodes with the weights of a folder instead, on demand: each line of the input names the
//! number of crops and two files of raw little-endian f32, one with the samples of a crop and one for its output. The
//! answer is the processor time in milliseconds per crop. `benches/peers/encodec.py` uses it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use measure::{median, resident_mb, spent_ms};
use omar_stages::encodec::Encodec;
use omar_stages::seed::Random;
use safetensors::tensor::{Dtype, TensorView};

const SAMPLES: usize = 720_000;
/// Multiply-adds per sample of the convolutions, and of the LSTM per frame.
const CONVOLUTIONS: f64 = 224.0 + 7168.0 + 14_336.0 + 114_688.0 / 8.0 + 458_752.0 / 40.0 + 458_752.0 / 320.0;
const LSTM: f64 = 2.0 * 8.0 * 512.0 * 512.0;
/// Matrix products per round, so that a round of them takes as long as a crop.
const MATMULS: usize = 50;
const BATCHES: [usize; 3] = [1, 4, 12];

fn main() -> Result<(), Box<dyn Error>> {
    measure::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|mode| mode == "serve") {
        return serve(Path::new(arguments.get(1).ok_or("serve what?")?));
    }
    let rounds: usize = arguments.first().map_or(Ok(3), |rounds| rounds.parse())?;
    if std::env::var("RAYON_NUM_THREADS").as_deref() != Ok("1") {
        return Err("set RAYON_NUM_THREADS=1: the matrix product is measured on one core".into());
    }
    let folder = tempfile::tempdir()?;
    write_random(folder.path())?;
    let encoder = Encodec::load(folder.path(), &Device::Cpu)?;
    println!("{} weights, {:.1} GFLOP per crop", encoder.parameters(), gflop());

    let audio: Vec<Vec<f32>> = (0..12).map(noise).collect();
    let crops: Vec<&[f32]> = audio.iter().map(Vec::as_slice).collect();
    let mut out = vec![0.0; crops.len() * encoder.frames(SAMPLES) * encoder.bins()];
    let values = out.len() / crops.len();
    let mut encode = |batch: usize| encoder.encode(&crops[..batch], &mut out[..batch * values]);
    for batch in BATCHES {
        // Forgets the peak so far, which reading the weights made.
        std::fs::write("/proc/self/clear_refs", "5").ok();
        encode(batch)?;
        println!("batch {batch}: {:.0} MB of memory in all, weights and audio included", resident_mb("VmHWM"));
    }
    let (mut times, mut products) = ([const { Vec::new() }; BATCHES.len()], Vec::new());
    for _ in 0..rounds {
        for (batch, times) in BATCHES.into_iter().zip(&mut times) {
            times.push(spent_ms(|| encode(batch))? / batch as f64);
        }
        products.push(matmul()?);
    }
    let peak = 2.0 * 1.024f64.powi(3) / median(products) * 1e3;
    println!("matrix product: {peak:.1} GFLOP/s");
    for (batch, ms) in BATCHES.into_iter().zip(times.map(median)) {
        let rate = gflop() / ms * 1e3;
        println!(
            "batch {batch}: {ms:.0} ms per 30 s crop, {rate:.1} GFLOP/s, {:.0} % of the matrix product",
            1e2 * rate / peak
        );
    }
    Ok(())
}

/// Work per crop, in units of 10^9 multiplications and additions.
fn gflop() -> f64 {
    let samples = SAMPLES as f64;
    2e-9 * (CONVOLUTIONS * samples + LSTM * samples / 320.0)
}

/// Encodes what the input asks for, until it ends.
fn serve(folder: &Path) -> Result<(), Box<dyn Error>> {
    let encoder = Encodec::load(folder, &Device::Cpu)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        let [batch, input, output] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return Err(format!("`{line}` is not BATCH INPUT OUTPUT").into());
        };
        let batch: usize = batch.parse()?;
        let bytes = std::fs::read(input)?;
        let samples: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
        let crops = vec![&samples[..]; batch];
        let mut out = vec![0.0; batch * encoder.frames(samples.len()) * encoder.bins()];
        let ms = spent_ms(|| encoder.encode(&crops, &mut out))? / batch as f64;
        let first = &out[..out.len() / batch];
        std::fs::write(output, first.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
        println!("{ms}");
    }
    Ok(())
}

/// Processor time of a matrix product of candle, in milliseconds.
fn matmul() -> Result<f64, candle_core::Error> {
    let a = Tensor::ones((1024, 1024), DType::F32, &Device::Cpu)?;
    let all = spent_ms(|| (0..MATMULS).try_for_each(|_| a.matmul(&a).map(drop)))?;
    Ok(all / MATMULS as f64)
}

fn noise(crop: u64) -> Vec<f32> {
    let mut random = Random::new(1, &[crop]);
    (0..SAMPLES).map(|_| random.uniform() as f32 - 0.5).collect()
}

/// A folder in the published layout with plain random weights.
fn write_random(folder: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::write(folder.join("config.json"), "{}")?;
    let mut random = Random::new(2, &[]);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>, fan_in: usize| {
        let bound = 1.0 / (fan_in as f64).sqrt();
        let values =
            (0..shape.iter().product()).flat_map(|_| (((random.uniform() * 2.0 - 1.0) * bound) as f32).to_le_bytes());
        tensors.insert(name, (shape, values.collect()));
    };
    let mut convolution = |name: String, in_channels: usize, out_channels: usize, kernel: usize| {
        let fan_in = in_channels * kernel;
        add(format!("encoder.layers.{name}.conv.weight"), vec![out_channels, in_channels, kernel], fan_in);
        add(format!("encoder.layers.{name}.conv.bias"), vec![out_channels], fan_in);
    };
    convolution("0".into(), 1, 32, 7);
    for (stage, ratio) in [2, 4, 5, 8].into_iter().enumerate() {
        let (channels, layer) = (32 << stage, 3 * stage + 1);
        convolution(format!("{layer}.block.1"), channels, channels / 2, 3);
        convolution(format!("{layer}.block.3"), channels / 2, channels, 1);
        convolution(format!("{layer}.shortcut"), channels, channels, 1);
        convolution(format!("{}", layer + 2), channels, 2 * channels, 2 * ratio);
    }
    convolution("15".into(), 512, 128, 7);
    for layer in 0..2 {
        for part in ["ih", "hh"] {
            add(format!("encoder.layers.13.lstm.weight_{part}_l{layer}"), vec![2048, 512], 512);
            add(format!("encoder.layers.13.lstm.bias_{part}_l{layer}"), vec![2048], 512);
        }
    }
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None)?)?;
    Ok(())
}
