//! Six tasks with a known answer: vectors that say what the labels say score 1, vectors of other recordings score chance.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use omar_schemas::{
    Edge, Embeddings, EmbeddingsSpec, LabelRow, Labels, LabelsSpec, ModelLabel, Origin, Pooling, Split, TrackId, column,
};
use serde_json::{Value, json};

use super::Probe;
use crate::collect;
use crate::error::BindError;
use crate::stage::{Inputs, Stage as _, StageContext, StageKind as _};

const RATE: f64 = 25.0;

/// A recording: split, a vector per frame, statements.
struct Given {
    split: Split,
    frames: Vec<Vec<f32>>,
    labels: Vec<LabelRow>,
}

fn spec(dim: usize) -> EmbeddingsSpec {
    let model = ModelLabel { name: "made up".into(), fingerprint: "f".into(), licence: "CC0-1.0".into() };
    EmbeddingsSpec {
        layers: vec![3],
        dim: dim as u32,
        rate: Some(RATE),
        pooling: Pooling::Frames,
        sample_rate: 24_000,
        model,
    }
}

fn label(start_s: Option<f64>, end_s: Option<f64>, label: impl ToString) -> LabelRow {
    LabelRow { start_s, end_s, label: label.to_string() }
}

fn origin(index: usize, split: Split) -> Origin {
    let path = format!("{index:03}.wav");
    Origin { track_id: TrackId::of(&path, 0), path, split }
}

fn embeddings(index: usize, frames: &[Vec<f32>]) -> RecordBatch {
    let spec = spec(frames[0].len());
    // Two rows: a recording comes in parts.
    let half = frames.len() / 2;
    let parts: Vec<(usize, &[Vec<f32>])> =
        if half > 0 { vec![(0, &frames[..half]), (half, &frames[half..])] } else { vec![(0, frames)] };
    let values: Vec<Vec<f32>> = parts.iter().map(|part| part.1.concat()).collect();
    let mut columns = origin(index, Split::Train).columns(parts.len());
    columns.push(Arc::new(UInt32Array::from_iter_values(0..parts.len() as u32)));
    columns.push(Arc::new(parts.iter().map(|part| Some(part.0 as f64 / RATE)).collect::<Float64Array>()));
    columns.push(Arc::new(parts.iter().map(|part| Some(part.1.len() as f64 / RATE)).collect::<Float64Array>()));
    let rows: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    columns.push(Embeddings::vectors_column(spec.dim as usize, &rows));
    RecordBatch::try_new(Embeddings::schema(&spec), columns).unwrap()
}

fn labels_spec(task: &str, folds: Option<u32>) -> LabelsSpec {
    LabelsSpec { task: task.into(), dataset: "made up".into(), classes: None, folds }
}

fn labels(index: usize, task: &str, given: &Given, folds: Option<Vec<Option<Split>>>) -> RecordBatch {
    let rows = &given.labels;
    let mut columns: Vec<ArrayRef> = origin(index, given.split).columns(rows.len());
    columns.push(Arc::new(rows.iter().map(|row| row.start_s).collect::<Float64Array>()));
    columns.push(Arc::new(rows.iter().map(|row| row.end_s).collect::<Float64Array>()));
    columns.push(Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.label))));
    columns.extend(folds.as_ref().map(|splits| Labels::splits_column(splits, rows.len())));
    let count = folds.map(|splits| splits.len() as u32);
    RecordBatch::try_new(Labels::schema(&labels_spec(task, count)), columns).unwrap()
}

fn bind(task: &str, dim: usize, params: Value) -> Result<Probe, BindError> {
    bind_folds(task, dim, params, None)
}

fn bind_folds(task: &str, dim: usize, params: Value, folds: Option<u32>) -> Result<Probe, BindError> {
    let (vectors, labels) = (Embeddings::schema(&spec(dim)), Labels::schema(&labels_spec(task, folds)));
    let inputs = Inputs::new(vec![("in", &vectors), ("labels", &labels)]);
    Probe::bind(serde_json::from_value(params).unwrap(), &inputs)
}

fn quick() -> Value {
    json!({"steps": 400, "batch": 8, "lr": 1e-2, "warmup": 20, "dropout": 0.0, "valid_every": 100})
}

/// What recordings are used for in every fold.
type Folds<'a> = &'a dyn Fn(usize) -> Vec<Option<Split>>;

