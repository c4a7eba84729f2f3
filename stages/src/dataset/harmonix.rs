//! Harmonix Set: beats, downbeats and sections of 912 pop songs.
//!
//! `beats_and_downbeats/0001_12step.txt` holds time, position in the bar and bar (tabs); `segments/0001_12step.txt` holds
//! a time and the section that starts there (a space). Names differ between copies of the set, their four digits do
//! not. Also reads the corrected beats of beat_this (`0001_12step.beats`).
//!
//! Oriol Nieto et al., "The Harmonix Set: beats, downbeats, and functional segment annotations of western popular
//! music", ISMIR 2019.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::audio::{slashed, stem};
use super::error::{DatasetError, Problem, ProblemKind};
use super::functions::{END, FUNCTIONS, function};
use super::kinds::{Sections, Task};
use super::open::Reading;
use super::params::DatasetParams;
use super::table::{self, Columns};
use super::track::{Label, Track};
use super::{find, text};

/// Durations, for annotations that do not say where their last section ends.
const METADATA: &str = "metadata.csv";

/// The four digits.
pub(super) fn key(name: &str) -> Option<String> {
    let stem = stem(name);
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    let ends = matches!(stem.as_bytes().get(digits), None | Some(b'_' | b'-' | b' ' | b'.'));
    (digits == 4 && ends).then(|| stem[..4].to_owned())
}

fn label_files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    let annotations = params.annotations();
    let (folders, patterns, such_as): (&[&str], &[&str], _) = match params.task {
        Task::Structure => (&["segments"], &["*.txt"], "`segments/0001_12step.txt`"),
        _ => (&["beats_and_downbeats", "beats"], &["*.txt", "*.beats"], "`beats_and_downbeats/0001_12step.txt`"),
    };
    find::files(&find::subfolder(&annotations, folders), patterns, such_as, |path| key(&slashed(path)).is_some())
}

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    let mut files = label_files(params)?;
    let metadata = params.annotations().join(METADATA);
    if params.task == Task::Structure && metadata.is_file() {
        files.push(metadata);
    }
    Ok(files)
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let structure = params.task == Task::Structure;
    let sections = params.sections.unwrap_or_default();
    if structure && sections == Sections::Functions {
        reading.classes = Some(FUNCTIONS.map(str::to_owned).to_vec());
    }
    let durations = if structure { durations(params, reading)? } else { HashMap::new() };
    for path in label_files(params)? {
        let id = stem(&slashed(&path));
        let Some(key) = key(&id) else { continue };
        let labels = if structure {
            let boundaries = text::boundaries(&path, &mut reading.problems)?;
            self::sections(&path, boundaries, durations.get(&key).copied(), sections, &mut reading.problems)
        } else {
            text::beats(&path, &mut reading.problems)?
        };
        let audio = format!("{id}.mp3");
        reading.push(key, Track { labels, ..Track::new(id, audio, vec![path]) });
    }
    Ok(())
}

/// Duration in seconds by the four digits, where there is a table of them.
fn durations(params: &DatasetParams, reading: &mut Reading) -> Result<HashMap<String, f64>, DatasetError> {
    let path = params.annotations().join(METADATA);
    let mut durations = HashMap::new();
    if path.is_file() {
        let columns = Columns { required: &["File", "Duration"], optional: &[] };
        table::read(&path, columns, &mut reading.problems, &mut |_, cells| {
            if let (Some(key), Some(duration)) = (key(&cells[0].join("")), text::seconds(&cells[1].join(""))) {
                durations.insert(key, duration);
            }
        })?;
    }
    Ok(durations)
}

/// Sections from boundaries: each lasts until the next, the last until `duration` unless it is called `end`.
///
/// The closing `end` stays, as an instant: it is a boundary too. An `end` that is followed by more is a silence.
pub(super) fn sections(
    path: &Path,
    boundaries: Vec<Label>,
    duration: Option<f64>,
    sections: Sections,
    problems: &mut Vec<Problem>,
) -> Vec<Label> {
    let count = boundaries.len();
    let ends: Vec<Option<f64>> = boundaries.iter().skip(1).map(|next| next.start).chain([None]).collect();
    let mut labels = Vec::with_capacity(count);
    for (index, (boundary, end)) in boundaries.into_iter().zip(ends).enumerate() {
        let last = index + 1 == count;
        let closing = last && boundary.value == END;
        let end = if last && !closing {
            duration.filter(|&end| boundary.start.is_some_and(|start| start < end))
        } else {
            end
        };
        if last && !closing && end.is_none() {
            let message = format!(
                "expected `{END}` as the last label, found `{}`, whose end is not known; it counts as a boundary only",
                boundary.value
            );
            problems.push(Problem::new(ProblemKind::MalformedLine, path, boundary.line, message));
        }
        let value = match sections {
            Sections::Functions if !last && boundary.value == END => "silence".to_owned(),
            Sections::Functions => function(&boundary.value).to_owned(),
            Sections::Raw => boundary.value,
        };
        labels.push(Label { end, value, ..boundary });
    }
    super::text::check_intervals(path, &mut labels, problems);
    labels
}

