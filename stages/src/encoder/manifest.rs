//! What an encoder is, in a small file beside its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use omar_schemas::FeaturesSpec;
use serde::{Deserialize, Serialize};

use crate::dsp::compress::{LogCompress, Standardize};
use crate::dsp::cqt::CqtConfig;
use crate::dsp::mel::{MelConfig, MelNorm, MelScale};
use crate::dsp::patch::PatchShape;
use crate::dsp::view::{ViewConfig, WaveformConfig};
use crate::encodec::{EncodecConfig, EncodecViewConfig};
use crate::model::ConformerConfig;
use crate::storage::durable::write_durably;

use super::folder::MANIFEST;
use super::{Description, EncoderError, Facts, Network};

/// What this version writes and reads.
const FORMAT: u32 = 1;

/// The licence of the published weights.
pub(super) const PUBLISHED_LICENCE: &str = "CC-BY-NC-SA-4.0";

/// Everything that is needed to use an encoder, but for its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderManifest {
    /// Layout of the manifest; also tells it from other files of that name.
    pub omar_encoder: u32,
    /// For people.
    pub name: String,
    /// Licence of the weights. It travels with what is derived from them.
    pub licence: String,
    /// Rate of the audio in Hz.
    pub sample_rate: u32,
    /// Samples that one position stands for.
    pub patch_samples: u32,
    /// Positions per second: `sample_rate / patch_samples`.
    pub rate: f64,
    /// What goes in, side by side in this order; none where the family has a front end of its own.
    pub views: Vec<ManifestView>,
    /// The network.
    pub model: Network,
    /// Where it comes from.
    pub source: Origin,
    /// The weights are random numbers of this seed, and no file: a network to try a graph with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random_seed: Option<u64>,
    /// BLAKE3 of `model.safetensors`; absent beside checkpoints, whose weights change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_blake3: Option<String>,
    /// What a reader may wonder about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Bindings of the published configuration that do not decide what the encoder computes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ignored: BTreeMap<String, String>,
    /// Tensors of the checkpoint that do not belong to the encoder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<String>,
    /// Version of the program that wrote it.
    pub written_by: String,
}

/// Where an encoder comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `published checkpoint`, `pretrain`.
    pub kind: String,
    /// Folder, repository or run.
    pub place: String,
    /// The files that were read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SourceFile>,
}

/// A file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Name in its folder.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// BLAKE3 of the content, in hexadecimal digits.
    pub blake3: String,
}

/// A view that goes in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestView {
    /// `mel`, `cqt`, `encodec` or `waveform`.
    pub name: String,
    /// Values per frame.
    pub bins: u32,
    /// Samples from one frame to the next.
    pub hop_len: u32,
    /// Frames in a position's patch.
    pub patch_frames: u32,
    /// The parameters of the transform, as text.
    pub parameters: BTreeMap<String, String>,
    /// Subtracted: nothing, one value, or one per bin.
    pub mean: Vec<f64>,
    /// Divided by: nothing, one value, or one per bin.
    pub std: Vec<f64>,
    /// Folder with the weights of the view's own model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
}

impl EncoderManifest {
    /// The manifest of an OMAR-RQ that hears these views, with nothing said about weights yet.
    pub fn new(
        name: &str,
        sample_rate: u32,
        patch_samples: u32,
        views: Vec<ManifestView>,
        model: &ConformerConfig,
        source: Origin,
    ) -> Self {
        Self::with_network(name, (sample_rate, patch_samples), views, Network::OmarRq(model.clone()), source)
    }

