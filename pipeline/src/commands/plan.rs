//! `plan GRAPH`: what a graph means, and what of it is in the caches.

use omar_stages::Registry;
use serde_json::json;

use super::run::comparison;
use super::{load, refuse, write_json, write_message, write_result};
use crate::cli::{Exit, GraphArgs};
use crate::comparison::spec::{self, Found};
use crate::corpus::{self, Corpus};
use crate::explain;
use crate::forecast;
use crate::plan::{Plan, PlanNode};
use crate::run;

/// Shows a plan.
pub fn plan(args: &GraphArgs, registry: &Registry) -> Exit {
    match spec::load(&args.graph, &args.set) {
        Ok(Found::Graph) => {}
        Ok(Found::Spec(spec)) => return comparison::show(&spec, args.json),
        Err(report) => return refuse(&args.graph, &report, args.json),
    }
    let plan = match load(&args.graph, &args.set, args.json, registry) {
        Ok(plan) => plan,
        Err(exit) => return exit,
    };
    show(&plan, None, args.json)
}

/// Shows a plan with the state of its caches, as far as the corpus can be listed.
pub(super) fn show(plan: &Plan, limit: Option<usize>, json: bool) -> Exit {
    let corpus = match corpus::list(plan, limit) {
        Ok(corpus) => Some(corpus),
        Err(error) => {
            write_message(&format!("note: {error}\n"));
            None
        }
    };
    let cached = |node: &PlanNode| corpus.as_ref().and_then(|corpus| words(plan, node, corpus));
    let forecasts = forecast::forecasts(plan);
    if json {
        let mut json = explain::json(plan, &cached);
        json["forecasts"] = json!(forecasts);
        write_json(&json);
    } else {
        write_result(&explain::text(plan, &cached));
        if let Some(corpus) = &corpus {
            let (tracks, shards) = (corpus.tracks(), corpus.shards.len());
            write_result(&format!("\ncorpus: {tracks} tracks in {shards} shards\n"));
        }
        forecasts.iter().for_each(|forecast| write_result(&format!("\n{}", forecast.text())));
    }
    Exit::Done
}

/// `cached 3/7 shards`
fn words(plan: &Plan, node: &PlanNode, corpus: &Corpus) -> Option<String> {
    let cached = run::cached_shards(plan, node, corpus)?;
    Some(format!("cached {cached}/{} shards", corpus.shards.len()))
}
