//! What to read, from where.

use std::path::PathBuf;

use omar_schemas::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::DatasetError;

/// Parameters of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetParams {
    /// How the data set is laid out.
    pub layout: Layout,
    /// Which of its annotations to read.
    pub task: Task,
    /// Folder of the recordings. Their extension does not matter, and they may lie in subfolders.
    pub audio: String,
    /// Folder or file of the annotations, as they were published. Only genres of GTZAN need none: they are in the names
    /// of the recordings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<String>,
    /// What recordings are used for, instead of what the layout says: a folder with one list per split (`train`,
    /// `valid` or `val`, `test`, as text, TSV or npy), or one list of names with a split or the number of a fold each
    /// (the `.split` files of beat_this).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub splits: Option<String>,
    /// Which fold is the test set, where `splits` numbers folds (the next one is the validation set); which of the five
    /// splits of PianoSyllabus, by default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<u32>,
    /// Draws a split for the recordings that nothing else gives one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draw: Option<Draw>,
    /// Puts all recordings into one split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<All>,
    /// A table with the columns `id` and `audio` (below the audio folder), for recordings that are not named as the
    /// data set names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
    /// A table with the columns `id`, `offset` and optionally `stretch`, for recordings of another master than the
    /// annotated one: what is annotated at `t` seconds is at `offset + stretch * t` in the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<String>,
    /// Whether the first problem (missing audio or labels, a malformed line, a track without a split) is an error
    /// instead of a part of the report.
    #[serde(default)]
    pub strict: bool,
    /// Tags and their order, for tagging with `magnatagatune` or `generic`: one tag per line, or an npy array of text.
    /// By default the 50 most frequent tags of MagnaTagATune; in a generic data set all tags by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// How sections are named, for structure. By default `functions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sections: Option<Sections>,
    /// Which chord files of `billboard`. By default `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<Variant>,
    /// The index of `billboard` (songs that were annotated twice belong to one split). By default the file
    /// `billboard-2.0-index.csv` beside or above the annotations, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// Labels of a `generic` data set: a table with the columns `path` or `id`, `label`, and optionally `task`, `start`
    /// and `end` (seconds); or a folder with a file for each recording, named like it. By default they are in the
    /// annotations, which list the recordings: in a column `label`, or in the files that a column `labels` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// Format of the label files of a `generic` data set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
}

/// How a data set is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// MagnaTagATune: `annotations_final.csv`; or `binary.npy` and `tags.npy` with lists of rows; or `index_mtt.tsv`
    /// with `*_gt_mtt.tsv`. Without lists, folders 0 to b are train, c valid, d to f test. The clips 35644, 55753 and
    /// 57881 cannot be decoded, and clips without any of the tags are not used: both are left out.
    Magnatagatune,
    /// NSynth: `nsynth-train`, `nsynth-valid` and `nsynth-test`, each with `examples.json` and `audio`.
    Nsynth,
    /// Harmonix: `beats_and_downbeats` and `segments`, also the corrected beats of beat_this. Recordings are found by
    /// the four digits that their names start with. It has no split of its own.
    Harmonix,
    /// GTZAN, with the beats of `gtzan_tempo_beat`. Beats are for testing; genres have no split of their own.
    Gtzan,
    /// Label files in folders as the recordings are: Isophonics (its `chordlab`, `seglab` and `beat`), RWC-Pop and
    /// USpop chords. It has no split of its own.
    Lab,
    /// McGill Billboard: `0003/full.lab` and `0003/salami_chords.txt`, or `0003full.lab` and `0003.txt`. Recordings are
    /// found by the number that their names, or those of their folders, start with. It has no split of its own.
    Billboard,
    /// PianoSyllabus: a JSON of five splits, `{"0": {"train": {name: grade}}}`.
    Pianosyllabus,
    /// Any data: a table of recordings with the columns `path`, and optionally `id`, `split`, `group`, `label` and
    /// `labels`, as CSV, TSV or JSON lines.
    Generic,
}

