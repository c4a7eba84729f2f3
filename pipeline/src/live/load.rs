//! Records of all processes to one picture: what every node does, how fast, and which one the others wait for.
//!
//! The nodes that work recording by recording share the threads of the pool, a stage that sees the whole corpus has a
//! thread of its own, and caches are written by another. So what a node takes is a share of the time of its threads, and
//! the bottleneck is the node with the largest share on those threads that are busiest.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::record::{Memory, NodeRecord, Record, Share, State};
use crate::metrics::{NodeCounts, Wait};

/// Busier than this, threads count as full.
const FULL: f64 = 0.5;

/// A process between two moments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Span {
    /// `None` for its beginning.
    pub(crate) before: Option<Record>,
    pub(crate) now: Record,
}

/// All processes of a run between two moments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Picture {
    /// At the second moment.
    pub(crate) processes: Vec<Record>,
    /// In the order of the graph.
    pub(crate) nodes: Vec<NodeLoad>,
    pub(crate) bottleneck: Option<Bottleneck>,
}

/// What a node does in all processes together.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct NodeLoad {
    /// Its newest records, added up.
    #[serde(flatten)]
    pub(crate) record: NodeRecord,
    /// Share of the time of its threads in which they work for it, 0..1.
    pub(crate) busy: f64,
    /// Share of the time of the writers in which they write its rows.
    pub(crate) writing: f64,
    /// Share of the time of its threads in which they wait, by reason.
    pub(crate) waits_input: f64,
    pub(crate) waits_memory: f64,
    pub(crate) waits_downstream: f64,
    /// Rows, bytes in memory and seconds of audio that it makes per second.
    pub(crate) rows_per_s: f64,
    pub(crate) bytes_per_s: f64,
    pub(crate) audio_per_s: f64,
}

/// The node that the others wait for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bottleneck {
    pub(crate) node: String,
    pub(crate) stage: String,
    pub(crate) threads: Threads,
    /// Share of the time of these threads that it takes.
    pub(crate) share: f64,
    /// Share of their time in which they work at all, and how many they are.
    pub(crate) load: f64,
    pub(crate) count: usize,
    /// Who waits meanwhile, for what, and for which share of their time; `None` is the pool.
    pub(crate) waiting: Vec<(Option<String>, Wait, f64)>,
}

/// Which threads work for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Threads {
    Pool,
    Writer,
    Own,
}

/// Thread-seconds that there were.
#[derive(Debug, Clone, Copy, Default)]
struct Capacity {
    wall: f64,
    pool: f64,
    writers: f64,
}

impl Picture {
    /// Adds up processes.
    pub(crate) fn of(spans: Vec<Span>) -> Self {
        let mut capacity = Capacity::default();
        let mut nodes: Vec<(NodeRecord, NodeCounts, f64)> = Vec::new();
        for Span { before, now } in &spans {
            let seconds = now.elapsed_s - before.as_ref().map_or(0.0, |before| before.elapsed_s);
            capacity.wall = capacity.wall.max(seconds);
            capacity.pool += seconds * now.threads as f64;
            capacity.writers += seconds * now.writers as f64;
            for node in &now.nodes {
                let earlier = before.iter().flat_map(|before| &before.nodes).find(|other| other.node == node.node);
                let change = earlier.map_or(node.counts, |earlier| node.counts.plus(&earlier.counts, -1));
                // A corpus stage need not run in every process.
                let own = if change.busy_s + change.wait_s() > 0.0 { seconds } else { 0.0 };
                match nodes.iter_mut().find(|(other, ..)| other.node == node.node) {
                    Some((sum, changes, threads)) => {
                        add(sum, node);
                        *changes = changes.plus(&change, 1);
                        *threads += own;
                    }
                    None => nodes.push((node.clone(), change, own)),
                }
            }
        }
        let nodes: Vec<NodeLoad> =
            nodes.into_iter().map(|(node, change, own)| load(node, &change, own, capacity)).collect();
        let processes: Vec<Record> = spans.into_iter().map(|span| span.now).collect();
        let bottleneck = bottleneck(&nodes, &processes);
        Self { processes, nodes, bottleneck }
    }

