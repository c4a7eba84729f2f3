//! Trained encoders on disk: what they hear, what they are, and where they come from.
//!
//! An encoder is a folder with `model.safetensors`, under the published names, and `manifest.json`, an
//! [`EncoderManifest`]: the views that go in with their standardisation, the model, the licence and the source.
//! [`import`] makes such a folder of a published model; `pretrain` writes the manifest beside its checkpoints, so that
//! [`EncoderFolder::open`] takes either.

mod error;
mod folder;
pub mod import;
mod manifest;
mod published;

pub use error::EncoderError;
pub use folder::EncoderFolder;
pub use manifest::{EncoderManifest, ManifestView, Origin, SourceFile};
