//! Are features and tokens those of the published models?
//!
//! The reference files hold what the published package, torchaudio and PyTorch computed for synthetic signals; see
//! `tests/reference` for where they lie.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod reference;

use std::collections::BTreeMap;

use omar_stages::dsp::compress::Standardize;
use omar_stages::dsp::cqt::{Cqt, CqtConfig};
use omar_stages::dsp::mel::{MelConfig, MelSpectrogram};
use omar_stages::dsp::view::{View, Waveform, WaveformConfig};
use omar_stages::quantize::finite_scalar::Bound;
use omar_stages::quantize::torch::TorchGenerator;
use omar_stages::quantize::weights::{CodebookWeights, WeightsFile};
use omar_stages::quantize::{FiniteScalar, FiniteScalarConfig, Quantizer, RandomProjection, RandomProjectionConfig};
use reference::{Reference, Tensor};

/// Largest and mean absolute difference between our `(frames, bins)` and a reference's `(bins, frames)`.
fn distance(ours: &[f32], reference: &Tensor) -> (f64, f64) {
    let [bins, frames] = reference.shape[..] else { panic!("a matrix, not {:?}", reference.shape) };
    assert_eq!(ours.len(), bins * frames, "frames");
    let (mut largest, mut sum) = (0.0f64, 0.0f64);
    for bin in 0..bins {
        for frame in 0..frames {
            let error = f64::from(ours[frame * bins + bin]) - f64::from(reference.values[bin * frames + frame]);
            assert!(!error.is_nan(), "bin {bin} frame {frame}");
            largest = largest.max(error.abs());
            sum += error.abs();
        }
    }
    (largest, sum / (bins * frames) as f64)
}

/// The audio of the representation `key`, which is named `KEY_...`, its values, and how they were standardised.
fn features(file: &Reference, key: &str, preset: &Standardize) -> (Tensor, Tensor, Standardize) {
    let name = file.stems("").into_iter().find(|name| *name == key || name.starts_with(&format!("{key}_"))).unwrap();
    let (_, rate) = key.split_once('_').unwrap();
    let number = |word| file.number_after(key, word);
    let standardize = match (number("mean"), number("std")) {
        (Some(mean), Some(std)) => Standardize::Global { mean, std },
        _ => preset.clone(),
    };
    (file.f32(&format!("audio_{rate}")), file.f32(&name), standardize)
}

/// Compares a view with the reference and says how far they are apart.
fn check(key: &str, mut view: impl View, audio: &Tensor, reference: &Tensor, (largest, mean): (f64, f64)) {
    let (our_largest, our_mean) = distance(&view.forward(&audio.values).unwrap(), reference);
    eprintln!("{key}: largest error {our_largest:.2e}, mean {our_mean:.2e}");
    assert!(our_largest <= largest && our_mean <= mean, "{key}: largest {our_largest:e}, mean {our_mean:e}");
}

fn check_mel(key: &str, preset: MelConfig) {
    let file = Reference::open("features");
    let (audio, reference, standardize) = features(&file, key, &preset.standardize);
    let length = |word| file.number_after(key, word).map(|value| value as usize);
    let win_len = length("win").unwrap_or(preset.win_len);
    let hop_len = length("hop").unwrap_or(preset.hop_len);
    let n_mels = reference.shape[0];
    let config = MelConfig { win_len, n_fft: win_len, hop_len, n_mels, standardize, ..preset };
    check(key, MelSpectrogram::new(&config).unwrap(), &audio, &reference, (1e-3, 1e-5));
}

fn check_cqt(key: &str, preset: CqtConfig) {
    let file = Reference::open("features");
    let (audio, reference, standardize) = features(&file, key, &preset.standardize);
    let config = CqtConfig {
        hop_len: file.number_after(key, "hop").map_or(preset.hop_len, |hop| hop as usize),
        n_bins: reference.shape[0],
        bins_per_octave: file.number_of(key, "/octave").map_or(preset.bins_per_octave, |bins| bins as usize),
        f_min: file.number_after(key, "fmin").unwrap_or(preset.f_min),
        standardize,
        ..preset
    };
    check(key, Cqt::new(&config).unwrap(), &audio, &reference, (3e-3, 3e-5));
}

#[test]
fn mel_at_16_khz_is_that_of_the_published_models() {
    check_mel("mel_16k", MelConfig::mel_16k());
}

#[test]
fn mel_at_24_khz_is_that_of_the_published_models() {
    check_mel("mel_24k", MelConfig::mel_24k());
}

