//! Rows that corpus stages emit (training metrics, statistics), as parquet parts in the run folder.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use omar_schemas::{Edge, Metrics};
use omar_stages::StageError;
use serde_json::{Map, Value};

use crate::files::write_parquet;
use crate::training::tensorboard::EventWriter;
use crate::training::{self, TrainingLog};

/// Folder of the parts in the folder of a node.
pub(crate) const RESULTS: &str = "results";

/// A part is written when this much time has passed since the last one, so that a killed run loses little.
const PART_EVERY: Duration = Duration::from_secs(30);

/// What a node has given, for whoever shows progress.
pub(crate) type Latest = Arc<Mutex<Newest>>;

/// What a corpus stage has given so far: of a training all its steps, of others the newest rows.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    pub(crate) rows: Option<RecordBatch>,
    pub(crate) training: Option<TrainingLog>,
}

/// Collects rows and writes them in parts: `part-000001.parquet`, ... Metrics of a training also go to an event file for
/// TensorBoard, in the folder of the node.
#[derive(Debug)]
pub(crate) struct ResultLog {
    /// The folder of the node.
    node: Option<PathBuf>,
    folder: Option<PathBuf>,
    events: Option<EventWriter>,
    rows: Vec<RecordBatch>,
    part: usize,
    written: Instant,
    latest: Latest,
}

impl ResultLog {
    /// Writes to the folder of a node, after the parts that are already there; or nowhere. `latest` always has the newest
    /// rows, and the curves of a training that goes on.
    pub(crate) fn new(node: Option<PathBuf>, latest: Latest) -> Self {
        let folder = node.as_ref().map(|node| node.join(RESULTS));
        let part = folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok()).map_or(0, Iterator::count);
        if let Some(folder) = folder.as_ref().filter(|_| part > 0) {
            // What cannot be read is missing from the curves, no more: the training itself does not need it.
            let training = TrainingLog::read(folder).ok().flatten();
            latest.lock().unwrap_or_else(PoisonError::into_inner).training = training;
        }
        Self { node, folder, events: None, rows: Vec::new(), part, written: Instant::now(), latest }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// When a part or the event file cannot be written.
    pub(crate) fn append(&mut self, batch: RecordBatch) -> Result<(), StageError> {
        self.remember(&batch)?;
        if self.folder.is_some() {
            self.rows.push(batch);
        }
        if self.written.elapsed() > PART_EVERY { self.close() } else { Ok(()) }
    }

    fn remember(&mut self, batch: &RecordBatch) -> Result<(), StageError> {
        let latest = self.latest.clone();
        let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(spec) = Metrics::spec(&batch.schema()) else {
            latest.rows = Some(batch.clone());
            return Ok(());
        };
        let log = latest.training.get_or_insert_with(|| TrainingLog::new(spec.clone()));
        for (training, row) in training::logged(batch)? {
            if let Some(node) = &self.node {
                let events = match &mut self.events {
                    Some(events) => events,
                    none => none.insert(EventWriter::create(node)?),
                };
                events.log(&spec, training, &row)?;
            }
            log.push(training, row);
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// When the part cannot be written.
    pub(crate) fn close(&mut self) -> Result<(), StageError> {
        self.written = Instant::now();
        let (Some(folder), Some(first)) = (&self.folder, self.rows.first()) else { return Ok(()) };
        let merged = arrow::compute::concat_batches(&first.schema(), &self.rows)?;
        self.part += 1;
        let path = folder.join(format!("part-{:06}.parquet", self.part));
        write_parquet(&path, &[merged]).map_err(|error| StageError::Failed(error.to_string()))?;
        self.rows.clear();
        Ok(())
    }
}

/// The values of rows that are single numbers or words, by column: what a person looks at first.
pub(crate) fn scalars(batch: &RecordBatch) -> Vec<Map<String, Value>> {
    let mut rows = vec![Map::new(); batch.num_rows()];
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        for (row, values) in rows.iter_mut().enumerate() {
            if let Some(value) = scalar(column, row) {
                values.insert(field.name().clone(), value);
            }
        }
    }
    rows
}

fn scalar(column: &ArrayRef, row: usize) -> Option<Value> {
    if column.is_null(row) {
        return None;
    }
    let column = column.as_any();
    if let Some(words) = column.downcast_ref::<StringArray>() {
        return Some(words.value(row).into());
    }
    if let Some(counts) = column.downcast_ref::<UInt64Array>() {
        return Some(counts.value(row).into());
    }
    if let Some(counts) = column.downcast_ref::<UInt32Array>() {
        return Some(counts.value(row).into());
    }
    column.downcast_ref::<Float64Array>().map(|numbers| numbers.value(row).into())
}
