//! Writes models in the published layout: `config.gin`, and `model.ckpt` as `torch.save` writes a state dict.

#![allow(unreachable_pub, reason = "the module is compiled into every test on its own")]
#![allow(dead_code, reason = "every test file uses the part that it needs")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use omar_stages::model::{ConformerConfig, Encoder, Source};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Tensors by name.
pub type Tensors = BTreeMap<String, Tensor>;

/// Random weights of an encoder, in the published names.
pub fn encoder_tensors(config: &ConformerConfig, patch_dim: usize) -> Tensors {
    let (_, weights) = Encoder::new(config, patch_dim, Source::Seed(3), &Device::Cpu).unwrap();
    weights.tensors().into_iter().collect()
}

/// A published configuration of a model that hears a 16 kHz mel of 64 bands, patches of 4 frames: 3 layers of 48.
pub const CONFIG: &str = r#"# made by a test
from somewhere import things
build_module.representation = @nets.melspectrogram.MelSpectrogram
build_module.net = @nets.conformer.Conformer
rate = 16000
AudioDataset.num_frames = 480000 # 30s
nets.melspectrogram.MelSpectrogram.sr = %rate
nets.melspectrogram.MelSpectrogram.hop_len = 320
nets.melspectrogram.MelSpectrogram.n_mel = 64
nets.melspectrogram.MelSpectrogram.norm_std = 1.25
nets.melspectrogram.MelSpectrogram.norm_mean = 2
modules.maskingmodel.MaskingModel.lr = 1e-4
train.params = {
    "precision": "bf16-mixed",  # and more
    "devices": [0, 1],
}
nets.conformer.Conformer.embed_dim = 48
nets.conformer.Conformer.depth = 3
nets.conformer.Conformer.conv_kernel_size = 5
nets.conformer.Conformer.num_heads = 6
nets.conformer.Conformer.mlp_ratio = 2.0
nets.conformer.Conformer.use_deepnorm = False
nets.conformer.Conformer.use_rope = True
nets.conformer.Conformer.patch_size = (64, 4)
"#;

/// The model that [`CONFIG`] describes.
pub fn config() -> ConformerConfig {
    let norm = omar_stages::model::Norm::Plain;
    ConformerConfig { norm, ff_factor: 2, ..ConformerConfig::new(3, 48, 6) }
}

/// A folder with both files.
pub fn write_model(folder: &Path, config: &str, tensors: &Tensors) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.gin"), config).unwrap();
    Checkpoint::default().write(&folder.join("model.ckpt"), tensors);
}

/// How a checkpoint is written.
#[derive(Default)]
pub struct Checkpoint {
    /// Floats of 16 bits, as `model.half()` leaves them.
    pub half: bool,
    /// Inside a dict with other entries, as training frameworks save it.
    pub nested: bool,
    /// A call of something that is no tensor, `module name`.
    pub foreign: Option<&'static str>,
}

impl Checkpoint {
    /// Writes the archive.
    pub fn write(&self, path: &Path, tensors: &Tensors) {
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        let mut pickle = Pickle(b"\x80\x02".to_vec());
        pickle.global("collections OrderedDict").raw(b")R");
        if self.nested {
            pickle.raw(b"(").text("epoch").raw(b"K\x07").text("state_dict").raw(b"}");
        }
        pickle.raw(b"(");
        let mut entries = Vec::new();
        for (key, (name, tensor)) in tensors.iter().enumerate() {
            let (class, bytes) = self.storage(tensor);
            pickle.text(name).global("torch._utils _rebuild_tensor_v2").raw(b"((").text("storage");
            pickle.global(&format!("torch {class}")).text(&key.to_string()).text("cpu").int(tensor.elem_count());
            pickle.raw(b"tQK\x00(");
            for len in tensor.dims() {
                pickle.int(*len);
            }
            pickle.raw(b"t(");
            for stride in tensor.stride() {
                pickle.int(*stride);
            }
            pickle.raw(b"t\x89").global("collections OrderedDict").raw(b")RtR");
            entries.push((format!("model/data/{key}"), bytes));
        }
        if let Some(foreign) = self.foreign {
            pickle.text("extra").global(foreign).raw(b"(").text("true").raw(b"tR");
        }
        pickle.raw(if self.nested { b"uu." } else { b"u." });
        entries.insert(0, ("model/data.pkl".to_owned(), pickle.0));
        entries.push(("model/byteorder".to_owned(), b"little".to_vec()));
        for (name, bytes) in entries {
            let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
            zip.start_file(name, options).unwrap();
            zip.write_all(&bytes).unwrap();
        }
        zip.finish().unwrap();
    }

    fn storage(&self, tensor: &Tensor) -> (&'static str, Vec<u8>) {
        let flat = tensor.flatten_all().unwrap();
        if tensor.dtype() == DType::I64 {
            let values = flat.to_vec1::<i64>().unwrap();
            return ("LongStorage", values.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        let values = flat.to_vec1::<f32>().unwrap();
        if self.half {
            return ("BFloat16Storage", values.iter().flat_map(|value| value.to_le_bytes()[2..].to_vec()).collect());
        }
        ("FloatStorage", values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

/// A pickle being written, protocol 2.
struct Pickle(Vec<u8>);

impl Pickle {
    fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(&mut self, value: usize) -> &mut Self {
        self.raw(b"J").raw(&(value as u32).to_le_bytes())
    }

    /// `module name`
    fn global(&mut self, name: &str) -> &mut Self {
        self.raw(b"c").raw(name.replace(' ', "\n").as_bytes()).raw(b"\n")
    }
}
