//! Published files of MAEST: those on Hugging Face, and those of the authors' releases under native names.

use std::collections::HashMap;

use candle_core::{Result, Tensor};
use serde_json::json;

use super::super::EncoderError;
use super::super::families::Network as Family;
use super::super::found::Found;
use super::super::import::{ImportOptions, Imported, Interpreted};
use super::network::{Network, PREFIX};
use super::{BANDS, DEVIATION, Edges, HOP, MEAN, MaestConfig, PATCH, RATE, ROWS, STEP, TOKENS};

/// Licence of the published weights.
const LICENCE: &str = "CC-BY-NC-SA-4.0";
/// The tensor that native files are known by.
const NATIVE: &str = "freq_new_pos_embed";
/// Heads that tag music: published with the encoder, and no part of it.
const HEADS: [&str; 5] = ["classifier.layernorm.", "classifier.dense.", "head.0.", "head.1.", "head_dist."];

pub(super) fn recognises(found: &Found) -> bool {
    found.has(NATIVE) || found.tensors.keys().any(|name| name.starts_with(PREFIX))
}

pub(super) fn read(mut found: Found, options: &ImportOptions) -> std::result::Result<Imported, EncoderError> {
    let is_native = found.has(NATIVE);
    let dropped: Vec<String> = {
        let is_head = |name: &&String| {
            HEADS.iter().any(|head| name.strip_prefix(head).is_some_and(|rest| ["weight", "bias"].contains(&rest)))
        };
        let mut dropped: Vec<String> = found.tensors.keys().filter(is_head).cloned().collect();
        dropped.sort();
        dropped
    };
    for name in &dropped {
        found.tensors.remove(name);
    }
    if is_native {
        let tensors = std::mem::take(&mut found.tensors);
        found.tensors = hub_names(tensors)
            .map_err(|error| found.mismatch(format!("the tensors are not those of the authors' package: {error}")))?;
    }
    let mut files = Vec::new();
    let config = config(&found, is_native, &mut files)?;
    let notes = match config.edges {
        Edges::Zero => "frames at the ends see silence, as on Hugging Face".to_owned(),
        Edges::Reflect => "frames at the ends see the audio mirrored, as in the authors' package".to_owned(),
    };
    let interpreted = Interpreted {
        network: Family::Maest(config.clone()),
        tensors: found.tensors,
        dropped,
        sample_rate: RATE,
        hop: (STEP * HOP) as u32,
        licence: LICENCE,
        notes: vec![notes],
        files,
    };
    let build = |reader: &super::super::blocks::Reader<'_>| Network::new(&reader.root(), &config, usize::MAX).map(drop);
    interpreted.checked(&found.checkpoint, &found.folder, options, build)
}

/// What tensors and configuration say together.
fn config(
    found: &Found,
    is_native: bool,
    files: &mut Vec<std::path::PathBuf>,
) -> std::result::Result<MaestConfig, EncoderError> {
    let named = |name: &str| format!("{PREFIX}.{name}");
    let patch = named("embeddings.patch_embeddings.projection.weight");
    let [dim, 1, PATCH, PATCH] = *found.shape(&patch) else {
        let shape = found.shape(&patch);
        return Err(found.mismatch(format!("tensor `{patch}` has shape {shape:?}, expected [width, 1, 16, 16]")));
    };
    let positions = named("embeddings.position_embeddings");
    let rows = found.shape(&positions).get(1).copied().unwrap_or(0);
    if rows <= TOKENS || !(rows - TOKENS).is_multiple_of(ROWS) {
        let message = format!(
            "tensor `{positions}` has {rows} rows, expected {TOKENS} and a multiple of {ROWS}: it is an AST of other \
             patches"
        );
        return Err(found.mismatch(message));
    }
    let hidden = found.shape(&named("encoder.layer.0.intermediate.dense.weight")).first().copied().unwrap_or(0);
    let layers = found.count(&named("encoder.layer."));
    let heads = match found.json("config.json")? {
        Some(json) => {
            let expected = [
                ("model_type", json!("audio-spectrogram-transformer")),
                ("num_mel_bins", json!(BANDS)),
                ("patch_size", json!(PATCH)),
                ("frequency_stride", json!(STEP)),
                ("time_stride", json!(STEP)),
                ("hidden_act", json!("gelu")),
                ("layer_norm_eps", json!(1e-6)),
                ("qkv_bias", json!(true)),
            ];
            expected.iter().try_for_each(|(key, value)| json.only(key, value))?;
            json.agree("hidden_size", dim, &format!("tensor `{patch}`"))?;
            json.agree("num_hidden_layers", layers, "the number of blocks in the checkpoint")?;
            json.agree("intermediate_size", hidden, "tensor `encoder.layer.0.intermediate.dense.weight`")?;
            files.push(json.path.clone());
            json.whole("num_attention_heads")?
        }
        None if dim % 64 == 0 => dim / 64,
        None => return Err(found.mismatch("there is no `config.json` beside it that says how many heads it has")),
    };
    if heads == 0 || dim % heads != 0 {
        return Err(found.mismatch(format!("a width of {dim} is no multiple of {heads} heads")));
    }
    if let Some(json) = found.json("preprocessor_config.json")? {
        let expected = [
            ("sampling_rate", json!(RATE)),
            ("num_mel_bins", json!(BANDS)),
            ("mean", json!(MEAN)),
            ("std", json!(DEVIATION)),
        ];
        expected.iter().try_for_each(|(key, value)| json.only(key, value))?;
        files.push(json.path.clone());
    }
    let edges = if is_native { Edges::Reflect } else { Edges::Zero };
    Ok(MaestConfig { layers, dim, heads, hidden, columns: (rows - TOKENS) / ROWS, edges })
}

