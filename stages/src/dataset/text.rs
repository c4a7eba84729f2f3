//! Label files of one track: one statement per line, columns separated by tabs or spaces.
//!
//! Shared by all formats: a byte order mark, `#` comments, blank lines, CR LF and scientific notation are fine.

use std::path::Path;

use super::error::{DatasetError, Problem, ProblemKind};
use super::track::Label;

/// Intervals may overlap by as much as times were rounded, in seconds.
const ROUNDING: f64 = 1e-3;

/// The chord that stands for "not known".
pub(super) const UNKNOWN_CHORD: &str = "X";

/// The text of a file. Bytes that are no UTF-8 are a problem of their line and become U+FFFD.
pub(super) fn read(path: &Path, problems: &mut Vec<Problem>) -> Result<String, DatasetError> {
    let mut bytes = std::fs::read(path).map_err(|error| DatasetError::io(path, &error))?;
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    String::from_utf8(bytes).or_else(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let message = "expected UTF-8, found other bytes; hint: convert the file, for example with iconv";
        problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
        Ok(String::from_utf8_lossy(error.as_bytes()).into_owned())
    })
}

/// The lines that say something, trimmed, with their numbers from 1.
pub(super) fn rows(text: &str) -> impl Iterator<Item = (u64, &str)> {
    (1..)
        .zip(text.lines())
        .map(|(line, row)| (line, row.trim()))
        .filter(|(_, row)| !row.is_empty() && !row.starts_with('#'))
}

/// The first column and the rest, both trimmed.
fn column(row: &str) -> (&str, &str) {
    let (first, rest) = row.split_once(char::is_whitespace).unwrap_or((row, ""));
    (first, rest.trim_start())
}

/// A finite number of seconds.
pub(super) fn seconds(text: &str) -> Option<f64> {
    text.parse().ok().filter(|time: &f64| time.is_finite())
}

/// Beats: a time, and optionally the position in the bar and the number of the bar.
///
/// A beat whose position cannot be read stays, with an empty one.
pub(super) fn beats(path: &Path, problems: &mut Vec<Problem>) -> Result<Vec<Label>, DatasetError> {
    let text = read(path, problems)?;
    let mut labels = Vec::new();
    for (line, row) in rows(&text) {
        let mut report = |message: String| problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
        let columns: Vec<&str> = row.split_whitespace().collect();
        let Some(time) = seconds(columns[0]) else {
            report(format!("expected the time of a beat in seconds, found `{}`; the line is left out", columns[0]));
            continue;
        };
        if columns.len() > 3 {
            report(format!("expected a time, a position and a bar, found {} columns: `{row}`", columns.len()));
        }
        let position = match columns.get(1) {
            None => "",
            Some(position) if position.parse::<u32>().is_ok_and(|position| position > 0) => position,
            Some(position) => {
                report(format!("expected a position in the bar from 1, found `{position}`; it counts as not known"));
                ""
            }
        };
        labels.push(Label::at(time, position, line));
    }
    sort(path, &mut labels, problems);
    Ok(labels)
}

/// Boundaries: a time and the name of the section that starts there.
pub(super) fn boundaries(path: &Path, problems: &mut Vec<Problem>) -> Result<Vec<Label>, DatasetError> {
    let text = read(path, problems)?;
    let mut labels = Vec::new();
    for (line, row) in rows(&text) {
        match column(row) {
            (time, name) if seconds(time).is_some() && !name.is_empty() => {
                labels.push(Label { start: seconds(time), ..Label::whole(name, line) });
            }
            _ => {
                let message = format!("expected a time in seconds and a label, found `{row}`; the line is left out");
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            }
        }
    }
    sort(path, &mut labels, problems);
    Ok(labels)
}

