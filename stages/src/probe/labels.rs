//! Lists of labels: `path,task,start,end,label`, one row per statement about a recording.
//!
//! `path` names the recording as its manifest does (or its id there); `start` and `end` are seconds, empty where a label
//! holds for the whole recording, `end` empty where something happens at an instant.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProbeError;
use crate::score::chord::{Chord, majmin_class};

/// Classes of major and minor triads on twelve roots, and of no chord.
const CHORDS: usize = 25;

/// How labels become classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// A label with neither start nor end is the class of the recording.
    Recording,
    /// A label is the class of the frames between its start and its end.
    Intervals,
    /// As `intervals`, with chords in Harte's syntax (`A:min7/b3`) as 25 classes: major and minor of twelve roots, and
    /// `N`. Others (`mir_eval`'s rule for `majmin`) are left out.
    Chords,
    /// A frame is positive when its interval holds the start of a label: beats, onsets.
    Events,
}

/// One statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// In seconds; `None` for the whole recording.
    pub start: Option<f64>,
    /// In seconds.
    pub end: Option<f64>,
    /// As written.
    pub label: String,
}

/// Statements of one task by recording.
pub type Labels = BTreeMap<String, Vec<Label>>;

/// Reads the statements about `tasks`, by task. Those of other tasks are skipped.
///
/// # Errors
/// When the list cannot be read, lacks a column, says nothing about a task, or a statement is malformed.
pub fn read(path: &Path, tasks: &BTreeMap<String, TaskKind>) -> Result<BTreeMap<String, Labels>, ProbeError> {
    let error = |line, message: String| ProbeError::Labels { path: path.to_owned(), line, message };
    let mut reader = csv::Reader::from_path(path).map_err(|e| error(None, e.to_string()))?;
    let header = reader.headers().map_err(|e| error(Some(1), e.to_string()))?.clone();
    let column = |name: &str| {
        let found = header.iter().position(|column| column == name);
        found.ok_or_else(|| {
            let columns = header.iter().collect::<Vec<_>>().join(", ");
            error(Some(1), format!("expected the columns path, task, start, end, label; found {columns}"))
        })
    };
    let [of_path, of_task, of_start, of_end, of_label] =
        [column("path")?, column("task")?, column("start")?, column("end")?, column("label")?];
    let mut found: BTreeMap<String, Labels> = BTreeMap::new();
    for record in reader.records() {
        let record = record.map_err(|e| error(e.position().map(csv::Position::line), e.to_string()))?;
        let line = record.position().map(csv::Position::line);
        let (task, label) = (&record[of_task], record[of_label].to_owned());
        let Some(kind) = tasks.get(task) else { continue };
        let time = |column: usize, name: &str| match record[column].trim() {
            "" => Ok(None),
            text => match text.parse::<f64>() {
                Ok(time) if time.is_finite() => Ok(Some(time)),
                _ => Err(error(line, format!("`{name}`: expected seconds, found `{text}`"))),
            },
        };
        let label = Label { start: time(of_start, "start")?, end: time(of_end, "end")?, label };
        check(*kind, &label).map_err(|message| error(line, message))?;
        found.entry(task.to_owned()).or_default().entry(record[of_path].to_owned()).or_default().push(label);
    }
    if let Some(task) = tasks.keys().find(|task| !found.contains_key(*task)) {
        return Err(error(None, format!("has no label of task `{task}`")));
    }
    Ok(found)
}

/// Whether a statement is of the kind that its task asks for.
fn check(kind: TaskKind, label: &Label) -> Result<(), String> {
    match (kind, label.start, label.end) {
        (TaskKind::Recording, None, None) | (TaskKind::Events, Some(_), _) => Ok(()),
        (TaskKind::Recording, ..) => {
            Err("expected no `start` and no `end`: the task is of whole recordings".to_owned())
        }
        (TaskKind::Events, None, _) => Err("expected the time of an event as `start`, found none".to_owned()),
        (_, Some(start), Some(end)) if start <= end => match kind {
            TaskKind::Chords => chord(&label.label).map(|_| ()),
            _ => Ok(()),
        },
        (_, start, end) => {
            let time = |time: Option<f64>| time.map_or("nothing".to_owned(), |time| format!("{time}"));
            Err(format!("expected an interval, found {} to {}", time(start), time(end)))
        }
    }
}

/// The class of a chord: 0..12 major from C, 12..24 minor from C, 24 none; `None` where it is neither.
///
/// # Errors
/// When it is no chord in Harte's syntax.
pub fn chord(label: &str) -> Result<Option<u32>, String> {
    let chord = Chord::parse(label).map_err(|error| error.to_string())?;
    Ok(majmin_class(&chord).map(|class| class as u32))
}

/// The classes of a task: names in the order of their numbers.
pub fn classes(kind: TaskKind, labels: &Labels) -> Vec<String> {
    match kind {
        TaskKind::Events => vec!["no event".to_owned(), "event".to_owned()],
        TaskKind::Chords => (0..CHORDS).map(|class| format!("chord {class}")).collect(),
        _ => {
            let names: BTreeSet<&String> = labels.values().flatten().map(|label| &label.label).collect();
            names.into_iter().cloned().collect()
        }
    }
}

