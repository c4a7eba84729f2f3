//! The trainer learns, repeats itself, and goes on after a restart as if nothing had happened.

use super::*;
use crate::model::{ConformerConfig, MaskMethod, MaskedModelConfig, Masking, Norm};

fn config() -> TrainerConfig {
    // A beta that serde_json does not read back to the last bit.
    let norm = Norm::Deepnorm { alpha: None, beta: Some(0.022_386_873_579_657_126) };
    let conformer =
        ConformerConfig { dropout: 0.1, input_dropout: 0.05, kernel: 7, norm, ..ConformerConfig::new(2, 24, 3) };
    TrainerConfig {
        model: MaskedModelConfig { conformer, patch_dim: 10, codebook_size: 19, streams: 2 },
        masking: Masking { probability: 0.6, spans: vec![4], method: MaskMethod::Noise },
        optimizer: OptimizerConfig { lr: 1e-2, warmup: Some(3), clip: Some(1.0), ..OptimizerConfig::default() },
        steps: 40,
        accumulate: 1,
        recompute: false,
    }
}

/// Minibatch `i` of an endless stream: smooth patches, whose tokens are a function of the patch.
fn minibatch(i: u64) -> Minibatch {
    let (batch, positions) = (3, 30);
    let stream = Stream::new(9, "trainer tests").at(i);
    let mut patches = Vec::new();
    let mut tokens = Vec::new();
    for b in 0..batch as u64 {
        let (speed, phase) = (0.01 + 0.02 * stream.uniform(2 * b), 6.0 * stream.uniform(2 * b + 1));
        for t in 0..positions {
            let angle = phase + speed * t as f32;
            patches.extend((0..10).map(|d| (angle * (1.0 + d as f32 * 0.3)).sin()));
            let code = ((angle.sin() + 1.0) * 0.5 * 18.99) as u32;
            tokens.extend([code, 18 - code]);
        }
    }
    Minibatch {
        patches: Tensor::from_vec(patches, (batch, positions, 10), &Device::Cpu).expect("the shape fits"),
        tokens: Tensor::from_vec(tokens, (batch, positions, 2), &Device::Cpu).expect("the shape fits"),
        keys: (0..batch as u64).map(|b| CropKey { track: i * 3 + b, crop: 0 }).collect(),
    }
}

fn bytes(trainer: &Trainer) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, tensor) in
        trainer.model.weights().tensors().into_iter().chain(trainer.optimizer.tensors().expect("moments"))
    {
        let values = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all()?.to_vec1::<f32>()).expect("values");
        all.push((name, values.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect()));
    }
    all.sort();
    all
}

#[test]
fn loss_falls_and_accuracy_rises() {
    let mut trainer = Trainer::new(config(), &Device::Cpu, 1).expect("the configuration is valid");
    let steps: Vec<StepMetrics> = (0..40).map(|i| trainer.step(&minibatch(i)).expect("a step")).collect();
    let mean = |steps: &[StepMetrics]| steps.iter().map(|s| s.loss).sum::<f64>() / steps.len() as f64;
    // Guessing costs ln 19 = 2.94.
    assert!((steps[0].loss - 19f64.ln()).abs() < 0.5, "{}", steps[0].loss);
    assert!(mean(&steps[35..]) < mean(&steps[..5]) - 0.3, "{} {}", mean(&steps[..5]), mean(&steps[35..]));
    let last = &steps[39];
    assert_eq!(last.step, 40);
    let mean = f64::from(last.stream_accuracy.iter().sum::<f32>()) / 2.0;
    assert!((last.accuracy - mean).abs() < 1e-6 && last.masked > 0 && last.grad_norm > 0.0);
    let valid = trainer.evaluate(&minibatch(1000)).expect("an evaluation");
    assert_eq!(valid, trainer.evaluate(&minibatch(1000)).expect("an evaluation"));
    assert!(valid.means().0 < 2.9);
}

fn trained(config: TrainerConfig, steps: u64) -> Trainer {
    let mut trainer = Trainer::new(config, &Device::Cpu, 4).expect("the configuration is valid");
    for i in 0..steps {
        trainer.step(&minibatch(i)).expect("a step");
    }
    trainer
}

#[test]
fn recomputing_changes_no_bit() {
    let kept = trained(config(), 4);
    let recomputed = trained(TrainerConfig { recompute: true, ..config() }, 4);
    assert!(bytes(&kept) == bytes(&recomputed));
}

