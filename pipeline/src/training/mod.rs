//! Watching a training: its logged steps as curves, for the terminal, for TensorBoard, for the report.
//!
//! | file | does |
//! |---|---|
//! | here | rows of [`Metrics`] to a bounded [`TrainingLog`] that goes on across resumed runs |
//! | [`plot`] | a curve in characters |
//! | [`live`] | the lines that a terminal shows while a model trains |
//! | [`tensorboard`] | event files for TensorBoard |

pub(crate) mod live;
pub(crate) mod plot;
pub(crate) mod tensorboard;

use std::collections::VecDeque;
use std::path::Path;

use arrow::array::{Array, AsArray, Float64Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::Float32Type;
use omar_schemas::{Edge, Metrics, MetricsSpec, SchemaError, column};
use omar_stages::storage::{StorageError, TrackFile};

/// Points of a curve: twice as many at most, then neighbours become one.
const POINTS: usize = 2048;
/// Rows that the present speed is taken from, and the seconds that they span if there are as many.
const RECENT: (usize, f64) = (512, 60.0);

/// A logged step, or the mean of several.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Row {
    /// The last step.
    pub(crate) step: u64,
    /// In nats.
    pub(crate) loss: f64,
    /// 0..1
    pub(crate) accuracy: f64,
    /// The same per stream.
    pub(crate) streams: Vec<f32>,
    /// What the best constant answer reaches; of held-out crops only.
    pub(crate) unigram: Option<f64>,
    /// The same per stream.
    pub(crate) stream_unigram: Vec<f32>,
    /// Learning rate.
    pub(crate) lr: f64,
    /// Norm of the gradients; of training steps only.
    pub(crate) grad_norm: Option<f64>,
    /// Crops trained on so far.
    pub(crate) crops: u64,
    /// Seconds of training so far, over all runs that continued each other.
    pub(crate) elapsed_s: f64,
}

/// Everything that a training has logged, thinned so that it stays small.
#[derive(Debug, Clone)]
pub(crate) struct TrainingLog {
    pub(crate) spec: MetricsSpec,
    /// Training steps.
    pub(crate) train: Curve,
    /// Evaluations on held-out crops.
    pub(crate) valid: Curve,
    /// Steps after which a run went on that had been stopped.
    pub(crate) resumes: Vec<u64>,
    /// Step, crops and seconds of the newest rows of this process.
    recent: VecDeque<(u64, u64, f64)>,
    /// Seconds before this process, and its newest.
    before_s: f64,
    newest_s: f64,
}

/// Rows in the order of their steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Curve {
    rows: Vec<Row>,
    /// How many logged rows are in each of `rows`, and those that wait for company.
    each: usize,
    waiting: Vec<Row>,
    last: Option<Row>,
}

impl Curve {
    /// The thinned rows, the newest as it is.
    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        let newest = self.last.iter().filter(|last| self.rows.last().is_none_or(|row| row.step < last.step));
        self.rows.iter().chain(newest)
    }

    /// The newest row.
    pub(crate) fn last(&self) -> Option<&Row> {
        self.last.as_ref()
    }

    fn push(&mut self, row: Row) {
        self.last = Some(row.clone());
        self.waiting.push(row);
        if self.waiting.len() < self.each.max(1) {
            return;
        }
        self.rows.extend(mean(&self.waiting));
        self.waiting.clear();
        if self.rows.len() >= 2 * POINTS {
            self.rows = self.rows.chunks(2).filter_map(mean).collect();
            self.each = 2 * self.each.max(1);
        }
    }

    /// Forgets a step and what followed.
    fn truncate(&mut self, step: u64) {
        self.rows.retain(|row| row.step < step);
        self.waiting.retain(|row| row.step < step);
        if self.last.as_ref().is_some_and(|last| last.step >= step) {
            self.last = self.waiting.last().or(self.rows.last()).cloned();
        }
    }
}

/// One row for several; counters are those of the last.
fn mean(rows: &[Row]) -> Option<Row> {
    let last = rows.last()?;
    let n = rows.len() as f64;
    let of = |value: fn(&Row) -> f64| rows.iter().map(value).sum::<f64>() / n;
    let streams = (0..last.streams.len()).map(|stream| {
        let sum: f64 = rows.iter().filter_map(|row| row.streams.get(stream)).map(|value| f64::from(*value)).sum();
        (sum / n) as f32
    });
    let norms: Vec<f64> = rows.iter().filter_map(|row| row.grad_norm).collect();
    Some(Row {
        loss: of(|row| row.loss),
        accuracy: of(|row| row.accuracy),
        streams: streams.collect(),
        grad_norm: (!norms.is_empty()).then(|| norms.iter().sum::<f64>() / norms.len() as f64),
        ..last.clone()
    })
}

