//! Claims about crops, on tracks whose samples count upwards, so that every sample says where it was.

use omar_schemas::{AudioSpec, column, fixed_values};

use super::*;
use crate::collect::{Collect, audio, run, start};

/// 10 Hz: samples are tenths of a second.
const RATE: u32 = 10;

fn bind_at(rate: Option<u32>, params: &str) -> Result<Crop, BindError> {
    let schema = Audio::schema(&AudioSpec { sample_rate: rate });
    let params = serde_json::from_str(params).expect("the parameters are well-formed");
    Crop::bind(params, &Inputs::new(vec![("in", &schema)]))
}

fn crop_in(params: &str, len: usize, seed: u64, block_len: usize) -> Collect {
    let stage = bind_at(Some(RATE), params).expect("it binds");
    let samples: Vec<f32> = (0..len).map(|i| i as f32 + 1.0).collect();
    run(&mut *start(&stage, seed), &audio("track", &samples, RATE, block_len))
}

/// Start and length of the audio of each crop in samples; checks that they hold what they say.
fn crops(out: &Collect) -> Vec<(u64, u64)> {
    let crop = |(ix, batch): (usize, &RecordBatch)| {
        let value = |name: &str| column::<Float64Array>(batch, name).expect("a column").value(0) * f64::from(RATE);
        let (start, len) = (value("start_s").round() as u64, value("audio_s").round() as u64);
        assert_eq!(column::<UInt32Array>(batch, "crop_ix").expect("a column").value(0), ix as u32);
        for (i, &sample) in fixed_values::<Float32Type>(batch, "samples", 0).expect("a column").iter().enumerate() {
            let i = i as u64;
            assert_eq!(sample, if i < len { (start + i) as f32 + 1.0 } else { 0.0 });
        }
        (start, len)
    };
    out.batches.iter().enumerate().map(crop).collect()
}

fn places(params: &str, len: usize) -> Vec<(u64, u64)> {
    crops(&crop_in(params, len, 0, 7))
}

