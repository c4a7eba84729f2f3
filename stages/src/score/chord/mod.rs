//! Chords: Harte's syntax and what chords are made of, comparisons of MIREX, and weighted figures, as `mir_eval.chord` has
//! them (Raffel et al. 2014; Harte et al. 2005; Pauwels and Peeters 2013).

mod compare;
mod evaluate;
mod syntax;

pub use compare::{Comparison, compare};
pub use evaluate::{Annotation, ChordScores, evaluate};
pub(super) use evaluate::{adjust as adjust_intervals, check_intervals};
pub use syntax::{Chord, majmin_class, majmin_label};
