//! Softmax cross-entropy of rows of logits, turning the logits into their gradient on the way.

use super::maths::{exponentials, max, vectorized};
use rayon::prelude::*;

/// What the rows of one stream add up to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Totals {
    /// Sum over rows and streams of minus the log probability of the target.
    pub(crate) loss: f64,
    /// Per stream, the number of rows whose first largest logit is the target's.
    pub(crate) correct: Vec<u64>,
}

impl Totals {
    /// Adds those of further rows.
    pub(crate) fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        for (sum, correct) in self.correct.iter_mut().zip(&other.correct) {
            *sum += correct;
        }
    }
}

/// Replaces `logits` by `scale (softmax - one_hot(target))` and gives the totals, added in the order of the rows.
///
/// Shapes: `logits (rows, streams, codebook_size)`, `targets (rows, streams)`, every target below `codebook_size`.
pub(crate) fn cross_entropy(
    logits: &mut [f32],
    targets: &[u32],
    streams: usize,
    codebook_size: usize,
    scale: f32,
) -> Totals {
    let rows: Vec<(f64, bool)> = logits
        .par_chunks_mut(codebook_size)
        .zip(targets)
        .map(|(row, target)| {
            vectorized(|| {
                let target = *target as usize;
                let logit = row[target];
                let top = max(row);
                let hit = logit == top && !row[..target].contains(&top);
                let (_, total) = exponentials(row);
                let factor = scale / total;
                for value in row.iter_mut() {
                    *value *= factor;
                }
                row[target] -= scale;
                (f64::from(total).ln() + f64::from(top) - f64::from(logit), hit)
            })
        })
        .collect();
    let mut totals = Totals { loss: 0.0, correct: vec![0; streams] };
    for (i, (loss, hit)) in rows.iter().enumerate() {
        totals.loss += loss;
        totals.correct[i % streams] += u64::from(*hit);
    }
    totals
}
