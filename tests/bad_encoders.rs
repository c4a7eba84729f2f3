//! What `import` and `embed` say of files that are not what they seem, for each family: one message that names the file,
//! and where there is one the tensor, with what was expected and what was found.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod program;
mod published;
mod small_encoders;

use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use omar_stages::encoder::import::{ImportOptions, read};
use program::{Options, Program, text};
use published::{CONFIG, Checkpoint, Tensors, config, encoder_tensors};
use small_encoders::{count, load, maest_config, mert_config, musicfm_tensors, statistics};
use tempfile::TempDir;

const FAMILIES: [&str; 4] = ["omar_rq", "musicfm", "mert", "maest"];

/// A model in the layout that its authors publish it in.
struct Published {
    folder: TempDir,
    /// Name and text of the file beside the tensors.
    beside: (String, String),
    checkpoint: &'static str,
    tensors: Tensors,
}

impl Published {
    fn of(family: &str) -> Self {
        let (beside, checkpoint, tensors) = match family {
            "omar_rq" => {
                let tensors = encoder_tensors(&config(), 64 * 4);
                (("config.gin".to_owned(), CONFIG.to_owned()), "model.ckpt", tensors)
            }
            "musicfm" => {
                let (name, text) = statistics();
                ((name.to_owned(), text), "pretrained_fma.pt", musicfm_tensors())
            }
            "mert" => {
                let tensors = load("mert_base.weights.safetensors");
                let config = mert_config(&tensors, "mert_base.weights.safetensors").to_string();
                (("config.json".to_owned(), config), "pytorch_model.bin", tensors)
            }
            _ => {
                let tensors = load("maest.weights.safetensors");
                let config = maest_config(count(&tensors, "audio_spectrogram_transformer.encoder.layer."));
                (("config.json".to_owned(), config.to_string()), "pytorch_model.bin", tensors)
            }
        };
        let model = Self { folder: TempDir::new().unwrap(), beside, checkpoint, tensors };
        model.write();
        model
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self) {
        fs::write(self.path(&self.beside.0), &self.beside.1).unwrap();
        let nested = self.checkpoint.ends_with(".pt");
        Checkpoint { nested, ..Checkpoint::default() }.write(&self.path(self.checkpoint), &self.tensors);
    }

    fn import(&self) -> Result<omar_stages::encoder::EncoderManifest, String> {
        let read = read(self.folder.path(), &ImportOptions::default());
        read.map(|imported| imported.manifest).map_err(|error| error.to_string())
    }

    /// The message, with the folder left out.
    fn refused(&self) -> String {
        let message = self.import().expect_err("it is refused");
        message.replace(&format!("{}/", self.folder.path().display()), "")
    }

    /// The message once the tensors are changed.
    fn with_tensors(family: &str, change: impl FnOnce(&mut Tensors)) -> String {
        let mut model = Self::of(family);
        change(&mut model.tensors);
        model.write();
        model.refused()
    }

