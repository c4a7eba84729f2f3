//! What a caller asks of the decoder: limits on files, and the form of the samples.

use std::ops::RangeInclusive;

use super::{AudioInfo, DecodeError};

/// How the channels of a file become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Downmix {
    /// The mean of all channels.
    #[default]
    Mean,
    /// The first channel.
    Left,
    /// The second channel; the only one where there is only one.
    Right,
}

/// What a file may ask for before it is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest recording, in seconds.
    pub max_duration_s: f64,
    /// Largest file, in bytes.
    pub max_file_len: u64,
    /// Most channels.
    pub max_channels: usize,
    /// Sample rates that make sense, in Hz.
    pub sample_rates: RangeInclusive<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_duration_s: 6.0 * 3600.0, max_file_len: 8 << 30, max_channels: 16, sample_rates: 4_000..=384_000 }
    }
}

/// How to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeOptions {
    /// What a file may ask for.
    pub limits: Limits,
    /// How its channels become one.
    pub downmix: Downmix,
    /// Samples in a block; the last one may be shorter. 65,536 are 1.5 s at 44.1 kHz.
    pub block_len: usize,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), downmix: Downmix::Mean, block_len: 1 << 16 }
    }
}

impl Limits {
    /// Holds what the headers say against the self.
    pub(super) fn check(&self, info: &AudioInfo) -> Result<(), DecodeError> {
        let AudioInfo { sample_rate, channels, .. } = *info;
        if !self.sample_rates.contains(&sample_rate) {
            let (low, high) = (self.sample_rates.start(), self.sample_rates.end());
            return Err(DecodeError::TooLarge(format!("{sample_rate} Hz, expected {low} to {high} Hz")));
        }
        if channels == 0 {
            return Err(DecodeError::Unsupported("the channel layout is unknown".into()));
        }
        if channels > self.max_channels {
            let max = self.max_channels;
            return Err(DecodeError::TooLarge(format!("{channels} channels, the limit is {max}")));
        }
        match info.declared_len.map(|len| len as f64 / f64::from(sample_rate)) {
            Some(seconds) => self.check_duration(seconds),
            None => Ok(()),
        }
    }

    /// Holds a length against the limit.
    pub(super) fn check_duration(&self, seconds: f64) -> Result<(), DecodeError> {
        let max = self.max_duration_s;
        if seconds > max {
            return Err(DecodeError::TooLong(format!("{seconds:.0} s, the limit is {max:.0} s")));
        }
        Ok(())
    }
}
