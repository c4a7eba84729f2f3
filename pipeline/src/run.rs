//! From a plan to results: lists the corpus, opens the caches, prepares the run folder, and hands everything to an
//! executor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use omar_stages::seed::derive_named;
use omar_stages::storage::{self, StorageError};
use omar_stages::train::{Collective, CollectiveError, Solo};
use omar_stages::{Position, StageContext, StageError, device};

use crate::cache::Store;
use crate::cluster::{Cluster, Group, Hello, Manner};
use crate::corpus::{self, Corpus};
use crate::exec::codes::CodeTotals;
use crate::exec::corpus::CorpusRunner;
use crate::exec::division::{self, Division, SharedWork};
use crate::exec::network::Network;
use crate::exec::shards::{Appetite, Course};
use crate::exec::sinks::Recorder;
use crate::exec::{RunError, direct, second};
use crate::live::observe::{Identity, View};
use crate::live::{self, LiveOptions, Observer};
use crate::metrics::NodeCounts;
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
    /// Try recordings again whose rejection the caches remember.
    pub retry_quarantined: bool,
    /// A plain loop instead of the dataflow.
    pub direct: bool,
    /// How progress is shown.
    pub reporter: Reporter,
    /// The processes that share the run, where there are several. Process 0 alone has a folder.
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
    let corpus = corpus::list(plan, options.limit)?;
    let Some(group) = &options.group else { return in_folder(plan, options, stop, corpus, None, started) };
    let manner = Manner { resumes: options.resume, retries: options.retry_quarantined };
    let hello = Hello::new(plan, (corpus.tracks(), corpus.hash()), manner, &group.token);
    let cluster = Cluster::connect(group, &hello, stop)?;
    let outcome = in_folder(plan, options, stop, corpus, Some(&cluster), started);
    cluster.finish(outcome.as_ref().map(drop).map_err(ToString::to_string));
    outcome
}

