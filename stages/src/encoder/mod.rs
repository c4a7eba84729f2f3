//! Trained encoders on disk: what they hear, what they are, and where they come from.
//!
//! An encoder is a folder with `model.safetensors`, under the published names, and `manifest.json`, an
//! [`EncoderManifest`]: what goes in with its standardisation, the network, the licence and the source. [`import`] makes
//! such a folder of a published model; `pretrain` writes the manifest beside its checkpoints, so that
//! [`EncoderFolder::open`] takes either.
//!
//! There are several families of encoders, in the list that [`Network`] is made of. Each is a folder of files here, which
//! reads published files, says what it is as [`Facts`], and gives hidden states of audio as an [`Encoder`].

mod blocks;
mod error;
mod families;
mod family;
mod folder;
mod found;
pub mod import;
mod maest;
mod manifest;
mod mert;
mod musicfm;
mod omar_rq;

pub use error::EncoderError;
pub use families::Network;
pub use family::{Description, Encoder, Facts, FrontEnd, Heard, Hidden, Want};
pub use folder::EncoderFolder;
pub use maest::{Edges, MaestConfig};
pub use manifest::{EncoderManifest, ManifestView, Origin, SourceFile};
pub use mert::MertConfig;
pub use musicfm::MusicFmConfig;