#[test]
fn constant_q_at_16_khz_is_that_of_the_published_package() {
    check_cqt("cqt_16k", CqtConfig::cqt_16k());
}

#[test]
fn constant_q_at_24_khz_is_that_of_the_published_models() {
    check_cqt("cqt_24k", CqtConfig::cqt_24k());
}

#[test]
fn the_presets_are_the_published_parameters() {
    if Reference::is_elsewhere() {
        return; // other parameters are welcome there
    }
    let file = Reference::open("features");
    let standardize = |key| {
        let [mean, std] = ["mean", "std"].map(|word| file.number_after(key, word).unwrap());
        Standardize::Global { mean, std }
    };
    for (key, preset) in [("mel_16k", MelConfig::mel_16k()), ("mel_24k", MelConfig::mel_24k())] {
        assert_eq!(file.number_after(key, "hop"), Some(preset.hop_len as f64));
        assert_eq!(file.number_after(key, "win"), Some(preset.win_len as f64));
        assert_eq!(preset.standardize, standardize(key));
    }
    for (key, preset) in [("cqt_16k", CqtConfig::cqt_16k()), ("cqt_24k", CqtConfig::cqt_24k())] {
        assert_eq!(file.number_after(key, "hop"), Some(preset.hop_len as f64));
        assert_eq!(preset.standardize, standardize(key));
    }
}

#[test]
fn the_waveform_view_is_that_of_the_published_models() {
    let file = Reference::open("features");
    let key = "waveform_24k";
    let (audio, reference, standardize) = features(&file, key, &WaveformConfig::default().standardize);
    check(key, Waveform::new(&WaveformConfig { standardize }).unwrap(), &audio, &reference, (1e-6, 1e-6));
}

#[test]
fn random_projection_gives_the_published_tokens() {
    let file = Reference::open("quantizers");
    let stems: Vec<String> = file.stems(".tokens").into_iter().filter(|stem| stem.contains(".rq")).collect();
    assert!(!stems.is_empty());
    for stem in &stems {
        let view = stem.split('.').next().unwrap();
        let (patches, codebook) = (file.f32(&format!("{view}.patches")), file.f32(&format!("{stem}.codebook")));
        let projection = file.f32(&format!("{stem}.projection"));
        let config = RandomProjectionConfig {
            input_len: projection.shape[0],
            codebooks: 1,
            codebook_size: codebook.shape[0],
            codebook_dim: codebook.shape[1],
        };
        let weights = CodebookWeights { projection: projection.values, codebook: codebook.values };
        let tokens = RandomProjection::new(config, &[weights]).unwrap().forward(&patches.values).unwrap();
        let expected = file.tokens(&format!("{stem}.tokens"));
        let same = tokens.iter().zip(&expected).filter(|(a, b)| a == b).count();
        eprintln!("{stem}: {same} of {} tokens", expected.len());
        assert_eq!(tokens, expected, "{stem}");
    }
}

#[test]
fn the_reference_file_is_a_weights_file() {
    let file = Reference::open("quantizers");
    let weights = WeightsFile::new(&file.bytes).unwrap();
    for view in file.stems(".patches") {
        let books: Vec<String> =
            file.stems(".tokens").into_iter().filter(|stem| stem.starts_with(&format!("{view}.rq"))).collect();
        let (patches, codebook) = (file.f32(&format!("{view}.patches")), file.f32(&format!("{view}.rq0.codebook")));
        let config = RandomProjectionConfig {
            input_len: patches.shape[1],
            codebooks: books.len(),
            codebook_size: codebook.shape[0],
            codebook_dim: codebook.shape[1],
        };
        let mut quantizer = RandomProjection::from_file(config, &weights, &view).unwrap();
        let tokens = quantizer.forward(&patches.values).unwrap();
        for (i, stem) in books.iter().enumerate() {
            let column: Vec<u16> = tokens.iter().skip(i).step_by(books.len()).copied().collect();
            assert_eq!(column, file.tokens(&format!("{stem}.tokens")), "{stem}");
        }
    }
}

