//! `test GRAPH`: the tests that a graph brings along.

use std::time::Instant;

use omar_stages::Registry;
use serde_json::json;

use super::{write_json, write_message, write_report, write_result};
use crate::cli::{Exit, TestArgs};
use crate::diagnostic::{Report, did_you_mean};
use crate::exec::lane::install_panic_hook;
use crate::graph::Graph;
use crate::graph_tests::{self, GraphTest, runner};
use crate::reader::Reader;
use crate::stop::Stop;

/// Runs the tests of a graph. Exit status 1 if one fails.
pub fn test(args: &TestArgs, registry: &Registry) -> Exit {
    let (path, as_json) = (&args.graph.graph, args.graph.json);
    let graph = match load(args, registry) {
        Ok(graph) => graph,
        Err(report) => {
            if as_json {
                write_json(&report.to_json());
            } else {
                write_report(path, &report);
            }
            return Exit::Invalid;
        }
    };
    let is_chosen = |test: &&GraphTest| args.filter.as_ref().is_none_or(|filter| test.name.contains(filter.as_str()));
    let tests: Vec<&GraphTest> = graph.tests.iter().filter(is_chosen).collect();
    if let (Some(filter), true) = (&args.filter, tests.is_empty()) {
        let names = || graph.tests.iter().map(|test| test.name.as_str());
        let all = || format!("the tests are {}", names().collect::<Vec<_>>().join(", "));
        let hint = did_you_mean(filter, names()).unwrap_or_else(all);
        write_message(&format!("error: no test of `{}` has `{filter}` in its name; {hint}\n", path.display()));
        return Exit::Usage;
    }
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => return super::run::failed(&format!("signal handlers cannot be installed: {error}"), as_json),
    };
    install_panic_hook();
    if !as_json {
        let s = if tests.len() == 1 { "" } else { "s" };
        write_result(&format!("{}: {} test{s}\n", path.display(), tests.len()));
    }
    let (mut failed, mut results) = (0, Vec::new());
    for test in &tests {
        let started = Instant::now();
        let failures = runner::run(&graph, test, registry, &stop);
        if stop.is_requested() {
            return Exit::Interrupted;
        }
        let failures = failures.unwrap_or_else(|reason| vec![reason]);
        let seconds = started.elapsed().as_secs_f64();
        failed += usize::from(!failures.is_empty());
        if as_json {
            let ok = failures.is_empty();
            results.push(json!({ "name": test.name, "passed": ok, "failures": failures, "seconds": seconds }));
        } else {
            write_result(&line(&test.name, &failures, seconds));
        }
    }
    let passed = tests.len() - failed;
    if as_json {
        write_json(&json!({ "tests": results, "passed": passed, "failed": failed }));
    } else {
        write_result(&format!("{passed} passed, {failed} failed\n"));
    }
    if failed > 0 { Exit::Failed } else { Exit::Done }
}

/// The graph, its form checked and its tests too; the nodes are for each test to bind.
fn load(args: &TestArgs, registry: &Registry) -> Result<Graph, Report> {
    let mut report = Report::default();
    let graph = Graph::load(&args.graph.graph, &args.graph.set, &mut report);
    if let Some(graph) = &graph {
        graph_tests::check(graph, registry, &mut Reader { document: &graph.document, report: &mut report });
        report.map_text(|text| graph.document.secrets.redact(text));
    }
    report.sort();
    graph.filter(|_| report.errors() == 0).ok_or(report)
}

fn line(name: &str, failures: &[String], seconds: f64) -> String {
    if failures.is_empty() {
        return format!("ok    {name} ({seconds:.1} s)\n");
    }
    let indented = |failure: &String| {
        let lines: Vec<String> = failure.lines().map(|line| format!("        {line}").trim_end().to_owned()).collect();
        format!("{}\n", lines.join("\n"))
    };
    let failures: String = failures.iter().map(indented).collect();
    format!("FAIL  {name} ({seconds:.1} s)\n{failures}")
}
