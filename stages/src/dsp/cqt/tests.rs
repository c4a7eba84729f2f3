use std::f64::consts::{PI, TAU};

use super::*;

fn tone(hz: f64, sample_rate: u32, len: usize) -> Vec<f32> {
    let step = TAU * hz / f64::from(sample_rate);
    (0..len).map(|i| (0.5 * (step * i as f64).sin()) as f32).collect()
}

fn noise(len: usize) -> Vec<f32> {
    let mut random = crate::seed::Random::new(3, &[]);
    (0..len).map(|_| random.uniform() as f32 - 0.5).collect()
}

/// Three octaves and a bit, of which the hop of 12 lets two be halved.
fn small() -> CqtConfig {
    CqtConfig {
        sample_rate: 2_000,
        hop_len: 12,
        n_bins: 40,
        bins_per_octave: 12,
        f_min: 55.0,
        compress: LogCompress { gain: 1.0 },
        standardize: Standardize::NONE,
    }
}

/// The transform as it is defined, step by step in f64: filters in the frequency domain, times short-time spectra, of
/// a signal that is halved and divided by sqrt(1/2) from octave to octave.
fn by_definition(config: &CqtConfig, samples: &[f32]) -> Vec<f64> {
    let frames = centred_frames(samples.len(), config.hop_len);
    let mut out = vec![0.0; frames * config.n_bins];
    let mut signal: Vec<f64> = samples.iter().map(|&x| f64::from(x)).collect();
    let (mut rate, mut hop) = (f64::from(config.sample_rate), config.hop_len);
    let r = (2.0 / config.bins_per_octave as f64).exp2();
    let q = (r + 1.0) / (r - 1.0);
    let octaves = config.n_bins.div_ceil(config.bins_per_octave);
    for octave in (0..octaves).rev() {
        if octave + 1 < octaves && hop % 2 == 0 {
            signal = halved(&signal);
            (rate, hop) = (rate / 2.0, hop / 2);
        }
        let lowest = octave * config.bins_per_octave;
        let n_fft = (q * rate / f64::from(config.frequency(lowest))).ceil().log2().ceil().exp2() as usize;
        for bin in lowest..config.n_bins.min(lowest + config.bins_per_octave) {
            let hz = config.frequency(bin);
            let length = q * rate / f64::from(hz);
            let (first, end) = ((-length / 2.0).floor() as i64, (length / 2.0).floor() as i64);
            let size = (end - first) as usize;
            let hann = |i: usize| 0.5 - 0.5 * (TAU * i as f64 / size as f64).cos();
            let norm: f64 = (0..size).map(hann).sum();
            let scale = length / n_fft as f64 / norm * (f64::from(config.sample_rate) / rate).sqrt();
            let phase = |i: usize| f64::from(filters::phase((first + i as i64) as f32, hz, rate as f32));
            let filter = |i: usize| (hann(i) * scale, phase(i));
            let start = (n_fft - size) / 2;
            let turn = |k: usize, n: usize| TAU * (k * n % n_fft) as f64 / n_fft as f64;
            let basis: Vec<(f64, f64)> = (0..=n_fft / 2)
                .map(|k| {
                    (0..size).fold((0.0, 0.0), |(re, im), i| {
                        let (weight, phase) = filter(i);
                        let phase = phase - turn(k, start + i);
                        (re + weight * phase.cos(), im + weight * phase.sin())
                    })
                })
                .collect();
            for frame in (0..frames).step_by(7) {
                let at =
                    |n: usize| (frame * hop + n).checked_sub(n_fft / 2).and_then(|i| signal.get(i)).unwrap_or(&0.0);
                let (mut re, mut im) = (0.0, 0.0);
                for (k, (a, b)) in basis.iter().enumerate() {
                    let (c, d) = (0..n_fft)
                        .fold((0.0, 0.0), |(c, d), n| (c + at(n) * turn(k, n).cos(), d - at(n) * turn(k, n).sin()));
                    (re, im) = (re + a * c - b * d, im + a * d + b * c);
                }
                out[frame * config.n_bins + bin] = (1.0 + re * re + im * im).log10();
            }
        }
    }
    out
}

