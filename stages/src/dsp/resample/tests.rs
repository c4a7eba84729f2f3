//! Claims about the resampler: lengths, alignment, independence of block sizes, and what its filter lets through.

use std::f64::consts::PI;

use proptest::prelude::*;

use super::*;

fn resample(samples: &[f32], from: u32, to: u32, method: Method) -> Vec<f32> {
    let mut resampler = Resampler::new(from, to, method).expect("it is valid");
    let mut out = Vec::new();
    resampler.push(samples, &mut out).expect("it is valid");
    resampler.finish(&mut out).expect("it is valid");
    out
}

fn sine(hz: f64, rate: u32, len: usize) -> Vec<f32> {
    (0..len).map(|i| (2.0 * PI * hz * i as f64 / f64::from(rate)).sin() as f32).collect()
}

/// Root mean square in dB of the middle half, where the ends don't reach.
fn level_db(samples: &[f32]) -> f64 {
    let middle = &samples[samples.len() / 4..samples.len() * 3 / 4];
    let power = middle.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / middle.len() as f64;
    10.0 * (power * 2.0).log10()
}

const RATES: [(u32, u32); 9] = [
    (44_100, 24_000),
    (48_000, 24_000),
    (16_000, 24_000),
    (22_050, 24_000),
    (96_000, 24_000),
    (8_000, 24_000),
    (24_000, 16_000),
    (44_100, 16_000),
    (11_025, 48_000),
];

#[test]
fn equal_rates_pass_the_samples_through() {
    let samples = sine(440.0, 24_000, 1000);
    assert_eq!(resample(&samples, 24_000, 24_000, Method::Fft), samples);
}

#[test]
fn the_length_is_the_ceiling_of_the_ratio() {
    for method in [Method::Fft, Method::WindowedSinc] {
        for (from, to) in RATES {
            for len in [0, 1, 2, 146, 147, 148, 1000, 44_100, 50_001] {
                let expected = (len as u64 * u64::from(to)).div_ceil(u64::from(from));
                let out = resample(&vec![0.5; len], from, to, method);
                assert_eq!(out.len() as u64, expected, "{len} samples from {from} to {to} Hz, {method:?}");
            }
        }
    }
}

#[test]
fn a_tone_stays_in_its_place() {
    for (from, to) in RATES {
        let hz = 0.3 * f64::from(from.min(to)) / 2.0;
        let len = from as usize;
        let out = resample(&sine(hz, from, len), from, to, Method::Fft);
        let expected = sine(hz, to, out.len());
        let difference: Vec<_> = out.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let error = level_db(&difference);
        assert!(error < -105.0, "{from} to {to} Hz: off by {error:.1} dB");
    }
}

#[test]
fn the_pass_band_is_flat_and_aliases_are_gone() {
    for (from, to) in RATES {
        let nyquist = f64::from(from.min(to)) / 2.0;
        for share in [0.1, 0.5, 0.8, 0.9, 0.95] {
            let level = level_db(&resample(&sine(share * nyquist, from, 2 * from as usize), from, to, Method::Fft));
            assert!(level.abs() < 0.01, "{from} to {to} Hz at {share} of Nyquist: {level:.4} dB");
        }
        for share in [1.0, 1.02, 1.1, 1.3, 1.6] {
            let hz = share * nyquist;
            if from > to && hz < f64::from(from) / 2.0 {
                let level = level_db(&resample(&sine(hz, from, 2 * from as usize), from, to, Method::Fft));
                assert!(level < -120.0, "{from} to {to} Hz at {share} of Nyquist: {level:.1} dB");
            }
        }
    }
}

#[test]
fn an_upsampled_tone_has_no_image() {
    let out = resample(&sine(6_000.0, 16_000, 32_000), 16_000, 24_000, Method::Fft);
    let difference: Vec<_> = out.iter().zip(sine(6_000.0, 24_000, out.len())).map(|(a, b)| a - b).collect();
    assert!(level_db(&difference) < -115.0);
}

