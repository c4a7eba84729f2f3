//! Reads what the processes of a run have written about themselves.

use std::path::{Path, PathBuf};

use super::file;
use super::load::{Picture, Span};
use super::observe::unix_now;
use super::record::{Record, State};
use super::tree::History;
use crate::machine;

/// Seconds over which the present speed of nodes is taken.
const RECENT_S: f64 = 5.0;

/// Without a record for this long, a process is looked after.
const SILENT_S: f64 = 10.0;

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The path is something else.
    #[error("`{}` {found}: expected the folder of a run, such as runs/quickstart-20261122-214501{hint}", path.display())]
    NoRun {
        /// As given.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What could be done with it.
        hint: String,
    },
    /// The run has no records.
    #[error("`{}` has no live-*.jsonl: the run has not begun yet, or was made by an older omar-flow", path.display())]
    NoRecords {
        /// The folder.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What the processes of a run do now; of one that has ended, what they did.
///
/// # Errors
/// When there is no such run, or it cannot be read.
pub(crate) fn now(run: &Path) -> Result<Picture, ReadError> {
    let here = machine::hostname();
    let mut spans = Vec::new();
    for path in files(run)? {
        let mut records = file::newest(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        let Some(mut now) = records.pop() else { continue };
        look_after(&mut now, &here, unix_now());
        // Of what is over, the whole is of interest.
        let recent = |record: &&Record| now.elapsed_s - record.elapsed_s >= RECENT_S;
        let before = records.iter().rev().find(recent).filter(|_| now.state.goes_on()).cloned();
        spans.push(Span { before, now });
    }
    picture(run, spans)
}

/// What the processes of a run have done from their beginning.
///
/// # Errors
/// When there is no such run, or it cannot be read.
pub(crate) fn whole(run: &Path) -> Result<(Picture, History), ReadError> {
    let here = machine::hostname();
    let mut history = History::default();
    let mut spans = Vec::new();
    for path in files(run)? {
        let records = file::all(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
        history.add(&records);
        let Some(mut now) = records.into_iter().next_back() else { continue };
        look_after(&mut now, &here, unix_now());
        spans.push(Span { before: None, now });
    }
    Ok((picture(run, spans)?, history))
}

fn picture(run: &Path, mut spans: Vec<Span>) -> Result<Picture, ReadError> {
    // A run that was continued with fewer processes has files of those that are no more.
    let newest = spans.iter().map(|span| span.now.started).fold(f64::MIN, f64::max);
    let processes = spans.iter().filter(|span| span.now.started == newest).map(|span| span.now.processes).max();
    spans.retain(|span| processes.is_some_and(|processes| span.now.process < processes));
    if spans.is_empty() {
        return Err(ReadError::NoRecords { path: run.to_owned() });
    }
    Ok(Picture::of(spans))
}

fn files(run: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let no_run = |found, hint: &str| {
        let hint = hint.replace("PATH", &run.display().to_string());
        Err(ReadError::NoRun { path: run.to_owned(), found, hint })
    };
    if run.is_file() {
        let yaml = run.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        let hint = if yaml { "; `omar-flow plan PATH` tells what a graph would do" } else { "" };
        return no_run("is a file", hint);
    }
    if !run.is_dir() {
        return no_run("does not exist", "");
    }
    let files = file::files(run).map_err(|source| ReadError::Io { path: run.to_owned(), source })?;
    if files.is_empty() && !run.join("manifest.json").is_file() {
        return no_run("is not the folder of a run", "; `omar-flow cache ls PATH` lists the caches in a folder");
    }
    Ok(files)
}

/// Finds out whether a process that should be there is, seen from machine `here` at `now`.
fn look_after(record: &mut Record, here: &str, now: f64) {
    if !record.state.goes_on() {
        return;
    }
    let gone = record.host == here && machine::is_alive(record.pid) == Some(false);
    let silent = now - record.time;
    if gone || silent > SILENT_S {
        let (host, pid, seconds) = (&record.host, record.pid, silent.max(0.0));
        let why = if gone { "is gone" } else { "has not been heard of" };
        record.error = Some(format!("process {pid} on {host} {why} for {seconds:.0} s"));
        if gone || silent > 6.0 * SILENT_S {
            record.state = State::Lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::tests::record;
    use super::*;

    #[test]
    fn what_is_no_run_is_explained() {
        let folder = tempfile::tempdir().expect("folder");
        let graph = folder.path().join("g.yaml");
        std::fs::write(&graph, "omar: 1").expect("written");
        let error = |path: &Path| now(path).expect_err("no run").to_string();
        assert!(error(&graph).contains("is a file: expected the folder of a run"), "{}", error(&graph));
        assert!(error(&graph).ends_with(&format!("`omar-flow plan {}` tells what a graph would do", graph.display())));
        assert!(error(&folder.path().join("x")).contains("does not exist"));
        assert!(error(folder.path()).contains("omar-flow cache ls"));
        std::fs::write(folder.path().join("manifest.json"), "{}").expect("written");
        assert!(error(folder.path()).contains("has no live-*.jsonl"));
    }

    #[test]
    fn processes_of_an_earlier_part_are_left_out() {
        let folder = tempfile::tempdir().expect("folder");
        for (process, processes, started) in [(0, 1, 9.0), (1, 2, 1.0)] {
            let mut file = file::LiveFile::open(folder.path(), process).expect("opens");
            for (second, state) in [(1.0, State::Running), (8.0, State::Complete)] {
                let record = Record { started, processes, state, ..record(process, second, [0.0, 0.5, 0.9]) };
                file.append(&record).expect("written");
            }
        }
        let picture = now(folder.path()).expect("a run");
        assert_eq!((picture.processes.len(), picture.state()), (1, State::Complete));
        assert_eq!(whole(folder.path()).expect("a run").0.nodes[1].record.counts.rows_out, 80);
    }

    #[test]
    fn a_process_that_is_gone_is_found_out() {
        let mut there = Record { host: "here".to_owned(), pid: std::process::id(), time: 100.0, ..Record::default() };
        look_after(&mut there, "here", 101.0);
        assert_eq!((there.state, there.error.as_deref()), (State::Running, None));
        look_after(&mut there, "elsewhere", 115.0);
        assert!(there.error.as_deref().is_some_and(|error| error.contains("not been heard of for 15 s")), "{there:?}");
        assert_eq!(there.state, State::Running);
        let mut gone = Record { pid: u32::MAX, ..there };
        look_after(&mut gone, "here", 101.0);
        assert_eq!(gone.state, State::Lost);
        let mut done = Record { state: State::Complete, pid: u32::MAX, host: "here".to_owned(), ..Record::default() };
        look_after(&mut done, "here", 1e9);
        assert_eq!(done.state, State::Complete);
    }
}
