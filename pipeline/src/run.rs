//! From a plan to results: lists the corpus, opens the caches, prepares the run folder, and hands everything to an
//! executor.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omar_stages::seed::derive_named;
use omar_stages::storage::{self, ShardKey};
use omar_stages::train::{Collective, Solo};
use omar_stages::{Scope, StageContext, StageError, device};

use crate::cache::Store;
use crate::catalogue::{Catalogue, Shard, ShardSize};
use crate::cluster::{Cluster, Group, Hello};
use crate::exec::codes::CodeTotals;
use crate::exec::corpus::CorpusRunner;
use crate::exec::network::Network;
use crate::exec::shards::{Appetite, Course};
use crate::exec::sinks::Recorder;
use crate::exec::{RunError, direct};
use crate::live::observe::{Identity, View};
use crate::live::{self, LiveOptions, Observer};
use crate::plan::{Plan, PlanNode};
use crate::progress::{Monitor, Reporter};
use crate::quarantine::Quarantine;
use crate::render::collective::Exchange;
use crate::render::{self, Runtime};
use crate::resources::Device;
use crate::results::{Latest, ResultLog};
use crate::run_folder::RunFolder;
use crate::stop::Stop;
use crate::summary::Summary;

/// What a caller may choose about a run.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Folder for this run's results; `None` writes none (caches are written all the same).
    pub folder: Option<PathBuf>,
    /// Continue from the checkpoints in `folder`.
    pub resume: bool,
    /// Use only this many recordings.
    pub limit: Option<usize>,
    /// A plain loop instead of the dataflow.
    pub direct: bool,
    /// How progress is shown.
    pub reporter: Reporter,
    /// The processes that share the run, where there are several. Process 0 alone writes.
    pub group: Option<Group>,
    /// How it lets itself be watched.
    pub live: LiveOptions,
}

/// Runs a plan to its end, or until `stop` is requested.
///
/// # Errors
/// When a stage cannot go on, the corpus cannot be listed, a cache or the run folder cannot be written, or another process
/// of the run is lost.
pub fn run(plan: &Plan, options: &RunOptions, stop: &Stop) -> Result<Summary, RunError> {
    let started = Instant::now();
    check_devices(plan)?;
    let corpus = list(plan, options.limit)?;
    let Some(group) = &options.group else { return in_folder(plan, options, stop, corpus, None, started) };
    let hello = Hello::new(plan, (corpus.tracks(), corpus.hash()), options.resume, &group.token);
    let cluster = Cluster::connect(group, &hello, stop)?;
    let outcome = in_folder(plan, options, stop, corpus, Some(&cluster), started);
    cluster.finish(outcome.as_ref().map(drop).map_err(ToString::to_string));
    outcome
}

/// Runs a plan, and keeps what is to be kept of it, if this is the process that writes.
fn in_folder(
    plan: &Plan,
    options: &RunOptions,
    stop: &Stop,
    corpus: Corpus,
    cluster: Option<&Cluster>,
    started: Instant,
) -> Result<Summary, RunError> {
    let path = options.folder.as_ref().filter(|_| writes(cluster));
    let folder = path.map(|path| RunFolder::create(path, plan, &corpus)).transpose()?;
    let outcome = execute(plan, options, stop, corpus, (folder.as_ref(), cluster), started);
    // Where a process is lost, that is the reason, whatever followed from it.
    let outcome = match (outcome, cluster.and_then(|cluster| cluster.failure().text())) {
        (Err(_), Some(reason)) => Err(RunError::Peer(reason)),
        (outcome, _) => outcome,
    };
    if let Some(folder) = &folder {
        folder.finish(outcome.as_ref())?;
    }
    outcome
}

/// Whether this process writes: the first one does.
fn writes(cluster: Option<&Cluster>) -> bool {
    cluster.is_none_or(|cluster| cluster.process() == 0)
}

