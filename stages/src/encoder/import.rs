//! A published model to a folder that [`EncoderFolder`] opens.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::model::import::gin::Config;
use crate::model::import::{ImportError, read_torch};
use crate::model::{Encoder, Source};
use crate::storage::durable::{publish, temporary_for};

use super::folder::{MANIFEST, WEIGHTS, hash_file};
use super::manifest::PUBLISHED_LICENCE;
use super::published::{Bend, Tensors, interpret};
use super::{EncoderError, EncoderFolder, EncoderManifest, ManifestView, Origin, SourceFile};

/// Files that may hold the tensors, the first that is there being taken.
const CHECKPOINTS: [&str; 4] = ["model.safetensors", "model.ckpt", "pytorch_model.bin", "model.pt"];
/// The configuration.
const CONFIG: &str = "config.gin";

/// What a caller may say about an import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Name of the encoder; by default that of the folder.
    pub name: Option<String>,
    /// Where it came from before it was in this folder, such as a repository and its revision.
    pub place: Option<String>,
    /// Licence of the weights; by default what the folder's `README.md` says, else that of the published models.
    pub licence: Option<String>,
    /// Bindings to leave aside although nobody knows them, `nets.conformer.Conformer.x`.
    pub ignore: Vec<String>,
    /// Folder with the weights of EnCodec, for models that hear it.
    pub encodec: Option<PathBuf>,
}

/// A published model in memory.
#[derive(Debug)]
pub struct Imported {
    /// What it is.
    pub manifest: EncoderManifest,
    /// The encoder's tensors, by published name; floats are f32.
    pub tensors: HashMap<String, Tensor>,
}

/// Reads a published model: a folder with `config.gin` and a checkpoint, or either of its files. Nothing in the files is
/// executed.
///
/// # Errors
/// The first thing that is missing, damaged, foreign or contradictory, with file and line.
pub fn read(path: &Path, options: &ImportOptions) -> Result<Imported, EncoderError> {
    let (config_path, checkpoint) = locate(path)?;
    let config = Config::read(&config_path)?;
    let file = checkpoint.display().to_string();
    let all = read_tensors(&checkpoint)?;
    let bend = Bend { ignore: &options.ignore, encodec: options.encodec.as_deref() };
    let published = interpret(&config, &Tensors { file: &file, all: &all }, &bend)?;
    let folder = config_path.parent().unwrap_or(Path::new("."));
    let place = options.place.clone().unwrap_or_else(|| folder.display().to_string());
    let name = options.name.clone().unwrap_or_else(|| name_of(folder));
    let files = [&config_path, &checkpoint].map(|path| source_file(path)).into_iter().collect::<Result<_, _>>()?;
    let source = Origin { kind: "published checkpoint".to_owned(), place, files };
    let views: Vec<ManifestView> =
        published.views.iter().map(|(view, frames)| ManifestView::of(view, *frames)).collect();
    let patch_samples = published.views.first().map_or(0, |(view, frames)| view.hop_len() * frames) as u32;
    let mut manifest =
        EncoderManifest::new(&name, published.sample_rate, patch_samples, views, &published.model, source);
    let (tensors, dropped) = encoder_tensors(&file, &manifest, all)?;
    let stated = options.licence.clone().or_else(|| licence_of(folder));
    if stated.is_none() {
        manifest
            .notes
            .push(format!("the folder states no licence: {PUBLISHED_LICENCE} is taken, that of the published weights"));
    }
    manifest.licence = stated.unwrap_or_else(|| PUBLISHED_LICENCE.to_owned());
    manifest.notes.extend(published.notes);
    manifest.ignored = published.ignored;
    manifest.dropped = dropped;
    Ok(Imported { manifest, tensors })
}

