//! What binding refuses; that a run trains, evaluates, saves and ends; that a stopped run continues with the same bits.

use super::params::ModelParams;
use super::*;
use crate::error::At;
use crate::model::Size;
use crate::ops::registry;
use crate::stage::{Output, Position, Progress};
use crate::{Bound, ParamsError, Rejection};
use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{Float32Type, UInt16Type};
use omar_schemas::{Origin, Split, StreamSpec, TrackId, ViewSpec, column, fixed_tensor};
use serde_json::{Value, json};
use std::path::Path;

/// 2 s at 8 kHz: mel-like frames every 80 samples, of which 4 make a patch; 50 positions.
fn features() -> FeaturesSpec {
    FeaturesSpec { sample_rate: 8000, crop_samples: 16_000, views: vec![ViewSpec::new("mel", 3, 201, 80)] }
}

fn tokens() -> TokensSpec {
    let stream = |view: &str, codebooks| {
        let quantizer = "made up".to_owned();
        StreamSpec { view: view.into(), codebooks, codebook_size: 16, quantizer }
    };
    TokensSpec {
        sample_rate: 8000,
        crop_samples: 16_000,
        patch_samples: 320,
        positions: 50,
        streams: vec![stream("mel", 2), stream("cqt", 1)],
    }
}

fn params() -> Value {
    json!({
        "size": "tiny",
        "model": {"layers": 1, "dim": 16, "heads": 2, "kernel": 5},
        "steps": 12,
        "minibatch": 4,
        "mask": {"span": "120ms"},
        "optimizer": {"lr": 0.003},
        "shuffle_buffer": 6,
        "checkpoint": {"every": 5, "keep": 2},
        "valid": {"every": 4, "crops": 5},
    })
}

fn bind(params: Value, input: &FeaturesSpec, targets: &TokensSpec) -> Result<Bound, ParamsError> {
    let (input, targets) = (Features::schema(input), Tokens::schema(targets));
    let registry = registry();
    let kind = registry.get("pretrain").expect("it is registered");
    (kind.bind)(params, &Inputs::new(vec![("input", &input), ("targets", &targets)]))
}

/// Shards of tracks: (id, split, crops).
const CORPUS: [&[(u64, Split, u32)]; 3] = [
    &[(11, Split::Train, 3), (12, Split::Valid, 5), (13, Split::Train, 2)],
    &[(14, Split::Test, 2)],
    &[(15, Split::Train, 4), (16, Split::Valid, 2), (17, Split::Train, 1)],
];

/// The two batches of one track.
fn batches(track: u64, split: Split, crops: u32) -> [RecordBatch; 2] {
    let origin = Origin { track_id: TrackId(track), path: format!("{track}.wav"), split };
    let n = crops as usize;
    let keys = || {
        let mut columns = origin.columns(n);
        columns.push(Arc::new(UInt32Array::from_iter_values(0..crops)) as ArrayRef);
        columns.push(Arc::new(Float64Array::from(vec![0.0; n])));
        columns.push(Arc::new(Float64Array::from(vec![2.0; n])));
        columns
    };
    let wave = |i: usize, rate: f32| ((i / 3) as f32 * rate + track as f32).sin();
    let mut input = keys();
    input.push(fixed_tensor::<Float32Type>(603, (0..603 * n).map(|i| wave(i, 0.02)).collect()));
    let mut targets = keys();
    let codes = |len: usize| (0..len * n).map(|i| ((wave(i * 12, 0.02) + 1.0) * 7.9) as u16).collect();
    targets.push(fixed_tensor::<UInt16Type>(100, codes(100)));
    targets.push(fixed_tensor::<UInt16Type>(50, codes(50)));
    [
        RecordBatch::try_new(Features::schema(&features()), input).expect("the columns of the edge"),
        RecordBatch::try_new(Tokens::schema(&tokens()), targets).expect("the columns of the edge"),
    ]
}

#[derive(Default)]
struct Rows {
    position: Position,
    rows: Vec<RecordBatch>,
}

impl Output for Rows {
    fn emit(&mut self, batch: RecordBatch) {
        self.rows.push(batch);
    }

    fn reject(&mut self, track: TrackId, reason: Rejection) {
        panic!("{track}: {reason:?}");
    }

    fn position(&self) -> Position {
        self.position
    }
}

fn context(dir: &Path, resume: bool) -> StageContext {
    StageContext { seed: 5, run_dir: Some(dir.to_owned()), resume, ..StageContext::detached("model") }
}

