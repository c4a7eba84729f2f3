//! `run GRAPH`: do it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omar_stages::{Registry, StageError};
use serde_json::json;

use super::{load, write_json, write_message, write_result};
use crate::cli::{Exit, RunArgs};
use crate::cluster::{Children, ClusterError, Group, Hosts};
use crate::comparison::spec::{self, Found};
use crate::exec::RunError;
use crate::exec::division::{SharedWork, shared_work};
use crate::exec::lane::install_panic_hook;
use crate::live::{Listener, LiveOptions};
use crate::plan::Plan;
use crate::policy::percent;
use crate::progress::Reporter;
use crate::run::{self, RunOptions};
use crate::run_folder;
use crate::stop::Stop;
use crate::summary::Summary;

pub(super) mod comparison;
mod watch;

/// Where runs are kept.
pub(super) const RUNS: &str = "runs";

/// Runs a graph.
pub fn run(args: &RunArgs, registry: &Registry) -> Exit {
    let graph = &args.graph;
    match spec::load(&graph.graph, &graph.set) {
        Ok(Found::Graph) => {}
        Ok(Found::Spec(spec)) => return comparison::run(&spec, args),
        Err(report) => return super::refuse(&graph.graph, &report, graph.json),
    }
    let mut plan = match load(&graph.graph, &graph.set, graph.json, registry) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    if let Some(threads) = args.threads {
        plan.resources.threads = Some(usize::from(threads));
    }
    if let Some(until) = &args.until {
        match plan.until(until) {
            Ok(part) => plan = part,
            Err(message) => {
                write_message(&format!("error: --until: {message}\n"));
                return Exit::Usage;
            }
        }
    }
    if args.dry_run {
        return super::plan::show(&plan, args.limit, graph.json);
    }
    let folder = match folder(args, &plan) {
        Ok(folder) => folder,
        Err(message) => {
            write_message(&format!("error: --resume: {message}\n"));
            return Exit::Usage;
        }
    };
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("signal handlers cannot be installed: {error}"), graph.json),
    };
    install_panic_hook();
    let (group, mut children) = match group(args, &mut plan, &folder) {
        Ok(found) => found,
        Err(message) => {
            write_message(&format!("error: {message}\n"));
            return Exit::Usage;
        }
    };
    let live = match live(args, group.as_ref()) {
        Ok(live) => live,
        Err(message) => {
            write_message(&format!("error: {message}\n"));
            return Exit::Usage;
        }
    };
    let follows = group.as_ref().is_some_and(|group| group.process > 0);
    let options = RunOptions {
        folder: Some(folder),
        resume: args.resume.is_some(),
        limit: args.limit,
        retry_quarantined: args.retry_quarantined,
        direct: args.direct,
        reporter: Reporter::for_stderr(),
        group,
        live,
    };
    if let Some(seconds) = args.watch {
        return watch::watch(&plan, &options, &stop, Duration::from_secs(seconds), graph.json);
    }
    let outcome = run::run(&plan, &options, &stop);
    if let (Err(_), Some(children)) = (&outcome, &mut children) {
        children.hurry();
    }
    match outcome {
        Ok(summary) => {
            if follows {
                write_message("done: process 0 has the results\n");
            } else if graph.json {
                write_json(&json!(summary));
            } else {
                write_result(&summary.to_table());
            }
            ended(&summary, args)
        }
        Err(RunError::Cluster(error @ ClusterError::Interrupted)) => {
            write_message(&format!("{error}\n"));
            Exit::Interrupted
        }
        Err(error @ RunError::Peer(_)) => {
            let exit = failed(&error.to_string(), graph.json);
            if let (false, Some(folder)) = (follows, &options.folder) {
                let (graph, folder) = (graph.graph.display(), folder.display());
                write_message(&match shared_work(&plan, 2) {
                    Ok(SharedWork::Recordings) => {
                        "what is committed is kept: the same command goes on from there\n".to_owned()
                    }
                    _ => format!("continue from the last checkpoint with: omar-flow run {graph} --resume {folder}\n"),
                });
            }
            exit
        }
        Err(error @ (RunError::Device(_) | RunError::Stage { source: StageError::Device(_), .. })) => {
            failed(&error.to_string(), graph.json);
            Exit::Device
        }
        Err(RunError::TooManyRejects(error)) => {
            if graph.json {
                write_json(&json!({ "error": error.to_string(), "rejects": error.classes }));
            }
            write_message(&format!("error: {error}\n"));
            if let Some(folder) = &options.folder {
                write_message(&format!("what was rejected so far: {}\n", folder.join("quarantine").display()));
            }
            Exit::Rejects
        }
        Err(error) => failed(&error.to_string(), graph.json),
    }
}

