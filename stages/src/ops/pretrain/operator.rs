//! The running stage: rows to examples, examples to steps, steps to metrics and checkpoints.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrow::array::{Float64Array, RecordBatch, UInt32Array, UInt64Array};
use candle_core::{Device, Tensor};
use omar_schemas::{Origin, Split, column};

use super::Plan;
use super::best::Best;
use super::example::Example;
use super::shown::{self, Unigram};
use super::valid::ValidSet;
use crate::error::StageError;
use crate::stage::{Operator, Output, Port, Position, Progress, StageContext};
use crate::storage::CropName;
use crate::train::{
    Collective, CropKey, Cursor, Minibatch, Shuffle, StepMetrics, TrainError, Trainer, ValidMetrics, latest, prune,
};

/// Folder of the checkpoints in the node's folder.
const CHECKPOINTS: &str = "checkpoints";

/// The operator.
#[derive(Debug)]
pub(super) struct Pretrainer {
    plan: Arc<Plan>,
    trainer: Trainer,
    shuffle: Shuffle<Example>,
    valid: ValidSet,
    /// The batch of port `input` whose targets have not come yet.
    input: Option<RecordBatch>,
    dir: Option<PathBuf>,
    start_at: Position,
    saved_step: Option<u64>,
    /// The pass of the latest batch, and whether it has brought a training crop.
    pass: (u32, bool),
    started: Instant,
    /// The latest step of this process.
    last: Option<LastStep>,
    best: Best,
    collective: Arc<dyn Collective>,
    stopping: Arc<AtomicBool>,
    /// What all processes have agreed on: to stop, because the run is being stopped or its time is up.
    agreed: Agreed,
}

/// A step, and what was said of it.
#[derive(Debug)]
struct LastStep {
    metrics: StepMetrics,
    logged: bool,
    evaluated: bool,
}

/// Reasons to end that one process has and all must share.
#[derive(Debug, Clone, Copy, Default)]
struct Agreed {
    stop: bool,
    late: bool,
}

