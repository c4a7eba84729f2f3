//! Runs one test of a graph: the part of it that the test names, on recordings of the test's own, in a temporary
//! folder. Caches, run folders and files that stages write for others are not touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use omar_stages::ops::files::Files;
use omar_stages::storage::TrackFile;
use omar_stages::{Registry, Scope, StageKind};
use serde_json::{Map, Value, json};

use super::values::{self, Column};
use super::verdict::Outcome;
use super::{GraphTest, feed};
use crate::cache;
use crate::diagnostic::Report;
use crate::graph::{From, Graph, Node};
use crate::plan::Plan;
use crate::results::RESULTS;
use crate::run::{self, RunOptions};
use crate::stop::Stop;
use crate::summary::Summary;

/// Runs a test of a graph. Returns what was not as expected, a sentence each; nothing if it is passed.
///
/// # Errors
/// Why it could not be run, in words.
pub fn run(graph: &Graph, test: &GraphTest, registry: &Registry, stop: &Stop) -> Result<Vec<String>, String> {
    let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let part = fed(&part(graph, &test.until), test, folder.path())?;
    let mut plan = detached(part, registry, folder.path())?;
    let last = plan.nodes.iter().position(|node| node.id == test.until).ok_or("its node is not in the plan")?;
    plan.nodes.iter_mut().for_each(|node| node.cache = None);
    // What is rejected is compared with what the test expects.
    plan.stop_if = None;
    let corpus = matches!(plan.nodes[last].scope, Scope::Corpus { .. });
    let (rows, run_folder) = (folder.path().join("rows"), folder.path().join("run"));
    if !corpus {
        plan.nodes[last].cache = Some(rows.clone());
    }
    let options = RunOptions { folder: corpus.then(|| run_folder.clone()), ..RunOptions::default() };
    let summary = run::run(&plan, &options, stop).map_err(|error| error.to_string())?;
    if summary.interrupted {
        return Err("stopped".to_owned());
    }
    let files = match corpus {
        true => run_folder.join(&test.until).join(RESULTS),
        false => cache::folder(&rows, &plan.nodes[last].fingerprint.to_hex()),
    };
    Ok(outcome(&plan, last, test, &files, summary)?.failures(&test.expect))
}

/// The nodes that a node needs, and itself.
fn part(graph: &Graph, until: &str) -> Graph {
    let mut wanted = vec![until.to_owned()];
    let mut at = 0;
    while let Some(name) = wanted.get(at).cloned() {
        at += 1;
        let node = graph.nodes.iter().find(|node| node.id == name);
        for (_, producer) in node.iter().flat_map(|node| node.references()) {
            if !wanted.iter().any(|name| name == producer) {
                wanted.push(producer.to_owned());
            }
        }
    }
    let mut part = graph.clone();
    part.nodes.retain(|node| wanted.contains(&node.id));
    part.tests = Vec::new();
    part.document.value.shift_remove("tests");
    part
}

/// The graph with other recordings.
fn fed(graph: &Graph, test: &GraphTest, folder: &Path) -> Result<Graph, String> {
    let mut fed = graph.clone();
    for node in &mut fed.nodes {
        let Some(recordings) = test.feed.get(&node.id) else { continue };
        let list = feed::write(&folder.join("feed").join(&node.id), recordings)?;
        let params = Map::from_iter([("manifest".to_owned(), json!(list))]);
        let (stage, from, expect) = (Some(Files::NAME.to_owned()), From::Nothing, Map::new());
        *node = Node { stage, from, params, expect, ..node.clone() };
    }
    Ok(fed)
}

/// The plan of a graph, with what its stages write for other graphs in a folder of the test.
fn detached(mut graph: Graph, registry: &Registry, folder: &Path) -> Result<Plan, String> {
    let outside = |plan: &Plan| -> Vec<(String, PathBuf)> {
        let written = |node: &crate::plan::PlanNode| -> Option<(String, PathBuf)> {
            let path = node.stage.writes().into_iter().find(|path| !path.starts_with(folder))?;
            Some((node.id.clone(), path))
        };
        plan.nodes.iter().filter_map(written).collect()
    };
    let plan = bind(&graph, registry)?;
    let writing = outside(&plan);
    if writing.is_empty() {
        return Ok(plan);
    }
    for (id, _) in &writing {
        // Stages that write files name their folder `to`.
        let to = folder.join("written").join(id);
        let node = graph.nodes.iter_mut().find(|node| node.id == *id);
        node.into_iter().for_each(|node| drop(node.params.insert("to".to_owned(), Value::from(to.to_string_lossy()))));
    }
    let plan = bind(&graph, registry)?;
    match outside(&plan).first() {
        None => Ok(plan),
        Some((id, path)) => Err(format!("`{id}` writes `{}`, and a test must not", path.display())),
    }
}

fn bind(graph: &Graph, registry: &Registry) -> Result<Plan, String> {
    let plan = Plan::finish(Some(graph), registry, Report::default());
    plan.map_err(|report| report.render(false).trim_end().to_owned())
}

/// Reads what was written.
fn outcome(plan: &Plan, last: usize, test: &GraphTest, files: &Path, summary: Summary) -> Result<Outcome, String> {
    let node = &plan.nodes[last];
    let mut rows = 0;
    let mut columns: BTreeMap<String, Column> =
        test.expect.values.keys().map(|name| (name.clone(), Column::default())).collect();
    for path in parquet_files(files) {
        let refused = |error: &dyn std::fmt::Display| format!("the rows of the test cannot be read: {error}");
        let file = TrackFile::open(&path).map_err(|error| refused(&error))?;
        for batch in file.scan(None, None).map_err(|error| refused(&error))? {
            let batch = batch.map_err(|error| refused(&error))?;
            rows += batch.num_rows() as u64;
            for (name, column) in &mut columns {
                values::add(column, name, &batch).map_err(|error| refused(&error))?;
            }
        }
    }
    Ok(Outcome {
        schema: node.schema.clone(),
        version: node.version,
        fingerprint: node.fingerprint.to_hex(),
        rows,
        columns,
        rejects: [summary.rejects, summary.dropped].concat(),
    })
}

fn parquet_files(folder: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = listed.filter(|path| path.extension().is_some_and(|e| e == "parquet")).collect();
    files.sort();
    files
}