/// Native tensors under the names of Hugging Face.
fn hub_names(tensors: HashMap<String, Tensor>) -> Result<HashMap<String, Tensor>> {
    let mut out = HashMap::new();
    let mut put = |name: &str, tensor: Tensor| drop(out.insert(format!("{PREFIX}.{name}"), tensor));
    let mut positions: HashMap<&str, Tensor> = HashMap::new();
    let mut named: Vec<(String, Tensor)> = tensors.into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, tensor) in named {
        if let Some(rest) = name.strip_prefix("blocks.") {
            let (index, rest) = rest.split_once('.').unwrap_or((rest, ""));
            let part = |rest: &str| format!("encoder.layer.{index}.{rest}");
            if let Some(kind) = rest.strip_prefix("attn.qkv.") {
                for (map, rows) in ["query", "key", "value"].iter().zip(tensor.chunk(3, 0)?) {
                    put(&part(&format!("attention.attention.{map}.{kind}")), rows.contiguous()?);
                }
                continue;
            }
            let renamed = [
                ("norm1.", "layernorm_before."),
                ("norm2.", "layernorm_after."),
                ("attn.proj.", "attention.output.dense."),
                ("mlp.fc1.", "intermediate.dense."),
                ("mlp.fc2.", "output.dense."),
            ];
            let new = renamed.iter().find_map(|(old, new)| rest.strip_prefix(old).map(|kind| format!("{new}{kind}")));
            put(&part(&new.unwrap_or_else(|| rest.to_owned())), tensor);
            continue;
        }
        match name.as_str() {
            "cls_token" => put("embeddings.cls_token", tensor),
            "dist_token" => put("embeddings.distillation_token", tensor),
            "new_pos_embed" => drop(positions.insert("tokens", tensor)),
            NATIVE => drop(positions.insert("rows", tensor)),
            "time_new_pos_embed" => drop(positions.insert("columns", tensor)),
            "norm.weight" | "norm.bias" => put(&format!("layer{name}"), tensor),
            _ => match name.strip_prefix("patch_embed.proj.") {
                Some(kind) => put(&format!("embeddings.patch_embeddings.projection.{kind}"), tensor),
                None => put(&name, tensor),
            },
        }
    }
    if let (Some(tokens), Some(rows), Some(columns)) =
        (positions.get("tokens"), positions.get("rows"), positions.get("columns"))
    {
        put("embeddings.position_embeddings", table(tokens, rows, columns)?);
    }
    Ok(out)
}

/// One table of the three that make it up.
///
/// # Shapes
/// `tokens (1, TOKENS, dim)`, `rows (1, dim, ROWS, 1)`, `columns (1, dim, 1, columns)` to
/// `(1, TOKENS + ROWS columns, dim)`.
fn table(tokens: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let dim = tokens.dim(2)?;
    let patches = rows.broadcast_add(columns)?.squeeze(0)?.permute((1, 2, 0))?.contiguous()?;
    let patches = patches.reshape((1, patches.elem_count() / dim, dim))?;
    Tensor::cat(&[tokens, &patches], 1)
}
