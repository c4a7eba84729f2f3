//! Recordings that could not be used, as parquet in the run folder.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use omar_schemas::{Edge, Reject, RejectSpec, TrackId};

use crate::exec::{RejectedTrack, RunError};
use crate::files::write_parquet;

/// Collects rejections. Each recording is listed once, with the first reason; rows become durable with their shard.
#[derive(Debug, Default)]
pub struct Quarantine {
    folder: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    seen: HashSet<TrackId>,
    pending: BTreeMap<u64, Vec<RejectedTrack>>,
    /// Per class: how many, and a few examples.
    classes: BTreeMap<String, (u64, Vec<RejectedTrack>)>,
    dropped: u64,
}

/// How many examples are kept per class.
const EXAMPLES: usize = 3;

/// Rejections of one class.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RejectClass {
    /// Name.
    pub class: String,
    /// How many.
    pub count: u64,
    /// The first few.
    pub examples: Vec<RejectedTrack>,
}

impl Quarantine {
    /// Writes to `folder`, or nowhere.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder, ..Self::default() }
    }

    /// Adds a rejection that belongs to an epoch.
    ///
    /// # Errors
    /// None today; a quarantine that streams to a remote store may.
    pub(crate) fn add(&self, epoch: u64, reject: &RejectedTrack) -> Result<(), RunError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.seen.insert(reject.track_id) {
            return Ok(());
        }
        if reject.dropped {
            state.dropped += 1;
            return Ok(());
        }
        let class = state.classes.entry(reject.class.clone()).or_default();
        class.0 += 1;
        if class.1.len() < EXAMPLES {
            class.1.push(reject.clone());
        }
        state.pending.entry(epoch).or_default().push(reject.clone());
        Ok(())
    }

    /// Makes the rejections of an epoch durable.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn commit(&self, epoch: u64, shard: &str) -> Result<(), RunError> {
        let rejects = self.state.lock().unwrap_or_else(PoisonError::into_inner).pending.remove(&epoch);
        let (Some(folder), Some(rejects)) = (&self.folder, rejects) else { return Ok(()) };
        let path = folder.join(format!("{shard}.parquet"));
        write_parquet(&path, &[batch(&rejects)]).map_err(|error| RunError::Failed(error.to_string()))
    }

    /// Recordings in the quarantine.
    pub fn count(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).classes.values().map(|class| class.0).sum()
    }

    /// Recordings that nodes with `on_error: drop` gave up on.
    pub fn dropped(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }

    /// What there is, by class.
    pub fn classes(&self) -> Vec<RejectClass> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let class = |(class, (count, examples)): (&String, &(u64, Vec<RejectedTrack>))| RejectClass {
            class: class.clone(),
            count: *count,
            examples: examples.clone(),
        };
        state.classes.iter().map(class).collect()
    }

    /// The folder it writes to.
    pub fn folder(&self) -> Option<&PathBuf> {
        self.folder.as_ref()
    }
}

fn batch(rejects: &[RejectedTrack]) -> RecordBatch {
    let text = |column: fn(&RejectedTrack) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rejects.iter().map(column)))
    };
    let columns = vec![
        Arc::new(UInt64Array::from_iter_values(rejects.iter().map(|reject| reject.track_id.0))) as ArrayRef,
        text(|reject| &reject.path),
        text(|reject| &reject.node),
        text(|reject| &reject.stage),
        text(|reject| &reject.class),
        text(|reject| &reject.message),
        text(|reject| &reject.shard),
    ];
    RecordBatch::try_new(Reject::schema(&RejectSpec {}), columns).expect("columns are those of the edge")
}