impl Imported {
    /// Writes `model.safetensors` and then `manifest.json`, each whole or not at all.
    ///
    /// # Errors
    /// When the folder holds another model, or the file system refuses.
    pub fn write(mut self, folder: &Path) -> Result<EncoderFolder, EncoderError> {
        let (weights, manifest_path) = (folder.join(WEIGHTS), folder.join(MANIFEST));
        if EncoderManifest::read(&manifest_path)?.is_none() && (weights.exists() || manifest_path.exists()) {
            return Err(EncoderError::NotFound {
                path: folder.to_owned(),
                reason: "it holds other files of the same names: choose another folder with `--to`".to_owned(),
            });
        }
        std::fs::create_dir_all(folder).map_err(|error| EncoderError::io(folder, error))?;
        let temporary = temporary_for(&weights);
        let saved = candle_core::safetensors::save(&self.tensors, &temporary)
            .map_err(|error| EncoderError::damaged(&weights, error.to_string()))
            .and_then(|()| hash_file(&temporary))
            .and_then(|(_, hash)| {
                File::open(&temporary)
                    .and_then(|file| file.sync_all())
                    .map_err(|error| EncoderError::io(&weights, error))?;
                publish(&temporary, &weights)?;
                Ok(hash)
            });
        if saved.is_err() {
            // Of use to nobody; the error that matters is the other one.
            let _gone = std::fs::remove_file(&temporary);
        }
        self.manifest.weights_blake3 = Some(saved?);
        self.manifest.write(folder)?;
        Ok(EncoderFolder { manifest: self.manifest, manifest_path, weights })
    }
}

/// The configuration and the checkpoint of a folder, or beside a file.
fn locate(path: &Path) -> Result<(PathBuf, PathBuf), EncoderError> {
    let not_found = |reason: String| EncoderError::NotFound { path: path.to_owned(), reason };
    if !path.exists() {
        return Err(not_found("there is nothing of that name".to_owned()));
    }
    let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let is_config = path.is_file() && path.extension().is_some_and(|extension| extension == "gin");
    let config = if is_config { path.to_owned() } else { folder.join(CONFIG) };
    if !config.is_file() {
        let mut reason = format!("expected `{CONFIG}` and `model.ckpt` in it, found no `{CONFIG}`");
        if folder.join("config.json").is_file() {
            reason += "; its `config.json` describes a model of another library";
        }
        return Err(not_found(reason));
    }
    if path.is_file() && !is_config {
        return Ok((config, path.to_owned()));
    }
    let checkpoint = CHECKPOINTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let checkpoint =
        checkpoint.ok_or_else(|| not_found(format!("it has a `{CONFIG}`, and none of {}", CHECKPOINTS.join(", "))))?;
    Ok((config, checkpoint))
}

fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>, EncoderError> {
    if path.extension().is_none_or(|extension| extension != "safetensors") {
        return Ok(read_torch(path)?);
    }
    let damaged = |reason: String| EncoderError::damaged(path, reason);
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|error| damaged(format!("the tensors cannot be read, is the file complete? {error}")))?;
    let floats = tensors.into_iter().map(|(name, tensor)| {
        let is_float = matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F64);
        let tensor = if is_float { tensor.to_dtype(DType::F32) } else { Ok(tensor) };
        let tensor = tensor.map_err(|error| damaged(format!("tensor `{name}`: {error}")))?;
        Ok((name, tensor))
    });
    floats.collect()
}

/// The tensors of the encoder, all there and of the right shapes, and the names of others.
fn encoder_tensors(
    file: &str,
    manifest: &EncoderManifest,
    all: HashMap<String, Tensor>,
) -> Result<(HashMap<String, Tensor>, Vec<String>), EncoderError> {
    let mismatch = |message: String| EncoderError::Import(ImportError::Mismatch(format!("`{file}`: {message}")));
    let built = Encoder::new(&manifest.model, manifest.patch_dim(), Source::Tensors(&all), &Device::Cpu);
    let (_, weights) = built.map_err(|source| EncoderError::Model { path: file.into(), source })?;
    // Building fills in what a checkpoint of training may lack; a published model has all of it.
    let expected: BTreeSet<String> = weights.parameters().keys().chain(weights.buffers().keys()).cloned().collect();
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

fn name_of(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| "encoder".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn source_file(path: &Path) -> Result<SourceFile, EncoderError> {
    let (bytes, blake3) = hash_file(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(SourceFile { name, bytes, blake3 })
}

/// `license: ...` at the head of the folder's `README.md`, as Hugging Face has it.
fn licence_of(folder: &Path) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("README.md")).ok()?;
    let head = text.strip_prefix("---")?.split("\n---").next()?.to_owned();
    let line = head.lines().find_map(|line| line.strip_prefix("license:"))?;
    let licence = line.trim().trim_matches(['"', '\'']).to_owned();
    (!licence.is_empty())
        .then(|| if licence.eq_ignore_ascii_case(PUBLISHED_LICENCE) { PUBLISHED_LICENCE.to_owned() } else { licence })
}