#[cfg(test)]
mod tests {
    use omar_schemas::Split;

    use super::super::folds::Fold;
    use super::super::kinds::{Draw, Layout};
    use super::super::sample::Folder;
    use super::*;

    const SPLITS: &str = "0001_12step\ttrain\n0045_cantgetyou\tval\n0999_other\ttrain\n0001_x\ttest\n0045_y\tval\nz\n";

    fn folder() -> Folder {
        Folder::new(&[
            ("hx/beats_and_downbeats/0001_12step.txt", b"0.0\t1\t1\n0.5\t2\t1\n1.0\t1\t2\n"),
            ("hx/beats_and_downbeats/0045_cantgetyouout.txt", b"0.25\t14\t1\n"),
            ("hx/beats_and_downbeats/notes.txt", b"hello"),
            ("hx/segments/0001_12step.txt", b"0.5 intro\n8.5 verse2\n9.0 end\n10.0 big solo\n12.0 end\n"),
            ("hx/segments/0045_cantgetyouout.txt", b"0.0 prechorus\n20.0 outro\n"),
            ("hx/segments/0050_open.txt", b"0.0 chorus\n"),
            ("hx/metadata.csv", b"File,Title,Duration\n0045_a,\"b, c\",31.5\n0050_open,x,\n"),
            ("audio/pop/0001_other name.FLAC", b""),
            ("audio/0045_cantgetyou.mp3", b""),
            ("audio/0045_cantgetyou.wav", b""),
            ("audio/0777_nothing.wav", b""),
            ("audio/cover.wav", b""),
            ("splits/single.split", SPLITS.as_bytes()),
            ("splits/8-folds.split", b"0001_12step\t0\n0045_cantgetyou\t2\n0002_a\t1\n"),
        ])
    }

    fn drawn(mut params: DatasetParams) -> DatasetParams {
        params.draw = Some(Draw { valid: 0.5, test: 0.5, seed: 1 });
        params
    }

    #[test]
    fn beats_are_joined_on_four_digits() {
        let folder = folder();
        let params = drawn(folder.params(Layout::Harmonix, Task::Beats, "hx"));
        let dataset = params.open().expect("a data set");
        let first = &dataset.tracks[0];
        assert_eq!((first.id.as_str(), first.audio.as_str()), ("0001_12step", "pop/0001_other name.FLAC"));
        assert_eq!(first.labels, [Label::at(0.0, "1", 1), Label::at(0.5, "2", 2), Label::at(1.0, "1", 3)]);
        assert_eq!(dataset.tracks[1].audio, "0045_cantgetyou.mp3");
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        assert_eq!(
            problems,
            [
                "`audio/0045_cantgetyou.mp3`: `0045_cantgetyouout` has several recordings: this one counts, not \
                 `0045_cantgetyou.wav`",
                &format!("`audio/0777_nothing.wav`: nothing is said about this recording in `{}`", folder.text("hx"))
                    .replace(&folder.text(""), ""),
            ]
        );
        assert_eq!((dataset.coverage.usable, dataset.coverage.labels), (2, 4));
        let files: Vec<_> = params.files().expect("files").iter().map(|path| folder.shorten(path.display())).collect();
        assert_eq!(files, ["hx/beats_and_downbeats/0001_12step.txt", "hx/beats_and_downbeats/0045_cantgetyouout.txt"]);
    }

    #[test]
    fn sections_last_until_the_next() {
        let folder = folder();
        let mut params = drawn(folder.params(Layout::Harmonix, Task::Structure, "hx"));
        let dataset = params.open().expect("a data set");
        let expected = [
            Label::between(0.5, 8.5, "intro", 1),
            Label::between(8.5, 9.0, "verse", 2),
            Label::between(9.0, 10.0, "silence", 3),
            Label::between(10.0, 12.0, "inst", 4),
            Label::at(12.0, "end", 5),
        ];
        assert_eq!(dataset.tracks[0].labels, expected);
        let expected = [Label::between(0.0, 20.0, "verse", 1), Label::between(20.0, 31.5, "outro", 2)];
        assert_eq!(dataset.tracks[1].labels, expected);
        assert_eq!(dataset.tracks[2].labels, [Label::at(0.0, "chorus", 1)]);
        assert_eq!(dataset.classes.as_deref().map(<[_]>::len), Some(7));
        assert_eq!(
            folder.shorten(&dataset.problems[0]),
            "`hx/segments/0050_open.txt`, line 1: expected `end` as the last label, found `chorus`, whose end is not \
             known; it counts as a boundary only"
        );
        params.sections = Some(Sections::Raw);
        let dataset = params.open().expect("a data set");
        let names: Vec<_> = dataset.tracks[0].labels.iter().map(|label| label.value.as_str()).collect();
        assert_eq!(names, ["intro", "verse2", "end", "big solo", "end"]);
        assert_eq!(dataset.classes, None);
        assert_eq!(params.files().expect("files").len(), 4);
    }

