//! Representations and tokens of one 30 s crop at 24 kHz, on one thread: `cargo bench -p omar-stages`.
//!
//! Criterion compares with the run before, so this is the place to see what a change does. Comparisons with other
//! packages are in `benches/peers/`.

#![allow(missing_docs, reason = "criterion's macros make items that nobody reads about")]

use std::hint::black_box;

use candle_core::Device;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omar_stages::dsp::cqt::CqtConfig;
use omar_stages::dsp::mel::MelConfig;
use omar_stages::dsp::moments::Moments;
use omar_stages::dsp::patch::PatchShape;
use omar_stages::dsp::resample::{Method, Resampler};
use omar_stages::dsp::view::{ViewConfig, WaveformConfig};
use omar_stages::quantize::finite_scalar::Bound;
use omar_stages::quantize::{
    FiniteScalar, FiniteScalarConfig, KMeans, KMeansConfig, Quantizer, RandomProjection, RandomProjectionConfig,
};

const SAMPLES: usize = 720_000;
const POSITIONS: usize = 750;

fn noise(len: usize) -> Vec<f32> {
    let mut random = omar_stages::seed::Random::new(1, &[]);
    (0..len).map(|_| random.uniform() as f32 - 0.5).collect()
}

fn views(criterion: &mut Criterion) {
    let samples = noise(SAMPLES);
    let mut group = criterion.benchmark_group("views");
    group.throughput(Throughput::Elements(SAMPLES as u64));
    for config in [
        ViewConfig::Mel(MelConfig::mel_24k()),
        ViewConfig::Cqt(CqtConfig::cqt_24k()),
        ViewConfig::Waveform(WaveformConfig::default()),
    ] {
        let mut view = config.build(&Device::Cpu).expect("a published view");
        let mut out = vec![0.0; view.frames(SAMPLES) * view.bins()];
        group.bench_function(config.name(), |bencher| {
            bencher.iter(|| view.forward_into(black_box(&samples), &mut out).expect("samples"));
        });
    }
    let mel = noise(2251 * 96);
    group.bench_function("moments of mel", |bencher| {
        bencher.iter(|| Moments::new(96).add(black_box(&mel)).expect("frames"));
    });
    let shape = PatchShape::new(3, 96).expect("a shape");
    let mut patches = vec![0.0; POSITIONS * shape.values()];
    group.bench_function("patches of mel", |bencher| {
        bencher.iter(|| shape.cut_into(black_box(&mel), &mut patches).expect("frames"));
    });
    group.finish();
}

fn resampling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resampling");
    for (from, method) in [(44_100u32, Method::Fft), (16_000, Method::Fft), (16_000, Method::WindowedSinc)] {
        let samples = noise(30 * from as usize);
        group.throughput(Throughput::Elements(u64::from(from) * 30));
        group.bench_function(BenchmarkId::new(format!("{method:?}"), from), |bencher| {
            let mut resampler = Resampler::new(from, 24_000, method).expect("rates");
            let mut out = Vec::with_capacity(SAMPLES + 1);
            bencher.iter(|| {
                out.clear();
                resampler.push(black_box(&samples), &mut out).expect("samples");
                resampler.finish(&mut out).expect("an end");
            });
        });
    }
    group.finish();
}

/// Every quantizer over patches of mel (3 frames x 96), constant-Q (3 x 188) and waveform (960).
fn quantizers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("quantizers");
    group.throughput(Throughput::Elements(POSITIONS as u64));
    for (name, input_len) in [("mel", 288), ("cqt", 564), ("waveform", 960)] {
        let patches = noise(POSITIONS * input_len);
        let mut bench = |what: String, quantizer: &mut dyn Quantizer| {
            let mut tokens = vec![0; POSITIONS * quantizer.codebooks()];
            group.bench_function(BenchmarkId::new(what, name), |bencher| {
                bencher.iter(|| quantizer.forward_into(black_box(&patches), &mut tokens).expect("patches"));
            });
        };
        for (codebooks, codebook_size) in [(1, 8192), (4, 8192), (16, 8192), (16, 2048)] {
            let config = RandomProjectionConfig { input_len, codebooks, codebook_size, codebook_dim: 16 };
            let mut quantizer = RandomProjection::seeded(config, 0).expect("sizes");
            bench(format!("random projection {codebooks} x {codebook_size}"), &mut quantizer);
        }
        let config = FiniteScalarConfig { input_len, levels: vec![6; 5], bound: Bound::Symmetric };
        bench("finite scalar 6^5".to_owned(), &mut FiniteScalar::seeded(config, 0).expect("sizes"));
        let config = KMeansConfig { input_len, codebooks: 1, codebook_size: 1024 };
        bench("k-means 1024".to_owned(), &mut KMeans::new(config, &[noise(1024 * input_len)]).expect("sizes"));
    }
    group.finish();
}

criterion_group!(benches, views, resampling, quantizers);
criterion_main!(benches);
