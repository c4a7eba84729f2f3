//! Published files of MERT: `config.json`, `pytorch_model.bin` or a safetensors file, and `preprocessor_config.json`.

use serde_json::json;

use super::super::EncoderError;
use super::super::blocks::{Reader, renamed};
use super::super::families::Network as Family;
use super::super::found::Found;
use super::super::import::{ImportOptions, Imported, Interpreted};
use super::network::Network;
use super::{HOP, KERNELS, MertConfig, RATE, STRIDES};

/// Licence of the published weights.
const LICENCE: &str = "CC-BY-NC-4.0";
const FIRST: &str = "feature_extractor.conv_layers.0.conv.weight";
const PROJECTION: &str = "feature_projection.projection.weight";
const WIDE: &str = "encoder.layers.0.feed_forward.intermediate_dense.weight";
/// What masked frames are replaced by in training.
const MASKED: &str = "masked_spec_embed";

pub(super) fn recognises(found: &Found) -> bool {
    found.tensors.keys().any(|name| name.ends_with(FIRST))
}

pub(super) fn read(mut found: Found, options: &ImportOptions) -> Result<Imported, EncoderError> {
    if !found.has(FIRST) {
        let name = found.tensors.keys().find(|name| name.ends_with(FIRST)).cloned().unwrap_or_default();
        return Err(found.mismatch(format!(
            "tensor `{name}` is expected to be named `{FIRST}`: a model around a MERT, such as a fine-tuned one, is not \
             read as the published model"
        )));
    }
    let mut files = Vec::new();
    let mut notes = Vec::new();
    let config = config(&found, &mut files, &mut notes)?;
    let (tensors, dropped) = renamed(std::mem::take(&mut found.tensors), |name| {
        (name != MASKED).then(|| {
            // Two spellings of weight norm: length and direction.
            name.replace("parametrizations.weight.original0", "weight_g")
                .replace("parametrizations.weight.original1", "weight_v")
        })
    });
    let interpreted = Interpreted {
        network: Family::Mert(config.clone()),
        tensors,
        dropped,
        sample_rate: RATE,
        hop: HOP as u32,
        licence: LICENCE,
        notes,
        files,
    };
    let build = |reader: &Reader<'_>| Network::new(&reader.root(), &config, usize::MAX).map(drop);
    interpreted.checked(&found.checkpoint, &found.folder, options, build)
}

/// What tensors and configuration say together.
fn config(
    found: &Found,
    files: &mut Vec<std::path::PathBuf>,
    notes: &mut Vec<String>,
) -> Result<MertConfig, EncoderError> {
    let Some(json) = found.json("config.json")? else {
        return Err(found.mismatch("there is no `config.json` beside it: heads and norms are written there alone"));
    };
    files.push(json.path.clone());
    let expected = [
        // HuBERT and wav2vec 2.0 have tensors of the same names.
        ("model_type", json!("mert_model")),
        ("conv_kernel", json!(KERNELS)),
        ("conv_stride", json!(STRIDES)),
        ("conv_bias", json!(false)),
        ("feat_extract_norm", json!("group")),
        ("feat_extract_activation", json!("gelu")),
        ("feat_proj_layer_norm", json!(true)),
        ("hidden_act", json!("gelu")),
        ("layer_norm_eps", json!(1e-5)),
        ("num_conv_pos_embeddings", json!(128)),
        ("num_conv_pos_embedding_groups", json!(16)),
        ("conv_pos_batch_norm", json!(false)),
        ("deepnorm", json!(false)),
        ("feature_extractor_cqt", json!(false)),
    ];
    expected.iter().try_for_each(|(key, value)| json.only(key, value))?;
    let [channels, ..] = *found.shape(FIRST) else {
        return Err(found.mismatch(format!("tensor `{FIRST}` has no shape of a convolution")));
    };
    let [dim, ..] = *found.shape(PROJECTION) else {
        return Err(found.mismatch(format!("tensor `{PROJECTION}` is missing")));
    };
    let hidden = found.shape(WIDE).first().copied().unwrap_or(0);
    let layers = found.count("encoder.layers.");
    json.agree("hidden_size", dim, &format!("tensor `{PROJECTION}`"))?;
    json.agree("intermediate_size", hidden, &format!("tensor `{WIDE}`"))?;
    json.agree("num_hidden_layers", layers, "the number of blocks in the checkpoint")?;
    if json.get("conv_dim").is_some() {
        json.only("conv_dim", &json!(vec![channels; KERNELS.len()]))?;
    }
    let heads = json.whole("num_attention_heads")?;
    if dim % heads != 0 || dim % 16 != 0 {
        return Err(found.mismatch(format!("a width of {dim} is no multiple of {heads} heads and of 16 groups")));
    }
    let norm_before = json.flag("do_stable_layer_norm")?;
    let normalize = match found.json("preprocessor_config.json")? {
        Some(json) => {
            json.only("sampling_rate", &json!(RATE))?;
            files.push(json.path.clone());
            json.flag("do_normalize")?
        }
        // The authors' own evaluations normalise for the smaller model and not for the larger one.
        None => {
            let does = if norm_before { "is not normalised" } else { "is normalised" };
            notes.push(format!(
                "there is no `preprocessor_config.json`: the waveform {does}, as in the authors' evaluations; its \
                 `do_normalize` decides"
            ));
            !norm_before
        }
    };
    Ok(MertConfig { layers, dim, heads, hidden, channels, norm_before, normalize })
}
