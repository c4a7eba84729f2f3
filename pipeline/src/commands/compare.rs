//! `compare RUN...`: what the probes of several runs found, side by side.

use serde_json::json;

use super::{write_json, write_message, write_result};
use crate::cli::{CompareArgs, Exit};
use crate::evaluation::{self, table};

/// Prints a table like the paper's table 4: a row per representation, a column per task.
pub fn compare(args: &CompareArgs) -> Exit {
    let mut runs = Vec::new();
    for folder in &args.runs {
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        match evaluation::of_run(folder) {
            Ok(found) if found.is_empty() => {
                write_message(&format!(
                    "error: `{}` holds no results of a `probe` node\nhelp: runs of configs/eval_*.yaml have them\n",
                    folder.display()
                ));
                return Exit::Usage;
            }
            Ok(found) => runs.push((name, found)),
            Err(error) => {
                write_message(&format!(
                    "error: {error}\nhelp: name the folders of runs, such as runs/eval_beats-...\n"
                ));
                return Exit::Usage;
            }
        }
    }
    if args.json {
        let rows = runs.iter().flat_map(|(run, all)| all.iter().map(move |evaluation| (run, evaluation)));
        let rows = rows.filter_map(|(run, evaluation)| {
            let main = evaluation.main()?;
            Some(json!({
                "run": run, "node": evaluation.node, "task": main.key.task, "dataset": main.key.dataset,
                "input": main.key.input, "layer": main.key.layer, "protocol": main.key.protocol,
                "metric": main.key.metric, "value": main.mean(), "deviation": main.deviation(),
                "repeats": main.values.len(), "interval": main.interval, "n": main.n,
            }))
        });
        write_json(&rows.collect());
        return Exit::Done;
    }
    let compared = table::compare(&runs, args.paper);
    write_result(&if args.markdown { compared.markdown() } else { compared.plain() });
    Exit::Done
}
