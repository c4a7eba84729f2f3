//! The words of the parameters: layouts, tasks, formats.

use omar_schemas::Split;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

    /// All of them.
    pub const ALL: [Self; 8] = [
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