impl TrainingLog {
    /// A log without rows.
    pub(crate) fn new(spec: MetricsSpec) -> Self {
        Self {
            spec,
            train: Curve::default(),
            valid: Curve::default(),
            resumes: Vec::new(),
            recent: VecDeque::new(),
            before_s: 0.0,
            newest_s: 0.0,
        }
    }

    /// Adds rows of metrics. Steps that are there already, since a run went on from an older checkpoint, are replaced.
    ///
    /// # Errors
    /// When the batch is of another edge.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<(), SchemaError> {
        logged(batch)?.into_iter().for_each(|(training, row)| self.push(training, row));
        Ok(())
    }

    /// Adds a row, of training or of held-out crops.
    pub(crate) fn push(&mut self, training: bool, mut row: Row) {
        let last = if training { &self.train } else { &self.valid }.last().map_or(0, |last| last.step);
        if row.elapsed_s < self.newest_s || (row.step <= last && last > 0) {
            // The clock of another process.
            self.train.truncate(row.step);
            self.valid.truncate(row.step);
            self.resumes.retain(|step| *step < row.step);
            let kept = self.train.last().into_iter().chain(self.valid.last());
            self.before_s = kept.map(|row| row.elapsed_s).fold(0.0, f64::max);
            self.resumes.push(row.step.saturating_sub(1));
            self.recent.clear();
        }
        self.newest_s = row.elapsed_s;
        row.elapsed_s += self.before_s;
        if !training {
            self.valid.push(row);
            return;
        }
        self.recent.push_back((row.step, row.crops, row.elapsed_s));
        let spans = |recent: &VecDeque<(u64, u64, f64)>| recent.get(1).is_some_and(|r| row.elapsed_s - r.2 > RECENT.1);
        while self.recent.len() > RECENT.0 || (self.recent.len() > 8 && spans(&self.recent)) {
            self.recent.pop_front();
        }
        self.train.push(row);
    }

    /// Steps and crops per second, lately. `None` until there are two steps.
    pub(crate) fn speed(&self) -> Option<(f64, f64)> {
        let (first, last) = (self.recent.front()?, self.recent.back()?);
        let seconds = last.2 - first.2;
        let per = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (last.0 > first.0 && seconds > 0.0).then(|| (per(last.0, first.0), per(last.1, first.1)))
    }

    /// Seconds until all steps are done, at the present speed.
    pub(crate) fn left_s(&self) -> Option<f64> {
        let (steps, _) = self.speed()?;
        Some(self.spec.steps.saturating_sub(self.train.last()?.step) as f64 / steps)
    }

    /// Reads the parts in a folder; `None` where there are none, or they hold something else.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, StorageError> {
        let Ok(entries) = folder.read_dir() else { return Ok(None) };
        let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "parquet"));
        paths.sort();
        let mut log: Option<Self> = None;
        for path in paths {
            let file = TrackFile::open(&path)?;
            let Ok(spec) = Metrics::spec(file.schema()) else { return Ok(None) };
            let log = log.get_or_insert_with(|| Self::new(spec.clone()));
            log.spec = spec;
            for batch in file.scan(None, None)? {
                log.add(&batch?)
                    .map_err(|error| StorageError::Content { path: path.clone(), message: error.to_string() })?;
            }
        }
        Ok(log)
    }
}

