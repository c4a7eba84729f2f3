//! Rows that corpus stages emit (training metrics, statistics), as parquet parts in the run folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use omar_schemas::column;
use omar_stages::StageError;
use serde_json::{Map, Value};

use crate::files::write_parquet;

/// A part is written when this much time has passed since the last one, so that a killed run loses little.
const PART_EVERY: Duration = Duration::from_secs(30);

/// The newest rows of a node by split, for whoever shows progress.
pub(crate) type Latest = Arc<Mutex<Newest>>;

/// The newest row of every split; rows that know no split are together under the empty name.
pub(crate) type Newest = BTreeMap<String, RecordBatch>;

/// Collects rows and writes them in parts: `part-000001.parquet`, ...
#[derive(Debug)]
pub(crate) struct ResultLog {
    folder: Option<PathBuf>,
    rows: Vec<RecordBatch>,
    part: usize,
    written: Instant,
    latest: Latest,
}

impl ResultLog {
    /// Writes to `folder`, after the parts that are already there; or nowhere. `latest` always has the newest rows.
    pub(crate) fn new(folder: Option<PathBuf>, latest: Latest) -> Self {
        let part = folder.as_ref().and_then(|folder| std::fs::read_dir(folder).ok()).map_or(0, Iterator::count);
        Self { folder, rows: Vec::new(), part, written: Instant::now(), latest }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// When a part cannot be written.
    pub(crate) fn append(&mut self, batch: RecordBatch) -> Result<(), StageError> {
        self.remember(&batch);
        if self.folder.is_some() {
            self.rows.push(batch);
        }
        if self.written.elapsed() > PART_EVERY { self.close() } else { Ok(()) }
    }

    fn remember(&self, batch: &RecordBatch) {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(splits) = column::<StringArray>(batch, "split") else {
            latest.insert(String::new(), batch.clone());
            return;
        };
        for row in 0..batch.num_rows() {
            latest.insert(splits.value(row).to_owned(), batch.slice(row, 1));
        }
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