#[test]
fn a_grid_covers_the_track_and_pads_its_end() {
    assert_eq!(places(r#"{"duration": "4s"}"#, 100), [(0, 40), (40, 40), (80, 20)]);
    assert_eq!(places(r#"{"duration": "4s"}"#, 80), [(0, 40), (40, 40)]);
    assert_eq!(places(r#"{"duration": "4s"}"#, 85), [(0, 40), (40, 40)], "half a second is less than `min_duration`");
    assert_eq!(places(r#"{"duration": "4s", "min_duration": "500ms"}"#, 85), [(0, 40), (40, 40), (80, 5)]);
    assert_eq!(places(r#"{"duration": "4s", "pad": "drop"}"#, 100), [(0, 40), (40, 40)]);
}

#[test]
fn windows_may_overlap_or_leave_gaps() {
    assert_eq!(places(r#"{"duration": "4s", "hop": "2s"}"#, 100), [(0, 40), (20, 40), (40, 40), (60, 40)]);
    let reaching_past = [(0, 40), (20, 40), (40, 40), (60, 40), (80, 30)];
    assert_eq!(places(r#"{"duration": "4s", "hop": "2s"}"#, 110), reaching_past);
    assert_eq!(places(r#"{"duration": "2s", "hop": "5s"}"#, 120), [(0, 20), (50, 20), (100, 20)]);
    assert_eq!(places(r#"{"duration": "2s", "hop": "5s"}"#, 90), [(0, 20), (50, 20)], "the end lies in a gap");
}

#[test]
fn the_size_of_blocks_does_not_change_the_crops() {
    for params in [
        r#"{"duration": "4s"}"#,
        r#"{"duration": "4s", "hop": "700ms"}"#,
        r#"{"duration": "2s", "hop": "9s"}"#,
        r#"{"duration": "4s", "policy": "seeded", "per_track": 3}"#,
    ] {
        let whole = crop_in(params, 1000, 5, 1000);
        for block_len in [1, 3, 40, 41, 333] {
            assert_eq!(crops(&crop_in(params, 1000, 5, block_len)), crops(&whole), "{params}, blocks of {block_len}");
        }
    }
}

#[test]
fn seeded_crops_depend_on_the_seed_and_fill_the_track() {
    let params = r#"{"duration": "4s", "policy": "seeded", "per_track": 3}"#;
    let of_seed = |seed| crops(&crop_in(params, 1000, seed, 100));
    assert_eq!(of_seed(1), of_seed(1));
    assert_ne!(of_seed(1), of_seed(2));
    let mut halves = [0, 0];
    for seed in 0..200 {
        let crops = of_seed(seed);
        assert_eq!(crops.len(), 3);
        assert!(crops.is_sorted(), "in the order of the track");
        for (start, len) in crops {
            assert!(len == 40 && start + len <= 1000);
            halves[usize::from(start >= 480)] += 1;
        }
    }
    // 600 places, half of them expected in either half: five standard deviations are 61.
    assert!(halves[0] > 239 && halves[1] > 239, "{halves:?}");
}

#[test]
fn seeded_crops_make_do_with_short_tracks() {
    let params = r#"{"duration": "4s", "policy": "seeded", "per_track": 3}"#;
    for seed in 0..20 {
        let exact = crops(&crop_in(params, 40, seed, 7));
        assert_eq!(exact, [(0, 40)]);
        for (start, len) in crops(&crop_in(params, 43, seed, 7)) {
            assert!(len == 40 && start <= 3);
        }
        assert_eq!(crops(&crop_in(params, 25, seed, 7)), [(0, 25)]);
    }
}

#[test]
fn a_track_that_gives_no_crop_is_rejected() {
    for (params, len) in [
        (r#"{"duration": "4s"}"#, 9),
        (r#"{"duration": "4s", "pad": "drop"}"#, 39),
        (r#"{"duration": "4s", "policy": "seeded"}"#, 9),
    ] {
        let out = crop_in(params, len, 0, 7);
        assert!(out.batches.is_empty());
        assert_eq!(out.rejections[0].class, "too_short", "{params}");
    }
}

#[test]
fn an_operator_forgets_the_track_before() {
    let stage = bind_at(Some(RATE), r#"{"duration": "4s"}"#).expect("it binds");
    let mut operator = start(&stage, 0);
    let samples: Vec<f32> = (0..100).map(|i| i as f32 + 1.0).collect();
    let mut track = || crops(&run(&mut *operator, &audio("track", &samples, RATE, 30)));
    assert_eq!(track(), track());
}

#[test]
fn parameters_that_do_not_fit_are_refused_with_a_hint() {
    let refusal = |rate, params: &str| {
        let error = bind_at(rate, params).expect_err("it does not bind");
        format!("{} [{}]", error.message, error.hint.unwrap_or_default())
    };
    assert!(refusal(None, "{}").contains("`resample`"));
    assert!(refusal(Some(RATE), r#"{"duration": "123ms"}"#).contains("`0.1s` is the nearest"));
    assert!(refusal(Some(RATE), r#"{"duration": "0s"}"#).contains("no time"));
    assert!(refusal(Some(RATE), r#"{"hop": "0s"}"#).contains("no time"));
    assert!(refusal(Some(RATE), r#"{"per_track": 2}"#).contains("seeded"));
    assert!(refusal(Some(RATE), r#"{"policy": "seeded", "per_track": 0}"#).contains("1 or more"));
    assert!(refusal(Some(RATE), r#"{"min_duration": "31s"}"#).contains("no crop"));
    assert!(refusal(Some(RATE), r#"{"pad": "drop", "min_duration": "2s"}"#).contains("`pad: zero`"));
    assert!(refusal(Some(48_000), r#"{"duration": "10h"}"#).contains("at most"));
}
