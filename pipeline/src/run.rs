//! From a plan to results: lists the corpus, opens the caches, prepares the run folder, and hands everything to an
//! executor.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use omar_stages::seed::derive_named;
use omar_stages::{StageContext, StageError};

use crate::cache::Store;
use crate::catalogue::{self, Shard};
use crate::exec::corpus::CorpusRunner;
use crate::exec::network::Network;
use crate::exec::shards::{Appetite, Course};
use crate::exec::sinks::Recorder;
use crate::exec::{RunError, direct};
use crate::plan::Plan;
use crate::progress::{Monitor, Reporter};
use crate::quarantine::Quarantine;
use crate::render::{self, CodeCounts, Runtime};
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
}

/// Runs a plan to its end, or until `stop` is requested.
///
/// # Errors
/// When a stage cannot go on, the corpus cannot be listed, or a cache or the run folder cannot be written.
pub fn run(plan: &Plan, options: &RunOptions, stop: &Stop) -> Result<Summary, RunError> {
    let started = Instant::now();
    let shards = list(plan, options.limit)?;
    let folder = options.folder.as_ref().map(|path| RunFolder::create(path, plan, &shards)).transpose()?;
    let outcome = execute(plan, options, stop, shards, folder.as_ref(), started);
    if let Some(folder) = &folder {
        folder.finish(outcome.as_ref())?;
    }
    outcome
}

/// The corpus of a plan, cut into shards.
///
/// # Errors
/// When a source cannot be listed.
pub fn list(plan: &Plan, limit: Option<usize>) -> Result<Vec<Arc<Shard>>, RunError> {
    let mut sources = Vec::new();
    for (index, node) in plan.nodes.iter().enumerate() {
        let Some(source) = node.stage.source() else { continue };
        let mut recordings = Vec::new();
        source
            .list(&mut |recording| recordings.push(recording))
            .map_err(|source| RunError::Stage { node: node.id.clone(), source })?;
        sources.push((index, recordings));
    }
    let shards = catalogue::shards(plan.nodes.len(), sources, plan.flow.shard_tracks, limit);
    Ok(shards.into_iter().map(Arc::new).collect())
}

/// The caches of a plan, by node.
///
/// # Errors
/// When a cache folder cannot be opened.
pub fn stores(plan: &Plan) -> Result<Vec<Option<Arc<Store>>>, RunError> {
    let open = |node: &crate::plan::PlanNode| {
        let Some(folder) = &node.cache else { return Ok(None) };
        let store = Store::open(folder, &plan.describe(node), &node.schema);
        store.map(|store| Some(Arc::new(store))).map_err(|error| RunError::Stage {
            node: node.id.clone(),
            source: StageError::Failed(error.to_string()),
        })
    };
    plan.nodes.iter().map(open).collect()
}

fn execute(
    plan: &Plan,
    options: &RunOptions,
    stop: &Stop,
    shards: Vec<Arc<Shard>>,
    folder: Option<&RunFolder>,
    started: Instant,
) -> Result<Summary, RunError> {
    let network = Arc::new(Network::new(plan, |node| StageContext {
        node: node.id.clone(),
        seed: derive_named(plan.seed, node.stage_name),
        run_dir: folder.map(|folder| folder.node(&node.id)),
        resume: options.resume,
        device: plan.resources.device.clone(),
    }));
    let stores = stores(plan)?;
    let latest: Vec<Latest> = (0..plan.nodes.len()).map(|_| Arc::new(Mutex::new(None))).collect();
    let mut corpora = Vec::new();
    let mut appetites: Vec<Option<Arc<Appetite>>> = vec![None; plan.nodes.len()];
    for (index, node) in network.nodes.iter().enumerate().filter(|(_, node)| node.is_corpus()) {
        let results = folder.map(|folder| folder.node(&node.id).join("results"));
        let runner = CorpusRunner::start(network.clone(), index, ResultLog::new(results, latest[index].clone()))?;
        appetites[index] = Some(runner.appetite.clone());
        corpora.push(runner);
    }
    let course = Arc::new(Course::new(network.clone(), shards, stores.clone(), appetites, plan.seed));
    let quarantine = Arc::new(Quarantine::new(folder.map(RunFolder::quarantine)));
    for reject in course.remembered_rejects() {
        quarantine.add(u64::MAX, &reject)?;
    }
    quarantine.commit(u64::MAX, "cached")?;
    for (index, store) in stores.iter().enumerate() {
        let cached = |store: &Arc<Store>| course.shards.iter().filter(|shard| store.is_committed(shard)).count();
        network.nodes[index].metrics.found_cached(store.as_ref().map_or(0, cached) as u64);
    }
    let monitor = Monitor::new(plan, course.clone(), latest, quarantine.clone());
    let display = options.reporter.spawn(monitor.clone());
    let codes = CodeCounts::default();
    let recorder = || Recorder::new(network.clone(), stores.clone());
    let outcome = if options.direct {
        direct::run(&course, &mut recorder(), &quarantine, &mut corpora, stop)
    } else {
        let runtime = Runtime {
            workers: plan.resources.workers,
            threads: plan.resources.threads,
            memory: plan.resources.memory.0,
            window: plan.flow.window,
            stop: stop.clone(),
            quarantine: quarantine.clone(),
            codes: codes.clone(),
        };
        render::run(course.clone(), recorder, corpora, &runtime)
    };
    drop(display);
    outcome?;
    let interrupted = stop.is_requested();
    if !interrupted && options.limit.is_none() {
        for store in stores.iter().flatten() {
            store.sweep(&course.shards).map_err(|error| RunError::Failed(error.to_string()))?;
        }
    }
    Ok(Summary::new(plan, &monitor, &codes, folder, interrupted, started.elapsed()))
}

/// How often progress is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(250);