    /// The manifest of an encoder of any family.
    pub(super) fn with_network(
        name: &str,
        (sample_rate, patch_samples): (u32, u32),
        views: Vec<ManifestView>,
        model: Network,
        source: Origin,
    ) -> Self {
        Self {
            omar_encoder: FORMAT,
            name: name.to_owned(),
            licence: String::new(),
            sample_rate,
            patch_samples,
            rate: f64::from(sample_rate) / f64::from(patch_samples),
            views,
            model,
            source,
            random_seed: None,
            weights_blake3: None,
            notes: Vec::new(),
            ignored: BTreeMap::new(),
            dropped: Vec::new(),
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// The manifest of an encoder that is trained on the views of a `features` edge, `patch_samples` to a position.
    pub fn from_features(name: &str, input: &FeaturesSpec, model: &ConformerConfig, patch_samples: u32) -> Self {
        let views = input.views.iter().map(|view| ManifestView {
            name: view.name.clone(),
            bins: view.bins,
            hop_len: view.hop_len,
            patch_frames: patch_samples / view.hop_len.max(1),
            parameters: view.parameters.clone(),
            mean: view.mean.clone(),
            std: view.std.clone(),
            weights: None,
        });
        let source = Origin { kind: "pretrain".to_owned(), place: name.to_owned(), files: Vec::new() };
        let manifest = Self::new(name, input.sample_rate, patch_samples, views.collect(), model, source);
        Self { licence: "none stated: trained by you".to_owned(), ..manifest }
    }

    /// Reads a manifest. `None` when the file is missing, or of another kind.
    ///
    /// # Errors
    /// When it is the manifest of an encoder and cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>, EncoderError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EncoderError::io(path, error)),
        };
        let value: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| EncoderError::damaged(path, format!("expected JSON: {error}")))?;
        match value.get("omar_encoder").and_then(serde_json::Value::as_u64) {
            None => Ok(None),
            Some(format) if format == u64::from(FORMAT) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| EncoderError::damaged(path, format!("the manifest cannot be read: {error}"))),
            Some(format) => {
                let reason = format!("format {format}, expected {FORMAT}: import the model again");
                Err(EncoderError::damaged(path, reason))
            }
        }
    }

    /// Writes `manifest.json` in a folder, unless it is there and says the same.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, folder: &Path) -> Result<(), EncoderError> {
        let path = folder.join(MANIFEST);
        let text = self.to_text();
        if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        Ok(write_durably(&path, text.as_bytes())?)
    }

    /// The manifest as text, ending in a line break.
    pub fn to_text(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("a manifest is plain data and always serialises");
        text + "\n"
    }

    /// Rates, layers and lengths.
    pub fn facts(&self) -> Facts {
        self.model.facts(self)
    }

    /// The encoder in words.
    pub fn describe(&self) -> Description {
        self.model.describe(self)
    }

    /// The conformer of an OMAR-RQ; `None` in other families.
    pub fn conformer(&self) -> Option<&ConformerConfig> {
        match &self.model {
            Network::OmarRq(config) => Some(config),
            _ => None,
        }
    }

    /// Values per patch: of all views together.
    pub fn patch_dim(&self) -> usize {
        self.views.iter().map(|view| (view.bins * view.patch_frames) as usize).sum()
    }

    /// The views in words: `mel 96 x 4`.
    pub fn views_in_words(&self) -> String {
        let words = self.views.iter().map(|view| format!("{} {} x {}", view.name, view.bins, view.patch_frames));
        words.collect::<Vec<_>>().join(" + ")
    }

    /// The views with the shape of their patches, ready to be planned. `encodec` is the folder of EnCodec's weights, if
    /// it is not where the manifest says.
    ///
    /// # Errors
    /// Which parameter of which view is missing or no number.
    pub fn view_configs(&self, encodec: Option<&Path>) -> Result<Vec<(ViewConfig, PatchShape)>, String> {
        let view = |view: &ManifestView| {
            let config =
                view.config(self.sample_rate, encodec).map_err(|error| format!("view `{}`: {error}", view.name))?;
            config.check().map_err(|error| format!("view `{}`: {error}", view.name))?;
            let shape = PatchShape::new(view.patch_frames as usize, view.bins as usize);
            Ok((config, shape.map_err(|error| format!("view `{}`: {error}", view.name))?))
        };
        self.views.iter().map(view).collect()
    }
}

impl ManifestView {
    /// A planned view as a manifest has it.
    pub fn of(config: &ViewConfig, patch_frames: usize) -> Self {
        let (mean, std) = config.standardize().constants();
        let parameters = config.parameters().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let weights = match config {
            ViewConfig::Encodec(encodec) => Some(encodec.folder.clone()),
            _ => None,
        };
        let [bins, hop_len, patch_frames] = [config.bins(), config.hop_len(), patch_frames].map(|value| value as u32);
        Self { name: config.name().to_owned(), bins, hop_len, patch_frames, parameters, mean, std, weights }
    }