#[test]
fn accumulated_parts_mask_and_weigh_as_the_whole_does() {
    // Batch norms see a part at a time, so losses only come close.
    let step = |accumulate| {
        let mut trainer = Trainer::new(TrainerConfig { accumulate, ..config() }, &Device::Cpu, 4)
            .expect("the configuration is valid");
        trainer.step(&minibatch(0)).expect("a step")
    };
    let (whole, parts) = (step(1), step(3));
    assert_eq!(whole.masked, parts.masked);
    assert!((parts.loss / whole.loss - 1.0).abs() < 0.03, "{} {}", whole.loss, parts.loss);
    assert!((parts.grad_norm / whole.grad_norm - 1.0).abs() < 0.3, "{} {}", whole.grad_norm, parts.grad_norm);
    assert_ne!(whole, parts);
}

/// `count` examples, `minibatch` having three.
fn large_minibatch(i: u64, count: usize) -> Minibatch {
    let parts: Vec<Minibatch> = (0..count as u64).step_by(3).map(|part| minibatch(100 * i + part)).collect();
    let cat = |of: fn(&Minibatch) -> &Tensor| {
        let all: Vec<&Tensor> = parts.iter().map(of).collect();
        Tensor::cat(&all, 0).and_then(|all| all.narrow(0, 0, count)).expect("enough examples")
    };
    let keys = parts.iter().flat_map(|part| part.keys.clone()).take(count).collect();
    Minibatch { patches: cat(|m| &m.patches), tokens: cat(|m| &m.tokens), keys }
}

/// Without the biases before batch normalisation: they have no effect, so their gradient is rounding, which AdamW makes
/// as large as any.
fn without_idle_biases(mut config: TrainerConfig) -> TrainerConfig {
    let names = "*conv_block.module.2.bias".to_owned();
    config.optimizer.groups.push(ParameterGroup { names, lr_factor: 0.0, weight_decay: None });
    config
}

/// What `size` ranks have after some steps: weights, moments and statistics by name, and the metrics of the steps.
fn trained_by(size: usize, config: &TrainerConfig, form: Form) -> Vec<(Trainer, Vec<StepMetrics>)> {
    on_ranks(size, |rank| {
        let mut trainer = Trainer::new(config.clone(), &Device::Cpu, 4).expect("valid").among(rank);
        trainer.form = form;
        let steps = (0..6).map(|i| trainer.step(&large_minibatch(i, 12)).expect("a step")).collect();
        (trainer, steps)
    })
}

