//! Data sets that are split several times: one of the folds, or all of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;

use omar_schemas::Split;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::{DatasetError, ProblemKind};
use super::kinds::Layout;
use super::params::DatasetParams;
use super::track::{Dataset, Track};
use super::{pianosyllabus, split};

/// Which folds of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    /// Each in turn.
    All,
    /// One, counted from 0.
    One(u32),
}

impl Fold {
    /// The fold that is read where one is: the first of all.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::All => 0,
            Self::One(fold) => fold,
        }
    }
}

impl JsonSchema for Fold {
    fn schema_name() -> Cow<'static, str> {
        "Fold".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The number of a fold, from 0, or `all`.",
            "type": ["integer", "string"],
        })
    }
}

impl Serialize for Fold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::One(fold) => fold.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Fold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl de::Visitor<'_> for Written {
            type Value = Fold;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of a fold, from 0, or `all`")
            }
            fn visit_u64<E: de::Error>(self, fold: u64) -> Result<Fold, E> {
                let fold = u32::try_from(fold);
                fold.map(Fold::One).map_err(|_| E::invalid_value(de::Unexpected::Other("a number beyond any"), &self))
            }
            fn visit_i64<E: de::Error>(self, fold: i64) -> Result<Fold, E> {
                u64::try_from(fold)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(fold), &self))
                    .and_then(|fold| self.visit_u64(fold))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Fold, E> {
                match text.trim() {
                    "all" => Ok(Fold::All),
                    number => {
                        number.parse().map(Fold::One).map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
                    }
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

/// A data set with the splits of all of its folds.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The tracks, each with the first split that it has in any fold.
    pub dataset: Dataset,
    /// By track and fold; a track may have no split in some folds.
    pub splits: Vec<Vec<Option<Split>>>,
}

impl DatasetParams {
    /// How many folds there are, where all are asked for.
    ///
    /// # Errors
    /// When what numbers them cannot be read, or numbers none.
    pub fn folds(&self) -> Result<Option<u32>, DatasetError> {
        if self.fold != Some(Fold::All) {
            return Ok(None);
        }
        let count = match (&self.splits, self.layout) {
            (Some(splits), _) => split::folds(Path::new(splits))?,
            (None, Layout::Pianosyllabus) => pianosyllabus::folds(&self.annotations())?,
            (None, _) => 0,
        };
        match count {
            0 => {
                let place = self.splits.as_deref().or(self.annotations.as_deref()).unwrap_or_default();
                let message = format!("`all` wants folds, numbered from 0, in `{place}`, found none");
                Err(DatasetError::param("fold", message))
            }
            count => Ok(Some(count)),
        }
    }

    /// Reads the data set with the splits of `folds` folds. Where its parameters ask for one split, that is the one of
    /// every fold.
    ///
    /// # Errors
    /// As [`DatasetParams::open`], of any fold.
    pub fn open_folds(&self, folds: u32) -> Result<Folded, DatasetError> {
        if self.fold != Some(Fold::All) {
            let dataset = self.open()?;
            let splits = dataset.tracks.iter().map(|track| vec![track.split; folds as usize]).collect();
            return Ok(Folded { dataset, splits });
        }
        let of_fold = |fold| Self { fold: Some(Fold::One(fold)), ..self.clone() }.open();
        let mut all = of_fold(0)?;
        let mut splits: Vec<Vec<Option<Split>>> = all.tracks.iter().map(|track| vec![track.split]).collect();
        let mut places: HashMap<String, usize> = places(&all.tracks);
        let mut told: HashSet<String> = all.problems.iter().map(ToString::to_string).collect();
        for fold in 1..folds {
            let Dataset { tracks, problems, .. } = of_fold(fold)?;
            for track in tracks {
                let place = *places.entry(track.id.clone()).or_insert(splits.len());
                if place == splits.len() {
                    splits.push(Vec::new());
                    all.tracks.push(Track { split: None, ..track.clone() });
                }
                splits[place].resize(fold as usize, None);
                splits[place].push(track.split);
            }
            splits.iter_mut().for_each(|of_track| of_track.resize(fold as usize + 1, None));
            all.problems.extend(problems.into_iter().filter(|problem| told.insert(problem.to_string())));
        }
        for (track, splits) in all.tracks.iter_mut().zip(&splits) {
            track.split = splits.iter().flatten().next().copied();
        }
        // A track without a split in one fold may have one in another; each is named once, if it has none in any.
        all.problems.retain(|problem| problem.kind != ProblemKind::NoSplit);
        split::name_those_without(self, &all.tracks, &mut all.problems);
        let mut kinds = BTreeMap::new();
        all.problems.iter().for_each(|problem| *kinds.entry(problem.kind).or_default() += 1);
        all.coverage.problems = kinds;
        all.coverage.usable = all.tracks.iter().filter(|track| track.is_usable()).count() as u64;
        Ok(Folded { dataset: all, splits })
    }
}

fn places(tracks: &[Track]) -> HashMap<String, usize> {
    tracks.iter().enumerate().map(|(place, track)| (track.id.clone(), place)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Task;
    use super::super::sample::Folder;
    use super::*;

    #[test]
    fn folds_are_written_as_numbers_or_all() {
        let read = |text: &str| serde_json::from_str::<Fold>(text).map_err(|error| error.to_string());
        assert_eq!((read("3"), read("\"2\""), read("\"all\"")), (Ok(Fold::One(3)), Ok(Fold::One(2)), Ok(Fold::All)));
        assert_eq!(serde_json::to_string(&[Fold::All, Fold::One(1)]).expect("json"), "[\"all\",1]");
        for text in ["-1", "\"some\"", "4294967296"] {
            assert!(read(text).expect_err("no fold").contains("expected the number of a fold, from 0, or `all`"));
        }
    }

    #[test]
    fn every_fold_has_its_splits() {
        let splits = br#"{"0": {"train": {"A": 1, "B": 2}, "val": {"C": 3}, "test": {"D": 4}},
            "1": {"train": {"D": 4, "C": 3}, "val": {"B": 2}, "test": {"A": 1, "E": 5}}}"#;
        let folder = Folder::new(&[("s.json", splits), ("audio/A.mp3", b""), ("audio/E.mp3", b"")]);
        let mut params = folder.params(Layout::Pianosyllabus, Task::Difficulty, "s.json");
        assert_eq!(params.folds().expect("one"), None);
        params.fold = Some(Fold::All);
        assert_eq!(params.folds().expect("two"), Some(2));
        let Folded { dataset, splits } = params.open_folds(2).expect("a data set");
        let (train, valid, test) = (Some(Split::Train), Some(Split::Valid), Some(Split::Test));
        let found: HashMap<&str, &[Option<Split>]> =
            dataset.tracks.iter().map(|track| track.id.as_str()).zip(splits.iter().map(Vec::as_slice)).collect();
        let expected: [(&str, &[Option<Split>]); 5] = [
            ("A", &[train, test]),
            ("B", &[train, valid]),
            ("C", &[valid, train]),
            ("D", &[test, train]),
            ("E", &[None, test]),
        ];
        assert_eq!(found, expected.into());
        assert_eq!(dataset.tracks.iter().find(|track| track.id == "E").expect("it").split, test);
        // E has a split in the second fold, so nothing is wrong with it; three lack audio, each once.
        assert_eq!(dataset.coverage.problems, BTreeMap::from([(ProblemKind::MissingAudio, 3)]));
        assert_eq!(dataset.coverage.usable, 2);
        // One split is that of every fold.
        params.fold = Some(Fold::One(1));
        assert_eq!(params.open_folds(2).expect("a data set").splits[0], [train, train]);
    }

    #[test]
    fn lists_number_folds() {
        let folder = Folder::new(&[
            ("beats/beats_and_downbeats/0001_a.txt", b"0.5\t1\t1\n"),
            ("beats/beats_and_downbeats/0002_b.txt", b"0.5\t1\t1\n"),
            ("audio/0001_a.mp3", b""),
            ("8.split", b"0001_a\t0\n0002_b\t2\n"),
            ("single.split", b"0001_a\ttrain\n0002_b\tval\n"),
        ]);
        let mut params = folder.params(Layout::Harmonix, Task::Beats, "beats");
        (params.fold, params.splits) = (Some(Fold::All), Some(folder.text("8.split")));
        assert_eq!(params.folds().expect("three"), Some(3));
        let (train, valid, test) = (Some(Split::Train), Some(Split::Valid), Some(Split::Test));
        assert_eq!(params.open_folds(3).expect("a data set").splits, [[test, train, valid], [train, valid, test]]);
        params.splits = Some(folder.text("single.split"));
        let message = folder.shorten(params.folds().expect_err("no numbers"));
        assert_eq!(message, "`fold`: `all` wants folds, numbered from 0, in `single.split`, found none");
    }
}