fn halved(signal: &[f64]) -> Vec<f64> {
    let tap = |k: i64| {
        let t = k as f64 * 0.495;
        let sinc = if k == 0 { 1.0 } else { (PI * t).sin() / (PI * t) };
        0.495 * sinc * (PI * t / 12.0).cos().powi(2) / 0.5f64.sqrt()
    };
    let at = |i: i64| usize::try_from(i).ok().and_then(|i| signal.get(i)).unwrap_or(&0.0);
    (0..signal.len().div_ceil(2)).map(|i| (-12..=12).map(|k| tap(k) * at(2 * i as i64 + k)).sum()).collect()
}

#[test]
fn it_is_what_the_definition_says() {
    let config = small();
    let samples: Vec<f32> = noise(601).iter().zip(tone(220.0, 2_000, 601)).map(|(x, y)| 0.2 * x + y + 0.1).collect();
    let ours = Cqt::new(&config).unwrap().forward(&samples).unwrap();
    let exact = by_definition(&config, &samples);
    for (row, (ours, exact)) in ours.chunks(40).zip(exact.chunks(40)).enumerate().step_by(7) {
        for (bin, (a, b)) in ours.iter().zip(exact).enumerate() {
            assert!((f64::from(*a) - b).abs() < 5e-6, "frame {row} bin {bin}: {a}, by definition {b}");
        }
    }
}

#[test]
fn octaves_share_a_rate_once_the_hop_is_odd() {
    let octaves = |config: &CqtConfig| {
        let plan = filters::plan(config).unwrap();
        plan.into_iter().map(|o| (o.bins.len(), o.sample_rate, o.hop_len, o.n_fft)).collect::<Vec<_>>()
    };
    let high = octaves(&CqtConfig::cqt_24k());
    assert_eq!(high[0], (20, 24_000.0, 320, 256));
    assert_eq!(high[1], (24, 12_000.0, 160, 256));
    assert_eq!(high[6..], [(24, 375.0, 5, 256), (24, 375.0, 5, 512)]);
    let low = octaves(&CqtConfig::cqt_16k());
    assert_eq!((low.len(), low[0], low[5]), (6, (24, 16_000.0, 256, 1024), (24, 500.0, 8, 1024)));
}

#[test]
fn a_tone_is_loudest_in_its_own_bin() {
    for config in [CqtConfig::cqt_16k(), CqtConfig::cqt_24k()] {
        let mut cqt = Cqt::new(&config).unwrap();
        for bin in [0, 23, 24, 71, 100, config.n_bins - 1] {
            let samples = tone(f64::from(config.frequency(bin)), config.sample_rate, 3 * config.sample_rate as usize);
            let out = cqt.forward(&samples).unwrap();
            let middle = cqt.frames(samples.len()) / 2;
            let frame = &out[middle * config.n_bins..][..config.n_bins];
            let loudest = (0..config.n_bins).max_by(|&a, &b| frame[a].total_cmp(&frame[b])).unwrap();
            assert_eq!(loudest, bin);
        }
    }
}

#[test]
fn the_vector_unit_makes_no_difference() {
    let samples = noise(3_001);
    for config in [small(), CqtConfig::cqt_24k(), CqtConfig { bins_per_octave: 9, n_bins: 33, ..small() }] {
        let [a, b] = [Arch::new(), Arch::Scalar].map(|arch| Cqt::on(arch, &config).unwrap().forward(&samples).unwrap());
        assert!(a == b);
    }
}