/// Runs a plan, in the folder of the run if this is the process that has it.
fn in_folder(
    plan: &Plan,
    options: &RunOptions,
    stop: &Stop,
    corpus: Corpus,
    cluster: Option<&Cluster>,
    started: Instant,
) -> Result<Summary, RunError> {
    let path = options.folder.as_ref().filter(|_| leads(cluster));
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

/// Whether this process has the run folder: the first one does.
fn leads(cluster: Option<&Cluster>) -> bool {
    cluster.is_none_or(|cluster| cluster.process() == 0)
}

/// How many shards of a node are in its cache; `None` when it has none.
pub fn cached_shards(plan: &Plan, node: &PlanNode, corpus: &Corpus) -> Option<usize> {
    let store = Store::look(node.cache.as_ref()?, &description(plan, node), &node.schema);
    let index = plan.nodes.iter().position(|other| other.id == node.id)?;
    let committed = |shard: &usize| store.committed(&corpus.key(index, *shard)).is_ok_and(|commit| commit.is_some());
    Some((0..corpus.shards.len()).filter(committed).count())
}

/// The caches of a plan, by node, opened for writing where this process keeps rows.
fn stores(plan: &Plan, run: &str, keeps: bool) -> Result<Vec<Option<Arc<Store>>>, RunError> {
    let open = |node: &PlanNode| {
        let Some(folder) = &node.cache else { return Ok(None) };
        if !keeps {
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
    let processes = cluster.map_or(1, Cluster::size);
    let work = cluster.map(|_| division::shared_work(plan, processes)).transpose().map_err(RunError::Failed)?;
    let exchange = cluster.map(Exchange::start).transpose()?;
    let together = exchange.as_ref().map_or_else(|| Arc::new(Solo) as Arc<dyn Collective>, Exchange::collective);
    let shared =
        |node: &PlanNode| work == Some(SharedWork::Training) && node.stage.shares(processes).unwrap_or_default();
    let (leads, divided) = (leads(cluster), work == Some(SharedWork::Recordings));
    // Those who do not write still read the checkpoint to continue from.
    let reads = options.folder.as_ref().filter(|_| !leads && options.resume);
    let context = |node: &PlanNode| StageContext {
        node: node.id.clone(),
        seed: derive_named(plan.seed, node.stage_name),
        run_dir: folder.map(|folder| folder.node(&node.id)).or_else(|| reads.map(|path| path.join(&node.id))),
        resume: options.resume,
        device: if node.device == Device::Auto { automatic.clone() } else { node.device.to_string() },
        collective: if shared(node) { together.clone() } else { Arc::new(Solo) },
        stopping: stop.flag(),
    };
    let network = Arc::new(Network::new(plan, context));
    let mut run = options.folder.as_ref().map_or("detached".to_owned(), |folder| folder.display().to_string());
    if divided {
        // They write side by side, as one run.
        let name = together.broadcast(run.into_bytes()).map_err(lost)?;
        run = String::from_utf8_lossy(&name).into_owned();
    }
    let in_first = folder_of_first(folder, together.as_ref())?;
    let stores = stores(plan, &run, leads || divided)?;
    let latest: Vec<Latest> = (0..plan.nodes.len()).map(|_| Arc::default()).collect();
    let mut corpora = Vec::new();
    let mut appetites: Vec<Option<Arc<Appetite>>> = vec![None; plan.nodes.len()];
    for (index, node) in network.nodes.iter().enumerate().filter(|(_, node)| node.is_corpus()) {
        if !leads && !shared(&plan.nodes[index]) {
            // Its crops are made here and read there.
            appetites[index] = divided.then(|| Arc::new(Appetite::new(false, Position::default())));
            continue;
        }
        let results = ResultLog::new(folder.map(|folder| folder.node(&node.id)), latest[index].clone());
        let runner = CorpusRunner::start(network.clone(), index, results)?;
        appetites[index] = Some(runner.appetite.clone());
        corpora.push(runner);
    }
    let divide = |course: &Course| match (cluster, work) {
        (Some(_), Some(SharedWork::Recordings)) => {
            let agreed = division::agree(&course.held(), &course.corpus.work(), together.as_ref());
            agreed.map_err(|error| StageError::Failed(error.to_string()))
        }
        (Some(cluster), _) => Ok(Division::Whole { process: cluster.process() }),
        (None, _) => Ok(Division::Alone),
    };
    let course = Course::new(network.clone(), corpus, stores, appetites, plan.seed, divide);
    let mut course = course.map_err(|source| RunError::Failed(source.to_string()))?;
    let unreadable = |error: StorageError| RunError::Failed(error.to_string());
    let standing = course.corpus.standing(plan, &course.held()).map_err(unreadable)?;
    if leads {
        options.reporter.note(&standing.sentence());
    }
    let mut retried = match options.retry_quarantined {
        true => Some(second::retry(&mut course, plan, context, stop, together.as_ref())?),
        false => None,
    };
    let course = Arc::new(course);
    let quarantine = Arc::new(Quarantine::new(folder.map(RunFolder::quarantine)));
    for (index, node) in network.nodes.iter().enumerate() {
        node.metrics.found_cached(course.committed(index));
    }
    let monitor = Monitor::new(plan, course.clone(), latest, quarantine.clone());
    let identity = Identity {
        graph: plan.name.clone(),
        process: cluster.map_or(0, Cluster::process),
        processes: cluster.map_or(1, Cluster::size),
        // Where they share minibatches, each goes through the whole corpus.
        parts: divided,
        threads: if options.direct { 1 } else { plan.resources.thread_count() },
        writers: if options.direct { 1 } else { plan.resources.workers },
        memory: plan.resources.memory.0,
    };
    let view = View::new(monitor.clone(), identity, stop.clone());
    let seen_in = live::folder(folder.map(RunFolder::path), in_first, options.folder.as_deref());
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
            rows: Runtime::rows(&course.division, cluster),
        };
        render::run(course.clone(), recorder, corpora, runtime)
    };
    drop(display);
    observer.finish(outcome.as_ref().map(drop), stop.is_requested());
    if let Err(error) = &outcome {
        quarantine.keep_rest(error)?;
    }
    outcome?;
    if divided {
        add_up(&network, together.as_ref()).map_err(lost)?;
        retried = retried.map(|own| own.of_all(together.as_ref())).transpose().map_err(lost)?;
    }
    if let Some(exchange) = exchange {
        exchange.close();
    }
    let interrupted = stop.is_requested();
    if !interrupted && options.limit.is_none() && course.division.keeps() {
        for (index, store) in course.stores.iter().enumerate() {
            let Some(store) = store else { continue };
            store.sweep(course.corpus.keys(index)).map_err(|error| RunError::Failed(error.to_string()))?;
        }
        if leads {
            course.corpus.remember(plan).map_err(unreadable)?;
        }
    }
    Ok(Summary { retried, ..Summary::new(plan, &monitor, &codes, standing, folder, interrupted, started.elapsed()) })
}

/// The run folder of the process that has one, if this process sees it: a folder of that name with the same manifest.
fn folder_of_first(own: Option<&RunFolder>, together: &dyn Collective) -> Result<Option<PathBuf>, RunError> {
    let manifest = |folder: &Path| std::fs::read(folder.join("manifest.json")).ok().map(|text| blake3::hash(&text));
    let named = own.and_then(|folder| {
        let path = std::path::absolute(folder.path()).ok()?;
        Some([manifest(&path)?.as_bytes(), path.to_str()?.as_bytes()].concat())
    });
    let told = together.broadcast(named.unwrap_or_default()).map_err(lost)?;
    let Some((hash, path)) = told.split_first_chunk::<32>() else { return Ok(None) };
    let path = PathBuf::from(String::from_utf8_lossy(path).as_ref());
    Ok(manifest(&path).filter(|found| found.as_bytes() == hash).map(|_| path))
}

fn lost(error: CollectiveError) -> RunError {
    RunError::Peer(error.to_string())
}

/// Gives every process the counters of all of them together.
fn add_up(network: &Network, together: &dyn Collective) -> Result<(), CollectiveError> {
    let own: Vec<NodeCounts> = network.nodes.iter().map(|node| node.metrics.counts()).collect();
    let mut sums: Vec<f64> = own.iter().copied().flat_map(NodeCounts::to_array).collect();
    together.sum(&mut sums)?;
    let (all, _) = sums.as_chunks();
    for ((node, own), all) in network.nodes.iter().zip(&own).zip(all) {
        node.metrics.add(&NodeCounts::from_array(*all).plus(own, -1));
    }
    Ok(())
}

/// How often progress is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);
