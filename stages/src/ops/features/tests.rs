use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::dsp::compress::Standardize;
use crate::ops::statistics::{StatisticsFile, ViewStatistics};
use crate::registry::{ParamsError, Registry};
use crate::stage::StageContext;

fn crops(sample_rate: u32) -> SchemaRef {
    Crop::schema(&CropSpec { sample_rate, samples: 2 * sample_rate, policy: "grid".to_owned() })
}

fn bind(sample_rate: u32, params: Value) -> Result<SchemaRef, ParamsError> {
    let registry = Registry::default().with::<Features>();
    let features = registry.get("features").expect("registered");
    (features.bind)(params, &Inputs::new(vec![("in", &crops(sample_rate))])).map(|bound| bound.stage.output())
}

fn refused(sample_rate: u32, params: Value) -> BindError {
    match bind(sample_rate, params) {
        Err(ParamsError::Bind(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn param(path: &str) -> crate::At {
    crate::At::Param(path.to_owned())
}

#[test]
fn the_preset_follows_the_sample_rate() {
    let views = |rate| {
        let schema = bind(rate, json!({"views": {"waveform": {}, "cqt": {}, "mel": {}}})).expect("binds");
        let spec = FeaturesEdge::spec(&schema).expect("features");
        spec.views.into_iter().map(|view| (view.name, view.bins, view.hop_len, view.frames)).collect::<Vec<_>>()
    };
    let view = |name: &str, bins, hop_len, frames| (name.to_owned(), bins, hop_len, frames);
    assert_eq!(views(16_000), [view("mel", 96, 256, 126), view("cqt", 144, 256, 126), view("waveform", 1, 1, 32_000)]);
    assert_eq!(views(24_000), [view("mel", 96, 320, 151), view("cqt", 188, 320, 151), view("waveform", 1, 1, 48_000)]);
}

#[test]
fn what_does_not_fit_is_pointed_at() {
    let at = |params| refused(24_000, params).at;
    assert_eq!(at(json!({"views": {}})), param("views"));
    assert_eq!(at(json!({"views": {"mel": {"preset": "mel_16k"}}})), param("views.mel.preset"));
    assert_eq!(at(json!({"views": {"cqt": {"preset": "cqt_16k"}}})), param("views.cqt.preset"));
    assert_eq!(at(json!({"views": {"mel": {"f_max": 13_000.0}}})), param("views.mel.f_max"));
    assert_eq!(at(json!({"views": {"mel": {"hop_len": 0}}})), param("views.mel.hop_len"));
    assert_eq!(at(json!({"views": {"mel": {"hop_len": 600}}})), param("views.mel.hop_len"));
    assert_eq!(at(json!({"views": {"mel": {"n_mels": 250}}})), param("views.mel.n_mels"));
    assert_eq!(at(json!({"views": {"cqt": {"n_bins": 300}}})), param("views.cqt.n_bins"));
    assert_eq!(at(json!({"views": {"mel": {}}, "standardize": "per_bin"})), param("standardize"));
    let both = json!({"views": {"mel": {"mean": 1.0}}, "normalize": "none"});
    assert_eq!(at(both), param("views.mel.mean"));
}

#[test]
fn a_rate_without_a_preset_needs_its_own_constants() {
    let error = refused(22_050, json!({"views": {"mel": {}}})).message;
    assert_eq!(error, "expected crops at 16000 or 24000 Hz, which have presets, found 22050 Hz");
    let error = refused(22_050, json!({"views": {"mel": {"hop_len": 294}}}));
    assert_eq!(error.message, "there is no preset for this sample rate, so its mean and deviation are not known");
    for params in [
        json!({"views": {"mel": {"hop_len": 294, "mean": 2.0, "std": 1.2}}}),
        json!({"views": {"mel": {"hop_len": 294}}, "normalize": "none"}),
    ] {
        let spec = FeaturesEdge::spec(&bind(22_050, params).expect("binds")).expect("features");
        assert_eq!(spec.views[0].frame_rate(spec.sample_rate), 75.0);
    }
}

#[test]
fn every_parameter_of_mel_reaches_the_transform() {
    let mel = json!({"n_fft": 1024, "win_len": 800, "hop_len": 240, "n_mels": 64, "f_min": 20.0, "f_max": 11_000.0,
                     "scale": "htk", "norm": "peak", "gain": 1000.0});
    let schema = bind(24_000, json!({"views": {"mel": mel}, "normalize": "none"})).expect("binds");
    let parameters = FeaturesEdge::spec(&schema).expect("features").views[0].parameters.clone();
    for (name, value) in mel.as_object().expect("a map") {
        let text = value.as_str().map_or_else(|| value.as_f64().expect("a number").to_string(), str::to_owned);
        assert_eq!(parameters[name], text, "{name}");
    }
}

#[test]
fn a_view_with_nothing_behind_it_is_an_error() {
    let error = bind(24_000, json!({"views": {"mel": {}, "waveform": null}})).expect_err("null");
    assert!(matches!(&error, ParamsError::Form { path, .. } if path == "views.waveform"), "{error:?}");
}

#[test]
fn encodec_without_weights_says_what_to_put_where() {
    let error = refused(24_000, json!({"views": {"encodec": {"weights": "no/such/folder"}}}));
    assert_eq!(error.at, param("views.encodec.weights"));
    assert!(error.message.contains("no/such/folder/config.json"), "{}", error.message);
    assert!(error.hint.expect("a hint").contains("`model.safetensors`"));
}

/// Statistics of a mel at 24 kHz as a `statistics` stage would write them.
fn statistics(folder: &std::path::Path, hop_len: &str) {
    let schema = bind(24_000, json!({"views": {"mel": {}}, "normalize": "none"})).expect("binds");
    let mut parameters: BTreeMap<_, _> = FeaturesEdge::spec(&schema).expect("features").views[0].parameters.clone();
    parameters.insert("hop_len".to_owned(), hop_len.to_owned());
    let (bin_mean, bin_std) = ((0..96).map(f64::from).collect(), vec![0.0; 96]);
    let (crops, frames, min, max) = (1, 151, 0.0, 9.0);
    let mel = ViewStatistics { mean: 2.0, std: 4.0, min, max, crops, frames, parameters, bin_mean, bin_std };
    let file = StatisticsFile::new(BTreeMap::from([("mel".to_owned(), mel)]));
    file.write(&StatisticsFile::path(folder)).expect("written");
}

#[test]
fn statistics_apply_to_the_view_that_they_were_made_of_and_to_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let params =
        |views: Value, grain: &str| json!({"views": views, "normalize": {"from": folder.path()}, "standardize": grain});
    let missing = refused(24_000, params(json!({"mel": {}}), "global"));
    assert_eq!(missing.at, param("normalize.from"));
    assert!(missing.message.starts_with("there are no statistics at"), "{}", missing.message);

    statistics(folder.path(), "320");
    let apply = |grain: &str| {
        let params: FeaturesParams = serde_json::from_value(params(json!({"mel": {}}), grain)).expect("params");
        let crops = CropSpec { sample_rate: 24_000, samples: 48_000, policy: "grid".to_owned() };
        let asked = params.views.asked(&crops).expect("asked");
        params.normalize.apply(params.standardize, asked).expect("applies").remove(0)
    };
    assert_eq!(*apply("global").standardize(), Standardize::Global { mean: 2.0, std: 4.0 });
    let Standardize::PerBin { mean, std } = apply("per_bin").standardize().clone() else { panic!("per bin") };
    assert_eq!((mean[95], std[95]), (95.0, 0.004), "a bin without deviation is not blown up");

    let other = refused(24_000, params(json!({"cqt": {}}), "global"));
    assert!(other.message.contains("holds statistics of mel, not of `cqt`"), "{}", other.message);
    statistics(folder.path(), "256");
    let other = refused(24_000, params(json!({"mel": {}}), "global"));
    assert!(other.message.contains("were made with hop_len 256, here it is 320"), "{}", other.message);
}

/// A crop of a ramp.
fn crop(samples: usize, value: f32) -> RecordBatch {
    let schema = Crop::schema(&CropSpec { sample_rate: 24_000, samples: samples as u32, policy: "grid".to_owned() });
    let mut columns = crate::collect::origin("a").columns(1);
    columns.push(Arc::new(arrow::array::UInt32Array::from(vec![0])));
    columns.push(Arc::new(arrow::array::Float64Array::from(vec![0.0])));
    columns.push(Arc::new(arrow::array::Float64Array::from(vec![2.0])));
    columns.push(fixed_tensor::<Float32Type>(samples, vec![value; samples]));
    RecordBatch::try_new(schema, columns).expect("columns of the schema")
}

#[test]
fn silence_and_steady_signals_are_finite_and_nan_rejects_the_recording() {
    let registry = Registry::default().with::<Features>();
    let features = registry.get("features").expect("registered");
    let params = json!({"views": {"mel": {}, "cqt": {}, "waveform": {}}});
    let bound = (features.bind)(params, &Inputs::new(vec![("in", &crops(24_000))])).expect("binds");
    let mut operator = bound.stage.start(&StageContext::detached("features")).expect("starts");
    for value in [0.0, 1.0, -1.0, 1e-30, 1e4] {
        let out = crate::collect::run(&mut *operator, &[crop(48_000, value)]);
        assert_eq!((out.batches.len(), out.rejections.len()), (1, 0), "{value}");
    }
    let out = crate::collect::run(&mut *operator, &[crop(48_000, f32::NAN)]);
    assert_eq!((out.batches.len(), out.rejections.len()), (0, 1));
    assert_eq!(out.rejections[0].class, "numeric");
}