/// Runs a task in a folder; the rows of the results.
fn results(
    task: &str,
    given: &[Given],
    params: &Value,
    folds: Option<Folds<'_>>,
    folder: &Path,
) -> Result<RecordBatch, String> {
    let mut params = params.clone();
    params["training"] = quick();
    params["hidden"] = json!(32);
    let count = folds.map(|folds| folds(0).len() as u32);
    let probe = bind_folds(task, given[0].frames[0].len(), params, count).map_err(|error| error.to_string())?;
    let context = StageContext { run_dir: Some(folder.to_owned()), ..StageContext::detached("probe") };
    let mut operator = probe.start(&context).map_err(|error| error.to_string())?;
    let mut out = collect::Collect::default();
    for (index, given) in given.iter().enumerate() {
        let labels = labels(index, task, given, folds.map(|folds| folds(index)));
        let pushed = operator.push(0, &embeddings(index, &given.frames), &mut out);
        let _progress = pushed.and_then(|_| operator.push(1, &labels, &mut out)).map_err(|error| error.to_string())?;
    }
    operator.flush(&mut out).map_err(|error| error.to_string())?;
    assert!(folder.join("details.json").exists() && folder.join("predictions.parquet").exists());
    let batch = out.batches.swap_remove(0);
    assert_eq!(batch.schema(), probe.output());
    Ok(batch)
}

/// Runs a task; the value of a metric on `test`.
fn run(task: &str, given: &[Given], params: Value) -> Result<Vec<(String, f64)>, String> {
    let folder = tempfile::tempdir().unwrap();
    let batch = results(task, given, &params, None, &folder.path().join("probe"))?;
    Ok(on_test(&batch).into_iter().map(|(_, metric, value)| (metric, value)).collect())
}

/// Fold, metric and value of the rows of the `test` split.
fn on_test(batch: &RecordBatch) -> Vec<(Option<u64>, String, f64)> {
    let words = |name| column::<StringArray>(batch, name).unwrap();
    let (metric, split, value) = (words("metric"), words("split"), column::<Float64Array>(batch, "value").unwrap());
    let fold = column::<UInt64Array>(batch, "fold").unwrap();
    let test = (0..batch.num_rows()).filter(|row| split.value(*row) == "test");
    let row =
        |row: usize| (fold.is_valid(row).then(|| fold.value(row)), metric.value(row).to_owned(), value.value(row));
    test.map(row).collect()
}

fn details(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("details.json")).unwrap()).unwrap()
}

fn figure(found: &[(String, f64)], metric: &str) -> f64 {
    found.iter().find(|figure| figure.0 == metric).unwrap_or_else(|| panic!("{metric} in {found:?}")).1
}

/// Recordings of `of(index)`, three of five for training; `shift` gives each the vectors of another.
fn corpus(count: usize, shift: usize, of: impl Fn(usize) -> (Vec<Vec<f32>>, Vec<LabelRow>)) -> Vec<Given> {
    let split = |index: usize| [Split::Train, Split::Train, Split::Train, Split::Valid, Split::Test][index % 5];
    (0..count).map(|index| Given { split: split(index), frames: of(index + shift).0, labels: of(index).1 }).collect()
}

fn one_hot(dim: usize, at: usize) -> Vec<f32> {
    (0..dim).map(|i| f32::from(u8::from(i == at))).collect()
}

#[test]
fn pitch_is_read_off_and_other_peoples_notes_are_chance() {
    let of = |index: usize| (vec![one_hot(12, index * 7 % 12); 4], vec![label(None, None, 48 + index * 7 % 12)]);
    let found = run("pitch", &corpus(120, 0, of), json!({})).unwrap();
    assert_eq!((figure(&found, "accuracy"), figure(&found, "octave errors")), (1.0, 0.0));
    let shuffled = |index: usize| (vec![one_hot(12, (index * index) % 11); 4], of(index).1);
    assert!(figure(&run("pitch", &corpus(120, 0, shuffled), json!({})).unwrap(), "accuracy") < 0.4);
    let published = run("pitch", &corpus(120, 0, of), json!({"protocol": "published"})).unwrap();
    assert_eq!(figure(&published, "accuracy"), 1.0);
}

#[test]
fn tags_are_found() {
    let tags = |index: usize| (0..4).filter(move |tag| (index >> tag) & 1 == 1 || *tag == index % 4);
    let of = |index: usize| {
        let mut vector = vec![0.0; 4];
        tags(index).for_each(|tag| vector[tag] = 1.0);
        (vec![vector; 3], tags(index).map(|tag| label(None, None, format!("tag {tag}"))).collect())
    };
    let found = run("tagging", &corpus(80, 0, of), json!({})).unwrap();
    assert_eq!((figure(&found, "mAP"), figure(&found, "micro ROC-AUC")), (1.0, 1.0));
    let shuffled = |index: usize| (of(index * index * 7 % 61 + 3).0, of(index).1);
    let found = run("tagging", &corpus(80, 0, shuffled), json!({})).unwrap();
    assert!(figure(&found, "mAP") < 0.9, "{found:?}");
}

