//! Does a GPU compute what the CPU computes, and how fast?
//!
//! `cargo run --release --workspace --features cuda --example check_cuda [KEY=VALUE..]` compares values and gradients of
//! every operation, composed of candle's operations, with products in bf16, and by the fused kernels, with the kernels for
//! the CPU; then times them at a published size, and whole training steps. It ends with status 1 if anything is off.
//! `OMAR_DEVICE` chooses the device: `cuda:0` unless it says otherwise; `cpu` checks the composed forms there.
//! Keys: `minibatch` 8, `positions` 750, `dim` 512, `heads` 8, `layers` 12, `codes` 8192, `steps` 10.

#![allow(clippy::print_stdout, reason = "the table is the result")]

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use omar_stages::device;
use omar_stages::model::op::{self, AttentionShape};
use omar_stages::model::{
    Angles, ConformerConfig, Form, MaskMethod, MaskedModelConfig, Masking, Norm, Pass, Precision, Stream,
    rotary_frequencies,
};
use omar_stages::train::{CropKey, Minibatch, OptimizerConfig, Trainer, TrainerConfig, head_loss};

/// Values per input patch: mel, 96 bins by 4 frames.
const PATCH: usize = 384;
const EPS: f64 = 6.1e-5;

/// One way to compute, and how far from the CPU it may be: the largest difference over the largest magnitude.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    form: Form,
    fused: bool,
    tolerance: f32,
}

/// f32 sums in another order differ by some 1e-6; bf16 rounds to 4e-3.
const WAYS: [Way; 4] = [
    Way { name: "composed", form: Form::Composed, fused: false, tolerance: 1e-4 },
    Way { name: "fused", form: Form::Composed, fused: true, tolerance: 1e-4 },
    Way { name: "bf16", form: Form::Mixed, fused: false, tolerance: 3e-2 },
    Way { name: "bf16 fused", form: Form::Mixed, fused: true, tolerance: 3e-2 },
];

fn switch(fused: bool) {
    #[cfg(feature = "cuda")]
    omar_stages::model::use_cuda_kernels(fused);
    let _no_kernels_to_switch = fused;
}

fn main() -> std::result::Result<ExitCode, Box<dyn Error>> {
    let settings: BTreeMap<String, usize> = std::env::args()
        .skip(1)
        .map(|a| {
            let (key, value) = a.split_once('=').ok_or("expected KEY=VALUE")?;
            Ok((key.to_owned(), value.parse()?))
        })
        .collect::<std::result::Result<_, Box<dyn Error>>>()?;
    let get = |key: &str, default: usize| settings.get(key).copied().unwrap_or(default);
    let name = std::env::var("OMAR_DEVICE").unwrap_or_else(|_| "cuda:0".to_owned());
    let device = device::open(&name)?;
    match device::gpus() {
        Ok(gpus) if device.is_cuda() => gpus.iter().for_each(|gpu| println!("{gpu:?}")),
        _ => println!("on the CPU"),
    }
    let ways: Vec<Way> = WAYS.into_iter().filter(|way| !way.fused || device.is_cuda()).collect();

    println!("\nlargest difference from the CPU, of values and gradients");
    let small = Sizes { minibatch: 3, positions: 53, dim: 48, heads: 3, codes: 97 };
    let mut wrong = 0;
    for operation in operations(&small) {
        let expected = operation.run(&Device::Cpu, Form::Kernels)?;
        for way in &ways {
            switch(way.fused);
            let found = operation.run(&device, way.form)?;
            let off = found.iter().zip(&expected).map(|(f, e)| distance(f, e)).collect::<Result<Vec<_>>>()?;
            let worst = off.into_iter().fold(0f32, f32::max);
            // A comparison with NaN is false.
            let verdict = if worst < way.tolerance { "ok" } else { "WRONG" };
            wrong += usize::from(verdict != "ok");
            println!("{verdict:>5}  {:<24} {:<12} {worst:.1e}", operation.name, way.name);
        }
    }

    let sizes = Sizes {
        minibatch: get("minibatch", 8),
        positions: get("positions", 750),
        dim: get("dim", 512),
        heads: get("heads", 8),
        codes: get("codes", 8192),
    };
    let (steps, layers) = (get("steps", 10).max(1), get("layers", 12));
    println!(
        "\nmilliseconds, forward and back, median of {steps}: {} x {} positions of {}",
        sizes.minibatch, sizes.positions, sizes.dim
    );
    let heads: Vec<String> = ways.iter().map(|way| format!("{:>12}", way.name)).collect();
    println!("{:<24} {}", "", heads.join(" "));
    for operation in operations(&sizes) {
        print_row(operation.name, &ways, |way| median(steps, &device, || operation.run_silent(&device, way.form)))?;
    }
    print_row("training step", &ways, |way| {
        let mut trainer = trainer(&sizes, layers, &device, way.form)?;
        let minibatch = minibatch(&sizes)?;
        median(steps, &device, || trainer.step(&minibatch).map(drop).map_err(candle_core::Error::wrap))
    })?;
    if wrong > 0 {
        println!("\n{wrong} comparisons are off");
        return Ok(ExitCode::FAILURE);
    }
    println!("\nall comparisons are within their tolerance");
    Ok(ExitCode::SUCCESS)
}

