//! Sample-rate conversion of a mono stream: any rate to any rate, without delay, whatever the sizes of its pieces.
//!
//! [`Resampler`] takes samples as they come and gives samples as they are ready. Output sample `k` belongs to the time
//! `k / output_rate` of the input, so labels in seconds stay valid, and `n` samples become exactly
//! `ceil(n * output_rate / input_rate)`: the instants of the output grid that lie within the input. librosa and
//! torchaudio count the same way.
//!
//! Two methods. [`Method::Fft`] multiplies spectra with a steep low-pass (rubato): flat to 0.95 of the lower Nyquist
//! frequency, aliases below -120 dB from that frequency on. [`Method::WindowedSinc`] is `torchaudio.functional.resample`
//! with its defaults, sample by sample: far less steep, but what the published models heard in training. They heard it
//! from 16 kHz to 24 kHz, with nothing above 8 kHz: [`Cascade`] goes by way of a rate in between.
//!
//! ```
//! use omar_stages::dsp::resample::{Method, Resampler};
//!
//! let mut resampler = Resampler::new(44_100, 24_000, Method::Fft)?;
//! let mut out = Vec::new();
//! for block in vec![0.0f32; 44_100].chunks(1000) {
//!     resampler.push(block, &mut out)?;
//! }
//! resampler.finish(&mut out)?;
//! assert_eq!(out.len(), 24_000);
//! # Ok::<(), omar_stages::dsp::resample::ResampleError>(())
//! ```

mod cascade;
mod windowed_sinc;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{Fft, FixedSync, Resampler as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cascade::Cascade;
use windowed_sinc::WindowedSinc;

/// How to compute the samples between the samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Overlapped spectra with a steep low-pass: the most faithful.
    #[default]
    Fft,
    /// A Hann-windowed sinc of width 6 with roll-off 0.99, as torchaudio's default: what the published models heard.
    WindowedSinc,
}

/// Why a stream could not be resampled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResampleError {
    /// A rate that can't be converted.
    #[error("cannot resample from {from} Hz to {to} Hz: rates go from 1 to {max} Hz", max = MAX_RATE)]
    Rate {
        /// Input rate in Hz.
        from: u32,
        /// Output rate in Hz.
        to: u32,
    },
    /// The resampling library refused its input.
    #[error("the resampler failed: {0}")]
    Engine(String),
}

/// Highest rate that is accepted, in Hz. It bounds the filter of rates without a common divisor.
const MAX_RATE: u32 = 1_000_000;

/// Resamples one mono stream after another.
pub struct Resampler {
    input_rate: u32,
    output_rate: u32,
    core: Core,
    received: u64,
    given: u64,
}

enum Core {
    Same,
    Fft(Box<FftCore>),
    WindowedSinc(WindowedSinc),
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler").field("from", &self.input_rate).field("to", &self.output_rate).finish()
    }
}

impl Resampler {
    /// Plans a conversion from `input_rate` to `output_rate` Hz. Filters and buffers are built here, once.
    ///
    /// # Errors
    /// [`ResampleError::Rate`] for a rate of zero or above a megahertz.
    pub fn new(input_rate: u32, output_rate: u32, method: Method) -> Result<Self, ResampleError> {
        if !(1..=MAX_RATE).contains(&input_rate) || !(1..=MAX_RATE).contains(&output_rate) {
            return Err(ResampleError::Rate { from: input_rate, to: output_rate });
        }
        let core = match method {
            _ if input_rate == output_rate => Core::Same,
            Method::Fft => Core::Fft(Box::new(FftCore::new(input_rate, output_rate)?)),
            Method::WindowedSinc => Core::WindowedSinc(WindowedSinc::new(input_rate, output_rate)),
        };
        Ok(Self { input_rate, output_rate, core, received: 0, given: 0 })
    }

    /// Samples that come out in all when `input_len` go in.
    pub fn output_len(&self, input_len: u64) -> u64 {
        let scaled = u128::from(input_len) * u128::from(self.output_rate);
        scaled.div_ceil(u128::from(self.input_rate)) as u64
    }