    fn standardize(&self) -> Standardize {
        match (&self.mean[..], &self.std[..]) {
            ([], []) => Standardize::NONE,
            ([mean], [std]) => Standardize::Global { mean: *mean, std: *std },
            (mean, std) => Standardize::PerBin { mean: mean.to_vec(), std: std.to_vec() },
        }
    }

    fn config(&self, sample_rate: u32, encodec: Option<&Path>) -> Result<ViewConfig, String> {
        let standardize = self.standardize();
        Ok(match self.name.as_str() {
            "mel" => ViewConfig::Mel(MelConfig {
                sample_rate,
                n_fft: self.parameter("n_fft")?,
                win_len: self.parameter("win_len")?,
                hop_len: self.parameter("hop_len")?,
                n_mels: self.parameter("n_mels")?,
                f_min: self.parameter("f_min")?,
                f_max: self.parameter("f_max")?,
                scale: self.word::<MelScale>("scale")?,
                norm: self.word::<MelNorm>("norm")?,
                compress: LogCompress { gain: self.parameter("gain")? },
                standardize,
            }),
            "cqt" => ViewConfig::Cqt(CqtConfig {
                sample_rate,
                hop_len: self.parameter("hop_len")?,
                n_bins: self.parameter("n_bins")?,
                bins_per_octave: self.parameter("bins_per_octave")?,
                f_min: self.parameter("f_min")?,
                compress: LogCompress { gain: self.parameter("gain")? },
                standardize,
            }),
            "waveform" => ViewConfig::Waveform(WaveformConfig { standardize }),
            "encodec" => {
                let folder = encodec.or(self.weights.as_deref());
                let folder =
                    folder.ok_or("it needs the weights of EnCodec: name their folder in `encodec`")?.to_owned();
                let encoder = EncodecConfig::read(&folder).map_err(|error| error.to_string())?;
                ViewConfig::Encodec(EncodecViewConfig { folder, encoder, standardize })
            }
            other => return Err(format!("there is no view `{other}`: expected mel, cqt, encodec or waveform")),
        })
    }

    fn text(&self, name: &str) -> Result<&str, String> {
        self.parameters
            .get(name)
            .map(String::as_str)
            .ok_or_else(|| format!("the manifest lacks its parameter `{name}`"))
    }

    fn parameter<T: std::str::FromStr>(&self, name: &str) -> Result<T, String> {
        let text = self.text(name)?;
        text.parse().map_err(|_| format!("parameter `{name}`: expected a number, found `{text}`"))
    }

    fn word<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, String> {
        let text = self.text(name)?;
        serde_json::from_value(serde_json::Value::from(text)).map_err(|error| format!("parameter `{name}`: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_come_back_as_they_went() {
        let cqt = ViewConfig::Cqt(CqtConfig::cqt_24k());
        let std: Vec<f64> = (1..=96).map(|i| f64::from(i) / 7.0).collect();
        let mel = ViewConfig::Mel(MelConfig {
            standardize: Standardize::PerBin { mean: std.clone(), std },
            norm: MelNorm::Peak,
            scale: MelScale::Htk,
            n_fft: 2048,
            ..MelConfig::mel_24k()
        });
        let wave = ViewConfig::Waveform(WaveformConfig { standardize: Standardize::NONE });
        let views = vec![ManifestView::of(&mel, 3), ManifestView::of(&cqt, 3), ManifestView::of(&wave, 960)];
        let source = Origin { kind: "a".into(), place: "b".into(), files: Vec::new() };
        let manifest = EncoderManifest::new("x", 24_000, 960, views, &ConformerConfig::new(2, 64, 4), source);
        assert_eq!((manifest.patch_dim(), manifest.rate), (96 * 3 + 188 * 3 + 960, 25.0));
        let text = manifest.to_text();
        let read: EncoderManifest = serde_json::from_str(&text).unwrap();
        assert_eq!(read, manifest);
        let configs: Vec<ViewConfig> = read.view_configs(None).unwrap().into_iter().map(|view| view.0).collect();
        assert_eq!(configs, [mel, cqt, wave]);
    }
}
