//! A cell: what it needs, and the run that fills it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use omar_stages::encoder::{EncoderError, EncoderFolder};
use serde_json::Value;

use super::spec::{ColumnSpec, RowSpec, Spec};
use super::{Cell, HoleKind, Measured};
use crate::evaluation;

/// What a run of a cell prints, in its folder.
const LOG: &str = "log.txt";

/// What stands in the way of a cell.
pub(crate) fn hole(row: &RowSpec, column: &ColumnSpec) -> Option<Cell> {
    if let Some(reason) = row.without.get(&column.task) {
        return Some(Cell::hole(HoleKind::Without, reason.clone()));
    }
    let missing = |reason: String| Some(Cell::hole(HoleKind::Missing, reason));
    match EncoderFolder::open(Path::new(&row.model)) {
        Ok(_) => {}
        Err(EncoderError::NotFound { .. }) if !row.model.contains('*') && !Path::new(&row.model).exists() => {
            let model = &row.model;
            return missing(format!("no model at `{model}`: `omar-flow import DOWNLOAD --to {model}` puts it there"));
        }
        Err(EncoderError::NotFound { reason, .. }) if row.model.contains('*') => {
            return missing(format!("no model fits `{}`: {reason}", row.model));
        }
        Err(error) => return Some(Cell::hole(HoleKind::Failed, error.to_string())),
    }
    let data = column.data.as_ref().filter(|data| !Path::new(data).exists())?;
    let help = column.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
    missing(format!("no data at `{data}`{help}"))
}

/// The arguments of the run that fills a cell.
pub(crate) fn arguments(row: &RowSpec, column: &ColumnSpec) -> Vec<String> {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut sets = vec![
        ("vars.model".to_owned(), quoted(&row.model)),
        (format!("nodes.{}.params.name", row.until), quoted(&row.name)),
    ];
    sets.extend(column.data.as_ref().map(|data| ("vars.data".to_owned(), quoted(data))));
    sets.extend(row.layers.as_ref().map(|layers| ("vars.layers".to_owned(), quoted(layers))));
    let own = column.set.iter();
    sets.extend(own.map(|(path, value)| (path.replace("{until}", &row.until), value.to_string())));
    let mut arguments =
        vec!["run".to_owned(), column.graph.display().to_string(), "--until".to_owned(), row.until.clone()];
    for (path, value) in sets {
        arguments.extend(["--set".to_owned(), format!("{path}={value}")]);
    }
    arguments
}

/// A name as a part of a file's name.
fn slug(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let dashed: String = name.chars().map(plain).collect();
    dashed.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// The folder of a cell's run.
pub(crate) fn folder(table: &Path, row: &RowSpec, column: &ColumnSpec) -> PathBuf {
    table.join("cells").join(format!("{}-{}", slug(&row.name), column.task))
}

/// Runs the evaluation of the cell of a row and a column in a process of its own, so that nothing that goes wrong in it
/// reaches another cell.
///
/// # Errors
/// When the process cannot be started.
pub(crate) fn fill(table: &Path, (spec, row, column): (&Spec, usize, usize), more: &[String]) -> io::Result<Cell> {
    let (row, column) = (&spec.rows[row], &spec.columns[column]);
    let folder = folder(table, row, column);
    std::fs::create_dir_all(&folder)?;
    let log = folder.join(LOG);
    let (out, err) = (File::create(&log)?, File::options().append(true).open(&log)?);
    let status = Command::new(std::env::current_exe()?)
        .args(arguments(row, column))
        .arg("--run-folder")
        .arg(&folder)
        .args(more)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .status()?;
    let printed = std::fs::read_to_string(&log).unwrap_or_default();
    if !status.success() {
        return Ok(Cell::hole(HoleKind::Failed, reason(&printed, &log)));
    }
    let found = match evaluation::of_run(&folder) {
        Ok(found) => found,
        Err(error) => return Ok(Cell::hole(HoleKind::Failed, error.to_string())),
    };
    let run = folder.display().to_string();
    let of_task = found.iter().find(|evaluation| evaluation.spec.task == column.task);
    let evaluated = spec.protocol.as_ref().map(|protocol| protocol.name.clone());
    Ok(match of_task.and_then(|evaluation| Measured::of(&run, evaluation)) {
        Some(measured) => Cell::Figure(Box::new(Measured { evaluated, ..measured })),
        None => {
            let (node, task) = (&row.until, &column.task);
            Cell::hole(HoleKind::Failed, format!("node `{node}` gives no figure for {task}: is it the graph's probe?"))
        }
    })
}

/// The error in what a run printed.
fn reason(printed: &str, log: &Path) -> String {
    let error = printed.lines().find_map(|line| line.trim().strip_prefix("error: "));
    let error = error.unwrap_or("the run ended without a message");
    format!("{error} (all of it in `{}`)", log.display())
}
