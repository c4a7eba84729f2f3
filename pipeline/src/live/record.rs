//! What is known of a process of a run at one moment: a line of `live-I.jsonl`.

use serde::{Deserialize, Serialize};

use crate::metrics::NodeCounts;

/// Version of the format. Readers skip lines of others.
pub(crate) const VERSION: u32 = 1;

/// A process of a run at one moment. Counters are those since this process began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// Version of the format.
    pub(crate) v: u32,
    /// Which process of the run, from 0, and of how many.
    pub(crate) process: usize,
    pub(crate) processes: usize,
    /// Whether each process has shards of its own; else every one of them goes through the whole corpus.
    pub(crate) parts: bool,
    /// Machine and process id.
    pub(crate) host: String,
    pub(crate) pid: u32,
    /// Name of the graph.
    pub(crate) graph: String,
    /// When the process began and when this was seen, seconds since 1970.
    pub(crate) started: f64,
    pub(crate) time: f64,
    pub(crate) elapsed_s: f64,
    pub(crate) state: State,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// Pass over the corpus, from 1.
    pub(crate) pass: u32,
    /// Shards and recordings of the first pass.
    pub(crate) shards: Share,
    pub(crate) tracks: Share,
    /// Recordings in the quarantine.
    pub(crate) rejected: u64,
    /// Seconds of audio that went in, and how many of them per second.
    pub(crate) audio_s: f64,
    pub(crate) realtime: f64,
    /// Seconds that are left, where anything tells.
    pub(crate) left_s: Option<f64>,
    pub(crate) memory: Memory,
    /// Threads of the pool, and writers of caches with what is queued before them.
    pub(crate) threads: usize,
    pub(crate) writers: usize,
    pub(crate) writer_queue: u64,
    /// Seconds since anything moved.
    pub(crate) still_s: f64,
    /// In the order of the graph.
    pub(crate) nodes: Vec<NodeRecord>,
}

/// How much of something is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Share {
    pub(crate) done: u64,
    pub(crate) total: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memory {
    /// What rows on their way hold, of what they may.
    pub(crate) held: u64,
    pub(crate) limit: u64,
    /// What the process holds in all, where the system says so.
    pub(crate) resident: Option<u64>,
}

/// How a process is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    #[default]
    Running,
    /// Asked to stop, finishing what is begun.
    Stopping,
    Complete,
    /// Stopped from outside, after a clean commit.
    Interrupted,
    Failed,
    /// Gone without a word: never written, found out by readers.
    Lost,
}

/// A node of a process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeRecord {
    pub(crate) node: String,
    pub(crate) stage: String,
    /// Has a thread of its own, as opposed to one of the pool.
    pub(crate) corpus: bool,
    /// The nodes that it reads, by port.
    pub(crate) inputs: Vec<String>,
    /// Whether its rows are kept.
    pub(crate) cache: bool,
    #[serde(flatten)]
    pub(crate) counts: NodeCounts,
    /// Batches or recordings that wait for it.
    pub(crate) queued: u64,
    /// Threads that are at work in it.
    pub(crate) in_flight: u64,
    /// Seconds since the oldest of these took up what it has in hand, and what that is.
    pub(crate) busy_since_s: Option<f64>,
    pub(crate) in_hand: Option<String>,
    /// Steps done and to do, of a training.
    pub(crate) steps: Option<Share>,
}

impl Share {
    /// Percent that are done.
    pub(crate) fn percent(self) -> f64 {
        if self.total == 0 { 100.0 } else { 100.0 * self.done as f64 / self.total as f64 }
    }
}

impl State {
    /// Whether the process will say more.
    pub(crate) fn goes_on(self) -> bool {
        matches!(self, Self::Running | Self::Stopping)
    }

    /// For people.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Complete => "complete",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Lost => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_their_file_and_new_fields() {
        let node = NodeRecord {
            node: "audio".to_owned(),
            inputs: vec!["tracks".to_owned()],
            counts: NodeCounts { rows_out: u64::MAX, busy_s: 1.5, ..NodeCounts::default() },
            ..NodeRecord::default()
        };
        let record = Record { v: VERSION, state: State::Interrupted, nodes: vec![node], ..Record::default() };
        let mut json = serde_json::to_value(&record).expect("json");
        assert_eq!(serde_json::from_value::<Record>(json.clone()).expect("a record"), record);
        json["nodes"][0]["rows_per_year"] = 7.into();
        json.as_object_mut().expect("an object").remove("pid");
        assert_eq!(serde_json::from_value::<Record>(json).expect("a record"), record);
    }
}
