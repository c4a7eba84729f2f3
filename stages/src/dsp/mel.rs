//! Mel spectrograms: STFT, power, a bank of triangular filters, logarithm, standardisation.
//!
//! The filters are narrow (at 96 bands over 257 bins, two in three cover fewer than six bins), so the bank is kept as
//! bands, not as a matrix, and is applied to sixteen frames at a time.

use pulp::Arch;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::DspError;
use super::block_spectrum::{BlockSpectrum, LANES};
use super::compress::{LogCompress, Standardize};
use super::stft::{Padding, Stft, StftConfig, centred_frames, padded};
use super::view::View;
use super::window::Window;

/// How frequency maps to mel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MelScale {
    /// Linear to 1 kHz, logarithmic above (Slaney, Auditory Toolbox, 1998). Used by the published models.
    Slaney,
    /// `2595 log10(1 + f / 700)` (the HTK book, section 5.4).
    Htk,
}

/// How the triangles are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MelNorm {
    /// Every triangle has the same area: divided by half its width in hertz. Used by the published models.
    Slaney,
    /// Every triangle peaks at 1.
    Peak,
}

/// Parameters of a mel spectrogram.
#[derive(Debug, Clone, PartialEq)]
pub struct MelConfig {
    /// Samples per second of the signal.
    pub sample_rate: u32,
    /// Length of the transform, samples.
    pub n_fft: usize,
    /// Length of the periodic Hann window, samples.
    pub win_len: usize,
    /// Distance between frames, samples.
    pub hop_len: usize,
    /// Number of bands.
    pub n_mels: usize,
    /// Lower edge of the lowest band, hertz.
    pub f_min: f64,
    /// Upper edge of the highest band, hertz; at most half the sample rate.
    pub f_max: f64,
    /// How frequency maps to mel.
    pub scale: MelScale,
    /// How the triangles are scaled.
    pub norm: MelNorm,
    /// Logarithmic compression of the band powers.
    pub compress: LogCompress,
    /// Standardisation of the compressed powers.
    pub standardize: Standardize,
}

impl MelConfig {
    /// The 16 kHz mel of the published `base` and `multicodebook` models: window 512, hop 256 (62.5 Hz), 96 bands.
    pub fn mel_16k() -> Self {
        Self {
            sample_rate: 16_000,
            n_fft: 512,
            win_len: 512,
            hop_len: 256,
            n_mels: 96,
            f_min: 0.0,
            f_max: 8_000.0,
            scale: MelScale::Slaney,
            norm: MelNorm::Slaney,
            compress: LogCompress::default(),
            standardize: Standardize::Global { mean: 2.067_556_860_985_54, std: 1.268_292_820_667_291 },
        }
    }

    /// The 24 kHz mel of the published `multifeature` models: window 512, hop 320 (75 Hz), 96 bands.
    pub fn mel_24k() -> Self {
        Self {
            sample_rate: 24_000,
            hop_len: 320,
            f_max: 12_000.0,
            standardize: Standardize::Global { mean: 1.860_820_794_608_335, std: 1.224_954_751_458_628_8 },
            ..Self::mel_16k()
        }
    }

    /// Refuses parameters that no mel spectrogram has. Cheap: builds nothing but the pairs of the standardisation.
    ///
    /// # Errors
    /// [`DspError::Param`] naming the first parameter outside its range.
    pub fn check(&self) -> Result<(), DspError> {
        let nyquist = f64::from(self.sample_rate) / 2.0;
        if self.sample_rate == 0 {
            return Err(DspError::param("sample_rate", 0, "1 Hz or more"));
        }
        self.stft().check()?;
        let bins = self.n_fft / 2 + 1;
        if !(1..=bins).contains(&self.n_mels) {
            return Err(DspError::param("n_mels", self.n_mels, format!("1 to {bins}, the bins of the transform")));
        }
        if !(self.f_max > 0.0 && self.f_max <= nyquist) {
            let expected = format!("above 0 and at most half the sample rate, {nyquist} Hz");
            return Err(DspError::param("f_max", self.f_max, expected));
        }
        if !(self.f_min >= 0.0 && self.f_min < self.f_max) {
            return Err(DspError::param("f_min", self.f_min, format!("0 to below `f_max` = {} Hz", self.f_max)));
        }
        if !(self.compress.gain > 0.0 && self.compress.gain.is_finite()) {
            return Err(DspError::param("gain", self.compress.gain, "a finite number above 0"));
        }
        self.standardize.pairs(self.n_mels).map(drop)
    }

