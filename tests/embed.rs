//! `omar-flow embed`, from an imported model and a folder of music to vectors with times.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod program;
mod published;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::{Float64Array, StringArray};
use omar_schemas::{Edge, Embeddings, EmbeddingsSpec, column};
use omar_stages::storage::{TrackFile, locate};
use program::{Options, Program, text, walk};
use published::{CONFIG, config, encoder_tensors, write_model};

/// A corpus and an imported model.
fn program(tracks: usize) -> Program {
    let program = Program::new(&Options { tracks, ..Options::default() });
    write_model(&program.path("published"), CONFIG, &encoder_tensors(&config(), 64 * 4));
    let out = program.ok(&["import", "published", "--to", "model"]);
    for words in
        ["mel 64 x 4 at 16000 Hz", "12.5 vectors of 48 per second, layers 0 to 2", "CC-BY-NC-SA-4.0", "left out  "]
    {
        assert!(out.contains(words), "{words}: {out}");
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

#[test]
fn a_folder_becomes_vectors_with_times() {
    let program = program(3);
    fs::write(program.path("audio/broken.wav"), b"RIFF????WAVE").unwrap();
    let embed = ["embed", "model", "audio", "--layers", "2,-3", "--window", "2s", "--hop", "1s", "--out", "emb"];
    let output = program.output(&[&embed[..], &["--format", "npy"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("layer_2, layer_0: vectors of 48, 12.5 per second"), "{said}");
    assert!(said.contains("licence CC-BY-NC-SA-4.0"), "{said}");

    let (spec, vectors) = read(&program.path("emb"), 2);
    assert_eq!((&spec.layers[..], spec.dim, spec.rate, spec.sample_rate), (&[2, 0][..], 48, Some(12.5), 16_000));
    assert_eq!(vectors.len(), 3, "the broken file is in the quarantine");
    for (track, (path, (times, values))) in vectors.iter().enumerate() {
        let seconds = 2.5 + 0.5 * track as f64;
        assert_eq!(times.len() * 48, values.len());
        // Hops of 12.5 positions: times are those of the windows, a position apart or a little less or more.
        assert!(times[0] == 0.0 && *times.last().unwrap() > seconds - 0.25, "{path}: {times:?}");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] > 0.0 && pair[1] - pair[0] < 0.16), "{path}: {times:?}");
        assert!(values.iter().all(|value| value.is_finite()));

        let matrix = fs::read(program.path("emb/npy").join(format!("{path}.layer_2.npy"))).unwrap();
        let header = String::from_utf8_lossy(&matrix[10..128]).into_owned();
        let shape = format!("'descr': '<f4', 'fortran_order': False, 'shape': ({}, 48)", times.len());
        assert!(matrix.starts_with(b"\x93NUMPY\x01\x00\x76\x00") && header.contains(&shape), "{header}");
        let floats: Vec<f32> = matrix[128..].as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(&floats, values);
        let array = fs::read(program.path("emb/npy").join(format!("{path}.times.npy"))).unwrap();
        let found: Vec<f64> = array[128..].as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        assert_eq!(&found, times);
    }

    // The same command again finds everything there; another thread count gives the same bytes.
    let before = files(&program.path("emb"));
    program.ok(&embed);
    assert_eq!(files(&program.path("emb")), before);
    let again = [&embed[..10], &["elsewhere", "--threads", "1"]].concat();
    program.ok(&again);
    let (_, other) = read(&program.path("elsewhere"), 2);
    assert_eq!(other, vectors);
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let parquet = walk(folder).into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "parquet"));
    parquet.map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn one_file_pooled_and_any_rate() {
    let program = program(0);
    program::write_wav(&program.path("audio/a [1].wav"), 44_100, 3.0, 1);
    program.ok(&["embed", "model", "audio/a [1].wav", "--pool", "track", "--out", "pooled"]);
    let (spec, vectors) = read(&program.path("pooled"), 2);
    assert_eq!((spec.rate, vectors.len()), (None, 1));
    assert_eq!(vectors["a [1].wav"].1.len(), 48);
    program.ok(&["embed", "model", "audio", "--pool", "window", "--window", "1s", "--hop", "1s", "--out", "windows"]);
    let (_, vectors) = read(&program.path("windows"), 2);
    assert_eq!(vectors["a [1].wav"].0, [0.0, 1.0, 2.0]);
}

#[test]
fn the_graph_of_the_command_is_a_graph() {
    let program = program(2);
    let graph = program.ok(&["embed", "model", "audio", "--layers", "0", "--out", "emb", "--graph"]);
    fs::write(program.path("embed.yaml"), &graph).unwrap();
    program.ok(&["run", "embed.yaml"]);
    assert_eq!(read(&program.path("emb"), 0).1.len(), 2);
    // A node that was cached starts another graph: the edge survives the disk.
    let shown = program.ok(&["inspect", "emb"]);
    assert!(shown.contains("layer_0"), "{shown}");
}

