//! Metrics of music information retrieval, and what turns activations into annotations: pure maths in f64.
//!
//! | file | gives | equal to |
//! |---|---|---|
//! | [`beat`] | F-measure, Cemgil, Goto, P-score, continuity, information gain | `mir_eval.beat` |
//! | [`dbn`] | beats and downbeats from activations | Krebs, Böck and Widmer 2015 |
//! | [`chord`] | Harte's syntax, comparisons of MIREX, weighted accuracy | `mir_eval.chord` |
//! | [`segment`] | boundaries, pairwise, entropies, frame accuracy; picking | `mir_eval.segment`, torchmetrics |
//! | [`ranking`] | average precision, ROC-AUC | scikit-learn, torchmetrics |
//! | [`ordinal`] | squared errors by grade, Kendall's tau-b | scikit-learn, SciPy |
//! | [`bootstrap`] | intervals of means | |
//!
//! Times are seconds; intervals are `(start, end)`.

pub mod beat;
pub mod bootstrap;
pub mod chord;
pub mod dbn;
mod matching;
pub mod ordinal;
pub mod ranking;
pub mod segment;

/// A metric is not defined for what it was given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreError {
    /// Times of events that do not ascend, or are out of all proportion.
    #[error("event {index} is at {time} s: {reason}")]
    Event {
        /// Which, from 0.
        index: usize,
        /// In seconds.
        time: f64,
        /// What is expected.
        reason: &'static str,
    },
    /// An interval that is none.
    #[error("interval {index} is from {start} to {end} s: {reason}")]
    Interval {
        /// Which, from 0.
        index: usize,
        /// In seconds.
        start: f64,
        /// In seconds.
        end: f64,
        /// What is expected.
        reason: &'static str,
    },
    /// A label that is no chord.
    #[error("expected a chord such as `A:min7/b3`, `F#` or `N`, found `{label}`: {reason}")]
    Chord {
        /// As written.
        label: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Lists that belong together and have different lengths.
    #[error("{intervals} intervals and {labels} labels do not belong together")]
    Lengths {
        /// Intervals.
        intervals: usize,
        /// Labels.
        labels: usize,
    },
}
