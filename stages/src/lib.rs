//! The verbs of omar-flow: every stage a graph can name, and the maths behind them.
//!
//! Two rings. The folders `codec`, `dsp`, `encodec`, `quantize`, `model`, `train`, `probe` and `score` are pure: slices or candle tensors in and
//! out, no Arrow, no threads, no logging. The folder [`ops`] holds one file per stage kind, which unpacks columns,
//! calls the maths, packs columns, and decides whether a failure rejects one track or ends the run. Nothing here knows
//! timely: the dataflow is rendered by the `omar-flow` crate. Beside the rings, [`corpus`] finds recordings, [`dataset`] reads
//! annotations, [`storage`] reads rows that were kept, and [`encoder`] trained encoders.
//!
//! To add a stage: one file in `ops/`, and its two lines in `ops/mod.rs`. The contract is in [`stage`].

pub mod allocator;
pub mod codec;
#[cfg(test)]
mod collect;
pub mod corpus;
pub mod dataset;
pub mod device;
pub mod dsp;
pub mod encodec;
pub mod encoder;
pub mod error;
mod estimate;
pub mod model;
pub mod ops;
pub mod probe;
pub mod quantize;
pub mod registry;
pub mod score;
pub mod seed;
pub mod stage;
pub mod storage;
pub mod train;

pub use error::{At, BindError, Rejection, StageError};
pub use estimate::{Estimate, Memory};
pub use registry::{Bound, ParamsError, Registered, Registry};
pub use stage::{
    Inputs, Meeting, Operator, Output, Port, Position, Progress, Reach, Recording, Scope, Source, Stage, StageContext,
    StageKind,
};
