//! Why a file was refused: a class to count by, and a message that a person understands.

use std::fmt;
use std::io;

use symphonia::core::errors::Error as SymphoniaError;

/// The kind of a [`DecodeError`]. Its text form is a stable key for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ErrorClass {
    /// The operating system could not read the file.
    Io,
    /// The bytes break the rules of their own format.
    Corrupt,
    /// The file ends before what its header promises.
    Truncated,
    /// A format or a feature of one that isn't implemented.
    Unsupported,
    /// The content isn't what the name says.
    Mismatch,
    /// More audio than the limit allows.
    TooLong,
    /// More bytes, channels or samples per second than the limits allow.
    TooLarge,
    /// No audio in it.
    Empty,
    /// A sample that isn't a finite number, or absurdly large.
    Numeric,
}

impl ErrorClass {
    /// The stable key: `io`, `corrupt`, `truncated`, `unsupported`, `mismatch`, `too_long`, `too_large`, `empty`, `numeric`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Corrupt => "corrupt",
            Self::Truncated => "truncated",
            Self::Unsupported => "unsupported",
            Self::Mismatch => "mismatch",
            Self::TooLong => "too_long",
            Self::TooLarge => "too_large",
            Self::Empty => "empty",
            Self::Numeric => "numeric",
        }
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a file could not be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The operating system could not read the file.
    #[error("cannot read the file: {0}")]
    Io(#[source] io::Error),
    /// The bytes break the rules of their own format.
    #[error("the audio is damaged: {0}")]
    Corrupt(String),
    /// The file ends before what its header promises.
    #[error("the file is cut short: {0}")]
    Truncated(String),
    /// A format or a feature of one that isn't implemented.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The content isn't what the name says.
    #[error("the content is not what the name says: {0}")]
    Mismatch(String),
    /// More audio than the limit allows.
    #[error("too long: {0}")]
    TooLong(String),
    /// More bytes, channels or samples per second than the limits allow.
    #[error("out of bounds: {0}")]
    TooLarge(String),
    /// No audio in it.
    #[error("no audio: {0}")]
    Empty(String),
    /// A sample that isn't a finite number, or absurdly large.
    #[error("sample {at} is {value:e}: not audio")]
    Numeric {
        /// Index of the sample.
        at: u64,
        /// What it is.
        value: f32,
    },
}

impl DecodeError {
    /// The kind of failure, for counting.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Io(_) => ErrorClass::Io,
            Self::Corrupt(_) => ErrorClass::Corrupt,
            Self::Truncated(_) => ErrorClass::Truncated,
            Self::Unsupported(_) => ErrorClass::Unsupported,
            Self::Mismatch(_) => ErrorClass::Mismatch,
            Self::TooLong(_) => ErrorClass::TooLong,
            Self::TooLarge(_) => ErrorClass::TooLarge,
            Self::Empty(_) => ErrorClass::Empty,
            Self::Numeric { .. } => ErrorClass::Numeric,
        }
    }

    /// What a Symphonia error means while headers are being read, where running out of bytes means half a header.
    pub(super) fn while_opening(error: SymphoniaError) -> Self {
        match error {
            SymphoniaError::IoError(e) if is_end(&e) => Self::Truncated("it ends inside its headers".into()),
            other => Self::from(other),
        }
    }
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<SymphoniaError> for DecodeError {
    fn from(error: SymphoniaError) -> Self {
        match error {
            // Symphonia's readers report what they run into in the bytes as I/O errors of their own making.
            SymphoniaError::IoError(e) if e.raw_os_error().is_none() => Self::Corrupt(e.to_string()),
            SymphoniaError::IoError(e) => Self::Io(e),
            SymphoniaError::Unsupported(what) => Self::Unsupported(what.into()),
            SymphoniaError::DecodeError(what) | SymphoniaError::LimitError(what) => Self::Corrupt(what.into()),
            other => Self::Corrupt(other.to_string()),
        }
    }
}

/// Whether an I/O error means that the bytes ran out.
pub(super) fn is_end(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}
