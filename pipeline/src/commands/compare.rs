//! `compare RUN...`: what the probes of several runs found, side by side.

use serde_json::json;

use super::run::comparison::write;
use super::{write_json, write_message, write_result};
use crate::cli::{CompareArgs, Exit};
use crate::comparison::Comparison;
use crate::evaluation;

/// Prints a table like the paper's table 4: a row per representation, a column per task.
pub fn compare(args: &CompareArgs) -> Exit {
    let (mut runs, mut tables) = (Vec::new(), Vec::new());
    for folder in &args.runs {
        let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        let found = match Comparison::read(folder) {
            Ok(Some(table)) => {
                tables.push(table);
                continue;
            }
            Ok(None) => evaluation::of_run(folder),
            Err(error) => Err(error),
        };
        match found {
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
    let mut compared = Comparison::of_runs(&runs);
    for table in tables {
        // The name of a table that stands alone is its own.
        let name = if compared.rows.is_empty() { table.name.clone() } else { compared.name.clone() };
        compared = Comparison { name, ..compared.join(table) };
    }
    if let Some(out) = &args.out {
        let made = std::fs::create_dir_all(out).map_err(|error| error.to_string());
        if let Err(error) = made.and_then(|()| write(out, &compared).map_err(|error| error.to_string())) {
            write_message(&format!("error: --out: `{}`: {error}\n", out.display()));
            return Exit::Failed;
        }
    }
    if args.json {
        write_json(&json!(compared));
        return Exit::Done;
    }
    write_result(&if args.markdown { compared.markdown(args.paper) } else { compared.plain(args.paper) });
    Exit::Done
}
