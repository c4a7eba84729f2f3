//! Published MusicFM, MERT and MAEST of reduced width: `tests/golden/encoders`, or `encoders` in the folder that
//! `OMAR_REFERENCE` names.

#![allow(unreachable_pub, reason = "the module is compiled into every test on its own")]
#![allow(dead_code, reason = "every test file uses the part that it needs")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// The folder with the files.
pub fn reference() -> PathBuf {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("OMAR_REFERENCE").map_or(golden, PathBuf::from).join("encoders")
}

/// The tensors of a file.
pub fn load(name: &str) -> Tensors {
    let path = reference().join(name);
    candle_core::safetensors::load(&path, &Device::Cpu).unwrap().into_iter().collect()
}

/// The sizes of a file's network.
pub fn sizes(file: &str) -> Value {
    let text = fs::read_to_string(reference().join("meta.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["files"][file].clone()
}

/// One more than the last number after `prefix` in the names of tensors.
pub fn count(tensors: &Tensors, prefix: &str) -> usize {
    let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    tensors.keys().filter_map(number).max().unwrap() + 1
}

/// The triangular filters of MusicFM's spectrogram, `(bins, bands)`.
pub fn filters() -> Tensor {
    let (bins, bands) = (1025, 128);
    let hz = |mel: f64| 700.0 * (10f64.powf(mel / 2595.0) - 1.0);
    let top = 2595.0 * (1.0 + 12_000.0 / 700.0f64).log10();
    let edge = |i: usize| hz(top * i as f64 / (bands + 1) as f64);
    let value = |bin: usize, band: usize| {
        let f = 12_000.0 * bin as f64 / (bins - 1) as f64;
        let (left, peak, right) = (edge(band), edge(band + 1), edge(band + 2));
        ((f - left) / (peak - left)).min((right - f) / (right - peak)).max(0.0) as f32
    };
    let all: Vec<f32> = (0..bins * bands).map(|i| value(i / bands, i % bands)).collect();
    Tensor::from_vec(all, (bins, bands), &Device::Cpu).unwrap()
}

/// The tensors of MusicFM.
pub fn musicfm_tensors() -> Tensors {
    let mut tensors = load("musicfm.weights.safetensors");
    let part = "model.preprocessor_melspec_2048.mel_stft";
    tensors.entry(format!("{part}.mel_scale.fb")).or_insert_with(filters);
    tensors
}

/// Name and text of MusicFM's statistics.
pub fn statistics() -> (&'static str, String) {
    ("fma_stats.json", fs::read_to_string(reference().join("fma_stats.json")).unwrap())
}

/// `config.json` of a MERT.
pub fn mert_config(tensors: &Tensors, file: &str) -> Value {
    let sizes = sizes(file);
    json!({
        "model_type": "mert_model", "architectures": ["MERTModel"], "hidden_size": sizes["dim"],
        "num_hidden_layers": count(tensors, "encoder.layers."), "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["ffn"], "do_stable_layer_norm": sizes["stable"],
        "conv_dim": vec![sizes["conv_dim"].clone(); 7], "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": false, "feat_extract_norm": "group",
        "feature_extractor_cqt": false, "deepnorm": false, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
        "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "attention_relax": -1.0,
    })
}

/// `config.json` of a MAEST of so many blocks.
pub fn maest_config(layers: usize) -> Value {
    let sizes = sizes("maest.weights.safetensors");
    json!({
        "architectures": ["ASTForAudioClassification"], "model_type": "audio-spectrogram-transformer",
        "num_mel_bins": 96, "patch_size": 16, "frequency_stride": 10, "time_stride": 10, "hidden_size": sizes["dim"],
        "num_hidden_layers": layers, "num_attention_heads": sizes["heads"], "intermediate_size": sizes["ffn"],
        "hidden_act": "gelu", "qkv_bias": true, "layer_norm_eps": 1e-6, "max_length": sizes["max_length"],
    })
}
