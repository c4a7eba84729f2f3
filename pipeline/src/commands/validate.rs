//! `validate GRAPH`: is there anything wrong with it?

use omar_stages::Registry;

use super::run::comparison;
use super::{load, refuse, write_json, write_result};
use crate::cli::{Exit, GraphArgs};
use crate::comparison::spec::{self, Found};

/// Checks a graph. With `--json` the result is the list of messages, empty when nothing is wrong.
pub fn validate(args: &GraphArgs, registry: &Registry) -> Exit {
    match spec::load(&args.graph, &args.set) {
        Ok(Found::Graph) => {}
        Ok(Found::Spec(spec)) => return comparison::validate(&spec, registry, args.json),
        Err(report) => return refuse(&args.graph, &report, args.json),
    }
    match load(&args.graph, &args.set, args.json, registry) {
        Ok(plan) if args.json => write_json(&plan.warnings.to_json()),
        Ok(plan) => write_result(&format!("{}: {} nodes, nothing wrong\n", args.graph.display(), plan.nodes.len())),
        Err(exit) => return exit,
    }
    Exit::Done
}
