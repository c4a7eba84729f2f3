//! `graph GRAPH`: a drawing of it.

use omar_stages::Registry;

use super::{load, write_result};
use crate::cli::{DrawArgs, Exit};
use crate::explain;

/// Draws a graph.
pub fn graph(args: &DrawArgs, registry: &Registry) -> Exit {
    match load(&args.graph, &args.set, false, registry) {
        Ok(plan) => {
            write_result(&explain::draw(&plan, args.format));
            Exit::Done
        }
        Err(exit) => exit,
    }
}
