//! Constant-Q spectrograms: filters that are spaced evenly in pitch, each as long as its pitch needs.
//!
//! The recursive multirate transform of Schörkhuber and Klapuri ("Constant-Q transform toolbox for music processing",
//! SMC 2010) in the form of `librosa.vqt` with `gamma = 0`: from the top octave down, the filters of an octave are
//! applied to the signal at a rate that is halved from octave to octave, as long as the hop can be halved with it.
//!
//! A filter is defined in the frequency domain: of the spectrum of its Hann-windowed exponential only the bins from 0
//! to half the sample rate count, times the spectrum of a frame. Both are linear in the samples, so their product is one
//! complex weight per sample: here those weights are computed once, in f64, and every octave is then a small matrix
//! product. That is exact, needs no Fourier transform, and takes less time than one, for the frames are short.
//!
//! The phases of filters are rounded as the published package rounds them: see `filters::phase`.

mod correlate;
mod filters;
mod halve;

use std::ops::Range;

use pulp::Arch;

use self::correlate::Correlator;
use self::filters::{Designer, OctavePlan};
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

    /// Centre of bin `bin`, hertz; in single precision, as the published package has it.
    pub fn frequency(&self, bin: usize) -> f32 {
        let octaves = bin as f32 / self.bins_per_octave as f32;
        self.f_min as f32 * f64::from(octaves).exp2() as f32
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
    /// The signal at half its rate, at a quarter, ...
    halved: Vec<Vec<f32>>,
    /// Samples at the ends of a signal and the silence around it.
    edge: Vec<f32>,
    /// What the filters say of a block of frames.
    products: Vec<f32>,
    power: Vec<f32>,
}

/// The filters of one octave, ready to run.
#[derive(Clone)]
struct Octave {
    bins: Range<usize>,
    /// How often the signal is halved for them.
    halvings: usize,
    hop_len: usize,
    n_fft: usize,
    filters: Correlator,
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
        let build = |plan: OctavePlan| {
            let weights: Vec<_> = plan.bins.clone().map(|bin| designer.weights(&plan, bin)).collect();
            let OctavePlan { bins, halvings, hop_len, n_fft, .. } = plan;
            Octave { bins, halvings, hop_len, n_fft, filters: Correlator::new(&weights) }
        };
        let octaves: Vec<Octave> = plan.into_iter().map(build).collect();
        let halvings = octaves.last().map_or(0, |octave| octave.halvings);
        let widest = octaves.iter().map(|octave| octave.filters.outputs()).max().unwrap_or(0);
        Ok(Self {
            arch,
            hop_len: config.hop_len,
            compress: config.compress,
            pairs: config.standardize.pairs(config.n_bins)?,
            octaves,
            halver: Halver::new(),
            halved: vec![Vec::new(); halvings],
            edge: Vec::new(),
            products: vec![0.0; BLOCK * widest],
            power: vec![0.0; BLOCK * config.bins_per_octave],
        })
    }

    /// The signal at all the lower rates.
    fn halve(&mut self, samples: &[f32]) {
        for i in 0..self.halved.len() {
            let (above, below) = self.halved.split_at_mut(i);
            let above = above.last().map_or(samples, Vec::as_slice);
            below[0].resize(above.len().div_ceil(2), 0.0);
            self.halver.run(self.arch, above, &mut below[0]);
        }
    }
}

/// `len` samples of a signal from `start` on: where they are if all are there, else in `edge` with silence around.
fn stretch<'a>(signal: &'a [f32], start: isize, len: usize, edge: &'a mut Vec<f32>) -> &'a [f32] {
    if let Some(inside) = usize::try_from(start).ok().and_then(|start| signal.get(start..start + len)) {
        return inside;
    }
    edge.clear();
    edge.resize(len, 0.0);
    let silence = usize::try_from(-start).unwrap_or(0).min(len);
    let rest = usize::try_from(start).ok().map_or(signal, |start| signal.get(start..).unwrap_or(&[]));
    for (slot, sample) in edge[silence..].iter_mut().zip(rest) {
        *slot = *sample;
    }
    edge
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
            let signal = octave.halvings.checked_sub(1).map_or(samples, |i| &self.halved[i]);
            let width = octave.bins.len();
            let pairs = &self.pairs[octave.bins.clone()];
            for (block, rows) in out.chunks_mut(BLOCK * bins).enumerate() {
                let frames = rows.len() / bins;
                let start = (block * BLOCK * octave.hop_len) as isize - (octave.n_fft / 2) as isize;
                let len = (frames - 1) * octave.hop_len + octave.filters.taps();
                let signal = stretch(signal, start, len, &mut self.edge);
                let products = &mut self.products[..frames * octave.filters.outputs()];
                octave.filters.run(self.arch, signal, octave.hop_len, products);
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
