//! Recordings that could not be used, as parquet in the run folder.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    listed: Classes,
    dropped: Classes,
}

/// How many examples are kept per class.
const EXAMPLES: usize = 3;

/// Rejections by class: how many, and the first few.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classes(BTreeMap<String, (u64, Vec<RejectedTrack>)>);

impl Classes {
    pub(crate) fn add(&mut self, reject: &RejectedTrack) {
        let class = self.0.entry(reject.class.clone()).or_default();
        class.0 += 1;
        if class.1.len() < EXAMPLES {
            class.1.push(reject.clone());
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.values().map(|class| class.0).sum()
    }

    pub(crate) fn list(&self) -> Vec<RejectClass> {
        let class = |(class, (count, examples)): (&String, &(u64, Vec<RejectedTrack>))| RejectClass {
            class: class.clone(),
            count: *count,
            examples: examples.clone(),
        };
        self.0.iter().map(class).collect()
    }
}

/// Classes with their examples for people, a line each.
pub(crate) fn lines(classes: &[RejectClass]) -> Vec<String> {
    let mut lines = Vec::new();
    for class in classes {
        lines.push(format!("  {} {}", class.count, class.class));
        lines.extend(class.examples.iter().map(|example| format!("    {}: {}", example.path, example.message)));
    }
    lines
}

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
        let mut state = self.lock();
        if !state.seen.insert(reject.track_id) {
            return Ok(());
        }
        if reject.dropped {
            state.dropped.add(reject);
            return Ok(());
        }
        state.listed.add(reject);
        state.pending.entry(epoch).or_default().push(reject.clone());
        Ok(())
    }

    /// Makes the rejections of an epoch durable.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn commit(&self, epoch: u64, shard: &str) -> Result<(), RunError> {
        let rejects = self.lock().pending.remove(&epoch);
        let (Some(folder), Some(rejects)) = (&self.folder, rejects) else { return Ok(()) };
        let path = folder.join(format!("{shard}.parquet"));
        write_parquet(&path, &[batch(&rejects)]).map_err(|error| RunError::Failed(error.to_string()))
    }

    /// Makes what is left durable, when a run ends with an error: rejections of shards that will not be complete, and
    /// those that the error quotes.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(crate) fn keep_rest(&self, error: &RunError) -> Result<(), RunError> {
        if let RunError::TooManyRejects(error) = error {
            let quoted = error.classes.iter().flat_map(|class| &class.examples);
            quoted.into_iter().try_for_each(|reject| self.add(u64::MAX, reject))?;
        }
        let rest: Vec<RejectedTrack> = std::mem::take(&mut self.lock().pending).into_values().flatten().collect();
        let Some(folder) = self.folder.as_ref().filter(|_| !rest.is_empty()) else { return Ok(()) };
        let path = folder.join("incomplete.parquet");
        write_parquet(&path, &[batch(&rest)]).map_err(|error| RunError::Failed(error.to_string()))
    }

    /// Recordings in the quarantine.
    pub fn count(&self) -> u64 {
        self.lock().listed.count()
    }

    /// Recordings that nodes with `on_error: drop` gave up on, by class.
    pub fn dropped(&self) -> Vec<RejectClass> {
        self.lock().dropped.list()
    }

    /// What there is, by class.
    pub fn classes(&self) -> Vec<RejectClass> {
        self.lock().listed.list()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