#[test]
fn earlier_signals_make_no_difference() {
    let samples = noise(30_000);
    let mut used = Cqt::new(&CqtConfig::cqt_24k()).unwrap();
    used.forward(&vec![f32::NAN; 40_000]).unwrap();
    for len in [30_000, 1, 29_999, 321, 30_000] {
        let fresh = Cqt::new(&CqtConfig::cqt_24k()).unwrap().forward(&samples[..len]).unwrap();
        assert!(used.forward(&samples[..len]).unwrap() == fresh, "{len}");
    }
}

#[test]
fn any_signal_gives_frames_and_silence_gives_the_standardised_zero() {
    for config in [CqtConfig::cqt_16k(), CqtConfig::cqt_24k(), small()] {
        let mut cqt = Cqt::new(&config).unwrap();
        let (mean, std) = config.standardize.pairs(1).unwrap()[0];
        for len in [1, 2, 3, 127, 319, 320, 1_025, 5_000] {
            let silence = cqt.forward(&vec![0.0; len]).unwrap();
            assert!(silence.iter().all(|&value| value == (0.0 - mean) / std));
            assert!(cqt.forward(&vec![1.0; len]).unwrap().iter().all(|value| value.is_finite()));
            assert!(cqt.forward(&vec![f32::NAN; len]).unwrap().iter().any(|value| value.is_nan()));
            cqt.forward(&vec![f32::INFINITY; len]).unwrap();
        }
        assert_eq!(cqt.forward(&[]), Err(DspError::Empty));
    }
}

#[test]
fn parameters_out_of_range_are_named() {
    let refused = |change: fn(&mut CqtConfig)| {
        let mut config = CqtConfig::cqt_24k();
        change(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert_eq!(Cqt::new(&config).err().unwrap().to_string(), error);
        error
    };
    for (change, starts) in [
        ((|c| c.sample_rate = 0) as fn(&mut CqtConfig), "`sample_rate` is 0, expected 1 Hz or more"),
        (|c| c.hop_len = 0, "`hop_len` is 0, expected 1 sample or more"),
        (|c| c.bins_per_octave = 0, "`bins_per_octave` is 0, expected 1 to 96"),
        (|c| c.n_bins = 0, "`n_bins` is 0, expected 1 to 480"),
        (|c| c.n_bins = 481, "`n_bins` is 481, expected 1 to 480"),
        (
            |c| c.n_bins = 205,
            "`n_bins` is 205, expected so many that the filter at 11840 Hz reaches no higher than 12000 Hz",
        ),
        (|c| c.f_min = 0.0, "`f_min` is 0, expected 0.001 Hz or more"),
        (|c| c.f_min = f64::NAN, "`f_min` is NaN, expected 0.001 Hz or more"),
        (|c| (c.f_min, c.n_bins) = (13_000.0, 1), "`f_min` is 13000, expected a filter that stays below 12000 Hz"),
        (
            |c| (c.f_min, c.hop_len) = (1e-3, 1 << 20),
            "`f_min` is 0.001, expected a frequency whose filters are shorter",
        ),
        (
            |c| (c.f_min, c.hop_len, c.n_bins) = (8.0, 441, 200),
            "`hop_len` is 441, expected a hop that can be halved more",
        ),
        (|c| c.compress.gain = f32::INFINITY, "`gain` is inf, expected a finite number above 0"),
        (|c| c.standardize = Standardize::Global { mean: 0.0, std: 0.0 }, "`std` is 0, expected"),
        (|c| c.standardize = Standardize::PerBin { mean: vec![0.0; 9], std: vec![1.0; 188] }, "`mean` is a list of 9"),
    ] {
        let message = refused(change);
        assert!(message.starts_with(starts), "{message}");
    }
}

#[test]
fn an_octave_may_not_reach_over_half_of_its_own_rate() {
    // One bin in the top octave: the next octave, at half the rate, would hold a filter just below that bin.
    let config = CqtConfig { n_bins: 193, f_min: 40.0, ..CqtConfig::cqt_24k() };
    let message = config.check().unwrap_err().to_string();
    assert!(message.contains("reaches no higher than 6000 Hz"), "{message}");
}
