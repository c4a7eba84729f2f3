//! `run TABLE`: every cell that can be filled, and the table.

use std::io;
use std::path::Path;
use std::time::Instant;

use omar_stages::Registry;
use serde_json::json;

use super::super::{write_json, write_message, write_result};
use super::{RUNS, failed};
use crate::cli::{Exit, RunArgs};
use crate::comparison::schedule::{self, Filled};
use crate::comparison::spec::{ColumnSpec, RowSpec, Spec};
use crate::comparison::{Cell, Comparison, FILE, HoleKind, Row, cells};
use crate::files::{WriteError, write_parquet, write_text};
use crate::plan::Plan;
use crate::progress::clock;
use crate::run_folder;
use crate::stop::Stop;

/// The table, in the folder of its run or beside it.
pub(in super::super) const TABLE: &str = "table.md";
const PAGE: &str = "table.html";
const ROWS: &str = "results.parquet";

/// Fills a table.
pub(super) fn run(spec: &Spec, args: &RunArgs) -> Exit {
    if let Some(option) = unsupported(args) {
        write_message(&format!("error: {option} is for graphs: this file compares the results of several\n"));
        return Exit::Usage;
    }
    if args.dry_run {
        return show(spec, args.graph.json);
    }
    let folder = args.run_folder.clone().unwrap_or_else(|| run_folder::fresh(Path::new(RUNS), &spec.name));
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("signal handlers cannot be installed: {error}"), args.graph.json),
    };
    if let Err(error) = std::fs::create_dir_all(&folder) {
        return failed(&format!("cannot create `{}`: {error}", folder.display()), args.graph.json);
    }
    let mut table = begun(spec);
    let begin = Instant::now();
    let filled = fill(spec, &mut table, &folder, args.threads, &stop);
    if let Err(error) = filled.and_then(|()| write(&folder, &table).map_err(io::Error::other)) {
        return failed(&format!("the table cannot be made: {error}"), args.graph.json);
    }
    if stop.is_requested() {
        write_message("stopped: what is cached stays, the same command goes on from there\n");
        return Exit::Interrupted;
    }
    if args.graph.json {
        write_json(&json!(table));
    } else {
        write_result(&table.plain(false));
    }
    let (figures, failures) = (table.count(None), table.count(Some(HoleKind::Failed)));
    let missing = table.count(Some(HoleKind::Missing));
    let seconds = clock(begin.elapsed().as_secs_f64());
    write_message(&format!(
        "done in {seconds}: {figures} figures, {missing} cells without model or data, {failures} failed\npage: {}\n",
        folder.join(PAGE).display()
    ));
    if failures > 0 { Exit::Failed } else { Exit::Done }
}

/// Fills the cells, and says so of each.
fn fill(spec: &Spec, table: &mut Comparison, folder: &Path, threads: Option<u16>, stop: &Stop) -> io::Result<()> {
    let (begun, share) = (table.clone(), schedule::share(spec, threads));
    let to_fill = begun.count(Some(HoleKind::NotRun));
    let mut done = 0;
    schedule::fill((spec, &begun), folder, share, &|| stop.is_requested(), &mut |filled| {
        let Filled { row, column, cell, took } = filled;
        // What was interrupted with the table is no failure of the cell.
        if stop.is_requested() && cell.figure().is_none() {
            return Ok(());
        }
        done += 1;
        let what = match &cell {
            Cell::Figure(measured) => format!("{} {:.4}", measured.metric, measured.value),
            Cell::Hole(hole) => hole.reason.clone(),
        };
        let (task, name, seconds) = (&spec.columns[column].task, &spec.rows[row].name, clock(took.as_secs_f64()));
        write_message(&format!("[{done}/{to_fill}] {task} · {name}: {what} ({seconds})\n"));
        table.rows[row].cells[column] = cell;
        // Kept as it grows: a long table can be looked at, and a crash loses nothing.
        write(folder, table).map_err(io::Error::other)
    })
}

