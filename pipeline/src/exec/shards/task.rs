//! One shard in one pass: what there is to do for it.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Origin, TrackId};
use omar_stages::storage::TrackFile;
use omar_stages::{Position, StageError};

use super::super::network::Mode;
use super::appetite::Appetite;
use crate::catalogue::Shard;

/// One shard in one pass.
pub(crate) struct ShardTask {
    /// Place in the whole run, rising without gaps: the timestamp of the dataflow.
    pub(crate) epoch: u64,
    pub(crate) position: Position,
    pub(crate) shard: Arc<Shard>,
    /// Its place in the corpus.
    pub(crate) index: usize,
    /// Place of each source node in the lists of recordings.
    pub(super) sources: Arc<Vec<Option<usize>>>,
    pub(crate) modes: Vec<Mode>,
    /// Nodes whose rows leave the lane.
    pub(crate) keep: Vec<bool>,
    /// Nodes whose cache this shard completes.
    pub(crate) commits: Vec<usize>,
    /// Nodes whose tokens are counted.
    pub(crate) counts: Vec<usize>,
    /// Whether rows that nobody reads are made, because the graph ends with them.
    pub(super) results: bool,
    pub(super) readers: Vec<Option<TrackFile>>,
    pub(super) hungry: Vec<Arc<Appetite>>,
}

impl ShardTask {
    /// Whether working on it still serves somebody.
    pub(crate) fn is_wanted(&self) -> bool {
        let counts = !self.counts.is_empty();
        !self.commits.is_empty()
            || self.results
            || self.hungry.iter().any(|a| !a.is_satisfied() || (counts && a.wanted(self.position)))
    }

    /// Id and path of a recording.
    pub(crate) fn origin(&self, track: usize) -> (TrackId, String) {
        (self.shard.track_id(track), self.shard.path(track))
    }

    /// The row that a source operator is handed, if that source has the recording.
    pub(crate) fn recording(
        &self,
        source: usize,
        track: usize,
        schema: &SchemaRef,
    ) -> Result<Option<RecordBatch>, StageError> {
        let Some(recording) = self.sources[source].and_then(|at| self.shard.recording(at, track)) else {
            return Ok(None);
        };
        let origin = Origin { track_id: recording.track_id, path: recording.path, split: recording.split };
        let mut columns = origin.columns(1);
        columns.push(Arc::new(UInt64Array::from(vec![recording.bytes])));
        let schema = if omar_schemas::edge_name(schema) == Some("track") { schema.clone() } else { bare_track() };
        Ok(Some(RecordBatch::try_new(schema, columns)?))
    }

    /// Rows of a recording from the cache of a node.
    pub(crate) fn replay(&self, node: usize, track: usize) -> Result<Vec<RecordBatch>, StageError> {
        let reader = self.readers[node].as_ref().expect("replayed nodes have readers");
        reader.read_track(self.shard.track_id(track)).map_err(|error| StageError::Failed(error.to_string()))
    }
}

/// Sources that are not lists of files are handed a row with this schema.
fn bare_track() -> SchemaRef {
    use omar_schemas::Edge;
    omar_schemas::Track::schema(&omar_schemas::TrackSpec { root: String::new() })
}