#[test]
fn rates_without_a_common_divisor_work() {
    let out = resample(&sine(1_000.0, 44_101, 88_202), 44_101, 24_000, Method::Fft);
    let difference: Vec<_> = out.iter().zip(sine(1_000.0, 24_000, out.len())).map(|(a, b)| a - b).collect();
    assert!(level_db(&difference) < -110.0);
}

#[test]
fn a_finished_resampler_starts_afresh() {
    let samples = sine(440.0, 44_100, 5_000);
    for method in [Method::Fft, Method::WindowedSinc] {
        let mut resampler = Resampler::new(44_100, 24_000, method).expect("it is valid");
        let mut passes = [Vec::new(), Vec::new()];
        for out in &mut passes {
            resampler.push(&samples, out).expect("it is valid");
            resampler.finish(out).expect("it is valid");
        }
        assert_eq!(passes[0], passes[1]);
    }
}

#[test]
fn a_detour_leaves_nothing_above_half_its_rate() {
    let tones = |len: usize| -> Vec<f32> {
        sine(1_000.0, 44_100, len).iter().zip(sine(10_000.0, 44_100, len)).map(|(a, b)| a + b).collect()
    };
    let mut cascade = Cascade::new(44_100, 24_000, Method::Fft, Some(16_000)).expect("it is valid");
    let mut out = Vec::new();
    for block in tones(88_200).chunks(1_777) {
        cascade.push(block, &mut out).expect("it is valid");
    }
    cascade.finish(&mut out).expect("it is valid");
    assert_eq!(out.len() as u64, cascade.output_len(88_200));
    let difference: Vec<_> = out.iter().zip(sine(1_000.0, 24_000, out.len())).map(|(a, b)| a - b).collect();
    assert!(level_db(&difference) < -50.0, "only the lower tone is left: {:.1} dB", level_db(&difference));
}

#[test]
fn a_cascade_is_its_legs_one_after_the_other() {
    let samples = sine(440.0, 44_100, 20_011);
    let at_16k = resample(&samples, 44_100, 16_000, Method::WindowedSinc);
    let expected = resample(&at_16k, 16_000, 24_000, Method::WindowedSinc);
    let mut cascade = Cascade::new(44_100, 24_000, Method::WindowedSinc, Some(16_000)).expect("it is valid");
    for block_len in [100, 7_777, 30_000] {
        let mut out = Vec::new();
        for block in samples.chunks(block_len) {
            cascade.push(block, &mut out).expect("it is valid");
        }
        cascade.finish(&mut out).expect("it is valid");
        assert!(out == expected, "in blocks of {block_len}");
    }
}

#[test]
fn impossible_rates_are_refused() {
    for (from, to) in [(0, 24_000), (24_000, 0), (2_000_000, 24_000)] {
        assert!(matches!(Resampler::new(from, to, Method::Fft), Err(ResampleError::Rate { .. })));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The output is the same bits however the stream is cut.
    #[test]
    fn block_sizes_do_not_matter(
        seed in any::<u32>(),
        cuts in prop::collection::vec(1usize..5000, 1..20),
        pair in 0..RATES.len(),
        windowed in any::<bool>(),
    ) {
        let (from, to) = RATES[pair];
        let method = if windowed { Method::WindowedSinc } else { Method::Fft };
        let mut state = seed;
        let len: usize = cuts.iter().sum();
        let noise: Vec<f32> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state as i32 as f32 / i32::MAX as f32
            })
            .collect();
        let whole = resample(&noise, from, to, method);
        let mut resampler = Resampler::new(from, to, method).expect("it is valid");
        let (mut pieces, mut at) = (Vec::new(), 0);
        for cut in cuts {
            resampler.push(&noise[at..at + cut], &mut pieces).expect("it is valid");
            at += cut;
        }
        resampler.finish(&mut pieces).expect("it is valid");
        prop_assert_eq!(whole.len(), pieces.len());
        prop_assert!(whole.iter().zip(&pieces).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}
