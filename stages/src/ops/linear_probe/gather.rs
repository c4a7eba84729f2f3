//! The vectors of recordings, averaged into frames.

use std::collections::BTreeMap;

use arrow::array::{Float64Array, RecordBatch};
use arrow::datatypes::Float32Type;
use omar_schemas::{Crop, Embeddings, EmbeddingsSpec, FeaturesSpec, Origin, Split, TrackId, column, fixed_values};

use crate::error::StageError;

/// What vectors come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Embeddings(EmbeddingsSpec),
    Features(FeaturesSpec),
}

/// A representation to probe: parts of the columns of frames, side by side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    pub(super) name: String,
    /// Which columns.
    pub(super) parts: Vec<usize>,
}

/// A recording in frames.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) path: String,
    pub(super) split: Split,
    /// Vectors that each frame is the mean of; 0 where there is none.
    pub(super) counts: Vec<Vec<u32>>,
    /// Per column, `(frames, dim)`: means, once it is taken.
    pub(super) columns: Vec<Vec<f32>>,
    pub(super) dims: Vec<usize>,
}

impl Recording {
    fn new(origin: Origin, dims: &[usize]) -> Self {
        let (counts, columns) = (vec![Vec::new(); dims.len()], vec![Vec::new(); dims.len()]);
        Self { path: origin.path, split: origin.split, counts, columns, dims: dims.to_vec() }
    }

    fn add(&mut self, part: usize, frame: usize, vector: &[f32]) {
        let dim = self.dims[part];
        let (counts, sums) = (&mut self.counts[part], &mut self.columns[part]);
        if counts.len() <= frame {
            counts.resize(frame + 1, 0);
            sums.resize((frame + 1) * dim, 0.0);
        }
        counts[frame] += 1;
        sums[frame * dim..(frame + 1) * dim].iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
    }

    fn average(&mut self) {
        for ((counts, sums), dim) in self.counts.iter().zip(&mut self.columns).zip(&self.dims) {
            for (count, row) in counts.iter().zip(sums.chunks_exact_mut(*dim)) {
                row.iter_mut().for_each(|sum| *sum /= (*count).max(1) as f32);
            }
        }
    }

