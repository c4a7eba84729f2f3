//! What lies where a published model is said to be.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use crate::model::import::{ImportError, read_torch};

use super::EncoderError;
use super::import::CHECKPOINTS;

/// Endings of files with tensors.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "pt", "pth", "ckpt"];
/// Parts of names of files with tensors that are no model, or one that needs the classes of its training.
const ASIDE: [&str; 5] = ["fairseq", "optimizer", "scheduler", "training_args", "rng_state"];

/// The files of a published model; the tensors are read unless the folder says by `config.gin` what it is.
#[derive(Debug)]
pub(in super::super) struct Found {
    /// As given.
    pub(super) path: PathBuf,
    /// The folder with the files.
    pub(super) folder: PathBuf,
    /// There is a configuration of OMAR-RQ.
    pub(super) has_gin: bool,
    /// The file that the tensors are of.
    pub(super) checkpoint: PathBuf,
    pub(super) tensors: HashMap<String, Tensor>,
}

impl Found {
    /// Looks at a folder, or at a file and its neighbours.
    pub(super) fn at(path: &Path) -> Result<Self, EncoderError> {
        let not_found = |reason: String| EncoderError::NotFound { path: path.to_owned(), reason };
        if !path.exists() {
            return Err(not_found("there is nothing of that name".to_owned()));
        }
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let is_gin = path.is_file() && path.extension().is_some_and(|extension| extension == "gin");
        let has_gin = is_gin || folder.join(super::omar_rq::CONFIG).is_file();
        let (path, folder) = (path.to_owned(), folder.to_owned());
        if has_gin {
            let (checkpoint, tensors) = (PathBuf::new(), HashMap::new());
            return Ok(Self { path, folder, has_gin, checkpoint, tensors });
        }
        let checkpoint = if path.is_file() && ending(&path).is_some() { path.clone() } else { chosen(&path, &folder)? };
        let tensors = read_tensors(&checkpoint)?;
        Ok(Self { path, folder, has_gin, checkpoint, tensors })
    }

    /// Whether there is a tensor of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape of a tensor, empty where it is missing.
    pub(super) fn shape(&self, name: &str) -> &[usize] {
        self.tensors.get(name).map_or(&[], Tensor::dims)
    }

    /// One more than the largest number that follows `prefix` in names.
    pub(super) fn count(&self, prefix: &str) -> usize {
        let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        self.tensors.keys().filter_map(number).max().map_or(0, |last| last + 1)
    }

    /// A JSON file beside the checkpoint.
    pub(super) fn json(&self, name: &str) -> Result<Option<Json>, EncoderError> {
        Json::read(&self.folder.join(name))
    }

    /// Files of the folder whose names end so, sorted.
    pub(super) fn ending(&self, ending: &str) -> Vec<PathBuf> {
        named(&self.folder, |name| name.ends_with(ending))
    }

    /// The tensors and something else contradict each other.
    pub(super) fn mismatch(&self, message: impl std::fmt::Display) -> EncoderError {
        EncoderError::Import(ImportError::Mismatch(format!("`{}`: {message}", self.checkpoint.display())))
    }

    /// Why nobody knows it.
    pub(super) fn unknown(&self) -> EncoderError {
        let mut names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names.truncate(3);
        self.mismatch(format!(
            "its {} tensors are of no encoder that is known, OMAR-RQ, MusicFM, MERT or MAEST (the first are {})",
            self.tensors.len(),
            names.join(", ")
        ))
    }
}