    /// Every parameter but the standardisation, by name, as text.
    pub fn parameters(&self) -> Vec<(&'static str, String)> {
        vec![
            ("n_fft", self.n_fft.to_string()),
            ("win_len", self.win_len.to_string()),
            ("hop_len", self.hop_len.to_string()),
            ("n_mels", self.n_mels.to_string()),
            ("f_min", self.f_min.to_string()),
            ("f_max", self.f_max.to_string()),
            ("scale", format!("{:?}", self.scale).to_lowercase()),
            ("norm", format!("{:?}", self.norm).to_lowercase()),
            ("gain", self.compress.gain.to_string()),
        ]
    }

    fn stft(&self) -> StftConfig {
        StftConfig {
            n_fft: self.n_fft,
            win_len: self.win_len,
            hop_len: self.hop_len,
            window: Window::Hann,
            padding: Padding::Reflect,
        }
    }
}

/// One triangular filter: its weights from bin `first` on; zero elsewhere.
#[derive(Debug, Clone, PartialEq)]
struct Band {
    first: usize,
    weights: Vec<f32>,
}

/// Triangular filters over the `n_fft / 2 + 1` bins of a spectrum, designed in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct MelFilterbank {
    bins: usize,
    bands: Vec<Band>,
}

impl MelFilterbank {
    /// Designs the filters of `config`: band `m` rises from mel point `m` to `m + 1` and falls to `m + 2`, over
    /// `n_mels + 2` points equally spaced in mel from `f_min` to `f_max`.
    ///
    /// # Errors
    /// [`DspError::Param`] as in [`MelConfig::check`].
    pub fn new(config: &MelConfig) -> Result<Self, DspError> {
        config.check()?;
        let bins = config.n_fft / 2 + 1;
        let (low, high) = (config.scale.to_mel(config.f_min), config.scale.to_mel(config.f_max));
        let step = (high - low) / (config.n_mels + 1) as f64;
        let point = |m: usize| config.scale.to_hz(low + step * m as f64);
        let hz = |bin: usize| bin as f64 * f64::from(config.sample_rate) / config.n_fft as f64;
        let band = |m: usize| {
            let (left, peak, right) = (point(m), point(m + 1), point(m + 2));
            let scale = match config.norm {
                MelNorm::Slaney => 2.0 / (right - left),
                MelNorm::Peak => 1.0,
            };
            let weight = |bin| scale * ((hz(bin) - left) / (peak - left)).min((right - hz(bin)) / (right - peak));
            let first = (0..bins).find(|&bin| hz(bin) > left).unwrap_or(bins);
            let weights = (first..bins).take_while(|&bin| hz(bin) < right).map(|bin| weight(bin) as f32).collect();
            Band { first, weights }
        };
        Ok(Self { bins, bands: (0..config.n_mels).map(band).collect() })
    }

    /// Bands that cover no bin and so are always silent: more bands were asked for than `n_fft` resolves.
    pub fn empty_bands(&self) -> usize {
        self.bands.iter().filter(|band| band.weights.is_empty()).count()
    }

    /// The filters as a dense `(n_mels, bins)` matrix, for pictures and tests.
    pub fn dense(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.bands.len() * self.bins];
        for (row, band) in out.chunks_exact_mut(self.bins).zip(&self.bands) {
            row[band.first..band.first + band.weights.len()].copy_from_slice(&band.weights);
        }
        out
    }
}

impl MelScale {
    /// Slaney's scale: 3 mel per 200 Hz up to 1 kHz, then 27 mel per factor of 6.4.
    const SLANEY_HZ_PER_MEL: f64 = 200.0 / 3.0;
    const SLANEY_BREAK_HZ: f64 = 1_000.0;