/// Which annotations to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// Tags of whole recordings: MagnaTagATune, instrument families of NSynth, genres of GTZAN.
    Tagging,
    /// The MIDI pitch of a recording of one note.
    Pitch,
    /// Intervals with chords, as written.
    Chords,
    /// Instants with the position in the bar.
    Beats,
    /// Intervals with the function of the section, closed by an instant `end`.
    Structure,
    /// The grade of a recording.
    Difficulty,
}

/// Shares of the tracks, drawn by a hash of the group (song, instrument) or else of the name of a track, so that a track
/// stays where it is when others come and go.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Draw {
    /// Share of `valid`, 0..1.
    pub valid: f64,
    /// Share of `test`, 0..1.
    pub test: f64,
    /// Another seed, another draw.
    #[serde(default)]
    pub seed: u64,
}

/// A split for all recordings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum All {
    /// Updates weights.
    Train,
    /// Chooses between models and settings.
    Valid,
    /// Is looked at once, at the end.
    Test,
}

impl From<All> for Split {
    fn from(all: All) -> Self {
        match all {
            All::Train => Self::Train,
            All::Valid => Self::Valid,
            All::Test => Self::Test,
        }
    }
}

/// How sections are named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sections {
    /// By function: intro, verse, chorus, bridge, outro, inst, silence (Algorithm 1 of arXiv 2205.14700).
    #[default]
    Functions,
    /// As written.
    Raw,
}

/// Which chord files of the McGill Billboard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// `full.lab`: all that was annotated.
    #[default]
    Full,
    /// `majmin.lab`: major, minor, `N` and `X`.
    Majmin,
    /// `majmin7.lab`: with sevenths.
    Majmin7,
    /// `majmininv.lab`: with inversions.
    Majmininv,
    /// `majmin7inv.lab`: with both.
    Majmin7inv,
}

impl Variant {
    /// The name of its files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Majmin => "majmin",
            Self::Majmin7 => "majmin7",
            Self::Majmininv => "majmininv",
            Self::Majmin7inv => "majmin7inv",
        }
    }
}

/// Format of a label file of one recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `start end label` per line, separated by tabs or spaces.
    Lab,
    /// `time`, `time position` or `time position bar` per line.
    Beats,
    /// A table with the columns `start`, `end` and `label`.
    Csv,
}

impl Layout {
    /// As written in parameters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Magnatagatune => "magnatagatune",
            Self::Nsynth => "nsynth",
            Self::Harmonix => "harmonix",
            Self::Gtzan => "gtzan",
            Self::Lab => "lab",
            Self::Billboard => "billboard",
            Self::Pianosyllabus => "pianosyllabus",
            Self::Generic => "generic",
        }
    }

    /// What it has annotations for.
    pub const fn tasks(self) -> &'static [Task] {
        match self {
            Self::Magnatagatune => &[Task::Tagging],
            Self::Nsynth => &[Task::Pitch, Task::Tagging],
            Self::Harmonix => &[Task::Beats, Task::Structure],
            Self::Gtzan => &[Task::Beats, Task::Tagging],
            Self::Lab => &[Task::Chords, Task::Structure, Task::Beats],
            Self::Billboard => &[Task::Chords, Task::Structure],
            Self::Pianosyllabus => &[Task::Difficulty],
            Self::Generic => &Task::ALL,
        }
    }

    const ALL: [Self; 8] = [
        Self::Magnatagatune,
        Self::Nsynth,
        Self::Harmonix,
        Self::Gtzan,
        Self::Lab,
        Self::Billboard,
        Self::Pianosyllabus,
        Self::Generic,
    ];
}

