//! `probe`: trains the classifier of a task on a representation, and scores it.
//!
//! Inputs: `in`, edge `embedding` or `features`, and `labels`, edge `label`; they meet by recordings. Output edge `result`:
//! a row per layer, metric, split and seed. A multilayer perceptron ([`crate::probe::mlp`]) learns the recordings of the
//! `train` split; those of `valid` choose its weights, the layer and, where a search is asked for, learning rate and
//! dropout; those of `test` are scored. The split is that of the labels.
//!
//! Beside its rows the node writes `details.json` (confusions, curves, coverage, leaks) and `predictions.parquet` into its
//! folder, for the report; a probe of features adds small spectrograms of the recordings that it shows.
//!
//! Vectors are 4 bytes a value: for tasks of recordings one per recording, for tasks of frames all of them (an hour of 25
//! Hz and 512 values is 184 MB per layer; `rate` makes it less). They are held in memory up to `memory`; what comes after
//! it is put aside in a file in the folder of the node and read as it is needed, with the same results to the last bit.
//!
//! Where the labels come with several folds, each is run, and figures are means over them.

mod bench;
mod collect;
mod details;
mod kept;
mod run;
mod shown;
mod spectrogram;
mod store;
mod vectors;
mod windows;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use omar_schemas::units::Bytes;
use omar_schemas::{Edge, Embeddings, Features, Labels, LabelsSpec, Results, ResultsSpec, edge_name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::collect::Collector;
pub use self::details::{DETAILS_FILE, PREDICTIONS_FILE};
pub use self::spectrogram::{SPECTROGRAMS_FILE, Spectrogram};
use self::vectors::{Pool, Source};
use crate::error::{BindError, StageError};
use crate::probe::fit::FitConfig;
use crate::probe::task::{Protocol, TaskKind, Unit};
use crate::stage::{Inputs, Meeting, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Parameters of `probe`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProbeParams {
    /// What to predict. Absent: what the labels are of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskKind>,
    /// How predictions become figures: `standard`, as `mir_eval` and scikit-learn define them, or `published`, with the
    /// peculiarities of the published code.
    #[serde(default)]
    pub protocol: Protocol,
    /// Name of the representation in the results. Absent: that of the encoder, or its views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Layers or views to probe: `["6", "11"]` each on its own, `["6+11"]` side by side. Absent: each on its own, and views
    /// side by side too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Frames per second that vectors are averaged into, in Hz, for tasks of frames. Absent: every vector is a frame, 5 Hz
    /// for structure. Features need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Seconds of a recording that are one training example, for tasks of frames. In `standard` they follow one another;
    /// in `published` they overlap, and are drawn at random.
    #[serde(default = "default_window")]
    pub window_s: f64,
    /// Width of the hidden layers.
    #[serde(default = "default_hidden")]
    pub hidden: usize,
    /// Linear layers of the classifier.
    #[serde(default = "default_depth")]
    pub depth: usize,
    /// What differs from the published training of the task's probe.
    #[serde(default)]
    pub training: TrainingParams,
    /// Repeats with different random numbers.
    #[serde(default = "default_repeats")]
    pub repeats: u64,
    /// Settings to try; the best on `valid` is taken, for every layer on its own.
    #[serde(default)]
    pub search: SearchParams,
    /// Memory for vectors, such as `4GiB`; what does not fit waits in a file. The results are the same.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Folder that keeps fitted probes: one whose examples, settings and random numbers are the same is taken from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<PathBuf>,
    /// Whether to find downbeats beside beats.
    #[serde(default)]
    pub downbeats: bool,
    /// Rate to which beat activations are interpolated before they are decoded, in Hz. Absent: that of the frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoding_rate: Option<f64>,
}

/// Changes to the training of a probe; what is absent is as published.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingParams {
    /// Updates at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Recordings (or windows of them) per update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Largest learning rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Updates until it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// Weight decay of AdamW.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Probability of dropping an input of a layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// Updates between looks at the `valid` split. Absent: an epoch, at least 20 and at most 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_every: Option<u64>,
    /// Ends after so many looks without a better result; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
}

/// Settings to try.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SearchParams {
    /// Learning rates.
    #[serde(default)]
    pub lr: Vec<f64>,
    /// Probabilities of dropping.
    #[serde(default)]
    pub dropout: Vec<f64>,
    /// Widths of the hidden layers.
    #[serde(default)]
    pub hidden: Vec<usize>,
}

fn default_window() -> f64 {
    30.0
}

fn default_hidden() -> usize {
    512
}

fn default_depth() -> usize {
    2
}

fn default_memory() -> Bytes {
    Bytes(4 << 30)
}

fn default_repeats() -> u64 {
    1
}

