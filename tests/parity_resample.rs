//! Does `windowed_sinc` give what torchaudio gives?
//!
//! `tests/golden/resample.safetensors` holds noise and what `torchaudio.functional.resample` made of it with its defaults,
//! under names like `16000_to_24000.in` and `.out`; three rates stand for two calls behind each other.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use omar_stages::dsp::resample::{Cascade, Method};
use safetensors::SafeTensors;

/// torchaudio makes its kernels in float32, which puts its own result up to 9e-6 (44.1 to 16 kHz) off its float64 one.
const TOLERANCE: f32 = 1e-5;

fn values(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    tensors.tensor(name).unwrap().data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn windowed_sinc_is_torchaudios_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/resample.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut compared = 0;
    for name in tensors.names().into_iter().filter_map(|name| name.strip_suffix(".in")) {
        let rates: Vec<u32> = name.split("_to_").map(|rate| rate.parse().unwrap()).collect();
        let (from, to) = (rates[0], *rates.last().unwrap());
        let between = (rates.len() == 3).then(|| rates[1]);
        let mut resampler = Cascade::new(from, to, Method::WindowedSinc, between).unwrap();
        let mut ours = Vec::new();
        resampler.push(&values(&tensors, &format!("{name}.in")), &mut ours).unwrap();
        resampler.finish(&mut ours).unwrap();
        let theirs = values(&tensors, &format!("{name}.out"));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < TOLERANCE, "{name}: off by {worst:e}");
        compared += 1;
    }
    assert_eq!(compared, 6);
}
