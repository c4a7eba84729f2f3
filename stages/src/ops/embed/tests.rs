use std::collections::HashMap;
use std::f32::consts::TAU;

use arrow::array::{Float64Array, UInt32Array};
use candle_core::{Device, Tensor};
use omar_schemas::{AudioSpec, CropSpec, column};
use serde_json::json;

use super::*;
use crate::collect::{self, Collect, audio};
use crate::dsp::mel::MelConfig;
use crate::dsp::view::ViewConfig;
use crate::encoder::{EncoderManifest, ManifestView, Origin};
use crate::model::{ConformerConfig, Encoder, Source};
use crate::ops::crop::Crop as CropStage;

const RATE: u32 = 16_000;
/// Samples per position: 4 frames of 256.
const PATCH: u32 = 1024;
const DIM: usize = 16;

/// A small encoder of mel patches, with random weights.
fn encoder(folder: &Path, causal: bool) {
    let mel = ViewConfig::Mel(MelConfig { n_mels: 32, ..MelConfig::mel_16k() });
    let config = ConformerConfig { causal, residual_factor: 0.5, ..ConformerConfig::new(3, DIM, 2) };
    let views = vec![ManifestView::of(&mel, 4)];
    let source = Origin { kind: "test".into(), place: "test".into(), files: Vec::new() };
    let manifest = EncoderManifest::new("small", RATE, PATCH, views, &config, source);
    let (_, weights) = Encoder::new(&config, manifest.patch_dim(), Source::Seed(7), &Device::Cpu).unwrap();
    candle_core::safetensors::save(&weights.tensors(), folder.join("model.safetensors")).unwrap();
    manifest.write(folder).unwrap();
}

fn signal(samples: usize) -> Vec<f32> {
    (0..samples).map(|i| 0.3 * (i as f32 * TAU * (200.0 + i as f32 / 300.0) / RATE as f32).sin()).collect()
}

/// Crops of a signal, and what becomes of them.
fn embed(samples: &[f32], crop: serde_json::Value, params: serde_json::Value) -> Collect {
    let schema = omar_schemas::Audio::schema(&AudioSpec { sample_rate: Some(RATE) });
    let crops = CropStage::bind(serde_json::from_value(crop).unwrap(), &Inputs::new(vec![("in", &schema)])).unwrap();
    let cropped = collect::run(&mut *collect::start(&crops, 0), &audio("a.wav", samples, RATE, 9000));
    assert!(cropped.rejections.is_empty(), "{:?}", cropped.rejections);
    let schema = crops.output();
    let stage = Embed::bind(serde_json::from_value(params).unwrap(), &Inputs::new(vec![("in", &schema)])).unwrap();
    let embedded = collect::run(&mut *collect::start(&stage, 0), &cropped.batches);
    for batch in &embedded.batches {
        assert_eq!(batch.schema(), stage.output());
    }
    embedded
}

/// The vectors of a layer with their times.
fn vectors(out: &Collect, layer: u32) -> Vec<(f64, Vec<f32>)> {
    let mut all = Vec::new();
    for batch in &out.batches {
        let rate = Embeddings::spec(batch.schema_ref()).unwrap().rate.unwrap_or(0.0);
        for row in 0..batch.num_rows() {
            let start = column::<Float64Array>(batch, "start_s").unwrap().value(row);
            let values = Embeddings::vectors(batch, layer, row).unwrap();
            for (i, vector) in values.chunks_exact(DIM).enumerate() {
                all.push((start + if rate > 0.0 { i as f64 / rate } else { 0.0 }, vector.to_vec()));
            }
        }
    }
    all
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_short_recording_is_what_the_encoder_gives_for_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), true);
    let samples = signal(40_000);
    let params = |extra: i64| json!({"model": folder.path(), "layers": [extra, 0]});
    let out = embed(&samples, json!({"duration": "30s", "min_duration": "100ms"}), params(-1));
    let found = vectors(&out, 2);

    let opened = EncoderFolder::open(folder.path()).unwrap();
    let (view, shape) = opened.manifest.view_configs(None).unwrap().remove(0);
    let features = view.build(&Device::Cpu).unwrap().forward(&samples).unwrap();
    let patches = shape.cut(&features).unwrap();
    let positions = patches.len() / shape.values();
    let input = Tensor::from_vec(patches, (1, positions, shape.values()), &Device::Cpu).unwrap();
    let model = opened.load(3, &Device::Cpu).unwrap();
    let mut pass = crate::model::Pass::evaluate(crate::model::Form::Kernels);
    let expected = model.forward_layers(&input, &mut pass).unwrap()[2].squeeze(0).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(found.len(), 39);
    for (i, (time, vector)) in found.iter().enumerate() {
        assert!((time - i as f64 * 0.064).abs() < 1e-9);
        assert_eq!(vector, &expected[i]);
    }
    // The first layer is not the last, and both are there.
    assert_ne!(vectors(&out, 0)[5].1, found[5].1);
}