/// Runs `train` on every one of `size` ranks. A rank that waits holds a thread of its pool, so each has its own.
fn on_ranks<T: Send>(size: usize, train: impl Fn(Arc<dyn Collective>) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let train = &train;
        let ranks = super::super::threads(size).into_iter().map(|rank| {
            scope.spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
                pool.install(|| train(Arc::new(rank)))
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

/// Largest difference of two trainers' tensors, over the largest value of each tensor.
fn distance(a: &Trainer, b: &Trainer) -> (f64, String) {
    let (a, b) = (a.model.weights().tensors(), b.model.weights().tensors());
    let largest = |t: &Tensor| -> f64 {
        t.to_dtype(DType::F32).and_then(|t| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>()).expect("values").into()
    };
    let apart = |(name, a): (&String, &Tensor)| {
        let difference =
            (a.to_dtype(DType::F32).expect("f32") - b[name].to_dtype(DType::F32).expect("f32")).expect("alike");
        (largest(&difference) / largest(a).max(1e-3), name.clone())
    };
    a.iter().map(apart).max_by(|a, b| a.0.total_cmp(&b.0)).expect("there are tensors")
}

/// Two and three trainers that share every minibatch, dropout and clipping on, end with the weights and running
/// statistics of one, up to rounding (2e-4 of the largest value of each tensor after six steps of a large learning
/// rate), and among each other with the same bits.
#[test]
fn ranks_that_share_minibatches_learn_what_one_learns() {
    let variants = [
        (config(), Form::Kernels),
        (TrainerConfig { accumulate: 2, recompute: true, ..config() }, Form::Kernels),
        (config(), Form::Composed),
    ];
    for (config, form) in variants.map(|(config, form)| (without_idle_biases(config), form)) {
        let alone = trained_by(1, &config, form).remove(0);
        for size in [2, 3] {
            let together = trained_by(size, &config, form);
            for (trainer, steps) in &together {
                let (apart, name) = distance(&alone.0, trainer);
                assert!(apart < 2e-4, "{size} ranks, {form:?}: `{name}` is {apart} apart");
                assert!(bytes(trainer) == bytes(&together[0].0), "ranks have different bits");
                for (one, step) in alone.1.iter().zip(steps) {
                    assert_eq!((one.step, one.masked), (step.step, step.masked));
                    assert!((one.loss - step.loss).abs() < 1e-4, "{} {}", one.loss, step.loss);
                    assert!((one.grad_norm / step.grad_norm - 1.0).abs() < 1e-3);
                }
            }
        }
    }
}

#[test]
fn ranks_without_a_masked_position_still_take_part() {
    let mut sparse = without_idle_biases(config());
    // Of two examples of 30 positions in spans of 30, often only one is masked, sometimes none at first.
    sparse.masking = Masking { probability: 0.4, spans: vec![30], method: MaskMethod::Noise };
    let run = |size: usize| {
        on_ranks(size, |rank| {
            let mut trainer = Trainer::new(sparse.clone(), &Device::Cpu, 4).expect("valid").among(rank);
            (0..6).for_each(|i| drop(trainer.step(&large_minibatch(i, 2)).expect("a step")));
            trainer
        })
    };
    let (alone, together) = (run(1), run(2));
    let (apart, name) = distance(&alone[0], &together[0]);
    assert!(apart < 1e-3, "`{name}` is {apart} apart");
    let error = {
        let [rank, _other]: [_; 2] = super::super::threads(2).try_into().expect("two ranks");
        let mut trainer = Trainer::new(config(), &Device::Cpu, 4).expect("valid").among(Arc::new(rank));
        trainer.step(&large_minibatch(0, 1)).expect_err("one example for two").to_string()
    };
    assert!(error.contains("at least one example in every part for each of 2 processes"), "{error}");
}

#[test]
fn groups_freeze_and_spare() {
    let group = |names: &str, lr_factor| ParameterGroup { names: names.to_owned(), lr_factor, weight_decay: None };
    let mut frozen = config();
    frozen.optimizer.groups = vec![group("net.layers.0.*", 0.0)];
    let (start, end) = (trained(frozen.clone(), 0), trained(frozen, 3));
    for (name, before) in start.model.weights().parameters() {
        let after = &end.model.weights().parameters()[name];
        let same = (before.as_tensor() - after.as_tensor())
            .and_then(|d| d.abs()?.sum_all()?.to_scalar::<f32>())
            .expect("a float")
            == 0.0;
        assert_eq!(same, name.starts_with("net.layers.0."), "{name}");
    }
    let mut wrong = config();
    wrong.optimizer.groups = vec![group("net.[", 1.0)];
    let error = Trainer::new(wrong, &Device::Cpu, 1).expect_err("no pattern").to_string();
    assert!(error.starts_with("`groups`: `net.[` is no pattern"), "{error}");
}

#[test]
fn vectors_do_not_decay_when_only_matrices_do() {
    let mut all = config();
    all.optimizer.weight_decay = 10.0;
    let mut matrices = all.clone();
    matrices.optimizer.decayed = Decayed::Matrices;
    let (all, matrices) = (trained(all, 1), trained(matrices, 1));
    let size = |trainer: &Trainer, name: &str| {
        let weight = &trainer.model.weights().parameters()[name];
        weight.abs().and_then(|t| t.mean_all()?.to_scalar::<f32>()).expect("a float")
    };
    let norm = "net.layers.0.norm2.weight";
    assert!(size(&all, norm) < 0.98 * size(&matrices, norm), "{} {}", size(&all, norm), size(&matrices, norm));
    let matrix = "net.layers.0.ff1.module.1.weight";
    assert_eq!(size(&all, matrix).to_bits(), size(&matrices, matrix).to_bits());
}

#[test]
fn averaged_weights_lag_behind_predict_held_out_crops_and_are_resumed() {
    let mut averaged = config();
    averaged.optimizer.average = Some(0.9);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut trainer = trained(averaged.clone(), 5);
    let before = bytes(&trainer);
    let by_average = trainer.evaluate(&minibatch(50)).expect("an evaluation");
    assert!(before == bytes(&trainer), "evaluating changed the weights");
    let by_weights = trained(config(), 5).evaluate(&minibatch(50)).expect("an evaluation");
    assert_ne!(by_average, by_weights);
    let path = trainer.save(dir.path(), serde_json::Value::Null).expect("it is saved");
    assert!(path.join("average.safetensors").exists());
    let mut again = Trainer::new(averaged, &Device::Cpu, 4).expect("valid");
    again.resume(&path).expect("it resumes");
    assert_eq!(again.evaluate(&minibatch(50)).expect("an evaluation"), by_average);
    trainer.step(&minibatch(5)).expect("a step");
    again.step(&minibatch(5)).expect("a step");
    assert_eq!(again.evaluate(&minibatch(51)).expect("an evaluation"), trainer.evaluate(&minibatch(51)).expect("one"));
}

#[test]
fn predictions_are_those_that_evaluation_counts() {
    let trainer = Trainer::new(config(), &Device::Cpu, 1).expect("the configuration is valid");
    let minibatch = minibatch(7);
    let valid = trainer.evaluate(&minibatch).expect("an evaluation");
    let predictions = trainer.predict(&minibatch).expect("predictions");
    assert_eq!(predictions.masked, trainer.valid_mask(&minibatch).expect("a mask"));
    assert_eq!((predictions.masked.len(), predictions.codes.len()), (valid.masked, 2 * valid.masked));
    let tokens = minibatch.tokens.flatten_all().and_then(|t| t.to_vec1::<u32>()).expect("tokens");
    let mut correct = [0, 0];
    for (&at, codes) in predictions.masked.iter().zip(predictions.codes.chunks_exact(2)) {
        for stream in 0..2 {
            correct[stream] += u64::from(tokens[2 * at as usize + stream] == codes[stream]);
        }
    }
    assert_eq!(valid.correct, correct);
}

#[test]
fn resuming_is_bit_exact() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut whole = Trainer::new(config(), &Device::Cpu, 7).expect("the configuration is valid");
    for i in 0..8 {
        whole.step(&minibatch(i)).expect("a step");
    }
    let mut first = Trainer::new(config(), &Device::Cpu, 7).expect("the configuration is valid");
    for i in 0..4 {
        first.step(&minibatch(i)).expect("a step");
    }
    let path = first.save(dir.path(), serde_json::json!({"consumed": 4})).expect("it is saved");
    drop(first);
    let mut second = Trainer::new(config(), &Device::Cpu, 7).expect("the configuration is valid");
    assert_eq!(second.resume(&path).expect("it resumes"), serde_json::json!({"consumed": 4}));
    assert_eq!(second.step_count(), 4);
    for i in 4..8 {
        second.step(&minibatch(i)).expect("a step");
    }
    assert!(bytes(&whole) == bytes(&second), "the resumed run differs");
    let other = Trainer::new(config(), &Device::Cpu, 8).expect("the configuration is valid");
    assert!(bytes(&other) != bytes(&whole));
}

#[test]
fn resuming_something_else_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let trainer = Trainer::new(config(), &Device::Cpu, 7).expect("the configuration is valid");
    let path = trainer.save(dir.path(), serde_json::Value::Null).expect("it is saved");
    let mut changed = config();
    changed.optimizer.lr = 1e-3;
    let error = Trainer::new(changed, &Device::Cpu, 7).expect("valid").resume(&path).expect_err("lr differs");
    assert!(error.to_string().contains("`optimizer.lr` = 0.01, this run has 0.001"), "{error}");
    let error = Trainer::new(config(), &Device::Cpu, 6).expect("valid").resume(&path).expect_err("seeds differ");
    assert!(error.to_string().contains("its seed is 7"), "{error}");
    let model = path.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&model, &Device::Cpu).expect("it loads");
    tensors.remove("linear.bias");
    candle_core::safetensors::save(&tensors, &model).expect("it saves");
    let error = Trainer::new(config(), &Device::Cpu, 7).expect("valid").resume(&path).expect_err("a tensor is missing");
    assert!(error.to_string().contains("tensor `linear.bias` is missing, expected shape [38]"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_stops_with_its_step_and_changes_nothing() {
    let mut trainer = Trainer::new(config(), &Device::Cpu, 1).expect("the configuration is valid");
    trainer.step(&minibatch(0)).expect("a step");
    let before = bytes(&trainer);
    let mut bad = minibatch(1);
    bad.patches = (bad.patches * f64::NAN).expect("a tensor of no numbers");
    let error = trainer.step(&bad).expect_err("it cannot go on");
    assert!(error.to_string().starts_with("step 2: the loss is not finite"), "{error}");
    assert!(bytes(&trainer) == before);
}

#[test]
fn minibatches_that_do_not_fit_are_refused() {
    let mut trainer = Trainer::new(config(), &Device::Cpu, 1).expect("the configuration is valid");
    let mut short = minibatch(0);
    short.tokens = short.tokens.narrow(1, 0, 29).expect("a part");
    let error = trainer.step(&short).expect_err("lengths differ").to_string();
    assert_eq!(error, "minibatch: tokens has shape [3, 29, 2], expected [3, 30, 2]");
    let mut wrong = config();
    wrong.masking.probability = 0.0;
    let error = Trainer::new(wrong, &Device::Cpu, 1).expect_err("nothing would be masked").to_string();
    assert_eq!(error, "`probability`: expected above 0, found 0");
}

/// Prints a digest of a short run: what `bits_do_not_depend_on_the_number_of_threads` compares between processes.
#[test]
#[ignore = "run by bits_do_not_depend_on_the_number_of_threads"]
#[expect(clippy::print_stdout, reason = "another process reads it")]
fn digest_of_a_run() {
    let mut trainer = Trainer::new(config(), &Device::Cpu, 3).expect("the configuration is valid");
    for i in 0..5 {
        trainer.step(&minibatch(i)).expect("a step");
    }
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in bytes(&trainer) {
        hasher.update(name.as_bytes()).update(&bytes);
    }
    println!("digest {}", hasher.finalize());
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    // The pool's size is fixed for a process, so each size needs its own.
    let digest = |threads: &str| {
        let output = std::process::Command::new(std::env::current_exe().expect("the test's own path"))
            .args(["train::trainer::tests::digest_of_a_run", "--exact", "--ignored", "--nocapture"])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .expect("the test runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| line.split("digest ").nth(1).map(str::to_owned)).expect("it prints a digest")
    };
    let one = digest("1");
    assert_eq!(one, digest("2"));
    assert_eq!(one, digest("5"));
}

/// Matrix products of bf16 values: gradients of the first step within 5 % of those of f32, parameter by parameter (norm of
/// the difference over the norm), and training that gets as far.
#[test]
fn bf16_products_keep_gradients_close_and_train() {
    let mut config = config();
    (config.optimizer.clip, config.optimizer.lr) = (None, 5e-3);
    let train = |precision: Precision| {
        let trainer = Trainer::new(config.clone(), &Device::Cpu, 4).expect("the configuration is valid");
        let mut trainer = trainer.with_precision(precision);
        let mut losses = vec![trainer.step(&minibatch(0)).expect("a step").loss];
        // After one step from nothing, the first moments are the gradients, scaled.
        let moments = trainer.optimizer.tensors().expect("moments");
        losses.extend((1..40).map(|i| trainer.step(&minibatch(i)).expect("a step").loss));
        (losses, moments)
    };
    let ((exact, exact_moments), (found, moments)) = (train(Precision::F32), train(Precision::Bf16));
    assert!((found[0] - exact[0]).abs() < 0.02 && found[0] != exact[0], "{} {}", found[0], exact[0]);
    let norm = |t: &Tensor| t.sqr().and_then(|t| t.sum_all()?.to_scalar::<f32>()).expect("a float tensor").sqrt();
    let mut names: Vec<&String> = moments.keys().filter(|name| name.starts_with("opt.m.")).collect();
    names.sort();
    for name in names.into_iter().filter(|name| !name.ends_with("conv_block.module.2.bias")) {
        let (found, exact) = (&moments[name], &exact_moments[name]);
        assert_eq!(found.dtype(), DType::F32);
        let off = norm(&(found - exact).expect("shapes agree")) / norm(exact);
        assert!(off < 0.05, "gradient behind `{name}`: {off}");
    }
    let mean = |losses: &[f64]| losses[35..].iter().sum::<f64>() / 5.0;
    assert!((mean(&found) - mean(&exact)).abs() < 0.15, "{} {}", mean(&found), mean(&exact));
    assert!(mean(&found) < found[0] - 0.3);
}
