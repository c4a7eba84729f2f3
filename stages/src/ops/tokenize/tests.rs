use arrow::array::{ArrayRef, Float64Array, UInt32Array};
use omar_schemas::{Split, TrackId};
use serde_json::{Value, json};

use super::*;
use crate::quantize::{KMeans, KMeansConfig, RandomProjection, RandomProjectionConfig};
use crate::registry::{Bound as BoundStage, ParamsError, Registry};

const FRAMES: usize = 151;

fn spec() -> FeaturesSpec {
    let views = vec![ViewSpec::new("mel", 8, FRAMES as u32, 320), ViewSpec::new("waveform", 1, 48_000, 1)];
    FeaturesSpec { sample_rate: 24_000, crop_samples: 48_000, views }
}

fn bind(params: Value) -> Result<BoundStage, ParamsError> {
    let schema = Features::schema(&spec());
    let registry = Registry::default().with::<Tokenize>();
    (registry.get("tokenize").expect("registered").bind)(params, &Inputs::new(vec![("in", &schema)]))
}

fn noise(len: usize) -> Vec<f32> {
    let mut random = crate::seed::Random::new(3, &[]);
    (0..len).map(|_| random.normal() as f32).collect()
}

fn batch(mel: Vec<f32>, waveform: Vec<f32>) -> RecordBatch {
    let origin = Origin { track_id: TrackId(7), path: "7.wav".to_owned(), split: Split::Train };
    let mut columns = origin.columns(1);
    columns.push(Arc::new(UInt32Array::from(vec![0])) as ArrayRef);
    columns.push(Arc::new(Float64Array::from(vec![0.0])));
    columns.push(Arc::new(Float64Array::from(vec![2.0])));
    columns.push(fixed_tensor::<Float32Type>(mel.len(), mel));
    columns.push(fixed_tensor::<Float32Type>(waveform.len(), waveform));
    RecordBatch::try_new(Features::schema(&spec()), columns).expect("columns of the schema")
}

#[derive(Default)]
struct Collected {
    batches: Vec<RecordBatch>,
    rejected: Vec<(TrackId, Rejection)>,
}

impl Output for Collected {
    fn emit(&mut self, batch: RecordBatch) {
        self.batches.push(batch);
    }
    fn reject(&mut self, track: TrackId, reason: Rejection) {
        self.rejected.push((track, reason));
    }
}

fn run(stage: &dyn Stage, batch: &RecordBatch) -> Collected {
    let mut out = Collected::default();
    let mut operator = stage.start(&StageContext::detached("tokens")).expect("starts");
    let progress = operator.push(0, batch, &mut out).expect("pushes");
    assert_eq!(progress, Progress::Idle);
    out
}

fn params(weights: Value) -> Value {
    let sizes = json!({"codebooks": 2, "codebook_size": 50, "weights": weights});
    json!({"quantizer": {"random_projection": sizes}, "patch_rate": 25})
}

#[test]
fn tokens_are_those_of_the_quantizer_on_every_thread() {
    let bound = bind(params(json!({"torch_seed": 4}))).expect("binds");
    let (mel, waveform) = (noise(FRAMES * 8), noise(48_000));
    let out = run(bound.stage.as_ref(), &batch(mel.clone(), waveform));
    let spec = Tokens::spec(&bound.stage.output()).expect("tokens");
    assert_eq!((spec.positions, spec.patch_samples, spec.token_rate()), (50, 960, 25.0));
    let config = RandomProjectionConfig { input_len: 24, codebooks: 2, codebook_size: 50, codebook_dim: 16 };
    let patches = PatchShape::new(3, 8).expect("shape").cut(&mel).expect("patches");
    let expected = RandomProjection::torch_seeded(config, 4).expect("drawn").forward(&patches).expect("tokens");
    assert_eq!(fixed_values::<UInt16Type>(&out.batches[0], "mel", 0).expect("tokens"), expected);
    let again = run(bound.stage.as_ref(), &batch(mel, noise(48_000)));
    assert_eq!(again.batches, out.batches, "a second thread shares the weights of the first");
}

#[test]
fn a_crop_that_is_not_finite_rejects_its_track() {
    let bound = bind(params(json!("graph"))).expect("binds");
    let mut mel = noise(FRAMES * 8);
    mel[100] = f32::NAN;
    let out = run(bound.stage.as_ref(), &batch(mel, noise(48_000)));
    assert!(out.batches.is_empty());
    assert_eq!(out.rejected[0].0, TrackId(7));
    assert_eq!(out.rejected[0].1.message, "view `mel`: position 4 holds values that are not finite");
}