fn print_row(name: &str, ways: &[Way], mut time: impl FnMut(Way) -> Result<f64>) -> Result<()> {
    let mut row = format!("{name:<24}");
    for way in ways {
        switch(way.fused);
        row += &format!(" {:>12.3}", time(*way)?);
    }
    println!("{row}");
    Ok(())
}

/// Median milliseconds, after two rounds of warming up.
fn median(rounds: usize, device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for round in 0..rounds + 2 {
        device.synchronize()?;
        let start = Instant::now();
        run()?;
        device.synchronize()?;
        if round >= 2 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

struct Sizes {
    minibatch: usize,
    positions: usize,
    dim: usize,
    heads: usize,
    codes: usize,
}

type Compute = Box<dyn Fn(&[Tensor], Form) -> Result<Vec<Tensor>>>;

/// An operation on inputs of given shapes; it gives a value and gradients.
struct Operation {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    compute: Compute,
}

/// Tensors, and the shapes that they were drawn for.
type Inputs = (Vec<Vec<usize>>, Vec<Tensor>);

impl Operation {
    fn run(&self, device: &Device, form: Form) -> Result<Vec<Tensor>> {
        let inputs = self.shapes.iter().enumerate().map(|(i, shape)| {
            let value = normal(&format!("input {i}"), shape)?.to_device(device)?;
            Ok(Var::from_tensor(&value)?.as_tensor().clone())
        });
        (self.compute)(&inputs.collect::<Result<Vec<_>>>()?, form)
    }

    /// The inputs are drawn once per run: their time is part of none of the differences between ways.
    fn run_silent(&self, device: &Device, form: Form) -> Result<()> {
        thread_local!(static INPUTS: std::cell::RefCell<Option<Inputs>> = const { std::cell::RefCell::new(None) });
        INPUTS.with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.as_ref().is_none_or(|(shapes, _)| *shapes != self.shapes) {
                let draw = |shape: &Vec<usize>| -> Result<Tensor> {
                    Ok(Var::from_tensor(&normal("input", shape)?.to_device(device)?)?.as_tensor().clone())
                };
                *kept = Some((self.shapes.clone(), self.shapes.iter().map(draw).collect::<Result<_>>()?));
            }
            let inputs = &kept.as_ref().expect("they were just drawn").1;
            (self.compute)(inputs, form).map(drop)
        })
    }
}

/// Value and gradients of `f`, which is differentiated along an arbitrary direction.
fn differentiated(f: impl Fn(&[Tensor], Form) -> Result<Tensor> + 'static) -> Compute {
    Box::new(move |inputs, form| {
        let y = f(inputs, form)?;
        // A direction that costs no copy: rows of alternating weight.
        let slope = Tensor::arange(0f32, y.dims().last().copied().unwrap_or(1) as f32, y.device())?.cos()?;
        let mut grads = y.broadcast_mul(&slope)?.sum_all()?.backward()?;
        let mut found = vec![y.detach()];
        found.extend(inputs.iter().filter_map(|input| grads.remove(input)));
        Ok(found)
    })
}

