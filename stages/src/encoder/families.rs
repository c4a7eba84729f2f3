//! The list of families. A further one is a folder beside this file and a line here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::model::ConformerConfig;

use super::family::{Description, Facts, Family, Want};
use super::import::{Found, ImportOptions, Imported};
use super::maest::MaestConfig;
use super::mert::MertConfig;
use super::musicfm::MusicFmConfig;
use super::{Encoder, EncoderError, EncoderFolder, EncoderManifest};

/// Makes of the list: the enum of networks, its form in manifests, and who asks which family.
macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident($config:ty),)+) => {
        /// The network of an encoder, by its family.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub enum Network {
            $($(#[$doc])* $variant($config),)+
        }

        impl Network {
            /// The family's name.
            pub fn family(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => <$config as Family>::NAME,)+
                }
            }

            fn value(&self) -> serde_json::Result<Value> {
                match self {
                    $(Self::$variant(config) => serde_json::to_value(config),)+
                }
            }

            fn read(family: &str, value: Value) -> Result<Self, String> {
                match family {
                    $(<$config as Family>::NAME => serde_json::from_value(value).map(Self::$variant)
                        .map_err(|error| error.to_string()),)+
                    other => {
                        let known = [$(<$config as Family>::NAME),+].join(", ");
                        Err(format!("there is no family `{other}`: expected one of {known}"))
                    }
                }
            }

            pub(super) fn facts(&self, manifest: &EncoderManifest) -> Facts {
                match self {
                    $(Self::$variant(config) => config.facts(manifest),)+
                }
            }

            pub(super) fn describe(&self, manifest: &EncoderManifest) -> Description {
                match self {
                    $(Self::$variant(config) => config.describe(manifest),)+
                }
            }

            pub(super) fn files(
                &self,
                manifest: &EncoderManifest,
                encodec: Option<&Path>,
            ) -> Result<Vec<PathBuf>, String> {
                match self {
                    $(Self::$variant(config) => config.files(manifest, encodec),)+
                }
            }

            pub(super) fn load(
                &self,
                folder: &EncoderFolder,
                want: &Want<'_>,
            ) -> Result<Arc<dyn Encoder>, EncoderError> {
                match self {
                    $(Self::$variant(config) => config.load(folder, want),)+
                }
            }
        }

        /// The reader of the family that published files are of.
        pub(super) fn importer(found: &Found) -> Option<Importer> {
            $(if <$config as Family>::recognises(found) {
                return Some(<$config as Family>::import);
            })+
            None
        }
    };
}
families! {
    /// OMAR-RQ: a conformer over patches of spectra or waveforms; what `pretrain` trains.
    OmarRq(ConformerConfig),
    /// MusicFM: convolutions over a mel spectrogram, and a conformer with rotary positions.
    MusicFm(MusicFmConfig),
    /// MERT: convolutions over the waveform, and a transformer with convolutional positions.
    Mert(MertConfig),
    /// MAEST: a transformer over patches of a mel spectrogram, with class tokens.
    Maest(MaestConfig),
}

/// Reads a published model.
pub(super) type Importer = fn(Found, &ImportOptions) -> Result<Imported, EncoderError>;

/// The key that says of which family a network is; absent in manifests of OMAR-RQ.
const FAMILY: &str = "family";

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Self::OmarRq(config) = self {
            return config.serialize(serializer);
        }
        let mut whole = serde_json::Map::from_iter([(FAMILY.to_owned(), Value::from(self.family()))]);
        if let Value::Object(fields) = self.value().map_err(serde::ser::Error::custom)? {
            whole.extend(fields);
        }
        whole.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let named = value.as_object_mut().and_then(|fields| fields.shift_remove(FAMILY));
        let family = named.as_ref().and_then(Value::as_str).unwrap_or(ConformerConfig::NAME);
        Self::read(family, value).map_err(de::Error::custom)
    }
}
