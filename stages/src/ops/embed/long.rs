//! Crops that are longer than the encoder can hear at once.
//!
//! They are heard in parts of the greatest length, each half a part after the one before, a whole number of positions.
//! Where two parts overlap, the first gives the positions before the middle of the overlap and the second the rest, so
//! the positions of all parts make one even row.

use crate::encoder::{FrontEnd, Hidden};

use super::batch::{Layers, SharedEncoder};

/// Why there are no hidden states.
pub(super) enum Failure {
    /// The audio, or what the encoder makes of it, cannot be computed with.
    Numeric(String),
    /// The encoder does not run.
    Encoder(String),
}

/// Positions of a long crop and its hidden states.
pub(super) fn hidden(
    samples: &[f32],
    front_end: &mut dyn FrontEnd,
    encoder: &SharedEncoder,
    batch: usize,
) -> Result<(usize, Layers), Failure> {
    let facts = encoder.encoder().facts();
    let parts = Parts::new(samples.len(), facts.max_samples.unwrap_or(samples.len()), facts.hop);
    let mut whole: Layers = Vec::new();
    let mut positions = 0;
    let ranges: Vec<std::ops::Range<usize>> = parts.ranges().collect();
    for (group, ranges) in ranges.chunks(batch.max(1)).enumerate() {
        let hear = |range: &std::ops::Range<usize>| front_end.hear(&samples[range.clone()]);
        let heard = ranges.iter().map(hear).collect::<Result<Vec<_>, _>>().map_err(Failure::Numeric)?;
        // The last part is shorter than the others.
        let mut computed = Vec::new();
        for run in heard.chunk_by(|a, b| a.positions == b.positions) {
            computed.extend(encoder.run(run.to_vec()).map_err(Failure::Encoder)?);
        }
        for (index, (layers, heard)) in computed.into_iter().zip(&heard).enumerate() {
            let index = group * batch.max(1) + index;
            let kept = parts.kept(index, index + 1 == parts.count, heard.positions);
            positions += kept.len();
            append(&mut whole, &layers, kept, facts.dim);
        }
    }
    for hidden in &mut whole {
        hidden.summary.iter_mut().for_each(|value| *value /= positions.max(1) as f32);
        if !hidden.frames.iter().chain(&hidden.summary).all(|value| value.is_finite()) {
            return Err(Failure::Numeric("the encoder gives values that are not finite".to_owned()));
        }
    }
    Ok((positions, whole))
}

/// Adds the kept positions of a part; what stands for the part counts as often as there are of them.
fn append(whole: &mut Layers, part: &[Hidden], kept: std::ops::Range<usize>, dim: usize) {
    if whole.is_empty() {
        let empty = |hidden: &Hidden| Hidden { frames: Vec::new(), summary: vec![0.0; hidden.summary.len()] };
        whole.extend(part.iter().map(empty));
    }
    for (whole, part) in whole.iter_mut().zip(part) {
        whole.frames.extend_from_slice(&part.frames[kept.start * dim..kept.end * dim]);
        let weight = kept.len() as f32;
        whole.summary.iter_mut().zip(&part.summary).for_each(|(sum, value)| *sum += weight * value);
    }
}

/// How a crop is cut.
struct Parts {
    samples: usize,
    len: usize,
    /// Samples and positions from one part to the next.
    step: usize,
    step_positions: usize,
    count: usize,
}

impl Parts {
    fn new(samples: usize, most: usize, hop: usize) -> Self {
        let step_positions = (most / 2 / hop.max(1)).max(1);
        let step = step_positions * hop;
        let count = samples.saturating_sub(most).div_ceil(step) + 1;
        Self { samples, len: most, step, step_positions, count }
    }

    fn ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..self.count).map(|index| index * self.step..self.samples.min(index * self.step + self.len))
    }

    /// Which of the positions of part `index` are kept. In every part the overlap with the one before ends `len - step`
    /// samples in, so the cut is as far into all parts but the first.
    fn kept(&self, index: usize, is_last: bool, positions: usize) -> std::ops::Range<usize> {
        let cut = (self.len - self.step) * self.step_positions / self.step / 2;
        let first = if index == 0 { 0 } else { cut };
        let end = if is_last { positions } else { self.step_positions + cut };
        first.min(positions)..end.min(positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_leave_no_position_out_and_give_none_twice() {
        let (most, hop) = (1000, 10);
        for samples in [1001, 1009, 1500, 1505, 2000, 12_345] {
            let parts = Parts::new(samples, most, hop);
            let ranges: Vec<_> = parts.ranges().collect();
            assert_eq!((ranges[0].start, ranges.last().unwrap().end), (0, samples));
            let mut next = 0;
            for (index, range) in ranges.iter().enumerate() {
                assert!(range.len() <= most && range.len() >= most / 2 - hop, "{samples}: {range:?}");
                let kept = parts.kept(index, index + 1 == ranges.len(), range.len() / hop);
                assert_eq!(range.start / hop + kept.start, next, "{samples}: part {index}");
                next = range.start / hop + kept.end;
            }
            assert_eq!(next, samples / hop, "{samples}");
        }
    }
}
