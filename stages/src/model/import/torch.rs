//! The archive that `torch.save` writes: a zip file, not compressed, with a pickle `NAME/data.pkl` and the bytes of every
//! storage in `NAME/data/KEY`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::{Device, Tensor};
use zip::ZipArchive;
use zip::result::ZipError;

use super::ImportError;
use super::pickle::{ElementType, PickleError, TensorDescription, read_state_dict};

/// A pickle of more bytes describes no model.
const PICKLE_BYTES: u64 = 1 << 28;

type Archive = ZipArchive<BufReader<File>>;

/// Reads all tensors of a checkpoint: floats of any width as f32, integers as i64.
///
/// # Errors
/// [`ImportError::Foreign`] when it names anything but tensors; [`ImportError::Checkpoint`] when it is truncated, no
/// checkpoint of PyTorch 1.6 or later, or holds tensors outside of their storage or values that are not finite.
pub fn read_torch(path: &Path) -> Result<HashMap<String, Tensor>, ImportError> {
    let refused = |reason: String| ImportError::checkpoint(path, reason);
    let mut archive = open(path)?;
    let root = root(&archive).ok_or_else(|| {
        refused("expected a PyTorch checkpoint with an entry `data.pkl`, found another zip archive".to_owned())
    })?;
    check_byte_order(path, &mut archive, &root)?;
    let code = entry(path, &mut archive, &format!("{root}data.pkl"), PICKLE_BYTES)?;
    let described = read_state_dict(&code).map_err(|error| match error {
        PickleError::Foreign(global) => ImportError::Foreign { path: path.to_owned(), global },
        damaged => refused(damaged.to_string()),
    })?;
    if described.is_empty() {
        return Err(refused("there are no tensors in it".to_owned()));
    }
    let mut tensors = HashMap::new();
    for (name, description) in described {
        let storage = format!("{root}data/{}", description.storage);
        let len = description.storage_len.saturating_mul(description.element.size()) as u64;
        let bytes = entry(path, &mut archive, &storage, len)?;
        if (bytes.len() as u64) < len {
            let found = bytes.len();
            return Err(refused(format!("tensor `{name}`: its storage has {found} bytes, expected {len}")));
        }
        let tensor =
            read_tensor(&description, &bytes).map_err(|reason| refused(format!("tensor `{name}`: {reason}")))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

fn open(path: &Path) -> Result<Archive, ImportError> {
    let mut file = File::open(path).map_err(|error| ImportError::io(path, error))?;
    let mut start = Vec::new();
    (&mut file).take(4).read_to_end(&mut start).map_err(|error| ImportError::io(path, error))?;
    if start.starts_with(b"PK") {
        return ZipArchive::new(BufReader::new(file)).map_err(|error| {
            ImportError::checkpoint(
                path,
                format!("the file is truncated or damaged: its zip directory is missing ({error})"),
            )
        });
    }
    let reason = match start.first() {
        None => "the file is empty",
        Some(0x80) => {
            "a checkpoint of the format before PyTorch 1.6: load it there and save it again with `torch.save`"
        }
        Some(_) => "expected a PyTorch checkpoint (a zip archive), found another kind of file",
    };
    Err(ImportError::checkpoint(path, reason))
}

/// The folder inside the archive, with its slash.
fn root(archive: &Archive) -> Option<String> {
    archive.file_names().find_map(|name| name.ok()?.strip_suffix("data.pkl").map(str::to_owned))
}

fn check_byte_order(path: &Path, archive: &mut Archive, root: &str) -> Result<(), ImportError> {
    let name = format!("{root}byteorder");
    if archive.index_for_name(&name).is_none() {
        return Ok(());
    }
    match &entry(path, archive, &name, 16)?[..] {
        b"little" => Ok(()),
        other => {
            let other = String::from_utf8_lossy(other);
            Err(ImportError::checkpoint(path, format!("expected little-endian values, found byte order `{other}`")))
        }
    }
}

/// The bytes of an entry, which are `most` at most.
fn entry(path: &Path, archive: &mut Archive, name: &str, most: u64) -> Result<Vec<u8>, ImportError> {
    let refused = |reason: String| ImportError::checkpoint(path, reason);
    let file = archive.by_name(name).map_err(|error| match error {
        ZipError::FileNotFound => refused(format!("the entry `{name}` is missing from the archive")),
        error => refused(format!("the entry `{name}` cannot be read: {error}")),
    })?;
    if file.size() > most {
        return Err(refused(format!("the entry `{name}` has {} bytes, expected {most} at most", file.size())));
    }
    let mut bytes = Vec::with_capacity(file.size() as usize);
    let mut file = file;
    file.read_to_end(&mut bytes)
        .map_err(|error| refused(format!("the file is truncated or damaged: entry `{name}`: {error}")))?;
    Ok(bytes)
}

fn read_tensor(description: &TensorDescription, bytes: &[u8]) -> Result<Tensor, String> {
    let TensorDescription { element, offset, shape, strides, storage_len, .. } = description;
    let count = shape.iter().try_fold(1usize, |count, len| count.checked_mul(*len)).unwrap_or(usize::MAX);
    let reach = shape
        .iter()
        .zip(strides)
        .try_fold(*offset, |reach, (len, stride)| reach.checked_add(len.saturating_sub(1).checked_mul(*stride)?));
    // Tensors of a model are not expanded, so none has more values than its storage.
    if count > *storage_len || (count > 0 && reach.is_none_or(|last| last >= *storage_len)) {
        return Err(format!(
            "shape {shape:?} with strides {strides:?} from {offset} on leaves its {storage_len} values"
        ));
    }
    let size = element.size();
    let rows: Vec<u8>;
    let bytes = if is_contiguous(shape, strides) {
        bytes.get(offset * size..(offset + count) * size).unwrap_or_default()
    } else {
        let places = places(count, *offset, shape, strides);
        rows = places.flat_map(|place| &bytes[place * size..(place + 1) * size]).copied().collect();
        &rows
    };
    if *element == ElementType::I64 {
        let values: Vec<i64> = bytes.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
        return Tensor::from_vec(values, &shape[..], &Device::Cpu).map_err(|error| error.to_string());
    }
    let values: Vec<f32> = bytes.chunks_exact(size).map(|bytes| float(*element, bytes)).collect();
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("it holds {value}: a model cannot compute with that")),
        None => Tensor::from_vec(values, &shape[..], &Device::Cpu).map_err(|error| error.to_string()),
    }
}

fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.iter().zip(strides).rev().all(|(len, stride)| {
        let fits = *len <= 1 || *stride == expected;
        expected = expected.saturating_mul(*len);
        fits
    })
}

/// The places in the storage of a tensor's values, row by row.
fn places(count: usize, offset: usize, shape: &[usize], strides: &[usize]) -> impl Iterator<Item = usize> {
    let dimensions: Vec<(usize, usize)> = shape.iter().copied().zip(strides.iter().copied()).rev().collect();
    (0..count).map(move |index| {
        let place = dimensions
            .iter()
            .fold((index, offset), |(rest, place), (len, stride)| (rest / len, place + rest % len * stride));
        place.1
    })
}

fn float(element: ElementType, bytes: &[u8]) -> f32 {
    match (element, bytes) {
        (ElementType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (ElementType::F16, &[a, b]) => half::f16::from_le_bytes([a, b]).to_f32(),
        (ElementType::BF16, &[a, b]) => f32::from_le_bytes([0, 0, a, b]),
        (_, bytes) => f64::from_le_bytes(bytes.try_into().unwrap_or_default()) as f32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_offsets_are_followed() {
        let bytes: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let mut description = TensorDescription {
            storage: "0".into(),
            element: ElementType::F32,
            storage_len: 12,
            offset: 1,
            shape: vec![2, 3],
            strides: vec![1, 4],
        };
        let tensor = read_tensor(&description, &bytes).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.0, 5.0, 9.0], [2.0, 6.0, 10.0]]);
        description.offset = 3;
        assert!(read_tensor(&description, &bytes).unwrap_err().contains("leaves its 12 values"));
        // No room is made for what the storage cannot hold.
        description.shape = vec![usize::MAX, 3];
        description.strides = vec![0, 0];
        assert!(read_tensor(&description, &bytes).is_err());
        (description.shape, description.strides, description.offset) = (vec![], vec![], 11);
        assert_eq!(read_tensor(&description, &bytes).unwrap().to_scalar::<f32>().unwrap(), 11.0);
    }

    #[test]
    fn floats_of_every_width_are_read() {
        assert_eq!(float(ElementType::F16, &[0x00, 0xc0]), -2.0);
        assert_eq!(float(ElementType::BF16, &[0x80, 0x3f]), 1.0);
        assert_eq!(float(ElementType::F64, &1.5f64.to_le_bytes()), 1.5);
    }
}
