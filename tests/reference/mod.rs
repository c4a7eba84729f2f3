//! Files with numbers of the published models. They lie in `tests/golden`, or in the folder that `OMAR_REFERENCE` names:
//! sizes come from the tensors and parameters from the metadata, so other signals, weights and seeds do as well.

#![allow(unreachable_pub, reason = "the module is compiled into every test on its own")]
#![allow(dead_code, reason = "every test file uses the part that it needs")]
#![allow(clippy::unwrap_used, clippy::iter_over_hash_type, reason = "a test may fail, and names are sorted")]

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use candle_core::Device;
use safetensors::{Dtype, SafeTensors};

/// A reference file in memory.
pub struct Reference {
    /// The file as it is.
    pub bytes: Vec<u8>,
    metadata: BTreeMap<String, String>,
}

/// A tensor of floats.
pub struct Tensor {
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its values, row by row.
    pub values: Vec<f32>,
}

impl Reference {
    /// Reads `name`.safetensors.
    pub fn open(name: &str) -> Self {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let folder = std::env::var_os("OMAR_REFERENCE").map_or(golden, PathBuf::from);
        let path = folder.join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
        Self { bytes, metadata }
    }

    /// Whether the files are others than ours, with parameters of their own.
    pub fn is_elsewhere() -> bool {
        std::env::var_os("OMAR_REFERENCE").is_some()
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.bytes).unwrap()
    }

    /// Names with this ending, the ending cut off, sorted.
    pub fn stems(&self, ending: &str) -> Vec<String> {
        let tensors = self.tensors();
        let mut stems: Vec<String> =
            tensors.names().into_iter().filter_map(|name| name.strip_suffix(ending)).map(str::to_string).collect();
        stems.sort();
        stems
    }

    /// A tensor of floats.
    pub fn f32(&self, name: &str) -> Tensor {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.dtype(), Dtype::F32, "{name}");
        let values = view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect();
        Tensor { shape: view.shape().to_vec(), values }
    }

    /// A tensor of tokens.
    pub fn tokens(&self, name: &str) -> Vec<u16> {
        let tensors = self.tensors();
        let view = tensors.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(view.dtype(), Dtype::I64, "{name}");
        let words = view.data().as_chunks::<8>().0.iter();
        words.map(|&word| u16::try_from(i64::from_le_bytes(word)).unwrap()).collect()
    }

    /// All tensors, for candle.
    pub fn all(&self) -> HashMap<String, candle_core::Tensor> {
        candle_core::safetensors::load_buffer(&self.bytes, &Device::Cpu).unwrap()
    }

    /// The metadata entry `key` cut into words.
    fn words(&self, key: &str) -> Vec<&str> {
        let text = self.metadata.get(key).map_or("", String::as_str);
        text.split([' ', ',']).filter(|word| !word.is_empty()).collect()
    }

    /// The metadata entry `key`.
    pub fn text(&self, key: &str) -> Option<String> {
        self.metadata.get(key).cloned()
    }

    /// The metadata entry `key`, when it is a number.
    pub fn number(&self, key: &str) -> Option<f64> {
        self.metadata.get(key)?.trim().parse().ok()
    }

    /// The number that follows `word` in the entry `key`, such as `hop` in `win 512 hop 320`.
    pub fn number_after(&self, key: &str, word: &str) -> Option<f64> {
        self.numbers_after(key, word).first().copied()
    }

    /// All numbers that follow `word` at once, such as two behind `betas` in `betas 0.9 0.999 eps 1e-8`.
    pub fn numbers_after(&self, key: &str, word: &str) -> Vec<f64> {
        let words = self.words(key).into_iter().skip_while(|&part| part != word).skip(1);
        words.map_while(|part| part.parse().ok()).collect()
    }

    /// The number before `unit` in the entry `key`, such as `/octave` in `144 bins, 24/octave`.
    pub fn number_of(&self, key: &str, unit: &str) -> Option<f64> {
        self.words(key).iter().find_map(|word| word.strip_suffix(unit)?.parse().ok())
    }
}
