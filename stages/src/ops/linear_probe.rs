//! `linear_probe`: how well a linear classifier predicts labels from a representation.
//!
//! Input edge `embedding` or `features`, output edge `score`: a row per task, layer (or view) and metric. Recordings of
//! the `train` split are fitted, those of `valid` choose the penalty and the threshold of peaks, those of `test` are
//! scored. The classifier is that of [`crate::probe`]: standardised vectors, multinomial logistic regression.
//!
//! Labels come from a list `path,task,start,end,label`, see [`crate::probe::labels`]. The vectors of a recording are
//! averaged into frames of `1 / rate` seconds, wherever its crops begin; a task of whole recordings sees their mean. All
//! layers of an encoder, or all views and the views side by side, are probed in one pass. They are held in memory: 42,000
//! frames of five layers of 256 values are 215 MB.

mod fit;
mod gather;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Edge, Embeddings, Features, Scores, ScoresSpec, edge_name};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::fit::Score;
use self::gather::{Gather, Source};
use crate::error::{BindError, StageError};
use crate::probe::ProbeError;
use crate::probe::labels::{self, TaskKind};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Parameters of `linear_probe`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearProbeParams {
    /// The labels: a CSV file with the columns `path`, `task`, `start`, `end`, `label`.
    pub labels: PathBuf,
    /// Tasks of that list to probe, each with its kind: `{chord: chords, beat: events, pitch: recording}`.
    pub tasks: BTreeMap<String, TaskKind>,
    /// Name of the representation in the scores. Absent: that of the encoder, or `features`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Frames per second that vectors are averaged into, in Hz, for tasks of frames. Absent: the rate of the embeddings.
    /// Features need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Weights of the penalty to choose from, each above 0.
    #[serde(default = "default_l2")]
    pub l2: Vec<f64>,
}

fn default_l2() -> Vec<f64> {
    vec![1e-1, 1e-2, 1e-3, 1e-4]
}

/// The stage.
#[derive(Debug)]
pub struct LinearProbe {
    params: LinearProbeParams,
    source: Source,
    name: String,
    rate: Option<f64>,
    schema: SchemaRef,
}

impl StageKind for LinearProbe {
    const NAME: &'static str = "linear_probe";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "how well a linear classifier predicts labels from embeddings or features";
    const EXAMPLE: &'static str = "{stage: linear_probe, from: embeddings, params: {labels: data/labels.csv, tasks: {chord: chords, beat: events}}}";
    const SCOPE: Scope = Scope::Corpus { repeats: false };
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = LinearProbeParams;

    fn bind(mut params: LinearProbeParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let (source, name, own_rate) = if edge_name(inputs.schema("in")) == Some(Features::NAME) {
            (Source::Features(inputs.spec::<Features>("in")?), "features".to_owned(), None)
        } else {
            let spec = inputs.spec::<Embeddings>("in")?;
            let (name, rate) = (spec.model.name.clone(), spec.rate);
            (Source::Embeddings(spec), name, rate)
        };
        if params.tasks.is_empty() {
            return Err(BindError::param("tasks", "expected at least one task, found none")
                .hint("write `tasks: {chord: chords, beat: events}`"));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        if let Some(rate) = params.rate.filter(|rate| !positive(*rate)) {
            return Err(BindError::param("rate", format!("expected a number above 0, found {rate}")));
        }
        if params.l2.is_empty() || !params.l2.iter().all(|l2| positive(*l2)) {
            return Err(BindError::param("l2", format!("expected numbers above 0, found {:?}", params.l2)));
        }
        // From the strongest penalty to the weakest: each fit starts where the last one ended.
        params.l2.sort_by(|a, b| b.total_cmp(a));
        let rate = params.rate.or(own_rate);
        let of_frames = params.tasks.iter().find(|(_, kind)| **kind != TaskKind::Recording);
        if let (Some((task, _)), None) = (of_frames, rate) {
            let error =
                BindError::param("rate", format!("task `{task}` is one of frames: expected their rate, found none"));
            return Err(error.hint("write `rate: 15.625`, or whatever the representations to compare have"));
        }
        if let (Some((task, _)), Source::Embeddings(spec)) = (of_frames, &source)
            && spec.rate.is_none()
        {
            let message = format!("task `{task}` is one of frames, and the embeddings are pooled");
            return Err(BindError::input_spec("in", message).hint("write `pool: frames` in the `embed` node"));
        }
        // Without a task of frames one mean of the whole recording is all that has to be kept.
        let rate = rate.filter(|_| of_frames.is_some());
        let name = params.name.clone().unwrap_or(name);
        let schema = Scores::schema(&ScoresSpec { input: name.clone(), rate });
        Ok(Self { params, source, name, rate, schema })
    }
}

impl Stage for LinearProbe {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let labels = labels::read(&self.params.labels, &self.params.tasks)?;
        Ok(Box::new(LinearProbeOperator {
            gather: Gather::new(self.source.clone(), self.rate),
            params: self.params.clone(),
            labels,
            name: self.name.clone(),
            rate: self.rate,
            seed: context.seed,
            schema: self.schema.clone(),
        }))
    }

    fn files(&self) -> Vec<PathBuf> {
        vec![self.params.labels.clone()]
    }
}

impl From<ProbeError> for StageError {
    fn from(error: ProbeError) -> Self {
        Self::Failed(error.to_string())
    }
}

struct LinearProbeOperator {
    gather: Gather,
    params: LinearProbeParams,
    labels: BTreeMap<String, labels::Labels>,
    name: String,
    rate: Option<f64>,
    seed: u64,
    schema: SchemaRef,
}

impl LinearProbeOperator {
    fn batch(&self, scores: &[Score]) -> Result<RecordBatch, StageError> {
        let word = |value: fn(&Score) -> &str| -> ArrayRef {
            Arc::new(scores.iter().map(|score| Some(value(score))).collect::<StringArray>())
        };
        let number = |value: fn(&Score) -> f64| -> ArrayRef {
            Arc::new(scores.iter().map(|score| Some(value(score))).collect::<Float64Array>())
        };
        let count = |value: fn(&Score) -> usize| -> ArrayRef {
            Arc::new(scores.iter().map(|score| Some(value(score) as u64)).collect::<UInt64Array>())
        };
        let columns = vec![
            word(|score| &score.task),
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&self.name, scores.len()))),
            word(|score| &score.layer),
            word(|score| score.metric),
            number(|score| score.value),
            number(|score| score.valid),
            number(|score| score.chance),
            count(|score| score.n_train),
            count(|score| score.n_test),
            number(|score| score.l2),
            Arc::new(UInt64Array::from_value(self.seed, scores.len())),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Operator for LinearProbeOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, _: &mut dyn Output) -> Result<Progress, StageError> {
        self.gather.push(batch)?;
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let recordings = self.gather.take();
        let mut scores = Vec::new();
        for (task, kind) in &self.params.tasks {
            let targets = fit::Targets::new(task, *kind, &self.labels[task], &recordings, self.rate)?;
            for layer in self.gather.layers() {
                scores.extend(fit::probe(&targets, &recordings, &layer, &self.params.l2)?);
            }
        }
        out.emit(self.batch(&scores)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
