//! Running a plan.
//!
//! | file | does |
//! |---|---|
//! | [`network`] | the nodes of a plan, connected; which of them a shard needs |
//! | [`lane`] | one recording through the track-level nodes |
//! | [`breaker`] | ends a run that rejects too many recordings |
//! | [`second`] | recordings whose rejection the caches remember, tried again |
//! | [`align`] | inputs of a several-input node brought into step |
//! | [`shards`] | the corpus cut into shards; passes over it |
//! | [`sinks`] | where rows end up: caches, quarantine |
//! | [`codes`] | how often each code occurs in the tokens of the corpus |
//! | [`division`] | which process does what |
//! | [`corpus`] | stages that see the whole corpus, e.g. training |
//! | [`traffic`] | what is under way at this moment, and what everybody waits for |
//! | [`direct`] | a plain loop over all of this: the oracle |
//!
//! [`crate::render`] does the same with timely, pools and back-pressure.

pub(crate) mod align;
pub mod breaker;
pub(crate) mod codes;
pub(crate) mod corpus;
pub(crate) mod direct;
pub(crate) mod division;
pub(crate) mod lane;
pub(crate) mod network;
pub mod second;
pub(crate) mod shards;
pub(crate) mod sinks;
pub(crate) mod traffic;

use arrow::array::RecordBatch;
use omar_schemas::TrackId;
use omar_stages::storage::RejectRecord;
use omar_stages::{Rejection, StageError};
use serde::{Deserialize, Serialize};

use network::Network;
pub(crate) use shards::ShardTask;

/// What a lane produces, in order, for one recording.
#[derive(Debug)]
pub(crate) enum Message {
    /// Rows of a node that somebody outside wants: to cache them, to count them.
    Rows { node: usize, batch: RecordBatch },
    /// Aligned crops for a corpus stage, one batch per port.
    Crops { node: usize, batches: Vec<RecordBatch> },
    /// The recording is complete, or was given up on.
    End { rejected: Option<RejectedTrack> },
}

impl Message {
    /// Size of its rows in memory.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Rows { batch, .. } => batch.get_array_memory_size(),
            Self::Crops { batches, .. } => batches.iter().map(RecordBatch::get_array_memory_size).sum(),
            Self::End { .. } => 0,
        }
    }

    /// The node whose rows they are.
    pub(crate) fn origin(&self, network: &Network) -> usize {
        match self {
            Self::Rows { node, .. } => *node,
            Self::Crops { node, .. } => network.nodes[*node].inputs.first().copied().unwrap_or(*node),
            Self::End { .. } => 0,
        }
    }
}

/// A recording that was given up on: a row of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedTrack {
    /// Its id.
    pub track_id: TrackId,
    /// Its path as the corpus names it.
    pub path: String,
    /// Node that gave up.
    pub node: String,
    /// Stage of that node.
    pub stage: String,
    /// Group.
    pub class: String,
    /// Sentence for people.
    pub message: String,
    /// Shard it belongs to.
    pub shard: String,
    /// Counted only (`on_error: drop`), not listed in the quarantine.
    pub dropped: bool,
}

impl RejectedTrack {
    /// As kept in a commit record.
    pub(crate) fn to_record(&self) -> RejectRecord {
        let Self { track_id, path, node, stage, class, message, .. } = self.clone();
        RejectRecord { track_id, path, node, stage, class, message }
    }

    /// From a commit record of `shard`.
    pub(crate) fn from_record(record: &RejectRecord, shard: &str) -> Self {
        let RejectRecord { track_id, path, node, stage, class, message } = record.clone();
        Self { track_id, path, node, stage, class, message, shard: shard.to_owned(), dropped: false }
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A stage cannot go on.
    #[error("node `{node}`: {source}")]
    Stage {
        /// Node.
        node: String,
        /// What it says.
        source: StageError,
    },
    /// A recording was rejected by a node with `on_error: fail`.
    #[error("node `{node}` (on_error: fail): `{path}`: {} ({})", reason.message, reason.class)]
    Rejected {
        /// Node.
        node: String,
        /// Recording.
        path: String,
        /// Why.
        reason: Rejection,
    },
    /// More recordings were rejected than `errors.stop_if` allows.
    #[error(transparent)]
    TooManyRejects(#[from] Box<breaker::TooManyRejects>),
    /// The processes of the run did not come together.
    #[error(transparent)]
    Cluster(#[from] crate::cluster::ClusterError),
    /// Another process of the run was lost, or failed.
    #[error("{0}")]
    Peer(String),
    /// A device is missing or failed.
    #[error("{0}")]
    Device(String),
    /// Something else.
    #[error("{0}")]
    Failed(String),
}
