//! PianoSyllabus: 7,901 piano pieces with grades from 0 to 10, in five splits.
//!
//! `{"0": {"train": {"Composer I.Title": grade}, "val": ..., "test": ...}, "1": ...}`; the splits are drawn anew, not
//! folds. Recordings are named like the pieces; accents are compared in composed form (NFC).
//!
//! Ramoneda et al., arXiv 2403.03947.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use omar_schemas::Split;

use super::audio::{composed, stem};
use super::error::{DatasetError, ProblemKind};
use super::folds::Fold;
use super::json;
use super::open::Reading;
use super::params::DatasetParams;
use super::track::{Label, Track};

/// Grades 0 to 10.
const GRADES: u32 = 11;

/// The piece.
pub(super) fn key(name: &str) -> Option<String> {
    Some(stem(name))
}

/// One statement of the file.
struct Entry {
    line: u64,
    fold: String,
    split: String,
    piece: String,
    grade: i64,
}

/// How many splits a file has; they are numbered from 0.
pub(super) fn folds(path: &Path) -> Result<u32, DatasetError> {
    let mut folds = BTreeSet::new();
    json::entries(path, 3, &mut |keys, _: i64, _| folds.extend(keys.first().cloned()))?;
    Ok((0..).take_while(|fold: &u32| folds.contains(&fold.to_string())).count() as u32)
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let path = params.annotations();
    if path.is_dir() {
        return Err(DatasetError::file(&path, None, "expected a file such as `split_audio.json`, found a folder"));
    }
    let fold = params.fold.map_or(0, Fold::number).to_string();
    let mut entries = Vec::new();
    json::entries(&path, 3, &mut |keys, grade: i64, line| {
        let [fold, split, piece] = keys else { return };
        entries.push(Entry { line, fold: fold.clone(), split: split.clone(), piece: composed(piece), grade });
    })?;
    let folds: BTreeSet<&str> = entries.iter().map(|entry| entry.fold.as_str()).collect();
    if !folds.contains(fold.as_str()) {
        let folds = folds.into_iter().collect::<Vec<_>>().join("`, `");
        return Err(DatasetError::param("fold", format!("expected one of `{folds}`, found {fold}")));
    }
    reading.classes = Some((0..GRADES).map(|grade| grade.to_string()).collect());
    // The chosen split is read first, so that tracks stand in its order; the others may add pieces.
    entries.sort_by_key(|entry| entry.fold != fold);
    let mut known: HashMap<String, (usize, i64)> = HashMap::new();
    for Entry { line, fold: of, split, piece, grade } in entries {
        let chosen = of == fold;
        let split = match split.as_str() {
            "train" => Split::Train,
            "val" | "valid" | "validation" => Split::Valid,
            "test" => Split::Test,
            other => {
                let message = format!("expected train, val or test, found `{other}`; `{piece}` is left out");
                reading.problem(ProblemKind::MalformedLine, &path, line, message);
                continue;
            }
        };
        if !(0..i64::from(GRADES)).contains(&grade) {
            let message = format!("expected a grade from 0 to {}, found {grade}; `{piece}` is left out", GRADES - 1);
            reading.problem(ProblemKind::MalformedLine, &path, line, message);
            continue;
        }
        if let Some(&(index, first)) = known.get(&piece) {
            let before = reading.entries[index].track.split;
            let at = reading.entries[index].track.labels[0].line;
            let conflict = if first != grade {
                format!("`{piece}` has the grade {grade}, but {first} in line {at}, which counts")
            } else if chosen && before.is_some_and(|before| before != split) {
                format!("`{piece}` is in split `{}` too, but first in line {at}, which counts", split.as_str())
            } else if chosen {
                format!("`{piece}` is in line {at} already, which counts")
            } else {
                continue;
            };
            reading.problem(ProblemKind::Conflict, &path, line, conflict);
            continue;
        }
        known.insert(piece.clone(), (reading.entries.len(), grade));
        let labels = vec![Label::whole(grade.to_string(), line)];
        let split = chosen.then_some(split);
        let track = Track { labels, split, ..Track::new(piece.clone(), format!("{piece}.mp3"), vec![path.clone()]) };
        reading.push(piece, track);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{Layout, Task};
    use super::super::sample::Folder;
    use super::*;

    const SPLITS: &str = r#"{
 "0": {"train": {"Alt H.Op. 3": 1,
                 "Faure\u0301 G.Apr\u00e8s": 10},
       "val": {"C.mp3 piece": 0, "D": 12},
       "test": {"Alt H.Op. 3": 1}},
 "1": {"train": {"C.mp3 piece": 3}, "hidden": {"E": 1}, "test": {"Alt H.Op. 3": 1, "F": 2}}}"#;

    #[test]
    fn grades_come_with_the_chosen_split() {
        let folder = Folder::new(&[
            ("s.json", SPLITS.as_bytes()),
            ("audio/Alt H.Op. 3.wav", b""),
            ("audio/Faur\u{e9} G.Apre\u{300}s.mp3", b""),
            ("audio/C.mp3 piece.mp3", b""),
        ]);
        let mut params = folder.params(Layout::Pianosyllabus, Task::Difficulty, "s.json");
        let dataset = params.open().expect("a data set");
        let found: Vec<_> = dataset
            .tracks
            .iter()
            .map(|track| (track.id.as_str(), track.split, track.present, track.labels[0].value.as_str()))
            .collect();
        let expected = [
            ("Alt H.Op. 3", Some(Split::Train), true, "1"),
            ("Faur\u{e9} G.Apr\u{e8}s", Some(Split::Train), true, "10"),
            ("C.mp3 piece", Some(Split::Valid), true, "0"),
            ("F", None, false, "2"),
        ];
        assert_eq!(found, expected);
        assert_eq!(dataset.tracks[1].labels, [Label::whole("10", 3)]);
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        let expected = [
            "`s.json`, line 4: expected a grade from 0 to 10, found 12; `D` is left out",
            "`s.json`, line 5: `Alt H.Op. 3` is in split `test` too, but first in line 2, which counts",
            "`s.json`, line 6: `C.mp3 piece` has the grade 3, but 0 in line 4, which counts",
            "`s.json`, line 6: expected train, val or test, found `hidden`; `E` is left out",
            "`audio/F.mp3`: expected the recording of `F` here (any audio extension), found none",
            "`s.json`: `F` is in no split; hint: `draw` gives one to tracks that no list names",
        ];
        assert_eq!(problems, expected);
        params.fold = Some(Fold::One(1));
        assert_eq!(params.open().expect("a data set").tracks[0].labels[0].value, "3");
        params.fold = Some(Fold::One(5));
        assert_eq!(params.open().expect_err("no such split").to_string(), "`fold`: expected one of `0`, `1`, found 5");
    }

    #[test]
    fn what_is_no_split_file_is_refused() {
        let folder = Folder::new(&[("s.json", b"{\"0\": {\"train\": [\"a\"]}}")]);
        let mut params = folder.params(Layout::Pianosyllabus, Task::Difficulty, "s.json");
        let error = folder.shorten(params.open().expect_err("a list"));
        assert!(error.starts_with("`s.json`, line 1: ") && error.contains("expected an object"), "{error}");
        params.annotations = Some(folder.text("audio"));
        assert!(params.open().expect_err("a folder").to_string().contains("found a folder"));
    }
}
