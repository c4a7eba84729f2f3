//! What can be wrong with a data set.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something is wrong with part of a data set; the rest can be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Of what sort.
    pub kind: ProblemKind,
    /// The file it is in; of missing audio, where it was looked for.
    pub path: PathBuf,
    /// From 1, where there is one.
    pub line: Option<u64>,
    /// What was expected, what was found, what became of it.
    pub message: String,
}

/// Sorts of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// A track whose audio is not there.
    MissingAudio,
    /// A track for which there are several audio files.
    AmbiguousAudio,
    /// A track, or an audio file, about which nothing is said.
    MissingLabels,
    /// A line that is not what its format asks for.
    MalformedLine,
    /// An interval that ends where it starts, or before; it is left out.
    EmptyInterval,
    /// An interval that starts before the one above it ends; both stay.
    Overlap,
    /// A time before that of the line above; labels are sorted.
    Order,
    /// Labels before the start of the audio; they are cut off.
    BeforeStart,
    /// A track that is named a second time; the first counts.
    Duplicate,
    /// Two statements that exclude each other, such as two splits for a track; the first counts.
    Conflict,
    /// A list names a track that the data set does not have, or a file is not named like a track.
    UnknownTrack,
    /// A track that nothing gives a split.
    NoSplit,
}

impl ProblemKind {
    /// As written in reports, such as `missing_audio`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingAudio => "missing_audio",
            Self::AmbiguousAudio => "ambiguous_audio",
            Self::MissingLabels => "missing_labels",
            Self::MalformedLine => "malformed_line",
            Self::EmptyInterval => "empty_interval",
            Self::Overlap => "overlap",
            Self::Order => "order",
            Self::BeforeStart => "before_start",
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::UnknownTrack => "unknown_track",
            Self::NoSplit => "no_split",
        }
    }
}

impl Problem {
    pub(super) fn new(
        kind: ProblemKind,
        path: impl Into<PathBuf>,
        line: impl Into<Option<u64>>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, path: path.into(), line: line.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A data set cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DatasetError {
    /// A parameter does not fit.
    #[error("`{name}`: {message}")]
    Param {
        /// Of [`DatasetParams`](super::DatasetParams).
        name: &'static str,
        /// What was expected and found.
        message: String,
    },
    /// A file or folder cannot be used at all.
    #[error("`{}`{}: {message}", path.display(), line.map_or(String::new(), |line| format!(", line {line}")))]
    File {
        /// Which.
        path: PathBuf,
        /// From 1, where there is one.
        line: Option<u64>,
        /// What was expected and found.
        message: String,
    },
    /// Nothing is left to work with.
    #[error("{0}")]
    Empty(String),
    /// The first problem of a data set that was opened as `strict`.
    #[error("{first}{}", more(*.rest))]
    Strict {
        /// The first.
        first: Box<Problem>,
        /// How many more there are.
        rest: usize,
    },
}

fn more(rest: usize) -> String {
    match rest {
        0 => String::new(),
        1 => " (and 1 more problem)".to_owned(),
        _ => format!(" (and {rest} more problems)"),
    }
}

impl DatasetError {
    pub(super) fn param(name: &'static str, message: impl Into<String>) -> Self {
        Self::Param { name, message: message.into() }
    }

    pub(super) fn file(path: &Path, line: impl Into<Option<u64>>, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), line: line.into(), message: message.into() }
    }

    /// What the system says about a file, with where it was looked for if it does not exist.
    pub(super) fn io(path: &Path, error: &std::io::Error) -> Self {
        let mut message = error.to_string();
        if error.kind() == std::io::ErrorKind::NotFound {
            message = "does not exist".to_owned();
            if let (true, Ok(working)) = (path.is_relative(), std::env::current_dir()) {
                message = format!("{message} (working directory: `{}`)", working.display());
            }
        }
        Self::file(path, None, message)
    }
}
