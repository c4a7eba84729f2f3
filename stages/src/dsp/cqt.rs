//! Constant-Q spectrograms: filters that are spaced evenly in pitch, each as long as its pitch needs.
//!
//! The recursive multirate transform of Schörkhuber and Klapuri ("Constant-Q transform toolbox for music processing",
//! SMC 2010) in the form of `librosa.vqt` with `gamma = 0`: from the top octave down, the filters of an octave are
//! applied to the signal at a rate that is halved from octave to octave, as long as the hop can be halved with it.
//!
//! A filter is defined in the frequency domain: of the spectrum of its Hann-windowed exponential only the bins from 0
//! to half the sample rate count, times the spectrum of a frame. Both are linear in the samples, so their product is one
//! complex weight per sample: here those weights are computed once, in f64, and every octave is then a small matrix
//! product. That is exact, needs no Fourier transform, and takes half as long as one, for the frames are short.

mod correlate;
mod filters;
mod halve;

use std::ops::Range;

use pulp::Arch;

use self::correlate::{Correlator, Lanes};
use self::filters::Designer;
use self::halve::Halver;
use super::DspError;
use super::compress::{LogCompress, Standardize};
use super::stft::centred_frames;
use super::view::View;

/// Parameters of a constant-Q spectrogram.
#[derive(Debug, Clone, PartialEq)]
pub struct CqtConfig {
    /// Samples per second of the signal.
    pub sample_rate: u32,
    /// Distance between frames, samples. The rate is halved as long as the hop is even: 256 or 320 serve seven octaves.
    pub hop_len: usize,
    /// Number of bins.
    pub n_bins: usize,
    /// Bins per octave.
    pub bins_per_octave: usize,
    /// Centre of the lowest bin, hertz; bin `k` is at `f_min 2^(k / bins_per_octave)`.
    pub f_min: f64,
    /// Logarithmic compression of the powers.
    pub compress: LogCompress,
    /// Standardisation of the compressed powers.
    pub standardize: Standardize,
}

impl CqtConfig {
    /// The 16 kHz constant-Q spectrogram of OMAR-RQ: hop 256 (62.5 Hz), 144 bins from C1, 24 per octave.
    pub fn cqt_16k() -> Self {
        Self {
            sample_rate: 16_000,
            hop_len: 256,
            n_bins: 144,
            bins_per_octave: 24,
            f_min: 32.703,
            compress: LogCompress::default(),
            standardize: Standardize::Global { mean: 5.485_648_599_442_211, std: 1.593_925_408_253_387_6 },
        }
    }

    /// The 24 kHz constant-Q spectrogram of the published `multifeature` models: hop 320 (75 Hz), 188 bins from C1, 24
    /// per octave.
    pub fn cqt_24k() -> Self {
        Self {
            sample_rate: 24_000,
            hop_len: 320,
            n_bins: 188,
            standardize: Standardize::Global { mean: 5.175_809_567_648_937, std: 1.925_192_699_918_388_8 },
            ..Self::cqt_16k()
        }
    }

    /// Refuses parameters that no transform has, and filters longer than 65,536 samples. Designs nothing.
    ///
    /// # Errors
    /// [`DspError::Param`] naming the first parameter outside its range.
    pub fn check(&self) -> Result<(), DspError> {
        filters::plan(self)?;
        if !(self.compress.gain > 0.0 && self.compress.gain.is_finite()) {
            return Err(DspError::param("gain", self.compress.gain, "a finite number above 0"));
        }
        self.standardize.pairs(self.n_bins).map(drop)
    }

    /// Every parameter but the standardisation, by name, as text.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![
            ("hop_len", self.hop_len.to_string()),
            ("n_bins", self.n_bins.to_string()),
            ("bins_per_octave", self.bins_per_octave.to_string()),
            ("f_min", self.f_min.to_string()),
            ("gain", self.compress.gain.to_string()),
        ]
    }

    /// Centre of bin `bin`, hertz.
    pub fn frequency(&self, bin: usize) -> f64 {
        self.f_min * (bin as f64 / self.bins_per_octave as f64).exp2()
    }
}

/// Frames that go through the filters of an octave at a time, so that filters and results stay in the first cache.
const BLOCK: usize = 64;

/// A planned constant-Q spectrogram.
#[derive(Clone)]
pub struct Cqt {
    arch: Arch,
    hop_len: usize,
    compress: LogCompress,
    pairs: Vec<(f32, f32)>,
    octaves: Vec<Octave>,
    halver: Halver,
    /// The signal at its own rate, at half of it, at a quarter, ...
    levels: Vec<Level>,
    /// What the filters say of a block of frames.
    products: Vec<Lanes>,
    power: Vec<f32>,
}

