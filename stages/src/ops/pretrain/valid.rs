//! The crops that are held out.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};

use super::example::Example;
use crate::error::StageError;
use crate::storage::CropName;
use crate::train::CropKey;

/// Crops of one track at most, so that a few long tracks do not stand for all.
const PER_TRACK: usize = 4;
/// File in the node's folder: which crops they are must not change when a run is continued in the midst of a pass.
const FILE: &str = "valid.safetensors";
/// Tensor in it with the names of the crops, the bytes of a JSON list.
const NAMES: &str = "names";

/// The first valid crops of the stream.
#[derive(Debug, Default)]
pub(super) struct ValidSet {
    wanted: usize,
    examples: Vec<Example>,
    /// Where they are from; absent where a file of an older program did not say it.
    names: Vec<Option<CropName>>,
    per_track: BTreeMap<u64, usize>,
    saved: usize,
}

impl ValidSet {
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Keeps the crop if there is room; later passes, and what a continued run reads again, bring nothing new.
    pub(super) fn offer(&mut self, example: Example, name: Option<CropName>) {
        let known = self.examples.iter().any(|held| held.key == example.key);
        let of_track = self.per_track.entry(example.key.track).or_default();
        if self.examples.len() < self.wanted && *of_track < PER_TRACK && !known {
            *of_track += 1;
            self.examples.push(example);
            self.names.push(name);
        }
    }

    pub(super) fn examples(&self) -> &[Example] {
        &self.examples
    }

    /// Each with where it is from.
    pub(super) fn named(&self) -> impl Iterator<Item = (&Example, Option<&CropName>)> {
        self.examples.iter().zip(self.names.iter().map(Option::as_ref))
    }

    /// Writes the set if it has grown; `shape` is (positions, patch_dim, streams).
    pub(super) fn save(&mut self, dir: &Path, shape: (usize, usize, usize)) -> std::result::Result<(), StageError> {
        if self.saved == self.examples.len() {
            return Ok(());
        }
        let temporary = dir.join(format!(".{FILE}.tmp"));
        self.tensors(shape).and_then(|tensors| candle_core::safetensors::save(&tensors, &temporary))?;
        let synced = std::fs::File::open(&temporary).and_then(|file| file.sync_all());
        synced.map_err(|source| StageError::io(&temporary, source))?;
        let path = dir.join(FILE);
        std::fs::rename(&temporary, &path).map_err(|source| StageError::io(&path, source))?;
        self.saved = self.examples.len();
        Ok(())
    }

    fn tensors(
        &self,
        (positions, dim, streams): (usize, usize, usize),
    ) -> Result<std::collections::HashMap<String, Tensor>> {
        let n = self.examples.len();
        let patches: Vec<f32> = self.examples.iter().flat_map(|e| e.patches.iter().copied()).collect();
        let tokens: Vec<u32> = self.examples.iter().flat_map(|e| e.tokens.iter().copied()).collect();
        let keys: Vec<i64> =
            self.examples.iter().flat_map(|e| [e.key.track.cast_signed(), e.key.crop.cast_signed()]).collect();
        let names = serde_json::to_vec(&self.names).map_err(candle_core::Error::wrap)?;
        Ok([
            (NAMES.to_owned(), Tensor::from_slice(&names, names.len(), &Device::Cpu)?),
            ("patches".to_owned(), Tensor::from_vec(patches, (n, positions, dim), &Device::Cpu)?),
            ("tokens".to_owned(), Tensor::from_vec(tokens, (n, positions, streams), &Device::Cpu)?),
            ("keys".to_owned(), Tensor::from_vec(keys, (n, 2), &Device::Cpu)?),
        ]
        .into())
    }

    /// Reads what [`ValidSet::save`] wrote, if there is such a file.
    pub(super) fn load(&mut self, dir: &Path) -> std::result::Result<(), StageError> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(());
        }
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu)?;
        let get = |name: &str| {
            tensors.get(name).ok_or_else(|| StageError::Failed(format!("`{}` holds no `{name}`", path.display())))
        };
        let keys = get("keys")?.to_vec2::<i64>()?;
        let (patches, tokens) = (get("patches")?, get("tokens")?.to_dtype(DType::U32)?);
        let names: Vec<Option<CropName>> = match tensors.get(NAMES) {
            Some(names) => serde_json::from_slice(&names.to_vec1::<u8>()?)
                .map_err(|error| StageError::Failed(format!("`{}`: `{NAMES}`: {error}", path.display())))?,
            None => Vec::new(),
        };
        for (i, key) in keys.iter().enumerate() {
            let example = Example {
                patches: patches.get(i)?.flatten_all()?.to_vec1()?,
                tokens: tokens.get(i)?.flatten_all()?.to_vec1()?,
                key: CropKey { track: key[0].cast_unsigned(), crop: key[1].cast_unsigned() },
            };
            self.offer(example, names.get(i).cloned().flatten());
        }
        self.saved = self.examples.len();
        Ok(())
    }
}