    /// The state of the run: one process that failed or was lost makes it so.
    pub(crate) fn state(&self) -> State {
        let has = |state: State| self.processes.iter().any(|process| process.state == state);
        let order = [State::Failed, State::Lost, State::Stopping, State::Running, State::Interrupted];
        order.into_iter().find(|state| has(*state)).unwrap_or(State::Complete)
    }

    /// The longest time of any process.
    pub(crate) fn elapsed_s(&self) -> f64 {
        self.processes.iter().map(|process| process.elapsed_s).fold(0.0, f64::max)
    }

    /// Shards of the run.
    pub(crate) fn shards(&self) -> Share {
        self.share(|process| process.shards)
    }

    /// Recordings of the run.
    pub(crate) fn tracks(&self) -> Share {
        self.share(|process| process.tracks)
    }

    fn share(&self, of: fn(&Record) -> Share) -> Share {
        let sum = |part: fn(Share) -> u64| self.of_corpus().iter().map(|process| part(of(process))).sum();
        let (done, total): (u64, u64) = (sum(|share| share.done), sum(|share| share.total));
        Share { done: done.min(total), total }
    }

    /// What happened to the corpus: added up where it was shared out, else what the first process did with it.
    pub(crate) fn sum(&self, of: fn(&Record) -> f64) -> f64 {
        self.of_corpus().iter().map(of).sum()
    }

    fn of_corpus(&self) -> &[Record] {
        let parts = self.processes.iter().any(|process| process.parts);
        if parts { &self.processes } else { &self.processes[..self.processes.len().min(1)] }
    }

    /// Memory of all processes.
    pub(crate) fn memory(&self) -> Memory {
        let sum = |of: fn(&Memory) -> u64| self.processes.iter().map(|process| of(&process.memory)).sum();
        let resident = self.processes.iter().map(|process| process.memory.resident).sum();
        Memory { held: sum(|memory| memory.held), limit: sum(|memory| memory.limit), resident }
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let processes: Vec<Value> = self
            .processes
            .iter()
            .map(|process| {
                let mut process = json!(process);
                process.as_object_mut().map(|fields| fields.remove("nodes"));
                process
            })
            .collect();
        json!({
            "state": self.state(),
            "elapsed_s": self.elapsed_s(),
            "shards": self.shards(),
            "tracks": self.tracks(),
            "rejected": self.sum(|process| process.rejected as f64) as u64,
            "audio_s": self.sum(|process| process.audio_s),
            "realtime": self.sum(|process| process.realtime),
            "memory": self.memory(),
            "processes": processes,
            "nodes": self.nodes,
            "bottleneck": self.bottleneck,
        })
    }
}

/// The same node in another process.
fn add(sum: &mut NodeRecord, node: &NodeRecord) {
    sum.counts = sum.counts.plus(&node.counts, 1);
    sum.queued += node.queued;
    sum.in_flight += node.in_flight;
    if node.busy_since_s > sum.busy_since_s {
        (sum.busy_since_s, sum.in_hand) = (node.busy_since_s, node.in_hand.clone());
    }
    sum.steps = sum.steps.or(node.steps);
}

fn load(record: NodeRecord, change: &NodeCounts, own: f64, capacity: Capacity) -> NodeLoad {
    let per = |amount: f64, of: f64| if of > 0.0 { amount / of } else { 0.0 };
    let threads = if record.corpus { own } else { capacity.pool };
    NodeLoad {
        busy: per(change.busy_s - change.write_s, threads).clamp(0.0, 1.0),
        writing: per(change.write_s, capacity.writers).clamp(0.0, 1.0),
        waits_input: per(change.wait_input_s, threads).min(1.0),
        waits_memory: per(change.wait_memory_s, threads).min(1.0),
        waits_downstream: per(change.wait_downstream_s, threads).min(1.0),
        rows_per_s: per(change.rows_out as f64, capacity.wall),
        bytes_per_s: per(change.bytes_out as f64, capacity.wall),
        audio_per_s: per(change.audio_s, capacity.wall),
        record,
    }
}

