//! In which order cells are filled, and how many at the same time.
//!
//! A cell does not keep a machine busy on its own: its recordings are decoded before its probe learns, and a probe learns on
//! one core. Cells of one encoder follow one another, since they share what is cached of it.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::cells;
use super::spec::Spec;
use super::{Cell, Comparison, HoleKind};

/// Cells at the same time, unless the file says how many: each holds an encoder in memory.
const MOST: usize = 4;

/// A cell that was filled.
pub(crate) struct Filled {
    pub(crate) row: usize,
    pub(crate) column: usize,
    pub(crate) cell: Cell,
    pub(crate) took: Duration,
}

/// How many cells are filled at the same time, and with how many threads each.
pub(crate) fn share(spec: &Spec, threads: Option<u16>) -> (usize, usize) {
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.map_or_else(cores, usize::from).max(1);
    // Processes do not share a GPU well: their models stand in its memory side by side.
    let good = if cfg!(feature = "cuda") { 1 } else { threads.min(MOST) };
    let jobs = spec.jobs.unwrap_or(good).min(spec.rows.len().max(1));
    (jobs, (threads / jobs).max(1))
}

/// Fills the cells of a table that nothing stands in the way of, a task after the other, and hands out each when it is done.
/// Begins no further one once `stop` says so.
///
/// # Errors
/// When a process cannot be started.
pub(crate) fn fill(
    (spec, table): (&Spec, &Comparison),
    folder: &Path,
    (jobs, threads): (usize, usize),
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(Filled) -> io::Result<()>,
) -> io::Result<()> {
    let all = (0..spec.columns.len()).flat_map(|column| (0..spec.rows.len()).map(move |row| (row, column)));
    let is_open = |(row, column): &(usize, usize)| matches!(&table.rows[*row].cells[*column], Cell::Hole(hole) if hole.kind == HoleKind::NotRun);
    let mut waiting: Vec<(usize, usize)> = all.filter(is_open).collect();
    let mut busy: Vec<&str> = Vec::new();
    let more = ["--threads".to_owned(), threads.to_string()];
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        loop {
            while busy.len() < jobs && !stop() {
                let model = |(row, _): &(usize, usize)| spec.rows[*row].model.as_str();
                let Some(next) = waiting.iter().position(|cell| !busy.contains(&model(cell))) else { break };
                let (row, column) = waiting.remove(next);
                busy.push(&spec.rows[row].model);
                let (sender, more) = (sender.clone(), &more);
                scope.spawn(move || {
                    let begin = Instant::now();
                    let cell = cells::fill(folder, (spec, row, column), more);
                    // Nobody listens any more when another cell has ended the table.
                    let _ended = sender.send((row, column, cell, begin.elapsed()));
                });
            }
            if busy.is_empty() {
                return Ok(());
            }
            let (row, column, cell, took) = receiver.recv().map_err(io::Error::other)?;
            busy.retain(|model| *model != spec.rows[row].model);
            each(Filled { row, column, cell: cell?, took })?;
        }
    })
}