impl Task {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Tagging, Self::Pitch, Self::Chords, Self::Beats, Self::Structure, Self::Difficulty];

    /// As written in parameters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tagging => "tagging",
            Self::Pitch => "pitch",
            Self::Chords => "chords",
            Self::Beats => "beats",
            Self::Structure => "structure",
            Self::Difficulty => "difficulty",
        }
    }
}

impl DatasetParams {
    /// With everything else at its default.
    pub fn new(layout: Layout, task: Task, audio: impl Into<String>) -> Self {
        Self {
            layout,
            task,
            audio: audio.into(),
            annotations: None,
            splits: None,
            fold: None,
            draw: None,
            all: None,
            names: None,
            offsets: None,
            strict: false,
            tags: None,
            sections: None,
            variant: None,
            index: None,
            labels: None,
            format: None,
        }
    }

    /// Whether the parameters fit each other; reads nothing.
    ///
    /// # Errors
    /// When the layout does not serve the task, a parameter has no effect there, or one is missing.
    pub fn check(&self) -> Result<(), DatasetError> {
        self.check_task()?;
        self.check_effects()?;
        self.check_splits()?;
        let genres = self.layout == Layout::Gtzan && self.task == Task::Tagging;
        if self.annotations.is_none() && !genres {
            let layout = self.layout.as_str();
            return Err(DatasetError::param("annotations", format!("layout `{layout}` reads them, found none")));
        }
        Ok(())
    }

    fn check_task(&self) -> Result<(), DatasetError> {
        let (layout, task) = (self.layout.as_str(), self.task.as_str());
        if self.layout.tasks().contains(&self.task) {
            return Ok(());
        }
        let tasks: Vec<_> = self.layout.tasks().iter().map(|task| task.as_str()).collect();
        let others: Vec<_> = Layout::ALL
            .iter()
            .filter(|layout| layout.tasks().contains(&self.task))
            .map(|layout| layout.as_str())
            .collect();
        let message = format!(
            "layout `{layout}` has annotations for {}, found `{task}`; hint: {task} is in the layouts {}",
            tasks.join(" and "),
            others.join(", ")
        );
        Err(DatasetError::param("task", message))
    }

    fn check_effects(&self) -> Result<(), DatasetError> {
        use Layout::{Billboard, Generic, Magnatagatune};
        let is = |layouts: &[Layout]| layouts.contains(&self.layout);
        let genres = self.layout == Layout::Gtzan && self.task == Task::Tagging;
        let tagging = is(&[Magnatagatune, Generic]) && self.task == Task::Tagging;
        for (name, given, effect, of) in [
            ("annotations", self.annotations.is_some(), !genres, "other layouts, or beats"),
            ("tags", self.tags.is_some(), tagging, "tagging with magnatagatune or generic"),
            ("sections", self.sections.is_some(), self.task == Task::Structure, "structure"),
            ("variant", self.variant.is_some(), is(&[Billboard]) && self.task == Task::Chords, "chords of billboard"),
            ("index", self.index.is_some(), is(&[Billboard]), "billboard"),
            ("labels", self.labels.is_some(), is(&[Generic]), "generic"),
            ("format", self.format.is_some(), is(&[Generic]), "generic"),
        ] {
            if given && !effect {
                let (layout, task) = (self.layout.as_str(), self.task.as_str());
                let message = format!("has no effect on {task} of `{layout}`, only on {of}; hint: remove it");
                return Err(DatasetError::param(name, message));
            }
        }
        Ok(())
    }

