//! Do published checkpoints, imported and run by the program, give the published embeddings?
//!
//! The files lie in `tests/golden`, or in the folder that `OMAR_REFERENCE` names; see `tests/reference`.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod program;
mod reference;

use std::path::{Path, PathBuf};

use arrow::array::Float64Array;
use omar_schemas::{Edge, Embeddings, EmbeddingsSpec, column};
use omar_stages::storage::{TrackFile, locate};
use program::{Options, Program};
use reference::Reference;

/// Largest difference, relative to the largest magnitude of a layer.
const TOLERANCE: f32 = 1e-4;

fn folder(name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("OMAR_REFERENCE").map_or(golden, PathBuf::from).join(name)
}

/// Writes samples as they are: WAV of 32-bit floats.
fn write_float_wav(path: &Path, rate: u32, samples: &[f32]) {
    let data = 4 * samples.len() as u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend_from_slice(&(36 + data).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt \x10\x00\x00\x00\x03\x00\x01\x00");
    bytes.extend_from_slice(&rate.to_le_bytes());
    bytes.extend_from_slice(&(4 * rate).to_le_bytes());
    bytes.extend_from_slice(b"\x04\x00\x20\x00data");
    bytes.extend_from_slice(&data.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

/// All vectors of a layer in time order, and when the first starts.
fn read(folder: &Path, layer: u32) -> (EmbeddingsSpec, f64, Vec<f32>) {
    let file = TrackFile::open(&locate(folder).unwrap()[0].path).unwrap();
    let spec = Embeddings::spec(file.schema()).unwrap();
    let (mut start, mut values) = (f64::INFINITY, Vec::new());
    for batch in file.scan(None, None).unwrap() {
        let batch = batch.unwrap();
        for row in 0..batch.num_rows() {
            start = start.min(column::<Float64Array>(&batch, "start_s").unwrap().value(row));
            values.extend_from_slice(Embeddings::vectors(&batch, layer, row).unwrap());
        }
    }
    (spec, start, values)
}

fn parity(name: &str) {
    let expected = Reference::open(&format!("{name}/expected"));
    let program = Program::new(&Options { tracks: 0, ..Options::default() });
    let source = folder(name);
    let manifest = program.json(&["import", source.to_str().unwrap(), "--to", "model"]);
    let rate = manifest["sample_rate"].as_u64().unwrap() as u32;
    write_float_wav(&program.path("audio/reference.wav"), rate, &expected.f32("audio").values);
    let layers = expected.text("layers").unwrap();
    let out = program.ok(&["embed", "model", "audio", "--layers", &layers, "--out", "emb"]);
    assert!(out.contains("CC-BY-NC-SA-4.0"), "{out}");
    let embeddings = expected.f32("embeddings");
    let [_, positions, dim] = embeddings.shape[..] else { panic!("{:?}", embeddings.shape) };
    let layers = layers.split(',').map(|layer| layer.trim().parse::<i64>().unwrap());
    for (layer, expected_values) in layers.zip(embeddings.values.chunks_exact(positions * dim)) {
        let count = manifest["model"]["layers"].as_i64().unwrap();
        let (spec, start, values) = read(&program.path("emb"), layer.rem_euclid(count) as u32);
        assert_eq!(spec.rate, expected.number("eps"));
        assert_eq!((values.len(), start), (positions * dim, 0.0));
        let top = expected_values.iter().fold(0f32, |top, value| top.max(value.abs()));
        let distance = values.iter().zip(expected_values).fold(0f32, |top, (a, b)| top.max((a - b).abs())) / top;
        eprintln!("{name} layer {layer}: {positions} vectors, relative difference {distance:.1e}");
        assert!(distance < TOLERANCE, "{name} layer {layer}: relative difference {distance:e}");
    }
}

#[test]
fn base_embeds_as_published() {
    parity("checkpoint_base");
}

#[test]
fn multifeature_embeds_as_published() {
    parity("checkpoint_multifeature");
}
