//! Recordings whose annotations are shown beside the answers, with what is wrong in them.

use serde::Serialize;

use crate::probe::task::{Annotated, Statement, TaskKind};
use crate::score::beat;
use crate::score::chord::{Chord, majmin_class};

/// Recordings that are shown.
pub(super) const SHOWN: usize = 4;
/// Seconds around a beat within which an answer counts.
const TOLERANCE: f64 = 0.07;

/// A test recording: what was annotated and what was answered.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    recording: String,
    end_s: f64,
    annotated: Vec<Span>,
    answered: Vec<Span>,
    /// Where answers are not what is annotated, in seconds, for tasks of intervals.
    wrong: Vec<(f64, f64)>,
}

/// A statement.
#[derive(Debug, Serialize)]
struct Span {
    start_s: Option<f64>,
    end_s: Option<f64>,
    label: String,
    /// Of an instant, whether the other side has it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    right: Option<bool>,
}

impl From<&Statement> for Span {
    fn from(row: &Statement) -> Self {
        Self { start_s: row.start_s, end_s: row.end_s, label: row.label.clone(), right: None }
    }
}

impl Shown {
    pub(super) fn new(task: TaskKind, recording: &Annotated, answers: &[Statement]) -> Self {
        let spans = |rows: &[Statement]| rows.iter().map(Span::from).collect::<Vec<_>>();
        let (mut annotated, mut answered) = (spans(&recording.labels), spans(answers));
        if task == TaskKind::Beats {
            mark(&mut annotated, &mut answered);
        }
        let wrong = match task {
            TaskKind::Chords => wrong(&recording.labels, answers, |label| {
                Chord::parse(label).ok().and_then(|chord| majmin_class(&chord)).map(|class| class.to_string())
            }),
            TaskKind::Structure => wrong(&recording.labels, answers, |label| Some(label.to_owned())),
            _ => Vec::new(),
        };
        Self { recording: recording.name.clone(), end_s: recording.end, annotated, answered, wrong }
    }

    /// The name of the recording.
    pub(super) fn recording(&self) -> &str {
        &self.recording
    }
}

/// Marks instants that the other side has too, and those that it has not.
fn mark(annotated: &mut [Span], answered: &mut [Span]) {
    let times = |spans: &[Span]| spans.iter().filter_map(|span| span.start_s).collect::<Vec<_>>();
    let pairs = beat::matches(&times(annotated), &times(answered), TOLERANCE);
    let timed = |spans: &mut [Span], place: fn(&(usize, usize)) -> usize| {
        let mut right = vec![false; spans.len()];
        pairs.iter().for_each(|pair| right[place(pair)] = true);
        spans
            .iter_mut()
            .filter(|span| span.start_s.is_some())
            .zip(right)
            .for_each(|(span, right)| span.right = Some(right));
    };
    timed(annotated, |pair| pair.0);
    timed(answered, |pair| pair.1);
}

/// Where both sides say something and mean different things; what has no meaning is neither right nor wrong.
fn wrong(annotated: &[Statement], answered: &[Statement], meaning: impl Fn(&str) -> Option<String>) -> Vec<(f64, f64)> {
    let intervals = |rows: &[Statement]| {
        let interval = |row: &Statement| Some((row.start_s?, row.end_s?, meaning(&row.label)));
        rows.iter().filter_map(interval).collect::<Vec<_>>()
    };
    let (annotated, answered) = (intervals(annotated), intervals(answered));
    let mut times: Vec<f64> = annotated.iter().chain(&answered).flat_map(|interval| [interval.0, interval.1]).collect();
    times.sort_by(f64::total_cmp);
    times.dedup();
    let at = |side: &[(f64, f64, Option<String>)], time: f64| {
        side.iter().find(|interval| interval.0 <= time && time < interval.1).and_then(|interval| interval.2.clone())
    };
    let mut spans: Vec<(f64, f64)> = Vec::new();
    for pair in times.windows(2) {
        let middle = f64::midpoint(pair[0], pair[1]);
        let (Some(truth), Some(answer)) = (at(&annotated, middle), at(&answered, middle)) else { continue };
        match spans.last_mut() {
            _ if truth == answer => {}
            Some(last) if last.1 >= pair[0] => last.1 = pair[1],
            _ => spans.push((pair[0], pair[1])),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(labels: Vec<Statement>) -> Annotated {
        let (name, times) = ("a.wav".to_owned(), vec![0.0]);
        Annotated { name, training: false, times, end: 10.0, rate: 25.0, labels }
    }

    #[test]
    fn chords_are_wrong_where_they_mean_something_else() {
        let labels = vec![
            Statement::between(0.0, 2.0, "C:maj7"),
            Statement::between(2.0, 4.0, "D:sus4"),
            Statement::between(4.0, 6.0, "A:min"),
            Statement::between(6.0, 8.0, "N"),
        ];
        let answers = [
            Statement::between(0.0, 3.0, "C:maj"),
            Statement::between(3.0, 5.0, "A:maj"),
            Statement::between(5.0, 10.0, "A:min"),
        ];
        // Nobody says what a suspended chord is; after 8 s nothing is annotated.
        let shown = Shown::new(TaskKind::Chords, &recording(labels), &answers);
        assert_eq!(shown.wrong, [(4.0, 5.0), (6.0, 8.0)]);
    }

    #[test]
    fn beats_that_are_missed_or_too_many_are_marked() {
        let beats = |times: &[f64]| times.iter().map(|time| Statement::at(*time, "")).collect::<Vec<_>>();
        let shown = Shown::new(TaskKind::Beats, &recording(beats(&[1.0, 2.0, 3.0])), &beats(&[1.05, 2.1, 2.96, 4.0]));
        let right = |spans: &[Span]| spans.iter().map(|span| span.right == Some(true)).collect::<Vec<_>>();
        assert_eq!(right(&shown.annotated), [true, false, true]);
        assert_eq!(right(&shown.answered), [true, false, true, false]);
    }
}
