//! MusicFM, MERT and MAEST in the program: from published files to vectors with times.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod program;
mod small_encoders;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{Float64Array, StringArray};
use omar_schemas::{Edge, Embeddings, EmbeddingsSpec, column};
use omar_stages::storage::{TrackFile, locate};
use program::{Options, Program, text};
use small_encoders::{Tensors, count, load, maest_config, mert_config, musicfm_tensors, statistics};

/// Recordings of 2.5 s and more, and the three encoders, imported.
fn program(tracks: usize) -> Program {
    let program = Program::new(&Options { tracks, ..Options::default() });
    let write = |name: &str, text: (&str, String), checkpoint: &str, tensors: Tensors| {
        let folder = program.path(&format!("published/{name}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(text.0), text.1).unwrap();
        let all: std::collections::HashMap<_, _> = tensors.into_iter().collect();
        candle_core::safetensors::save(&all, folder.join(checkpoint)).unwrap();
    };
    write("musicfm", statistics(), "pretrained_fma.safetensors", musicfm_tensors());
    let tensors = load("mert_base.weights.safetensors");
    let config = mert_config(&tensors, "mert_base.weights.safetensors").to_string();
    write("mert", ("config.json", config), "model.safetensors", tensors);
    let tensors = load("maest.weights.safetensors");
    let config = maest_config(count(&tensors, "audio_spectrogram_transformer.encoder.layer.")).to_string();
    write("maest", ("config.json", config), "model.safetensors", tensors);
    for (name, words) in [
        ("musicfm", "mel 128 in decibels at 24000 Hz"),
        ("mert", "75 vectors of 64 per second"),
        ("maest", "6.25 vectors of 48 per second, layers 0 to 4; pooled, vectors of 144"),
    ] {
        let out = program.ok(&["import", &format!("published/{name}"), "--to", &format!("models/{name}")]);
        assert!(out.contains(words), "{out}");
    }
    program
}

/// By recording: times and vectors of a layer.
type Vectors = BTreeMap<String, (Vec<f64>, Vec<f32>)>;

fn read(folder: &Path, layer: u32) -> (EmbeddingsSpec, Vectors) {
    let mut all = Vectors::new();
    let mut found = None;
    for located in locate(folder).unwrap() {
        let file = TrackFile::open(&located.path).unwrap();
        let spec = found.insert(Embeddings::spec(file.schema()).unwrap()).clone();
        for batch in file.scan(None, None).unwrap() {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let path = column::<StringArray>(&batch, "path").unwrap().value(row);
                let start = column::<Float64Array>(&batch, "start_s").unwrap().value(row);
                let values = Embeddings::vectors(&batch, layer, row).unwrap();
                let (times, vectors) = all.entry(path.to_owned()).or_default();
                let count = values.len() / spec.dim as usize;
                times.extend((0..count).map(|i| start + spec.rate.map_or(0.0, |rate| i as f64 / rate)));
                vectors.extend_from_slice(values);
            }
        }
    }
    (found.expect("files"), all)
}

fn assert_even(times: &[f64], first: f64, rate: f64, name: &str) {
    for (i, time) in times.iter().enumerate() {
        assert!((time - first - i as f64 / rate).abs() < 1e-6, "{name}: vector {i} at {time}");
    }
}

#[test]
fn every_family_gives_vectors_at_its_own_times() {
    let program = program(1);
    // Of 2.5 s: rate, start of the first interval, vectors, their width alone and pooled.
    let cases = [
        ("musicfm", 25.0, -480.0 / 24_000.0, 63, 64, 64),
        ("mert", 75.0, 39.5 / 24_000.0, 187, 64, 64),
        // It hears 2.16 s at once: three windows, one row of columns.
        ("maest", 6.25, 0.04, 15, 48, 144),
    ];
    for (name, rate, first, count, dim, pooled) in cases {
        let model = format!("models/{name}");
        program.ok(&["embed", &model, "audio", "--layers", "1", "--out", name]);
        let (spec, vectors) = read(&program.path(name), 1);
        assert_eq!((spec.rate, spec.dim as usize), (Some(rate), dim), "{name}");
        let (times, values) = vectors.values().next().unwrap();
        assert_eq!((times.len(), values.len()), (count, count * dim), "{name}");
        assert_even(times, first, rate, name);

        let out = format!("{name}-track");
        program.ok(&["embed", &model, "audio", "--layers", "-1,0", "--pool", "track", "--out", &out]);
        let (spec, vectors) = read(&program.path(&out), 0);
        assert_eq!((spec.rate, spec.dim as usize, spec.layers.len()), (None, pooled, 2), "{name}");
        let (_, whole) = vectors.values().next().unwrap();
        assert_eq!(whole.len(), pooled, "{name}");
        assert!(whole.iter().all(|value| value.is_finite()), "{name}");
    }
}

#[test]
fn crops_that_are_too_long_are_heard_in_parts_and_resample_knows_the_rate() {
    let program = program(2);
    let graph = |model: &str, layers: &str| {
        format!(
            "omar: 1\nname: long\nseed: 1\nnodes:\n  tracks: {{stage: files, params: {{root: audio}}}}\n  \
             audio: {{stage: decode, from: tracks}}\n  \
             mono: {{stage: resample, from: audio, params: {{encoder: models/{model}}}}}\n  \
             crops: {{stage: crop, from: mono, params: {{duration: 30s}}}}\n  \
             embed: {{stage: embed, from: crops, params: {{model: models/{model}, layers: {layers}}}, cache: long-{model}}}\n"
        )
    };
    for (model, rate, first) in [("musicfm", 25.0, -0.02), ("mert", 75.0, 39.5 / 24_000.0), ("maest", 6.25, 0.04)] {
        fs::write(program.path("long.yaml"), graph(model, "[1]")).unwrap();
        program.ok(&["run", "long.yaml"]);
        let (_, vectors) = read(&program.path(&format!("long-{model}")), 1);
        assert_eq!(vectors.len(), 2);
        for (times, _) in vectors.values() {
            assert_even(times, first, rate, model);
        }
        program.ok(&["embed", &format!("models/{model}"), "audio", "--layers", "1", "--out", model]);
        let (_, windows) = read(&program.path(model), 1);
        for ((times, values), (window_times, window_values)) in vectors.values().zip(windows.values()) {
            assert_eq!(times.len(), window_times.len(), "{model}");
            // The first part is the first window, up to the middle of what it shares with the second.
            let same = if model == "maest" { 9 * 48 } else { values.len() };
            assert_eq!(values[..same], window_values[..same], "{model}");
        }
    }
    fs::write(program.path("long.yaml"), graph("maest", "[5]")).unwrap();
    let refused = program.output(&["validate", "long.yaml"]);
    assert!(
        text(&[refused.stdout, refused.stderr].concat()).contains("the encoder has layers 0 to 4 (-5 to -1), found 5")
    );
}

#[test]
fn only_omar_rq_is_trained_on() {
    let program = program(1);
    let graph = "omar: 1\nname: more\nseed: 1\nnodes:\n  tracks: {stage: files, params: {root: audio}}\n  \
         audio: {stage: decode, from: tracks}\n  mono: {stage: resample, from: audio, params: {sample_rate: 24000}}\n  \
         crops: {stage: crop, from: mono, params: {duration: 2s}}\n  \
         mel: {stage: features, from: crops, params: {views: {mel: {}}}}\n  \
         tokens: {stage: tokenize, from: mel, params: {quantizer: {random_projection: {codebooks: 1, codebook_size: 32}}, patch_rate: 18.75}}\n  \
         model: {stage: pretrain, from: {input: mel, targets: tokens}, params: {init: models/mert, steps: 1}}\n";
    fs::write(program.path("more.yaml"), graph).unwrap();
    let refused = program.output(&["validate", "more.yaml"]);
    let message = text(&[refused.stdout, refused.stderr].concat());
    assert!(message.contains("expected an encoder of the family omar_rq, found mert"), "{message}");
}
