//! A few held-out crops as a model in training sees and answers them, for people to look at.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::StorageError;
use super::durable::write_durably;

/// Name of the file in the folder of a node.
pub const EXAMPLES_FILE: &str = "examples.safetensors";
/// Key of the description in the file's metadata.
const KEY: &str = "omar_flow.predicted_crops";

/// Crops with their tokens, masks and predictions.
#[derive(Debug, Clone, PartialEq)]
pub struct PredictedCrops {
    /// Completed steps of the model.
    pub step: u64,
    /// Positions per second.
    pub rate_hz: f64,
    /// What the model sees.
    pub views: Vec<InputView>,
    /// Names of the streams, `view/codebook`.
    pub streams: Vec<String>,
    /// Codes per codebook.
    pub codebook_size: u32,
    /// The crops; all have as many positions.
    pub crops: Vec<PredictedCrop>,
}

/// A view of the input: how wide its part of a patch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputView {
    /// Name.
    pub name: String,
    /// Bins.
    pub bins: usize,
    /// Frames of a position.
    pub frames: usize,
}

/// Where a crop is from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CropName {
    /// The recording, as the corpus names it.
    pub path: String,
    /// Where the crop begins in it, in seconds.
    pub start_s: f64,
}

/// One crop.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PredictedCrop {
    /// Its track.
    pub track: u64,
    /// Which of the track's crops.
    pub crop: u64,
    /// Where it is from; absent in files of older programs.
    pub name: Option<CropName>,
    /// Input before masking, `(positions, patch_dim)`: for each view, its bins by its frames.
    pub patches: Vec<f32>,
    /// Targets, `(positions, streams)`.
    pub tokens: Vec<u32>,
    /// Which positions are hidden from the model, `(positions)`.
    pub mask: Vec<bool>,
    /// What it predicts, `(positions, streams)`; meaningless where nothing is masked.
    pub predicted: Vec<u32>,
}

/// What is not a tensor.
#[derive(Serialize, Deserialize)]
struct Description {
    step: u64,
    rate_hz: f64,
    views: Vec<InputView>,
    streams: Vec<String>,
    codebook_size: u32,
    /// Track and crop.
    keys: Vec<(u64, u64)>,
    #[serde(default)]
    names: Vec<Option<CropName>>,
}

impl PredictedCrops {
    /// Values of a patch.
    pub fn patch_dim(&self) -> usize {
        self.views.iter().map(|view| view.bins * view.frames).sum()
    }

    /// Positions of a crop.
    pub fn positions(&self) -> usize {
        self.crops.first().map_or(0, |crop| crop.mask.len())
    }

