//! Audio files to PCM: containers, codecs, limits, and the checks that a file is what it says.
//!
//! [`Decoder`] opens one file and gives mono samples in blocks of bounded size, so a recording of two hours costs no
//! more memory than one of two seconds. What it refuses, it refuses with a [`DecodeError`]: a class for counting and a
//! sentence for people. The demuxers and codecs are Symphonia's; this module adds what a corpus needs on top of them:
//!
//! - `sniff`: what the bytes are, decided by their content and held against the file's name, because a demuxer that
//!   hunts for a sync word finds "MPEG audio" in WavPack, in text and in noise;
//! - `container`, `mpeg`, `mp4`, `riff`, `ogg`, `matroska`: where the audio starts and ends, so that encoder
//!   delay and padding are cut and labels stay aligned, and how long the file promises to be, so that half a file isn't
//!   taken for a whole one;
//! - `decoder`: the loop, with its limits on duration, damage and silence from the demuxer.
//!
//! ```no_run
//! use omar_stages::codec::{DecodeOptions, Decoder};
//!
//! let mut decoder = Decoder::open("song.flac".as_ref(), &DecodeOptions::default())?;
//! let mut block = Vec::new();
//! while decoder.next_block(&mut block)? {
//!     // `block` holds mono samples at `decoder.info().sample_rate` Hz
//! }
//! # Ok::<(), omar_stages::codec::DecodeError>(())
//! ```

mod aac;
mod container;
mod decoder;
mod error;
mod limits;
mod matroska;
mod mp4;
mod mpeg;
mod ogg;
mod opus;
mod riff;
mod setup;
mod sniff;
mod window;

#[cfg(test)]
mod tests;

pub use decoder::{AudioInfo, Decoder, Faults};
pub use error::{DecodeError, ErrorClass};
pub use limits::{DecodeOptions, Downmix, Limits};
pub use sniff::Container;
