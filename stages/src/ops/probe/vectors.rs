//! Rows of one recording as vectors over time.

use arrow::array::{Float64Array, RecordBatch};
use arrow::datatypes::Float32Type;
use omar_schemas::{Crop, Embeddings, EmbeddingsSpec, FeaturesSpec, ViewSpec, column, fixed_values};

use crate::error::StageError;

/// What vectors come from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Embeddings(EmbeddingsSpec),
    Features(FeaturesSpec),
}

/// How vectors become examples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pool {
    /// Every vector of an encoder is an example.
    Frames,
    /// So is the mean over every interval of `1 / rate` seconds, on a grid from 0.
    Rate(f64),
    /// The recording is: the mean over it; of views, mean and deviation. Nothing after so many seconds is heard, if that
    /// is said.
    Recording(Option<f64>),
}

/// A recording: times, and a matrix per column of the input.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    /// Where each vector's interval starts, in seconds.
    pub(super) times: Vec<f64>,
    /// Per layer or view, `(times, dim)`.
    pub(super) columns: Vec<Vec<f32>>,
    /// Where what was heard ends, in seconds.
    pub(super) end: f64,
}

impl Source {
    /// Names of the layers or views.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Embeddings(spec) => spec.layers.iter().map(u32::to_string).collect(),
            Self::Features(spec) => spec.views.iter().map(|view| view.name.clone()).collect(),
        }
    }

    /// Values per vector of each of them, once pooled.
    pub(super) fn dims(&self, pool: Pool) -> Vec<usize> {
        match self {
            Self::Embeddings(spec) => vec![spec.dim as usize; spec.layers.len()],
            Self::Features(spec) => {
                let moments = if matches!(pool, Pool::Recording(_)) { 2 } else { 1 };
                spec.views.iter().map(|view| moments * view.bins as usize).collect()
            }
        }
    }

    /// The vectors of a recording, from all of its rows. Without rows there are none.
    pub(super) fn vectors(&self, batch: &RecordBatch, pool: Pool) -> Result<Vectors, StageError> {
        let mut vectors = Vectors { columns: vec![Vec::new(); self.names().len()], ..Vectors::default() };
        let starts = column::<Float64Array>(batch, "start_s")?;
        let audio = column::<Float64Array>(batch, "audio_s")?;
        let ends = (0..batch.num_rows()).map(|row| starts.value(row) + audio.value(row));
        vectors.end = ends.fold(0.0, f64::max);
        for part in 0..vectors.columns.len() {
            let mut rows = Vec::new();
            for row in 0..batch.num_rows() {
                let (values, dim, rate) = self.row(batch, part, row, audio.value(row))?;
                let of = |i: usize| starts.value(row) + rate.map_or(0.0, |rate| i as f64 / rate);
                let half = rate.map_or(0.0, |rate| 0.5 / rate);
                rows.extend(values.chunks_exact(dim).enumerate().map(|(i, vector)| (of(i), half, vector)));
            }
            let (times, column) = match pool {
                Pool::Frames => frames(&rows),
                Pool::Rate(rate) => averaged(&rows, rate),
                Pool::Recording(until) => {
                    let heard = |time: f64| until.is_none_or(|until| time < until);
                    let rows: Vec<&[f32]> = rows.iter().filter(|row| heard(row.0)).map(|row| row.2).collect();
                    pooled(&rows, matches!(self, Self::Features(_)))
                }
            };
            if part == 0 || times.len() < vectors.times.len() {
                vectors.times = times;
            }
            vectors.columns[part] = column;
        }
        // Views treat the ends of a signal in their own ways: what all have is kept.
        for (column, dim) in vectors.columns.iter_mut().zip(self.dims(pool)) {
            column.truncate(vectors.times.len() * dim);
        }
        Ok(vectors)
    }

    /// The vectors of a row, their length, and how many there are a second.
    fn row<'a>(
        &self,
        batch: &'a RecordBatch,
        part: usize,
        row: usize,
        audio_s: f64,
    ) -> Result<(&'a [f32], usize, Option<f64>), StageError> {
        match self {
            Self::Embeddings(spec) => {
                Ok((Embeddings::vectors(batch, spec.layers[part], row)?, spec.dim as usize, spec.rate))
            }
            Self::Features(spec) => {
                let view: &ViewSpec = &spec.views[part];
                let (rate, bins) = (view.frame_rate(spec.sample_rate), view.bins as usize);
                let audible = Crop::audible(audio_s, rate).min(view.frames as usize);
                let values = fixed_values::<Float32Type>(batch, &view.name, row)?;
                Ok((&values[..audible * bins], bins, Some(rate)))
            }
        }
    }
}

