//! Looks at the run of this process.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::lock;
use super::record::{Memory, NodeRecord, Record, Share, State, VERSION};
use crate::exec::traffic::{Held, OpenShard, Owner};
use crate::machine;
use crate::progress::Monitor;
use crate::stop::Stop;

/// Over how many seconds the present speed is taken.
const RECENT_S: f64 = 10.0;

/// What a run in this process is looked at with.
pub(crate) struct View {
    pub(crate) monitor: Monitor,
    identity: Identity,
    stop: Stop,
    started: f64,
    moved: Mutex<Moved>,
    /// Seconds of the run, and seconds of audio that had gone in by then.
    audio: Mutex<Vec<(f64, f64)>>,
}

/// What does not change while a process runs.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) graph: String,
    pub(crate) process: usize,
    pub(crate) processes: usize,
    /// See [`Record::parts`].
    pub(crate) parts: bool,
    pub(crate) threads: usize,
    pub(crate) writers: usize,
    pub(crate) memory: u64,
}

/// When anything last moved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    /// All counters, as a number that changes with them.
    moves: u64,
    at: Instant,
    /// Processor time of the process by then.
    processor: Option<Duration>,
}

impl Moved {
    /// For how long nothing has moved.
    pub(crate) fn still(&self) -> Duration {
        self.at.elapsed()
    }
}

/// Who holds the work.
#[derive(Debug, Clone, Default)]
pub(crate) struct Situation {
    /// What lanes, writers and corpus stages have in hand, longest first.
    pub(crate) in_hand: Vec<Held>,
    /// Shards that are begun and not written, oldest first.
    pub(crate) open: Vec<OpenShard>,
    /// Processor time since anything moved.
    pub(crate) processor: Option<Duration>,
}

impl View {
    pub(crate) fn new(monitor: Monitor, identity: Identity, stop: Stop) -> Self {
        let moves = monitor.course.network.moves();
        let moved = Moved { moves, at: Instant::now(), processor: machine::processor_time() };
        let started = unix_now() - monitor.elapsed_s();
        Self { monitor, identity, stop, started, moved: Mutex::new(moved), audio: Mutex::default() }
    }

    pub(crate) fn process(&self) -> usize {
        self.identity.process
    }

    /// Looks whether anything moved since it was last looked.
    pub(crate) fn look(&self) -> Moved {
        let moves = self.monitor.course.network.moves();
        let mut moved = lock(&self.moved);
        if moved.moves != moves {
            *moved = Moved { moves, at: Instant::now(), processor: machine::processor_time() };
        }
        *moved
    }

    /// Who holds the work now.
    pub(crate) fn situation(&self) -> Situation {
        let traffic = &self.monitor.course.network.traffic;
        let before = lock(&self.moved).processor;
        let processor = machine::processor_time().zip(before).map(|(now, before)| now.saturating_sub(before));
        Situation { in_hand: traffic.in_hand(), open: traffic.open_shards(), processor }
    }

    /// The process at this moment.
    pub(crate) fn record(&self) -> Record {
        let monitor = &self.monitor;
        let traffic = &monitor.course.network.traffic;
        let nodes = self.nodes();
        let elapsed_s = monitor.elapsed_s();
        let audio_s = nodes.iter().map(|node| node.counts.audio_s).fold(0.0, f64::max);
        let Identity { graph, process, processes, parts, threads, writers, memory } = self.identity.clone();
        Record {
            v: VERSION,
            process,
            processes,
            parts,
            host: machine::hostname(),
            pid: std::process::id(),
            graph,
            started: self.started,
            time: unix_now(),
            elapsed_s,
            state: if self.stop.is_requested() { State::Stopping } else { State::Running },
            error: None,
            pass: traffic.pass() + 1,
            shards: Share { done: traffic.shards_done(), total: monitor.course.own.shards },
            tracks: Share { done: monitor.tracks_done(), total: monitor.course.own.tracks },
            rejected: monitor.quarantine.count(),
            audio_s,
            realtime: self.realtime(elapsed_s, audio_s),
            left_s: monitor.left_s(),
            memory: Memory { held: traffic.held(), limit: memory, resident: machine::resident() },
            threads,
            writers,
            writer_queue: traffic.queued(None),
            still_s: lock(&self.moved).still().as_secs_f64(),
            nodes,
        }
    }

    fn nodes(&self) -> Vec<NodeRecord> {
        let network = &self.monitor.course.network;
        let in_hand = network.traffic.in_hand();
        let record = |(index, node): (usize, &crate::exec::network::Node)| {
            let mut counts = node.metrics.counts();
            let of_node = || in_hand.iter().filter(move |held| held.node == index);
            let at_work = || of_node().filter(|held| held.at_work);
            // A call is counted when it returns; what has gone by of it belongs to the present.
            counts.busy_s += at_work().map(|held| held.since.as_secs_f64()).sum::<f64>();
            let writing = at_work().filter(|held| held.owner == Owner::Writer);
            counts.write_s += writing.map(|held| held.since.as_secs_f64()).sum::<f64>();
            let waiting = of_node().filter(|held| !held.at_work).count() as u64;
            let training = self.monitor.training(index);
            NodeRecord {
                node: node.id.clone(),
                stage: node.stage_name.to_owned(),
                corpus: node.is_corpus(),
                inputs: node.inputs.iter().map(|&input| network.nodes[input].id.clone()).collect(),
                cache: self.monitor.course.stores[index].is_some(),
                counts,
                queued: waiting + network.traffic.queued(Some(index)),
                in_flight: at_work().count() as u64,
                busy_since_s: at_work().next().map(|held| held.since.as_secs_f64()),
                in_hand: at_work().next().and_then(|held| held.what.clone()),
                steps: training.map(|state| Share { done: state.step, total: state.steps }),
            }
        };
        network.nodes.iter().enumerate().map(record).collect()
    }

    /// Seconds of audio per second, lately.
    fn realtime(&self, elapsed_s: f64, audio_s: f64) -> f64 {
        let mut points = lock(&self.audio);
        points.push((elapsed_s, audio_s));
        let old = points.iter().take_while(|point| point.0 < elapsed_s - RECENT_S).count();
        points.drain(..old.saturating_sub(1));
        // Prometheus may ask more often than once a second.
        if points.len() > 100 {
            points.remove(1);
        }
        let (first_s, first_audio) = if elapsed_s < RECENT_S { (0.0, 0.0) } else { points[0] };
        (audio_s - first_audio) / (elapsed_s - first_s).max(1e-3)
    }
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
