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

use clap::Args;
use omar_stages::Registry;
use omar_stages::storage::StorageError;
use serde::Serialize;
use serde_json::{Value, json};

use super::{load, write_message, write_result};
use crate::cli::Exit;
use crate::plan::Plan;
use dataset::Dataset;
use filter::Filter;
use run_folder::RunReport;
use table::Table;
use target::{NodeFolder, Target};

/// `inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// A parquet file, the folder of a cache or of a run, or a graph (then name a node).
    pub target: PathBuf,
    /// A node of the graph: its cached rows.
    pub node: Option<String>,
    /// Show the first N rows.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub head: usize,
    /// Show only the edge and the columns.
    #[arg(long)]
    pub schema: bool,
    /// Read all rows and show what values the columns have, and how codebooks are used.
    #[arg(long)]
    pub stats: bool,
    /// Only rows of a track or split: `track=ID`, `path=PATH` or `split=valid`.
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    pub filter: Option<Filter>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

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

/// Shows a target, or the cached rows of a node of a graph.
pub fn inspect(args: &InspectArgs, registry: &Registry) -> Exit {
    let mut args = args.clone();
    if let Some(id) = args.node.take() {
        let plan = match load(&args.target, &[], args.json, registry) {
            Ok(plan) => plan,
            Err(exit) => return exit,
        };
        match cache_of(&plan, &id) {
            Ok(folder) => args.target = folder,
            Err(message) => {
                write_message(&format!("error: {message}\n"));
                return Exit::Usage;
            }
        }
    }
    match describe(&args) {
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

/// The folder that keeps the rows of a node.
fn cache_of(plan: &Plan, id: &str) -> Result<PathBuf, String> {
    let names = || plan.nodes.iter().map(|node| node.id.as_str()).collect::<Vec<_>>().join(", ");
    let node = plan.node(id).ok_or_else(|| format!("there is no node `{id}`; the nodes are {}", names()))?;
    let cache = node.cache.as_ref().ok_or_else(|| {
        format!("node `{id}` keeps no rows: give it a cache, e.g. `cache: runs/{id}`, and run the graph")
    })?;
    let folder = cache.join(node.fingerprint.to_string());
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(format!("node `{id}` has not been run with these parameters: `{}` is not there", folder.display()))
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
