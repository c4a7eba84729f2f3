//! The verbs of omar-flow: every stage a graph can name, and the maths behind them.
//!
//! Two rings. The folders `codec`, `dsp`, `quantize`, `model` and `train` are pure: slices or candle tensors in and
//! out, no Arrow, no files opened on their own account, no threads, no logging. The folder `ops` holds one file per
//! stage kind, which unpacks columns, calls the maths, packs columns, and decides whether a failure rejects one track
//! or ends the run. Nothing here knows timely: the dataflow is rendered by the `omar-flow` crate.

pub mod codec;
pub mod dsp;
pub mod model;
pub mod ops;
pub mod quantize;
pub mod train;
