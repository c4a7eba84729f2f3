use super::*;
use crate::collect::{run, start};
use arrow::array::UInt32Array;
use omar_schemas::{EmbeddingsSpec, FeaturesSpec, ModelLabel, Origin, Pooling, Split, TrackId, ViewSpec, fixed_tensor};

const LABELS: &str = "path,task,start,end,label\n";

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a temporary file");
    std::fs::write(file.path(), text).expect("it is written");
    file
}

fn params(labels: &tempfile::NamedTempFile, tasks: &[(&str, TaskKind)], rate: Option<f64>) -> LinearProbeParams {
    let tasks = tasks.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect();
    LinearProbeParams { labels: labels.path().to_owned(), tasks, name: None, rate, l2: default_l2() }
}

fn spec(pooling: Pooling, rate: Option<f64>) -> EmbeddingsSpec {
    let model = ModelLabel { name: "toy".into(), fingerprint: "0".into(), licence: "none".into() };
    EmbeddingsSpec { layers: vec![0, 3], dim: 2, rate, pooling, sample_rate: 16_000, model }
}

fn keys(path: &str, split: Split, crop: u32, start_s: f64, audio_s: f64) -> Vec<ArrayRef> {
    let mut columns = Origin { track_id: TrackId::of(path, 0), path: path.to_owned(), split }.columns(1);
    columns.push(Arc::new(UInt32Array::from(vec![crop])));
    columns.push(Arc::new(Float64Array::from(vec![start_s])));
    columns.push(Arc::new(Float64Array::from(vec![audio_s])));
    columns
}

/// A row of embeddings whose layer 0 tells the class at every position and whose layer 3 tells nothing.
fn row(spec: &EmbeddingsSpec, path: &str, split: Split, crop: u32, start_s: f64, classes: &[u32]) -> RecordBatch {
    let mut columns = keys(path, split, crop, start_s, classes.len() as f64);
    let tells: Vec<f32> = classes.iter().flat_map(|class| [*class as f32 * 2.0 - 1.0, 0.5]).collect();
    let silent = vec![1.0; tells.len()];
    columns.push(Embeddings::vectors_column(2, &[&tells]));
    columns.push(Embeddings::vectors_column(2, &[&silent]));
    RecordBatch::try_new(Embeddings::schema(spec), columns).expect("the columns of the edge")
}

fn bind(params: LinearProbeParams, schema: &SchemaRef) -> Result<LinearProbe, BindError> {
    LinearProbe::bind(params, &Inputs::new(vec![("in", schema)]))
}

fn values(batch: &RecordBatch, name: &str) -> Vec<f64> {
    omar_schemas::column::<Float64Array>(batch, name).expect("a column of numbers").values().to_vec()
}

const SPLITS: [(&str, Split); 3] = [("a", Split::Train), ("b", Split::Valid), ("c", Split::Test)];

#[test]
fn events_are_found_by_the_layer_that_tells_and_not_by_the_other() {
    let times = [0.5, 3.5, 4.5, 9.5];
    let rows: String =
        SPLITS.iter().flat_map(|(path, _)| times.map(|time| format!("{path},beat,{time},,1\n"))).collect();
    let labels = file(&format!("{LABELS}{rows}"));
    let spec = spec(Pooling::Frames, Some(1.0));
    let stage =
        bind(params(&labels, &[("beat", TaskKind::Events)], None), &Embeddings::schema(&spec)).expect("it binds");
    // Two rows of a recording, the second where the first ends.
    let batches = SPLITS.iter().flat_map(|(path, split)| {
        [row(&spec, path, *split, 0, 0.0, &[1, 0, 0, 1, 1]), row(&spec, path, *split, 1, 5.0, &[0, 0, 0, 0, 1])]
    });
    let out = run(&mut *start(&stage, 7), &batches.collect::<Vec<_>>());
    let scores = &out.batches[0];
    assert_eq!(values(scores, "value"), [1.0, 6.0 / 7.0, 0.4, 0.4]);
    assert_eq!(values(scores, "chance"), [0.4, 0.0, 0.4, 0.0]);
}

#[test]
fn recordings_are_classified_by_their_mean() {
    let labels = file(&format!(
        "{LABELS}a,kind,,,low\na2,kind,,,high\nb,kind,,,low\nb2,kind,,,high\nc,kind,,,high\nc2,kind,,,low\n"
    ));
    let spec = spec(Pooling::Track, None);
    let stage =
        bind(params(&labels, &[("kind", TaskKind::Recording)], None), &Embeddings::schema(&spec)).expect("it binds");
    let all = [("a", 0), ("a2", 1), ("b", 0), ("b2", 1), ("c", 1), ("c2", 0)];
    let split = |path: &str| SPLITS.iter().find(|(name, _)| path.starts_with(name)).expect("a split").1;
    let batches: Vec<_> = all.iter().map(|(path, class)| row(&spec, path, split(path), 0, 0.0, &[*class])).collect();
    let out = run(&mut *start(&stage, 0), &batches);
    assert_eq!(values(&out.batches[0], "value"), [1.0, 0.5]);
    assert_eq!(values(&out.batches[0], "chance"), [0.5, 0.5]);
}