fn operations(sizes: &Sizes) -> Vec<Operation> {
    let Sizes { minibatch, positions, dim, heads, codes } = *sizes;
    let hidden = |width: usize| vec![minibatch, positions, width];
    let angles = Arc::new(Angles::new(&rotary_frequencies(dim / heads), positions));
    let attention = move |t: &[Tensor], form| {
        let shape = AttentionShape { heads, causal: true, angles: Some(angles.clone()), drop: None };
        op::attention(&t[0], shape, form)
    };
    let loss = move |t: &[Tensor], form| {
        let stream = Stream::new(1, "targets");
        let rows = t[0].dim(0)?;
        let targets: Vec<u32> = (0..rows as u64).map(|i| stream.below(i, codes) as u32).collect();
        let targets = Tensor::from_vec(targets, (rows, 1), t[0].device())?;
        let found = head_loss(&t[0], (&t[1], &t[2]), &targets, Some(rows), form)?;
        let Some(gradients) = found.gradients else { candle_core::bail!("gradients were asked for") };
        let value = Tensor::new(&[found.loss as f32], t[0].device())?;
        Ok(vec![value, gradients.hidden, gradients.weight, gradients.bias])
    };
    let operation = |name, shapes, compute| Operation { name, shapes, compute };
    let normed = |width: usize| vec![hidden(width), vec![width], vec![width]];
    vec![
        operation(
            "linear",
            vec![hidden(dim), vec![4 * dim, dim], vec![4 * dim]],
            differentiated(|t, form| op::linear(&t[0], &t[1], Some(&t[2]), form)),
        ),
        operation("layer norm", normed(dim), differentiated(|t, form| op::layer_norm(&t[0], &t[1], &t[2], EPS, form))),
        operation("gelu", vec![hidden(4 * dim)], differentiated(|t, form| op::gelu(&t[0], None, form))),
        operation("glu", vec![hidden(2 * dim)], differentiated(|t, form| op::glu(&t[0], form))),
        operation(
            "depthwise convolution",
            vec![hidden(dim), vec![dim, 1, 31], vec![dim]],
            differentiated(|t, form| op::depthwise(&t[0], &t[1], &t[2], form)),
        ),
        operation(
            "batch norm and gelu",
            normed(dim),
            differentiated(|t, form| Ok(op::batch_norm_gelu_train(&t[0], &t[1], &t[2], EPS, form, None)?.0)),
        ),
        operation(
            "residual",
            vec![hidden(dim), hidden(dim)],
            differentiated(|t, form| op::residual(&t[0], &t[1], 2.6, 4.0, None, form)),
        ),
        operation("attention", vec![hidden(3 * dim)], differentiated(attention)),
        operation(
            "head and cross-entropy",
            vec![vec![minibatch * positions * 6 / 10, dim], vec![codes, dim], vec![codes]],
            Box::new(loss),
        ),
        operation("dropout's share", vec![vec![700, 900]], Box::new(dropout_share)),
    ]
}

/// How much a dropout of 0.2 keeps: the bits differ between ways, what they keep does not.
fn dropout_share(t: &[Tensor], form: Form) -> Result<Vec<Tensor>> {
    let ones = t[0].ones_like()?;
    let kept = op::dropout(&ones, Pass::train(form, 1, 2).dropout(0.2), form)?;
    // Rounded: the share of 630,000 draws is within 0.2 % of 0.8 in all but one of 10,000 cases.
    Ok(vec![((kept.mean_all()? * 200.0)?.round()? / 200.0)?.reshape(1)?])
}

fn normal(name: &str, shape: &[usize]) -> Result<Tensor> {
    let stream = Stream::new(8, "check").named(name);
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64).map(|i| stream.normal(i)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

fn distance(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let found = found.to_device(&Device::Cpu)?;
    let top = |t: &Tensor| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>();
    Ok(top(&(&found - expected)?)? / top(expected)?.max(1e-6))
}

fn trainer(sizes: &Sizes, layers: usize, device: &Device, form: Form) -> Result<Trainer> {
    let conformer = ConformerConfig {
        dropout: 0.2,
        norm: Norm::Deepnorm { alpha: None, beta: None },
        ..ConformerConfig::new(layers, sizes.dim, sizes.heads)
    };
    let config = TrainerConfig {
        model: MaskedModelConfig { conformer, patch_dim: PATCH, codebook_size: sizes.codes, streams: 1 },
        masking: Masking { probability: 0.6, spans: vec![10], method: MaskMethod::Noise },
        optimizer: OptimizerConfig::default(),
        steps: 1_000_000,
        accumulate: 1,
        recompute: false,
    };
    let precision = if form == Form::Mixed { Precision::Bf16 } else { Precision::F32 };
    Ok(Trainer::new(config, device, 1).map_err(candle_core::Error::wrap)?.with_precision(precision))
}

fn minibatch(sizes: &Sizes) -> Result<Minibatch> {
    let Sizes { minibatch, positions, codes, .. } = *sizes;
    let stream = Stream::new(2, "minibatch");
    let tokens: Vec<u32> = (0..(minibatch * positions) as u64).map(|i| stream.below(i, codes) as u32).collect();
    Ok(Minibatch {
        patches: normal("patches", &[minibatch, positions, PATCH])?,
        tokens: Tensor::from_vec(tokens, (minibatch, positions, 1), &Device::Cpu)?,
        keys: (0..minibatch as u64).map(|track| CropKey { track, crop: 0 }).collect(),
    })
}