    /// The message once the file beside them is changed.
    fn with_text(family: &str, from: &str, to: &str) -> String {
        let mut model = Self::of(family);
        assert!(model.beside.1.contains(from), "{from} in {}", model.beside.1);
        model.beside.1 = model.beside.1.replace(from, to);
        model.write();
        model.refused()
    }
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn half_a_download_is_named() {
    for family in FAMILIES {
        let model = Published::of(family);
        assert!(model.import().is_ok(), "{family} is sound before it is damaged");
        let path = model.path(model.checkpoint);
        let bytes = fs::read(&path).unwrap();
        for share in [1, 2, 9] {
            fs::write(&path, &bytes[..bytes.len() * share / 10]).unwrap();
            let message = model.refused();
            let expected = format!("`{}`: the file is truncated or damaged", model.checkpoint);
            assert!(message.starts_with(&expected), "{family}, {share} tenths: {message}");
        }
        // The same as safetensors.
        fs::remove_file(&path).unwrap();
        let all: std::collections::HashMap<_, _> = model.tensors.clone().into_iter().collect();
        let path = model.path("model.safetensors");
        candle_core::safetensors::save(&all, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        for share in [0, 1, 9] {
            fs::write(&path, &bytes[..bytes.len() * share / 10]).unwrap();
            let message = model.refused();
            let named = message.starts_with("`model.safetensors`: ") && message.contains("is the file complete?");
            assert!(named, "{family}, {share} tenths: {message}");
        }
    }
}

#[test]
fn half_a_configuration_is_named() {
    for family in FAMILIES {
        let mut model = Published::of(family);
        let half = model.beside.1.len() / 2;
        model.beside.1.truncate(half);
        model.write();
        let message = model.refused();
        assert!(message.contains(&model.beside.0), "{family}: {message}");
    }
}

#[test]
fn a_tensor_that_is_missing_or_of_another_shape_is_named() {
    let cases = [
        ("omar_rq", "net.layers.1.attention.proj.weight", "[48, 48]"),
        ("musicfm", "conformer.layers.1.self_attn.linear_k.weight", "[64, 64]"),
        ("mert", "encoder.layers.0.attention.k_proj.weight", "[64, 64]"),
        ("maest", "audio_spectrogram_transformer.encoder.layer.1.attention.attention.key.weight", "[48, 48]"),
    ];
    for (family, tensor, shape) in cases {
        let model = Published::of(family);
        let is_it = |name: &&String| name.strip_prefix("model.").unwrap_or(name) == tensor;
        let name = model.tensors.keys().find(is_it).unwrap_or_else(|| panic!("{family} has no {tensor}")).clone();
        let file = model.checkpoint;
        let missing = Published::with_tensors(family, |tensors| drop(tensors.remove(&name)));
        assert_eq!(missing, format!("`{file}`: tensor `{tensor}` is missing, expected shape {shape}"), "{family}");
        let wrong = Published::with_tensors(family, |tensors| drop(tensors.insert(name, zeros(&[16, 8]))));
        assert_eq!(wrong, format!("`{file}`: tensor `{tensor}` has shape [16, 8], expected {shape}"), "{family}");
    }
}

#[test]
fn a_fine_tuned_variant_is_told_from_what_was_published() {
    for family in ["musicfm", "mert", "maest"] {
        let message = Published::with_tensors(family, |tensors| {
            tensors.insert("genre_head.weight".into(), zeros(&[10, 64]));
            tensors.insert("genre_head.bias".into(), zeros(&[10]));
        });
        let file = Published::of(family).checkpoint;
        assert_eq!(
            message,
            format!(
                "`{file}`: tensor `genre_head.bias` has no place in {family} (2 such): a variant with parts of its own, \
                 such as a fine-tuned one, is not read as the published model"
            )
        );
    }
    // Inside an OMAR-RQ it is refused too; beside it are the heads and codebooks of its training, which are listed.
    let inside = Published::with_tensors("omar_rq", |tensors| {
        drop(tensors.insert("net.layers.0.adapter.weight".into(), zeros(&[4, 48])));
    });
    assert_eq!(
        inside,
        "`model.ckpt`: tensor `net.layers.0.adapter.weight` has no place in the encoder that the configuration describes"
    );
    let mut model = Published::of("omar_rq");
    model.tensors.insert("genre_head.weight".into(), zeros(&[10, 48]));
    model.write();
    assert_eq!(model.import().unwrap().dropped, ["genre_head.weight"]);
    // A model around the published one has all of its tensors under a name of its own.
    for (family, expected) in [
        ("omar_rq", "`model.ckpt` holds no tensors `net.layers.N...`: it is no OMAR-RQ encoder"),
        ("mert", "`pytorch_model.bin`: tensor `backbone."),
    ] {
        let around = Published::with_tensors(family, |tensors| {
            let old = std::mem::take(tensors);
            tensors.extend(old.into_iter().map(|(name, tensor)| (format!("backbone.{name}"), tensor)));
        });
        assert!(around.starts_with(expected), "{family}: {around}");
    }
}

#[test]
fn a_configuration_that_contradicts_the_tensors_is_named() {
    let depth = Published::with_text("omar_rq", "Conformer.depth = 3", "Conformer.depth = 4");
    assert!(depth.contains("depth") && depth.contains('4') && depth.contains('3'), "{depth}");
    let width = Published::with_text("omar_rq", "Conformer.embed_dim = 48", "Conformer.embed_dim = 96");
    assert!(width.contains("embed_dim") && width.contains("96") && width.contains("48"), "{width}");
    for (family, layers) in [("mert", "encoder.layers."), ("maest", "audio_spectrogram_transformer.encoder.layer.")] {
        let blocks = count(&Published::of(family).tensors, layers);
        let (from, to) = (format!("\"num_hidden_layers\":{blocks}"), "\"num_hidden_layers\":12");
        assert_eq!(
            Published::with_text(family, &from, to),
            format!(
                "`config.json`: `num_hidden_layers` is 12, but the number of blocks in the checkpoint says {blocks}: they \
                 are not of one model"
            )
        );
    }
    let width = Published::with_text("maest", "\"hidden_size\":48", "\"hidden_size\":768");
    assert_eq!(
        width,
        "`config.json`: `hidden_size` is 768, but tensor \
         `audio_spectrogram_transformer.embeddings.patch_embeddings.projection.weight` says 48: they are not of one model"
    );
    let std = Published::with_text("musicfm", "melspec_2048_std\": ", "melspec_2048_std\": -");
    assert!(std.starts_with("`fma_stats.json`: `melspec_2048_std`: expected more than 0, found -"), "{std}");
}

#[test]
fn the_files_of_one_family_are_not_those_of_another() {
    // The tensors decide; what stands beside them must be of the same family.
    let beside = |family: &str, other: &str| {
        let mut model = Published::of(family);
        let own = std::mem::replace(&mut model.beside, Published::of(other).beside);
        fs::remove_file(model.path(&own.0)).unwrap();
        model.write();
        model.refused()
    };
    assert_eq!(
        beside("mert", "maest"),
        "`config.json`: `model_type` is \"audio-spectrogram-transformer\", expected \"mert_model\": such a variant is not \
         known, so it is refused"
    );
    assert_eq!(
        beside("maest", "mert"),
        "`config.json`: `model_type` is \"mert_model\", expected \"audio-spectrogram-transformer\": such a variant is not \
         known, so it is refused"
    );
    assert!(beside("mert", "musicfm").starts_with("`pytorch_model.bin`: there is no `config.json` beside it"));
    assert!(beside("musicfm", "mert").starts_with("`pretrained_fma.pt`: there is no `*_stats.json` beside it"));
    for family in ["mert", "maest"] {
        let message = beside(family, "omar_rq");
        assert!(message.starts_with("`pytorch_model.bin` holds no tensors `net.layers.N...`"), "{message}");
    }
    // HuBERT has tensors of the same names as MERT.
    let hubert = Published::with_text("mert", "\"mert_model\"", "\"hubert\"");
    assert!(hubert.starts_with("`config.json`: `model_type` is \"hubert\", expected \"mert_model\""), "{hubert}");
}

#[test]
fn embed_says_what_is_wrong_with_an_encoder() {
    let program = Program::new(&Options { tracks: 1, ..Options::default() });
    let embed = |model: &str| {
        let output = program.output(&["embed", model, "audio", "--out", "out"]);
        assert!(!output.status.success(), "{}", text(&output.stdout));
        text(&[output.stdout, output.stderr].concat())
    };
    for family in FAMILIES {
        let published = Published::of(family);
        let message = embed(&published.folder.path().display().to_string());
        assert!(message.contains("`omar-flow import ") && message.contains("makes an encoder of it"), "{message}");

        let folder = program.path(family);
        read(published.folder.path(), &ImportOptions::default()).unwrap().write(&folder).unwrap();
        let weights = folder.join("model.safetensors");
        let bytes = fs::read(&weights).unwrap();
        fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
        let message = embed(family);
        let damaged = format!("`{family}/model.safetensors`: the weights cannot be read, is the file complete?");
        assert!(message.contains(&damaged), "{family}: {message}");
        fs::write(&weights, &bytes).unwrap();

        // A manifest of another depth: it asks for blocks that are not there.
        let manifest = folder.join("manifest.json");
        let sound = fs::read_to_string(&manifest).unwrap();
        let mut wrong: serde_json::Value = serde_json::from_str(&sound).unwrap();
        let layers = wrong["model"]["layers"].as_u64().unwrap();
        wrong["model"]["layers"] = (layers + 1).into();
        fs::write(&manifest, wrong.to_string()).unwrap();
        let message = embed(family);
        let block = format!(".{layers}.");
        let named = message.contains(&format!("`{family}/model.safetensors`: tensor `"))
            && message.contains(&block)
            && message.contains("is missing");
        assert!(named, "{family}: {message}");

        wrong["model"]["family"] = "madeup".into();
        fs::write(&manifest, wrong.to_string()).unwrap();
        let message = embed(family);
        assert!(message.contains("manifest.json") && message.contains("there is no family `madeup`"), "{message}");
    }
}
