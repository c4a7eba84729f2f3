//! One file per stage kind, in the order of the pipeline.
//!
//! To add one: write `ops/<name>.rs` (a struct that implements [`StageKind`](crate::StageKind) and
//! [`Stage`](crate::Stage), and its operator), add its `mod` line and its line in [`registry`]. Nothing else.

pub mod dataset;
pub mod files;
pub mod parquet;

pub mod decode;
pub mod resample;

pub mod crop;

pub mod features;
pub mod statistics;

pub mod fit_codebook;
pub mod tokenize;

pub mod pretrain;

pub mod embed;
pub mod linear_probe;
pub mod probe;

use crate::Registry;

/// Every stage kind that a graph can name.
pub fn registry() -> Registry {
    Registry::default()
        .with::<files::Files>()
        .with::<dataset::Dataset>()
        .with::<parquet::Parquet>()
        .with::<decode::Decode>()
        .with::<resample::Resample>()
        .with::<crop::Crop>()
        .with::<features::Features>()
        .with::<statistics::Statistics>()
        .with::<fit_codebook::FitCodebook>()
        .with::<tokenize::Tokenize>()
        .with::<pretrain::Pretrain>()
        .with::<embed::Embed>()
        .with::<linear_probe::LinearProbe>()
        .with::<probe::Probe>()
}
