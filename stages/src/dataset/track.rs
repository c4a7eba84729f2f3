//! What a data set consists of.

use std::collections::BTreeMap;
use std::path::PathBuf;

use omar_schemas::Split;
use serde::Serialize;

use super::error::{DatasetError, Problem, ProblemKind};

/// One recording and what is said about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// Its name in the data set; unique there.
    pub id: String,
    /// Path of its audio below the audio folder, `/` between parts; where it should be if it is missing.
    pub audio: String,
    /// Whether that file is there.
    pub present: bool,
    /// What it is used for; `None` when nothing says so.
    pub split: Option<Split>,
    /// What is said about it, by time where there are times.
    pub labels: Vec<Label>,
    /// The annotation files that this came from.
    pub sources: Vec<PathBuf>,
    /// Names the song, instrument or session that it shares with other tracks. Such tracks belong to one split.
    pub group: Option<String>,
}

/// One statement about a recording.
///
/// Both times: an interval. Only a start: an instant. Neither: the whole recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// In seconds.
    pub start: Option<f64>,
    /// In seconds, exclusive.
    pub end: Option<f64>,
    /// A tag, a MIDI pitch, a chord, a section, a grade. Of a beat: its position in the bar from 1 (a downbeat), empty
    /// where it is not known.
    pub value: String,
    /// Where it is written in its file, from 1.
    pub line: u64,
}

impl Label {
    /// About the whole recording.
    pub fn whole(value: impl Into<String>, line: u64) -> Self {
        Self { start: None, end: None, value: value.into(), line }
    }

    /// At an instant, in seconds.
    pub fn at(time: f64, value: impl Into<String>, line: u64) -> Self {
        Self { start: Some(time), end: None, value: value.into(), line }
    }

    /// Of an interval, in seconds.
    pub fn between(start: f64, end: f64, value: impl Into<String>, line: u64) -> Self {
        Self { start: Some(start), end: Some(end), value: value.into(), line }
    }
}

impl Track {
    /// Without audio, split and labels.
    pub(super) fn new(id: impl Into<String>, audio: impl Into<String>, sources: Vec<PathBuf>) -> Self {
        let (id, audio) = (id.into(), audio.into());
        Self { id, audio, present: false, split: None, labels: Vec::new(), sources, group: None }
    }

    /// Cuts the labels to the seconds `[from, to)`; instants at `to` stay. Says how many labels were shortened or left
    /// out. Annotations that reach past their audio are common: cut them to its duration before they become frames.
    pub fn crop(&mut self, from: f64, to: f64) -> usize {
        let mut changed = 0;
        self.labels.retain_mut(|label| match (label.start, label.end) {
            (Some(start), Some(end)) => {
                let cut = (start.clamp(from, to), end.clamp(from, to));
                changed += usize::from(cut != (start, end));
                (label.start, label.end) = (Some(cut.0), Some(cut.1));
                cut.0 < cut.1
            }
            (Some(time), None) => {
                let inside = (from..=to).contains(&time);
                changed += usize::from(!inside);
                inside
            }
            _ => true,
        });
        changed
    }

    /// Whether it can be used: its audio is there, something is said about it, and it has a split.
    pub const fn is_usable(&self) -> bool {
        self.present && !self.labels.is_empty() && self.split.is_some()
    }
}

/// A data set, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// In the order of the annotations.
    pub tracks: Vec<Track>,
    /// Everything that is wrong, in the order in which it was found.
    pub problems: Vec<Problem>,
    /// How much of the data set can be used.
    pub coverage: Coverage,
    /// The values that labels can have, in the order of the data set, where the task has a fixed set of them.
    pub classes: Option<Vec<String>>,
}

/// How much of a data set can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Recordings that the annotations name.
    pub listed: u64,
    /// Those among them that the protocol of the data set leaves out, by reason; the others are the tracks.
    pub left_out: BTreeMap<String, u64>,
    /// Tracks whose audio is there.
    pub with_audio: u64,
    /// Tracks about which something is said.
    pub with_labels: u64,
    /// Tracks with audio, labels and a split.
    pub usable: u64,
    /// Labels of all tracks.
    pub labels: u64,
    /// Tracks of the splits train, valid and test, and of none, whether they can be used or not.
    pub splits: Splits,
    /// Problems by kind.
    pub problems: BTreeMap<ProblemKind, u64>,
}

