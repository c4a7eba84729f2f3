//! How long does a probe take to train, against PyTorch?
//!
//! `bench_probe` trains on demand the published classifier of tagging on 20,000 random vectors of 512 values: each line of
//! the input is a number of updates, the answer is the time of the clock in milliseconds per update. `frames` as argument:
//! windows of 562 frames with one logit, 16 at a time, as for beats. `benches/peers/probe.py` uses it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::error::Error;
use std::time::Instant;

use candle_core::Device;
use omar_stages::model::Stream;
use omar_stages::probe::ProbeError;
use omar_stages::probe::fit::{Examples, FitConfig, fit};
use omar_stages::probe::mlp::{Mlp, MlpConfig};
use omar_stages::probe::objective::Objective;

/// Values per vector.
const DIM: usize = 512;

/// Random vectors in windows.
struct Noise {
    values: Vec<f32>,
    frames: usize,
    outputs: usize,
}

impl Examples for Noise {
    fn len(&self) -> usize {
        self.values.len() / (self.frames * DIM)
    }

    fn append(&self, index: usize, _: u64, rows: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), ProbeError> {
        let size = self.frames * DIM;
        rows.extend_from_slice(&self.values[index * size..(index + 1) * size]);
        targets.extend((0..self.frames * self.outputs).map(|at| f32::from(u8::from((index + at).is_multiple_of(13)))));
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    measure::keep_freed_memory();
    let of_frames = std::env::args().nth(1).is_some_and(|word| word == "frames");
    let (vectors, frames, outputs, batch, dropout) =
        if of_frames { (64 * 562, 562, 1, 16, 0.0) } else { (20_000, 1, 50, 64, 0.2) };
    let stream = Stream::new(1, "bench_probe");
    let noise = Noise { values: (0..(vectors * DIM) as u64).map(|i| stream.normal(i)).collect(), frames, outputs };
    let network = MlpConfig { inputs: DIM, hidden: 512, layers: 2, outputs, dropout };
    println!("ready");
    for line in std::io::stdin().lines() {
        let steps: u64 = line?.trim().parse()?;
        let (warmup, weight_decay, valid_every, patience) = (10, 0.01, Some(steps), None);
        let config = FitConfig { steps, batch, lr: 1e-4, warmup, weight_decay, dropout, valid_every, patience };
        let mut quality = |_: &Mlp| -> Result<f64, ProbeError> { Ok(0.0) };
        let start = Instant::now();
        // On the pool, as the stage does.
        let fitted = rayon::scope(|_| {
            let objective = Objective::Binary { weights: Vec::new() };
            fit(&config, network, &objective, &noise, &mut quality, (7, &Device::Cpu)).map(drop)
        });
        fitted?;
        println!("{}", start.elapsed().as_secs_f64() * 1e3 / steps as f64);
    }
    Ok(())
}
