//! A published OMAR-RQ: `config.gin` and a checkpoint.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::model::import::ImportError;
use crate::model::import::gin::Config;
use crate::model::{Encoder as Network, Source};

use super::super::found::{Found, read_tensors};
use super::super::import::{CHECKPOINTS, ImportOptions, Imported, name_and_place, source_file, state_licence};
use super::super::manifest::PUBLISHED_LICENCE;
use super::super::{EncoderError, EncoderManifest, ManifestView, Origin};
use super::CONFIG;
use super::published::{Bend, Tensors, interpret};

/// Reads a published model: a folder with `config.gin` and a checkpoint, or either of its files.
pub(super) fn read(found: &Found, options: &ImportOptions) -> Result<Imported, EncoderError> {
    let (config_path, checkpoint) = locate(&found.path, &found.folder)?;
    let config = Config::read(&config_path)?;
    let file = checkpoint.display().to_string();
    let all = read_tensors(&checkpoint)?;
    let bend = Bend { ignore: &options.ignore, encodec: options.encodec.as_deref() };
    let published = interpret(&config, &Tensors { file: &file, all: &all }, &bend)?;
    let folder = config_path.parent().unwrap_or(Path::new("."));
    let (name, place) = name_and_place(folder, options);
    let files = [&config_path, &checkpoint].map(|path| source_file(path)).into_iter().collect::<Result<_, _>>()?;
    let source = Origin { kind: "published checkpoint".to_owned(), place, files };
    let views: Vec<ManifestView> =
        published.views.iter().map(|(view, frames)| ManifestView::of(view, *frames)).collect();
    let patch_samples = published.views.first().map_or(0, |(view, frames)| view.hop_len() * frames) as u32;
    let mut manifest =
        EncoderManifest::new(&name, published.sample_rate, patch_samples, views, &published.model, source);
    let built = Network::new(&published.model, manifest.patch_dim(), Source::Tensors(&all), &Device::Cpu);
    let (_, weights) = built.map_err(|source| EncoderError::Model { path: file.clone().into(), source })?;
    // Building fills in what a checkpoint of training may lack; a published model has all of it.
    let expected = weights.parameters().keys().chain(weights.buffers().keys()).cloned().collect();
    let (tensors, dropped) = encoder_tensors(&file, &expected, all)?;
    state_licence(&mut manifest, folder, options, PUBLISHED_LICENCE);
    manifest.notes.extend(published.notes);
    manifest.ignored = published.ignored;
    manifest.dropped = dropped;
    Ok(Imported { manifest, tensors })
}

/// The configuration and the checkpoint of a folder, or beside a file.
fn locate(path: &Path, folder: &Path) -> Result<(PathBuf, PathBuf), EncoderError> {
    let not_found = |reason: String| EncoderError::NotFound { path: path.to_owned(), reason };
    let is_config = path.is_file() && path.extension().is_some_and(|extension| extension == "gin");
    let config = if is_config { path.to_owned() } else { folder.join(CONFIG) };
    if !config.is_file() {
        return Err(not_found(format!("expected `{CONFIG}` and `model.ckpt` in it, found no `{CONFIG}`")));
    }
    if path.is_file() && !is_config {
        return Ok((config, path.to_owned()));
    }
    let checkpoint = CHECKPOINTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let checkpoint =
        checkpoint.ok_or_else(|| not_found(format!("it has a `{CONFIG}`, and none of {}", CHECKPOINTS.join(", "))))?;
    Ok((config, checkpoint))
}

/// The tensors of the encoder, all there and of the right shapes, and the names of others.
fn encoder_tensors(
    file: &str,
    expected: &BTreeSet<String>,
    all: HashMap<String, Tensor>,
) -> Result<(HashMap<String, Tensor>, Vec<String>), EncoderError> {
    let mismatch = |message: String| EncoderError::Import(ImportError::Mismatch(format!("`{file}`: {message}")));
    let optional = |name: &str| name.ends_with("num_batches_tracked");
    if let Some(name) = expected.iter().find(|name| !all.contains_key(*name) && !optional(name)) {
        return Err(mismatch(format!("tensor `{name}` is missing")));
    }
    let (mut ours, others): (HashMap<_, _>, HashMap<_, _>) =
        all.into_iter().partition(|(name, _)| name.starts_with("net.") || name.starts_with("embedding_layer."));
    let mut surplus: Vec<&String> = ours.keys().filter(|name| !expected.contains(*name)).collect();
    surplus.sort();
    if let Some(name) = surplus.first() {
        return Err(mismatch(format!("tensor `{name}` has no place in the encoder that the configuration describes")));
    }
    for name in expected.iter().filter(|name| optional(name) && !ours.contains_key(*name)).collect::<Vec<_>>() {
        let zero = Tensor::zeros((), DType::I64, &Device::Cpu).map_err(|error| mismatch(error.to_string()))?;
        ours.insert(name.clone(), zero);
    }
    let mut dropped: Vec<String> = others.into_keys().collect();
    dropped.sort();
    Ok((ours, dropped))
}
