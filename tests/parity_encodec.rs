//! Is the EnCodec encoder that of the published layout?
//!
//! The reference was computed by transformers' EncodecModel with random weights of reduced width: a folder
//! `encodec_small` and `encodec_small_io.safetensors` with audio, the encoder's output `(bins, frames)`, and its output
//! for audio cut to a length that fills no last frame. They lie in `tests/golden`, or in the folder that
//! `OMAR_REFERENCE` names: sizes come from the tensors, so other weights and signals do as well.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use omar_stages::encodec::{Encodec, EncodecConfig};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Largest difference to the reference.
const TOLERANCE: f32 = 1e-4;

fn reference() -> PathBuf {
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    std::env::var_os("OMAR_REFERENCE").map_or(golden, PathBuf::from)
}

fn encoder() -> Encodec {
    Encodec::load(&reference().join("encodec_small"), &Device::Cpu).unwrap()
}

/// Every tensor of a file: shape and values.
fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &TensorView<'_>| {
        assert_eq!(view.dtype(), Dtype::F32);
        view.data().as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
    };
    file.iter().map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(&view)))).collect()
}

/// Writes a weights file.
fn write(path: &Path, tensors: &BTreeMap<String, (Vec<usize>, Vec<f32>)>) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect()))
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Audio, and pairs of a number of samples and the output for so many, `(frames, bins)`.
fn cases(encoder: &Encodec) -> (Vec<f32>, Vec<(usize, Vec<f32>)>) {
    let tensors = tensors(&reference().join("encodec_small_io.safetensors"));
    let audio = tensors["audio"].1.clone();
    let hop = encoder.config().hop_len();
    let transposed = |name: &str| {
        let (shape, values) = &tensors[name];
        let (bins, frames) = (shape[shape.len() - 2], shape[shape.len() - 1]);
        assert_eq!(bins, encoder.bins());
        (0..frames * bins).map(|i| values[i % bins * frames + i / bins]).collect::<Vec<f32>>()
    };
    let whole = transposed("encoder");
    let odd = transposed("encoder_odd_length");
    assert_eq!(whole.len(), encoder.frames(audio.len()) * encoder.bins());
    // The cut length is not in the file, only its number of frames: the one whose output fits. The first is ours.
    let frames = odd.len() / encoder.bins();
    let lengths = (frames - 1) * hop + 1..=frames * hop;
    let first = Some(33_333).filter(|samples| lengths.contains(samples));
    let fits = |samples: &usize| difference(&encode(encoder, &[&audio[..*samples]]), &odd) < TOLERANCE;
    let samples = first.into_iter().chain(lengths).find(fits).expect("no length gives the reference");
    (audio.clone(), vec![(audio.len(), whole), (samples, odd)])
}

fn encode(encoder: &Encodec, crops: &[&[f32]]) -> Vec<f32> {
    let mut out = vec![f32::NAN; crops.len() * encoder.frames(crops[0].len()) * encoder.bins()];
    encoder.encode(crops, &mut out).unwrap();
    out
}

fn encode_tensor(encoder: &Encodec, crops: &[&[f32]]) -> Vec<f32> {
    let audio = Tensor::from_vec(crops.concat(), (crops.len(), crops[0].len()), &Device::Cpu).unwrap();
    let out = encoder.encode_tensor(&audio).unwrap();
    assert_eq!(out.dims(), [crops.len(), encoder.frames(crops[0].len()), encoder.bins()]);
    out.flatten_all().unwrap().to_vec1().unwrap()
}

fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |worst, x| if x > worst || x.is_nan() { x } else { worst })
}

#[test]
fn both_forms_give_the_reference() {
    let encoder = encoder();
    let (audio, cases) = cases(&encoder);
    for (samples, expected) in cases {
        let crop = &audio[..samples];
        for (form, found) in [("fast", encode(&encoder, &[crop])), ("tensor", encode_tensor(&encoder, &[crop]))] {
            let difference = difference(&found, &expected);
            assert!(difference < TOLERANCE, "{form} form, {samples} samples: off by {difference}");
        }
    }
}

#[test]
fn both_forms_agree_on_every_short_and_odd_length() {
    let encoder = encoder();
    let audio: Vec<f32> = (0..90_000).map(|i| (i as f32 * 0.05).sin() * 0.5 + (i as f32 * 0.731).cos() * 0.2).collect();
    for samples in (1..40).chain([159, 160, 161, 319, 320, 321, 639, 641, 1999, 2241, 30_720, 30_721, 61_441, 89_999]) {
        let crop = &audio[..samples];
        let difference = difference(&encode(&encoder, &[crop]), &encode_tensor(&encoder, &[crop]));
        assert!(difference < 1e-5, "{samples} samples: off by {difference}");
    }
}

#[test]
fn a_crop_has_the_same_bits_alone_and_in_any_batch() {
    let encoder = encoder();
    let crops: Vec<Vec<f32>> =
        (1..=14).map(|k| (0..40_001).map(|i| (i as f32 * 0.01 * k as f32).sin()).collect()).collect();
    let slices: Vec<&[f32]> = crops.iter().map(Vec::as_slice).collect();
    for count in [2, 5, 14] {
        let together = encode(&encoder, &slices[..count]);
        for (crop, found) in slices.iter().zip(together.chunks_exact(together.len() / count)) {
            assert_eq!(encode(&encoder, &[crop]), found);
        }
    }
    let few = &slices[..3];
    assert!(difference(&encode_tensor(&encoder, few), &encode(&encoder, few)) < 1e-5);
}

