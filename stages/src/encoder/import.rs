//! A published model to a folder that [`EncoderFolder`] opens.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};

use crate::model::{ModelError, Source};
use crate::storage::durable::{publish, temporary_for};

pub(in crate::encoder) use super::found::Found;

use super::blocks::Reader;
use super::families::{Network, importer};
use super::folder::{MANIFEST, WEIGHTS, hash_file};
use super::{EncoderError, EncoderFolder, EncoderManifest, Origin, SourceFile};

/// Files that may hold the tensors, the first that is there being taken.
pub(super) const CHECKPOINTS: [&str; 4] = ["model.safetensors", "model.ckpt", "pytorch_model.bin", "model.pt"];

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

/// Reads a published model of any family: a folder with its files, or one of them. Nothing in the files is executed.
///
/// # Errors
/// The first thing that is missing, damaged, foreign or contradictory, with its file.
pub fn read(path: &Path, options: &ImportOptions) -> Result<Imported, EncoderError> {
    let found = Found::at(path)?;
    match importer(&found) {
        Some(import) => import(found, options),
        None => Err(found.unknown()),
    }
}

/// What a family made of the files.
pub(super) struct Interpreted {
    pub(super) network: Network,
    /// The tensors under the names that the network asks for.
    pub(super) tensors: HashMap<String, Tensor>,
    /// Names of tensors that no hidden state depends on.
    pub(super) dropped: Vec<String>,
    pub(super) sample_rate: u32,
    pub(super) hop: u32,
    /// Licence of the published weights, where the folder states none.
    pub(super) licence: &'static str,
    pub(super) notes: Vec<String>,
    /// Files that were read beside the checkpoint.
    pub(super) files: Vec<PathBuf>,
}

impl Interpreted {
    /// The import, once `build` has asked for every tensor with its shape and none is left over.
    pub(super) fn checked(
        self,
        checkpoint: &Path,
        folder: &Path,
        options: &ImportOptions,
        build: impl FnOnce(&Reader<'_>) -> Result<(), ModelError>,
    ) -> Result<Imported, EncoderError> {
        let wrong = |source| EncoderError::Model { path: checkpoint.to_owned(), source };
        let reader = Reader::new(Source::Tensors(&self.tensors), &Device::Cpu);
        build(&reader).map_err(wrong)?;
        let taken = reader.taken();
        let mut surplus: Vec<&str> =
            self.tensors.keys().map(String::as_str).filter(|name| !taken.contains(*name)).collect();
        surplus.sort_unstable();
        if let Some(first) = surplus.first() {
            return Err(EncoderError::Import(crate::model::import::ImportError::Mismatch(format!(
                "`{}`: tensor `{first}` has no place in {} ({} such): a variant with parts of its own, such as a \
                 fine-tuned one, is not read as the published model",
                checkpoint.display(),
                self.network.family(),
                surplus.len()
            ))));
        }
        let (name, place) = name_and_place(folder, options);
        let mut paths = vec![checkpoint.to_owned()];
        paths.extend(self.files);
        let files = paths.iter().map(|path| source_file(path)).collect::<Result<_, _>>()?;
        let source = Origin { kind: "published checkpoint".to_owned(), place, files };
        let mut manifest =
            EncoderManifest::with_network(&name, (self.sample_rate, self.hop), Vec::new(), self.network, source);
        state_licence(&mut manifest, folder, options, self.licence);
        manifest.notes.extend(self.notes);
        manifest.dropped = self.dropped;
        Ok(Imported { manifest, tensors: self.tensors })
    }
}

/// The encoder's name, and where it came from.
pub(super) fn name_and_place(folder: &Path, options: &ImportOptions) -> (String, String) {
    let place = options.place.clone().unwrap_or_else(|| folder.display().to_string());
    (options.name.clone().unwrap_or_else(|| name_of(folder)), place)
}

/// The licence that the caller or the folder states, or else that of the published weights, with a note.
pub(super) fn state_licence(
    manifest: &mut EncoderManifest,
    folder: &Path,
    options: &ImportOptions,
    published: &'static str,
) {
    let stated = options.licence.clone().or_else(|| licence_of(folder, published));
    if stated.is_none() {
        manifest
            .notes
            .push(format!("the folder states no licence: {published} is taken, that of the published weights"));
    }
    manifest.licence = stated.unwrap_or_else(|| published.to_owned());
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

fn name_of(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| "encoder".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Name, size and hash of a file.
pub(super) fn source_file(path: &Path) -> Result<SourceFile, EncoderError> {
    let (bytes, blake3) = hash_file(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(SourceFile { name, bytes, blake3 })
}

/// `license: ...` at the head of the folder's `README.md`, as Hugging Face has it; spelt as the published one is, where
/// it is that.
fn licence_of(folder: &Path, published: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join("README.md")).ok()?;
    let head = text.strip_prefix("---")?.split("\n---").next()?.to_owned();
    let line = head.lines().find_map(|line| line.strip_prefix("license:"))?;
    let licence = line.trim().trim_matches(['"', '\'']).to_owned();
    (!licence.is_empty()).then(|| if licence.eq_ignore_ascii_case(published) { published.to_owned() } else { licence })
}
