//! How long does a training step take, where does the time go, and how much memory does it need?
//!
//! `RAYON_NUM_THREADS=2 cargo run --release --workspace --example bench_train [STEPS] [KEY=VALUE..]` prints the median of
//! wall and processor time per step, the share of the machine's matrix product rate that is reached, and peak memory.
//! Keys: `dim` 256, `layers` 4, `heads` 4, `positions` 750, `minibatch` 4, `dropout` 0.2, `codes` 7776,
//! `accumulate` 1, `recompute` 0.
//!
//! `bench_train optimizer [KEY=VALUE..]` times updates of all weights alone, in turn with candle-nn's AdamW.
//!
//! `bench_train serve [KEY=VALUE..]` takes a step for every line of its input and answers with milliseconds of wall time,
//! of processor time, and the peak of resident memory in MB so far. `benches/peers/train.py` uses it.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

mod measure;

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};
use measure::{median, resident_mb, spent_ms};
use omar_stages::model::{ConformerConfig, MaskMethod, MaskedModelConfig, Masking, Norm};
use omar_stages::seed::Random;
use omar_stages::train::{
    AdamW, AdamWConfig, CropKey, Gradients, Groups, Minibatch, OptimizerConfig, Trainer, TrainerConfig,
};

/// Values per input patch: mel, 96 bins by 4 frames.
const PATCH: usize = 384;

fn main() -> Result<(), Box<dyn Error>> {
    measure::keep_freed_memory();
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mode = if arguments.first().is_some_and(|a| !a.contains('=')) { arguments.remove(0) } else { "5".into() };
    let settings: BTreeMap<String, f64> = arguments
        .iter()
        .map(|a| {
            a.split_once('=')
                .ok_or("expected KEY=VALUE")
                .and_then(|(k, v)| Ok((k.into(), v.parse().map_err(|_| "expected a number")?)))
        })
        .collect::<Result<_, _>>()?;
    let bench = Bench::new(&settings)?;
    match mode.as_str() {
        "serve" => serve(bench),
        "optimizer" => optimizer(&bench),
        steps => report(bench, steps.parse()?),
    }
}

/// A trainer and the minibatch that it sees again and again.
struct Bench {
    trainer: Trainer,
    minibatch: Minibatch,
}

impl Bench {
    fn new(settings: &BTreeMap<String, f64>) -> Result<Self, Box<dyn Error>> {
        let get = |key: &str, default: f64| settings.get(key).copied().unwrap_or(default);
        let size = |key: &str, default: f64| get(key, default) as usize;
        let (positions, batch, codes) = (size("positions", 750.0), size("minibatch", 4.0), size("codes", 7776.0));
        let layers = size("layers", 4.0);
        let conformer = ConformerConfig {
            dropout: get("dropout", 0.2),
            norm: Norm::Deepnorm { alpha: None, beta: None },
            ..ConformerConfig::new(layers, size("dim", 256.0), size("heads", 4.0))
        };
        let config = TrainerConfig {
            model: MaskedModelConfig { conformer, patch_dim: PATCH, codebook_size: codes, streams: 1 },
            masking: Masking { probability: 0.6, spans: vec![10], method: MaskMethod::Noise },
            optimizer: OptimizerConfig { lr: 1e-4, ..OptimizerConfig::default() },
            steps: 1_000_000,
            accumulate: size("accumulate", 1.0),
            recompute: size("recompute", 0.0) > 0,
        };
        let mut random = Random::new(1, &[]);
        let patches: Vec<f32> = (0..batch * positions * PATCH).map(|_| (random.uniform() * 2.0 - 1.0) as f32).collect();
        let tokens: Vec<u32> = (0..batch * positions).map(|_| random.below(codes as u64) as u32).collect();
        let minibatch = Minibatch {
            patches: Tensor::from_vec(patches, (batch, positions, PATCH), &Device::Cpu)?,
            tokens: Tensor::from_vec(tokens, (batch, positions, 1), &Device::Cpu)?,
            keys: (0..batch as u64).map(|track| CropKey { track, crop: 0 }).collect(),
        };
        Ok(Self { trainer: Trainer::new(config, &Device::Cpu, 142)?, minibatch })
    }

    /// Milliseconds of wall and of processor time of a step.
    fn step(&mut self) -> Result<(f64, f64), Box<dyn Error>> {
        let start = Instant::now();
        let cpu = spent_ms(|| self.trainer.step(&self.minibatch).map(drop))?;
        Ok((start.elapsed().as_secs_f64() * 1e3, cpu))
    }
}

fn serve(mut bench: Bench) -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lines() {
        line?;
        let (wall, cpu) = bench.step()?;
        println!("{wall} {cpu} {}", resident_mb("VmHWM"));
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn report(mut bench: Bench, steps: usize) -> Result<(), Box<dyn Error>> {
    let (mut walls, mut cpus, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    bench.step()?;
    for _ in 0..steps {
        let (wall, cpu) = bench.step()?;
        walls.push(wall);
        cpus.push(cpu);
        rates.push(matmul_rate()?);
    }
    println!("step: {:.0} ms, {:.0} ms of processor time", median(walls), median(cpus));
    println!("matrix product: {:.0} GFLOP/s; memory: {:.0} MB", median(rates), resident_mb("VmHWM"));
    Ok(())
}

/// Our update of all weights against candle-nn's, in turn.
fn optimizer(bench: &Bench) -> Result<(), Box<dyn Error>> {
    let weights = bench.trainer.model().weights();
    let config = AdamWConfig { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 1e-2 };
    let mut ours = AdamW::new(config, weights, &Groups::none())?;
    let vars: Vec<Var> = weights.parameters().values().cloned().collect();
    let params = ParamsAdamW { lr: 1e-4, weight_decay: 1e-2, ..ParamsAdamW::default() };
    let mut theirs = candle_nn::AdamW::new(vars.clone(), params)?;
    // Each weight is its own gradient.
    let mut loss = Tensor::zeros((), DType::F32, &Device::Cpu)?;
    for var in &vars {
        loss = (loss + (var.as_tensor() * var.as_detached_tensor())?.sum_all()?)?;
    }
    let store = loss.backward()?;
    let gradients: Gradients =
        weights.parameters().iter().filter_map(|(name, var)| Some((name.clone(), store.get(var)?.clone()))).collect();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..15 {
        let start = Instant::now();
        ours.step(weights, &gradients, 1e-4, 1.0)?;
        times[0].push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        theirs.step(&store)?;
        times[1].push(start.elapsed().as_secs_f64() * 1e3);
    }
    let [ours, theirs] = times.map(median);
    println!("{} weights: {ours:.1} ms, candle-nn {theirs:.1} ms, {:.1} x", weights.count(), theirs / ours);
    Ok(())
}

/// GFLOP/s of the product of two matrices of 1024 x 1024.
fn matmul_rate() -> candle_core::Result<f64> {
    let a = Tensor::ones((1024, 1024), DType::F32, &Device::Cpu)?;
    let start = Instant::now();
    for _ in 0..4 {
        a.matmul(&a)?;
    }
    Ok(4.0 * 2.0 * 1.024f64.powi(3) / start.elapsed().as_secs_f64())
}