    /// Mel of a frequency in hertz.
    pub fn to_mel(self, hz: f64) -> f64 {
        match self {
            Self::Slaney if hz < Self::SLANEY_BREAK_HZ => hz / Self::SLANEY_HZ_PER_MEL,
            Self::Slaney => {
                Self::SLANEY_BREAK_HZ / Self::SLANEY_HZ_PER_MEL
                    + (hz / Self::SLANEY_BREAK_HZ).ln() * 27.0 / 6.4_f64.ln()
            }
            Self::Htk => 2595.0 * (1.0 + hz / 700.0).log10(),
        }
    }

    /// Frequency in hertz of a mel.
    pub fn to_hz(self, mel: f64) -> f64 {
        let break_mel = Self::SLANEY_BREAK_HZ / Self::SLANEY_HZ_PER_MEL;
        match self {
            Self::Slaney if mel < break_mel => mel * Self::SLANEY_HZ_PER_MEL,
            Self::Slaney => Self::SLANEY_BREAK_HZ * ((mel - break_mel) * 6.4_f64.ln() / 27.0).exp(),
            Self::Htk => 700.0 * (10f64.powf(mel / 2595.0) - 1.0),
        }
    }
}

/// Where powers come from: a block of frames at a time if the transform's length is a power of two.
#[derive(Clone)]
enum Spectra {
    Block(BlockSpectrum),
    Single(Stft),
}

impl Spectra {
    fn new(config: StftConfig) -> Result<Self, DspError> {
        if BlockSpectrum::serves(config.n_fft) {
            config.check()?;
            let window = config.window.centred(config.win_len, config.n_fft);
            return Ok(Self::Block(BlockSpectrum::new(Arch::new(), window)));
        }
        Stft::new(config).map(Self::Single)
    }

    /// Powers of `lanes` frames from `first` on; other lanes get whatever.
    fn power(&mut self, samples: &[f32], hop_len: usize, first: usize, lanes: usize, power: &mut [[f32; LANES]]) {
        match self {
            Self::Block(block) => {
                let n_fft = 2 * (power.len() - 1);
                let start = |lane: usize| ((first + lane) * hop_len) as isize - (n_fft / 2) as isize;
                let inside = usize::try_from(start(0)).ok().and_then(|start| samples.get(start..));
                match inside {
                    Some(samples) if samples.len() >= (LANES - 1) * hop_len + n_fft => {
                        block.set_all(samples, hop_len);
                    }
                    _ => {
                        for lane in 0..lanes {
                            let sample = |n| padded(samples, start(lane) + n as isize, Padding::Reflect);
                            block.set(lane, (0..n_fft).map(sample));
                        }
                    }
                }
                block.power(power);
            }
            Self::Single(stft) => {
                for lane in 0..lanes {
                    for (slot, value) in power.iter_mut().zip(stft.frame(samples, first + lane)) {
                        slot[lane] = value.norm_sqr();
                    }
                }
            }
        }
    }
}

/// A planned mel spectrogram.
#[derive(Clone)]
pub struct MelSpectrogram {
    spectra: Spectra,
    bank: MelFilterbank,
    hop_len: usize,
    compress: LogCompress,
    pairs: Vec<(f32, f32)>,
    /// Power of up to `LANES` frames, `(bins, LANES)`.
    power: Vec<[f32; LANES]>,
}

impl MelSpectrogram {
    /// Plans the transform and designs the filters.
    ///
    /// # Errors
    /// [`DspError::Param`] as in [`MelConfig::check`].
    pub fn new(config: &MelConfig) -> Result<Self, DspError> {
        let bank = MelFilterbank::new(config)?;
        Ok(Self {
            spectra: Spectra::new(config.stft())?,
            hop_len: config.hop_len,
            compress: config.compress,
            pairs: config.standardize.pairs(config.n_mels)?,
            power: vec![[0.0; LANES]; bank.bins],
            bank,
        })
    }
}

