//! Signal processing: resampling, windows, short-time spectra, mel, patches.

pub mod resample;