#[test]
fn overlaps_are_stitched_without_a_gap_and_without_a_repeat() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), false);
    let samples = signal(16 * PATCH as usize * 6 + 5000);
    let params = json!({"model": folder.path(), "layers": [2], "batch": 3});
    let whole = vectors(&embed(&samples, json!({"duration": "30s"}), params.clone()), 2);
    let crop = json!({"duration": "4.096s", "hop": "2.048s", "min_duration": "64ms"});
    let out = embed(&samples, crop, params.clone());
    let stitched = vectors(&out, 2);
    assert!(out.batches.len() > 2);
    assert_eq!(stitched.len(), whole.len());
    for (i, (stitched, whole)) in stitched.iter().zip(&whole).enumerate() {
        assert!((stitched.0 - whole.0).abs() < 1e-9, "position {i}: {} and {}", stitched.0, whole.0);
    }
    // Crops of a row are in order, and each of them gave its middle.
    let crops: Vec<u32> = out.batches.iter().map(|b| column::<UInt32Array>(b, "crop_ix").unwrap().value(0)).collect();
    assert_eq!(crops, (0..crops.len() as u32).collect::<Vec<_>>());
    let positions: Vec<usize> = out
        .batches
        .iter()
        .map(|batch| column::<arrow::array::ListArray>(batch, "layer_2").unwrap().value_length(0) as usize)
        .collect();
    assert_eq!(positions[0], 48, "the first crop up to the middle of its overlap");
    assert!(positions[1..positions.len() - 1].iter().all(|count| *count == 32), "{positions:?}");

    // Hops that are no whole positions keep exact times, in order.
    let crop = json!({"duration": "4s", "hop": "1.5s", "min_duration": "64ms"});
    let ragged = vectors(&embed(&samples, crop, params), 2);
    let steps: Vec<f64> = ragged.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(steps.iter().all(|step| (0.0..0.128).contains(step)), "{steps:?}");
}

#[test]
fn the_middle_of_a_window_does_not_know_that_it_is_one() {
    // Attention reaches everywhere, so only an encoder whose attention gives nothing can be compared exactly: then a
    // position depends on the 15 positions around it per layer, and the middle of a window on nothing outside of it.
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), true);
    let path = folder.path().join("model.safetensors");
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let silenced = tensors.into_iter().map(|(name, tensor)| {
        let tensor = if name.contains("attention.proj") { tensor.zeros_like().unwrap() } else { tensor };
        (name, tensor)
    });
    candle_core::safetensors::save(&silenced.collect::<HashMap<_, _>>(), &path).unwrap();
    let samples = signal(400 * PATCH as usize);
    let params = json!({"model": folder.path(), "layers": [1]});
    let whole = vectors(&embed(&samples, json!({"duration": "60s"}), params.clone()), 1);
    let crop = json!({"duration": "9.6s", "hop": "4.8s", "min_duration": "64ms"});
    let stitched = vectors(&embed(&samples, crop, params), 1);
    // Two layers reach 30 positions to either side; overlaps of 75 are cut 37 away from both ends.
    assert_eq!(whole.len(), stitched.len());
    for (i, (a, b)) in whole.iter().zip(&stitched).enumerate() {
        assert!(distance(&a.1, &b.1) < 1e-4, "position {i}: {}", distance(&a.1, &b.1));
    }
}