impl TrainingParams {
    fn over(&self, published: FitConfig) -> FitConfig {
        let steps = self.steps.unwrap_or(published.steps);
        FitConfig {
            steps,
            batch: self.batch.unwrap_or(published.batch),
            lr: self.lr.unwrap_or(published.lr),
            // A shorter training warms up for as large a part of it.
            warmup: self.warmup.unwrap_or(published.warmup * steps / published.steps.max(1)),
            weight_decay: self.weight_decay.unwrap_or(published.weight_decay),
            dropout: self.dropout.unwrap_or(published.dropout),
            valid_every: self.valid_every.or(published.valid_every),
            patience: self.patience.or(published.patience).filter(|patience| *patience > 0),
        }
    }
}

/// The stage.
#[derive(Debug)]
pub struct Probe {
    plan: Arc<Plan>,
    schema: SchemaRef,
}

/// Everything that binding worked out.
#[derive(Debug)]
struct Plan {
    params: ProbeParams,
    task: TaskKind,
    labels: LabelsSpec,
    source: Source,
    pool: Pool,
    name: String,
    fit: FitConfig,
    /// Names of what is probed, with the columns that are side by side in it.
    layers: Vec<(String, Vec<usize>)>,
}

impl StageKind for Probe {
    const NAME: &'static str = "probe";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "trains the classifier of a task on embeddings or features, and scores it";
    const EXAMPLE: &'static str =
        "{stage: probe, from: {in: embeddings, labels: labels}, params: {layers: [\"6\"], repeats: 3}}";
    const SCOPE: Scope = Scope::Corpus { repeats: false };
    const INPUTS: &'static [&'static str] = &["in", "labels"];
    type Params = ProbeParams;

    fn bind(params: ProbeParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let labels = inputs.spec::<Labels>("labels")?;
        let (source, name) = if edge_name(inputs.schema("in")) == Some(Features::NAME) {
            let spec = inputs.spec::<Features>("in")?;
            let views: Vec<&str> = spec.views.iter().map(|view| view.name.as_str()).collect();
            (Source::Features(spec.clone()), views.join("+"))
        } else {
            let spec = inputs.spec::<Embeddings>("in")?;
            (Source::Embeddings(spec.clone()), spec.model.name)
        };
        let task = task(params.task, &labels)?;
        check(&params)?;
        let pool = pool(&params, task, &source)?;
        let layers = layers(params.layers.as_deref(), &source)?;
        let name = params.name.clone().unwrap_or(name);
        let fit = params.training.over(task.fit());
        check_fit(&fit)?;
        let (metric, smaller_is_better) = task.metric();
        let spec = ResultsSpec {
            task: task.as_str().to_owned(),
            input: name.clone(),
            metric: metric.to_owned(),
            smaller_is_better,
        };
        let schema = Results::schema(&spec);
        Ok(Self { plan: Arc::new(Plan { params, task, labels, source, pool, name, fit, layers }), schema })
    }
}

/// What the labels are of.
fn task(wanted: Option<TaskKind>, labels: &LabelsSpec) -> Result<TaskKind, BindError> {
    let found = TaskKind::ALL.into_iter().find(|kind| kind.as_str() == labels.task);
    match (wanted, found) {
        (Some(wanted), Some(found)) if wanted != found => {
            let message = format!("expected labels of `{}`, found labels of `{}`", wanted.as_str(), labels.task);
            Err(BindError::param("task", message).hint("remove `task`: the labels say what they are of"))
        }
        (Some(task), _) | (None, Some(task)) => Ok(task),
        (None, None) => Err(BindError::input_spec("labels", format!("no task is called `{}`", labels.task))),
    }
}

fn check(params: &ProbeParams) -> Result<(), BindError> {
    let positive = |name: &str, value: f64| {
        let fine = value.is_finite() && value > 0.0;
        if fine { Ok(()) } else { Err(BindError::param(name, format!("expected a number above 0, found {value}"))) }
    };
    positive("window_s", params.window_s)?;
    params.rate.map_or(Ok(()), |rate| positive("rate", rate))?;
    params.decoding_rate.map_or(Ok(()), |rate| positive("decoding_rate", rate))?;
    let counts = [("hidden", params.hidden), ("depth", params.depth), ("repeats", params.repeats as usize)];
    if let Some((name, _)) = counts.into_iter().find(|count| count.1 == 0) {
        return Err(BindError::param(name, "expected at least 1, found 0"));
    }
    params.search.lr.iter().try_for_each(|lr| positive("search.lr", *lr))?;
    params.search.dropout.iter().try_for_each(|dropout| share("search.dropout", *dropout))?;
    if params.search.hidden.contains(&0) {
        return Err(BindError::param("search.hidden", "expected widths of at least 1, found 0"));
    }
    Ok(())
}

