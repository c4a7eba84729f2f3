//! `inspect TARGET`: what is in a file or a folder that omar-flow wrote.
//!
//! [`target`] finds out what a path is; [`dataset`] describes rows and where they come from, with [`filter`] for some
//! of them, [`statistics`] of their values and [`cells`] for their looks; [`run_folder`] describes a run.

mod cells;
mod dataset;
mod filter;
mod run_folder;
mod statistics;
mod table;
mod target;

use std::path::PathBuf;

use omar_stages::Registry;
use omar_stages::storage::StorageError;
use serde::Serialize;
use serde_json::{Value, json};

use super::{load, write_message, write_result};
use crate::cache;
use crate::cli::{Exit, InspectArgs};
use crate::diagnostic::did_you_mean;
use dataset::Dataset;
pub use filter::Filter;
use run_folder::RunReport;
use table::Table;
use target::{NodeFolder, Target};

/// A target cannot be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Reading failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// The target is nothing that can be shown.
    #[error("`{}`: {message}", path.display())]
    Target {
        /// As given.
        path: PathBuf,
        /// Expected and found.
        message: String,
    },
    /// No row is asked for.
    #[error("no row has {0}")]
    NoMatch(Filter),
}

/// What is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Report {
    Rows(Box<Dataset>),
    Cache(Vec<NodeFolder>),
    Run(Box<RunReport>),
}

/// Shows the target.
pub fn inspect(args: &InspectArgs, registry: &Registry) -> Exit {
    let described = match &args.node {
        None => describe(args),
        Some(node) => match cached(args, node, registry) {
            Ok(target) => describe(&InspectArgs { target, ..args.clone() }),
            Err(exit) => return exit,
        },
    };
    match described {
        Ok(text) => {
            write_result(&text);
            Exit::Done
        }
        Err(error) => {
            write_message(&format!("error: {error}\n"));
            Exit::Failed
        }
    }
}

/// Where the rows of a node of a graph are kept.
fn cached(args: &InspectArgs, node: &str, registry: &Registry) -> Result<PathBuf, Exit> {
    let plan = load(&args.target, &[], args.json, registry)?;
    let Some(found) = plan.node(node) else {
        let hint = did_you_mean(node, plan.nodes.iter().map(|node| node.id.as_str()));
        let hint = hint.map_or(String::new(), |hint| format!("\n  = help: {hint}"));
        write_message(&format!("error: `{}` has no node `{node}`{hint}\n", args.target.display()));
        return Err(Exit::Usage);
    };
    let Some(folder) = &found.cache else {
        let hint = format!("keep them with `cache: runs/{node}`");
        write_message(&format!("error: the rows of `{node}` are not kept\n  = help: {hint}\n"));
        return Err(Exit::Usage);
    };
    let folder = cache::folder(folder, &found.fingerprint.to_hex());
    if folder.is_dir() {
        return Ok(folder);
    }
    let hint = format!("`omar-flow run {}` makes them", args.target.display());
    write_message(&format!("error: there are no rows of `{node}` yet, in `{}`\n  = help: {hint}\n", folder.display()));
    Err(Exit::Failed)
}

/// Describes the target, as text or as JSON.
///
/// # Errors
/// When there is nothing that can be described, or it cannot be read.
pub fn describe(args: &InspectArgs) -> Result<String, InspectError> {
    let report = match target::find(&args.target)? {
        Target::Rows(files) => Report::Rows(Box::new(Dataset::read(files, args)?)),
        Target::Cache(nodes) => Report::Cache(nodes),
        Target::Run(folder) => Report::Run(Box::new(RunReport::read(&folder)?)),
    };
    if args.json {
        return Ok(format!("{:#}\n", report.to_json(args)));
    }
    Ok(match &report {
        Report::Rows(dataset) => dataset.text(args),
        Report::Cache(nodes) => cache_text(args, nodes),
        Report::Run(run) => run.text(),
    })
}

impl Report {
    fn to_json(&self, args: &InspectArgs) -> Value {
        let mut json = json!({ "target": args.target });
        let report = serde_json::to_value(self).expect("a report is plain data and always serialises");
        if let (Value::Object(json), Value::Object(report)) = (&mut json, report) {
            json.extend(report);
        }
        json
    }
}

fn cache_text(args: &InspectArgs, nodes: &[NodeFolder]) -> String {
    let mut table =
        Table::new(&["folder", "node", "stage", "edge", "shards>", "rows>", "size>", "newest", "differs in"]);
    for node in nodes {
        table.row(node.cells());
    }
    format!("{}: the rows of {} nodes, the newest first\n\n{table}", args.target.display(), nodes.len())
}

#[cfg(test)]
mod tests;