impl NodeLoad {
    /// What its threads wait for most, and for which share of their time.
    pub(crate) fn waits(&self) -> Option<(Wait, f64)> {
        longest(self.waits_input, self.waits_memory, self.waits_downstream)
    }
}

fn longest(input: f64, memory: f64, downstream: f64) -> Option<(Wait, f64)> {
    let waits = [(Wait::Input, input), (Wait::Memory, memory), (Wait::Downstream, downstream)];
    waits.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|longest| longest.1 >= 0.005)
}

fn bottleneck(nodes: &[NodeLoad], processes: &[Record]) -> Option<Bottleneck> {
    let pool = || nodes.iter().filter(|node| !node.record.corpus);
    let most = |of: fn(&NodeLoad) -> f64| nodes.iter().max_by(move |a, b| of(a).total_cmp(&of(b)));
    let sum = |of: fn(&NodeLoad) -> f64| pool().map(of).sum::<f64>();
    let threads = processes.iter().map(|process| process.threads).sum();
    let writers = processes.iter().map(|process| process.writers).sum();
    let busiest = pool()
        .max_by(|a, b| a.busy.total_cmp(&b.busy))
        .map(|node| (node, Threads::Pool, node.busy, sum(|n| n.busy), threads));
    let writing =
        most(|node| node.writing).map(|node| (node, Threads::Writer, node.writing, sum(|n| n.writing), writers));
    let corpora = nodes.iter().filter(|node| node.record.corpus);
    let corpora = corpora.map(|node| (node, Threads::Own, node.busy, node.busy, 1));
    let candidates = busiest.into_iter().chain(writing).chain(corpora);
    let (node, threads, share, load, count) =
        candidates.max_by(|a, b| a.3.total_cmp(&b.3)).filter(|found| found.3 >= 0.01)?;
    let mut waiting = Vec::new();
    let (input, memory, downstream) = (sum(|n| n.waits_input), sum(|n| n.waits_memory), sum(|n| n.waits_downstream));
    if threads != Threads::Pool {
        waiting.extend(longest(input, memory, downstream).map(|(wait, share)| (None, wait, share)));
    }
    for other in nodes.iter().filter(|other| other.record.corpus && other.record.node != node.record.node) {
        waiting.extend(other.waits().map(|(wait, share)| (Some(other.record.node.clone()), wait, share)));
    }
    waiting.retain(|waiting| waiting.2 >= 0.1);
    let (node, stage) = (node.record.node.clone(), node.record.stage.clone());
    Some(Bottleneck { node, stage, threads, share, load: load.min(1.0), count, waiting })
}

