//! Resampling by way of a lower rate, so that what the detour can't carry is gone.

use super::{Method, ResampleError, Resampler};

/// A [`Resampler`], or two behind each other with a rate in between.
///
/// With a band limit of 16,000 Hz and an output rate of 24,000 Hz it repeats how the 24 kHz models of the paper were
/// trained: their corpus is stored at 16 kHz and brought to 24 kHz by `torchaudio.functional.resample` while loading, so
/// they never heard anything above 8 kHz. (The corpus is also stored in float16. Its noise of -66 dB under the signal
/// is not repeated.)
#[derive(Debug)]
pub struct Cascade {
    first: Resampler,
    second: Option<Resampler>,
    between: Vec<f32>,
}

impl Cascade {
    /// Plans a conversion from `input_rate` to `output_rate` Hz; with a `bandlimit`, first by `method` to that rate
    /// and from there by [`Method::WindowedSinc`].
    ///
    /// # Errors
    /// As for [`Resampler::new`].
    pub fn new(
        input_rate: u32,
        output_rate: u32,
        method: Method,
        bandlimit: Option<u32>,
    ) -> Result<Self, ResampleError> {
        let first = Resampler::new(input_rate, bandlimit.unwrap_or(output_rate), method)?;
        let second = bandlimit.map(|between| Resampler::new(between, output_rate, Method::WindowedSinc)).transpose()?;
        Ok(Self { first, second, between: Vec::new() })
    }

    /// Samples that come out in all when `input_len` go in: the ceiling after each leg.
    pub fn output_len(&self, input_len: u64) -> u64 {
        let len = self.first.output_len(input_len);
        self.second.as_ref().map_or(len, |second| second.output_len(len))
    }

    /// Takes the next samples of the stream and appends to `out` those that are ready.
    ///
    /// # Errors
    /// As for [`Resampler::push`].
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) -> Result<(), ResampleError> {
        let Some(second) = &mut self.second else { return self.first.push(samples, out) };
        self.between.clear();
        self.first.push(samples, &mut self.between)?;
        second.push(&self.between, out)
    }

    /// Ends the stream: appends what is left to `out`, and is then ready for another stream.
    ///
    /// # Errors
    /// As for [`Resampler::push`].
    pub fn finish(&mut self, out: &mut Vec<f32>) -> Result<(), ResampleError> {
        let Some(second) = &mut self.second else { return self.first.finish(out) };
        self.between.clear();
        self.first.finish(&mut self.between)?;
        second.push(&self.between, out)?;
        second.finish(out)
    }

    /// Forgets the stream so far, and is then ready for another one.
    pub fn reset(&mut self) {
        self.first.reset();
        if let Some(second) = &mut self.second {
            second.reset();
        }
    }
}
