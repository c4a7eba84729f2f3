//! Published files of MusicFM: `pretrained_*.pt` and the `*_stats.json` of the same data.

use std::path::PathBuf;

use crate::dsp::window::Window;

use super::super::EncoderError;
use super::super::blocks::{Reader, renamed};
use super::super::families::Network as Family;
use super::super::found::{Found, Json};
use super::super::import::{ImportOptions, Imported, Interpreted};
use super::network::Network;
use super::{HOP, MusicFmConfig, N_FFT, RATE, REDUCTION};

/// Licence of the published weights.
const LICENCE: &str = "MIT";
/// What comes before every name in a checkpoint of training.
const PREFIX: &str = "model.";
const FIRST: &str = "conv.conv.0.conv1.weight";
const QUERY: &str = "conformer.layers.0.self_attn.linear_q.weight";
const WIDE: &str = "conformer.layers.0.ffn1.intermediate_dense.weight";
const DEPTHWISE: &str = "conformer.layers.0.conv_module.depthwise_conv.weight";
const FREQUENCIES: &str = "conformer.embed_positions.inv_freq";
const WINDOW: &str = "preprocessor_melspec_2048.mel_stft.spectrogram.window";
/// Parts that are in the checkpoint, and that no hidden state depends on.
const UNUSED: [&str; 7] = [
    "cls_token",
    "linear.",
    "quantizer_melspec_2048_0.",
    "conformer.pos_conv_embed.conv.",
    WINDOW,
    "masked_spec_embed",
    "conformer.masked_spec_embed",
];
/// Names of statistics.
const ENDING: &str = "_stats.json";
const MEAN: &str = "melspec_2048_mean";
const STD: &str = "melspec_2048_std";

pub(super) fn recognises(found: &Found) -> bool {
    let has = |name: &str| found.has(name) || found.has(&format!("{PREFIX}{name}"));
    has(FIRST) && has(QUERY)
}

pub(super) fn read(mut found: Found, options: &ImportOptions) -> Result<Imported, EncoderError> {
    check_window(&found)?;
    let (tensors, dropped) = renamed(std::mem::take(&mut found.tensors), |name| {
        let plain = name.strip_prefix(PREFIX).unwrap_or(name);
        let is_unused = UNUSED.iter().any(|part| plain.starts_with(part)) || plain.ends_with("num_batches_tracked");
        (!is_unused).then(|| plain.to_owned())
    });
    found.tensors = tensors;
    let (statistics, mut notes) = statistics(&found)?;
    let config = config(&found, &statistics)?;
    if let Some(note) = known_hash(&found) {
        notes.push(note);
    }
    let interpreted = Interpreted {
        network: Family::MusicFm(config.clone()),
        tensors: std::mem::take(&mut found.tensors),
        dropped,
        sample_rate: RATE,
        hop: (HOP * REDUCTION) as u32,
        licence: LICENCE,
        notes,
        files: vec![statistics.path],
    };
    let build = |reader: &Reader<'_>| {
        config.front_end(&reader.root())?;
        Network::new(&reader.root(), &config, usize::MAX).map(drop)
    };
    interpreted.checked(&found.checkpoint, &found.folder, options, build)
}

/// The window of the checkpoint, where it has one, is the one that spectra are made with here.
fn check_window(found: &Found) -> Result<(), EncoderError> {
    let named = |name: &&String| name.ends_with(WINDOW);
    let Some((name, window)) = found.tensors.keys().find(named).and_then(|name| found.tensors.get_key_value(name))
    else {
        return Ok(());
    };
    let expected = Window::Hann.coefficients(N_FFT);
    let values = window.flatten_all().and_then(|window| window.to_vec1::<f32>()).unwrap_or_default();
    let near = |(found, expected): (&f32, &f64)| (f64::from(*found) - expected).abs() < 1e-4;
    if values.len() == N_FFT && values.iter().zip(&expected).all(near) {
        return Ok(());
    }
    let shape = window.dims();
    Err(found.mismatch(format!("tensor `{name}`, of shape {shape:?}, is not the Hann window of {N_FFT} samples")))
}

/// What the tensors say.
fn config(found: &Found, statistics: &Json) -> Result<MusicFmConfig, EncoderError> {
    let first = |name: &str| {
        let size = found.shape(name).first().copied().unwrap_or(0);
        if size == 0 { Err(found.mismatch(format!("tensor `{name}` is missing"))) } else { Ok(size) }
    };
    let (dim, pairs) = (first(QUERY)?, first(FREQUENCIES)?);
    if dim % (2 * pairs) != 0 {
        let message = format!("tensor `{FREQUENCIES}` has {pairs} frequencies, which do not divide a width of {dim}");
        return Err(found.mismatch(message));
    }
    let kernel = found.shape(DEPTHWISE).get(2).copied().unwrap_or(0);
    if kernel % 2 == 0 {
        return Err(found.mismatch(format!("tensor `{DEPTHWISE}` has {kernel} taps, expected an odd number")));
    }
    let (mean, std) = (statistics.number(MEAN)?, statistics.number(STD)?);
    if !(mean.is_finite() && std > 0.0) {
        return Err(EncoderError::damaged(&statistics.path, format!("`{STD}`: expected more than 0, found {std}")));
    }
    Ok(MusicFmConfig {
        layers: found.count("conformer.layers."),
        dim,
        heads: dim / (2 * pairs),
        hidden: first(WIDE)?,
        channels: first(FIRST)?,
        kernel,
        mean,
        std,
    })
}

/// The statistics of the data that the checkpoint was trained on, by their names.
fn statistics(found: &Found) -> Result<(Json, Vec<String>), EncoderError> {
    let files = found.ending(ENDING);
    let stem = found.checkpoint.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_lowercase();
    let data = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
        name.strip_suffix(ENDING).unwrap_or_default().to_owned()
    };
    let ours: Vec<&PathBuf> =
        files.iter().filter(|path| stem.split(['_', '-', '.']).any(|word| word == data(path))).collect();
    let others = || files.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(" and ");
    let chosen = match (&ours[..], &files[..]) {
        ([one], _) => one,
        (_, [one]) if !["fma", "msd"].iter().any(|word| stem.split(['_', '-', '.']).any(|part| part == *word)) => one,
        (_, []) => {
            let message = format!(
                "there is no `*{ENDING}` beside it, such as `fma{ENDING}` for `pretrained_fma.pt`: the spectrogram \
                 cannot be standardised without it"
            );
            return Err(found.mismatch(message));
        }
        (_, [_]) => {
            return Err(found.mismatch(format!("the statistics beside it, {}, are of other data", others())));
        }
        _ => {
            let message = format!(
                "its name does not say which statistics it belongs to, {}: leave the right one beside it, or name it \
                 `pretrained_fma.pt` or `pretrained_msd.pt`",
                others()
            );
            return Err(found.mismatch(message));
        }
    };
    let json = Json::read(chosen)?;
    let json = json.ok_or_else(|| EncoderError::damaged(chosen, "the file is gone"))?;
    let name = chosen.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((json, vec![format!("the spectrogram is standardised by `{name}`")]))
}

/// What to compare the file with, where it has a published name.
fn known_hash(found: &Found) -> Option<String> {
    let name = found.checkpoint.file_name()?.to_str()?;
    let (hash, remark) = match name {
        "pretrained_fma.pt" => (
            "68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96",
            "; files from before 13 February 2024 are declared wrong by the author",
        ),
        "pretrained_msd.pt" => ("218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded", ""),
        _ => return None,
    };
    Some(format!("sha256 of the published `{name}` is {hash}{remark}"))
}