/// Runs until enough, or until `stop` rows of training have come out; then flushes or interrupts.
fn run(context: &StageContext, corpus: &[&[(u64, Split, u32)]], stop: usize) -> Result<Vec<RecordBatch>, StageError> {
    run_with(params(), context, corpus, stop)
}

fn run_with(
    params: Value,
    context: &StageContext,
    corpus: &[&[(u64, Split, u32)]],
    stop: usize,
) -> Result<Vec<RecordBatch>, StageError> {
    let stage = bind(params, &features(), &tokens()).expect("the parameters fit").stage;
    let mut operator = stage.start(context)?;
    let mut out = Rows::default();
    let trained = |out: &Rows| out.rows.iter().filter(|row| split(row) == "train").count();
    for pass in 0..100 {
        for (shard, tracks) in corpus.iter().enumerate() {
            out.position = Position { pass, shard: shard as u32 };
            if out.position < operator.start_at() {
                continue;
            }
            for (track, split, crops) in *tracks {
                let [input, targets] = batches(*track, *split, *crops);
                assert_ne!(operator.push(0, &input, &mut out)?, Progress::Pending);
                let mut progress = operator.push(1, &targets, &mut out)?;
                while progress == Progress::Pending {
                    if trained(&out) == stop {
                        operator.interrupt()?;
                        return Ok(out.rows);
                    }
                    progress = operator.resume(&mut out)?;
                }
                if progress == Progress::Enough {
                    operator.flush(&mut out)?;
                    return Ok(out.rows);
                }
            }
        }
    }
    panic!("the stage never had enough")
}

fn split(row: &RecordBatch) -> &str {
    column::<StringArray>(row, "split").expect("a column of the edge").value(0)
}

fn step(row: &RecordBatch) -> u64 {
    column::<UInt64Array>(row, "step").expect("a column of the edge").value(0)
}

/// Everything in a row but the time it took.
fn bits(row: &RecordBatch) -> String {
    let columns = row.columns()[..row.num_columns() - 1].iter().map(|column| format!("{column:?}"));
    columns.collect::<Vec<_>>().join(";")
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.into_string().expect("a name")).collect();
    names.sort();
    names
}

/// [`params`] with some of them changed.
fn changed(changes: Value) -> Value {
    let mut params = params();
    for (key, value) in changes.as_object().expect("an object") {
        params[key] = value.clone();
    }
    params
}

#[test]
fn a_run_that_gets_worse_ends_and_keeps_its_best_checkpoint_and_milestones() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = changed(json!({
        "steps": 40,
        "optimizer": {"lr": 1.0, "schedule": "constant", "warmup": 0, "clip": 1.0},
        "checkpoint": {"every": 1, "keep": 1, "milestones": 3},
        "valid": {"every": 2, "crops": 5, "patience": 2},
    }));
    let rows = run_with(params, &context(dir.path(), false), &CORPUS, usize::MAX).expect("it runs");
    let valid: Vec<(u64, f64)> = rows
        .iter()
        .filter(|row| split(row) == "valid")
        .map(|row| (step(row), column::<Float64Array>(row, "loss").expect("a column of the edge").value(0)))
        .collect();
    let best = valid.iter().min_by(|a, b| a.1.total_cmp(&b.1)).expect("evaluations").0;
    let last = valid.last().expect("evaluations").0;
    assert_eq!(last, best + 4, "two evaluations without a lower loss end the run: {valid:?}");
    assert!(last < 40);
    let mut kept: Vec<u64> =
        (1..=last).filter(|step| step.is_multiple_of(3) || *step == best || *step == last).collect();
    kept.sort_unstable();
    let steps = kept.iter().map(|step| format!("step-{step:09}"));
    let expected: Vec<String> = ["manifest.json".to_owned()].into_iter().chain(steps).collect();
    assert_eq!(names(&dir.path().join("checkpoints")), expected);
}

#[test]
fn a_run_out_of_time_ends_with_a_checkpoint_and_goes_on_when_resumed() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = changed(json!({"max_time": "1ms", "steps": 3}));
    let mut steps = Vec::new();
    let mut evaluated = Vec::new();
    for resume in [false, true, true, true] {
        let rows = run_with(params.clone(), &context(dir.path(), resume), &CORPUS, usize::MAX).expect("it runs");
        steps.extend(rows.iter().filter(|row| split(row) == "train").map(step));
        evaluated.extend(rows.iter().filter(|row| split(row) == "valid").map(step));
    }
    assert_eq!(steps, [1, 2, 3]);
    // It ends as every training does, with what the held-out crops say, once for every step that it ended after.
    assert_eq!(evaluated, [1, 2, 3]);
}

