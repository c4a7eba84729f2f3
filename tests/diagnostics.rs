//! Does every mistake in a graph lead to the line, and to the way to mend it?
//!
//! Every `tests/graphs/wrong/*.yaml` holds a mistake; the message that it must give stands next to it in `.stderr`.
//! Comments at the top may give `--set` options (`# --set a=b`) and environment variables (`# NAME=value`). After a
//! deliberate change, write the messages anew with `BLESS=1 cargo test --test diagnostics`, and read them.

use std::path::{Path, PathBuf};

use omar_flow::diagnostic::Report;
use omar_flow::graph::Graph;
use omar_flow::plan::Plan;

/// The `.yaml` files of a folder, with their text.
fn graphs(folder: &str) -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("folder").map(|entry| entry.expect("entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).expect("readable"))).collect()
}

fn check(path: &Path, text: &str) -> Result<Plan, Report> {
    let head = || text.lines().map_while(|line| line.strip_prefix("# "));
    let sets: Vec<String> = head().filter_map(|line| line.strip_prefix("--set ")).map(str::to_owned).collect();
    let environment = |name: &str| {
        head().filter_map(|line| line.split_once('=')).find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
    };
    let mut report = Report::default();
    let graph = Graph::parse(&path.display().to_string(), text, &sets, &environment, &mut report);
    Plan::finish(graph.as_ref(), &omar_stages::ops::registry(), report)
}

#[test]
fn wrong_graphs_are_refused_with_the_message_beside_them() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut differences = Vec::new();
    let graphs = graphs("tests/graphs/wrong");
    assert!(graphs.len() >= 25, "only {} wrong graphs", graphs.len());
    for (path, text) in graphs {
        let report = check(&path, &text).expect_err("a wrong graph");
        let found = report.render(false);
        let expected_at = path.with_extension("stderr");
        if bless {
            std::fs::write(&expected_at, &found).expect("writable");
        }
        let expected = std::fs::read_to_string(&expected_at).unwrap_or_default();
        if found != expected {
            differences.push(format!("{}\n--- expected\n{expected}\n--- found\n{found}", path.display()));
        }
        assert!(report.diagnostics.iter().all(|diagnostic| diagnostic.place.is_some()), "{}", path.display());
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn right_graphs_have_nothing_wrong() {
    for (path, text) in graphs("tests/graphs/right") {
        let plan = check(&path, &text).unwrap_or_else(|report| panic!("{}:\n{report}", path.display()));
        assert!(plan.warnings.diagnostics.is_empty(), "{}:\n{}", path.display(), plan.warnings);
    }
}