/// Counts by split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Splits {
    /// Of `train`.
    pub train: u64,
    /// Of `valid`.
    pub valid: u64,
    /// Of `test`.
    pub test: u64,
    /// Of no split.
    pub none: u64,
}

impl Coverage {
    pub(super) fn of(tracks: &[Track], problems: &[Problem], left_out: &BTreeMap<&'static str, u64>) -> Self {
        let count = |wanted: &dyn Fn(&Track) -> bool| tracks.iter().filter(|track| wanted(track)).count() as u64;
        let split = |split| count(&|track| track.split == split);
        let mut kinds = BTreeMap::new();
        problems.iter().for_each(|problem| *kinds.entry(problem.kind).or_default() += 1);
        Self {
            listed: tracks.len() as u64 + left_out.values().sum::<u64>(),
            left_out: left_out.iter().map(|(&reason, &count)| (reason.to_owned(), count)).collect(),
            with_audio: count(&|track| track.present),
            with_labels: count(&|track| !track.labels.is_empty()),
            usable: count(&Track::is_usable),
            labels: tracks.iter().map(|track| track.labels.len() as u64).sum(),
            splits: Splits {
                train: split(Some(Split::Train)),
                valid: split(Some(Split::Valid)),
                test: split(Some(Split::Test)),
                none: split(None),
            },
            problems: kinds,
        }
    }
}

impl Dataset {
    /// Whether each of `splits` has a track that can be used.
    ///
    /// # Errors
    /// When one has none; the message says what its tracks lack.
    pub fn require(&self, splits: &[Split]) -> Result<(), DatasetError> {
        for &split in splits {
            let of: Vec<&Track> = self.tracks.iter().filter(|track| track.split == Some(split)).collect();
            if of.iter().any(|track| track.is_usable()) {
                continue;
            }
            let name = split.as_str();
            let Some(first) = of.first() else {
                let Splits { train, valid, test, none } = self.coverage.splits;
                return Err(DatasetError::Empty(format!(
                    "expected tracks of split `{name}`, found none (train {train}, valid {valid}, test {test}, \
                     without a split {none})"
                )));
            };
            let silent = of.iter().filter(|track| !track.present).count();
            let mute = of.iter().filter(|track| track.labels.is_empty()).count();
            return Err(DatasetError::Empty(format!(
                "no track of split `{name}` can be used: of {}, {silent} lack audio and {mute} lack labels (such as \
                 `{}`, audio expected at `{}`)",
                of.len(),
                first.id,
                first.audio
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(labels: Vec<Label>) -> Track {
        Track { labels, ..Track::new("a", "a.wav", Vec::new()) }
    }

    #[test]
    fn labels_are_cut_to_the_audio() {
        let mut track = track(vec![
            Label::between(-2.0, -1.0, "x", 1),
            Label::between(-1.0, 1.0, "a", 2),
            Label::at(3.0, "1", 3),
            Label::at(3.5, "2", 4),
            Label::between(2.0, 9.0, "b", 5),
            Label::whole("rock", 6),
        ]);
        assert_eq!(track.crop(0.0, 3.0), 4);
        let expected = [
            Label::between(0.0, 1.0, "a", 2),
            Label::at(3.0, "1", 3),
            Label::between(2.0, 3.0, "b", 5),
            Label::whole("rock", 6),
        ];
        assert_eq!(track.labels, expected);
        assert_eq!(track.crop(0.0, 3.0), 0);
    }

    #[test]
    fn a_split_without_tracks_is_named_with_what_is_there() {
        let mut test = track(vec![Label::whole("rock", 1)]);
        test.split = Some(Split::Test);
        let tracks = vec![test];
        let coverage = Coverage::of(&tracks, &[], &BTreeMap::from([("unusable", 2)]));
        assert_eq!((coverage.listed, coverage.with_labels, coverage.usable), (3, 1, 0));
        let dataset = Dataset { tracks, problems: Vec::new(), coverage, classes: None };
        let message = |split| dataset.require(&[split]).expect_err("it is empty").to_string();
        assert_eq!(
            message(Split::Valid),
            "expected tracks of split `valid`, found none (train 0, valid 0, test 1, without a split 0)"
        );
        assert_eq!(
            message(Split::Test),
            "no track of split `test` can be used: of 1, 1 lack audio and 0 lack labels (such as `a`, audio expected \
             at `a.wav`)"
        );
    }
}
