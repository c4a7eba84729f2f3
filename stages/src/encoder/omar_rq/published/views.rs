//! The views that a published model hears.

use crate::dsp::compress::{LogCompress, Standardize};
use crate::dsp::cqt::CqtConfig;
use crate::dsp::mel::{MelConfig, MelNorm, MelScale};
use crate::dsp::view::{ViewConfig, WaveformConfig};
use crate::encodec::{EncodecConfig, EncodecViewConfig};
use crate::model::import::ImportError;
use crate::model::import::gin::{Binding, Config, Value};

use super::section::Section;
use super::{BUILD, Bend, MODULE, Used};

/// A view that goes in.
pub(super) struct InputView {
    pub(super) config: ViewConfig,
    pub(super) patch_frames: usize,
    sample_rate: u32,
}

/// The rate that all views share; [`input`] has checked that.
pub(super) fn sample_rate(views: &[InputView]) -> u32 {
    views.first().map_or(0, |view| view.sample_rate)
}

/// What the model hears: `input_representation` where it is bound, as in models that predict several views, and else the
/// one representation that there is.
pub(super) fn input(
    config: &Config,
    net_patch: Option<(&Binding, [usize; 2])>,
    bend: &Bend<'_>,
    used: &mut Used,
) -> Result<Vec<InputView>, ImportError> {
    let all = config.find(BUILD, "representation");
    let chosen = config.find(MODULE, "input_representation").filter(|binding| binding.value != Value::None);
    let Some(binding) = chosen.or(all) else {
        let message =
            "the configuration does not say what the model hears: expected `build_module.representation = @...`";
        return Err(ImportError::Mismatch(message.to_owned()));
    };
    used.taken.push(binding.name());
    let classes = references(binding, &config.resolve(binding)?)?;
    if chosen.is_none() && classes.len() > 1 {
        let message = format!(
            "`{}` lists {} representations, and no `modules.maskingmodel.MaskingModel.input_representation` says which \
             the model hears",
            binding.name(),
            classes.len()
        );
        return Err(binding.error(message));
    }
    let alone = classes.len() == 1;
    let mut views: Vec<InputView> = Vec::new();
    for class in &classes {
        let section = Section::new(config, class, bend.ignore);
        let view = view(binding, class, &section, net_patch.filter(|_| alone), bend)?;
        section.finish(&mut used.taken)?;
        views.push(view);
    }
    let position = |view: &InputView| (view.sample_rate, view.config.hop_len() * view.patch_frames);
    if let Some(other) = views.iter().find(|view| position(view) != position(&views[0])) {
        let ((rate, samples), (other_rate, other_samples)) = (position(&views[0]), position(other));
        let message = format!(
            "`{}` has a position every {samples} samples at {rate} Hz, `{}` every {other_samples} at {other_rate} Hz: \
             views that are heard together must agree",
            views[0].config.name(),
            other.config.name()
        );
        return Err(binding.error(message));
    }
    Ok(views)
}

/// The classes that a value refers to, by the last part of their names.
fn references(binding: &Binding, value: &Value) -> Result<Vec<String>, ImportError> {
    let items = match value {
        Value::List(items) | Value::Tuple(items) => items.clone(),
        one => vec![one.clone()],
    };
    let class = |item: &Value| match item {
        Value::Reference(name) => Ok(name.rsplit('.').next().unwrap_or_default().to_owned()),
        other => {
            let message = format!(
                "`{}`: expected a class such as `@nets.melspectrogram.MelSpectrogram`, found {other}",
                binding.name()
            );
            Err(binding.error(message))
        }
    };
    let classes: Vec<String> = items.iter().map(class).collect::<Result<_, _>>()?;
    if classes.is_empty() { Err(binding.error(format!("`{}` lists no class", binding.name()))) } else { Ok(classes) }
}

fn view(
    binding: &Binding,
    class: &str,
    section: &Section<'_, '_>,
    net_patch: Option<(&Binding, [usize; 2])>,
    bend: &Bend<'_>,
) -> Result<InputView, ImportError> {
    let rate = || match section.whole("sr")? {
        Some((_, rate)) => {
            u32::try_from(rate).map_err(|_| binding.error(format!("`{class}.sr`: {rate} Hz is no rate of audio")))
        }
        None => Err(binding.error(format!("`{class}` has no sample rate: expected a binding `{class}.sr`"))),
    };
    let (config, sample_rate, default_frames) = match class.to_lowercase().as_str() {
        "melspectrogram" => (ViewConfig::Mel(mel(section, rate()?)?), rate()?, Some(4)),
        "cqt" | "constantqtransform" => (ViewConfig::Cqt(cqt(section, rate()?)?), rate()?, Some(4)),
        "waveform" => (ViewConfig::Waveform(WaveformConfig { standardize: standardize(section)? }), rate()?, None),
        "encodec" => {
            let config = encodec(binding, section, bend)?;
            let rate = config.encoder.sampling_rate as u32;
            section.value("sr")?;
            (ViewConfig::Encodec(config), rate, Some(5))
        }
        _ => {
            let message = format!(
                "`@{class}` is no representation that is known: expected MelSpectrogram, CQT, EnCodec or Waveform"
            );
            return Err(binding.error(message));
        }
    };
    config.check().map_err(|error| binding.error(format!("`{class}`: {error}")))?;
    let patch_frames = match section.pair("patch_size")?.or(net_patch) {
        Some((_, [bins, frames])) if bins == config.bins() => frames,
        Some((patch, [bins, _])) => {
            let message = format!(
                "`{} = {}`: expected patches of all {} bins of `{class}`, found {bins}",
                patch.name(),
                patch.value,
                config.bins()
            );
            return Err(patch.error(message));
        }
        None => default_frames.ok_or_else(|| {
            binding.error(format!("`{class}` has no patch size: expected a binding `{class}.patch_size`"))
        })?,
    };
    Ok(InputView { config, patch_frames, sample_rate })
}

