//! Spectrograms of the recordings that the report shows: small pictures of what features are computed anyway.
//!
//! A probe of features writes them into its folder; the report puts the annotations and answers of every probe of the run
//! on them.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Float64Array, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{Field, Float32Type, Schema};
use omar_schemas::{Crop, FeaturesSpec, SchemaError, ViewSpec, column, fixed_values};

use crate::error::StageError;
use crate::probe::task::TaskKind;
use crate::storage::{StorageError, TrackFile, write_table};

/// Name of the file in the folder of a probe.
pub const SPECTROGRAMS_FILE: &str = "spectrograms.parquet";
/// Pixels along the time, at most.
const COLUMNS: usize = 1000;
/// Shares of values that are darker than the darkest and lighter than the lightest level.
const TAILS: (f64, f64) = (0.01, 0.995);

/// A view of a whole recording in 256 levels.
#[derive(Debug, Clone, PartialEq)]
pub struct Spectrogram {
    /// The view.
    pub view: String,
    /// Rows of the picture.
    pub bins: usize,
    /// Pixels of a row.
    pub columns: usize,
    /// Where the last pixel ends, in seconds.
    pub end_s: f64,
    /// From the top, where the highest bin is: `(bins, columns)`.
    pub levels: Vec<u8>,
}

/// The view that people read best: constant-Q where the pitch of notes matters, otherwise mel.
fn shown(spec: &FeaturesSpec, task: TaskKind) -> Option<&ViewSpec> {
    let find = |name: &str| spec.views.iter().find(|view| view.name == name);
    let names = if task == TaskKind::Chords { ["cqt", "mel"] } else { ["mel", "cqt"] };
    names.into_iter().find_map(find).or_else(|| spec.views.iter().find(|view| view.bins > 1))
}

impl Spectrogram {
    /// Of all rows of a recording; `None` where no view has bins, or nothing was heard.
    pub(super) fn of(spec: &FeaturesSpec, task: TaskKind, batch: &RecordBatch) -> Result<Option<Self>, StageError> {
        let Some(view) = shown(spec, task) else { return Ok(None) };
        let (bins, rate) = (view.bins as usize, view.frame_rate(spec.sample_rate));
        let starts = column::<Float64Array>(batch, "start_s")?;
        let audio = column::<Float64Array>(batch, "audio_s")?;
        let end_s = (0..batch.num_rows()).map(|row| starts.value(row) + audio.value(row)).fold(0.0, f64::max);
        let columns = ((end_s * rate) as usize).min(COLUMNS);
        if columns == 0 {
            return Ok(None);
        }
        let (mut sums, mut counts) = (vec![0.0f32; columns * bins], vec![0.0f32; columns]);
        for row in 0..batch.num_rows() {
            let values = fixed_values::<Float32Type>(batch, &view.name, row)?;
            let audible = Crop::audible(audio.value(row), rate).min(view.frames as usize);
            for (frame, values) in values[..audible * bins].chunks_exact(bins).enumerate() {
                let time = starts.value(row) + (frame as f64 + 0.5) / rate;
                let at = ((time / end_s * columns as f64) as usize).min(columns - 1);
                counts[at] += 1.0;
                sums[at * bins..][..bins].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
        }
        for (sums, count) in sums.chunks_exact_mut(bins).zip(&counts) {
            sums.iter_mut().for_each(|sum| *sum /= count);
        }
        // Where nothing was heard the mean is no number.
        let mut sorted: Vec<f32> = sums.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f32::total_cmp);
        let share = |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied().unwrap_or(0.0);
        let (low, high) = (share(TAILS.0), share(TAILS.1));
        // Gaps are as dark as silence: no number is 0 as `u8`.
        let level = |value: f32| (255.0 * ((value - low) / (high - low).max(1e-6)).clamp(0.0, 1.0)) as u8;
        let pixels = (0..bins).rev().flat_map(|bin| (0..columns).map(move |at| at * bins + bin));
        let levels = pixels.map(|place| level(sums[place])).collect();
        Ok(Some(Self { view: view.name.clone(), bins, columns, end_s, levels }))
    }