/// The rows of a batch of metrics, and whether they are of training steps.
///
/// # Errors
/// When the batch is of another edge.
pub(crate) fn logged(batch: &RecordBatch) -> Result<Vec<(bool, Row)>, SchemaError> {
    let splits = column::<StringArray>(batch, "split")?;
    let numbers = |name| column::<Float64Array>(batch, name);
    let counts = |name| column::<UInt64Array>(batch, name);
    let lists = |name| column::<ListArray>(batch, name);
    let (steps, crops) = (counts("step")?, counts("crops")?);
    let (loss, accuracy, unigram) = (numbers("loss")?, numbers("accuracy")?, numbers("unigram")?);
    let (lr, grad_norm, elapsed) = (numbers("lr")?, numbers("grad_norm")?, numbers("elapsed_s")?);
    let (streams, stream_unigram) = (lists("stream_accuracy")?, lists("stream_unigram")?);
    let optional = |array: &Float64Array, row| array.is_valid(row).then(|| array.value(row));
    let floats = |list: &ListArray, row| list.value(row).as_primitive::<Float32Type>().values().to_vec();
    let row = |row| Row {
        step: steps.value(row),
        loss: loss.value(row),
        accuracy: accuracy.value(row),
        streams: floats(streams, row),
        unigram: optional(unigram, row),
        stream_unigram: floats(stream_unigram, row),
        lr: lr.value(row),
        grad_norm: optional(grad_norm, row),
        crops: crops.value(row),
        elapsed_s: elapsed.value(row),
    };
    Ok((0..batch.num_rows()).map(|at| (splits.value(at) == "train", row(at))).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn spec(steps: u64) -> MetricsSpec {
        MetricsSpec { streams: vec!["mel/0".to_owned(), "mel/1".to_owned()], steps, chance: 1.0 / 256.0 }
    }

    /// A step whose loss falls, two of them a second, four crops each.
    pub(crate) fn row(step: u64, elapsed_s: f64) -> Row {
        let accuracy = 0.5 - 0.5 / (1.0 + step as f64 / 50.0);
        Row {
            step,
            loss: 2.0 + 4.0 / (1.0 + step as f64 / 20.0),
            accuracy,
            streams: vec![accuracy as f32 * 1.1, accuracy as f32 * 0.9],
            lr: 1e-3,
            grad_norm: Some(1.5),
            crops: 4 * step,
            elapsed_s,
            ..Row::default()
        }
    }

    /// A log of so many steps, with an evaluation every ten.
    pub(crate) fn log(steps: u64, of: u64) -> TrainingLog {
        let mut log = TrainingLog::new(spec(of));
        for step in 1..=steps {
            log.push(true, row(step, step as f64 / 2.0));
            if step % 10 == 0 {
                let unigram = (Some(0.11), vec![0.12, 0.1]);
                let valid = row(step, step as f64 / 2.0);
                let (unigram, stream_unigram) = unigram;
                log.push(false, Row { loss: valid.loss + 0.1, grad_norm: None, unigram, stream_unigram, ..valid });
            }
        }
        log
    }

    #[test]
    fn a_long_training_stays_small_and_keeps_its_ends() {
        let log = log(50_000, 400_000);
        let rows: Vec<&Row> = log.train.rows().collect();
        assert!((POINTS..=2 * POINTS + 1).contains(&rows.len()), "{}", rows.len());
        assert!(rows.windows(2).all(|pair| pair[0].step < pair[1].step));
        assert_eq!(rows.last().map(|row| row.step), Some(50_000));
        assert!(rows[0].step < 100 && rows[0].loss > rows[10].loss);
        let (steps, crops) = log.speed().expect("there are steps");
        assert!((steps - 2.0).abs() < 1e-6 && (crops - 8.0).abs() < 1e-6);
        assert_eq!(log.left_s(), Some(175_000.0));
    }

    #[test]
    fn a_resumed_run_replaces_what_was_after_its_checkpoint_and_its_clock_goes_on() {
        let mut log = log(57, 100);
        // Killed after step 57, continued from the checkpoint of step 50; the clock starts again.
        for step in 51..=60 {
            log.push(true, row(step, (step - 50) as f64 / 4.0));
        }
        let steps: Vec<u64> = log.train.rows().map(|row| row.step).collect();
        assert_eq!(steps, (1..=60).collect::<Vec<_>>());
        assert_eq!(log.resumes, [50]);
        let last = log.train.last().expect("there are rows");
        assert!((last.elapsed_s - (25.0 + 2.5)).abs() < 1e-9, "{}", last.elapsed_s);
        assert_eq!(log.valid.rows().map(|row| row.step).collect::<Vec<_>>(), [10, 20, 30, 40, 50]);
        assert!((log.speed().expect("there are steps").0 - 4.0).abs() < 1e-9, "the speed is of this process");
    }

    #[test]
    fn nothing_is_known_of_nothing() {
        let log = TrainingLog::new(spec(10));
        assert_eq!((log.train.rows().count(), log.speed(), log.left_s()), (0, None, None));
        let nowhere = TrainingLog::read(Path::new("no/such/folder")).expect("nothing is no error");
        assert!(nowhere.is_none());
    }
}