fn standardize(section: &Section<'_, '_>) -> Result<Standardize, ImportError> {
    let optional = |parameter| match section.value(parameter)? {
        Some((_, Value::None)) | None => Ok(None),
        Some(_) => section.number(parameter),
    };
    let (mean, std) = (optional("norm_mean")?, optional("norm_std")?);
    match (mean, std) {
        (Some((_, mean)), Some((_, std))) => Ok(Standardize::Global { mean, std }),
        (None, None) => Ok(Standardize::NONE),
        (Some((binding, _)), None) | (None, Some((binding, _))) => {
            Err(binding.error("expected both `norm_mean` and `norm_std`, or neither"))
        }
    }
}

fn mel(section: &Section<'_, '_>, sample_rate: u32) -> Result<MelConfig, ImportError> {
    let base = MelConfig::mel_16k();
    for parameter in ["stretch_factor", "freq_mask_param", "time_mask_param"] {
        section.leave(parameter);
    }
    if let Some((binding, power)) = section.number("power")?
        && power != 2.0
    {
        return Err(binding.error(format!("`{}`: expected 2, a power spectrogram, found {power}", binding.name())));
    }
    let scale = match section.text("mel_scale")? {
        None => base.scale,
        Some((_, Some(text))) if text == "slaney" => MelScale::Slaney,
        Some((_, Some(text))) if text == "htk" => MelScale::Htk,
        Some((binding, text)) => {
            return Err(binding.error(format!("`{}`: expected \"slaney\" or \"htk\", found {text:?}", binding.name())));
        }
    };
    let norm = match section.text("norm")? {
        None => base.norm,
        Some((_, None)) => MelNorm::Peak,
        Some((_, Some(text))) if text == "slaney" => MelNorm::Slaney,
        Some((binding, text)) => {
            return Err(binding.error(format!("`{}`: expected \"slaney\" or None, found {text:?}", binding.name())));
        }
    };
    let whole =
        |parameter, default| Ok::<usize, ImportError>(section.whole(parameter)?.map_or(default, |found| found.1));
    let win_len = whole("win_len", base.win_len)?;
    let number =
        |parameter, default| Ok::<f64, ImportError>(section.number(parameter)?.map_or(default, |found| found.1));
    Ok(MelConfig {
        sample_rate,
        n_fft: whole("n_fft", win_len)?,
        win_len,
        hop_len: whole("hop_len", base.hop_len)?,
        n_mels: whole("n_mel", base.n_mels)?,
        f_min: number("f_min", 0.0)?,
        f_max: number("f_max", f64::from(sample_rate) / 2.0)?,
        scale,
        norm,
        compress: LogCompress::default(),
        standardize: standardize(section)?,
    })
}

fn cqt(section: &Section<'_, '_>, sample_rate: u32) -> Result<CqtConfig, ImportError> {
    let base = if sample_rate == 16_000 { CqtConfig::cqt_16k() } else { CqtConfig::cqt_24k() };
    let whole =
        |parameter, default| Ok::<usize, ImportError>(section.whole(parameter)?.map_or(default, |found| found.1));
    Ok(CqtConfig {
        sample_rate,
        hop_len: whole("hop_len", base.hop_len)?,
        n_bins: whole("n_bins", base.n_bins)?,
        bins_per_octave: whole("bins_per_octave", base.bins_per_octave)?,
        f_min: section.number("f_min")?.map_or(base.f_min, |found| found.1),
        compress: LogCompress::default(),
        standardize: standardize(section)?,
    })
}

fn encodec(binding: &Binding, section: &Section<'_, '_>, bend: &Bend<'_>) -> Result<EncodecViewConfig, ImportError> {
    for parameter in ["weights_path", "stats_path", "hop_len", "hop_length"] {
        section.leave(parameter);
    }
    let Some(folder) = bend.encodec else {
        let message =
            "the model hears EnCodec, whose weights are not in this folder: name theirs with `--encodec FOLDER`";
        return Err(binding.error(message));
    };
    let encoder = EncodecConfig::read(folder).map_err(|error| binding.error(error.to_string()))?;
    Ok(EncodecViewConfig { folder: folder.to_owned(), encoder, standardize: standardize(section)? })
}