#[test]
fn finite_scalars_give_the_published_tokens() {
    let file = Reference::open("quantizers");
    let stems: Vec<String> = file.stems(".tokens").into_iter().filter(|stem| stem.contains(".fsq_")).collect();
    assert!(!stems.is_empty());
    for stem in &stems {
        // Names are such as `mel.fsq_8x5x5x5_sym`.
        let (view, setting) = stem.split_once(".fsq_").unwrap();
        let (levels, bound) = setting.split_once('_').unwrap();
        let bound = if bound == "sym" { Bound::Symmetric } else { Bound::Standard };
        let levels = levels.split('x').map(|n| n.parse().unwrap()).collect();
        let patches = file.f32(&format!("{view}.patches"));
        let (weight, bias) = (file.f32(&format!("{stem}.weight")), file.f32(&format!("{stem}.bias")));
        let config = FiniteScalarConfig { input_len: weight.shape[1], levels, bound };
        let mut quantizer = FiniteScalar::new(config, weight.values, bias.values).unwrap();
        let tokens = quantizer.forward(&patches.values).unwrap();
        assert_eq!(tokens, file.tokens(&format!("{stem}.tokens")), "{stem}");
    }
}

fn assert_same_bits(name: &str, ours: &[f32], reference: &[f32]) {
    assert_eq!(ours.len(), reference.len(), "{name}");
    let different = ours.iter().zip(reference).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    assert_eq!(different, 0, "{name}: {different} of {} differ", ours.len());
}

/// Every `seedN.` in the file with the names below it.
fn seeds(file: &Reference) -> BTreeMap<u64, Vec<String>> {
    let mut seeds: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for name in file.stems("") {
        let (seed, rest) = name.split_once('.').unwrap();
        seeds.entry(seed.trim_start_matches("seed").parse().unwrap()).or_default().push(rest.to_string());
    }
    assert!(!seeds.is_empty());
    seeds
}

#[test]
fn plain_draws_are_those_of_pytorch_bit_for_bit() {
    let file = Reference::open("torch_seed");
    for (seed, names) in seeds(&file) {
        for name in names.iter().filter(|name| name.starts_with("rand")) {
            let reference = file.f32(&format!("seed{seed}.{name}")).values;
            let mut ours = vec![0.0; reference.len()];
            if name == "rand" {
                TorchGenerator::new(seed).uniform(&mut ours, 0.0, 1.0);
            } else {
                TorchGenerator::new(seed).normal(&mut ours, 0.0, 1.0);
            }
            assert_same_bits(&format!("seed{seed}.{name}"), &ours, &reference);
        }
    }
}

#[test]
fn random_projections_drawn_from_a_seed_are_those_of_pytorch_bit_for_bit() {
    let file = Reference::open("torch_seed");
    for (seed, names) in seeds(&file) {
        for rq in names.iter().filter_map(|name| name.strip_suffix(".projection")) {
            // Names are such as `rq_960_8196`: input length, codebook size.
            let size: usize = rq.rsplit('_').next().unwrap().parse().unwrap();
            let tensor = |part: &str| file.f32(&format!("seed{seed}.{rq}.{part}"));
            let projection = tensor("projection");
            let (inputs, dim) = (projection.shape[0], projection.shape[1]);
            let drawn = CodebookWeights::draw(&mut TorchGenerator::new(seed), inputs, size, dim);
            assert_same_bits(&format!("seed{seed}.{rq}.projection"), &drawn.projection, &projection.values);
            let (head, tail) = (tensor("codebook_head").values, tensor("codebook_tail").values);
            assert_same_bits(&format!("seed{seed}.{rq} head"), &drawn.codebook[..head.len()], &head);
            let start = drawn.codebook.len() - tail.len();
            assert_same_bits(&format!("seed{seed}.{rq} tail"), &drawn.codebook[start..], &tail);
        }
    }
}

#[test]
fn finite_scalars_drawn_from_a_seed_are_those_of_pytorch_bit_for_bit() {
    let file = Reference::open("torch_seed");
    for (seed, names) in seeds(&file) {
        for fsq in names.iter().filter_map(|name| name.strip_suffix(".weight")) {
            let weight = file.f32(&format!("seed{seed}.{fsq}.weight"));
            let bias = file.f32(&format!("seed{seed}.{fsq}.bias"));
            // How many levels a dimension has plays no part in the draw.
            let config = FiniteScalarConfig {
                input_len: weight.shape[1],
                levels: vec![2; weight.shape[0]],
                bound: Bound::Symmetric,
            };
            let quantizer = FiniteScalar::torch_seeded(config, seed).unwrap();
            let (ours, our_bias) = quantizer.weights();
            assert_same_bits(&format!("seed{seed}.{fsq}.bias"), our_bias, &bias.values);
            assert_same_bits(&format!("seed{seed}.{fsq}.weight"), ours, &weight.values);
        }
    }
}