#[test]
fn mistakes_are_one_clear_message() {
    let program = program(1);
    let refused = |args: &[&str]| {
        let output = program.output(args);
        assert!(!output.status.success());
        text(&output.stderr)
    };
    let cases = [
        (vec!["embed", "published", "audio"], "`omar-flow import published --to models/NAME` makes an encoder of it"),
        (vec!["embed", "nowhere", "audio"], "`nowhere` is no encoder: there is nothing of that name"),
        (vec!["embed", "audio", "audio"], "expected a folder with `model.safetensors` and `manifest.json`"),
        (vec!["embed", "model", "nothing"], "there is no file or folder `nothing`"),
        (vec!["embed", "model", "audio", "--layers", "7"], "the encoder has layers 0 to 2 (-3 to -1), found 7"),
        (vec!["embed", "model", "audio", "--window", "30"], "--window: a duration needs a unit"),
        (
            vec!["embed", "model", "audio", "--window", "10ms"],
            "--window: a position of the encoder is 0.08s, found `10ms`",
        ),
        (vec!["embed", "model", "audio", "--hop", "40s"], "--hop: expected a window (30s) at most"),
        (
            vec!["import", "audio"],
            "`audio` is no encoder: expected a published model in it: `config.gin` and `model.ckpt` of OMAR-RQ",
        ),
        (vec!["import", "hf:x"], "expected `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`, found `hf:x`"),
    ];
    for (args, message) in cases {
        let found = refused(&args);
        assert!(found.contains(message), "{args:?}: {found}");
        assert_eq!(found.matches("error").count(), 1, "{found}");
    }
}

#[test]
fn training_goes_on_from_an_imported_encoder_and_the_result_embeds() {
    let program = program(4);
    let graph = |init: &str, extra: &str| {
        format!(
            "omar: 1\nname: more\nseed: 1\nnodes:\n  tracks: {{stage: files, params: {{root: audio}}}}\n  audio: {{stage: decode, from: tracks}}\n  \
             mono: {{stage: resample, from: audio, params: {{sample_rate: 16000}}}}\n  crops: {{stage: crop, from: mono, params: {{duration: 2s}}}}\n  \
             mel: {{stage: features, from: crops, params: {{views: {{mel: {{n_mels: 64, hop_len: 320, mean: 2, std: 1.25}}}}}}}}\n  \
             tokens: {{stage: tokenize, from: mel, params: {{quantizer: {{random_projection: {{codebooks: 1, codebook_size: 32}}}}, patch_rate: 12.5}}}}\n  \
             model:\n    stage: pretrain\n    from: {{input: mel, targets: tokens}}\n    \
             params: {{init: {init}, steps: 1, minibatch: 2, optimizer: {{lr: 1.0e-9, warmup: 0}}, valid: {{crops: 0}}{extra}}}\n"
        )
    };
    fs::write(program.path("more.yaml"), graph("model", "")).unwrap();
    program.ok(&["run", "more.yaml"]);
    let run = &program.runs()[0];
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(run.join("model/checkpoints/manifest.json")).unwrap()).unwrap();
    assert_eq!((&manifest["licence"], &manifest["rate"]), (&"CC-BY-NC-SA-4.0".into(), &12.5.into()));
    assert_eq!(manifest["views"][0]["mean"], serde_json::json!([2.0]));
    // A step of next to nothing leaves the weights as they were, and the head is new.
    let weights = |path: &Path| candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
    let trained = weights(&run.join("model/checkpoints/step-000000001/model.safetensors"));
    let imported = weights(&program.path("model/model.safetensors"));
    assert!(trained.contains_key("linear.weight") && !imported.contains_key("linear.weight"));
    for name in ["embedding_layer.weight", "net.layers.2.attention.qkv.weight"] {
        let distance = (&trained[name] - &imported[name]).unwrap().abs().unwrap().max_all().unwrap();
        assert!(distance.to_scalar::<f32>().unwrap() < 1e-6, "{name}");
    }
    program.ok(&["embed", run.to_str().unwrap(), "audio", "--layers", "1", "--out", "trained"]);
    let (spec, vectors) = read(&program.path("trained"), 1);
    assert_eq!((spec.model.licence.as_str(), vectors.len()), ("CC-BY-NC-SA-4.0", 4));

    for (extra, message) in [
        (", model: {layers: 4}", "the encoder in `init` has 3, found 4"),
        (", model: {causal: false}", "the encoder in `init` has true, found false"),
    ] {
        fs::write(program.path("wrong.yaml"), graph("model", extra)).unwrap();
        let output = program.output(&["validate", "wrong.yaml"]);
        assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
    }
    let other = graph("model", "").replace("std: 1.25", "std: 1.5");
    fs::write(program.path("wrong.yaml"), other).unwrap();
    let output = program.output(&["validate", "wrong.yaml"]);
    let message = "view `mel`: the encoder in `init` has std [1.25], the input [1.5]";
    assert!(text(&output.stderr).contains(message), "{}", text(&output.stderr));
}
