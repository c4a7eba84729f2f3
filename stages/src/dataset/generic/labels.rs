//! What is said about recordings, in a table or in a file for each.

use std::collections::HashMap;
use std::path::Path;

use super::super::error::{DatasetError, Problem, ProblemKind};
use super::super::kinds::{Format, Task};
use super::super::open::Reading;
use super::super::params::DatasetParams;
use super::super::table::{self, Columns};
use super::super::text;
use super::super::track::Label;

/// The columns of a table of labels.
const LABEL_COLUMNS: Columns<'_> = Columns { required: &["label"], optional: &["path", "id", "task", "start", "end"] };

/// Labels of a table by the path or id of their recordings.
pub(super) fn label_table(
    params: &DatasetParams,
    path: &Path,
    reading: &mut Reading,
) -> Result<HashMap<String, Vec<Label>>, DatasetError> {
    let mut labels: HashMap<String, Vec<Label>> = HashMap::new();
    let mut problems = Vec::new();
    table::read(path, LABEL_COLUMNS, &mut reading.problems, &mut |line, cells| {
        let text = |cell: usize| cells[cell].first().map_or("", String::as_str);
        if !text(3).is_empty() && text(3) != params.task.as_str() {
            return;
        }
        let name = if text(2).is_empty() { text(1) } else { text(2) };
        if name.is_empty() {
            let message = "expected `path` or `id` of a recording, found neither; the row is left out";
            return problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
        }
        let of = labels.entry(name.to_owned()).or_default();
        let nothing = [String::new()];
        for value in if cells[0].is_empty() { &nothing } else { cells[0].as_slice() } {
            let label = timed(path, line, [text(4), text(5), value], &mut problems);
            of.extend(label.and_then(|label| checked(params, path, label, &mut problems)));
        }
    })?;
    reading.problems.append(&mut problems);
    Ok(labels)
}

/// A label of a table with times.
fn timed(path: &Path, line: u64, [start, end, value]: [&str; 3], problems: &mut Vec<Problem>) -> Option<Label> {
    let mut time = |text: &str, name: &str| match (text, text::seconds(text)) {
        ("", _) => Some(None),
        (_, Some(time)) => Some(Some(time)),
        _ => {
            let message = format!("`{name}`: expected seconds, found `{text}`; the row is left out");
            problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            None
        }
    };
    let (start, end) = (time(start, "start")?, time(end, "end")?);
    Some(Label { start, end, value: value.to_owned(), line })
}

/// The labels of one recording.
pub(super) fn label_file(
    params: &DatasetParams,
    path: &Path,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Label>, DatasetError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let format = params.format.unwrap_or(match extension {
        "csv" | "tsv" => Format::Csv,
        "beats" => Format::Beats,
        _ if params.task == Task::Beats => Format::Beats,
        _ => Format::Lab,
    });
    let unknown = (params.task == Task::Chords).then_some(text::UNKNOWN_CHORD);
    let labels = match format {
        Format::Lab => text::intervals(path, unknown, problems)?,
        Format::Beats => text::beats(path, problems)?,
        Format::Csv => {
            let columns = Columns { required: &["label"], optional: &["start", "end"] };
            let (mut labels, mut wrong) = (Vec::new(), Vec::new());
            table::read(path, columns, problems, &mut |line, cells| {
                let text = |cell: usize| cells[cell].first().map_or("", String::as_str);
                labels.extend(timed(path, line, [text(1), text(2), text(0)], &mut wrong));
            })?;
            problems.append(&mut wrong);
            text::check_intervals(path, &mut labels, problems);
            labels
        }
    };
    Ok(labels.into_iter().filter_map(|label| checked(params, path, label, problems)).collect())
}

/// Whether a label is of the kind that its task asks for.
pub(super) fn checked(params: &DatasetParams, path: &Path, label: Label, problems: &mut Vec<Problem>) -> Option<Label> {
    let whole = label.start.is_none() && label.end.is_none();
    let value = label.value.as_str();
    let expected = match params.task {
        Task::Tagging if whole && !value.is_empty() => return Some(label),
        Task::Tagging => "a tag of the whole recording",
        Task::Pitch if whole && value.parse::<u32>().is_ok_and(|pitch| pitch < 128) => return Some(label),
        Task::Pitch => "a MIDI pitch from 0 to 127 of the whole recording",
        Task::Difficulty if whole && value.parse::<u32>().is_ok() => return Some(label),
        Task::Difficulty => "a grade from 0 of the whole recording",
        Task::Beats if label.start.is_some() && (value.is_empty() || value.parse::<u32>().is_ok_and(|at| at > 0)) => {
            return Some(Label { end: None, ..label });
        }
        Task::Beats => "a time, and a position in the bar from 1 or nothing",
        Task::Chords if label.start.is_some() && label.end.is_some() && !value.is_empty() => return Some(label),
        Task::Chords => "a chord from start to end",
        Task::Structure if label.start.is_some() && (label.end.is_some() || value == "end") && !value.is_empty() => {
            return Some(label);
        }
        Task::Structure => "a section from start to end",
    };
    let time = |time: Option<f64>| time.map_or("nothing".to_owned(), |time| time.to_string());
    let (start, end) = (time(label.start), time(label.end));
    let message = format!("expected {expected}, found `{value}` from {start} to {end}; it is left out");
    problems.push(Problem::new(ProblemKind::MalformedLine, path, label.line, message));
    None
}