impl View for MelSpectrogram {
    fn bins(&self) -> usize {
        self.bank.bands.len()
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
        for (block, rows) in out.chunks_mut(LANES * bins).enumerate() {
            let lanes = rows.len() / bins;
            self.spectra.power(samples, self.hop_len, block * LANES, lanes, &mut self.power);
            // Lanes beyond `lanes` hold something or other: computed with the rest, written nowhere.
            for (m, (band, &(mean, std))) in self.bank.bands.iter().zip(&self.pairs).enumerate() {
                let mut sum = [0.0f32; LANES];
                for (weight, power) in band.weights.iter().zip(&self.power[band.first..]) {
                    for lane in 0..LANES {
                        sum[lane] += weight * power[lane];
                    }
                }
                self.compress.apply(&mut sum);
                for value in &mut sum {
                    *value = (*value - mean) / std;
                }
                for (lane, value) in sum.iter().take(lanes).enumerate() {
                    rows[lane * bins + m] = *value;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f64, sample_rate: u32, len: usize) -> Vec<f32> {
        let step = std::f64::consts::TAU * hz / f64::from(sample_rate);
        (0..len).map(|i| (0.5 * (step * i as f64).sin()) as f32).collect()
    }

    #[test]
    fn both_scales_go_there_and_back() {
        for scale in [MelScale::Slaney, MelScale::Htk] {
            for hz in [0.0, 20.0, 440.0, 1_000.0, 5_000.0, 12_000.0] {
                assert!((scale.to_hz(scale.to_mel(hz)) - hz).abs() < 1e-9 * hz.max(1.0));
            }
        }
        assert!((MelScale::Slaney.to_mel(1_000.0) - 15.0).abs() < 1e-12);
        assert!((MelScale::Slaney.to_mel(6_400.0) - 42.0).abs() < 1e-12);
    }

    #[test]
    fn area_normalised_triangles_all_have_unit_area_where_bins_are_dense() {
        let config = MelConfig { n_fft: 16_384, win_len: 512, n_mels: 40, ..MelConfig::mel_24k() };
        let bank = MelFilterbank::new(&config).unwrap();
        let bin_hz = 24_000.0 / 16_384.0;
        for band in &bank.bands {
            let area: f32 = band.weights.iter().sum::<f32>() * bin_hz as f32;
            assert!((area - 1.0).abs() < 0.01, "{area}");
        }
        assert_eq!(bank.empty_bands(), 0);
    }

    #[test]
    fn too_many_bands_are_counted_as_empty() {
        let config = MelConfig { n_fft: 64, win_len: 64, hop_len: 32, n_mels: 33, ..MelConfig::mel_16k() };
        assert!(MelFilterbank::new(&config).unwrap().empty_bands() > 0);
    }

    #[test]
    fn silence_is_the_standardised_zero() {
        let mut mel = MelSpectrogram::new(&MelConfig::mel_24k()).unwrap();
        let out = mel.forward(&vec![0.0; 24_000]).unwrap();
        assert_eq!(out.len(), 76 * 96);
        let floor = (0.0f32 - 1.860_820_8) / 1.224_954_8;
        assert!(out.iter().all(|&value| (value - floor).abs() < 1e-6));
    }

    #[test]
    fn a_tone_is_loudest_in_its_own_band() {
        let config = MelConfig::mel_24k();
        let mut mel = MelSpectrogram::new(&config).unwrap();
        for hz in [220.0, 1_000.0, 4_000.0, 9_000.0] {
            let out = mel.forward(&tone(hz, 24_000, 12_000)).unwrap();
            let frame = &out[20 * 96..21 * 96];
            let loudest = (0..96).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
            let step = config.scale.to_mel(12_000.0) / 97.0;
            let centre = config.scale.to_hz(step * (loudest + 1) as f64);
            assert!((centre - hz).abs() < 50.0 + 0.04 * hz, "{hz} Hz peaks at {centre} Hz");
        }
    }

    #[test]
    fn frames_away_from_the_ends_do_not_depend_on_where_the_signal_was_cut() {
        let samples = tone(523.3, 24_000, 24_000);
        let mut mel = MelSpectrogram::new(&MelConfig::mel_24k()).unwrap();
        let whole = mel.forward(&samples).unwrap();
        // 7 hops in, so the frames fall into other lanes; two frames reach over the cut.
        let part = mel.forward(&samples[7 * 320..]).unwrap();
        assert_eq!(whole[9 * 96..60 * 96], part[2 * 96..53 * 96]);
    }

    #[test]
    fn a_band_edge_above_half_the_sample_rate_is_refused() {
        let config = MelConfig { f_max: 9_000.0, ..MelConfig::mel_16k() };
        assert_eq!(
            config.check().unwrap_err().to_string(),
            "`f_max` is 9000, expected above 0 and at most half the sample rate, 8000 Hz"
        );
    }
}