fn ended(summary: &Summary, args: &RunArgs) -> Exit {
    if summary.interrupted {
        let graph = args.graph.graph.display();
        let folder = summary.folder.as_ref().map(|folder| folder.display().to_string()).unwrap_or_default();
        write_message(&format!("stopped; continue with: omar-flow run {graph} --resume {folder}\n"));
        return Exit::Interrupted;
    }
    if summary.too_many_rejects() {
        let dropped: u64 = summary.dropped.iter().map(|class| class.count).sum();
        let (rejected, tracks) = (summary.rejected + dropped, summary.tracks);
        let limit = summary.stop_if.filter(|stop_if| tracks >= stop_if.after).map_or(0.5, |stop_if| stop_if.rate);
        let limit = percent(limit);
        write_message(&format!(
            "error: {rejected} of {tracks} recordings were rejected, more than {limit}; see the classes above\n"
        ));
        return Exit::Rejects;
    }
    Exit::Done
}

pub(super) fn failed(message: &str, json: bool) -> Exit {
    if json {
        write_json(&json!({ "error": message }));
    }
    write_message(&format!("error: {message}\n"));
    Exit::Failed
}

/// The processes that share the run, and those of them that this one has started.
fn group(args: &RunArgs, plan: &mut Plan, folder: &Path) -> Result<(Option<Group>, Option<Children>), String> {
    let deadline = Duration::from_secs(args.connect_timeout);
    let (hosts, process) = match (&args.cluster, args.process, args.processes) {
        (Some(file), Some(process), _) => (Hosts::read(file).map_err(|e| format!("--cluster: {e}"))?, process),
        (None, Some(process), _) if !args.local.is_empty() => (Hosts::local(args.local.clone()), process),
        (None, Some(_), _) => return Err("--process needs --cluster HOSTS".to_owned()),
        (_, _, Some(2..)) => return start(args, plan, folder, deadline),
        _ => return Ok((None, None)),
    };
    shared_work(plan, hosts.addresses.len())?;
    let group = Group::new(hosts, process, deadline).map_err(|error| format!("--cluster: {error}"))?;
    Ok((Some(group), None))
}

/// Starts the other processes of `--processes`, and shares the threads with them.
fn start(
    args: &RunArgs,
    plan: &mut Plan,
    folder: &Path,
    deadline: Duration,
) -> Result<(Option<Group>, Option<Children>), String> {
    let processes = usize::from(args.processes.unwrap_or(1));
    shared_work(plan, processes).map_err(|reason| format!("--processes: {reason}"))?;
    let threads = (plan.resources.thread_count() / processes).max(1);
    plan.resources.threads = Some(threads);
    // Fails if there is a pool already, which then stays as it is.
    let _pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    let children = Children::start(processes, &for_children(std::env::args_os().skip(1)), threads, folder)
        .map_err(|error| format!("--processes: the other processes cannot be started: {error}"))?;
    let mut group = Group::new(children.hosts().clone(), 0, deadline).map_err(|error| error.to_string())?;
    children.token().clone_into(&mut group.token);
    group.describe = Some(children.describe());
    Ok((Some(group), Some(children)))
}

/// How the run can be watched.
fn live(args: &RunArgs, group: Option<&Group>) -> Result<LiveOptions, String> {
    let nth = group.map_or(0, Group::nth_on_machine);
    let bind = |address: &String| Listener::bind(address, nth).map_err(|error| format!("--metrics-address: {error}"));
    let metrics = args.metrics_address.as_ref().map(bind).transpose()?;
    if let Some(address) = metrics.as_ref().and_then(Listener::address) {
        write_message(&format!("metrics: http://{address}/metrics\n"));
    }
    Ok(LiveOptions { metrics, watchdog: args.watchdog.0 })
}

/// The arguments of this process, but for those that children are given anew.
fn for_children(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let (mut kept, mut is_value) = (Vec::new(), false);
    for argument in arguments {
        let text = argument.to_string_lossy().into_owned();
        let own = ["--processes", "--threads"]
            .into_iter()
            .find(|own| text == *own || text.strip_prefix(own).is_some_and(|rest| rest.starts_with('=')));
        if std::mem::take(&mut is_value) || text == "--json" {
            continue;
        }
        match own {
            Some(own) => is_value = text == own,
            None => kept.push(argument),
        }
    }
    kept
}

/// The folder of the run: a fresh one, or the one to continue.
fn folder(args: &RunArgs, plan: &Plan) -> Result<PathBuf, String> {
    let Some(folder) = args.resume.as_deref() else {
        let named = args.run_folder.clone();
        return Ok(named.unwrap_or_else(|| run_folder::fresh(Path::new(RUNS), &plan.name)));
    };
    if folder.join("manifest.json").is_file() {
        return Ok(folder.to_owned());
    }
    Err(format!("`{}` is not the folder of a run: it has no manifest.json", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::for_children;

    #[test]
    fn children_are_told_their_own_share() {
        let arguments =
            ["run", "g.yaml", "--processes", "2", "--set", "seed=1", "--threads=4", "--json", "--limit", "3"];
        let kept = for_children(arguments.into_iter().map(Into::into));
        assert_eq!(kept, ["run", "g.yaml", "--set", "seed=1", "--limit", "3"]);
    }
}
