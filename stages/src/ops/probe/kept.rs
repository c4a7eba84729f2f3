//! Fitted probes that are kept: one whose examples, settings and random numbers are the same is not fitted again.
//!
//! What changes in the annotations of `test` recordings so costs a new score and nothing else; what changes in `train` or
//! `valid` makes new probes. Each is a file `<hash>.safetensors` with the weights and, in its metadata, how it was trained.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use crate::error::StageError;
use crate::model::Source;
use crate::probe::fit::{Fitted, Look};
use crate::probe::mlp::{Mlp, MlpConfig};
use crate::storage::durable::write_durably;

/// Key of the description in a file's metadata.
const KEY: &str = "omar_flow.probe";

/// How a kept probe was trained.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    network: MlpConfig,
    step: u64,
    quality: f64,
    looks: Vec<Look>,
}

/// The file of a probe.
pub(super) fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{key}.safetensors"))
}

/// A kept probe; `None` when there is none, or it cannot be used.
pub(super) fn load(path: &Path, network: MlpConfig, device: &Device) -> Option<Fitted> {
    let bytes = std::fs::read(path).ok()?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).ok()?;
    let description: Description = serde_json::from_str(metadata.metadata().as_ref()?.get(KEY)?).ok()?;
    let tensors: HashMap<String, Tensor> = candle_core::safetensors::load_buffer(&bytes, device).ok()?;
    let mlp = Mlp::new(network, Source::Tensors(&tensors), device).ok()?;
    let Description { step, quality, looks, .. } = description;
    Some(Fitted { mlp, step, quality, looks })
}

/// Keeps a probe.
pub(super) fn save(path: &Path, fitted: &Fitted) -> Result<(), StageError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
    }
    let description = Description {
        network: fitted.mlp.config(),
        step: fitted.step,
        quality: fitted.quality,
        looks: fitted.looks.clone(),
    };
    let text = serde_json::to_string(&description).map_err(|error| StageError::Failed(error.to_string()))?;
    let mut tensors = Vec::new();
    for (name, tensor) in fitted.mlp.weights().parameters() {
        let bytes: Vec<u8> = tensor.flatten_all()?.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name.clone(), tensor.dims().to_vec(), bytes));
    }
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.clone(), view)));
    let views = views.collect::<Result<Vec<_>, _>>().map_err(|error| StageError::Failed(error.to_string()))?;
    let bytes = safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), text)])))
        .map_err(|error| StageError::Failed(error.to_string()))?;
    Ok(write_durably(path, &bytes)?)
}