/// Intervals: start, end, and a label that may hold spaces; columns between may be empty.
///
/// `unknown` is the label of intervals that can be placed in time although their line is malformed: those without a
/// label, and those whose numbers follow an `X` (as in a copy of the McGill Billboard). Without it they are left out.
pub(super) fn intervals(
    path: &Path,
    unknown: Option<&str>,
    problems: &mut Vec<Problem>,
) -> Result<Vec<Label>, DatasetError> {
    let text = read(path, problems)?;
    let mut labels = Vec::new();
    for (line, row) in rows(&text) {
        let (start, rest) = column(row);
        let (end, value) = column(rest);
        let marked = |text: &str| seconds(text).or_else(|| unknown.and(text.strip_prefix('X')).and_then(seconds));
        let malformed = seconds(start).is_none() || seconds(end).is_none() || value.is_empty();
        match (marked(start), marked(end), unknown) {
            (Some(start), Some(end), _) if !malformed => labels.push(Label::between(start, end, value, line)),
            (Some(start), Some(end), Some(unknown)) => {
                let message = format!("expected start, end and a label, found `{row}`; it counts as `{unknown}`");
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
                labels.push(Label::between(start, end, unknown, line));
            }
            _ => {
                let message = format!("expected start, end and a label, found `{row}`; the line is left out");
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            }
        }
    }
    check_intervals(path, &mut labels, problems);
    Ok(labels)
}

/// Leaves out intervals that cover nothing, sorts the rest and names those that overlap. Gaps are fine: nothing is said
/// about that time.
pub(super) fn check_intervals(path: &Path, labels: &mut Vec<Label>, problems: &mut Vec<Problem>) {
    labels.retain(|label| {
        let (Some(start), Some(end)) = (label.start, label.end) else { return true };
        if start >= end {
            let message = format!("expected an end after the start, found {start} to {end}; the line is left out");
            problems.push(Problem::new(ProblemKind::EmptyInterval, path, label.line, message));
        }
        start < end
    });
    sort(path, labels, problems);
    for pair in labels.windows(2) {
        let (Some(end), Some(start)) = (pair[0].end, pair[1].start) else { continue };
        if start < end - ROUNDING {
            let message = format!("starts at {start}, before line {} ends at {end}", pair[0].line);
            problems.push(Problem::new(ProblemKind::Overlap, path, pair[1].line, message));
        }
    }
}

