//! The folder of a run: what was asked for, what was done, and what came out.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::codebooks;
use crate::corpus::Corpus;
use crate::exec::RunError;
use crate::explain;
use crate::files::{WriteError, write_text};
use crate::plan::Plan;
use crate::report;
use crate::summary::Summary;

/// See the module.
///
/// | file | holds |
/// |---|---|
/// | `graph.yaml` | the graph as given |
/// | `included.yaml` | the files that it includes, one after the other, each under its name |
/// | `plan.json` | the nodes with all defaults filled in, and their fingerprints |
/// | `manifest.json` | versions, seed, corpus, machine, start, end, how it ended |
/// | `summary.json` | what every node did |
/// | `report.html`, `curves.svg` | all of it for people: [`crate::report`] |
/// | `codebooks.parquet`, `codebooks.svg` | how the codes of all tokens are used: [`omar_schemas::Codebooks`] |
/// | `live-0.jsonl`, `watchdog-0.log` | what process 0 does, second by second, and when nothing moved: [`crate::live`] |
/// | `quarantine/` | recordings that could not be used |
/// | `<node>/` | checkpoints, metrics and event files of a node |
#[derive(Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    manifest: serde_json::Value,
}

impl RunFolder {
    /// Creates or reopens a folder and notes what is about to be done.
    pub(crate) fn create(path: &Path, plan: &Plan, corpus: &Corpus) -> Result<Self, RunError> {
        let mut manifest = json!({
            "omar_flow": env!("CARGO_PKG_VERSION"),
            "graph": plan.name,
            "seed": plan.seed,
            "tracks": corpus.tracks(),
            "shards": corpus.shards.len(),
            "corpus": corpus.hash(),
            "command": std::env::args().collect::<Vec<_>>(),
            "threads": plan.resources.thread_count(),
            "device": plan.resources.device,
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "cpu": cpu(),
            "processors": std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            "started": unix_seconds(),
        });
        // A run that goes on remembers when it began.
        if let Some(first) = first_started(path) {
            manifest["first_started"] = json!(first);
        }
        let folder = Self { path: path.to_owned(), manifest };
        folder.write("graph.yaml", &plan.given)?;
        if !plan.included.is_empty() {
            let commented = |(name, text): &(String, String)| format!("# ---- {name}\n{text}\n");
            folder.write("included.yaml", &plan.included.iter().map(commented).collect::<String>())?;
        }
        folder.write("plan.json", &pretty(&explain::json(plan, &|_| None)))?;
        folder.write("manifest.json", &pretty(&folder.manifest))?;
        Ok(folder)
    }

    pub(crate) fn node(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }

    pub(crate) fn quarantine(&self) -> PathBuf {
        self.path.join("quarantine")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes how it ended.
    pub(crate) fn finish(&self, outcome: Result<&Summary, &RunError>) -> Result<(), RunError> {
        let mut manifest = self.manifest.clone();
        manifest["ended"] = json!(unix_seconds());
        manifest["outcome"] = match outcome {
            Ok(summary) if summary.interrupted => json!("interrupted"),
            Ok(_) => json!("complete"),
            Err(error) => json!(format!("failed: {error}")),
        };
        if let Ok(summary) = outcome {
            self.write("summary.json", &pretty(&json!(summary)))?;
            let written = codebooks::write(&self.path, &summary.name, &summary.codebooks);
            written.map_err(|error| RunError::Failed(error.to_string()))?;
        }
        self.write("manifest.json", &pretty(&manifest))?;
        // The results are there; a page that cannot be made must not turn a run into a failed one.
        if let Err(error) = report::write(&self.path) {
            eprintln!("note: no report: {error}");
        }
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), RunError> {
        write_text(&self.path.join(name), text).map_err(|error: WriteError| RunError::Failed(error.to_string()))
    }
}

/// When the run in this folder was started for the first time, if it was.
fn first_started(path: &Path) -> Option<u64> {
    let before: serde_json::Value = serde_json::from_slice(&std::fs::read(path.join("manifest.json")).ok()?).ok()?;
    before["first_started"].as_u64().or(before["started"].as_u64())
}

/// What the processor is called, where the system says so.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, name) = text.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim().to_owned())
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A fresh name below `runs`: the graph's name and the time, e.g. `quickstart-20261122-214501`.
pub(crate) fn fresh(runs: &Path, name: &str) -> PathBuf {
    let (date, time) = civil(unix_seconds());
    let base = format!("{name}-{date}-{time}");
    let candidates = std::iter::once(base.clone()).chain((2..).map(|n| format!("{base}-{n}")));
    candidates.map(|name| runs.join(name)).find(|path| !path.exists()).expect("one of infinitely many is free")
}

/// Date and time of day in UTC (days to civil: H. Hinnant, chrono-compatible low-level date algorithms).
fn civil(unix: u64) -> (String, String) {
    let (days, second) = ((unix / 86_400) as i64 + 719_468, unix % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (format!("{year:04}{month:02}{day:02}"), format!("{:02}{:02}{:02}", second / 3600, second / 60 % 60, second % 60))
}

#[cfg(test)]
mod tests {
    use super::civil;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), ("19700101".to_owned(), "000000".to_owned()));
        assert_eq!(civil(1_709_210_096), ("20240229".to_owned(), "123456".to_owned()));
        assert_eq!(civil(1_795_383_901), ("20261122".to_owned(), "214501".to_owned()));
    }
}
