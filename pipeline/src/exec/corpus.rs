//! Stages that see the whole corpus.
//!
//! Such a stage has one operator, in one place: it is handed all crops in the order of the epochs, on a thread of its
//! own when the graph runs as a dataflow. Its own rows (training metrics) go to parquet files in the run folder.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use omar_schemas::TrackId;
use omar_stages::{Operator, Output, Position, Progress, Rejection, Scope, StageError};

use super::RunError;
use super::network::Network;
use super::shards::Appetite;
use super::traffic::{Hand, Owner};
use crate::metrics::Wait;
use crate::results::ResultLog;

/// The running operator of a corpus stage.
pub(crate) struct CorpusRunner {
    network: Arc<Network>,
    node: usize,
    operator: Box<dyn Operator>,
    pub(crate) appetite: Arc<Appetite>,
    results: ResultLog,
    hand: Arc<Hand>,
}

impl CorpusRunner {
    /// Starts the operator of a node; it may load a checkpoint.
    pub(crate) fn start(network: Arc<Network>, node: usize, results: ResultLog) -> Result<Self, RunError> {
        let description = &network.nodes[node];
        let operator = description
            .stage
            .start(&description.context)
            .map_err(|source| RunError::Stage { node: description.id.clone(), source })?;
        let repeats = matches!(description.scope, Scope::Corpus { repeats: true });
        let appetite = Arc::new(Appetite::new(repeats, operator.start_at()));
        let hand = network.traffic.hand(Owner::Corpus);
        Ok(Self { network, node, operator, appetite, results, hand })
    }

    /// Nothing came for it for some time.
    pub(crate) fn waited(&self, time: Duration) {
        self.network.nodes[self.node].metrics.waited(Wait::Input, time);
    }

    /// Which node it is.
    pub(crate) fn node(&self) -> usize {
        self.node
    }

    /// Hands it aligned crops.
    pub(crate) fn push(&mut self, position: Position, batches: &[RecordBatch]) -> Result<(), RunError> {
        if self.appetite.is_satisfied() {
            return Ok(());
        }
        self.appetite.ate(batches.first().map_or(0, RecordBatch::num_rows));
        self.hand.take(format!("crops of pass {}, shard {}", position.pass + 1, position.shard + 1));
        let network = self.network.clone();
        batches.iter().for_each(|batch| network.nodes[self.node].metrics.took(batch));
        self.timed(position, |operator, out| {
            let mut progress = Progress::Idle;
            for (port, batch) in batches.iter().enumerate() {
                progress = operator.push(port, batch, out)?;
            }
            Ok(progress)
        })
    }

    /// No more crops follow.
    pub(crate) fn finish(&mut self) -> Result<(), RunError> {
        self.timed(Position::default(), |operator, out| operator.flush(out).map(|()| Progress::Idle))?;
        self.results.close().map_err(|source| self.error(source))
    }

    /// The run is stopped from outside.
    pub(crate) fn interrupt(&mut self) -> Result<(), RunError> {
        self.operator.interrupt().map_err(|source| self.error(source))?;
        self.results.close().map_err(|source| self.error(source))
    }

    fn timed(
        &mut self,
        position: Position,
        call: impl FnOnce(&mut dyn Operator, &mut dyn Output) -> Result<Progress, StageError>,
    ) -> Result<(), RunError> {
        let network = self.network.clone();
        let metrics = &network.nodes[self.node].metrics;
        let mut out = Results { position, rows: Vec::new(), error: None };
        let started = Instant::now();
        self.hand.enter(self.node, started);
        let mut progress = call(self.operator.as_mut(), &mut out);
        // Rows go out as they come: one call may train for minutes.
        while let Ok(Progress::Pending) = progress {
            self.log(out.rows.drain(..))?;
            progress = self.operator.resume(&mut out);
        }
        metrics.busy(started.elapsed());
        self.hand.rest();
        self.log(out.rows.drain(..))?;
        if let Some(reason) = out.error {
            let message = format!("{} ({})", reason.message, reason.class);
            return Err(self.error(StageError::Failed(message)));
        }
        if progress.map_err(|source| self.error(source))? == Progress::Enough {
            self.appetite.satisfy(position);
        }
        Ok(())
    }

    fn log(&mut self, rows: impl Iterator<Item = RecordBatch>) -> Result<(), RunError> {
        for batch in rows {
            self.network.nodes[self.node].metrics.emitted(&batch);
            self.results.append(batch).map_err(|source| self.error(source))?;
        }
        Ok(())
    }

    fn error(&self, source: StageError) -> RunError {
        RunError::Stage { node: self.network.nodes[self.node].id.clone(), source }
    }
}

/// What the operator hands out during one call. A corpus stage has no single recording to give up on, so a rejection
/// is an error here.
struct Results {
    position: Position,
    rows: Vec<RecordBatch>,
    error: Option<Rejection>,
}

impl Output for Results {
    fn emit(&mut self, batch: RecordBatch) {
        self.rows.push(batch);
    }

    fn reject(&mut self, track: TrackId, mut reason: Rejection) {
        reason.message = format!("track {track}: {}", reason.message);
        self.error.get_or_insert(reason);
    }

    fn position(&self) -> Position {
        self.position
    }
}