    #[test]
    fn lists_give_splits_and_folds() {
        let folder = folder();
        let mut params = folder.params(Layout::Harmonix, Task::Beats, "hx");
        let splits = |params: &DatasetParams| {
            let dataset = params.open().expect("a data set");
            let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
            (dataset.tracks.iter().map(|track| track.split).collect::<Vec<_>>(), problems)
        };
        params.splits = Some(folder.text("splits/single.split"));
        let (found, problems) = splits(&params);
        assert_eq!(found, [Some(Split::Train), Some(Split::Valid)]);
        for expected in [
            "`splits/single.split`, line 3: expected the name of a track, found `0999_other`",
            "`splits/single.split`, line 4: `0001_x` is in split `test`, but in `train` by `splits/single.split`, line \
             1, which counts",
            "`splits/single.split`, line 6: expected a name and its split or fold, found `z`; the line is left out",
        ] {
            assert!(problems.iter().any(|problem| problem == expected), "{expected}: {problems:#?}");
        }
        params.splits = Some(folder.text("splits/8-folds.split"));
        params.fold = Some(Fold::One(2));
        assert_eq!(splits(&params).0, [Some(Split::Valid), Some(Split::Test)]);
        params.fold = Some(Fold::One(3));
        assert!(params.open().expect_err("no such fold").to_string().contains("one of the 3 folds"));
        params.fold = None;
        assert!(
            params.open().expect_err("which fold").to_string().starts_with("`fold`: expected which of the 3 folds")
        );
    }

    #[test]
    fn tracks_in_no_list_are_named_or_drawn() {
        let folder = folder();
        folder.write("three/train.txt", b"0001_12step\n");
        folder.write("three/validation.txt", b"");
        let mut params = folder.params(Layout::Harmonix, Task::Beats, "hx");
        params.splits = Some(folder.text("three"));
        let dataset = params.open().expect("a data set");
        assert_eq!(dataset.coverage.splits.none, 1);
        assert_eq!(dataset.coverage.problems[&ProblemKind::NoSplit], 1);
        assert_eq!(params.files().expect("files").len(), 4);
        params.draw = Some(Draw { valid: 0.0, test: 1.0, seed: 0 });
        let dataset = params.open().expect("a data set");
        assert_eq!(dataset.tracks[1].split, Some(Split::Test));
        params.splits = Some(folder.text("hx"));
        let error = folder.shorten(params.open().expect_err("no lists"));
        assert!(error.contains("expected files such as `train.txt`, `valid.txt` and `test.txt`"), "{error}");
    }

    #[test]
    fn offsets_move_labels() {
        let folder = folder();
        folder.write("o.csv", b"id,offset,stretch\n0001_x,-0.5,2\n0045,1,\n0045,2,1\n0999,1,1\n0001,x,1\n");
        let mut params = drawn(folder.params(Layout::Harmonix, Task::Beats, "hx"));
        params.offsets = Some(folder.text("o.csv"));
        let dataset = params.open().expect("a data set");
        assert_eq!(dataset.tracks[0].labels, [Label::at(0.5, "2", 2), Label::at(1.5, "1", 3)]);
        assert_eq!(dataset.tracks[1].labels, [Label::at(1.25, "14", 1)]);
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        for expected in [
            "`o.csv`, line 4: `0045` has an offset above, which counts",
            "`o.csv`, line 5: expected the name of a track, found `0999`",
            "`o.csv`, line 6: expected an offset in seconds and a stretch above 0, found `x` and `1`; the row is left \
             out",
            "`hx/beats_and_downbeats/0001_12step.txt`, line 1: 1 labels of `0001_12step` start before its recording; \
             they are cut off",
        ] {
            assert!(problems.iter().any(|problem| problem == expected), "{expected}: {problems:#?}");
        }
    }

    #[test]
    fn strict_stops_at_the_first_problem() {
        let folder = folder();
        let mut params = drawn(folder.params(Layout::Harmonix, Task::Beats, "hx"));
        params.strict = true;
        let error = folder.shorten(params.open().expect_err("it is strict"));
        assert!(error.ends_with("not `0045_cantgetyou.wav` (and 1 more problem)"), "{error}");
        assert!(params.read().is_ok());
    }

    #[test]
    fn wrong_paths_say_what_was_looked_for() {
        let folder = folder();
        let mut params = drawn(folder.params(Layout::Harmonix, Task::Beats, "splits"));
        let error = folder.shorten(params.open().expect_err("no annotations"));
        assert!(
            error.ends_with("expected files such as `beats_and_downbeats/0001_12step.txt`, found 2 .split"),
            "{error}"
        );
        params.annotations = Some(folder.text("nowhere"));
        assert_eq!(folder.shorten(params.open().expect_err("nowhere")), "`nowhere`: does not exist");
        params.annotations = Some(folder.text("hx"));
        params.audio = folder.text("splits");
        let error = folder.shorten(params.open().expect_err("no audio"));
        assert!(error.contains("expected files such as `0001_12step.mp3` with any audio extension"), "{error}");
        params.audio = folder.text("silent");
        assert_eq!(folder.shorten(params.open().expect_err("no folder")), "`silent`: does not exist");
    }
}
