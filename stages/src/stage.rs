//! The contract between a stage and whatever runs it.
//!
//! A stage kind is registered ([`StageKind`]), bound to a node of a graph ([`Stage`]: parameters and input edges have
//! been checked, the output edge is known) and started ([`Operator`]: it has state and processes batches). What runs
//! operators, a plain loop or timely, is not visible here.
//!
//! The three [`Scope`]s say how batches arrive:
//! - a *source* lists recordings ([`Source`]); its operator is handed one recording at a time, like a track stage;
//! - a *track* stage is handed the batches of one recording in order, then [`Operator::flush`], then the next
//!   recording. It must be ready for it: nothing of a track survives its flush;
//! - a *corpus* stage is handed all crops of all tracks, in an order that depends on the seed and the corpus only.
//!
//! A stage with several inputs gets them aligned, see [`Meeting`]: one batch per port, in port order, with the same crops
//! in the same rows, or with all that each port has of one recording.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use candle_core::Device;
use omar_schemas::{Edge, Split, TrackId};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::{BindError, Rejection, StageError};
use crate::estimate::Estimate;
use crate::train::{Collective, Solo};

/// Index into [`StageKind::INPUTS`].
pub type Port = usize;

/// A kind of stage: what a file in `ops/` declares, and `ops/mod.rs` lists.
pub trait StageKind: Stage + Sized + 'static {
    /// As written after `stage:` in YAML.
    const NAME: &'static str;
    /// Bump when the same inputs and parameters give other output bytes: caches of the old version then miss.
    const VERSION: u32;
    /// One line for people, shown by `omar-flow stages`.
    const SUMMARY: &'static str;
    /// A node that uses it, in YAML (the value of the node, without its name).
    const EXAMPLE: &'static str;
    /// How batches arrive.
    const SCOPE: Scope;
    /// Names of the input ports. A stage with one port is written `from: node`, one with several
    /// `from: {port: node, ...}`.
    const INPUTS: &'static [&'static str];
    /// Parameters: documented, with units, `deny_unknown_fields`, defaults by named functions.
    type Params: Serialize + DeserializeOwned + JsonSchema;

    /// Checks parameters against the input edges. Every refusal that needs no data happens here.
    ///
    /// Touches no device and looks at no data. The only files it may read are small descriptions that decide the output
    /// edge (a parquet footer, the `config.json` of a model, statistics).
    ///
    /// # Errors
    /// What does not fit, and how to mend it.
    fn bind(params: Self::Params, inputs: &Inputs<'_>) -> Result<Self, BindError>;
}

/// How batches arrive at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Lists recordings.
    Source,
    /// Works on one recording at a time.
    Track,
    /// Works on the corpus as a whole.
    Corpus {
        /// Wants pass after pass over the corpus until it answers [`Progress::Enough`].
        repeats: bool,
    },
}

/// How the inputs of a stage come together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Meeting {
    /// Crop by crop: batches with the same crops in the same rows. A crop that one port lacks is left out.
    #[default]
    Crops,
    /// Recording by recording, once it is complete: all its rows at each port as one batch, without rows where a port has
    /// none of it. So vectors meet labels.
    Recordings,
}

/// A stage bound to a node: it knows its output edge and can be started.
pub trait Stage: Send + Sync {
    /// Schema of every batch it emits.
    fn output(&self) -> SchemaRef;

    /// A fresh operator. Called once for every thread of work, so tables that are costly to build belong in `self`.
    ///
    /// # Errors
    /// When something the operator needs is missing.
    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError>;

    /// How its inputs come together.
    fn meeting(&self) -> Meeting {
        Meeting::Crops
    }

    /// The recordings, if this is a source.
    fn source(&self) -> Option<&dyn Source> {
        None
    }

    /// Whether its operators compute on [`StageContext::device`].
    fn uses_device(&self) -> bool {
        false
    }

    /// Files whose content decides the output (weights, codebooks): they must exist, and their hash is part of the
    /// fingerprint.
    fn files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Whether several processes can share its work, each being handed the same stream; otherwise the first does it alone.
    /// Only corpus stages are asked.
    ///
    /// # Errors
    /// Why it cannot be shared among so many, in words.
    fn shares(&self, _processes: usize) -> Result<bool, String> {
        Ok(false)
    }