impl Bottleneck {
    /// A sentence, about now or about what was.
    pub(crate) fn sentence(&self, past: bool) -> String {
        let verb = |now: &'static str, then: &'static str| if past { then } else { now };
        let Self { node, stage, share, load, count, .. } = self;
        let percent = |share: f64| format!("{:.0} %", 100.0 * share);
        let title = if *load >= FULL { "bottleneck" } else { "busiest" };
        let threads = |kind: &str| if *count == 1 { format!("the {kind}") } else { format!("{count} {kind}s") };
        let (takes, are) = (verb("takes", "took"), verb("at work", "at work"));
        let mut text = match self.threads {
            Threads::Own => format!("{title}: {node} ({stage}), {are} {} of the time", percent(*load)),
            Threads::Pool => {
                let pool = if *count == 1 {
                    "the thread of the pool".to_owned()
                } else {
                    format!("the {count} threads of the pool")
                };
                format!(
                    "{title}: {node} ({stage}) {takes} {} of the time of {pool}, at work {} of it",
                    percent(*share),
                    percent(*load)
                )
            }
            Threads::Writer => {
                let writer = threads("writer");
                format!(
                    "{title}: writing the rows of {node} {takes} {} of the time of {writer}, at work {} of it",
                    percent(*share),
                    percent(*load)
                )
            }
        };
        for (who, wait, share) in &self.waiting {
            let who = who.as_deref().unwrap_or("the pool");
            let waits = verb("waits", "waited");
            text += &format!("; {who} {waits} for {wait} {}", percent(*share));
        }
        text
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Memory => "memory",
            Self::Downstream => "downstream",
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A process with a source, a decoder and a training after some seconds.
    pub(in crate::live) fn record(process: usize, elapsed_s: f64, busy: [f64; 3]) -> Record {
        let node = |index: usize, node: &str, stage: &str, inputs: &[&str]| NodeRecord {
            node: node.to_owned(),
            stage: stage.to_owned(),
            corpus: stage == "pretrain",
            inputs: inputs.iter().map(|&input| input.to_owned()).collect(),
            counts: NodeCounts {
                rows_out: (10.0 * elapsed_s) as u64,
                busy_s: elapsed_s * busy[index],
                ..NodeCounts::default()
            },
            ..NodeRecord::default()
        };
        let mut nodes = vec![
            node(0, "tracks", "files", &[]),
            node(1, "audio", "decode", &["tracks"]),
            node(2, "model", "pretrain", &["audio"]),
        ];
        let busy: f64 = nodes[..2].iter().map(|node| node.counts.busy_s).sum();
        nodes[0].counts.wait_downstream_s = 2.0 * elapsed_s - busy;
        nodes[2].counts.wait_input_s = elapsed_s - nodes[2].counts.busy_s;
        let shards = Share { done: 3, total: 8 };
        Record {
            v: 1,
            process,
            processes: 2,
            parts: true,
            elapsed_s,
            threads: 2,
            writers: 1,
            shards,
            nodes,
            ..Record::default()
        }
    }

    #[test]
    fn what_happened_between_two_moments_counts() {
        let (before, now) = (record(0, 10.0, [0.0, 0.0, 1.0]), record(0, 20.0, [0.1, 0.9, 0.5]));
        let picture = Picture::of(vec![Span { before: Some(before), now }]);
        let audio = &picture.nodes[1];
        // 18 s in 10 s of two threads.
        assert!((audio.busy - 0.9).abs() < 1e-9 && (audio.rows_per_s - 10.0).abs() < 1e-9, "{audio:?}");
        let found = picture.bottleneck.expect("somebody is busy");
        assert_eq!((found.node.as_str(), found.threads, found.count), ("audio", Threads::Pool, 2));
        assert_eq!((found.load * 100.0).round(), 100.0);
        let sentence = found.sentence(false);
        assert_eq!(
            sentence,
            "bottleneck: audio (decode) takes 90 % of the time of the 2 threads of the pool, at work 100 % of it; \
             model waits for input 100 %"
        );
    }

    #[test]
    fn the_busiest_threads_hold_the_bottleneck_in_all_processes() {
        let spans = |busy| (0..2).map(move |process| Span { before: None, now: record(process, 10.0, busy) }).collect();
        let picture = Picture::of(spans([0.0, 0.6, 0.96]));
        assert_eq!(picture.nodes[2].record.counts.rows_out, 200);
        assert_eq!(picture.shards(), Share { done: 6, total: 16 });
        let whole = (0..2).map(|process| Record { parts: false, ..record(process, 10.0, [0.0; 3]) });
        let whole = Picture::of(whole.map(|now| Span { before: None, now }).collect());
        assert_eq!(whole.shards(), Share { done: 3, total: 8 }, "each goes through all");
        let sentence = picture.bottleneck.expect("somebody is busy").sentence(true);
        assert_eq!(
            sentence,
            "bottleneck: model (pretrain), at work 96 % of the time; the pool waited for downstream 70 %"
        );
        assert_eq!(Picture::of(spans([0.0; 3])).bottleneck, None);
        let calm = Picture::of(spans([0.0, 0.1, 0.2])).bottleneck.expect("a little").sentence(false);
        assert!(calm.starts_with("busiest: model"), "{calm}");
    }
}