#[test]
fn silence_is_finite_and_settles_and_nothing_is_an_error() {
    let encoder = encoder();
    let silence = vec![0.0; 48_000];
    let out = encode(&encoder, &[&silence]);
    let bins = encoder.bins();
    assert!(out.iter().all(|value| value.is_finite()));
    assert!(difference(&out, &encode_tensor(&encoder, &[&silence])) < 1e-5);
    let (a, b) = out[out.len() - 2 * bins..].split_at(bins);
    assert!(difference(a, b) < 1e-3, "silence does not settle");

    encoder.encode(&[], &mut []).unwrap();
    assert_eq!(encoder.encode(&[&[0.0], &[]], &mut [0.0; 32]).unwrap_err().to_string(), "crop 1 holds no samples");
    let message = encoder.encode(&[&[0.0; 5], &[0.0; 6]], &mut vec![0.0; 2 * bins]).unwrap_err().to_string();
    assert_eq!(message, "crop 1 holds 6 values, expected 5");
    let message = encoder.encode(&[&[0.0; 321]], &mut vec![0.0; bins]).unwrap_err().to_string();
    assert_eq!(message, format!("the output holds {bins} values, expected {}", 2 * bins));
    let empty = Tensor::zeros((1, 0), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(encoder.encode_tensor(&empty).is_err());
}

/// A copy of the reference folder whose tensors went through `change`.
fn changed(change: impl Fn(&mut BTreeMap<String, (Vec<usize>, Vec<f32>)>)) -> tempfile::TempDir {
    let (from, folder) = (reference().join("encodec_small"), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("config.json"), std::fs::read(from.join("config.json")).unwrap()).unwrap();
    let mut all = tensors(&from.join("model.safetensors"));
    change(&mut all);
    write(&folder.path().join("model.safetensors"), &all);
    folder
}

#[test]
fn every_naming_of_the_weights_gives_the_same_output() {
    let crop: Vec<f32> = (0..9000).map(|i| (i as f32 * 0.03).sin()).collect();
    let expected = encode(&encoder(), &[&crop]);
    const GAIN: &str = "parametrizations.weight.original0";
    const DIRECTION: &str = "parametrizations.weight.original1";
    let old = changed(|all| {
        *all = std::mem::take(all)
            .into_iter()
            .map(|(name, tensor)| (name.replace(GAIN, "weight_g").replace(DIRECTION, "weight_v"), tensor))
            .collect();
        assert!(all.contains_key("encoder.layers.0.conv.weight_g"));
    });
    let found = encode(&Encodec::load(old.path(), &Device::Cpu).unwrap(), &[&crop]);
    assert_eq!(found, expected);

    // Weight norm folded by hand, in single precision.
    let plain = changed(|all| {
        let names: Vec<String> = all.keys().filter_map(|name| name.strip_suffix(GAIN)).map(str::to_string).collect();
        for name in names {
            let (_, gain) = all.remove(&format!("{name}{GAIN}")).unwrap();
            let (shape, mut weight) = all.remove(&format!("{name}{DIRECTION}")).unwrap();
            for (row, gain) in weight.chunks_exact_mut(shape[1] * shape[2]).zip(gain) {
                let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.iter_mut().for_each(|v| *v = *v * gain / norm);
            }
            all.insert(format!("{name}weight"), (shape, weight));
        }
    });
    let found = encode(&Encodec::load(plain.path(), &Device::Cpu).unwrap(), &[&crop]);
    assert!(difference(&found, &expected) < 1e-5);
}

#[test]
fn a_wrong_folder_says_which_file_and_what_is_expected() {
    let refusal = |folder: &Path| Encodec::load(folder, &Device::Cpu).err().unwrap().to_string();
    let layout = "expected a folder in the published encodec_24khz layout: config.json + model.safetensors";
    let empty = tempfile::tempdir().unwrap();
    let message = refusal(empty.path());
    assert!(message.contains("config.json: ") && message.ends_with(layout), "{message}");
    assert!(EncodecConfig::read(empty.path()).is_err());

    let only_config = changed(|_| {});
    let weights = only_config.path().join("model.safetensors");
    std::fs::remove_file(&weights).unwrap();
    EncodecConfig::read(only_config.path()).unwrap();
    let message = refusal(only_config.path());
    assert!(message.contains("model.safetensors: ") && message.ends_with(layout), "{message}");
    std::fs::write(&weights, b"nonsense").unwrap();
    let message = refusal(only_config.path());
    assert!(message.contains("model.safetensors: not a safetensors file: "), "{message}");
    std::fs::write(only_config.path().join("config.json"), b"{").unwrap();
    let message = refusal(only_config.path());
    assert!(message.contains("config.json: not a JSON file: "), "{message}");

    let missing = changed(|all| drop(all.remove("encoder.layers.3.conv.bias")));
    let message = refusal(missing.path());
    assert!(
        message.contains("model.safetensors: tensor `encoder.layers.3.conv.bias` is missing, expected f32 ["),
        "{message}"
    );
    let no_weight = changed(|all| all.retain(|name, _| !name.starts_with("encoder.layers.0.conv.param")));
    let message = refusal(no_weight.path());
    assert!(message.contains("tensor `encoder.layers.0.conv.weight` is missing, expected f32 ["), "{message}");
    let shape = changed(|all| {
        let (shape, values) = all.get_mut("encoder.layers.0.conv.bias").unwrap();
        values.push(0.0);
        shape[0] += 1;
    });
    let message = refusal(shape.path());
    assert!(message.contains("tensor `encoder.layers.0.conv.bias` is f32 ["), "{message}");
    let infinite = changed(|all| all.get_mut("encoder.layers.0.conv.bias").unwrap().1[0] = f32::INFINITY);
    let message = refusal(infinite.path());
    assert!(message.ends_with("tensor `encoder.layers.0.conv.bias` has values that are not finite"), "{message}");
}
