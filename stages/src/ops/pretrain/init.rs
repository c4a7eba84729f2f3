//! Going on from an encoder that is there, and saying what comes of it.

use std::path::Path;

use omar_schemas::FeaturesSpec;

use crate::encoder::{EncoderError, EncoderFolder, EncoderManifest, ManifestView};
use crate::error::{BindError, StageError};
use crate::model::ConformerConfig;
use crate::train::Trainer;

/// Name of encoders that were trained from scratch.
const NAME: &str = "pretrained";

/// Finds the encoder that `init` names.
pub(super) fn open(path: &Path) -> Result<EncoderFolder, BindError> {
    let refused = |error: EncoderError| BindError::param("init", error.to_string());
    let found = EncoderFolder::open(path).map_err(refused)?;
    found.conformer().map_err(refused)?;
    Ok(found)
}

/// What the trained encoder will be. One that goes on from another must hear the same and be the same.
pub(super) fn manifest(
    input: &FeaturesSpec,
    model: &ConformerConfig,
    patch_samples: u32,
    init: Option<&EncoderFolder>,
) -> Result<EncoderManifest, BindError> {
    let name = init.map_or(NAME, |init| &init.manifest.name);
    let mut manifest = EncoderManifest::from_features(name, input, model, patch_samples);
    if let Some(EncoderFolder { manifest: from, .. }) = init {
        check_views(&manifest, from)?;
        from.conformer().map_or(Ok(()), |from| check_model(model, from))?;
        manifest.licence.clone_from(&from.licence);
        manifest.source.kind = "pretrain, from another encoder".to_owned();
        manifest.source.place.clone_from(&from.source.place);
    }
    Ok(manifest)
}

/// Puts the weights of the encoder into a fresh model; its head stays new.
pub(super) fn load(init: &EncoderFolder, trainer: &mut Trainer) -> Result<(), StageError> {
    let started = trainer.start_from(&init.tensors(&candle_core::Device::Cpu)?);
    started.map_err(|error| StageError::Failed(format!("`init`: `{}`: {error}", init.weights.display())))
}

fn check_views(found: &EncoderManifest, wanted: &EncoderManifest) -> Result<(), BindError> {
    let refused = |message: String| {
        let hint =
            "the encoder in `init` was trained on other numbers: give the input its views, rate and `mean` and `std`";
        Err(BindError::input_spec("input", message).hint(hint))
    };
    if (found.sample_rate, found.patch_samples) != (wanted.sample_rate, wanted.patch_samples) {
        return refused(format!(
            "the encoder in `init` has a position every {} samples at {} Hz, input and targets every {} at {} Hz",
            wanted.patch_samples, wanted.sample_rate, found.patch_samples, found.sample_rate
        ));
    }
    if found.patch_dim() != wanted.patch_dim() || found.views.len() != wanted.views.len() {
        let (wanted, found) = (wanted.views_in_words(), found.views_in_words());
        return refused(format!("the encoder in `init` hears {wanted}, the input is {found}"));
    }
    let pairs = found.views.iter().zip(&wanted.views);
    match pairs.filter_map(|(found, wanted)| difference(found, wanted)).next() {
        Some(message) => refused(message),
        None => Ok(()),
    }
}

/// The first thing in which a view differs from that of the encoder.
fn difference(found: &ManifestView, wanted: &ManifestView) -> Option<String> {
    let view = &wanted.name;
    if found.name != wanted.name {
        return Some(format!("the encoder in `init` hears `{view}` where the input has `{}`", found.name));
    }
    for (name, value) in &wanted.parameters {
        let here = found.parameters.get(name).map_or("none", String::as_str);
        if here != value {
            return Some(format!("view `{view}`: the encoder in `init` has {name} {value}, the input {here}"));
        }
    }
    let constants = [("mean", &found.mean, &wanted.mean), ("std", &found.std, &wanted.std)];
    let differ = |here: &[f64], there: &[f64]| {
        here.len() != there.len() || here.iter().zip(there).any(|(here, there)| !near(*here, *there))
    };
    let (name, here, there) = constants.into_iter().find(|(_, here, there)| differ(here, there))?;
    Some(format!("view `{view}`: the encoder in `init` has {name} {there:?}, the input {here:?}"))
}

/// Equal, but for the last bit that a number may lose in a file.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
}

/// Everything that shapes tensors or what they mean; dropout may differ.
fn check_model(found: &ConformerConfig, wanted: &ConformerConfig) -> Result<(), BindError> {
    let refused = |field: &str, wanted: String, found: String| {
        let message = format!("the encoder in `init` has {wanted}, found {found}");
        Err(BindError::param(format!("model.{field}"), message).hint("leave it out: the model is that of `init`"))
    };
    let sizes = [
        ("layers", found.layers, wanted.layers),
        ("dim", found.dim, wanted.dim),
        ("heads", found.heads, wanted.heads),
        ("ff_factor", found.ff_factor, wanted.ff_factor),
        ("kernel", found.kernel, wanted.kernel),
    ];
    if let Some((field, found, wanted)) = sizes.into_iter().find(|(_, found, wanted)| found != wanted) {
        return refused(field, wanted.to_string(), found.to_string());
    }
    if found.positions != wanted.positions {
        return refused("positions", format!("{:?}", wanted.positions), format!("{:?}", found.positions));
    }
    let alpha = |config: &ConformerConfig| config.alpha().unwrap_or(0.0);
    if !near(alpha(found), alpha(wanted)) {
        let words = |config: &ConformerConfig| {
            config.alpha().map_or("no DeepNorm".to_owned(), |alpha| format!("DeepNorm with alpha {alpha}"))
        };
        return refused("norm", words(wanted), words(found));
    }
    if found.causal != wanted.causal {
        return refused("causal", wanted.causal.to_string(), found.causal.to_string());
    }
    if !near(found.residual_factor, wanted.residual_factor) {
        return refused("residual_factor", wanted.residual_factor.to_string(), found.residual_factor.to_string());
    }
    Ok(())
}
