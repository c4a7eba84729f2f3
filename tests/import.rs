//! What does `import` make of published models of any size, and of files that are none?

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod published;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use omar_stages::encoder::import::{ImportOptions, read};
use omar_stages::encoder::{EncoderFolder, EncoderManifest};
use omar_stages::model::{ConformerConfig, Form, Norm, Pass, PositionEncoding};
use published::{CONFIG, Checkpoint, Tensors, config, encoder_tensors, write_model};
use tempfile::TempDir;

/// A model in the published layout that can be damaged.
struct Model {
    folder: TempDir,
}

impl Model {
    fn new(text: &str, tensors: &Tensors) -> Self {
        let model = Self { folder: TempDir::new().unwrap() };
        write_model(model.folder.path(), text, tensors);
        model
    }

    fn sound() -> Self {
        Self::new(CONFIG, &tensors())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self) -> Result<EncoderManifest, String> {
        read(self.folder.path(), &ImportOptions::default())
            .map(|imported| imported.manifest)
            .map_err(|error| error.to_string())
    }

    /// The message, with the folder left out.
    fn refused(&self) -> String {
        self.read().expect_err("it is refused").replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn tensors() -> Tensors {
    encoder_tensors(&config(), 64 * 4)
}

/// The message about a configuration with one change.
fn with_config(from: &str, to: &str) -> String {
    assert!(CONFIG.contains(from));
    Model::new(&CONFIG.replace(from, to), &tensors()).refused()
}

/// The message about tensors with one change.
fn with_tensors(change: impl FnOnce(&mut Tensors)) -> String {
    let mut tensors = tensors();
    change(&mut tensors);
    Model::new(CONFIG, &tensors).refused()
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn a_model_of_another_size_is_read() {
    let manifest = Model::sound().read().unwrap();
    assert_eq!(manifest.conformer(), Some(&ConformerConfig { dropout: 0.2, ..config() }));
    assert_eq!((manifest.sample_rate, manifest.patch_samples, manifest.rate), (16_000, 1280, 12.5));
    let view = &manifest.views[0];
    assert_eq!((view.name.as_str(), view.bins, view.hop_len, view.patch_frames), ("mel", 64, 320, 4));
    assert_eq!((&view.mean[..], &view.std[..]), (&[2.0][..], &[1.25][..]));
    assert_eq!(view.parameters["n_fft"], "512");
    assert_eq!(manifest.ignored["modules.maskingmodel.MaskingModel.lr"], "0.0001");
    assert_eq!(manifest.ignored["train.params"], "{'precision': \"bf16-mixed\", 'devices': [0, 1]}");
    assert!(!manifest.ignored.contains_key("nets.conformer.Conformer.depth"));
    assert!(manifest.notes.iter().any(|note| note.contains("conv_kernel_size` is 5 in the configuration and 31")));
    assert_eq!(manifest.licence, "CC-BY-NC-SA-4.0");
    assert_eq!(manifest.source.files[1].name, "model.ckpt");
}

#[test]
fn a_deep_model_without_rotary_positions_is_read() {
    let model = ConformerConfig {
        norm: Norm::Deepnorm { alpha: Some(1.5), beta: Some(0.5) },
        positions: PositionEncoding::Sinusoidal,
        ff_factor: 4,
        ..ConformerConfig::new(12, 32, 4)
    };
    let text = "build_module.representation = [@nets.waveform.Waveform, @nets.cqt.CQT]\n\
        modules.maskingmodel.MaskingModel.input_representation = @nets.waveform.Waveform\n\
        nets.waveform.Waveform.sr = 24000\nnets.waveform.Waveform.patch_size = (1, 1280)\n\
        nets.cqt.CQT.whatever_it_has = 'is not heard'\n\
        nets.conformer.Conformer:\n  alpha_deepnorm = 1.5\n  beta_deepnorm = 0.5\n  num_heads = 4\n";
    let manifest = Model::new(text, &encoder_tensors(&model, 1280)).read().unwrap();
    assert_eq!(manifest.conformer(), Some(&model));
    assert_eq!((manifest.rate, manifest.views[0].mean.len()), (18.75, 0));
    assert_eq!(manifest.ignored.len(), 2);
}

#[test]
fn what_is_written_is_loaded_and_computes_the_same() {
    let model = Model::sound();
    let imported = read(model.folder.path(), &ImportOptions::default()).unwrap();
    let folder = imported.write(&model.path("out")).unwrap();
    assert_eq!(EncoderFolder::open(&model.path("out")).unwrap(), folder);
    let input = Tensor::rand(-1f32, 1.0, (1, 20, 256), &Device::Cpu).unwrap();
    let run = |layers: usize, path: &Path| {
        let encoder = EncoderFolder::open(path).unwrap().load(layers, &Device::Cpu).unwrap();
        let hidden = encoder.forward_layers(&input, &mut Pass::evaluate(Form::Kernels)).unwrap();
        hidden[1].flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let whole = run(3, &model.path("out"));
    // Blocks that nobody asks for are left out.
    assert_eq!(run(2, &model.path("out")), whole);

    // As a training framework saves it, and as safetensors.
    for (name, nested) in [("nested", true), ("plain", false)] {
        let folder = model.path(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("config.gin"), CONFIG).unwrap();
        if nested {
            Checkpoint { nested, ..Checkpoint::default() }.write(&folder.join("model.ckpt"), &tensors());
        } else {
            let all: std::collections::HashMap<_, _> = tensors().into_iter().collect();
            candle_core::safetensors::save(&all, folder.join("model.safetensors")).unwrap();
        }
        read(&folder, &ImportOptions::default()).unwrap().write(&folder.join("out")).unwrap();
        assert_eq!(run(2, &folder.join("out")), whole, "{name}");
    }
    // Importing again replaces; other people's files are left alone.
    read(model.folder.path(), &ImportOptions::default()).unwrap().write(&model.path("out")).unwrap();
    let error = read(model.folder.path(), &ImportOptions::default()).unwrap().write(&model.path("plain")).unwrap_err();
    assert!(error.to_string().contains("choose another folder"), "{error}");
}

#[test]
fn half_precision_becomes_single() {
    let model = Model::sound();
    Checkpoint { half: true, ..Checkpoint::default() }.write(&model.path("model.ckpt"), &tensors());
    let imported = read(&model.path("model.ckpt"), &ImportOptions::default()).unwrap();
    let (found, expected) = (&imported.tensors["embedding_layer.weight"], &tensors()["embedding_layer.weight"]);
    assert_eq!(found.dtype(), DType::F32);
    let distance = (found - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(distance < 1e-3 && distance > 0.0, "{distance}");
}

#[test]
fn licences_are_read_and_can_be_stated() {
    let model = Model::sound();
    fs::write(model.path("README.md"), "---\nlicense: mit\ntags: [a]\n---\n# Model\n").unwrap();
    assert_eq!(model.read().unwrap().licence, "mit");
    let options =
        ImportOptions { licence: Some("CC0-1.0".into()), name: Some("mine".into()), ..ImportOptions::default() };
    let manifest = read(model.folder.path(), &options).unwrap().manifest;
    assert_eq!((manifest.licence.as_str(), manifest.name.as_str()), ("CC0-1.0", "mine"));
}

#[test]
fn files_that_are_no_checkpoints_are_refused() {
    let model = Model::sound();
    let path = model.path("model.ckpt");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(
        model.refused().starts_with("`model.ckpt`: the file is truncated or damaged: its zip directory is missing")
    );
    let mut damaged = bytes.clone();
    let data = bytes.windows(10).position(|w| w == b"data/5\x00\x00\x00\x00").unwrap_or(bytes.len() / 2);
    damaged[data + 200] ^= 0xff;
    fs::write(&path, &damaged).unwrap();
    assert!(model.refused().contains("truncated or damaged"), "{}", model.refused());
    fs::write(&path, b"").unwrap();
    assert_eq!(model.refused(), "`model.ckpt`: the file is empty");
    fs::write(&path, b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").unwrap();
    assert!(model.refused().contains("the format before PyTorch 1.6"), "{}", model.refused());
    fs::write(&path, b"<html>").unwrap();
    assert!(model.refused().contains("found another kind of file"));
    fs::remove_file(&path).unwrap();
    assert!(
        model
            .refused()
            .ends_with("it has a `config.gin`, and none of model.safetensors, model.ckpt, pytorch_model.bin, model.pt")
    );
    fs::write(model.path("model.safetensors"), b"\x10\x00").unwrap();
    assert!(model.refused().contains("is the file complete?"), "{}", model.refused());
    fs::remove_file(model.path("config.gin")).unwrap();
    assert!(model.refused().contains("is the file complete?"), "{}", model.refused());
    fs::remove_file(model.path("model.safetensors")).unwrap();
    assert!(model.read().unwrap_err().ends_with("found no tensors"));
    let model = Model::sound();
    fs::remove_file(model.path("config.gin")).unwrap();
    assert!(model.read().unwrap_err().ends_with("expected `config.gin` and `model.ckpt` in it, found no `config.gin`"));
}

#[test]
fn a_pickle_with_foreign_objects_is_refused_by_name() {
    let model = Model::sound();
    Checkpoint { foreign: Some("posix system"), ..Checkpoint::default() }.write(&model.path("model.ckpt"), &tensors());
    let message = model.refused();
    assert!(
        message.starts_with("`model.ckpt` refers to `posix.system`, which is no part of a tensor: refused."),
        "{message}"
    );
    assert!(message.contains("nothing in a checkpoint is executed"));
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_named() {
    let missing = with_tensors(|tensors| drop(tensors.remove("net.layers.1.ff2.module.4.bias")));
    assert_eq!(missing, "`model.ckpt`: tensor `net.layers.1.ff2.module.4.bias` is missing, expected shape [48]");
    // Training could start without these; embeddings would be silently wrong.
    let missing = with_tensors(|tensors| drop(tensors.remove("net.layers.2.conv_block.module.3.running_var")));
    assert_eq!(missing, "`model.ckpt`: tensor `net.layers.2.conv_block.module.3.running_var` is missing");
    let missing = with_tensors(|tensors| drop(tensors.remove("embedding_layer.weight")));
    assert_eq!(missing, "`model.ckpt`: tensor `embedding_layer.weight` is missing");
    let shape =
        with_tensors(|tensors| drop(tensors.insert("net.layers.2.attention.proj.weight".into(), zeros(&[48, 40]))));
    assert_eq!(
        shape,
        "`model.ckpt`: tensor `net.layers.2.attention.proj.weight` has shape [48, 40], expected [48, 48]"
    );
    let surplus = with_tensors(|tensors| drop(tensors.insert("net.layers.2.adapter.weight".into(), zeros(&[4]))));
    assert_eq!(
        surplus,
        "`model.ckpt`: tensor `net.layers.2.adapter.weight` has no place in the encoder that the configuration describes"
    );
    let other = with_tensors(|tensors| {
        tensors.retain(|name, _| !name.starts_with("net."));
    });
    assert!(other.starts_with("`model.ckpt` holds no tensors `net.layers.N...`: it is no OMAR-RQ encoder"), "{other}");
    let nan =
        with_tensors(|tensors| drop(tensors.insert("embedding_layer.bias".into(), (zeros(&[48]) / 0.0).unwrap())));
    assert!(nan.contains("tensor `embedding_layer.bias`: it holds NaN"), "{nan}");
    // What belongs to other parts of a model is left out, and listed.
    let mut tensors = tensors();
    tensors.insert("linear.weight".into(), zeros(&[8, 48]));
    assert_eq!(Model::new(CONFIG, &tensors).read().unwrap().dropped, ["linear.weight"]);
}

#[test]
fn configuration_and_tensors_must_agree() {
    let cases = BTreeMap::from([
        (
            "depth = 3",
            (
                "depth = 4",
                "config.gin:18: `nets.conformer.Conformer.depth = 4`, but the tensors of `model.ckpt` have 3 blocks",
            ),
        ),
        (
            "embed_dim = 48",
            (
                "embed_dim = 64",
                "config.gin:17: `nets.conformer.Conformer.embed_dim = 64`, but the tensors of `model.ckpt` have a width of 48",
            ),
        ),
        (
            "num_heads = 6",
            (
                "num_heads = 8",
                "config.gin:20: `nets.conformer.Conformer.num_heads = 8`, but 4 rotary frequencies, which makes 6 heads",
            ),
        ),
        (
            "mlp_ratio = 2.0",
            (
                "mlp_ratio = 4",
                "config.gin:21: `nets.conformer.Conformer.mlp_ratio = 4`, but the tensors of `model.ckpt` have feed-forward layers 2 times as wide as the model",
            ),
        ),
        (
            "use_deepnorm = False",
            (
                "use_deepnorm = True",
                "config.gin:22: `nets.conformer.Conformer.use_deepnorm = True`, but the tensors of `model.ckpt` have no tensors of the norm of DeepNorm",
            ),
        ),
        (
            "use_rope = True",
            (
                "use_rope = False",
                "config.gin:23: `nets.conformer.Conformer.use_rope = False`, but the tensors of `model.ckpt` have rotary frequencies",
            ),
        ),
        (
            "patch_size = (64, 4)",
            (
                "patch_size = (64, 3)",
                "the configuration makes patches of 192 values (mel 64 x 3), the tensor `embedding_layer.weight` of `model.ckpt` takes 256: they are not of one model",
            ),
        ),
    ]);
    for (from, (to, message)) in cases {
        assert_eq!(with_config(from, to), message);
    }
}

#[test]
fn lines_that_cannot_be_followed_are_named() {
    let cases = BTreeMap::from([
        (
            "depth = 3",
            ("depht = 3", "config.gin:18: unknown parameter `nets.conformer.Conformer.depht`: `Conformer` has "),
        ),
        (
            "n_mel = 64",
            (
                "n_mel = 64\nnets.melspectrogram.MelSpectrogram.gain = 3",
                "config.gin:10: unknown parameter `nets.melspectrogram.MelSpectrogram.gain`",
            ),
        ),
        (
            "@nets.conformer.Conformer",
            (
                "@nets.transformer.Transformer",
                "config.gin:4: expected the net `@nets.conformer.Conformer`, found @nets.transformer.Transformer",
            ),
        ),
        (
            "@nets.melspectrogram.MelSpectrogram",
            ("@nets.chroma.Chroma", "config.gin:3: `@Chroma` is no representation that is known"),
        ),
        ("= %rate", ("= %speed", "config.gin:7: there is no macro `%speed`")),
        (
            "norm_mean = 2",
            (
                "norm_mean = 'two'",
                "config.gin:11: `nets.melspectrogram.MelSpectrogram.norm_mean`: expected a number, found \"two\"",
            ),
        ),
        (
            "norm_std = 1.25",
            (
                "power = 1",
                "config.gin:10: `nets.melspectrogram.MelSpectrogram.power`: expected 2, a power spectrogram, found 1",
            ),
        ),
        ("num_heads = 6", ("num_heads = six", "config.gin:20: expected a value such as")),
        (
            "patch_size = (64, 4)",
            (
                "patch_size = (32, 4)",
                "config.gin:24: `nets.conformer.Conformer.patch_size = (32, 4)`: expected patches of all 64 bins",
            ),
        ),
    ]);
    for (from, (to, message)) in cases {
        let found = with_config(from, to);
        assert!(found.starts_with(message), "{found}\nexpected {message}");
    }
    let both = with_config(
        "= @nets.melspectrogram.MelSpectrogram",
        "= [@nets.melspectrogram.MelSpectrogram, @nets.waveform.Waveform]",
    );
    assert!(both.contains("lists 2 representations") && both.contains("input_representation"), "{both}");
    let none = with_config("build_module.representation", "other.representation");
    assert!(none.starts_with("the configuration does not say what the model hears"), "{none}");
    // A binding that is known to be harmless can be left aside.
    let text = CONFIG.to_owned() + "nets.conformer.Conformer.checkpointing = True\n";
    let model = Model::new(&text, &tensors());
    assert!(model.refused().ends_with("import with `--ignore nets.conformer.Conformer.checkpointing`"));
    let ignore = vec!["nets.conformer.Conformer.checkpointing".to_owned()];
    let manifest = read(model.folder.path(), &ImportOptions { ignore, ..ImportOptions::default() }).unwrap().manifest;
    assert_eq!(manifest.ignored["nets.conformer.Conformer.checkpointing"], "True");
}