/// A vector with the start and half the length of its interval.
type Row<'a> = (f64, f64, &'a [f32]);

fn frames(rows: &[Row<'_>]) -> (Vec<f64>, Vec<f32>) {
    (rows.iter().map(|row| row.0).collect(), rows.iter().flat_map(|row| row.2).copied().collect())
}

/// Means over the intervals of a grid that the middles of vectors fall into; an interval without any is left out.
fn averaged(rows: &[Row<'_>], rate: f64) -> (Vec<f64>, Vec<f32>) {
    let dim = rows.first().map_or(0, |row| row.2.len());
    let (mut times, mut values): (Vec<f64>, Vec<f32>) = (Vec::new(), Vec::new());
    let place = |row: &Row<'_>| ((row.0 + row.1) * rate + 1e-9).floor().max(0.0) as u64;
    for interval in rows.chunk_by(|a, b| place(a) == place(b)) {
        times.push(place(&interval[0]) as f64 / rate);
        let at = values.len();
        values.resize(at + dim, 0.0);
        for (_, _, vector) in interval {
            values[at..].iter_mut().zip(*vector).for_each(|(sum, value)| *sum += value);
        }
        values[at..].iter_mut().for_each(|sum| *sum /= interval.len() as f32);
    }
    (times, values)
}

/// The mean over a recording, and the deviation from it.
fn pooled(rows: &[&[f32]], deviation: bool) -> (Vec<f64>, Vec<f32>) {
    let Some(first) = rows.first() else { return (Vec::new(), Vec::new()) };
    let n = rows.len() as f64;
    let over = |of: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        let mut sums = vec![0.0; first.len()];
        for row in rows {
            sums.iter_mut().zip(*row).enumerate().for_each(|(at, (sum, value))| *sum += of(at, f64::from(*value)));
        }
        sums.iter().map(|sum| sum / n).collect()
    };
    let means = over(&|_, value| value);
    let mut values: Vec<f32> = means.iter().map(|mean| *mean as f32).collect();
    if deviation {
        values.extend(over(&|at, value| (value - means[at]).powi(2)).iter().map(|variance| variance.sqrt() as f32));
    }
    (vec![0.0], values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_fall_into_the_intervals_of_their_middles() {
        let values: Vec<[f32; 1]> = (0..8).map(|i| [i as f32]).collect();
        // 62.5 Hz to 15.625 Hz from 8 s on: four each.
        let rows: Vec<Row<'_>> =
            values.iter().enumerate().map(|(i, value)| (8.0 + i as f64 / 62.5, 0.5 / 62.5, &value[..])).collect();
        assert_eq!(averaged(&rows, 15.625), (vec![8.0, 8.064], vec![1.5, 5.5]));
        // A gap leaves intervals out.
        let gap = [(0.0, 0.5, &values[1][..]), (3.0, 0.5, &values[2][..])];
        assert_eq!(averaged(&gap, 1.0), (vec![0.0, 3.0], vec![1.0, 2.0]));
    }

    #[test]
    fn a_recording_is_its_mean_and_deviation() {
        let rows: [&[f32]; 2] = [&[1.0, 5.0], &[3.0, 5.0]];
        assert_eq!(pooled(&rows, true), (vec![0.0], vec![2.0, 5.0, 1.0, 0.0]));
        assert_eq!(pooled(&rows, false), (vec![0.0], vec![2.0, 5.0]));
        assert_eq!(pooled(&[], true), (Vec::new(), Vec::new()));
    }
}
