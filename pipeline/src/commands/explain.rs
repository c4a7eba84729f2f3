//! `explain RUN`: what every node did, and where the time went.

use serde_json::{Value, json};

use super::{write_json, write_message, write_result};
use crate::cli::{Exit, ExplainArgs};
use crate::live::read;
use crate::live::tree;
use crate::terminal;

/// Lines of files and pipes are not cut.
const WIDE: usize = usize::MAX;

/// Explains a run.
pub fn explain(args: &ExplainArgs) -> Exit {
    let (picture, history) = match read::whole(&args.run) {
        Ok(found) => found,
        Err(error) => {
            write_message(&format!("error: {error}\n"));
            return Exit::Usage;
        }
    };
    // Without a summary the run was stopped or goes on; the rest is told all the same.
    let summary = std::fs::read(args.run.join("summary.json")).unwrap_or_default();
    let classes =
        serde_json::from_slice::<Value>(&summary).map_or(Value::Null, |mut summary| summary["rejects"].take());
    if args.json {
        let mut found = picture.to_json();
        found["memory_held_most"] = json!(history.held);
        found["memory_resident_most"] = json!(history.resident);
        found["earlier_parts"] = json!(history.parts);
        found["rejects"] = classes;
        found["sentence"] =
            json!(picture.bottleneck.as_ref().map(|bottleneck| bottleneck.sentence(!picture.state().goes_on())));
        write_json(&found);
    } else {
        let width = terminal::width_of_stdout().unwrap_or(WIDE);
        write_result(&tree::text(&picture, &history, &classes, width));
    }
    Exit::Done
}
