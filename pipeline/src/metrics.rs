//! What every node counts while it runs. The executor keeps these numbers, stages do not.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::{Array, Float64Array, ListArray, RecordBatch, UInt32Array};
use omar_schemas::column;
use serde::{Deserialize, Serialize};

/// What a thread that has nothing to do waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Something to work on.
    Input,
    /// A share of the memory that rows on their way may take.
    Memory,
    /// Nodes further down, whose queue is full or which are too many shards behind.
    Downstream,
}

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
    write_ns: AtomicU64,
    wait_input_ns: AtomicU64,
    wait_memory_ns: AtomicU64,
    wait_downstream_ns: AtomicU64,
    rejected: AtomicU64,
    rows_cached: AtomicU64,
    shards_cached: AtomicU64,
    shards_committed: AtomicU64,
    bytes_committed: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    /// The part of these in which its rows were written to the cache, on a thread of its own.
    pub write_s: f64,
    /// Seconds that threads stood idle here because nothing was there to work on. A recording that is not begun is
    /// waited for at the source, so idle threads of the pool are found there.
    pub wait_input_s: f64,
    /// Seconds that threads stood idle because rows of this node had to wait for memory.
    pub wait_memory_s: f64,
    /// Seconds that threads stood idle because nodes further down were behind.
    pub wait_downstream_s: f64,
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
        self.busy_ns.fetch_add(nanoseconds(time), Relaxed);
    }

    /// Time was spent on writing its rows.
    pub(crate) fn wrote(&self, time: Duration) {
        self.busy(time);
        self.write_ns.fetch_add(nanoseconds(time), Relaxed);
    }

    /// A thread had nothing to do.
    pub(crate) fn waited(&self, wait: Wait, time: Duration) {
        let counter = match wait {
            Wait::Input => &self.wait_input_ns,
            Wait::Memory => &self.wait_memory_ns,
            Wait::Downstream => &self.wait_downstream_ns,
        };
        counter.fetch_add(nanoseconds(time), Relaxed);
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
        let nanoseconds = |seconds: f64| (seconds * 1e9).round() as u64;
        let whole = [
            (&self.rows_in, counts.rows_in),
            (&self.rows_out, counts.rows_out),
            (&self.batches_out, counts.batches_out),
            (&self.bytes_out, counts.bytes_out),
            (&self.audio_ms, (counts.audio_s * 1e3).round() as u64),
            (&self.busy_ns, nanoseconds(counts.busy_s)),
            (&self.write_ns, nanoseconds(counts.write_s)),
            (&self.wait_input_ns, nanoseconds(counts.wait_input_s)),
            (&self.wait_memory_ns, nanoseconds(counts.wait_memory_s)),
            (&self.wait_downstream_ns, nanoseconds(counts.wait_downstream_s)),
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

    /// A number that changes whenever the node has done anything.
    pub(crate) fn moves(&self) -> u64 {
        let counters = [&self.rows_in, &self.batches_out, &self.busy_ns, &self.rejected, &self.rows_cached];
        counters.iter().chain(&[&self.shards_committed]).fold(0, |sum, counter| sum.wrapping_add(counter.load(Relaxed)))
    }

    /// The counters now.
    pub fn counts(&self) -> NodeCounts {
        NodeCounts {
            rows_in: self.rows_in.load(Relaxed),
            rows_out: self.rows_out.load(Relaxed),
            batches_out: self.batches_out.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            audio_s: self.audio_ms.load(Relaxed) as f64 * 1e-3,
            busy_s: seconds(&self.busy_ns),
            write_s: seconds(&self.write_ns),
            wait_input_s: seconds(&self.wait_input_ns),
            wait_memory_s: seconds(&self.wait_memory_ns),
            wait_downstream_s: seconds(&self.wait_downstream_ns),
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
    pub(crate) fn to_array(self) -> [f64; 15] {
        [
            self.rows_in as f64,
            self.rows_out as f64,
            self.batches_out as f64,
            self.bytes_out as f64,
            self.rejected as f64,
            self.rows_cached as f64,
            self.shards_cached as f64,
            self.shards_committed as f64,
            self.bytes_committed as f64,
            self.audio_s,
            self.busy_s,
            self.write_s,
            self.wait_input_s,
            self.wait_memory_s,
            self.wait_downstream_s,
        ]
    }

    /// From [`NodeCounts::to_array`].
    pub(crate) fn from_array(values: [f64; 15]) -> Self {
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
            write_s: values[11],
            wait_input_s: values[12],
            wait_memory_s: values[13],
            wait_downstream_s: values[14],
        }
    }

    /// The sum over processes, or (with `sign` -1) what happened between two moments.
    pub(crate) fn plus(&self, other: &Self, sign: i8) -> Self {
        let whole = |a: u64, b: u64| if sign < 0 { a.saturating_sub(b) } else { a.saturating_add(b) };
        let real = |a: f64, b: f64| (a + f64::from(sign) * b).max(0.0);
        Self {
            rows_in: whole(self.rows_in, other.rows_in),
            rows_out: whole(self.rows_out, other.rows_out),
            batches_out: whole(self.batches_out, other.batches_out),
            bytes_out: whole(self.bytes_out, other.bytes_out),
            audio_s: real(self.audio_s, other.audio_s),
            busy_s: real(self.busy_s, other.busy_s),
            write_s: real(self.write_s, other.write_s),
            wait_input_s: real(self.wait_input_s, other.wait_input_s),
            wait_memory_s: real(self.wait_memory_s, other.wait_memory_s),
            wait_downstream_s: real(self.wait_downstream_s, other.wait_downstream_s),
            rejected: whole(self.rejected, other.rejected),
            rows_cached: whole(self.rows_cached, other.rows_cached),
            shards_cached: whole(self.shards_cached, other.shards_cached),
            shards_committed: whole(self.shards_committed, other.shards_committed),
            bytes_committed: whole(self.bytes_committed, other.bytes_committed),
        }
    }

    /// What its threads waited for most, with the seconds. `None` when they did not wait.
    pub fn longest_wait(&self) -> Option<(Wait, f64)> {
        let waits = [
            (Wait::Input, self.wait_input_s),
            (Wait::Memory, self.wait_memory_s),
            (Wait::Downstream, self.wait_downstream_s),
        ];
        waits.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|longest| longest.1 > 0.0)
    }

    /// Seconds that its threads waited.
    pub fn wait_s(&self) -> f64 {
        self.wait_input_s + self.wait_memory_s + self.wait_downstream_s
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn seconds(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64 * 1e-9
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
