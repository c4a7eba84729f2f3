//! Do graphs measure a corpus, and do other graphs take what was measured?

mod program;

use std::fs;

use arrow::datatypes::{Float32Type, UInt16Type};
use omar_schemas::fixed_values;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use program::{Options, Program};
use serde_json::Value;

const CROPS: &str = "omar: 1
name: measure
seed: 3
nodes:
  tracks: {stage: files, params: {root: audio}}
  audio:  {stage: decode, from: tracks}
  mono:   {stage: resample, from: audio, params: {sample_rate: 16000}}
  crops:  {stage: crop, from: mono, params: {duration: 2s, policy: grid, min_duration: 1s}}
";

/// A program whose folder holds `name.yaml`: the crops of the corpus, and these nodes.
fn graph(program: &Program, name: &str, nodes: &str) {
    fs::write(program.path(&format!("{name}.yaml")), format!("{CROPS}{nodes}")).expect("written");
}

const MEASURE: &str =
    "  views: {stage: features, from: crops, params: {views: {mel: {}, cqt: {}, waveform: {}}, normalize: none}}
  stats: {stage: statistics, from: views, params: {to: stats}}
";

fn use_them(grain: &str) -> String {
    format!(
        "  views:
    stage: features
    from: crops
    params: {{views: {{mel: {{}}, cqt: {{}}}}, normalize: {{from: stats}}, standardize: {grain}}}
    cache: cache/{grain}
"
    )
}

/// All values of a view in the cache, `(bins, frames of all crops)`.
fn values(program: &Program, folder: &str, view: &str, bins: usize) -> Vec<Vec<f64>> {
    let mut columns = vec![Vec::new(); bins];
    for (name, _) in program.cache().into_iter().filter(|(name, _)| name.starts_with(folder)) {
        let file = fs::File::open(program.path("cache").join(name)).expect("opens");
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("reads") {
            let batch = batch.expect("rows");
            for row in 0..batch.num_rows() {
                let frames = fixed_values::<Float32Type>(&batch, view, row).expect("a view");
                for frame in frames.chunks_exact(bins) {
                    frame.iter().zip(&mut columns).for_each(|(&value, column)| column.push(f64::from(value)));
                }
            }
        }
    }
    columns
}

fn mean_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[test]
fn statistics_of_one_graph_standardise_the_views_of_another() {
    let program = Program::new(&Options { tracks: 8, ..Options::default() });
    graph(&program, "measure", MEASURE);
    program.ok(&["run", "measure.yaml"]);
    let first = fs::read(program.path("stats/statistics.json")).expect("written");
    let parsed: Value = serde_json::from_slice(&first).expect("JSON");
    assert_eq!(parsed["views"]["cqt"]["bin_mean"].as_array().map(Vec::len), Some(144));

    graph(&program, "global", &use_them("global"));
    graph(&program, "per_bin", &use_them("per_bin"));
    program.ok(&["run", "global.yaml"]);
    program.ok(&["run", "per_bin.yaml"]);
    // Padded frames are in the rows, but not in the statistics.
    let all: Vec<f64> = values(&program, "global", "mel", 96).concat();
    let (mean, std) = mean_std(&all);
    assert!(mean.abs() < 0.2 && (0.7..1.3).contains(&std), "{mean} {std}");
    let bins = values(&program, "per_bin", "mel", 96);
    let lively = bins.iter().map(|bin| mean_std(bin)).filter(|(_, std)| *std > 0.5).count();
    assert!(lively > 80, "{lively} of 96 bins have a deviation near one");

    for how in [&["--direct"][..], &["--threads", "1"]] {
        fs::remove_file(program.path("stats/statistics.json")).expect("it is there");
        program.ok(&[&["run", "measure.yaml"], how].concat());
        assert!(fs::read(program.path("stats/statistics.json")).expect("written") == first, "{how:?}");
    }
}

#[test]
fn statistics_that_do_not_apply_are_refused_before_anything_runs() {
    let program = Program::new(&Options { tracks: 2, ..Options::default() });
    graph(&program, "global", &use_them("global"));
    let refusal = |args: &[&str]| {
        let output = program.output(args);
        assert_eq!(output.status.code(), Some(3));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let missing = refusal(&["validate", "global.yaml"]);
    assert!(missing.contains("there are no statistics at `stats/statistics.json`"), "{missing}");
    assert!(missing.contains("global.yaml:"), "{missing}");

    graph(&program, "measure", MEASURE);
    program.ok(&["run", "measure.yaml"]);
    program.ok(&["validate", "global.yaml"]);
    let other = refusal(&["validate", "global.yaml", "--set", "nodes.views.params.views.mel.n_mels=64"]);
    assert!(other.contains("were made with n_mels 96, here it is 64"), "{other}");

    fs::write(program.path("stats/statistics.json"), "{\"omar_statistics\": 1").expect("written");
    let torn = refusal(&["validate", "global.yaml"]);
    assert!(torn.contains("stats/statistics.json") && torn.contains("line 1"), "{torn}");
}

#[test]
fn codebooks_of_one_graph_make_the_tokens_of_another() {
    let program = Program::new(&Options { tracks: 6, ..Options::default() });
    let mel = "  mel: {stage: features, from: crops, params: {views: {mel: {}}}}\n";
    let fit = "  codebook: {stage: fit_codebook, from: mel, params: {codebook_size: 16, patch_rate: 15.625, to: cb}}\n";
    let tokens = "  tokens:
    stage: tokenize
    from: mel
    params: {quantizer: {k_means: {codebook_size: 16, weights: cb}}, patch_rate: 15.625}
    cache: cache/tokens
";
    graph(&program, "fit", &format!("{mel}{fit}"));
    graph(&program, "tokens", &format!("{mel}{tokens}"));
    let output = program.output(&["validate", "tokens.yaml"]);
    assert_eq!(output.status.code(), Some(3));
    let missing = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(missing.contains("there is no file `cb/codebook.safetensors`"), "{missing}");

    program.ok(&["run", "fit.yaml"]);
    let first = fs::read(program.path("cb/codebook.safetensors")).expect("written");
    program.ok(&["run", "fit.yaml", "--direct"]);
    assert!(fs::read(program.path("cb/codebook.safetensors")).expect("written") == first);
    program.ok(&["run", "tokens.yaml"]);
    let mut seen = std::collections::BTreeSet::new();
    for (name, _) in program.cache() {
        let file = fs::File::open(program.path("cache").join(name)).expect("opens");
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("parquet").build().expect("reads") {
            let batch = batch.expect("rows");
            for row in 0..batch.num_rows() {
                seen.extend(fixed_values::<UInt16Type>(&batch, "mel", row).expect("tokens").iter().copied());
            }
        }
    }
    assert!(seen.len() > 12 && seen.iter().all(|&token| token < 16), "{seen:?}");
}
