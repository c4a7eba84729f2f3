//! Finding and loading an encoder.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};
use omar_schemas::ModelLabel;

use crate::model::{ConformerConfig, Encoder, ModelError, Source, Weights};
use crate::train;

use super::blocks::{Part, Reader};
use super::{EncoderError, EncoderManifest, Want};

/// File with the weights.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// File that says what they are.
pub(super) const MANIFEST: &str = "manifest.json";

/// An encoder on disk.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderFolder {
    /// What it is.
    pub manifest: EncoderManifest,
    /// The file that holds the manifest.
    pub manifest_path: PathBuf,
    /// The file that holds the weights.
    pub weights: PathBuf,
}

impl EncoderFolder {
    /// Finds the encoder that a path leads to: a folder that `import` wrote; a checkpoint of `pretrain`, or the folder of
    /// the checkpoints, of the node or of the run, and then the latest checkpoint; or a file with weights in one of them.
    /// A name with `*`, such as `runs/quickstart-*`, is the last of those that fit, in the order of names. Reads the
    /// manifest, not the weights.
    ///
    /// # Errors
    /// [`EncoderError::NotFound`] with what to do, or what is wrong with the manifest.
    pub fn open(path: &Path) -> Result<Self, EncoderError> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.contains('*') && !path.exists() {
            return Self::open_last(path, name);
        }
        if path.extension().is_some_and(|extension| extension == "safetensors") && path.is_file() {
            // Other weights of the same model, such as the averaged ones of a checkpoint.
            let mut found = Self::open(path.parent().unwrap_or(Path::new(".")))?;
            if !path.ends_with(WEIGHTS) {
                (found.weights, found.manifest.weights_blake3) = (path.to_owned(), None);
            }
            return Ok(found);
        }
        let folder = if path.is_file() { path.parent().unwrap_or(Path::new(".")) } else { path };
        let not_found = |reason: String| EncoderError::NotFound { path: path.to_owned(), reason };
        if !folder.exists() {
            return Err(not_found("there is nothing of that name".to_owned()));
        }
        if let Some(found) = Self::at(folder)? {
            return Ok(found);
        }
        // A step's own folder: its manifest is that of all steps.
        if let Some(parent) = folder.parent().filter(|_| folder.join(WEIGHTS).is_file()) {
            let manifest_path = parent.join(MANIFEST);
            if let Some(manifest) = EncoderManifest::read(&manifest_path)? {
                return Ok(Self { manifest, manifest_path, weights: folder.join(WEIGHTS) });
            }
            let reason = format!("it has weights and no `{MANIFEST}` that says what they hear{}", imported(folder));
            return Err(not_found(reason));
        }
        let mut nested: Vec<PathBuf> = vec![folder.join("checkpoints")];
        if let Ok(entries) = folder.read_dir() {
            nested.extend(entries.flatten().map(|entry| entry.path().join("checkpoints")));
        }
        nested.sort();
        let mut found = Vec::new();
        for folder in nested.iter().filter(|folder| folder.is_dir()) {
            found.extend(Self::at(folder)?);
        }
        match found.len() {
            1 => Ok(found.remove(0)),
            0 => Err(not_found(format!(
                "expected a folder with `{WEIGHTS}` and `{MANIFEST}` as `omar-flow import` writes it, or a run of \
                 `pretrain` with a checkpoint{}",
                imported(folder)
            ))),
            _ => {
                let names: Vec<String> = found
                    .iter()
                    .filter_map(|found| found.manifest_path.parent())
                    .map(|path| format!("`{}`", path.display()))
                    .collect();
                Err(not_found(format!("it has several: name one of {}", names.join(", "))))
            }
        }
    }

    /// The encoder in the last of the folders whose names fit a pattern.
    fn open_last(path: &Path, pattern: &str) -> Result<Self, EncoderError> {
        let not_found = |reason: String| EncoderError::NotFound { path: path.to_owned(), reason };
        let glob = globset::Glob::new(pattern).map_err(|error| not_found(error.to_string()))?.compile_matcher();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let entries = parent.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        let mut fitting: Vec<PathBuf> =
            entries.filter(|entry| entry.file_name().is_some_and(|name| glob.is_match(name))).collect();
        fitting.sort();
        let opened = fitting.iter().rev().find_map(|folder| Self::open(folder).ok());
        opened.ok_or_else(|| {
            not_found(match fitting.last() {
                Some(last) => {
                    format!("none of the {} that fit holds an encoder, last `{}`", fitting.len(), last.display())
                }
                None => "nothing fits: train a model first, or name another".to_owned(),
            })
        })
    }

    /// The encoder whose manifest is in this very folder: beside its weights, or beside checkpoints.
    fn at(folder: &Path) -> Result<Option<Self>, EncoderError> {
        let manifest_path = folder.join(MANIFEST);
        let Some(manifest) = EncoderManifest::read(&manifest_path)? else { return Ok(None) };
        let weights = folder.join(WEIGHTS);
        if weights.is_file() || manifest.random_seed.is_some() {
            return Ok(Some(Self { manifest, manifest_path, weights }));
        }
        let latest = train::latest(folder).map_err(|error| EncoderError::damaged(folder, error.to_string()))?;
        match latest {
            Some(step) => Ok(Some(Self { manifest, manifest_path, weights: step.join(WEIGHTS) })),
            None => {
                let reason = format!("it has a `{MANIFEST}`, but neither `{WEIGHTS}` nor a checkpoint");
                Err(EncoderError::NotFound { path: folder.to_owned(), reason })
            }
        }
    }

    /// The files that decide what it computes.
    pub fn files(&self) -> Vec<PathBuf> {
        match self.manifest.random_seed {
            Some(_) => vec![self.manifest_path.clone()],
            None => vec![self.manifest_path.clone(), self.weights.clone()],
        }
    }

    /// Name, hash and licence. Hashes the weights where the manifest does not know their hash.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn label(&self) -> Result<ModelLabel, EncoderError> {
        let weights = match (&self.manifest.weights_blake3, self.manifest.random_seed) {
            (_, Some(seed)) => format!("random {seed}"),
            (Some(hash), None) => hash.clone(),
            (None, None) => hash_file(&self.weights)?.1,
        };
        let mut hasher = blake3::Hasher::new();
        hasher
            .update(weights.as_bytes())
            .update(serde_json::to_string(&self.manifest.views).unwrap_or_default().as_bytes());
        if self.manifest.conformer().is_none() {
            // What goes into a family with a front end of its own is said there.
            hasher.update(serde_json::to_string(&self.manifest.model).unwrap_or_default().as_bytes());
        }
        let fingerprint = hasher.finalize().to_hex()[..16].to_owned();
        Ok(ModelLabel { name: self.manifest.name.clone(), fingerprint, licence: self.manifest.licence.clone() })
    }

    /// All tensors, by published name.
    ///
    /// # Errors
    /// When the file is missing or damaged.
    pub fn tensors(&self, device: &Device) -> Result<HashMap<String, Tensor>, EncoderError> {
        let load = |path: &Path| {
            candle_core::safetensors::load(path, device).map_err(|error| {
                EncoderError::damaged(path, format!("the weights cannot be read, is the file complete? {error}"))
            })
        };
        let mut tensors = load(&self.weights)?;
        // Averaged weights stand beside the others of their step, and have no running statistics of their own.
        let whole = self.weights.with_file_name(WEIGHTS);
        if whole != self.weights && whole.is_file() {
            let mut all = load(&whole)?;
            all.extend(tensors);
            tensors = all;
        }
        Ok(tensors)
    }

    /// The encoder, whatever its family.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the tensors are not those of the manifest's network.
    pub fn encoder(&self, want: &Want<'_>) -> Result<Arc<dyn super::Encoder>, EncoderError> {
        self.manifest.model.load(self, want)
    }

    /// Builds a network of the file's tensors, or of random ones.
    pub(super) fn read<T>(
        &self,
        want: &Want<'_>,
        build: impl FnOnce(&Part<'_>) -> Result<T, ModelError>,
    ) -> Result<T, EncoderError> {
        let random = want.untrained.or(self.manifest.random_seed);
        let tensors = if random.is_some() { HashMap::new() } else { self.tensors(&Device::Cpu)? };
        let source = random.map_or(Source::Tensors(&tensors), Source::Seed);
        let built = build(&Reader::new(source, want.device).root());
        built.map_err(|source| EncoderError::Model { path: self.weights.clone(), source })
    }

    /// Files beside manifest and weights that decide what it computes, such as the weights of EnCodec, whose folder is
    /// `encodec` if it is not where the manifest says.
    ///
    /// # Errors
    /// A sentence when the manifest's front end cannot be planned.
    pub fn front_end_files(&self, encodec: Option<&Path>) -> Result<Vec<PathBuf>, String> {
        self.manifest.model.files(&self.manifest, encodec)
    }

    /// Of an OMAR-RQ, the first `layers` blocks and what is before them, with their weights.
    ///
    /// # Errors
    /// When the file is missing or damaged, or its tensors are not those of the manifest's model, or the encoder is of
    /// another family.
    pub fn load(&self, layers: usize, device: &Device) -> Result<Encoder, EncoderError> {
        if let Some(seed) = self.manifest.random_seed {
            return self.load_untrained(layers, seed, device);
        }
        let tensors = self.tensors(device)?;
        let (encoder, weights) = self.build(layers, Source::Tensors(&tensors), device)?;
        let wrong = |source| EncoderError::Model { path: self.weights.clone(), source };
        // A fresh model may do without; a trained one would be silently wrong.
        let needed = weights.buffers().iter().filter(|(name, _)| !name.ends_with("num_batches_tracked"));
        match needed.into_iter().find(|(name, _)| !tensors.contains_key(*name)) {
            Some((name, var)) => Err(wrong(ModelError::Missing { name: name.clone(), expected: var.dims().to_vec() })),
            None => Ok(encoder),
        }
    }

    /// The same network with random weights: what there is before any training. Its batch normalisations have not seen
    /// anything either, and pass on what they get.
    ///
    /// # Errors
    /// When the device fails.
    pub fn load_untrained(&self, layers: usize, seed: u64, device: &Device) -> Result<Encoder, EncoderError> {
        Ok(self.build(layers, Source::Seed(seed), device)?.0)
    }

    /// The conformer of the manifest.
    ///
    /// # Errors
    /// When the encoder is of another family than OMAR-RQ.
    pub fn conformer(&self) -> Result<&ConformerConfig, EncoderError> {
        self.manifest.conformer().ok_or_else(|| EncoderError::NotFound {
            path: self.manifest_path.clone(),
            reason: format!("expected an encoder of the family omar_rq, found {}", self.manifest.model.family()),
        })
    }

    fn build(&self, layers: usize, source: Source<'_>, device: &Device) -> Result<(Encoder, Weights), EncoderError> {
        let model = self.conformer()?;
        // DeepNorm's default weight follows from the depth: it must stay that of the whole model.
        let config = ConformerConfig { layers, norm: model.norm_in_numbers(), ..model.clone() };
        let built = Encoder::new(&config, self.manifest.patch_dim(), source, device);
        built.map_err(|source| EncoderError::Model { path: self.weights.clone(), source })
    }
}

/// Where a folder looks like a published model, what makes an encoder of it.
fn imported(folder: &Path) -> String {
    let names = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_published = |name: &str| ["config.gin", "config.json"].contains(&name) || name.ends_with("_stats.json");
    if names.into_iter().any(|name| name.to_str().is_some_and(is_published)) {
        let path = folder.display();
        return format!("; it is a published model: `omar-flow import {path} --to models/NAME` makes an encoder of it");
    }
    String::new()
}

/// Size and BLAKE3 of a file.
pub(super) fn hash_file(path: &Path) -> Result<(u64, String), EncoderError> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|error| EncoderError::io(path, error))?;
    hasher.update_reader(file).map_err(|error| EncoderError::io(path, error))?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}