    /// Files that a run writes for other graphs to read, beside the rows that it emits.
    fn writes(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What running it will take, where that is worth knowing before: a stage that trains says so.
    fn estimate(&self) -> Option<Estimate> {
        None
    }
}

/// A node while it runs.
pub trait Operator: Send {
    /// Takes a batch.
    ///
    /// # Errors
    /// Only what must end the run. What is wrong with one recording goes to [`Output::reject`].
    fn push(&mut self, port: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError>;

    /// Continues after [`Progress::Pending`]: emits a little more and returns, so that a long recording never stands
    /// in memory as a whole.
    ///
    /// # Errors
    /// As [`Operator::push`].
    fn resume(&mut self, _out: &mut dyn Output) -> Result<Progress, StageError> {
        Ok(Progress::Idle)
    }

    /// The recording (track scope) or the corpus (corpus scope) is complete.
    ///
    /// # Errors
    /// As [`Operator::push`].
    fn flush(&mut self, _out: &mut dyn Output) -> Result<(), StageError> {
        Ok(())
    }

    /// Where a corpus stage wants the stream to start: the beginning, unless it continues from a checkpoint.
    fn start_at(&self) -> Position {
        Position::default()
    }

    /// The run is being stopped from outside (Ctrl-C, SIGTERM): save what is worth saving. No more batches follow.
    ///
    /// # Errors
    /// When saving fails.
    fn interrupt(&mut self) -> Result<(), StageError> {
        Ok(())
    }
}

/// What an operator wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// The next batch.
    Idle,
    /// To be resumed before anything else.
    Pending,
    /// Nothing more, ever: a corpus stage has all it needs. `flush` still follows.
    Enough,
}

/// A place in the repeatable stream of shards that a corpus stage reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
pub struct Position {
    /// Which pass over the corpus, from 0.
    pub pass: u32,
    /// Which shard of the pass, in the order of that pass.
    pub shard: u32,
}

/// Where an operator's results go.
pub trait Output {
    /// Passes a batch on, to every consumer.
    fn emit(&mut self, batch: RecordBatch);

    /// Gives up on a recording: it becomes a row of the quarantine, its rows in this shard are not committed, and the
    /// run goes on.
    fn reject(&mut self, track: TrackId, reason: Rejection);

    /// Where in the stream the batch being processed stands. Meaningful for corpus stages.
    fn position(&self) -> Position {
        Position::default()
    }
}

/// What an operator may know about its surroundings.
#[derive(Debug, Clone)]
pub struct StageContext {
    /// Name of the node.
    pub node: String,
    /// Seed for everything random in this node: a function of the graph's seed and the stage kind.
    pub seed: u64,
    /// Folder of the node in the run folder, for checkpoints and logs. `None` when nothing is to be written.
    pub run_dir: Option<PathBuf>,
    /// Continue from what is in `run_dir`.
    pub resume: bool,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The processes that share the work of this node; [`Solo`] where this one does it alone. Process 0 alone writes.
    pub collective: Arc<dyn Collective>,
    /// Set when the run is being stopped. A stage that shares its work ends together with the others: one that learns from
    /// them that all stop sets it.
    pub stopping: Arc<AtomicBool>,
}

impl StageContext {
    /// The device as candle knows it.
    ///
    /// # Errors
    /// When it has no such name or cannot be used.
    pub fn device(&self) -> Result<Device, StageError> {
        Ok(crate::device::open(&self.device)?)
    }

    /// A context for tests and examples: CPU, seed 0, nothing written.
    pub fn detached(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            seed: 0,
            run_dir: None,
            resume: false,
            device: "cpu".to_owned(),
            collective: Arc::new(Solo),
            stopping: Arc::default(),
        }
    }
}

/// Finds the recordings of a corpus.
pub trait Source {
    /// Calls `found` for every recording, in any order.
    ///
    /// # Errors
    /// When the corpus cannot be listed at all.
    fn list(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError>;

    /// Whether, of several recordings with one content, all but one are left out.
    fn drops_duplicates(&self) -> bool {
        false
    }

    /// Looks whether the object stores that it lists can be reached. Only asked by those who want to know before a run.
    fn reach(&self) -> Vec<Reach> {
        Vec::new()
    }
}

/// Whether an object store can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The address that was asked for.
    pub place: String,
    /// What was found there, or why nothing was.
    pub found: Result<String, String>,
}

/// One recording as a source lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// Its id.
    pub track_id: TrackId,
    /// Its path as the corpus names it.
    pub path: String,
    /// What it is used for.
    pub split: Split,
    /// Size in bytes, 0 if unknown.
    pub bytes: u64,
    /// Changes when the content changes: a hash of size and modification time, or of the content. 0 if nothing is known.
    pub identity: u64,
    /// Whether [`Recording::identity`] is a hash of the content, so that equal ones are equal recordings.
    pub content: bool,
}

/// The input edges of a node, as seen by [`StageKind::bind`].
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    ports: Vec<(&'static str, &'a SchemaRef)>,
}

impl<'a> Inputs<'a> {
    /// Port names with the schemas that arrive there, in the order of [`StageKind::INPUTS`].
    pub fn new(ports: Vec<(&'static str, &'a SchemaRef)>) -> Self {
        Self { ports }
    }

    /// The schema at a port.
    ///
    /// # Panics
    /// When the stage asks for a port that it has not declared.
    pub fn schema(&self, port: &str) -> &'a Schema {
        let found = self.ports.iter().find(|declared| declared.0 == port);
        found.expect("stages ask for ports that they declare").1
    }

    /// The constants of the edge at a port.
    ///
    /// # Errors
    /// When another edge arrives there.
    pub fn spec<E: Edge>(&self, port: &'static str) -> Result<E::Spec, BindError> {
        E::spec(self.schema(port)).map_err(|source| BindError::input(port, source))
    }
}
