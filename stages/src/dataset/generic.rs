//! Anyone's data: a table of recordings, and labels in it, in another table, or in a file for each recording.

mod labels;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use omar_schemas::Split;

use self::labels::{checked, label_file, label_table};
use super::audio::{composed, without_extension};
use super::error::{DatasetError, Problem, ProblemKind};
use super::functions::FUNCTIONS;
use super::kinds::{Format, Sections, Task};
use super::lab::function_of_interval;
use super::open::Reading;
use super::params::DatasetParams;
use super::table::{self, Cells, Columns};
use super::track::{Label, Track};
use super::{magnatagatune, text};

/// The path.
pub(super) fn key(name: &str) -> Option<String> {
    Some(composed(name.strip_prefix("./").unwrap_or(name)))
}

/// The columns of the table of recordings.
const COLUMNS: Columns<'_> = Columns { required: &["path"], optional: &["id", "split", "group", "label", "labels"] };

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    let annotations = params.annotations();
    let mut files = vec![annotations.clone()];
    let mut problems = Vec::new();
    let labels = params.labels.as_ref().map(PathBuf::from);
    if let Some(table) = labels.as_ref().filter(|path| !path.is_dir()) {
        files.push(table.clone());
        return Ok(files);
    }
    table::read(&annotations, COLUMNS, &mut problems, &mut |_, cells| {
        let row = Row::parse(cells);
        files.extend(row.file(params, &annotations).filter(|path| path.is_file()));
    })?;
    Ok(files)
}

/// A recording, as the table has it.
struct Row {
    path: String,
    id: Option<String>,
    split: Option<String>,
    group: Option<String>,
    label: Vec<String>,
    labels: Option<String>,
}

impl Row {
    fn parse(cells: Cells<'_>) -> Self {
        let text = |cell: usize| cells[cell].first().cloned();
        Self {
            path: text(0).unwrap_or_default(),
            id: text(1),
            split: text(2),
            group: text(3),
            label: cells[4].clone(),
            labels: text(5),
        }
    }

    fn id(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.path)
    }

    /// Its label file, if labels are in files.
    fn file(&self, params: &DatasetParams, annotations: &Path) -> Option<PathBuf> {
        let folder = params.labels.as_ref().map(PathBuf::from).filter(|path| path.is_dir());
        match (&self.labels, folder) {
            (Some(file), Some(folder)) => Some(folder.join(file)),
            (Some(file), None) => Some(annotations.parent().unwrap_or(Path::new("")).join(file)),
            (None, Some(folder)) => Some(self.file_in(&folder, params)),
            (None, None) => None,
        }
    }

    /// The file that is named like the recording.
    fn file_in(&self, folder: &Path, params: &DatasetParams) -> PathBuf {
        let extensions: &[&str] = match params.format {
            Some(Format::Csv) => &["csv", "tsv"],
            Some(Format::Lab) => &["lab", "txt"],
            Some(Format::Beats) => &["beats", "txt"],
            None => &["lab", "beats", "csv", "tsv", "txt"],
        };
        let stems = [self.id(), without_extension(&self.path)];
        let places =
            stems.iter().flat_map(|stem| extensions.iter().map(move |extension| format!("{stem}.{extension}")));
        let mut places = places.map(|name| folder.join(name));
        let first = folder.join(format!("{}.{}", stems[1], extensions[0]));
        places.find(|path| path.is_file()).unwrap_or(first)
    }
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let annotations = params.annotations();
    let mut rows = Vec::new();
    table::read(&annotations, COLUMNS, &mut reading.problems, &mut |line, cells| rows.push((line, Row::parse(cells))))?;
    let mut table = match params.labels.as_ref().map(PathBuf::from) {
        Some(path) if !path.is_dir() => Some((label_table(params, &path, reading)?, path)),
        _ => None,
    };
    for (line, row) in rows {
        if row.path.is_empty() {
            let message = "expected the path of a recording, found nothing; the row is left out";
            reading.problem(ProblemKind::MalformedLine, &annotations, line, message);
            continue;
        }
        let split = row.split.as_ref().and_then(|split| Split::parse(split));
        if let (Some(found), None) = (&row.split, split) {
            let message = format!("expected split train, valid or test, found `{found}`; it counts as none");
            reading.problem(ProblemKind::MalformedLine, &annotations, line, message);
        }
        let mut sources = vec![annotations.clone()];
        let mut labels = Vec::new();
        if let Some((table, path)) = &mut table {
            labels = [row.id(), row.path.as_str()].iter().find_map(|name| table.remove(*name)).unwrap_or_default();
            text::check_intervals(path, &mut labels, &mut reading.problems);
            sources.push(path.clone());
        } else if let Some(path) = row.file(params, &annotations) {
            labels = if path.is_file() { label_file(params, &path, &mut reading.problems)? } else { labels };
            sources.push(path);
        } else {
            for value in &row.label {
                labels.extend(checked(params, &annotations, Label::whole(value, line), &mut reading.problems));
            }
        }
        let source = sources.last().cloned().unwrap_or_default();
        finish(params, &source, &mut labels, &mut reading.problems);
        let present = Path::new(&params.audio).join(&row.path).is_file();
        let id = row.id().to_owned();
        let key = composed(&row.path);
        let (group, audio) = (row.group, row.path);
        reading.push(key, Track { labels, split, group, present, ..Track::new(id, audio, sources) });
    }
    if let Some((table, path)) = table {
        let mut unknown: Vec<_> = table.into_iter().collect();
        unknown.sort_by_key(|(_, labels)| labels.first().map(|label| label.line));
        for (name, labels) in unknown {
            let message = format!("expected a recording of `{}`, found `{name}`", annotations.display());
            reading.problem(ProblemKind::UnknownTrack, &path, labels.first().map(|label| label.line), message);
        }
    }
    classes(params, reading)
}