/// The class of every frame `[k / rate, (k + 1) / rate)` of a recording, `None` where no label holds. An interval holds
/// for the frames whose middle is in it.
///
/// # Errors
/// When a chord is none.
pub fn frames(
    kind: TaskKind,
    labels: &[Label],
    classes: &[String],
    count: usize,
    rate: f64,
) -> Result<Vec<Option<u32>>, String> {
    let class = |label: &str| match kind {
        TaskKind::Chords => chord(label),
        _ => Ok(classes.binary_search_by(|name| name.as_str().cmp(label)).ok().map(|class| class as u32)),
    };
    let mut found = vec![None; count];
    match kind {
        TaskKind::Recording => {
            if let Some(label) = labels.first() {
                found.fill(class(&label.label)?);
            }
        }
        TaskKind::Events => {
            let times: Vec<f64> = labels.iter().filter_map(|label| label.start).collect();
            found.fill(Some(0));
            for time in times {
                // Rounding of a time that was written with few decimals must not move it to the frame before.
                let frame = (time * rate + 1e-3).floor();
                if frame >= 0.0 && (frame as usize) < count {
                    found[frame as usize] = Some(1);
                }
            }
        }
        TaskKind::Intervals | TaskKind::Chords => {
            for label in labels {
                let (Some(start), Some(end)) = (label.start, label.end) else { continue };
                let frame = |time: f64| (time * rate - 0.5).ceil().clamp(0.0, count as f64) as usize;
                let class = class(&label.label)?;
                found[frame(start)..frame(end)].fill(class);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str, task: &str, kind: TaskKind) -> Result<BTreeMap<String, Labels>, ProbeError> {
        let file = tempfile::Builder::new().suffix(".csv").tempfile().expect("a temporary file");
        std::fs::write(file.path(), text).expect("it is written");
        read(file.path(), &BTreeMap::from([(task.to_owned(), kind)]))
    }

    #[test]
    fn chords_are_their_triads() {
        for (label, class) in [
            ("C:maj", Some(0)),
            ("C", Some(0)),
            ("F#:7", Some(6)),
            ("Cb:maj7/3", Some(11)),
            ("A:min7", Some(21)),
            ("Bb:min(9)", Some(22)),
            ("N", Some(24)),
            ("X", None),
            ("D:sus4(b7)", None),
        ] {
            assert_eq!(chord(label), Ok(class), "{label}");
        }
        assert!(chord("H:maj").is_err_and(|message| message.starts_with("expected a chord such as")));
        assert!(chord("C:majestic").is_err());
    }

    #[test]
    fn intervals_hold_for_the_frames_whose_middle_they_cover() {
        let label = |start, end, name: &str| Label { start: Some(start), end: Some(end), label: name.to_owned() };
        let labels = [label(0.0, 0.25, "C:maj"), label(0.25, 0.5, "A:min"), label(0.5, 0.6, "X")];
        let found = frames(TaskKind::Chords, &labels, &[], 8, 10.0).expect("they are chords");
        assert_eq!(found, [Some(0), Some(0), Some(21), Some(21), Some(21), None, None, None]);
    }

    #[test]
    fn an_event_is_in_one_frame() {
        let label = |start| Label { start: Some(start), end: None, label: "1".to_owned() };
        let labels = [label(0.0), label(0.3), label(0.49), label(9.0)];
        let found = frames(TaskKind::Events, &labels, &[], 6, 10.0).expect("events");
        assert_eq!(found, [1, 0, 0, 1, 1, 0].map(Some));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let head = "path,task,start,end,label\n";
        for (rows, kind, message) in [
            ("a.wav,t,0,x,C\n", TaskKind::Chords, "line 2: `end`: expected seconds, found `x`"),
            ("a.wav,t,2,1,C\n", TaskKind::Chords, "line 2: expected an interval, found 2 to 1"),
            (
                "a.wav,t,,,C\na.wav,t,,,1\n",
                TaskKind::Events,
                "line 2: expected the time of an event as `start`, found none",
            ),
            ("a.wav,t,0,1,C\na.wav,t,1,2,Q\n", TaskKind::Chords, "line 3: expected a chord such as"),
            ("a.wav,u,,,C\n", TaskKind::Recording, ": has no label of task `t`"),
        ] {
            let error = list(&format!("{head}{rows}"), "t", kind).expect_err("it is malformed").to_string();
            assert!(error.contains(message), "{error}");
        }
        let error = list("path,label\n", "t", TaskKind::Recording).expect_err("columns lack").to_string();
        assert!(
            error.ends_with("line 1: expected the columns path, task, start, end, label; found path, label"),
            "{error}"
        );
    }

    #[test]
    fn other_tasks_are_skipped_and_classes_are_sorted() {
        let text = "path,task,start,end,label\na,t,,,reed\nb,t,,,bass\na,other,1,2,\n";
        let found = list(text, "t", TaskKind::Recording).expect("it is well formed");
        assert_eq!(classes(TaskKind::Recording, &found["t"]), ["bass", "reed"]);
        assert_eq!(found.len(), 1);
    }
}