    /// Writes the file, in place of an older one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), StorageError> {
        let description = Description {
            step: self.step,
            rate_hz: self.rate_hz,
            views: self.views.clone(),
            streams: self.streams.clone(),
            codebook_size: self.codebook_size,
            keys: self.crops.iter().map(|crop| (crop.track, crop.crop)).collect(),
            names: self.crops.iter().map(|crop| crop.name.clone()).collect(),
        };
        let json = serde_json::to_string(&description).expect("a description is plain data and always serialises");
        let (n, positions, streams) = (self.crops.len(), self.positions(), self.streams.len());
        let each = |bytes: fn(&PredictedCrop) -> Vec<u8>| self.crops.iter().flat_map(bytes).collect::<Vec<u8>>();
        let patches = each(|crop| crop.patches.iter().flat_map(|value| value.to_le_bytes()).collect());
        let tokens = each(|crop| crop.tokens.iter().flat_map(|value| value.to_le_bytes()).collect());
        let mask = each(|crop| crop.mask.iter().map(|&masked| u8::from(masked)).collect());
        let predicted = each(|crop| crop.predicted.iter().flat_map(|value| value.to_le_bytes()).collect());
        let parts = [
            ("patches", Dtype::F32, vec![n, positions, self.patch_dim()], &patches),
            ("tokens", Dtype::U32, vec![n, positions, streams], &tokens),
            ("mask", Dtype::U8, vec![n, positions], &mask),
            ("predicted", Dtype::U32, vec![n, positions, streams], &predicted),
        ];
        let refused = |error: safetensors::SafeTensorError| StorageError::content(path, error.to_string());
        let mut tensors = BTreeMap::new();
        for (name, dtype, shape, bytes) in parts {
            tensors.insert(name, TensorView::new(dtype, shape, bytes).map_err(refused)?);
        }
        let metadata = HashMap::from([(KEY.to_owned(), json)]);
        let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(refused)?;
        write_durably(path, &bytes)
    }

    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is another file.
    pub fn read(path: &Path) -> Result<Option<Self>, StorageError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StorageError::io(path, error)),
        };
        let refused = |error: safetensors::SafeTensorError| StorageError::content(path, error.to_string());
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(refused)?;
        let json = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let json = json.ok_or_else(|| StorageError::content(path, format!("expected metadata `{KEY}`, found none")))?;
        let read: Description =
            serde_json::from_str(json).map_err(|error| StorageError::content(path, format!("`{KEY}`: {error}")))?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(refused)?;
        let Description { step, rate_hz, views, streams, codebook_size, keys, names } = read;
        let mut found = Self { step, rate_hz, views, streams, codebook_size, crops: Vec::new() };
        let n = keys.len();
        let (mask, positions) =
            tensor(&tensors, path, "mask", n, |bytes| bytes.iter().map(|&byte| byte != 0).collect::<Vec<bool>>())?;
        let f32s = |bytes: &[u8]| -> Vec<f32> { words(bytes).map(f32::from_le_bytes).collect() };
        let u32s = |bytes: &[u8]| -> Vec<u32> { words(bytes).map(u32::from_le_bytes).collect() };
        let (patches, patch) = tensor(&tensors, path, "patches", n, f32s)?;
        let (tokens, codes) = tensor(&tensors, path, "tokens", n, u32s)?;
        let (predicted, answers) = tensor(&tensors, path, "predicted", n, u32s)?;
        let (dim, streams) = (found.patch_dim(), found.streams.len());
        if patch != positions * dim || codes != positions * streams || answers != codes {
            let sizes = format!("{patch} values, {codes} tokens and {answers} predictions of {positions} positions");
            return Err(StorageError::content(path, format!("{sizes} do not fit {dim} a patch and {streams} streams")));
        }
        found.crops = keys
            .into_iter()
            .enumerate()
            .map(|(i, (track, crop))| PredictedCrop {
                track,
                crop,
                name: names.get(i).cloned().flatten(),
                patches: patches[i * patch..][..patch].to_vec(),
                tokens: tokens[i * codes..][..codes].to_vec(),
                mask: mask[i * positions..][..positions].to_vec(),
                predicted: predicted[i * codes..][..codes].to_vec(),
            })
            .collect();
        Ok(Some(found))
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|word| word.try_into().expect("chunks of four bytes have four bytes"))
}

/// The values of a tensor, and how many of them each of `n` crops has.
fn tensor<T>(
    tensors: &SafeTensors<'_>,
    path: &Path,
    name: &str,
    n: usize,
    decode: impl Fn(&[u8]) -> Vec<T>,
) -> Result<(Vec<T>, usize), StorageError> {
    let found = tensors.tensor(name).map_err(|error| StorageError::content(path, format!("`{name}`: {error}")))?;
    let values = decode(found.data());
    if !values.len().is_multiple_of(n.max(1)) {
        return Err(StorageError::content(path, format!("`{name}`: {} values are not {n} crops", values.len())));
    }
    let each = values.len() / n.max(1);
    Ok((values, each))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crops() -> PredictedCrops {
        let crop = |track| PredictedCrop {
            track,
            crop: 2,
            name: (track == 3).then(|| CropName { path: "a song.ogg".to_owned(), start_s: 12.5 }),
            patches: (0..12).map(|i| i as f32 + track as f32).collect(),
            tokens: vec![1, 2, 3, 4, 5, 6],
            mask: vec![true, false, true],
            predicted: vec![1, 0, 0, 0, 5, 6],
        };
        let view = |name: &str, bins, frames| InputView { name: name.to_owned(), bins, frames };
        PredictedCrops {
            step: 7,
            rate_hz: 15.625,
            views: vec![view("mel", 1, 2), view("cqt", 2, 1)],
            streams: vec!["mel/0".into(), "mel/1".into()],
            codebook_size: 16,
            crops: vec![crop(u64::MAX), crop(3)],
        }
    }

    #[test]
    fn crops_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(EXAMPLES_FILE);
        assert_eq!(PredictedCrops::read(&path).expect("nothing there"), None);
        for crops in [crops(), PredictedCrops { crops: Vec::new(), ..crops() }] {
            crops.write(&path).expect("written");
            assert_eq!(PredictedCrops::read(&path).expect("read"), Some(crops));
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join(EXAMPLES_FILE);
        std::fs::write(&path, b"no tensors").expect("written");
        let error = PredictedCrops::read(&path).expect_err("no tensors").to_string();
        assert!(error.contains(EXAMPLES_FILE), "{error}");
        let mut wrong = crops();
        wrong.views.pop();
        assert!(wrong.write(&path).is_err(), "the shape does not fit the values");
    }
}