#[test]
fn an_evaluation_because_time_is_up_is_none_that_patience_counts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = changed(json!({"max_time": "1ms", "steps": 3, "valid": {"every": 2, "crops": 5}}));
    for resume in [false, true, true] {
        run_with(params.clone(), &context(dir.path(), resume), &CORPUS, usize::MAX).expect("it runs");
    }
    let (interrupted, whole) = (dir, tempfile::tempdir().expect("a temporary folder"));
    let params = changed(json!({"steps": 3, "valid": {"every": 2, "crops": 5}}));
    run_with(params, &context(whole.path(), false), &CORPUS, usize::MAX).expect("it runs");
    let best = |dir: &Path| std::fs::read_to_string(dir.join("best.json")).expect("it is written");
    assert_eq!(best(interrupted.path()), best(whole.path()));
}

#[test]
fn a_last_step_that_is_not_due_is_logged_and_evaluated_all_the_same() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = changed(json!({"max_time": "1ms", "log_every": 50, "valid": {"every": 100, "crops": 5}}));
    let rows = run_with(params, &context(dir.path(), false), &CORPUS, usize::MAX).expect("it runs");
    let found: Vec<(&str, u64)> = rows.iter().map(|row| (split(row), step(row))).collect();
    assert_eq!(found, [("train", 1), ("valid", 1)]);
    // A run that is stopped has no time for that.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = changed(json!({"log_every": 1, "valid": {"every": 100, "crops": 5}}));
    let rows = run_with(params, &context(dir.path(), false), &CORPUS, 2).expect("it runs");
    assert!(rows.iter().all(|row| split(row) == "train"));
}

#[test]
fn a_loss_that_is_no_number_leaves_the_weights_before_it_and_the_minibatch() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let params = changed(json!({"optimizer": {"lr": 1e30, "warmup": 0, "schedule": "constant"}}));
    let error =
        run_with(params, &context(dir.path(), false), &CORPUS, usize::MAX).expect_err("it diverges").to_string();
    assert!(error.contains("is not finite; lower the learning rate, or set `clip`; the weights before it"), "{error}");
    let name = names(dir.path()).into_iter().find(|name| name.starts_with("failed-step-")).expect("the minibatch");
    assert!(error.contains(&name), "{error}");
    let tensors = candle_core::safetensors::load(dir.path().join(name), &candle_core::Device::Cpu).expect("it reads");
    assert_eq!(tensors["patches"].dims(), [4, 50, 12]);
    assert_eq!(tensors["keys"].dims(), [4, 2]);
    assert_eq!(names(&dir.path().join("checkpoints")).len(), 2);
}

#[test]
fn several_span_lengths_accumulation_and_recomputation_are_bound() {
    let params = changed(json!({
        "mask": {"span": "120ms", "more_spans": ["400ms", "1s"]},
        "accumulate": 2,
        "recompute": true,
    }));
    let dir = tempfile::tempdir().expect("a temporary folder");
    run_with(params, &context(dir.path(), false), &CORPUS, usize::MAX).expect("it runs");
    let message = |params: Value| bind(params, &features(), &tokens()).expect_err("it is refused").to_string();
    assert!(message(changed(json!({"accumulate": 5}))).contains("expected at most `minibatch`, 4, found 5"));
    assert!(message(changed(json!({"mask": {"more_spans": ["0s"]}}))).contains("expected some time"));
}

#[test]
fn a_run_trains_evaluates_saves_and_ends() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = run(&context(dir.path(), false), &CORPUS, usize::MAX).expect("it runs");
    let of = |name: &str| rows.iter().filter(|row| split(row) == name).map(step).collect::<Vec<_>>();
    assert_eq!(of("train"), (1..=12).collect::<Vec<_>>());
    assert_eq!(of("valid"), [4, 8, 12]);
    let crops = column::<UInt64Array>(&rows[0], "crops").expect("a column of the edge").value(0);
    assert_eq!(crops, 4);
    assert_eq!(names(&dir.path().join("checkpoints")), ["manifest.json", "step-000000010", "step-000000012"]);
    assert_eq!(names(dir.path()), ["best.json", "checkpoints", "examples.safetensors", "valid.safetensors"]);
    let spec = Metrics::spec(&rows[0].schema()).expect("a metrics edge");
    assert_eq!(spec.streams, ["mel/0", "mel/1", "cqt/0"]);
    assert!((spec.chance - 1.0 / 16.0).abs() < 1e-12);
}