/// The file with tensors in a folder.
fn chosen(path: &Path, folder: &Path) -> Result<PathBuf, EncoderError> {
    let not_found = |reason: String| EncoderError::NotFound { path: path.to_owned(), reason };
    let is_model = |name: &str| {
        ending(Path::new(name)).is_some() && !ASIDE.iter().any(|aside| name.to_lowercase().contains(aside))
    };
    let mut files = named(folder, is_model);
    if let Some(usual) = CHECKPOINTS.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        return Ok(usual);
    }
    match files.len() {
        1 => Ok(files.remove(0)),
        0 => Err(not_found(
            "expected a published model in it: `config.gin` and `model.ckpt` of OMAR-RQ, `pretrained_*.pt` and \
             `*_stats.json` of MusicFM, `config.json` and `pytorch_model.bin` of MERT or MAEST; found no tensors"
                .to_owned(),
        )),
        _ => {
            let names: Vec<String> = files.iter().map(|file| format!("`{}`", file.display())).collect();
            Err(not_found(format!("it has several checkpoints: name one of {}", names.join(", "))))
        }
    }
}

fn ending(path: &Path) -> Option<&str> {
    path.extension().and_then(|extension| extension.to_str()).filter(|extension| ENDINGS.contains(extension))
}

fn named(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(&fits))
        .collect();
    files.sort();
    files
}

/// All tensors of a file; floats become f32.
pub(super) fn read_tensors(path: &Path) -> Result<HashMap<String, Tensor>, EncoderError> {
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

/// A JSON file of a published model.
#[derive(Debug)]
pub(super) struct Json {
    pub(super) path: PathBuf,
    value: Value,
}

impl Json {
    /// `None` when there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, EncoderError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EncoderError::io(path, error)),
        };
        let value = serde_json::from_str(&text)
            .map_err(|error| EncoderError::damaged(path, format!("expected JSON, is the file complete? {error}")))?;
        Ok(Some(Self { path: path.to_owned(), value }))
    }

    /// What is written under a key.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A number that must be there.
    pub(super) fn number(&self, key: &str) -> Result<f64, EncoderError> {
        match self.get(key) {
            None => Err(EncoderError::damaged(&self.path, format!("`{key}` is missing, expected a number"))),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| EncoderError::damaged(&self.path, format!("`{key}`: expected a number, found {value}"))),
        }
    }

    /// A whole number above zero that must be there.
    pub(super) fn whole(&self, key: &str) -> Result<usize, EncoderError> {
        let number = self.number(key)?;
        if number >= 1.0 && number.fract() == 0.0 && number < 1e9 {
            return Ok(number as usize);
        }
        Err(EncoderError::damaged(&self.path, format!("`{key}`: expected a whole number above 0, found {number}")))
    }

    /// `true` or `false` that must be there.
    pub(super) fn flag(&self, key: &str) -> Result<bool, EncoderError> {
        let value = self.get(key);
        value.and_then(Value::as_bool).ok_or_else(|| {
            let found = value.map_or("nothing".to_owned(), Value::to_string);
            EncoderError::damaged(&self.path, format!("`{key}`: expected true or false, found {found}"))
        })
    }

    /// Refuses another value than the one that this program computes with; nothing written counts as that.
    pub(super) fn only(&self, key: &str, expected: &Value) -> Result<(), EncoderError> {
        let same = |found: &Value| match (found.as_f64(), expected.as_f64()) {
            (Some(found), Some(expected)) => (found - expected).abs() <= 1e-9 * expected.abs(),
            _ => found == expected,
        };
        match self.get(key).filter(|found| !same(found)) {
            None => Ok(()),
            Some(found) => {
                let reason =
                    format!("`{key}` is {found}, expected {expected}: such a variant is not known, so it is refused");
                Err(EncoderError::damaged(&self.path, reason))
            }
        }
    }

    /// Refuses a number that the tensors contradict.
    pub(super) fn agree(&self, key: &str, found: usize, tensor: &str) -> Result<(), EncoderError> {
        match self.get(key) {
            Some(written) if written.as_u64() != Some(found as u64) => {
                let reason = format!("`{key}` is {written}, but {tensor} says {found}: they are not of one model");
                Err(EncoderError::damaged(&self.path, reason))
            }
            _ => Ok(()),
        }
    }
}