/// Checks that a plan can be run by several processes.
///
/// # Errors
/// The node whose work they cannot share, and why; or that there is nothing to be shared.
pub fn check_processes(plan: &Plan, processes: usize) -> Result<(), String> {
    let mut shared = Vec::new();
    for node in plan.nodes.iter().filter(|node| matches!(node.scope, Scope::Corpus { .. })) {
        if node.stage.shares(processes).map_err(|reason| format!("node `{}`: {reason}", node.id))? {
            shared.push(node.id.as_str());
        }
    }
    match shared[..] {
        [_] => Ok(()),
        [] => Err(format!(
            "graph `{}` has no node whose work several processes can share; only `pretrain` has",
            plan.name
        )),
        [first, second, ..] => Err(format!(
            "nodes `{first}` and `{second}` train, and processes can share one only: use --until, or two graphs"
        )),
    }
}

/// The recordings of a plan, cut into shards.
pub struct Corpus {
    /// In the order of the catalogue.
    pub shards: Vec<Arc<Shard>>,
    /// By node: its place in the lists of recordings, if it is a source.
    pub(crate) sources: Arc<Vec<Option<usize>>>,
    /// By node: the places of all sources that feed it.
    feeds: Vec<Vec<usize>>,
}

impl Corpus {
    /// Number of recordings.
    pub fn tracks(&self) -> usize {
        self.shards.iter().map(|shard| shard.tracks.len()).sum()
    }