#[test]
fn a_rate_that_cuts_frames_is_refused_with_those_that_do_not() {
    let with_rate = |rate: Value| {
        let params = json!({"quantizer": {"finite_scalar": {}}, "patch_rate": rate});
        match bind(params) {
            Err(ParamsError::Bind(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let error = with_rate(json!(20));
    assert_eq!(error.at, crate::At::Param("patch_rate".to_owned()));
    assert_eq!(error.hint.as_deref(), Some("rates that fit: 18.75, 25, 15, 12.5"));
    for rate in [json!(0), json!(-25), json!(1e-9), json!(1e9)] {
        with_rate(rate);
    }
}

#[test]
fn sizes_out_of_range_are_pointed_at() {
    let params = json!({"quantizer": {"random_projection": {"codebook_size": 70_000}}, "patch_rate": 25});
    let Err(ParamsError::Bind(error)) = bind(params) else { panic!("70,000 codes do not fit a token") };
    assert_eq!(error.at, crate::At::Param("quantizer.random_projection.codebook_size".to_owned()));
}

#[test]
fn a_view_may_have_a_quantizer_of_its_own() {
    let params = json!({
        "quantizer": {"random_projection": {"codebooks": 2, "codebook_size": 50}},
        "views": {"waveform": {"finite_scalar": {"levels": [4, 4]}}},
        "patch_rate": 25
    });
    let bound = bind(params).expect("binds");
    let spec = Tokens::spec(&bound.stage.output()).expect("tokens");
    let sizes: Vec<_> = spec.streams.iter().map(|stream| (stream.codebooks, stream.codebook_size)).collect();
    assert_eq!(sizes, [(2, 50), (1, 16)]);
    let out = run(bound.stage.as_ref(), &batch(noise(FRAMES * 8), noise(48_000)));
    let tokens = fixed_values::<UInt16Type>(&out.batches[0], "waveform", 0).expect("tokens");
    assert!(tokens.len() == 50 && tokens.iter().all(|&token| token < 16));
}

#[test]
fn quantizers_of_views_are_checked_where_they_stand() {
    let at =
        |views: Value| match bind(json!({"quantizer": {"random_projection": {}}, "views": views, "patch_rate": 25})) {
            Err(ParamsError::Bind(error)) => error,
            other => panic!("{other:?}"),
        };
    let error = at(json!({"cqt": {"finite_scalar": {}}}));
    assert_eq!(error.message, "there is no view `cqt` here; the views are mel, waveform");
    let error = at(json!({"mel": {"finite_scalar": {"levels": [1]}}}));
    assert_eq!(error.at, crate::At::Param("views.mel.finite_scalar.levels".to_owned()));
}

#[test]
fn fitted_centroids_are_read_from_the_folder_that_they_were_written_to() {
    let folder = tempfile::tempdir().expect("a folder");
    let centroids: Vec<Vec<f32>> = vec![noise(5 * 24), noise(5 * 960)];
    let bytes: Vec<Vec<u8>> =
        centroids.iter().map(|values| values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let tensor = |name: &str, shape: usize, bytes| {
        (
            format!("{name}.kmeans0.centroids"),
            safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![5, shape], bytes).expect("a tensor"),
        )
    };
    let tensors = [tensor("mel", 24, &bytes[0]), tensor("waveform", 960, &bytes[1])];
    std::fs::write(folder.path().join("codebook.safetensors"), safetensors::serialize(tensors, None).expect("a file"))
        .expect("written");
    let params = |size: usize| json!({"quantizer": {"k_means": {"codebook_size": size, "weights": folder.path()}}, "patch_rate": 25});
    let mel = noise(FRAMES * 8);
    let out = run(bind(params(5)).expect("binds").stage.as_ref(), &batch(mel.clone(), noise(48_000)));
    let config = KMeansConfig { input_len: 24, codebooks: 1, codebook_size: 5 };
    let patches = PatchShape::new(3, 8).expect("shape").cut(&mel).expect("patches");
    let expected = KMeans::new(config, &centroids[..1]).expect("fits").forward(&patches).expect("tokens");
    assert_eq!(fixed_values::<UInt16Type>(&out.batches[0], "mel", 0).expect("tokens"), expected);
    let wrong = bind(params(6)).expect("binds").stage.start(&StageContext::detached("tokens")).err().expect("no 6");
    assert!(
        wrong.to_string().contains("tensor `mel.kmeans0.centroids` is f32 [5, 24], expected f32 [6, 24]"),
        "{wrong}"
    );
}
