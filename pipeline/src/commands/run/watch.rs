//! `run --watch`: a run whenever the corpus has changed.

use std::time::{Duration, Instant};

use omar_stages::Scope;
use serde_json::json;

use super::failed;
use crate::cli::Exit;
use crate::commands::{write_json, write_message, write_result};
use crate::corpus;
use crate::exec::RunError;
use crate::plan::Plan;
use crate::run::{self, RunOptions};
use crate::stop::Stop;
use crate::summary::Summary;

/// How often somebody who waits looks whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Runs a plan again and again. Only the shards that have changed are computed, so a round costs what is new in it.
pub(super) fn watch(plan: &Plan, options: &RunOptions, stop: &Stop, every: Duration, as_json: bool) -> Exit {
    if let Some(node) = plan.nodes.iter().find(|node| matches!(node.scope, Scope::Corpus { repeats: true })) {
        let id = &node.id;
        write_message(&format!(
            "error: --watch: node `{id}` trains, and would begin anew with every change: use --until with a node before it\n"
        ));
        return Exit::Usage;
    }
    let mut done: Option<String> = None;
    let mut seen: Option<String> = None;
    loop {
        match look(plan) {
            // A corpus that is still changing is looked at again: files may be half written.
            Ok(hash) if done.as_ref() != Some(&hash) && (done.is_none() || seen.as_ref() == Some(&hash)) => {
                match run::run(plan, options, stop) {
                    Ok(summary) => show(&summary, as_json),
                    Err(error) => return failed(&error.to_string(), as_json),
                }
                done = Some(hash);
                write_message(&format!("watching: looking again every {} s; Ctrl-C ends\n", every.as_secs()));
            }
            Ok(hash) => seen = Some(hash),
            // A disk that has gone may come back; a run that finds nothing at its beginning ends.
            Err(error) if done.is_some() => write_message(&format!("note: {error}\n")),
            Err(error) => return failed(&error.to_string(), as_json),
        }
        let since = Instant::now();
        while since.elapsed() < every && !stop.is_requested() {
            std::thread::sleep(LOOK.min(every));
        }
        if stop.is_requested() {
            return Exit::Interrupted;
        }
    }
}

/// Changes when the corpus does.
fn look(plan: &Plan) -> Result<String, RunError> {
    Ok(corpus::list(plan, None)?.hash())
}

fn show(summary: &Summary, as_json: bool) {
    if as_json {
        write_json(&json!(summary));
    } else {
        write_result(&summary.to_table());
    }
}
