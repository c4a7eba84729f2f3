//! Ends a run that rejects too many recordings: a wrong folder, a disk that is gone, a decoder that was left out.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use omar_stages::Position;

use super::{RejectedTrack, RunError};
use crate::policy::{StopIf, percent};
use crate::quarantine::{Classes, RejectClass, lines};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    limit: Option<StopIf>,
    /// Recordings of the first pass: later ones bring the same again.
    tried: AtomicU64,
    rejected: AtomicU64,
    classes: Mutex<Classes>,
}

/// More recordings were rejected than the graph allows.
#[derive(Debug, Clone)]
pub struct TooManyRejects {
    /// Recordings that were tried.
    pub tried: u64,
    /// What the graph allows.
    pub limit: StopIf,
    /// What was rejected.
    pub classes: Vec<RejectClass>,
}

impl fmt::Display for TooManyRejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected: u64 = self.classes.iter().map(|class| class.count).sum();
        let (share, limit) = (percent(rejected as f64 / self.tried as f64), percent(self.limit.rate));
        let tried = self.tried;
        write!(f, "{rejected} of {tried} recordings were rejected ({share}), `errors.stop_if` allows {limit}")?;
        lines(&self.classes).iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl std::error::Error for TooManyRejects {}

impl Breaker {
    pub(crate) fn new(limit: Option<StopIf>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// A recording is through.
    pub(crate) fn count(&self, at: Position, rejected: Option<&RejectedTrack>) {
        if self.limit.is_none() || at.pass > 0 {
            return;
        }
        self.tried.fetch_add(1, Ordering::Relaxed);
        if let Some(reject) = rejected {
            self.rejected.fetch_add(1, Ordering::Relaxed);
            self.classes.lock().unwrap_or_else(PoisonError::into_inner).add(reject);
        }
    }

    /// Whether the run may go on.
    ///
    /// # Errors
    /// When it may not.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        let Some(limit) = self.limit else { return Ok(()) };
        let tried = self.tried.load(Ordering::Relaxed);
        if !limit.is_tripped(self.rejected.load(Ordering::Relaxed), tried) {
            return Ok(());
        }
        let classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner).list();
        Err(RunError::TooManyRejects(Box::new(TooManyRejects { tried, limit, classes })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_schemas::TrackId;

    fn reject(path: &str, class: &str) -> RejectedTrack {
        RejectedTrack {
            track_id: TrackId::of(path, 0),
            path: path.to_owned(),
            node: "audio".to_owned(),
            stage: "decode".to_owned(),
            class: class.to_owned(),
            message: "no".to_owned(),
            shard: "s-all".to_owned(),
            dropped: false,
        }
    }

    #[test]
    fn it_trips_above_the_rate_and_says_what_was_rejected() {
        let breaker = Breaker::new(Some(StopIf { rate: 0.25, after: 8 }));
        let first = Position::default();
        for index in 0..7 {
            let path = format!("{index}.mp3");
            let rejected = (index < 2).then(|| reject(&path, if index == 0 { "io" } else { "corrupt" }));
            breaker.count(first, rejected.as_ref());
            assert!(breaker.check().is_ok());
        }
        breaker.count(Position { pass: 1, shard: 0 }, Some(&reject("0.mp3", "io")));
        breaker.count(first, None);
        assert!(breaker.check().is_ok(), "a quarter is allowed");
        breaker.count(first, Some(&reject("8.mp3", "corrupt")));
        let error = breaker.check().expect_err("a third is not").to_string();
        let expected = "3 of 9 recordings were rejected (33.33 %), `errors.stop_if` allows 25 %\n  2 corrupt\n    \
                        1.mp3: no\n    8.mp3: no\n  1 io\n    0.mp3: no";
        assert_eq!(error, expected);
    }
}
