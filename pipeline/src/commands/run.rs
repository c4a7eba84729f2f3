//! `run GRAPH`: do it.

use std::path::{Path, PathBuf};

use omar_stages::{Registry, StageError};
use serde_json::json;

use super::{load, write_json, write_message, write_result};
use crate::cli::{Exit, RunArgs};
use crate::exec::RunError;
use crate::exec::lane::install_panic_hook;
use crate::plan::Plan;
use crate::progress::Reporter;
use crate::run::{self, RunOptions};
use crate::run_folder;
use crate::stop::Stop;
use crate::summary::Summary;

/// Where runs are kept.
const RUNS: &str = "runs";

/// Runs a graph.
pub fn run(args: &RunArgs, registry: &Registry) -> Exit {
    let graph = &args.graph;
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
    let folder = match folder(args.resume.as_deref(), &plan) {
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
    let options = RunOptions {
        folder: Some(folder),
        resume: args.resume.is_some(),
        limit: args.limit,
        direct: args.direct,
        reporter: Reporter::for_stderr(),
    };
    match run::run(&plan, &options, &stop) {
        Ok(summary) => {
            if graph.json {
                write_json(&json!(summary));
            } else {
                write_result(&summary.to_table());
            }
            ended(&summary, args)
        }
        Err(error @ (RunError::Device(_) | RunError::Stage { source: StageError::Device(_), .. })) => {
            failed(&error.to_string(), graph.json);
            Exit::Device
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
        let (rejected, tracks) = (summary.rejected, summary.tracks);
        write_message(&format!("error: {rejected} of {tracks} recordings were rejected; see the classes above\n"));
        return Exit::Rejects;
    }
    Exit::Done
}

fn failed(message: &str, json: bool) -> Exit {
    if json {
        write_json(&json!({ "error": message }));
    }
    write_message(&format!("error: {message}\n"));
    Exit::Failed
}

/// The folder of the run: a fresh one, or the one to continue.
fn folder(resume: Option<&Path>, plan: &Plan) -> Result<PathBuf, String> {
    let Some(folder) = resume else {
        return Ok(run_folder::fresh(Path::new(RUNS), &plan.name));
    };
    if folder.join("manifest.json").is_file() {
        return Ok(folder.to_owned());
    }
    Err(format!("`{}` is not the folder of a run: it has no manifest.json", folder.display()))
}