#[test]
fn grades_are_found() {
    let of = |index: usize| (vec![one_hot(11, index * 3 % 11); 2], vec![label(None, None, index * 3 % 11)]);
    let found = run("difficulty", &corpus(110, 0, of), json!({})).unwrap();
    assert_eq!((figure(&found, "macro MSE"), figure(&found, "balanced accuracy")), (0.0, 1.0));
    assert_eq!(figure(&found, "Kendall tau-b"), 1.0);
}

#[test]
fn chords_are_found() {
    let names = ["C:maj", "A:min7", "F:maj/3", "N"];
    let of = |index: usize| {
        let chord = |second: usize| (index + second * second) % 4;
        let frames = (0..200).map(|frame| one_hot(4, chord(frame / 25))).collect();
        let labels = (0..8).map(|s| label(Some(s as f64), Some(s as f64 + 1.0), names[chord(s)])).collect();
        (frames, labels)
    };
    let found = run("chords", &corpus(20, 0, of), json!({})).unwrap();
    assert_eq!((figure(&found, "majmin"), figure(&found, "frame accuracy")), (1.0, 1.0));
    assert_eq!(figure(&run("chords", &corpus(20, 0, of), json!({"protocol": "published"})).unwrap(), "majmin"), 1.0);
}

#[test]
fn beats_and_downbeats_are_found() {
    // 12 frames a beat: 125 beats a minute.
    let of = |index: usize| {
        let first = index % 12;
        let place = |frame: usize| (frame % 12 == first).then_some(frame / 12 % 4);
        let frames =
            (0..500).map(|f| vec![f32::from(u8::from(place(f).is_some())), f32::from(u8::from(place(f) == Some(0)))]);
        let labels = (0..500).filter_map(|f| Some(label(Some(f as f64 / RATE), None, place(f)? + 1)));
        (frames.collect(), labels.collect())
    };
    let found = run("beats", &corpus(20, 0, of), json!({"downbeats": true})).unwrap();
    assert_eq!((figure(&found, "F-measure"), figure(&found, "CMLt")), (1.0, 1.0));
    assert!(figure(&found, "downbeat F-measure") > 0.99, "{found:?}");
    let shifted = run("beats", &corpus(20, 5, of), json!({})).unwrap();
    assert!(figure(&shifted, "F-measure") < 0.6, "{shifted:?}");
    let published = run("beats", &corpus(20, 0, of), json!({"protocol": "published"})).unwrap();
    assert_eq!(figure(&published, "F-measure"), 1.0);
}

#[test]
fn sections_and_their_boundaries_are_found() {
    let names = ["intro", "verse", "chorus", "outro"];
    let of = |index: usize| {
        // Four sections of 20 s; a frame before a boundary knows it.
        let section = |frame: usize| (frame / 500 + index) % 4;
        let frames = (0..2000).map(|frame| {
            let mut vector = one_hot(5, section(frame));
            vector[4] = if frame % 500 < 5 && frame > 0 { 1.0 } else { 0.0 };
            vector
        });
        let labels = (0..4).map(|i| label(Some(20.0 * i as f64), Some(20.0 * (i + 1) as f64), names[section(500 * i)]));
        (frames.collect(), labels.collect())
    };
    let found = run("structure", &corpus(20, 0, of), json!({})).unwrap();
    assert!(figure(&found, "frame accuracy") > 0.98, "{found:?}");
    assert!(figure(&found, "HR3F") > 0.98, "{found:?}");
}

#[test]
fn what_does_not_fit_is_refused_before_the_run() {
    let message = |task: &str, params: Value| bind(task, 4, params).err().map(|error| error.to_string());
    assert_eq!(
        message("pitch", json!({"task": "beats"})).unwrap(),
        "expected labels of `beats`, found labels of `pitch`"
    );
    assert_eq!(message("pitch", json!({"layers": ["9"]})).unwrap(), "the input has no `9`, it has 3");
    assert_eq!(message("pitch", json!({"training": {"lr": 0.0}})).unwrap(), "expected a number above 0, found 0");
    assert_eq!(message("melody", json!({})).unwrap(), "no task is called `melody`");
    assert_eq!(message("pitch", json!({"layers": ["3+3"]})), None);
}