#[test]
fn features_are_pooled_and_padding_is_left_out() {
    // One class per second; 4 frames a second of a view of one bin, in crops of 3 s of which the last holds 2.
    let labels = file(&format!(
        "{LABELS}{}",
        SPLITS.map(|(path, _)| format!("{path},key,0,1,x\n{path},key,1,3,y\n{path},key,3,5,x\n")).concat()
    ));
    let view = |name| ViewSpec::new(name, 1, 12, 250);
    let spec = FeaturesSpec { sample_rate: 1000, crop_samples: 3000, views: vec![view("mel"), view("cqt")] };
    let schema = Features::schema(&spec);
    let stage = bind(params(&labels, &[("key", TaskKind::Intervals)], Some(1.0)), &schema).expect("it binds");
    let crop = |path: &str, split, crop: u32, seconds: f64, classes: [f32; 3]| {
        let mut columns = keys(path, split, crop, f64::from(crop) * 3.0, seconds);
        let frames: Vec<f32> = classes.iter().flat_map(|class| [class - 1.0, *class, *class, class + 1.0]).collect();
        columns.push(fixed_tensor::<arrow::datatypes::Float32Type>(12, frames));
        columns.push(fixed_tensor::<arrow::datatypes::Float32Type>(12, vec![0.0; 12]));
        RecordBatch::try_new(schema.clone(), columns).expect("the columns of the edge")
    };
    let batches = SPLITS.map(|(path, split)| {
        [crop(path, split, 0, 3.0, [1.0, -1.0, -1.0]), crop(path, split, 1, 2.0, [1.0, 1.0, -9.0])]
    });
    let out = run(&mut *start(&stage, 0), &batches.concat());
    let layers = omar_schemas::column::<StringArray>(&out.batches[0], "layer").expect("a column of words");
    assert_eq!(layers.iter().flatten().collect::<Vec<_>>(), ["mel", "cqt", "mel+cqt"]);
    assert_eq!(values(&out.batches[0], "value"), [1.0, 0.6, 1.0]);
    let examples = omar_schemas::column::<UInt64Array>(&out.batches[0], "n_test").expect("a column of counts");
    assert_eq!(examples.value(0), 5);
}

#[test]
fn what_does_not_fit_is_said_with_a_hint() {
    let labels = file(LABELS);
    let frames = Embeddings::schema(&spec(Pooling::Frames, Some(10.0)));
    let track = Embeddings::schema(&spec(Pooling::Track, None));
    let features = Features::schema(&FeaturesSpec {
        sample_rate: 1000,
        crop_samples: 3000,
        views: vec![ViewSpec::new("mel", 1, 12, 250)],
    });
    let beat = [("beat", TaskKind::Events)];
    let wrong =
        |params: LinearProbeParams, schema: &SchemaRef| bind(params, schema).expect_err("it does not fit").to_string();
    assert!(wrong(params(&labels, &[], None), &frames).contains("at least one task"));
    assert!(wrong(params(&labels, &beat, Some(0.0)), &frames).contains("a number above 0, found 0"));
    assert!(
        wrong(params(&labels, &beat, None), &features).contains("task `beat` is one of frames: expected their rate")
    );
    assert!(wrong(params(&labels, &beat, Some(1.0)), &track).contains("the embeddings are pooled"));
    let none = LinearProbeParams { l2: vec![0.0], ..params(&labels, &beat, None) };
    assert!(wrong(none, &frames).contains("expected numbers above 0, found [0.0]"));
}

#[test]
fn a_split_without_labels_is_said() {
    let labels = file(&format!("{LABELS}a,beat,0,,1\nsong-c,beat,0,,1\nb,beat,0,,1\n"));
    let spec = spec(Pooling::Frames, Some(1.0));
    let stage =
        bind(params(&labels, &[("beat", TaskKind::Events)], None), &Embeddings::schema(&spec)).expect("it binds");
    let mut operator = start(&stage, 0);
    let mut out = crate::collect::Collect::default();
    for (path, split) in SPLITS {
        let _progress = operator.push(0, &row(&spec, path, split, 0, 0.0, &[1, 0]), &mut out).expect("it is taken");
    }
    let message = operator.flush(&mut out).expect_err("test has no labels").to_string();
    assert!(message.contains("task `beat` has no labelled recording in the `test` split"), "{message}");
}