    /// Writes spectrograms of recordings into a folder.
    pub(super) fn write(folder: &Path, all: &[(&str, &Self)]) -> Result<(), StageError> {
        let number = |of: fn(&Self) -> usize| -> ArrayRef {
            Arc::new(UInt32Array::from_iter_values(all.iter().map(|(_, own)| of(own) as u32)))
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("recording", Arc::new(StringArray::from_iter_values(all.iter().map(|(recording, _)| recording)))),
            ("view", Arc::new(StringArray::from_iter_values(all.iter().map(|(_, own)| &own.view)))),
            ("bins", number(|own| own.bins)),
            ("columns", number(|own| own.columns)),
            ("end_s", Arc::new(Float64Array::from_iter_values(all.iter().map(|(_, own)| own.end_s)))),
            ("levels", Arc::new(BinaryArray::from_iter_values(all.iter().map(|(_, own)| &own.levels)))),
        ];
        let field = |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), false);
        let schema = Schema::new(columns.iter().map(field).collect::<Vec<Field>>());
        let batch = RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|column| column.1).collect())?;
        Ok(write_table(&folder.join(SPECTROGRAMS_FILE), &[batch])?)
    }

    /// Reads the spectrograms in the folder of a probe, with the names of the recordings; none where there is no file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn read(folder: &Path) -> Result<Vec<(String, Self)>, StorageError> {
        let path = folder.join(SPECTROGRAMS_FILE);
        let mut found = Vec::new();
        if !path.is_file() {
            return Ok(found);
        }
        let content = |error: SchemaError| StorageError::Content { path: path.clone(), message: error.to_string() };
        for batch in TrackFile::open(&path)?.scan(None, None)? {
            let batch = batch?;
            let words = |name| column::<StringArray>(&batch, name).map_err(content);
            let numbers = |name| column::<UInt32Array>(&batch, name).map_err(content);
            let (recordings, views) = (words("recording")?, words("view")?);
            let (bins, columns) = (numbers("bins")?, numbers("columns")?);
            let ends = column::<Float64Array>(&batch, "end_s").map_err(content)?;
            let levels = column::<BinaryArray>(&batch, "levels").map_err(content)?;
            for row in 0..batch.num_rows() {
                let own = Self {
                    view: views.value(row).to_owned(),
                    bins: bins.value(row) as usize,
                    columns: columns.value(row) as usize,
                    end_s: ends.value(row),
                    levels: levels.value(row).to_vec(),
                };
                if own.bins * own.columns != own.levels.len() {
                    let message = format!(
                        "row {row}: expected {} x {} levels, found {}",
                        own.bins,
                        own.columns,
                        own.levels.len()
                    );
                    return Err(StorageError::Content { path, message });
                }
                found.push((recordings.value(row).to_owned(), own));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use omar_schemas::{Edge, Features, Origin, Split, TrackId, fixed_tensor};

    use super::*;

    /// Four frames a second of two bins; crops of two seconds.
    fn rows(starts: &[(f64, f64)], values: Vec<f32>) -> (FeaturesSpec, RecordBatch) {
        let views = vec![ViewSpec::new("waveform", 1, 8, 250), ViewSpec::new("mel", 2, 8, 250)];
        let spec = FeaturesSpec { sample_rate: 1000, crop_samples: 2000, views };
        let origin = Origin { track_id: TrackId::of("a.wav", 0), path: "a.wav".into(), split: Split::Test };
        let mut columns = origin.columns(starts.len());
        columns.push(Arc::new(UInt32Array::from_iter_values(0..starts.len() as u32)));
        columns.push(Arc::new(Float64Array::from_iter_values(starts.iter().map(|row| row.0))));
        columns.push(Arc::new(Float64Array::from_iter_values(starts.iter().map(|row| row.1))));
        columns.push(fixed_tensor::<Float32Type>(8, vec![0.0; 8 * starts.len()]));
        columns.push(fixed_tensor::<Float32Type>(16, values));
        (spec.clone(), RecordBatch::try_new(Features::schema(&spec), columns).unwrap())
    }

    #[test]
    fn a_picture_has_the_whole_recording_with_the_highest_bin_on_top() {
        // The first crop is loud in its first bin, the second, of one second, in the other; from 2 to 3 s is a gap.
        let mut values = [1.0, 0.0].repeat(8);
        values.extend([0.0, 1.0].repeat(8));
        let (spec, batch) = rows(&[(0.0, 2.0), (3.0, 1.0)], values);
        let own = Spectrogram::of(&spec, TaskKind::Chords, &batch).unwrap().unwrap();
        assert_eq!((own.view.as_str(), own.bins, own.columns, own.end_s), ("mel", 2, 16, 4.0));
        let (top, bottom) = own.levels.split_at(16);
        assert_eq!(top, [[0; 8].as_slice(), &[0; 4], &[255; 4]].concat());
        assert_eq!(bottom, [[255; 8].as_slice(), &[0; 4], &[0; 4]].concat());

        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Spectrogram::read(folder.path()).unwrap(), []);
        Spectrogram::write(folder.path(), &[("a.wav", &own)]).unwrap();
        assert_eq!(Spectrogram::read(folder.path()).unwrap(), [("a.wav".to_owned(), own)]);
    }

    #[test]
    fn what_cannot_be_drawn_is_not() {
        let (mut spec, batch) = rows(&[(0.0, 0.0)], vec![0.0; 16]);
        assert_eq!(Spectrogram::of(&spec, TaskKind::Beats, &batch).unwrap(), None);
        spec.views.truncate(1);
        assert_eq!(Spectrogram::of(&spec, TaskKind::Beats, &batch).unwrap(), None);
    }
}