#[test]
fn data_that_cannot_be_learned_from_is_named() {
    let of = |index: usize| (vec![one_hot(2, index % 2); 2], vec![label(None, None, 60)]);
    let error = run("pitch", &corpus(20, 0, of), json!({})).unwrap_err();
    assert!(error.contains("the same label, `60`"), "{error}");
    let of = |index: usize| (vec![one_hot(2, index % 2); 2], vec![label(None, None, 60 + index % 2)]);
    let mut given = corpus(20, 0, of);
    given.retain(|given| given.split != Split::Valid);
    let error = run("pitch", &given, json!({})).unwrap_err();
    assert!(error.contains("nothing in the `valid` split") && error.contains("12 in train"), "{error}");
    let mut given = corpus(20, 0, of);
    given[3].frames[1][0] = f32::NAN;
    let error = run("pitch", &given, json!({})).unwrap_err();
    assert!(error.contains("`003.wav`: layer `3` of the input has values that are not finite"), "{error}");
    let mut given = corpus(20, 0, of);
    given[7].labels[0].label = "sixty".to_owned();
    let error = run("pitch", &given, json!({})).unwrap_err();
    assert!(error.contains("`007.wav`: expected a MIDI number from 0 to 127, found `sixty`"), "{error}");
}

/// Chords that change every second, with a vector that says which.
fn songs(index: usize) -> (Vec<Vec<f32>>, Vec<LabelRow>) {
    let names = ["C:maj", "A:min7", "F:maj/3", "N"];
    let chord = |second: usize| (index + second * second) % 4;
    let frames = (0..300).map(|frame| one_hot(4, chord(frame / 25))).collect();
    let labels = (0..12).map(|s| label(Some(s as f64), Some(s as f64 + 1.0), names[chord(s)])).collect();
    (frames, labels)
}

#[test]
fn every_fold_is_run_and_the_first_is_what_it_is_alone() {
    let of = |index: usize| (vec![one_hot(12, index * 7 % 12); 4], vec![label(None, None, 48 + index * 7 % 12)]);
    let given = corpus(120, 0, of);
    // Of the second fold the last ten recordings are no part; what was tested in the first is learned.
    let folds = |index: usize| {
        let second = [Split::Test, Split::Train, Split::Train, Split::Train, Split::Valid][index % 5];
        vec![Some(given[index].split), (index < 110).then_some(second)]
    };
    let folder = tempfile::tempdir().unwrap();
    let [all, one] = ["all", "one"].map(|name| folder.path().join(name));
    let params = json!({"repeats": 2});
    let rows = on_test(&results("pitch", &given, &params, Some(&folds), &all).unwrap());
    let alone = on_test(&results("pitch", &given, &params, None, &one).unwrap());
    let first = rows.iter().filter(|row| row.0 == Some(0)).map(|row| (None, row.1.clone(), row.2));
    assert_eq!(first.collect::<Vec<_>>(), alone);
    let accuracies = rows.iter().filter(|row| row.1 == "accuracy").map(|row| (row.0.unwrap(), row.2));
    assert_eq!(accuracies.collect::<Vec<_>>(), [(0, 1.0), (0, 1.0), (1, 1.0), (1, 1.0)]);
    let found = details(&all);
    assert_eq!((&found["folds"], found["fits"].as_array().map(Vec::len)), (&json!(2), Some(4)));
    assert_eq!(details(&one)["folds"], Value::Null);
    // The confusion is that of both folds: 24 and 22 recordings are tested.
    let counts = found["confusion"]["counts"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    assert_eq!(counts.filter_map(Value::as_f64).sum::<f64>(), 46.0);
    let error = results("pitch", &given, &params, Some(&|index| vec![Some(given[index].split), None]), &all);
    assert!(error.unwrap_err().contains("task `pitch`, fold 1 has nothing in the `train` split"));
}

#[test]
fn vectors_in_a_file_give_the_same_results() {
    let given = corpus(20, 0, songs);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, params: Value| {
        let folder = folder.path().join(name);
        let rows = results("chords", &given, &params, None, &folder).unwrap();
        (rows, details(&folder)["vectors"].clone())
    };
    let (held, part, filed) =
        (run("held", json!({})), run("part", json!({"memory": "20KiB"})), run("filed", json!({"memory": "0B"})));
    assert_eq!((&held.0, &held.0), (&part.0, &filed.0));
    // 20 recordings of 300 frames of 4 values of 4 bytes.
    assert_eq!((held.1, part.1, filed.1), (json!([96_000, 0]), json!([19_200, 76_800]), json!([0, 96_000])));
}

#[test]
fn published_windows_are_drawn_and_can_be_drawn_again() {
    let given = corpus(20, 0, songs);
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, protocol: &str| {
        let folder = folder.path().join(name);
        let rows = results("chords", &given, &json!({"protocol": protocol, "window_s": 4.0}), None, &folder).unwrap();
        (rows, details(&folder)["fits"].clone())
    };
    let (first, again, standard) = (run("a", "published"), run("b", "published"), run("c", "standard"));
    assert_eq!(first, again);
    assert_ne!(first.1[0]["looks"][0]["loss"], standard.1[0]["looks"][0]["loss"]);
}