/// The filters of one octave, ready to run.
#[derive(Clone)]
struct Octave {
    bins: Range<usize>,
    /// Which level they listen to.
    level: usize,
    hop_len: usize,
    n_fft: usize,
    filters: Correlator,
}

/// A signal between stretches of silence, which is what frames see outside of it.
#[derive(Clone)]
struct Level {
    front: usize,
    back: usize,
    len: usize,
    padded: Vec<f32>,
}

impl Cqt {
    /// Designs the filters.
    ///
    /// # Errors
    /// [`DspError::Param`] as in [`CqtConfig::check`].
    pub fn new(config: &CqtConfig) -> Result<Self, DspError> {
        Self::on(Arch::new(), config)
    }

    fn on(arch: Arch, config: &CqtConfig) -> Result<Self, DspError> {
        config.check()?;
        let plan = filters::plan(config)?;
        let mut designer = Designer::new(config);
        let mut octaves = Vec::new();
        let mut levels: Vec<Level> = Vec::new();
        for octave in plan {
            let weights: Vec<_> = octave.bins.clone().map(|bin| designer.weights(&octave, bin)).collect();
            let filters = Correlator::new(&weights);
            let level = octave.halvings;
            if levels.len() == level {
                levels.push(Level { front: Halver::FRONT, back: Halver::BACK, len: 0, padded: Vec::new() });
            }
            levels[level].front = levels[level].front.max(octave.n_fft / 2);
            levels[level].back = levels[level].back.max(filters.taps());
            octaves.push(Octave { bins: octave.bins, level, hop_len: octave.hop_len, n_fft: octave.n_fft, filters });
        }
        let widest = octaves.iter().map(|octave| octave.filters.blocks()).max().unwrap_or(0);
        Ok(Self {
            arch,
            hop_len: config.hop_len,
            compress: config.compress,
            pairs: config.standardize.pairs(config.n_bins)?,
            octaves,
            halver: Halver::new(),
            levels,
            products: vec![Lanes::default(); BLOCK * widest],
            power: vec![0.0; BLOCK * config.bins_per_octave],
        })
    }

    /// Fills the levels: the signal, and below it each at half the rate of the one before.
    fn halve(&mut self, samples: &[f32]) {
        let mut len = samples.len();
        for level in &mut self.levels {
            level.resize(len);
            len = len.div_ceil(2);
        }
        let front = self.levels[0].front;
        self.levels[0].padded[front..front + samples.len()].copy_from_slice(samples);
        for lower in 1..self.levels.len() {
            let (above, below) = self.levels.split_at_mut(lower);
            let (above, below) = (&above[lower - 1], &mut below[0]);
            self.halver.run(self.arch, &above.padded[above.front - Halver::FRONT..], below.samples_mut());
        }
    }
}

impl Level {
    /// Makes room for `len` samples. Allocates only for a signal longer than any before.
    fn resize(&mut self, len: usize) {
        if len != self.len {
            self.len = len;
            self.padded.clear();
            self.padded.resize(self.front + len + self.back, 0.0);
        }
    }

    fn samples_mut(&mut self) -> &mut [f32] {
        &mut self.padded[self.front..self.front + self.len]
    }
}

impl View for Cqt {
    fn bins(&self) -> usize {
        self.pairs.len()
    }

    fn frames(&self, samples: usize) -> usize {
        centred_frames(samples, self.hop_len)
    }

    fn another(&self) -> Box<dyn View> {
        Box::new(self.clone())
    }

    fn forward_into(&mut self, samples: &[f32], out: &mut [f32]) -> Result<(), DspError> {
        if samples.is_empty() {
            return Err(DspError::Empty);
        }
        let (frames, bins) = (self.frames(samples.len()), self.bins());
        DspError::check_len("features", out.len(), frames * bins)?;
        self.halve(samples);
        for octave in &self.octaves {
            let level = &self.levels[octave.level];
            let width = octave.bins.len();
            let pairs = &self.pairs[octave.bins.clone()];
            for (block, rows) in out.chunks_mut(BLOCK * bins).enumerate() {
                let frames = rows.len() / bins;
                let start = level.front - octave.n_fft / 2 + block * BLOCK * octave.hop_len;
                let products = &mut self.products[..frames * octave.filters.blocks()];
                octave.filters.run(self.arch, &level.padded[start..], octave.hop_len, products);
                let power = &mut self.power[..frames * width];
                octave.filters.power(products, power);
                self.compress.apply(power);
                for (row, power) in rows.chunks_exact_mut(bins).zip(power.chunks_exact(width)) {
                    for ((slot, value), (mean, std)) in row[octave.bins.clone()].iter_mut().zip(power).zip(pairs) {
                        *slot = (value - mean) / std;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
