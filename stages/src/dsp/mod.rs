//! Signal processing: resampling, windows, short-time spectra, mel, constant-Q, compression, views, patches.
//!
//! Slices of `f32` in, slices of `f32` out. Every transform is built once from its configuration, says how long its
//! output is, and then runs without allocating: `Config -> new -> forward_into`. A [`view::View`] is what the `features`
//! stage computes; [`view`] is the one place where a further representation is added.

mod block_spectrum;
mod error;

pub mod compress;
pub mod cqt;
pub mod mel;
pub mod moments;
pub mod patch;
pub mod resample;
pub mod stft;
pub mod view;
pub mod window;

pub use error::DspError;
