use omar_schemas::{TrackId, ViewSpec, fixed_tensor};

use super::*;
use crate::collect::Collect;
use crate::registry::{ParamsError, Registry};

fn spec() -> FeaturesSpec {
    let views = vec![ViewSpec::new("mel", 2, 5, 20), ViewSpec::new("waveform", 1, 80, 1)];
    FeaturesSpec { sample_rate: 40, crop_samples: 80, views }
}

/// A crop with `audio_s` seconds of music; the rest is padding, which these values give away.
fn batch(split: Split, audio_s: f64, mel: [f32; 10]) -> RecordBatch {
    let origin = Origin { track_id: TrackId(1), path: "a".to_owned(), split };
    let mut columns = origin.columns(1);
    columns.push(Arc::new(arrow::array::UInt32Array::from(vec![0])));
    columns.push(Arc::new(Float64Array::from(vec![0.0])));
    columns.push(Arc::new(Float64Array::from(vec![audio_s])));
    columns.push(fixed_tensor::<Float32Type>(10, mel.to_vec()));
    columns.push(fixed_tensor::<Float32Type>(80, (0..80).map(|i| i as f32).collect()));
    RecordBatch::try_new(Features::schema(&spec()), columns).expect("columns of the schema")
}

fn bind(spec: &FeaturesSpec, to: &std::path::Path) -> Result<crate::registry::Bound, ParamsError> {
    let schema = Features::schema(spec);
    let registry = Registry::default().with::<Statistics>();
    let params = serde_json::json!({"to": to});
    (registry.get("statistics").expect("registered").bind)(params, &Inputs::new(vec![("in", &schema)]))
}

#[test]
fn music_counts_padding_and_held_out_tracks_do_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let bound = bind(&spec(), &folder.path().join("stats")).expect("binds");
    let context = StageContext { run_dir: Some(folder.path().to_owned()), ..StageContext::detached("statistics") };
    let mut operator = bound.stage.start(&context).expect("starts");
    let mut out = Collect::default();
    for batch in [
        batch(Split::Train, 2.0, [1.0, 5.0, 1.0, 5.0, 1.0, 5.0, 3.0, 7.0, 3.0, 7.0]),
        batch(Split::Train, 1.0, [2.0, 6.0, 2.0, 6.0, 99.0, 99.0, 99.0, 99.0, 99.0, 99.0]),
        batch(Split::Valid, 2.0, [99.0; 10]),
    ] {
        let progress = operator.push(0, &batch, &mut out).expect("counts");
        assert_eq!(progress, Progress::Idle);
    }
    operator.flush(&mut out).expect("ends");

    let written = StatisticsFile::read(&StatisticsFile::path(&folder.path().join("stats"))).expect("a file");
    let mel = &written.views["mel"];
    assert_eq!((mel.crops, mel.frames), (2, 7));
    assert!((mel.mean - (3.8 + 4.0) / 2.0).abs() < 1e-12, "{}", mel.mean);
    assert_eq!((mel.min, mel.max), (1.0, 7.0));
    assert!((mel.bin_mean[1] - 41.0 / 7.0).abs() < 1e-12);
    let waveform = &written.views["waveform"];
    assert_eq!((waveform.frames, waveform.max), (120, 79.0));
    let means = column::<Float64Array>(&out.batches[0], "mean").expect("a column");
    assert_eq!(means.value(0), mel.mean);
    assert_eq!(means.value(1), (39.5 + 19.5) / 2.0);
}

#[test]
fn what_is_standardised_already_is_refused() {
    let mut spec = spec();
    spec.views[1].standardized = Standardized::Global;
    let error = bind(&spec, std::path::Path::new("x")).expect_err("refused");
    assert!(error.to_string().contains("`waveform` is standardised already"), "{error}");
}

#[test]
fn a_corpus_without_music_to_learn_from_is_an_error() {
    let bound = bind(&spec(), std::path::Path::new("x")).expect("binds");
    let mut operator = bound.stage.start(&StageContext::detached("statistics")).expect("starts");
    let mut out = Collect::default();
    let pushed = operator.push(0, &batch(Split::Test, 2.0, [1.0; 10]), &mut out).expect("counts");
    assert_eq!(pushed, Progress::Idle);
    assert!(operator.flush(&mut out).is_err());
}
