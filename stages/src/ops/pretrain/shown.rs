//! What an evaluation shows beside its loss: the best constant answer, and a few crops as the model answers them.

use std::collections::BTreeMap;
use std::path::Path;

use super::Plan;
use super::example::Example;
use super::valid::ValidSet;
use crate::error::StageError;
use crate::storage::{CropName, EXAMPLES_FILE, InputView, PredictedCrop, PredictedCrops};
use crate::train::{Minibatch, Predictions, Trainer};

/// Crops that are kept for people to look at, one of a track as long as there are tracks.
const SHOWN: usize = 4;

/// How frequent the codes of masked held-out tokens are, per stream.
#[derive(Debug, Default)]
pub(super) struct Unigram {
    counts: Vec<BTreeMap<u32, u64>>,
    masked: u64,
}

impl Unigram {
    /// Counts the tokens of masked positions.
    pub(super) fn add(&mut self, examples: &[Example], masked: &[u32], streams: usize) {
        self.counts.resize(streams, BTreeMap::new());
        let Some(positions) = examples.first().map(|example| example.tokens.len() / streams.max(1)) else { return };
        for &index in masked {
            let (example, position) = (index as usize / positions, index as usize % positions);
            let codes = &examples[example].tokens[position * streams..][..streams];
            codes.iter().zip(&mut self.counts).for_each(|(code, counts)| *counts.entry(*code).or_default() += 1);
            self.masked += 1;
        }
    }

    /// The accuracy of the most frequent code of every stream, and its mean over streams; `None` without tokens.
    pub(super) fn accuracy(&self) -> Option<(f64, Vec<f32>)> {
        if self.masked == 0 {
            return None;
        }
        let top = |counts: &BTreeMap<u32, u64>| counts.values().copied().max().unwrap_or(0) as f64;
        let shares: Vec<f64> = self.counts.iter().map(|counts| top(counts) / self.masked as f64).collect();
        let mean = shares.iter().sum::<f64>() / shares.len().max(1) as f64;
        Some((mean, shares.into_iter().map(|share| share as f32).collect()))
    }
}

/// The crops to show: the first of every track, then others.
fn chosen(valid: &ValidSet) -> Vec<(&Example, Option<&CropName>)> {
    let mut tracks = Vec::new();
    let (first, rest): (Vec<_>, Vec<_>) = valid.named().partition(|(example, _)| {
        let new = !tracks.contains(&example.key.track);
        tracks.push(example.key.track);
        new
    });
    first.into_iter().chain(rest).take(SHOWN).collect()
}

/// Writes what the model predicts of a few crops into the folder of the node. `minibatch` makes a minibatch of one crop.
pub(super) fn write(
    dir: &Path,
    plan: &Plan,
    trainer: &Trainer,
    valid: &ValidSet,
    minibatch: impl Fn(&Example) -> Result<Minibatch, StageError>,
) -> Result<(), StageError> {
    let streams = plan.trainer.model.streams;
    let mut crops = Vec::new();
    for (example, name) in chosen(valid) {
        let crop = crop(example, &trainer.predict(&minibatch(example)?)?, plan.positions, streams);
        crops.push(PredictedCrop { name: name.cloned(), ..crop });
    }
    let view = |(name, shape): &(String, crate::dsp::patch::PatchShape)| InputView {
        name: name.clone(),
        bins: shape.bins,
        frames: shape.frames,
    };
    let shown = PredictedCrops {
        step: trainer.step_count(),
        rate_hz: plan.rate_hz,
        views: plan.views.iter().map(view).collect(),
        streams: plan.stream_names.clone(),
        codebook_size: plan.trainer.model.codebook_size as u32,
        crops,
    };
    Ok(shown.write(&dir.join(EXAMPLES_FILE))?)
}

fn crop(example: &Example, predictions: &Predictions, positions: usize, streams: usize) -> PredictedCrop {
    let (mut mask, mut predicted) = (vec![false; positions], vec![0; positions * streams]);
    for (&at, codes) in predictions.masked.iter().zip(predictions.codes.chunks_exact(streams)) {
        mask[at as usize] = true;
        predicted[at as usize * streams..][..streams].copy_from_slice(codes);
    }
    PredictedCrop {
        track: example.key.track,
        crop: example.key.crop,
        name: None,
        patches: example.patches.clone(),
        tokens: example.tokens.clone(),
        mask,
        predicted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::CropKey;

    fn example(track: u64, crop: u64, tokens: &[u32]) -> Example {
        Example { patches: Vec::new(), tokens: tokens.to_vec(), key: CropKey { track, crop } }
    }

    #[test]
    fn the_best_constant_answer_is_counted_where_the_mask_is_and_per_stream() {
        // Two streams, three positions.
        let examples = [example(1, 0, &[5, 1, 5, 2, 7, 2]), example(2, 0, &[5, 3, 7, 2, 7, 2])];
        let mut unigram = Unigram::default();
        assert_eq!(unigram.accuracy(), None);
        // Positions 0 and 1 of the first crop, 2 of the second: codes 5 5 7 and 1 2 2.
        unigram.add(&examples, &[0, 1, 5], 2);
        let (mean, streams) = unigram.accuracy().expect("there are tokens");
        assert_eq!(streams, [2.0 / 3.0, 2.0 / 3.0]);
        assert!((mean - 2.0 / 3.0).abs() < 1e-12);
        // All of the rest: codes 5 5 7 5 7 7 and 1 2 2 3 2 2.
        unigram.add(&examples, &[2, 3, 4], 2);
        assert_eq!(unigram.accuracy().expect("there are tokens").1, [3.0 / 6.0, 4.0 / 6.0]);
    }

    #[test]
    fn shown_crops_are_of_different_tracks_where_there_are_such() {
        let mut valid = ValidSet::new(5);
        for (track, crop) in [(1, 0), (1, 1), (2, 0), (1, 2), (2, 1)] {
            let name = CropName { path: format!("{track}.wav"), start_s: 30.0 * crop as f64 };
            valid.offer(example(track, crop, &[]), Some(name));
        }
        let shown = chosen(&valid);
        let keys: Vec<(u64, u64)> = shown.iter().map(|(e, _)| (e.key.track, e.key.crop)).collect();
        assert_eq!(keys, [(1, 0), (2, 0), (1, 1), (1, 2)]);
        assert_eq!(shown[2].1, Some(&CropName { path: "1.wav".to_owned(), start_s: 30.0 }));
    }
}