/// What is said about one recording, under the names of the task.
fn finish(params: &DatasetParams, path: &Path, labels: &mut Vec<Label>, problems: &mut Vec<Problem>) {
    if params.task == Task::Structure && params.sections.unwrap_or_default() == Sections::Functions {
        for label in labels.iter_mut().filter(|label| label.end.is_some()) {
            label.value = function_of_interval(&label.value);
        }
    }
    if matches!(params.task, Task::Pitch | Task::Difficulty) && labels.len() > 1 {
        let message = format!("expected one {}, found {}; the first counts", params.task.as_str(), labels.len());
        problems.push(Problem::new(ProblemKind::Conflict, path, labels[1].line, message));
        labels.truncate(1);
    }
}

/// The values that labels can have.
fn classes(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let named = |reading: &Reading| {
        let labels = reading.entries.iter().flat_map(|entry| &entry.track.labels);
        labels.map(|label| label.value.clone()).collect::<BTreeSet<_>>()
    };
    reading.classes = match (params.task, params.sections.unwrap_or_default()) {
        (Task::Tagging, _) => Some(match &params.tags {
            None => named(reading).into_iter().collect(),
            Some(path) => {
                let tags = magnatagatune::read_tags(Path::new(path))?;
                let known: BTreeSet<&String> = tags.iter().collect();
                for entry in &mut reading.entries {
                    entry.track.labels.retain(|label| known.contains(&label.value));
                }
                tags
            }
        }),
        (Task::Pitch, _) => Some((0..128).map(|pitch| pitch.to_string()).collect()),
        (Task::Difficulty, _) => {
            let top = named(reading).iter().filter_map(|grade| grade.parse::<u32>().ok()).max();
            top.map(|top| (0..=top).map(|grade| grade.to_string()).collect())
        }
        (Task::Structure, Sections::Functions) => Some(FUNCTIONS.map(str::to_owned).to_vec()),
        (Task::Structure, Sections::Raw) => Some(named(reading).into_iter().filter(|name| name != "end").collect()),
        (Task::Chords | Task::Beats, _) => None,
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Layout;
    use super::super::sample::Folder;
    use super::super::{Dataset, leaks};
    use super::*;

    fn folder(files: &[(&str, &str)]) -> Folder {
        let audio = [("audio/a.wav", ""), ("audio/sub/b.c.flac", ""), ("audio/extra.wav", "")];
        let files: Vec<(&str, &[u8])> =
            files.iter().chain(&audio).map(|&(name, text)| (name, text.as_bytes())).collect();
        Folder::new(&files)
    }

    fn open(folder: &Folder, task: Task, change: impl FnOnce(&mut DatasetParams)) -> Dataset {
        let mut params = folder.params(Layout::Generic, task, "t.csv");
        change(&mut params);
        params.files().expect("files").iter().for_each(|path| assert!(path.is_file(), "{}", path.display()));
        params.open().expect("a data set")
    }

    fn problems(folder: &Folder, dataset: &Dataset) -> Vec<String> {
        dataset.problems.iter().map(|problem| folder.shorten(problem)).collect()
    }

    const TRACKS: &str = "id,path,split,group\nx,a.wav,train,s\ny,sub/b.c.flac,test,s\nz,c.wav,later,\n,,train,\n";

    #[test]
    fn labels_are_in_one_table() {
        let labels = "path,task,start,end,label\na.wav,beats,0.5,,1\na.wav,chords,0,1,C:maj\na.wav,beats,0.25,,\n\
            sub/b.c.flac,beats,1,2,x\nsub/b.c.flac,beats,x,,1\nsub/b.c.flac,beats,,,1\nq.wav,beats,1,,1\n,beats,1,,1\n";
        let folder = folder(&[("t.csv", TRACKS), ("l.csv", labels)]);
        let table = folder.text("l.csv");
        let dataset = open(&folder, Task::Beats, |params| params.labels = Some(table));
        assert_eq!(dataset.tracks[0].labels, [Label::at(0.25, "", 4), Label::at(0.5, "1", 2)]);
        assert_eq!(leaks(&dataset.tracks).len(), 1);
        let expected = [
            "`l.csv`, line 5: expected a time, and a position in the bar from 1 or nothing, found `x` from 1 to 2; it is \
             left out",
            "`l.csv`, line 6: `start`: expected seconds, found `x`; the row is left out",
            "`l.csv`, line 7: expected a time, and a position in the bar from 1 or nothing, found `1` from nothing to \
             nothing; it is left out",
            "`l.csv`, line 9: expected `path` or `id` of a recording, found neither; the row is left out",
            "`l.csv`, line 4: expected a time from 0.5 on, found 0.25; the labels are sorted",
            "`t.csv`, line 4: expected split train, valid or test, found `later`; it counts as none",
            "`t.csv`, line 5: expected the path of a recording, found nothing; the row is left out",
            "`l.csv`, line 8: expected a recording of `t.csv`, found `q.wav`",
            "`audio/c.wav`: expected the recording of `z` here (any audio extension), found none",
            "`t.csv`: `z` is in no split; hint: `draw` gives one to tracks that no list names",
            "`l.csv`: expected beats of `y`, found none",
            "`l.csv`: expected beats of `z`, found none",
        ];
        assert_eq!(problems(&folder, &dataset), expected);
    }

    #[test]
    fn labels_are_in_files_of_named_formats() {
        let folder = folder(&[
            ("t.csv", "path\tsplit\tlabels\na.wav\ttrain\tl/one.txt\nsub/b.c.flac\ttrain\t\n"),
            ("l/one.txt", "0 1 intro\n1 2 end\n2 3 my solo\n"),
            ("f/sub/b.c.csv", "start,end,label\n0,2,verse\n1,3,chorus\n3,,end\n"),
            ("f/l/one.txt", "0 1 outro\n"),
        ]);
        let dataset = open(&folder, Task::Structure, |params| params.format = Some(Format::Lab));
        let expected = [
            Label::between(0.0, 1.0, "intro", 1),
            Label::between(1.0, 2.0, "silence", 2),
            Label::between(2.0, 3.0, "inst", 3),
        ];
        assert_eq!(dataset.tracks[0].labels, expected);
        assert_eq!(problems(&folder, &dataset), ["`t.csv`: expected structure of `sub/b.c.flac`, found none"]);
        let files = folder.text("f");
        let dataset = open(&folder, Task::Structure, |params| {
            (params.labels, params.sections) = (Some(files), Some(Sections::Raw));
        });
        assert_eq!(dataset.tracks[0].labels, [Label::between(0.0, 1.0, "outro", 1)]);
        assert_eq!(dataset.tracks[1].labels[2], Label::at(3.0, "end", 4));
        assert_eq!(dataset.classes.as_deref(), Some(["chorus", "outro", "verse"].map(str::to_owned).as_slice()));
        assert_eq!(problems(&folder, &dataset), ["`f/sub/b.c.csv`, line 3: starts at 1, before line 2 ends at 2"]);
    }

    #[test]
    fn labels_of_whole_recordings_stand_beside_them() {
        let folder = folder(&[("t.csv", ""), ("tags.txt", "slow\nfast\n")]);
        let lines = [
            r#"{"path": "a.wav", "split": "train", "label": ["fast", "loud", "slow"]}"#,
            r#"{"path": "sub/b.c.flac", "split": "test", "label": "slow"}"#,
        ];
        folder.write("t.jsonl", lines.join("\n").as_bytes());
        let mut params = folder.params(Layout::Generic, Task::Tagging, "t.jsonl");
        let dataset = params.open().expect("a data set");
        assert_eq!(dataset.classes.as_deref(), Some(["fast", "loud", "slow"].map(str::to_owned).as_slice()));
        params.tags = Some(folder.text("tags.txt"));
        let dataset = params.open().expect("a data set");
        assert_eq!(dataset.classes.as_deref(), Some(["slow", "fast"].map(str::to_owned).as_slice()));
        assert_eq!(dataset.tracks[0].labels, [Label::whole("fast", 1), Label::whole("slow", 1)]);
        folder.write("t.csv", b"path,split,label\r\na.wav,train,60\r\nsub/b.c.flac,test,128\r\n");
        let dataset = open(&folder, Task::Pitch, |_| {});
        assert_eq!(dataset.tracks[0].labels, [Label::whole("60", 2)]);
        assert_eq!(
            problems(&folder, &dataset)[0],
            "`t.csv`, line 3: expected a MIDI pitch from 0 to 127 of the whole recording, found `128` from nothing to \
             nothing; it is left out"
        );
        let dataset = open(&folder, Task::Difficulty, |_| {});
        assert_eq!(dataset.classes.map(|classes| classes.len()), Some(129));
    }

    #[test]
    fn recordings_with_other_names_are_found_by_a_table() {
        let folder = folder(&[
            ("t.csv", "id,path,split,label\nx,one.wav,train,1\ny,two.wav,train,2\n"),
            ("n.csv", "id,audio\nx,a.wav\ntwo.wav,sub/b.c.flac\nq,a.wav\nx,\n"),
        ]);
        let names = folder.text("n.csv");
        let dataset = open(&folder, Task::Difficulty, |params| params.names = Some(names));
        assert_eq!(dataset.coverage.usable, 2);
        let expected = [
            "`n.csv`, line 4: expected the name of a track, found `q`",
            "`n.csv`, line 5: expected where the recording of `x` is, found nothing",
        ];
        assert_eq!(problems(&folder, &dataset), expected);
    }
}