#[test]
fn pooling_means_over_windows_or_the_recording() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), true);
    let samples = signal(100_000);
    let crop = json!({"duration": "2.048s", "hop": "1.024s", "min_duration": "64ms"});
    let params = |pool: &str| json!({"model": folder.path(), "layers": [2], "pool": pool});
    let frames = vectors(&embed(&samples, crop.clone(), params("frames")), 2);
    let track = embed(&samples, crop.clone(), params("track"));
    let pooled = vectors(&track, 2);
    assert_eq!((pooled.len(), track.batches.len()), (1, 1));
    let mean: Vec<f32> = (0..DIM).map(|d| frames.iter().map(|f| f.1[d]).sum::<f32>() / frames.len() as f32).collect();
    assert!(distance(&pooled[0].1, &mean) < 1e-5);
    let audio_s = column::<Float64Array>(&track.batches[0], "audio_s").unwrap().value(0);
    assert!((audio_s - 6.25).abs() < 0.07, "{audio_s}");

    let window = embed(&samples, crop, params("window"));
    let times: Vec<f64> = vectors(&window, 2).iter().map(|vector| vector.0).collect();
    assert_eq!(times, [0.0, 1.024, 2.048, 3.072, 4.096, 5.12]);
}

#[test]
fn batches_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), true);
    let samples = signal(200_000);
    let crop = json!({"duration": "2s", "hop": "1s"});
    let of = |batch: usize| vectors(&embed(&samples, crop.clone(), json!({"model": folder.path(), "batch": batch})), 2);
    let one = of(1);
    assert_eq!(one, of(2));
    assert_eq!(one, of(8));
}

#[test]
fn too_little_audio_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), true);
    let out = embed(&signal(700), json!({"duration": "1s", "min_duration": "1ms"}), json!({"model": folder.path()}));
    assert!(out.batches.is_empty());
    assert_eq!(out.rejections[0].class, "too_short");
    assert!(out.rejections[0].message.contains("0.064 s"), "{}", out.rejections[0].message);
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    encoder(folder.path(), true);
    let refused = |sample_rate: u32, samples: u32, params: serde_json::Value| {
        let schema = Crop::schema(&CropSpec { sample_rate, samples, policy: "grid".into() });
        let error = Embed::bind(serde_json::from_value(params).unwrap(), &Inputs::new(vec![("in", &schema)])).err();
        error.expect("it does not fit").message
    };
    let model = folder.path();
    let at = |layers: serde_json::Value| json!({"model": model, "layers": layers});
    assert_eq!(
        refused(24_000, 720_000, at(json!([0]))),
        "the encoder hears audio at 16000 Hz, the crops are at 24000 Hz"
    );
    assert_eq!(refused(RATE, 1000, at(json!([0]))), "a position of the encoder is 1024 samples, the crops have 1000");
    assert_eq!(refused(RATE, 16_000, at(json!([3]))), "the encoder has layers 0 to 2 (-3 to -1), found 3");
    assert_eq!(refused(RATE, 16_000, at(json!([-1, 2]))), "layer 2 is asked for twice");
    let gone = refused(RATE, 16_000, json!({"model": "no/such/encoder"}));
    assert_eq!(gone, "`no/such/encoder` is no encoder: there is nothing of that name");
    std::fs::remove_file(model.join("manifest.json")).unwrap();
    let message = refused(RATE, 16_000, at(json!([0])));
    assert!(message.ends_with("it has weights and no `manifest.json` that says what they hear"), "{message}");
}