    /// Changes with any recording: its name, size or modification time.
    pub(crate) fn hash(&self) -> String {
        let sources: Vec<usize> = self.sources.iter().flatten().copied().collect();
        let mut hasher = blake3::Hasher::new();
        for shard in &self.shards {
            hasher.update(shard.key(&sources).input_hash.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    pub(crate) fn key(&self, node: usize, shard: usize) -> ShardKey {
        self.shards[shard].key(&self.feeds[node])
    }
}

/// Lists the corpus of a plan.
///
/// # Errors
/// When a source cannot be listed.
pub fn list(plan: &Plan, limit: Option<usize>) -> Result<Corpus, RunError> {
    let mut lists = Vec::new();
    let mut sources = vec![None; plan.nodes.len()];
    let mut feeds: Vec<Vec<usize>> = Vec::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        let mut feed: Vec<usize> = node.inputs.iter().flat_map(|input| feeds[input.node].clone()).collect();
        if let Some(source) = node.stage.source() {
            let mut recordings = Vec::new();
            let listed = source.list(&mut |recording| recordings.push(recording));
            listed.map_err(|source| RunError::Stage { node: node.id.clone(), source })?;
            sources[index] = Some(lists.len());
            feed.push(lists.len());
            lists.push((node.id.clone(), recordings));
        }
        feed.sort_unstable();
        feed.dedup();
        feeds.push(feed);
    }
    let size = plan.flow.shard_tracks.map_or(ShardSize::Auto, ShardSize::Tracks);
    let mut catalogue = Catalogue::new(lists, size).map_err(|error| RunError::Failed(error.to_string()))?;
    if let Some(limit) = limit {
        catalogue.limit(limit);
    }
    let shards = catalogue.shards.into_iter().map(Arc::new).collect();
    Ok(Corpus { shards, sources: Arc::new(sources), feeds })
}

/// How many shards of a node are in its cache; `None` when it has none.
pub fn cached_shards(plan: &Plan, node: &PlanNode, corpus: &Corpus) -> Option<usize> {
    let store = Store::look(node.cache.as_ref()?, &description(plan, node), &node.schema);
    let index = plan.nodes.iter().position(|other| other.id == node.id)?;
    let committed = |shard: &usize| store.committed(&corpus.key(index, *shard)).is_ok_and(|commit| commit.is_some());
    Some((0..corpus.shards.len()).filter(committed).count())
}

/// The caches of a plan, by node, opened for writing where this process writes.
fn stores(plan: &Plan, run: &str, writes: bool) -> Result<Vec<Option<Arc<Store>>>, RunError> {
    let open = |node: &PlanNode| {
        let Some(folder) = &node.cache else { return Ok(None) };
        if !writes {
            return Ok(Some(Arc::new(Store::look(folder, &description(plan, node), &node.schema))));
        }
        let store = Store::open(folder, &description(plan, node), &node.schema, run);
        store
            .map(|store| Some(Arc::new(store)))
            .map_err(|error| RunError::Stage { node: node.id.clone(), source: StageError::Failed(error.to_string()) })
    };
    plan.nodes.iter().map(open).collect()
}

/// What the files of a cached node say about where they come from.
fn description(plan: &Plan, node: &PlanNode) -> storage::Node {
    let mut wanted: Vec<usize> = node.inputs.iter().map(|input| input.node).collect();
    let mut upstream = Vec::new();
    while let Some(index) = wanted.pop() {
        if !upstream.contains(&index) {
            upstream.push(index);
            wanted.extend(plan.nodes[index].inputs.iter().map(|input| input.node));
        }
    }
    upstream.sort_unstable();
    let upstream = upstream.into_iter().map(|index| &plan.nodes[index]).map(|node| storage::Upstream {
        node: node.id.clone(),
        stage: node.stage_name.to_owned(),
        version: node.version,
        params: node.params.clone(),
    });
    storage::Node {
        node: node.id.clone(),
        stage: node.stage_name.to_owned(),
        version: node.version,
        params: node.params.clone(),
        seed: plan.seed,
        fingerprint: node.fingerprint.to_hex(),
        upstream: upstream.collect(),
        edge: None,
        omar_flow: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What `auto` stands for in process `nth` of those on this machine: a GPU that works, else the CPU, and a line on why. `None` when no node
/// leaves the choice open.
fn automatic(plan: &Plan, nth: usize) -> Option<(String, Option<String>)> {
    let open = |node: &PlanNode| node.device == Device::Auto && node.stage.uses_device();
    let node = plan.nodes.iter().find(|node| open(node))?;
    let (chosen, obstacle) = device::automatic(nth);
    let line = obstacle.map(|error| {
        // Most programs are built without, and mean to be.
        let reason = if device::HAS_CUDA { error.to_string() } else { "this build has no GPU support".to_owned() };
        format!("note: node `{}` runs on the CPU: {reason}; `omar-flow doctor` says more", node.id)
    });
    Some((chosen, line))
}

/// Refuses a plan that names a GPU which cannot be used, before anything is written.
fn check_devices(plan: &Plan) -> Result<(), RunError> {
    let mut checked = Vec::new();
    for node in &plan.nodes {
        let wanted = matches!(node.device, Device::Cuda(_)) && node.stage.uses_device();
        if wanted && !checked.contains(&node.device) {
            checked.push(node.device);
            let opened = device::open(&node.device.to_string());
            opened.map_err(|error| {
                RunError::Device(format!("node `{}` wants {}: {error}; or use `device: cpu`", node.id, node.device))
            })?;
        }
    }
    Ok(())
}

fn execute(
    plan: &Plan,
    options: &RunOptions,
    stop: &Stop,
    corpus: Corpus,
    (folder, cluster): (Option<&RunFolder>, Option<&Cluster>),
    started: Instant,
) -> Result<Summary, RunError> {
    let nth = options.group.as_ref().map_or(0, Group::nth_on_machine);
    let (automatic, note) = automatic(plan, nth).unwrap_or_else(|| (Device::Cpu.to_string(), None));
    if let Some(note) = note {
        options.reporter.note(&note);
    }
    let writes = writes(cluster);
    let exchange = cluster.map(Exchange::start).transpose()?;
    let shared = |node: &PlanNode| {
        let processes = cluster.map_or(1, Cluster::size);
        processes > 1 && node.stage.shares(processes).unwrap_or_default()
    };
    let collective = |node: &PlanNode| -> Arc<dyn Collective> {
        exchange.as_ref().filter(|_| shared(node)).map_or_else(|| Arc::new(Solo) as _, Exchange::collective)
    };
    // Those who do not write still read the checkpoint to continue from.
    let reads = options.folder.as_ref().filter(|_| !writes && options.resume);
    let network = Arc::new(Network::new(plan, |node| StageContext {
        node: node.id.clone(),
        seed: derive_named(plan.seed, node.stage_name),
        run_dir: folder.map(|folder| folder.node(&node.id)).or_else(|| reads.map(|path| path.join(&node.id))),
        resume: options.resume,
        device: if node.device == Device::Auto { automatic.clone() } else { node.device.to_string() },
        collective: collective(node),
        stopping: stop.flag(),
    }));
    let run = options.folder.as_ref().map_or("detached".to_owned(), |folder| folder.display().to_string());
    let stores = stores(plan, &run, writes)?;
    let latest: Vec<Latest> = (0..plan.nodes.len()).map(|_| Arc::default()).collect();
    let mut corpora = Vec::new();
    let mut appetites: Vec<Option<Arc<Appetite>>> = vec![None; plan.nodes.len()];
    for (index, node) in network.nodes.iter().enumerate().filter(|(_, node)| node.is_corpus()) {
        if !writes && !shared(&plan.nodes[index]) {
            continue;
        }
        let results = ResultLog::new(folder.map(|folder| folder.node(&node.id)), latest[index].clone());
        let runner = CorpusRunner::start(network.clone(), index, results)?;
        appetites[index] = Some(runner.appetite.clone());
        corpora.push(runner);
    }
    let course = Course::new(network.clone(), corpus, stores, appetites, plan.seed, writes);
    let course = Arc::new(course.map_err(|source| RunError::Failed(source.to_string()))?);
    let quarantine = Arc::new(Quarantine::new(folder.map(RunFolder::quarantine)));
    for reject in course.remembered_rejects() {
        quarantine.add(u64::MAX, &reject)?;
    }
    quarantine.commit(u64::MAX, "cached")?;
    for (index, node) in network.nodes.iter().enumerate() {
        node.metrics.found_cached(course.committed(index));
    }
    let monitor = Monitor::new(plan, course.clone(), latest, quarantine.clone());
    let identity = Identity {
        graph: plan.name.clone(),
        process: cluster.map_or(0, Cluster::process),
        processes: cluster.map_or(1, Cluster::size),
        // Several processes share minibatches, not the corpus.
        parts: false,
        threads: if options.direct { 1 } else { plan.resources.thread_count() },
        writers: if options.direct { 1 } else { plan.resources.workers },
        memory: plan.resources.memory.0,
    };
    let view = View::new(monitor.clone(), identity, stop.clone());
    let seen_in = live::folder(folder.map(RunFolder::path), options.folder.as_deref());
    let observer = Observer::start(view, &options.live, seen_in.as_deref());
    let display = options.reporter.spawn(monitor.clone());
    let codes = CodeTotals::default();
    let recorder = || Recorder::new(course.clone());
    let outcome = if options.direct {
        direct::run(&course, &mut recorder(), &quarantine, &codes, &mut corpora, stop)
    } else {
        let runtime = Runtime {
            workers: plan.resources.workers,
            threads: plan.resources.thread_count(),
            memory: plan.resources.memory.0,
            window: plan.flow.window as u64,
            stop: stop.clone(),
            quarantine: quarantine.clone(),
            codes: codes.clone(),
            failure: cluster.map(|cluster| cluster.failure().clone()),
        };
        render::run(course.clone(), recorder, corpora, &runtime)
    };
    drop(display);
    observer.finish(outcome.as_ref().map(drop), stop.is_requested());
    outcome?;
    if let Some(exchange) = exchange {
        exchange.close();
    }
    let interrupted = stop.is_requested();
    if !interrupted && options.limit.is_none() && writes {
        for (index, store) in course.stores.iter().enumerate() {
            let Some(store) = store else { continue };
            let current: Vec<ShardKey> = (0..course.corpus.shards.len()).map(|at| course.key(index, at)).collect();
            store.sweep(&current).map_err(|error| RunError::Failed(error.to_string()))?;
        }
    }
    Ok(Summary::new(plan, &monitor, &codes, folder, interrupted, started.elapsed()))
}

/// How often progress is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);