    fn check_splits(&self) -> Result<(), DatasetError> {
        if let Some(Draw { valid, test, .. }) = self.draw {
            let share = |share: f64| (0.0..=1.0).contains(&share);
            if !(share(valid) && share(test) && valid + test <= 1.0) {
                let message = format!("expected shares from 0 to 1 that add up to at most 1, found {valid} and {test}");
                return Err(DatasetError::param("draw", message));
            }
        }
        let others = self.splits.is_some() || self.draw.is_some() || self.fold.is_some();
        if self.all.is_some() && others {
            let message = "puts all recordings into one split, so `splits`, `draw` and `fold` have no effect";
            return Err(DatasetError::param("all", message));
        }
        let piano = self.layout == Layout::Pianosyllabus;
        if self.fold.is_some() && !piano && self.splits.is_none() {
            return Err(DatasetError::param("fold", "expected `splits` with numbered folds beside it, found none"));
        }
        if self.fold.is_some() && piano && self.splits.is_some() {
            let message = "is one of the splits of PianoSyllabus, which `splits` replaces; hint: give one of them";
            return Err(DatasetError::param("fold", message));
        }
        let own = match self.layout {
            Layout::Gtzan => self.task == Task::Beats,
            Layout::Harmonix | Layout::Lab | Layout::Billboard => false,
            _ => true,
        };
        if !(own || others || self.all.is_some()) {
            let message = format!(
                "{} of `{}` have no split of their own; hint: give `splits: PATH`, `draw: {{valid: 0.2, test: 0.2}}` or \
                 `all: test`",
                self.task.as_str(),
                self.layout.as_str()
            );
            return Err(DatasetError::param("splits", message));
        }
        Ok(())
    }

    /// Folder or file of the annotations.
    pub(super) fn annotations(&self) -> PathBuf {
        PathBuf::from(self.annotations.as_deref().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(text: &str) -> Result<DatasetParams, String> {
        let params: DatasetParams = serde_json::from_str(text).map_err(|error| error.to_string())?;
        params.check().map_err(|error| error.to_string()).map(|()| params)
    }

    #[test]
    fn parameters_are_read_and_written() {
        let text = r#"{"layout":"harmonix","task":"beats","audio":"a","annotations":"b","splits":"c","fold":0,"strict":false}"#;
        let read = params(text).expect("they fit");
        assert_eq!(serde_json::to_string(&read).expect("json"), text);
        assert!(params(r#"{"layout":"gtzan","task":"tagging","audio":"a","draw":{"valid":0.2,"test":0.2}}"#).is_ok());
        assert!(
            params(r#"{"layout":"harmonix","task":"beats","audio":"a","x":1}"#)
                .expect_err("x")
                .contains("unknown field `x`")
        );
    }

    #[test]
    fn what_does_not_fit_is_said_with_a_hint() {
        let error = |text: &str| params(&format!("{{{text}}}")).expect_err("it does not fit");
        assert_eq!(
            error(r#""layout":"harmonix","task":"chords","audio":"a","annotations":"b""#),
            "`task`: layout `harmonix` has annotations for beats and structure, found `chords`; hint: chords is in the \
             layouts lab, billboard, generic"
        );
        assert_eq!(
            error(r#""layout":"harmonix","task":"beats","audio":"a","annotations":"b""#),
            "`splits`: beats of `harmonix` have no split of their own; hint: give `splits: PATH`, `draw: {valid: 0.2, \
             test: 0.2}` or `all: test`"
        );
        assert_eq!(
            error(r#""layout":"nsynth","task":"pitch","audio":"a""#),
            "`annotations`: layout `nsynth` reads them, found none"
        );
        assert_eq!(
            error(r#""layout":"nsynth","task":"pitch","audio":"a","annotations":"b","tags":"t""#),
            "`tags`: has no effect on pitch of `nsynth`, only on tagging with magnatagatune or generic; hint: remove it"
        );
        assert!(
            error(r#""layout":"lab","task":"chords","audio":"a","annotations":"b","fold":1"#).starts_with("`fold`: ")
        );
        assert!(
            error(r#""layout":"lab","task":"chords","audio":"a","annotations":"b","draw":{"valid":0.7,"test":0.4}"#)
                .ends_with("found 0.7 and 0.4")
        );
        let all = r#""layout":"lab","task":"chords","audio":"a","annotations":"b","splits":"s","all":"test""#;
        assert!(error(all).starts_with("`all`: "));
    }
}
