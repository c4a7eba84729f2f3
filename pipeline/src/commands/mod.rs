//! One file per verb of the command line. Results go to stdout, messages to stderr.

pub mod cache;
pub mod compare;
pub mod doctor;
pub mod embed;
pub mod explain;
pub mod graph;
pub mod import;
pub mod inspect;
pub mod plan;
pub mod report;
pub mod run;
pub mod schema;
pub mod stages;
pub mod test;
pub mod top;
pub mod validate;

use std::io::{self, Write};
use std::path::Path;

use omar_stages::Registry;
use serde_json::Value;

use crate::cli::Exit;
use crate::comparison::spec::{self, Found};
use crate::diagnostic::Report;
use crate::plan::Plan;
use crate::terminal::colour;

/// Writes a result. A reader that has gone away, as in `| head`, is no error.
pub fn write_result(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Writes a result as JSON.
pub fn write_json(value: &Value) {
    write_result(&format!("{value:#}\n"));
}

/// Writes messages about a graph.
pub fn write_report(graph: &Path, report: &Report) {
    let mut text = report.render(colour());
    let errors = report.errors();
    if errors > 1 {
        text += &format!("{}: {errors} errors\n", graph.display());
    }
    write_message(&text);
}

/// Writes to stderr.
pub fn write_message(text: &str) {
    let mut err = io::stderr().lock();
    let _ = err.write_all(text.as_bytes());
}

/// Loads a plan for a verb: warnings are written and errors too, as JSON to stdout if that is wanted.
///
/// # Errors
/// The exit status, when the graph is wrong.
pub fn load(graph: &Path, sets: &[String], json: bool, registry: &Registry) -> Result<Plan, Exit> {
    match Plan::load(graph, sets, registry) {
        Err(_) if matches!(spec::load(graph, sets), Ok(Found::Spec(_))) => {
            let graph = graph.display();
            write_message(&format!(
                "error: `{graph}` is a table of evaluations and no graph\nhelp: `run`, `plan` and `validate` take it\n"
            ));
            Err(Exit::Usage)
        }
        Ok(plan) => {
            if !json {
                write_report(graph, &plan.warnings);
            }
            Ok(plan)
        }
        Err(report) => Err(refuse(graph, &report, json)),
    }
}

/// Says what is wrong with a file.
fn refuse(graph: &Path, report: &Report, json: bool) -> Exit {
    if json {
        write_json(&report.to_json());
    } else {
        write_report(graph, report);
    }
    Exit::Invalid
}
