//! Data sets as their authors publish them: recordings, what is said about them, and what they are used for.
//!
//! [`DatasetParams`] names a layout, a task and the places of its files; [`DatasetParams::open`] gives a [`Dataset`].
//! One file per layout knows where that data set keeps things and what it calls them; everything else is shared:
//! `text` and `table` read files, `audio` finds recordings, `split` assigns uses, `folds` does so several times, `offsets` moves annotations that
//! belong to another master, `leak` looks for recordings on both sides of a split.
//!
//! Nothing is dropped in silence. A row that cannot be used is a [`Problem`] with its file and line, a recording that
//! the protocol of a data set leaves out is counted in [`Coverage::left_out`], and `strict` makes the first problem an
//! error. Labels are given as written (chords in particular: their grammar is for who scores them), except that
//! section names become functions unless [`Sections::Raw`] is asked for.

mod audio;
mod billboard;
mod error;
mod find;
mod folds;
mod functions;
mod generic;
pub mod gtzan;
mod harmonix;
mod json;
mod kinds;
mod lab;
mod leak;
mod magnatagatune;
mod npy;
mod nsynth;
mod offsets;
mod open;
mod params;
mod pianosyllabus;
mod salami;
mod split;
mod table;
mod text;
mod track;

#[cfg(test)]
mod real;
#[cfg(test)]
mod sample;

pub use error::{DatasetError, Problem, ProblemKind};
pub use folds::{Fold, Folded};
pub use functions::{FUNCTIONS, function};
pub use kinds::{All, Draw, Format, Layout, Sections, Task, Variant};
pub use leak::{Leak, Shared, audio_leaks, leaks};
pub use params::DatasetParams;
pub use track::{Coverage, Dataset, Label, Splits, Track};
