//! What every node counts while it runs. The executor keeps these numbers, stages do not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::{Array, Float64Array, ListArray, RecordBatch, UInt32Array};
use omar_schemas::column;
use serde::Serialize;

/// Counters of one node; one relaxed addition per batch.
#[derive(Debug, Default)]
pub struct NodeMetrics {
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    batches_out: AtomicU64,
    bytes_out: AtomicU64,
    /// Milliseconds of audio that the emitted rows stand for.
    audio_ms: AtomicU64,
    busy_ns: AtomicU64,
    rejected: AtomicU64,
    rows_cached: AtomicU64,
    shards_cached: AtomicU64,
    shards_committed: AtomicU64,
    bytes_committed: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct NodeCounts {
    /// Rows that arrived.
    pub rows_in: u64,
    /// Rows that were computed.
    pub rows_out: u64,
    /// Batches that were computed.
    pub batches_out: u64,
    /// Size of these batches in memory.
    pub bytes_out: u64,
    /// Seconds of audio that the computed rows stand for.
    pub audio_s: f64,
    /// Seconds that it was at work, summed over threads.
    pub busy_s: f64,
    /// Recordings given up on.
    pub rejected: u64,
    /// Rows read from the cache instead of computed.
    pub rows_cached: u64,
    /// Shards that were in the cache before the run.
    pub shards_cached: u64,
    /// Shards that this run committed.
    pub shards_committed: u64,
    /// Their size on disk.
    pub bytes_committed: u64,
}

impl NodeMetrics {
    /// A batch arrived.
    pub(crate) fn took(&self, batch: &RecordBatch) {
        self.rows_in.fetch_add(batch.num_rows() as u64, Relaxed);
    }

    /// A batch was emitted.
    pub(crate) fn emitted(&self, batch: &RecordBatch) {
        self.rows_out.fetch_add(batch.num_rows() as u64, Relaxed);
        self.batches_out.fetch_add(1, Relaxed);
        self.bytes_out.fetch_add(batch.get_array_memory_size() as u64, Relaxed);
        self.audio_ms.fetch_add(audio_ms(batch), Relaxed);
    }

    /// A batch was read from the cache.
    pub(crate) fn replayed(&self, batch: &RecordBatch) {
        self.rows_cached.fetch_add(batch.num_rows() as u64, Relaxed);
    }

    /// Time was spent.
    pub(crate) fn busy(&self, time: Duration) {
        self.busy_ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// A recording was given up on.
    pub(crate) fn reject(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Shards were found in the cache.
    pub(crate) fn found_cached(&self, shards: u64) {
        self.shards_cached.fetch_add(shards, Relaxed);
    }

    /// A shard was committed.
    pub(crate) fn committed(&self, bytes: u64) {
        self.shards_committed.fetch_add(1, Relaxed);
        self.bytes_committed.fetch_add(bytes, Relaxed);
    }

    /// Adds what other processes have counted.
    pub(crate) fn add(&self, counts: &NodeCounts) {
        let whole = [
            (&self.rows_in, counts.rows_in),
            (&self.rows_out, counts.rows_out),
            (&self.batches_out, counts.batches_out),
            (&self.bytes_out, counts.bytes_out),
            (&self.audio_ms, (counts.audio_s * 1e3).round() as u64),
            (&self.busy_ns, (counts.busy_s * 1e9).round() as u64),
            (&self.rejected, counts.rejected),
            (&self.rows_cached, counts.rows_cached),
            (&self.shards_cached, counts.shards_cached),
            (&self.shards_committed, counts.shards_committed),
            (&self.bytes_committed, counts.bytes_committed),
        ];
        for (counter, more) in whole {
            counter.fetch_add(more, Relaxed);
        }
    }

    /// The counters now.
    pub fn counts(&self) -> NodeCounts {
        NodeCounts {
            rows_in: self.rows_in.load(Relaxed),
            rows_out: self.rows_out.load(Relaxed),
            batches_out: self.batches_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            audio_s: self.audio_ms.load(Relaxed) as f64 * 1e-3,
            busy_s: self.busy_ns.load(Relaxed) as f64 * 1e-9,
            rejected: self.rejected.load(Relaxed),
            rows_cached: self.rows_cached.load(Relaxed),
            shards_cached: self.shards_cached.load(Relaxed),
            shards_committed: self.shards_committed.load(Relaxed),
            bytes_committed: self.bytes_committed.load(Relaxed),
        }
    }
}

impl NodeCounts {
    /// All of them, in a fixed order, for sums over processes.
    pub(crate) fn to_array(&self) -> [f64; 11] {
        let Self { audio_s, busy_s, .. } = *self;
        let whole = [
            self.rows_in,
            self.rows_out,
            self.batches_out,
            self.bytes_out,
            self.rejected,
            self.rows_cached,
            self.shards_cached,
            self.shards_committed,
            self.bytes_committed,
        ];
        std::array::from_fn(|at| whole.get(at).map_or(if at == 9 { audio_s } else { busy_s }, |&count| count as f64))
    }

    /// From [`NodeCounts::to_array`].
    pub(crate) fn from_array(values: [f64; 11]) -> Self {
        let count = |at: usize| values[at].round() as u64;
        Self {
            rows_in: count(0),
            rows_out: count(1),
            batches_out: count(2),
            bytes_out: count(3),
            rejected: count(4),
            rows_cached: count(5),
            shards_cached: count(6),
            shards_committed: count(7),
            bytes_committed: count(8),
            audio_s: values[9],
            busy_s: values[10],
        }
    }

    /// These less others.
    pub(crate) fn less(&self, other: &Self) -> Self {
        let (all, other) = (self.to_array(), other.to_array());
        Self::from_array(std::array::from_fn(|at| (all[at] - other[at]).max(0.0)))
    }
}

/// Audio that the rows of a batch stand for: `audio_s` of crops, or samples at their rate.
fn audio_ms(batch: &RecordBatch) -> u64 {
    if let Ok(seconds) = column::<Float64Array>(batch, "audio_s") {
        return (seconds.values().iter().sum::<f64>() * 1e3).round() as u64;
    }
    let (Ok(samples), Ok(rates)) = (column::<ListArray>(batch, "samples"), column::<UInt32Array>(batch, "sample_rate"))
    else {
        return 0;
    };
    let ms = |row| u64::from(samples.value_length(row).unsigned_abs()) * 1000 / u64::from(rates.value(row).max(1));
    (0..samples.len()).map(ms).sum()
}