#[test]
fn evaluations_say_what_a_constant_answer_reaches_and_show_crops() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let rows = run(&context(dir.path(), false), &CORPUS, usize::MAX).expect("it runs");
    let unigrams: Vec<Option<f64>> = rows
        .iter()
        .map(|row| column::<Float64Array>(row, "unigram").expect("a column of the edge").iter().next().flatten())
        .collect();
    for (row, unigram) in rows.iter().zip(&unigrams) {
        assert_eq!(unigram.is_some(), split(row) == "valid");
        assert!(unigram.is_none_or(|share| share > 1.0 / 16.0 && share < 1.0), "{unigram:?}");
    }
    let path = dir.path().join(crate::storage::EXAMPLES_FILE);
    let shown = crate::storage::PredictedCrops::read(&path).expect("readable").expect("it is there");
    assert_eq!((shown.step, shown.positions(), shown.patch_dim(), shown.crops.len()), (12, 50, 12, 4));
    assert_eq!(shown.streams, ["mel/0", "mel/1", "cqt/0"]);
    // Tracks 12 and 16 are held out; what is shown is what the stage was given.
    assert_eq!(shown.crops.iter().map(|crop| crop.track).collect::<Vec<_>>()[..2], [12, 16]);
    for crop in &shown.crops {
        let name = crop.name.as_ref().expect("where it is from");
        assert_eq!((name.path.clone(), name.start_s), (format!("{}.wav", crop.track), 0.0));
        assert!(crop.mask.iter().any(|&masked| masked) && crop.mask.len() == 50);
        assert!(crop.tokens.iter().chain(&crop.predicted).all(|&code| code < 16));
    }
}

#[test]
fn the_cost_is_known_before_it_runs() {
    let stage = bind(params(), &features(), &tokens()).expect("the parameters fit").stage;
    let estimate = stage.estimate().expect("training has a cost");
    assert_eq!((estimate.steps, estimate.minibatch, estimate.positions), (12, 4, 50));
    assert!((estimate.rate_hz - 25.0).abs() < 1e-9 && (estimate.audio_s_per_step() - 8.0).abs() < 1e-9);
    assert_eq!(estimate.head_parameters, 17 * 16 * 3);
    assert_eq!(estimate.memory.weights, 4 * estimate.parameters);
    assert!(estimate.memory.activations > 0 && estimate.flop() > 12.0 * 4.0 * 50.0);
}

#[test]
fn a_stopped_run_continues_with_the_same_bits() {
    let whole = tempfile::tempdir().expect("a temporary folder");
    let expected = run(&context(whole.path(), false), &CORPUS, usize::MAX).expect("it runs");
    for stop in [1, 3, 5, 6, 11] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut rows = run(&context(dir.path(), false), &CORPUS, stop).expect("it runs");
        rows.extend(run(&context(dir.path(), true), &CORPUS, usize::MAX).expect("it continues"));
        let found: Vec<_> = rows.iter().map(bits).collect();
        assert_eq!(found, expected.iter().map(bits).collect::<Vec<_>>(), "stopped after {stop} steps");
        for file in ["model", "optimizer"] {
            let read = |dir: &Path| {
                let path = dir.join("checkpoints/step-000000012").join(format!("{file}.safetensors"));
                std::fs::read(path).expect("the checkpoint is there")
            };
            assert!(read(dir.path()) == read(whole.path()), "{file} differs, stopped after {stop} steps");
        }
    }
}

#[test]
fn a_finished_run_has_enough_at_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    run(&context(dir.path(), false), &CORPUS, usize::MAX).expect("it runs");
    assert_eq!(run(&context(dir.path(), true), &CORPUS, usize::MAX).expect("it runs").len(), 0);
    let error = run(&context(dir.path(), false), &CORPUS, usize::MAX).expect_err("there are checkpoints").to_string();
    assert!(error.contains("is there already: resume that run, or choose another folder"), "{error}");
}