impl From<TrainError> for StageError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Io { path, source } => Self::Io { path, source },
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Pretrainer {
    pub(super) fn start(plan: Arc<Plan>, context: &StageContext) -> Result<Self, StageError> {
        let device = context.device()?;
        let trainer = Trainer::new(plan.trainer.clone(), &device, context.seed)?;
        let collective = between_devices(context.collective.clone(), &device)?;
        let mut trainer = trainer.among(collective).with_precision(plan.params.precision);
        let mut valid = ValidSet::new(plan.params.valid.crops);
        let mut cursor = Cursor::default();
        let mut saved_step = None;
        if let Some(init) = &plan.init {
            super::init::load(init, &mut trainer)?;
        }
        if let Some(dir) = &context.run_dir {
            match latest(&dir.join(CHECKPOINTS))? {
                Some(path) if context.resume => {
                    cursor = read_cursor(trainer.resume(&path)?, &path)?;
                    valid.load(dir)?;
                    saved_step = Some(trainer.step_count());
                }
                Some(path) => {
                    let path = path.display();
                    let message = format!("`{path}` is there already: resume that run, or choose another folder");
                    return Err(StageError::Failed(message));
                }
                None => {}
            }
        }
        same_start(&*context.collective, trainer.step_count(), cursor)?;
        Ok(Self {
            shuffle: Shuffle::new(context.seed, plan.params.shuffle_buffer, cursor),
            valid,
            input: None,
            dir: context.run_dir.clone(),
            start_at: Position { pass: cursor.pass, shard: cursor.shard },
            saved_step,
            pass: (cursor.pass, cursor != Cursor::default()),
            started: Instant::now(),
            last: None,
            best: match &context.run_dir {
                Some(dir) if context.resume => Best::load(dir)?,
                _ => Best::default(),
            },
            collective: context.collective.clone(),
            stopping: context.stopping.clone(),
            agreed: Agreed::default(),
            trainer,
            plan,
        })
    }

    fn is_shared(&self) -> bool {
        self.collective.size() > 1
    }

    /// Whether `max_time` is over, by the clock of this process.
    fn is_late(&self) -> bool {
        let limit = self.plan.params.max_time;
        limit.is_some_and(|time| self.started.elapsed().as_secs_f64() >= time.seconds())
    }

    /// Asks all processes, before a step, whether one of them has to stop: they stop at the same step.
    fn agree(&mut self) -> Result<(), StageError> {
        if !self.is_shared() {
            return Ok(());
        }
        let wants = [self.stopping.load(Ordering::Acquire), self.is_late()];
        let mut votes = wants.map(|want| f64::from(u8::from(want)));
        self.collective.sum(&mut votes).map_err(TrainError::from)?;
        self.agreed = Agreed { stop: votes[0] > 0.0, late: votes[1] > 0.0 };
        if self.agreed.stop {
            self.stopping.store(true, Ordering::Release);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        let params = &self.plan.params;
        let late = if self.is_shared() { self.agreed.late } else { self.is_late() };
        let stale = params.valid.patience.is_some_and(|patience| self.best.stale >= patience);
        self.trainer.step_count() >= params.steps || late || stale
    }

    fn progress(&self) -> Progress {
        if self.is_done() {
            Progress::Enough
        } else if !self.agreed.stop && self.shuffle.has(self.plan.params.minibatch) {
            Progress::Pending
        } else {
            Progress::Idle
        }
    }

    /// Sorts the crops of two aligned batches into training and validation.
    fn sort(&mut self, input: &RecordBatch, targets: &RecordBatch, at: Position) -> Result<(), StageError> {
        if at.pass != self.pass.0 {
            if !self.pass.1 {
                let message = "a whole pass over the corpus brought no crop of the `train` split";
                return Err(StageError::Failed(message.to_owned()));
            }
            self.pass = (at.pass, false);
        }
        let (tracks, crops) = (column::<UInt64Array>(input, "track_id")?, column::<UInt32Array>(input, "crop_ix")?);
        let aligned = tracks == column::<UInt64Array>(targets, "track_id")?
            && crops == column::<UInt32Array>(targets, "crop_ix")?;
        if !aligned {
            return Err(StageError::Failed("input and targets are not aligned: their rows are of other crops".into()));
        }
        let starts = column::<Float64Array>(input, "start_s")?;
        for row in 0..input.num_rows() {
            let key = CropKey { track: tracks.value(row), crop: u64::from(crops.value(row)) };
            let origin = Origin::read(input, row)?;
            match origin.split {
                Split::Train => {
                    let example = self.plan.example(input, targets, row, key)?;
                    self.pass.1 = true;
                    self.shuffle.push((at.pass, at.shard), example);
                }
                Split::Valid => {
                    let example = self.plan.example(input, targets, row, key)?;
                    self.valid.offer(example, Some(CropName { path: origin.path, start_s: starts.value(row) }));
                }
                Split::Test => {}
            }
        }
        Ok(())
    }

    /// One step, and what is due after it.
    fn step(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        self.agree()?;
        if self.agreed.stop || self.agreed.late {
            return Ok(());
        }
        let Some(examples) = self.shuffle.take(self.plan.params.minibatch) else { return Ok(()) };
        let minibatch = self.plan.minibatch(&examples)?;
        drop(examples);
        let metrics = match self.trainer.step(&minibatch) {
            Err(error @ TrainError::NotFinite { .. }) => return Err(self.failed(&minibatch, &error)?),
            other => other?,
        };
        let plan = self.plan.clone();
        let due = |every: u64| metrics.step.is_multiple_of(every) || metrics.step == plan.params.steps;
        let (logged, evaluated) = (due(plan.params.log_every), due(plan.params.valid.every));
        if logged {
            out.emit(self.plan.row(&metrics, None, self.started.elapsed())?);
        }
        if evaluated
            && let Some(loss) = self.evaluate(&metrics, out)?
            && self.best.offer(metrics.step, loss)
            && plan.params.checkpoint.best
        {
            self.save()?;
        }
        if due(plan.params.checkpoint.every) {
            self.save()?;
        }
        self.last = Some(LastStep { metrics, logged, evaluated });
        Ok(())
    }

    /// Says of the last step what has not been said of it, where training ends between the steps of which it is said. Such
    /// an evaluation is none that patience counts: a run that goes on from here is the run that never stopped.
    fn finish(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let stopped = if self.is_shared() { self.agreed.stop } else { self.stopping.load(Ordering::Acquire) };
        if !self.is_done() || stopped {
            return Ok(());
        }
        let Some(LastStep { metrics, logged, evaluated }) = self.last.take() else { return Ok(()) };
        if !logged {
            out.emit(self.plan.row(&metrics, None, self.started.elapsed())?);
        }
        if !evaluated {
            self.evaluate(&metrics, out)?;
        }
        Ok(())
    }

    /// Says how well the held-out crops are predicted after a step, and shows some of them; their loss, where there are any.
    fn evaluate(&self, metrics: &StepMetrics, out: &mut dyn Output) -> Result<Option<f64>, StageError> {
        if self.valid.examples().is_empty() {
            return Ok(None);
        }
        let (valid, unigram) = self.predict()?;
        out.emit(self.plan.row(metrics, Some((&valid, &unigram)), self.started.elapsed())?);
        if let Some(dir) = self.dir.as_ref().filter(|_| self.collective.rank() == 0) {
            let one = |example: &Example| self.plan.minibatch(std::slice::from_ref(example));
            shown::write(dir, &self.plan, &self.trainer, &self.valid, one)?;
        }
        Ok(Some(valid.means().0))
    }

    /// Predicts the held-out crops, each process a share of their minibatches; and what guessing would reach on them.
    fn predict(&self) -> Result<(ValidMetrics, Unigram), StageError> {
        let (mut valid, mut unigram) = (ValidMetrics::default(), Unigram::default());
        for (i, examples) in self.valid.examples().chunks(self.plan.params.minibatch).enumerate() {
            let minibatch = self.plan.minibatch(examples)?;
            unigram.add(examples, &self.trainer.valid_mask(&minibatch)?, self.plan.shape().2);
            if i % self.collective.size() == self.collective.rank() {
                valid.add(&self.trainer.evaluate(&minibatch)?);
            }
        }
        if self.is_shared() {
            valid.add_up(&*self.collective, self.plan.shape().2)?;
        }
        Ok((valid, unigram))
    }

    /// The error that ends training, with the minibatch that led to it saved for whoever looks into it.
    fn failed(&mut self, minibatch: &Minibatch, error: &TrainError) -> Result<StageError, StageError> {
        let writes = self.collective.rank() == 0;
        let Some(dir) = self.dir.clone().filter(|_| writes) else { return Ok(StageError::Failed(error.to_string())) };
        self.save()?;
        let path = dir.join(format!("failed-step-{:09}.safetensors", self.trainer.step_count() + 1));
        let keys = minibatch.keys.iter().flat_map(|key| [key.track.cast_signed(), key.crop.cast_signed()]).collect();
        let tensors = std::collections::HashMap::from([
            ("patches".to_owned(), minibatch.patches.clone()),
            ("tokens".to_owned(), minibatch.tokens.clone()),
            ("keys".to_owned(), Tensor::from_vec::<_, i64>(keys, (minibatch.keys.len(), 2), &Device::Cpu)?),
        ]);
        candle_core::safetensors::save(&tensors, &path)?;
        Ok(StageError::Failed(format!(
            "{error}; the weights before it are saved, and its minibatch in `{}`",
            path.display()
        )))
    }

    /// Writes a checkpoint, unless there is one of this step, no place for it, or it is another process that does.
    fn save(&mut self) -> Result<(), StageError> {
        let step = self.trainer.step_count();
        let Some(dir) = self.dir.clone().filter(|_| step > 0 && self.saved_step != Some(step)) else { return Ok(()) };
        if self.collective.rank() > 0 {
            return Ok(());
        }
        let cursor =
            serde_json::to_value(self.shuffle.cursor()).map_err(|error| StageError::Failed(error.to_string()))?;
        std::fs::create_dir_all(&dir).map_err(|source| StageError::io(&dir, source))?;
        // First the crops, then the checkpoint that counts on them.
        self.valid.save(&dir, self.plan.shape())?;
        let checkpoints = dir.join(CHECKPOINTS);
        self.plan.manifest.write(&checkpoints)?;
        self.trainer.save(&checkpoints, cursor)?;
        self.best.save(&dir)?;
        let params = &self.plan.params.checkpoint;
        prune(&checkpoints, params.keep, |step| {
            params.milestones.is_some_and(|every| step.is_multiple_of(every))
                || (params.best && self.best.step == Some(step))
        })?;
        self.saved_step = Some(step);
        Ok(())
    }
}

/// Checks that all processes start at the same place.
fn same_start(collective: &dyn Collective, step: u64, cursor: Cursor) -> Result<(), StageError> {
    let place = |step: u64, cursor: Cursor| format!("step {step} (pass {}, shard {})", cursor.pass, cursor.shard);
    let here = serde_json::to_vec(&(step, cursor)).map_err(|error| StageError::Failed(error.to_string()))?;
    let first = collective.broadcast(here.clone()).map_err(TrainError::from)?;
    if here == first {
        return Ok(());
    }
    let there = serde_json::from_slice(&first).map_or_else(|_| "another step".to_owned(), |(s, c)| place(s, c));
    Err(StageError::Failed(format!(
        "process {} starts from {}, process 0 from {there}: all must see the same run folder",
        collective.rank(),
        place(step, cursor)
    )))
}

/// The collective that adds up gradients where they are: NCCL between GPUs, where the program was built with it.
fn between_devices(collective: Arc<dyn Collective>, device: &Device) -> Result<Arc<dyn Collective>, StageError> {
    #[cfg(feature = "nccl")]
    if device.is_cuda() && collective.size() > 1 {
        let nccl = crate::train::Nccl::connect(collective, device);
        return Ok(Arc::new(nccl.map_err(|error| StageError::Failed(error.to_string()))?));
    }
    #[cfg(not(feature = "nccl"))]
    let _ = device;
    Ok(collective)
}

/// The cursor that a checkpoint holds.
fn read_cursor(cursor: serde_json::Value, path: &Path) -> Result<Cursor, StageError> {
    serde_json::from_value(cursor).map_err(|error| {
        StageError::Failed(format!("checkpoint `{}`: its place in the corpus cannot be read: {error}", path.display()))
    })
}

impl Operator for Pretrainer {
    fn push(&mut self, port: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        if self.is_done() {
            return Ok(Progress::Enough);
        }
        if self.agreed.stop {
            return Ok(Progress::Idle);
        }
        if port == 0 {
            self.input = Some(batch.clone());
            return Ok(Progress::Idle);
        }
        let Some(input) = self.input.take() else {
            return Err(StageError::Failed("targets came without their input".to_owned()));
        };
        self.sort(&input, batch, out.position())?;
        Ok(self.progress())
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, StageError> {
        self.step(out)?;
        Ok(self.progress())
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        self.finish(out)?;
        self.save()
    }

    fn start_at(&self) -> Position {
        self.start_at
    }

    fn interrupt(&mut self) -> Result<(), StageError> {
        // The others are about to ask at their next step. If they are gone, this process saves all the same.
        if self.stopping.load(Ordering::Acquire) && !self.agreed.stop && !self.is_done() {
            let _gone = self.agree();
        }
        self.save()
    }
}