    /// Frames from the first to the last that all columns have.
    pub(super) fn frames(&self) -> usize {
        self.counts.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// Whether every column has frame `frame`.
    pub(super) fn has(&self, frame: usize) -> bool {
        self.counts.iter().all(|counts| counts.get(frame).is_some_and(|count| *count > 0))
    }

    /// Values of a frame of a layer.
    pub(super) fn dim(&self, layer: &Layer) -> usize {
        layer.parts.iter().map(|part| self.dims[*part]).sum()
    }

    /// Appends a frame of a layer to `out`.
    pub(super) fn frame_into(&self, layer: &Layer, frame: usize, out: &mut Vec<f32>) {
        for part in &layer.parts {
            let dim = self.dims[*part];
            out.extend_from_slice(&self.columns[*part][frame * dim..(frame + 1) * dim]);
        }
    }

    /// Appends the mean over all frames of a layer to `out`.
    pub(super) fn mean_into(&self, layer: &Layer, out: &mut Vec<f32>) {
        for part in &layer.parts {
            let (dim, counts) = (self.dims[*part], &self.counts[*part]);
            let mut sum = vec![0.0f64; dim];
            for (row, _) in self.columns[*part].chunks_exact(dim).zip(counts).filter(|(_, count)| **count > 0) {
                sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            let n = counts.iter().filter(|count| **count > 0).count().max(1) as f64;
            out.extend(sum.iter().map(|sum| (sum / n) as f32));
        }
    }
}

/// Collects recordings.
pub(super) struct Gather {
    source: Source,
    /// Frames per second; `None`: one for the whole recording.
    rate: Option<f64>,
    dims: Vec<usize>,
    recordings: BTreeMap<TrackId, Recording>,
}

impl Gather {
    pub(super) fn new(source: Source, rate: Option<f64>) -> Self {
        let dims = match &source {
            Source::Embeddings(spec) => vec![spec.dim as usize; spec.layers.len()],
            Source::Features(spec) => spec.views.iter().map(|view| view.bins as usize).collect(),
        };
        Self { source, rate, dims, recordings: BTreeMap::new() }
    }

    /// What can be probed: every layer, or every view and all of them together.
    pub(super) fn layers(&self) -> Vec<Layer> {
        let names: Vec<String> = match &self.source {
            Source::Embeddings(spec) => spec.layers.iter().map(u32::to_string).collect(),
            Source::Features(spec) => spec.views.iter().map(|view| view.name.clone()).collect(),
        };
        let together = Layer { name: names.join("+"), parts: (0..names.len()).collect() };
        let each = names.into_iter().enumerate().map(|(part, name)| Layer { name, parts: vec![part] });
        let mut layers: Vec<Layer> = each.collect();
        if matches!(self.source, Source::Features(_)) && layers.len() > 1 {
            layers.push(together);
        }
        layers
    }

    /// The recordings in the order of their ids.
    pub(super) fn take(&mut self) -> Vec<Recording> {
        let mut recordings: Vec<Recording> = std::mem::take(&mut self.recordings).into_values().collect();
        recordings.iter_mut().for_each(Recording::average);
        recordings
    }

    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), StageError> {
        let starts = column::<Float64Array>(batch, "start_s")?;
        let audio = column::<Float64Array>(batch, "audio_s")?;
        for row in 0..batch.num_rows() {
            let origin = Origin::read(batch, row)?;
            let recording =
                self.recordings.entry(origin.track_id).or_insert_with(|| Recording::new(origin, &self.dims));
            for (part, dim) in self.dims.iter().enumerate() {
                let (values, rate) = match &self.source {
                    Source::Embeddings(spec) => (Embeddings::vectors(batch, spec.layers[part], row)?, spec.rate),
                    Source::Features(spec) => {
                        let view = &spec.views[part];
                        let rate = view.frame_rate(spec.sample_rate);
                        let audible = Crop::audible(audio.value(row), rate).min(view.frames as usize);
                        let values = fixed_values::<Float32Type>(batch, &view.name, row)?;
                        (&values[..audible * dim], Some(rate))
                    }
                };
                for (i, vector) in values.chunks_exact(*dim).enumerate() {
                    let frame = match (self.rate, rate) {
                        (Some(to), Some(from)) => frame_of(starts.value(row), i, from, to),
                        _ => 0,
                    };
                    recording.add(part, frame, vector);
                }
            }
        }
        Ok(())
    }
}

/// The frame, at rate `to`, that holds the middle of vector `i`, at rate `from`, of a row that starts at `start_s`.
fn frame_of(start_s: f64, i: usize, from: f64, to: f64) -> usize {
    ((start_s + (i as f64 + 0.5) / from) * to).floor().max(0.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_fall_into_the_frames_of_their_middles() {
        // 62.5 Hz to 15.625 Hz: four each, in any crop.
        let frames: Vec<usize> = (0..8).map(|i| frame_of(8.0, i, 62.5, 15.625)).collect();
        assert_eq!(frames, [125, 125, 125, 125, 126, 126, 126, 126]);
        // The rate of the vectors themselves: each its own, wherever the row starts.
        assert_eq!((0..3).map(|i| frame_of(8.03, i, 15.625, 15.625)).collect::<Vec<_>>(), [125, 126, 127]);
    }

    #[test]
    fn frames_are_means_and_gaps_are_known() {
        let origin = Origin { track_id: TrackId(1), path: "a".to_owned(), split: Split::Test };
        let mut recording = Recording::new(origin, &[2]);
        recording.add(0, 0, &[1.0, 2.0]);
        recording.add(0, 0, &[3.0, 4.0]);
        recording.add(0, 2, &[5.0, 6.0]);
        recording.average();
        assert_eq!(recording.columns[0], [2.0, 3.0, 0.0, 0.0, 5.0, 6.0]);
        assert_eq!([0, 1, 2, 3].map(|frame| recording.has(frame)), [true, false, true, false]);
        let (layer, mut mean) = (Layer { name: "0".to_owned(), parts: vec![0] }, Vec::new());
        recording.mean_into(&layer, &mut mean);
        assert_eq!(mean, [3.5, 4.5]);
    }
}