/// Sorts by start, and names the lines that go back in time.
pub(super) fn sort(path: &Path, labels: &mut [Label], problems: &mut Vec<Problem>) {
    let mut sorted = true;
    for pair in labels.windows(2) {
        if let (Some(before), Some(after)) = (pair[0].start, pair[1].start)
            && after < before
        {
            sorted = false;
            let message = format!("expected a time from {before} on, found {after}; the labels are sorted");
            problems.push(Problem::new(ProblemKind::Order, path, pair[1].line, message));
        }
    }
    if !sorted {
        labels.sort_by(|a, b| a.start.unwrap_or(0.0).total_cmp(&b.start.unwrap_or(0.0)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Folder;
    use super::*;

    type Parser = dyn Fn(&Path, &mut Vec<Problem>) -> Result<Vec<Label>, DatasetError>;

    fn parse(content: impl AsRef<[u8]>, parser: &Parser) -> (Vec<Label>, Vec<String>) {
        let folder = Folder::new(&[("f.txt", content.as_ref())]);
        let mut problems = Vec::new();
        let labels = parser(&folder.path("f.txt"), &mut problems).expect("a file");
        (labels, problems.iter().map(|problem| folder.shorten(problem)).collect())
    }

    #[test]
    fn beats_have_one_two_or_three_columns() {
        let content = "\u{feff}# time pos bar\r\n0.0\t1\t1\r\n\r\n13.249  2\n1.4e1 3\n14.5\n\n";
        let (labels, problems) = parse(content, &beats);
        let expected =
            [Label::at(0.0, "1", 2), Label::at(13.249, "2", 4), Label::at(14.0, "3", 5), Label::at(14.5, "", 6)];
        assert_eq!((labels.as_slice(), problems), (expected.as_slice(), Vec::new()));
    }

    #[test]
    fn what_is_wrong_with_beats_is_named() {
        let (labels, problems) = parse("1 1\nx 2\n0.5 0\nnan 1\n2 1 1 7\n", &beats);
        assert_eq!(labels, [Label::at(0.5, "", 3), Label::at(1.0, "1", 1), Label::at(2.0, "1", 5)]);
        let expected = [
            "`f.txt`, line 2: expected the time of a beat in seconds, found `x`; the line is left out",
            "`f.txt`, line 3: expected a position in the bar from 1, found `0`; it counts as not known",
            "`f.txt`, line 4: expected the time of a beat in seconds, found `nan`; the line is left out",
            "`f.txt`, line 5: expected a time, a position and a bar, found 4 columns: `2 1 1 7`",
            "`f.txt`, line 3: expected a time from 1 on, found 0.5; the labels are sorted",
        ];
        assert_eq!(problems, expected);
    }

    #[test]
    fn intervals_are_separated_by_anything_and_labels_hold_spaces() {
        let content = "0.000000 0.497838 N\n0.5\t1e0\tE:min/5\n2.0\t3.0\t\tverse (a) b\n\n";
        let (labels, problems) = parse(content, &|path, problems| intervals(path, None, problems));
        let expected = [
            Label::between(0.0, 0.497838, "N", 1),
            Label::between(0.5, 1.0, "E:min/5", 2),
            Label::between(2.0, 3.0, "verse (a) b", 3),
        ];
        assert_eq!((labels.as_slice(), problems), (expected.as_slice(), Vec::new()));
    }

    #[test]
    fn chords_on_malformed_lines_count_as_unknown() {
        let content = "0\tX7.3e-1\tN\nX7.3e-1\t2\tA:min\n2\t3\n3\t3\tC\n4\t3.5\tC\n4\t5\tC:maj_XXX\n4.5\t6\tG\nfoo\n";
        let (labels, problems) = parse(content, &|path, problems| intervals(path, Some("X"), problems));
        let expected = [
            Label::between(0.0, 0.73, "X", 1),
            Label::between(0.73, 2.0, "X", 2),
            Label::between(2.0, 3.0, "X", 3),
            Label::between(4.0, 5.0, "C:maj_XXX", 6),
            Label::between(4.5, 6.0, "G", 7),
        ];
        assert_eq!(labels, expected);
        let expected = [
            "`f.txt`, line 1: expected start, end and a label, found `0\tX7.3e-1\tN`; it counts as `X`",
            "`f.txt`, line 2: expected start, end and a label, found `X7.3e-1\t2\tA:min`; it counts as `X`",
            "`f.txt`, line 3: expected start, end and a label, found `2\t3`; it counts as `X`",
            "`f.txt`, line 8: expected start, end and a label, found `foo`; the line is left out",
            "`f.txt`, line 4: expected an end after the start, found 3 to 3; the line is left out",
            "`f.txt`, line 5: expected an end after the start, found 4 to 3.5; the line is left out",
            "`f.txt`, line 7: starts at 4.5, before line 6 ends at 5",
        ];
        assert_eq!(problems, expected);
        let (labels, _) = parse(content, &|path, problems| intervals(path, None, problems));
        assert_eq!(labels.len(), 2);
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_their_line() {
        let (labels, problems) = parse(b"0 intro\n1 caf\xe9\n", &boundaries);
        assert_eq!(labels.len(), 2);
        assert!(problems[0].starts_with("`f.txt`, line 2: expected UTF-8"), "{problems:?}");
    }

    #[test]
    fn whatever_a_file_holds_every_line_is_a_label_or_named() {
        let mut random = crate::seed::Random::new(5, &[]);
        let words = ["0", "1.5", "-2", "1e3", "X7", "nan", "\t", " ", "\n", "\n", "C:maj", "#", "\u{a0}", "\r\n", "é"];
        for _ in 0..500 {
            let count = random.below(40);
            let content: String = (0..count).map(|_| words[random.below(words.len() as u64) as usize]).collect();
            let parsers: [&Parser; 4] =
                [&beats, &boundaries, &|p, q| intervals(p, None, q), &|p, q| intervals(p, Some("X"), q)];
            for parser in parsers {
                let (labels, problems) = parse(&content, parser);
                let left_out = problems.iter().filter(|problem| problem.ends_with("the line is left out")).count();
                assert_eq!(labels.len() + left_out, rows(&content).count(), "{content:?}");
                assert!(labels.is_sorted_by_key(|label| label.start));
            }
        }
    }
}
