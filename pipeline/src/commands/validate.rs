//! `validate GRAPH`: is there anything wrong with it?

use omar_stages::Registry;

use super::{load, write_json, write_result};
use crate::cli::{Exit, GraphArgs};

/// Checks a graph. With `--json` the result is the list of messages, empty when nothing is wrong.
pub fn validate(args: &GraphArgs, registry: &Registry) -> Exit {
    match load(&args.graph, &args.set, args.json, registry) {
        Ok(plan) if args.json => write_json(&plan.warnings.to_json()),
        Ok(plan) => write_result(&format!("{}: {} nodes, nothing wrong\n", args.graph.display(), plan.nodes.len())),
        Err(exit) => return exit,
    }
    Exit::Done
}
