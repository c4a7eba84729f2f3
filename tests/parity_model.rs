//! Does the model compute what the published one computes? Numbers from the published package: outputs, loss, every
//! gradient, running statistics, weights after an optimiser step.
//!
//! `OMAR_DEVICE=cuda:0 cargo test --release --workspace --features cuda --test parity_model` asks a GPU, and with
//! `OMAR_CUDA_KERNELS=1` its fused kernels.
//!
//! Every size is read off the tensors and their metadata; see `tests/reference` for where the files lie.

#![allow(
    clippy::unwrap_used,
    clippy::iter_over_hash_type,
    reason = "a test may fail, and the order does not matter here"
)]

mod reference;

use candle_core::{DType, Device, Result, Tensor, Var};
use omar_stages::model::{
    ConformerConfig, Form, Keep, MaskedModel, MaskedModelConfig, Norm, Pass, Source, Weights, bare_conformer,
};
use omar_stages::train::{AdamW, AdamWConfig, Gradients, Groups, head_loss};
use reference::Reference;
use std::collections::HashMap;

/// Largest difference, relative to the largest magnitude of the tensor.
const TOLERANCE: f32 = 1e-4;

/// Where the models run: `OMAR_DEVICE`, such as `cuda:0`, or the CPU.
fn device() -> Device {
    let name = std::env::var("OMAR_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    omar_stages::device::open(&name).unwrap_or_else(|error| panic!("OMAR_DEVICE: {error}"))
}

/// Whether the device lacks a form; a GPU has no kernels of ours but those that may stand in for candle's operations.
fn lacks(form: Form) -> bool {
    form == Form::Kernels && !device().is_cpu()
}

/// A model of a reference file: tensors by name, and the text beside them.
struct Published {
    file: Reference,
    tensors: HashMap<String, Tensor>,
}

impl Published {
    fn load(name: &str) -> Self {
        let file = Reference::open(name);
        let device = device();
        let there = |(name, t): (String, Tensor)| (name, t.to_device(&device).expect("the device takes it"));
        Self { tensors: file.all().into_iter().map(there).collect(), file }
    }

    fn get(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the reference has no `{name}`"))
    }

    fn scalar(&self, name: &str) -> f64 {
        let values = self.get(name).flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("a float");
        f64::from(values[0])
    }

    /// Tensors whose name starts with `prefix`, without it.
    fn part(&self, prefix: &str) -> HashMap<String, Tensor> {
        let named =
            self.tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone())));
        named.collect()
    }

    /// The conformer whose weights are under `prefix`; what shapes do not tell comes from the metadata.
    fn config(&self, weights: &HashMap<String, Tensor>, prefix: &str) -> ConformerConfig {
        let mut config = ConformerConfig::infer(weights, prefix).expect("a published layout");
        config.dropout = self.file.number("dropout").unwrap_or(0.0);
        config.residual_factor = self.file.number("mlp_residual_factor").unwrap_or(config.residual_factor);
        config.heads = self.file.number("heads").map_or(config.heads, |heads| heads as usize);
        if let Norm::Deepnorm { alpha, .. } = &mut config.norm {
            *alpha = self.file.number("alpha").or(*alpha);
        }
        config
    }
}

/// Largest difference relative to the largest magnitude of `expected`; absolute where that is nearly nothing.
fn distance(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let top = |t: &Tensor| -> Result<f32> { t.abs()?.flatten_all()?.max(0)?.to_scalar() };
    let run = || -> Result<f32> { Ok(top(&(found - expected)?)? / top(expected)?.max(1e-6)) };
    run().expect("two float tensors")
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor) -> f32 {
    let distance = distance(found, expected);
    assert!(distance < TOLERANCE, "{what}: relative difference {distance:e}");
    distance
}

