//! `plan GRAPH`: what a graph means.

use omar_stages::Registry;

use super::{load, write_json, write_result};
use crate::cli::{Exit, GraphArgs};
use crate::explain::{self, CacheWords};

/// Shows a plan; `cached` says what is known about the cache of a node.
pub fn plan(args: &GraphArgs, registry: &Registry, cached: CacheWords<'_>) -> Exit {
    match load(&args.graph, &args.set, args.json, registry) {
        Ok(plan) if args.json => write_json(&explain::json(&plan, cached)),
        Ok(plan) => write_result(&explain::text(&plan, cached)),
        Err(exit) => return exit,
    }
    Exit::Done
}