#[test]
fn a_corpus_without_training_crops_is_an_error_and_no_endless_run() {
    let corpus: [&[(u64, Split, u32)]; 2] = [&[(1, Split::Valid, 3)], &[(2, Split::Test, 2)]];
    let error = run(&StageContext::detached("model"), &corpus, usize::MAX).expect_err("nothing to train on");
    assert_eq!(error.to_string(), "a whole pass over the corpus brought no crop of the `train` split");
}

#[test]
fn several_views_stand_side_by_side_in_a_patch() {
    let mut input = features();
    input.views.push(ViewSpec::new("waveform", 1, 16_000, 1));
    let (views, positions) = views(&input, &tokens()).expect("they fit");
    assert_eq!(positions, 50);
    assert_eq!(views.iter().map(|(_, shape)| shape.values()).collect::<Vec<_>>(), [12, 320]);
}

#[test]
fn named_sizes_keep_their_norm_and_other_depths_get_their_own() {
    let large = ModelParams::default().over(&Size::Large.config());
    assert_eq!(large, Size::Large.config());
    let deeper =
        ModelParams { layers: Some(32), causal: Some(false), ..ModelParams::default() }.over(&Size::Large.config());
    assert_eq!(deeper.alpha(), Some(64f64.powf(0.25)));
    assert!(!deeper.causal && deeper.dim == 1024);
}

/// Changes one parameter by its path.
fn with(path: &str, value: Value) -> Value {
    let mut params = params();
    let mut at = &mut params;
    for key in path.split('.') {
        at = &mut at[key];
    }
    *at = value;
    params
}

#[test]
fn wrong_parameters_are_refused_where_they_stand() {
    for (path, value, blamed, message) in [
        ("model.heads", json!(5), "model.heads", "`dim` 16 is not a multiple of 5 heads"),
        ("model.kernel", json!(4), "model.kernel", "expected an odd length, found 4"),
        ("model.dropout", json!(1.0), "model.dropout", "expected 0 to below 1, found 1"),
        ("mask.probability", json!(0.0), "mask.probability", "expected above 0, found 0"),
        ("mask.span", json!("0s"), "mask.span", "expected some time, found `0s`"),
        ("optimizer.lr", json!(-1.0), "optimizer.lr", "expected a positive number, found -1"),
        ("optimizer.warmup", json!(99), "optimizer.warmup", "expected at most `steps`, found 99"),
        ("minibatch", json!(0), "minibatch", "expected at least 1, found 0"),
        ("checkpoint.every", json!(0), "checkpoint.every", "expected at least 1, found 0"),
        ("steps", json!(0), "steps", "expected at least 1, found 0"),
    ] {
        match bind(with(path, value), &features(), &tokens()) {
            Err(ParamsError::Bind(error)) => {
                assert_eq!((error.at, error.message.as_str()), (At::Param(blamed.to_owned()), message));
            }
            other => panic!("{path}: {other:?}"),
        }
    }
    match bind(with("mask.span", json!(0.4)), &features(), &tokens()) {
        Err(ParamsError::Form { path, message }) => {
            assert!(path == "mask.span" && message.contains("needs a unit"), "{path}: {message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_with_what_was_expected() {
    let check =
        |input: &FeaturesSpec, targets: &TokensSpec, port: &str, part: &str| match bind(params(), input, targets) {
            Err(ParamsError::Bind(error)) => {
                assert_eq!(error.at, At::Input(port.to_owned()));
                assert!(error.message.contains(part), "{}", error.message);
            }
            other => panic!("{part}: {other:?}"),
        };
    let (fits, targets) = (features(), tokens());
    let rate = FeaturesSpec { sample_rate: 16_000, ..fits.clone() };
    check(&rate, &targets, "input", "expected crops of 16000 samples at 8000 Hz as in the targets, found crops of");
    let mut hop = fits.clone();
    hop.views[0].hop_len = 90;
    check(&hop, &targets, "input", "view `mel` has a frame every 90 samples, and a token stands for 320");
    let mut short = fits.clone();
    short.views[0].frames = 180;
    check(&short, &targets, "input", "view `mel` has 45 positions of 4 frames, the targets have 50");
    let none = FeaturesSpec { views: Vec::new(), ..fits.clone() };
    check(&none, &targets, "input", "expected a view with at least one position, found none");
    let mut sizes = targets.clone();
    sizes.streams[1].codebook_size = 32;
    check(&fits, &sizes, "targets", "all codebooks must have one size: `mel` has 16, `cqt` has 32");
}