/// Gradients under `grad.`: all of them must be there, and close. Gives the largest distance.
fn compare_gradients(reference: &Published, weights: &Weights, found: &Gradients, complete: bool) -> f32 {
    let expected = reference.part("grad.");
    assert!(!expected.is_empty());
    if complete {
        let missing: Vec<_> = weights.parameters().keys().filter(|name| !expected.contains_key(*name)).collect();
        assert!(missing.is_empty(), "parameters without a gradient in the reference: {missing:?}");
    }
    let mut worst = 0f32;
    for (name, expected) in &expected {
        let found = found.get(name).unwrap_or_else(|| panic!("no gradient for `{name}`"));
        if name.ends_with("conv_block.module.2.bias") {
            // A bias before batch normalisation has no effect: what is left is rounding.
            let weight = &reference.part("grad.")[&name.replace(".bias", ".weight")];
            let top = weight.abs().and_then(|t| t.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("a float tensor");
            let diff = (found - expected).and_then(|t| t.abs()?.max(0)?.to_scalar::<f32>()).expect("float tensors");
            assert!(diff < TOLERANCE * top, "gradient `{name}`: {diff:e} of {top:e}");
            continue;
        }
        worst = worst.max(assert_close(&format!("gradient `{name}`"), found, expected));
    }
    worst
}

fn gradients(weights: &Weights, loss: &Tensor) -> Result<Gradients> {
    let mut store = loss.backward()?;
    let named = weights.parameters().iter();
    Ok(named.filter_map(|(name, var)| Some((name.clone(), store.remove(var)?))).collect())
}

fn conformer(file: &str, form: Form) -> Result<()> {
    if lacks(form) {
        return Ok(());
    }
    let reference = Published::load(file);
    let tensors = reference.part("weights.");
    let config = reference.config(&tensors, "");
    let (conformer, weights) = bare_conformer(&config, Source::Tensors(&tensors), &device()).expect("it loads");
    for name in tensors.keys() {
        assert!(weights.tensors().contains_key(name), "the reference's `{name}` has no place in the model");
    }

    let layers = conformer.forward_layers(reference.get("input"), &mut Pass::evaluate(form))?;
    let mut worst_output = 0f32;
    for (i, layer) in layers.iter().enumerate() {
        worst_output =
            worst_output.max(assert_close(&format!("layer {i}"), layer, reference.get(&format!("eval.layer{i}"))));
    }
    assert_eq!(layers.len(), reference.part("eval.layer").len());

    // Block by block as in training, and by candle's own way through the operations.
    let mut pass = Pass::train(form, 0, 0);
    let (output, tape) = conformer.record(reference.get("input"), &mut pass, Keep::Everything)?;
    let expected = reference.scalar("train.loss");
    let difference = (output - reference.get("target"))?;
    let loss = f64::from(difference.sqr()?.mean_all()?.to_scalar::<f32>()?);
    assert!((loss / expected - 1.0).abs() < 1e-5, "loss {loss} against {expected}");
    let mut found = Gradients::new();
    let name_of =
        |var: &Var| weights.parameters().iter().find(|(_, v)| v.id() == var.id()).map(|(name, _)| name.clone());
    let grad = (&difference * (2.0 / difference.elem_count() as f64))?;
    conformer.backward(tape, grad, &mut |var, grad| {
        found.insert(name_of(var).expect("a parameter of the model"), grad);
        Ok(())
    })?;
    let mut worst_gradient = compare_gradients(&reference, &weights, &found, true);
    let output = conformer.forward(reference.get("input"), &mut Pass::train(form, 0, 0))?;
    let loss = (output - reference.get("target"))?.sqr()?.mean_all()?;
    worst_gradient = worst_gradient.max(compare_gradients(&reference, &weights, &gradients(&weights, &loss)?, true));

    conformer.update_running(&pass.into_statistics())?;
    let mut worst_running = 0f32;
    for (name, expected) in reference.part("train.").iter().filter(|(name, _)| name.contains("running")) {
        worst_running = worst_running.max(assert_close(name, &weights.tensors()[name], expected));
    }

    let of = |word, default| reference.file.number_after("adamw", word).unwrap_or(default);
    let config = AdamWConfig {
        betas: reference.file.numbers_after("adamw", "betas").try_into().unwrap_or([0.9, 0.999]),
        eps: of("eps", 1e-8),
        weight_decay: of("weight_decay", 1e-2),
    };
    AdamW::new(config, &weights, &Groups::none())?.step(&weights, &found, of("lr", 1e-3), 1.0)?;
    let mut worst_update = 0f32;
    for (name, expected) in reference.part("adamw.") {
        worst_update = worst_update.max(assert_close(&name, &weights.tensors()[&name], &expected));
    }
    eprintln!(
        "{file} {form:?}: outputs {worst_output:.1e}, gradients {worst_gradient:.1e}, running statistics \
         {worst_running:.1e}, weights after AdamW {worst_update:.1e}"
    );
    Ok(())
}

#[test]
fn conformer_with_deepnorm_trains_as_published() -> Result<()> {
    conformer("conformer_deepnorm", Form::Kernels)
}

#[test]
fn conformer_with_deepnorm_trains_as_published_on_other_devices() -> Result<()> {
    conformer("conformer_deepnorm", Form::Composed)
}

#[test]
fn conformer_without_deepnorm_trains_as_published() -> Result<()> {
    conformer("conformer_plain", Form::Kernels)
}

#[test]
fn conformer_without_deepnorm_trains_as_published_on_other_devices() -> Result<()> {
    conformer("conformer_plain", Form::Composed)
}

fn masked_model(form: Form) -> Result<()> {
    if lacks(form) {
        return Ok(());
    }
    let reference = Published::load("masked_model");
    let tensors = reference.part("weights.");
    let (_, positions, streams) = reference.get("tokens").dims3()?;
    let config = MaskedModelConfig {
        conformer: reference.config(&tensors, "net."),
        patch_dim: reference.get("patches").dim(2)?,
        codebook_size: tensors["linear.bias"].elem_count() / streams,
        streams,
    };
    let model = MaskedModel::new(&config, Source::Tensors(&tensors), &device()).expect("it loads");
    let mut pass = Pass::train(form, 0, 0);
    let hidden = model.encoder().forward(reference.get("masked_patches"), &mut pass)?;
    let logits = assert_close("logits", &model.logits(&hidden, form)?, reference.get("logits"));

    let mask = reference.get("mask").flatten_all()?.to_dtype(DType::U8)?.to_vec1::<u8>()?;
    let masked: Vec<u32> = (0..mask.len()).filter(|i| mask[*i] != 0).map(|i| i as u32).collect();
    let index = Tensor::from_slice(&masked, masked.len(), &device())?;
    let rows = hidden.dim(0)? * positions;
    let targets = reference.get("tokens").to_dtype(DType::U32)?.reshape((rows, streams))?.index_select(&index, 0)?;
    let hidden = hidden.reshape((rows, config.conformer.dim))?.index_select(&index, 0)?;
    let (weight, bias) = model.head();
    let loss = head_loss(&hidden, (weight, bias), &targets, Some(masked.len()), form)?;
    let expected = reference.scalar("loss");
    assert!((loss.loss / expected - 1.0).abs() < 1e-5, "loss {} against {expected}", loss.loss);
    let accuracy = loss.correct.iter().sum::<u64>() as f64 / (loss.rows * streams) as f64;
    assert!((accuracy - reference.scalar("accuracy")).abs() < 1e-6, "accuracy {accuracy}");

    let head = loss.gradients.expect("gradients were asked for");
    let mut found = gradients(model.weights(), &(&hidden * &head.hidden)?.sum_all()?)?;
    found.insert("linear.weight".into(), head.weight);
    found.insert("linear.bias".into(), head.bias);
    let worst = compare_gradients(&reference, model.weights(), &found, false);
    eprintln!("masked_model {form:?}: logits {logits:.1e}, gradients {worst:.1e}");
    Ok(())
}

#[test]
fn masked_model_predicts_and_learns_as_published() -> Result<()> {
    masked_model(Form::Kernels)
}

#[test]
fn masked_model_predicts_and_learns_as_published_on_other_devices() -> Result<()> {
    masked_model(Form::Composed)
}

/// Fails once candle computes the weight gradient of `conv1d` rightly for more than one example: then the depthwise
/// convolution's composed form may use it.
#[test]
fn candle_still_gets_the_weight_gradient_of_conv1d_wrong() -> Result<()> {
    let values = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let x = Tensor::from_vec(values(2 * 4 * 12), (2, 4, 12), &Device::Cpu)?;
    let w = Var::from_tensor(&Tensor::from_vec(values(5 * 4 * 3), (5, 4, 3), &Device::Cpu)?)?;
    let g = Tensor::from_vec(values(2 * 5 * 12), (2, 5, 12), &Device::Cpu)?;
    let of = |x: &Tensor, g: &Tensor| -> Result<Tensor> {
        let loss = (x.conv1d(&w, 1, 1, 1, 1)? * g)?.sum_all()?;
        Ok(loss.backward()?.get(&w).expect("a gradient").clone())
    };
    let together = of(&x, &g)?;
    let one = |i: usize| of(&x.narrow(0, i, 1)?.contiguous()?, &g.narrow(0, i, 1)?.contiguous()?);
    let apart = (one(0)? + one(1)?)?;
    let diff = (together - apart)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(diff > 1e-2, "candle's conv1d has the right weight gradient now ({diff:e}): see stages/src/model/op");
    Ok(())
}

/// Fails once candle multiplies a transposed batch by a broadcast matrix rightly: then `op::linear` need not make its
/// input contiguous.
#[test]
fn candle_still_gets_the_product_of_a_transposed_batch_wrong() -> Result<()> {
    let values = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let x = Tensor::from_vec(values(2 * 6 * 5), (2, 6, 5), &Device::Cpu)?.transpose(1, 2)?;
    let w = Tensor::from_vec(values(6 * 4), (6, 4), &Device::Cpu)?;
    let found = x.matmul(&w.broadcast_left(2)?)?;
    let expected = x.contiguous()?.matmul(&w.broadcast_left(2)?.contiguous()?)?;
    let diff = (found - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    assert!(diff > 1e-2, "candle's product of a transposed batch is right now ({diff:e}): see stages/src/model/op");
    Ok(())
}