/// The first option that has no meaning for a table.
fn unsupported(args: &RunArgs) -> Option<&'static str> {
    [
        (args.resume.is_some(), "--resume"),
        (args.until.is_some(), "--until"),
        (args.limit.is_some(), "--limit"),
        (args.retry_quarantined, "--retry-quarantined"),
        (args.direct, "--direct"),
        (args.watch.is_some(), "--watch"),
        (args.processes.is_some_and(|processes| processes > 1), "--processes"),
        (args.cluster.is_some(), "--cluster"),
        (args.metrics_address.is_some(), "--metrics-address"),
    ]
    .into_iter()
    .find_map(|(is_there, option)| is_there.then_some(option))
}

/// The table before anything has run: cells that cannot be filled say why.
fn begun(spec: &Spec) -> Comparison {
    let cell = |row: &RowSpec, column: &ColumnSpec| {
        cells::hole(row, column).unwrap_or_else(|| Cell::hole(HoleKind::NotRun, "not run yet".to_owned()))
    };
    let rows = spec.rows.iter().map(|row| Row {
        name: row.name.clone(),
        paper: row.paper.clone(),
        cells: spec.columns.iter().map(|column| cell(row, column)).collect(),
    });
    let columns = spec.columns.iter().map(|column| column.task.clone()).collect();
    Comparison { name: spec.name.clone(), protocol: spec.protocol.clone(), columns, rows: rows.collect() }
}

/// Writes the table in all its forms.
///
/// # Errors
/// When a file cannot be written.
pub(in super::super) fn write(folder: &Path, table: &Comparison) -> Result<(), WriteError> {
    write_text(&folder.join(FILE), &format!("{:#}\n", json!(table)))?;
    write_text(&folder.join(TABLE), &table.markdown(true))?;
    write_text(&folder.join(PAGE), &table.html())?;
    let batch = table.batch().expect("columns of one length and of their types");
    write_parquet(&folder.join(ROWS), &[batch])
}

/// `plan`, and `run --dry-run`: what would be done.
pub(in super::super) fn show(spec: &Spec, json: bool) -> Exit {
    let table = begun(spec);
    if json {
        write_json(&json!(table));
        return Exit::Done;
    }
    let mut text = String::new();
    for (row, cells) in spec.rows.iter().zip(&table.rows) {
        text += &format!("{} ({})\n", row.name, row.model);
        for (column, cell) in spec.columns.iter().zip(&cells.cells) {
            let what = match cell {
                Cell::Hole(hole) if hole.kind != HoleKind::NotRun => format!("hole: {}", hole.reason),
                _ => format!("omar-flow {}", cells::arguments(row, column).join(" ")),
            };
            text += &format!("  {:<12}{what}\n", column.task);
        }
    }
    write_result(&text);
    Exit::Done
}

/// `validate`: every graph of the table, with the first encoder that is there.
pub(in super::super) fn validate(spec: &Spec, registry: &Registry, json: bool) -> Exit {
    let mut checked = 0;
    for column in &spec.columns {
        let Some(row) = spec.rows.iter().find(|row| cells::hole(row, column).is_none()) else { continue };
        let arguments = cells::arguments(row, column);
        let sets: Vec<String> =
            arguments.windows(2).filter(|pair| pair[0] == "--set").map(|pair| pair[1].clone()).collect();
        if let Err(exit) = super::super::load(&column.graph, &sets, json, registry).and_then(|plan: Plan| {
            plan.until(&row.until).map_err(|message| {
                write_message(&format!("error: {}: {message}\n", column.graph.display()));
                Exit::Invalid
            })
        }) {
            return exit;
        }
        checked += 1;
    }
    let table = begun(spec);
    let holes = table.count(Some(HoleKind::Missing));
    if json {
        write_json(&json!([]));
    } else {
        let (rows, columns) = (spec.rows.len(), spec.columns.len());
        write_result(&format!(
            "{}: {rows} encoders by {columns} tasks, {checked} graphs checked, {holes} cells without model or data, \
             nothing wrong\n",
            spec.name
        ));
    }
    Exit::Done
}