fn share(name: &str, value: f64) -> Result<(), BindError> {
    let message = format!("expected a probability from 0 to below 1, found {value}");
    if (0.0..1.0).contains(&value) { Ok(()) } else { Err(BindError::param(name, message)) }
}

fn check_fit(fit: &FitConfig) -> Result<(), BindError> {
    let refused = |name: &str, message: String| Err(BindError::param(format!("training.{name}"), message));
    if fit.steps == 0 {
        return refused("steps", "expected at least 1, found 0".to_owned());
    }
    if fit.batch == 0 {
        return refused("batch", "expected at least 1, found 0".to_owned());
    }
    if !(fit.lr.is_finite() && fit.lr > 0.0) {
        return refused("lr", format!("expected a number above 0, found {}", fit.lr));
    }
    if !(fit.weight_decay.is_finite() && fit.weight_decay >= 0.0) {
        return refused("weight_decay", format!("expected a number of at least 0, found {}", fit.weight_decay));
    }
    share("training.dropout", fit.dropout)
}

/// How vectors become examples of the task.
fn pool(params: &ProbeParams, task: TaskKind, source: &Source) -> Result<Pool, BindError> {
    if task.unit() == Unit::Recording {
        // The published code looks at one window of a recording only: 30 s, for notes 4 s.
        let window = if task == TaskKind::Pitch { 4.0 } else { 30.0 };
        let first = params.protocol == Protocol::Published && task != TaskKind::Difficulty;
        return Ok(Pool::Recording(first.then_some(window)));
    }
    if let Source::Embeddings(spec) = source
        && spec.rate.is_none()
    {
        let message = format!("task `{}` is one of frames, and the embeddings are pooled", task.as_str());
        return Err(BindError::input_spec("in", message).hint("write `pool: frames` in the `embed` node"));
    }
    match (params.rate.or(task.rate()), source) {
        (Some(rate), _) => Ok(Pool::Rate(rate)),
        (None, Source::Embeddings(_)) => Ok(Pool::Frames),
        (None, Source::Features(_)) => {
            let message = format!("task `{}` is one of frames: expected their rate, found none", task.as_str());
            Err(BindError::param("rate", message).hint("write `rate: 25`, or whatever the embeddings to compare have"))
        }
    }
}

/// What is probed: by default each layer, and all views side by side.
fn layers(wanted: Option<&[String]>, source: &Source) -> Result<Vec<(String, Vec<usize>)>, BindError> {
    let names = source.names();
    let Some(wanted) = wanted else {
        let mut layers: Vec<_> = names.iter().enumerate().map(|(part, name)| (name.clone(), vec![part])).collect();
        if matches!(source, Source::Features(_)) && names.len() > 1 {
            layers.push((names.join("+"), (0..names.len()).collect()));
        }
        return Ok(layers);
    };
    if wanted.is_empty() {
        return Err(BindError::param("layers", "expected at least one layer, found none"));
    }
    let part = |name: &str| {
        names.iter().position(|known| known == name.trim()).ok_or_else(|| {
            let message = format!("the input has no `{}`, it has {}", name.trim(), names.join(", "));
            BindError::param("layers", message).hint("an `embed` node chooses the layers that it gives")
        })
    };
    let layer = |name: &String| Ok((name.clone(), name.split('+').map(part).collect::<Result<_, _>>()?));
    wanted.iter().map(layer).collect()
}

impl Stage for Probe {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn meeting(&self) -> Meeting {
        Meeting::Recordings
    }

    fn uses_device(&self) -> bool {
        true
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        Ok(Box::new(ProbeOperator {
            collector: Collector::new(self.plan.clone(), context.run_dir.as_deref()),
            plan: self.plan.clone(),
            context: context.clone(),
            schema: self.schema.clone(),
            rows: None,
        }))
    }
}

struct ProbeOperator {
    plan: Arc<Plan>,
    collector: Collector,
    context: StageContext,
    schema: SchemaRef,
    /// Rows of the first port until those of the second are there.
    rows: Option<RecordBatch>,
}

impl Operator for ProbeOperator {
    fn push(&mut self, port: Port, batch: &RecordBatch, _: &mut dyn Output) -> Result<Progress, StageError> {
        match (port, self.rows.take()) {
            (0, _) => self.rows = Some(batch.clone()),
            (_, Some(rows)) => self.collector.add(&rows, batch)?,
            (_, None) => return Err(StageError::Failed("labels came before the vectors".to_owned())),
        }
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let corpus = self.collector.take();
        // On a thread of the pool: from outside, every small product would wait to be let in.
        let (plan, context, schema) = (&self.plan, &self.context, &self.schema);
        out.emit(rayon::scope(|_| run::run(plan, corpus, context, schema))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