    /// Takes the next samples of the stream and appends to `out` those that are ready.
    ///
    /// # Errors
    /// [`ResampleError::Engine`] if the library underneath fails; the stream can't be continued then.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), ResampleError> {
        self.received += samples.len() as u64;
        let before = out.len();
        match &mut self.core {
            Core::Same => out.extend_from_slice(samples),
            Core::Fft(core) => core.push(samples, out)?,
            Core::WindowedSinc(core) => core.push(samples, out),
        }
        self.given += (out.len() - before) as u64;
        Ok(())
    }

    /// Ends the stream: appends what is left to `out`, and is then ready for another stream.
    ///
    /// # Errors
    /// As for [`Resampler::push`].
    pub fn finish(&mut self, out: &mut Vec<f32>) -> Result<(), ResampleError> {
        const SILENCE: [f32; 256] = [0.0; 256];
        let total = self.output_len(self.received);
        while self.given < total {
            self.push(&SILENCE, out)?;
        }
        out.truncate(out.len() - (self.given - total) as usize);
        self.reset();
        Ok(())
    }

    /// Forgets the stream so far, and is then ready for another one.
    pub fn reset(&mut self) {
        (self.received, self.given) = (0, 0);
        match &mut self.core {
            Core::Same => {}
            Core::Fft(core) => core.reset(),
            Core::WindowedSinc(core) => core.reset(),
        }
    }
}

/// Blocks of a fixed size through rubato, so that the arithmetic doesn't depend on how the stream was cut.
struct FftCore {
    fft: Fft<f32>,
    pending: Vec<f32>,
    block: Vec<f32>,
    /// Samples of the filter's delay that are still to be dropped.
    skip: usize,
}

impl FftCore {
    /// Shortest block on either side, in samples: with rubato's squared Blackman-Harris window it puts the cut-off at
    /// 0.99 of the lower Nyquist frequency.
    const SHORTEST_BLOCK: u32 = 1024;

    fn new(input_rate: u32, output_rate: u32) -> Result<Self, ResampleError> {
        let divisor = gcd(input_rate, output_rate);
        let (input_unit, output_unit) = (input_rate / divisor, output_rate / divisor);
        // The delay is half a block: an even number of units makes that a whole number of samples on both sides. A power
        // of two, because it is a factor of the lengths to transform.
        let units = Self::SHORTEST_BLOCK.div_ceil(input_unit.min(output_unit)).next_power_of_two().max(2);
        let input_len = (units * input_unit) as usize;
        let fft = Fft::new_custom(
            input_rate as usize,
            output_rate as usize,
            input_len,
            1,
            1,
            rubato::WindowFunction::BlackmanHarris2,
            FixedSync::Both,
        );
        let fft = fft.map_err(|error| ResampleError::Engine(error.to_string()))?;
        let (skip, output_len) = (fft.output_delay(), fft.output_frames_max());
        Ok(Self { fft, pending: Vec::with_capacity(2 * input_len), block: vec![0.0; output_len], skip })
    }

    fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), ResampleError> {
        self.pending.extend_from_slice(samples);
        let input_len = self.fft.input_frames_next();
        let output_len = self.block.len();
        let ready = self.pending.len() / input_len * input_len;
        for input in self.pending[..ready].chunks_exact(input_len) {
            let failed = |error: &dyn std::fmt::Display| ResampleError::Engine(error.to_string());
            let input = SequentialSlice::new(input, 1, input_len).map_err(|e| failed(&e))?;
            let mut output = SequentialSlice::new_mut(&mut self.block, 1, output_len).map_err(|e| failed(&e))?;
            self.fft.process_into_buffer(&input, &mut output, None).map_err(|e| failed(&e))?;
            let skipped = self.skip.min(output_len);
            self.skip -= skipped;
            out.extend_from_slice(&self.block[skipped..]);
        }
        self.pending.drain(..ready);
        Ok(())
    }

    fn reset(&mut self) {
        self.fft.reset();
        self.pending.clear();
        self.skip = self.fft.output_delay();
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
