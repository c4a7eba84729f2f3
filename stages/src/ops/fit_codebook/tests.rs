use omar_schemas::{FeaturesSpec, TrackId, fixed_tensor};
use serde_json::{Value, json};

use super::*;
use crate::collect::Collect;
use crate::quantize::weights::WeightsFile;
use crate::quantize::{KMeans, Quantizer};
use crate::registry::{Bound, ParamsError, Registry};

fn spec() -> FeaturesSpec {
    let views = vec![ViewSpec::new("mel", 1, 9, 4), ViewSpec::new("waveform", 1, 32, 1)];
    FeaturesSpec { sample_rate: 16, crop_samples: 32, views }
}

/// Patches of mel (2 frames) lie near one of four corners.
fn batch(crop: u32) -> RecordBatch {
    let mut random = seed::Random::new(5, &[u64::from(crop)]);
    let corner = |i: u32| [[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]][i as usize % 4];
    let mut mel: Vec<f32> =
        (0..4).flat_map(|i| corner(i + crop)).map(|x: f64| (x + 0.05 * random.normal()) as f32).collect();
    mel.push(0.0);
    let origin = Origin { track_id: TrackId(1), path: "a".to_owned(), split: Split::Train };
    let mut columns = origin.columns(1);
    columns.push(Arc::new(UInt32Array::from(vec![crop])));
    columns.push(Arc::new(Float64Array::from(vec![0.0])));
    columns.push(Arc::new(Float64Array::from(vec![2.0])));
    columns.push(fixed_tensor::<Float32Type>(9, mel));
    columns.push(fixed_tensor::<Float32Type>(32, (0..32).map(|_| random.normal() as f32).collect()));
    RecordBatch::try_new(Features::schema(&spec()), columns).expect("columns of the schema")
}

fn bind(params: Value) -> Result<Bound, ParamsError> {
    let schema = Features::schema(&spec());
    let registry = Registry::default().with::<FitCodebook>();
    (registry.get("fit_codebook").expect("registered").bind)(params, &Inputs::new(vec![("in", &schema)]))
}

#[test]
fn codebooks_are_fitted_and_a_quantizer_reads_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let params = json!({"to": folder.path().join("cb"), "patch_rate": 2, "codebooks": 2, "codebook_size": 4});
    let bound = bind(params).expect("binds");
    let context = StageContext { run_dir: Some(folder.path().to_owned()), ..StageContext::detached("fit") };
    let mut operator = bound.stage.start(&context).expect("starts");
    let mut out = Collect::default();
    for crop in 0..10 {
        let progress = operator.push(0, &batch(crop), &mut out).expect("samples");
        assert_eq!(progress, Progress::Idle);
    }
    operator.flush(&mut out).expect("fits");

    let rows = &out.batches[0];
    assert_eq!(rows.num_rows(), 4, "two views, two codebooks each");
    let distortion = column::<Float64Array>(rows, "distortion").expect("a column");
    assert!(distortion.value(0) < 0.01, "{distortion:?}");
    let perplexity = column::<Float64Array>(rows, "perplexity").expect("a column");
    assert!((perplexity.value(0) - 4.0).abs() < 1e-6, "{perplexity:?}");

    let bytes = std::fs::read(codebook_file(&folder.path().join("cb"))).expect("a file");
    let config = KMeansConfig { input_len: 2, codebooks: 2, codebook_size: 4 };
    let file = WeightsFile::new(&bytes).expect("weights");
    let mut quantizer = KMeans::from_file(config, &file, "mel").expect("centroids");
    let tokens = quantizer.forward(&[0.0, 0.0, 8.0, 0.0, 0.0, 8.0, 8.0, 8.0]).expect("tokens");
    for book in 0..2 {
        let mut codes: Vec<u16> = tokens.iter().skip(book).step_by(2).copied().collect();
        codes.sort_unstable();
        assert_eq!(codes, [0, 1, 2, 3]);
    }
}

#[test]
fn what_cannot_be_fitted_is_refused() {
    let at = |params| match bind(params) {
        Err(ParamsError::Bind(error)) => error.at,
        other => panic!("{other:?}"),
    };
    let param = |name: &str| crate::At::Param(name.to_owned());
    assert_eq!(at(json!({"to": "x", "patch_rate": 3})), param("patch_rate"));
    assert_eq!(at(json!({"to": "x", "patch_rate": 2, "codebook_size": 1})), param("codebook_size"));
    assert_eq!(at(json!({"to": "x", "patch_rate": 2, "codebook_size": 9, "patches": 8})), param("patches"));
    assert_eq!(at(json!({"to": "x", "patch_rate": 2, "iterations": 0})), param("iterations"));
}
