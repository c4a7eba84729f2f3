//! The nouns of omar-flow: what travels on the edges of a graph.
//!
//! An edge is a marker type that implements [`Edge`]. Its columns are Arrow columns; its constants (sample rate, bins,
//! codebook size, ...) are its *spec* and ride in the Arrow schema's metadata, so that a parquet file keeps them and
//! explains itself.
//!
//! | edge | one row is | made by | read by |
//! |---|---|---|---|
//! | [`Track`] | one recording | `files` | `decode` |
//! | [`Audio`] | a block of consecutive samples of a track | `decode`, `resample` | `resample`, `crop` |
//! | [`Crop`] | a window of fixed length | `crop` | `features` |
//! | [`Features`] | the views (mel, waveform, ...) of a crop | `features` | `tokenize`, `pretrain` |
//! | [`Tokens`] | the training targets of a crop | `tokenize` | `pretrain` |
//! | [`Embeddings`] | what an encoder makes of part of a recording | `embed` | people, probes |
//! | [`Labels`] | one statement about a recording | `dataset` | `probe` |
//! | [`Predictions`] | one statement of a probe about a recording | `probe` | the report, people |
//! | [`Results`] | one figure of an evaluation | `probe` | people, `compare` |
//! | [`Metrics`] | one logged training step | `pretrain` | people |
//! | [`Statistics`] | mean and deviation of a view over a corpus | `statistics` | `features`, people |
//! | [`Scores`] | how well a task is predicted from a representation | `linear_probe` | people |
//! | [`CodebookFit`] | one fitted codebook | `fit_codebook` | `tokenize`, people |
//! | [`Codebooks`] | how often each code of a codebook occurs | every run | people |
//! | [`Reject`] | one recording that could not be used, and why | every stage | the quarantine |
//!
//! Every edge between [`Track`] and [`Tokens`] starts with the [`origin`] columns: which recording a row belongs to.

mod audio;
mod codebook_fit;
mod codebooks;
mod column;
mod crop;
mod edge;
mod embedding;
mod features;
mod id;
mod label;
mod metrics;
pub mod origin;
mod prediction;
mod reject;
mod result;
mod score;
mod statistics;
mod tokens;
mod track;
pub mod units;

pub use audio::{Audio, AudioSpec};
pub use codebook_fit::{CodebookFit, CodebookFitSpec};
pub use codebooks::{Codebooks, CodebooksSpec};
pub use column::{column, fixed_tensor, fixed_tensor_field, fixed_tensor_shape, fixed_values, list_values};
pub use crop::{Crop, CropSpec};
pub use edge::{Edge, SchemaError, edge_name, edge_spec};
pub use embedding::{Embeddings, EmbeddingsSpec, ModelLabel, Pooling};
pub use features::{Features, FeaturesSpec, Standardized, ViewSpec};
pub use id::TrackId;
pub use label::{LabelRow, Labels, LabelsSpec};
pub use metrics::{Metrics, MetricsSpec};
pub use origin::Origin;
pub use prediction::{Predictions, PredictionsSpec};
pub use reject::{Reject, RejectSpec};
pub use result::{Results, ResultsSpec};
pub use score::{Scores, ScoresSpec};
pub use statistics::{Statistics, StatisticsSpec};
pub use tokens::{StreamSpec, Tokens, TokensSpec};
pub use track::{Split, Track, TrackSpec};
