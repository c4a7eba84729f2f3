//! Crops of a recording that become rows: what is kept of each, and what is pooled.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use omar_schemas::{Embeddings, Origin, Pooling, column};

use crate::encoder::{Heard, Hidden};
use crate::error::{Rejection, StageError};
use crate::stage::Output;

use super::Plan;
use super::batch::Layers;

/// A crop on its way to the encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Window {
    pub(super) origin: Origin,
    pub(super) crop_ix: u32,
    pub(super) start_s: f64,
    pub(super) audio_s: f64,
    pub(super) positions: usize,
    /// What the encoder hears, until it takes it.
    pub(super) heard: Heard,
}

impl Window {
    /// The columns that name the crop in row `row`.
    pub(super) fn read(batch: &RecordBatch, row: usize) -> Result<Self, StageError> {
        let number = |name: &str| Ok::<f64, StageError>(column::<Float64Array>(batch, name)?.value(row));
        Ok(Self {
            origin: Origin::read(batch, row)?,
            crop_ix: column::<UInt32Array>(batch, "crop_ix")?.value(row),
            start_s: number("start_s")?,
            audio_s: number("audio_s")?,
            positions: 0,
            heard: Heard::default(),
        })
    }

    fn end_s(&self) -> f64 {
        self.start_s + self.audio_s
    }
}

/// The crops of a recording, joined in the order of time.
pub(super) struct Joined {
    plan: Arc<Plan>,
    /// The latest crop, whose end depends on the next one, with its first kept position.
    held: Option<(Window, Layers, usize)>,
    /// `track`: sums over the kept positions per layer, their number, and the span of time.
    sums: Vec<Vec<f64>>,
    count: u64,
    span_s: Option<(f64, f64)>,
    origin: Option<Origin>,
    emitted: bool,
}

impl Joined {
    pub(super) fn new(plan: Arc<Plan>) -> Self {
        Self { plan, held: None, sums: Vec::new(), count: 0, span_s: None, origin: None, emitted: false }
    }

    /// A crop of the recording has come, too short for a position maybe.
    pub(super) fn saw(&mut self, window: &Window) {
        if self.origin.is_none() {
            self.origin = Some(window.origin.clone());
        }
    }

    /// Takes the hidden states of the next crop.
    pub(super) fn add(&mut self, window: Window, layers: Layers, out: &mut dyn Output) -> Result<(), StageError> {
        if self.plan.spec.pooling == Pooling::Window {
            let means: Layers = layers.iter().map(|hidden| mean(hidden, self.plan.dim)).collect();
            let (start_s, audio_s) = (window.start_s, window.audio_s);
            return self.emit(&window, start_s, audio_s, &means, 0..1, out);
        }
        let mut first = 0;
        if let Some((held, values, from)) = self.held.take() {
            let mut until = held.positions;
            if let Some(cut) = cut(&held, &window) {
                (until, first) = (self.before(&held, cut), self.before(&window, cut));
            }
            self.keep(&held, &values, from..until.max(from), out)?;
        }
        self.held = Some((window, layers, first));
        Ok(())
    }

    /// The recording is complete.
    pub(super) fn finish(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        if let Some((held, values, from)) = self.held.take() {
            let positions = held.positions;
            self.keep(&held, &values, from..positions.max(from), out)?;
        }
        let Some(origin) = self.origin.take() else { return Ok(()) };
        if let Some((start_s, end_s)) = self.span_s.take() {
            let count = self.count as f64;
            let mean = |sums: Vec<f64>| Hidden {
                frames: sums.iter().map(|sum| (sum / count) as f32).collect(),
                summary: Vec::new(),
            };
            let means: Layers = self.sums.drain(..).map(mean).collect();
            let (audio_s, positions, heard) = (end_s - start_s, 1, Heard::default());
            let whole = Window { origin: origin.clone(), crop_ix: 0, start_s, audio_s, positions, heard };
            self.emit(&whole, start_s, audio_s, &means, 0..1, out)?;
        }
        self.count = 0;
        if !std::mem::take(&mut self.emitted) {
            let needs = self.plan.needs_s;
            let message = format!("the recording is shorter than a position of the encoder, {needs:.3} s");
            out.reject(origin.track_id, Rejection::new("too_short", message));
        }
        Ok(())
    }

    /// Positions of a crop whose centre is before an instant of the recording.
    fn before(&self, window: &Window, instant: f64) -> usize {
        // A hair less, so that a centre on the cut belongs to the later crop in both calls.
        let count = ((instant - window.start_s - self.plan.offset_s) * self.plan.rate - 0.5 - 1e-6).ceil();
        (count.max(0.0) as usize).min(window.positions)
    }

    /// Gives the positions `range` of a crop to a row, or to the sums.
    fn keep(
        &mut self,
        window: &Window,
        layers: &Layers,
        range: std::ops::Range<usize>,
        out: &mut dyn Output,
    ) -> Result<(), StageError> {
        if range.is_empty() {
            return Ok(());
        }
        let at = |position: usize| window.start_s + self.plan.offset_s + position as f64 / self.plan.rate;
        let (start_s, end_s) = (at(range.start), at(range.end).min(window.end_s()));
        if self.plan.spec.pooling == Pooling::Frames {
            return self.emit(window, start_s, end_s - start_s, layers, range, out);
        }
        let dim = self.plan.dim;
        self.sums.resize(layers.len(), vec![0.0; self.plan.spec.dim as usize]);
        for (sums, hidden) in self.sums.iter_mut().zip(layers) {
            // What stands for a whole crop counts as often as there are positions that are kept of it.
            let (summary, sums) = sums.split_at_mut(hidden.summary.len());
            let weight = range.len() as f64;
            summary.iter_mut().zip(&hidden.summary).for_each(|(sum, value)| *sum += weight * f64::from(*value));
            for vector in hidden.frames[range.start * dim..range.end * dim].chunks_exact(dim) {
                sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
            }
        }
        self.count += range.len() as u64;
        self.span_s = Some((self.span_s.map_or(start_s, |span| span.0), end_s));
        Ok(())
    }

    fn emit(
        &mut self,
        window: &Window,
        start_s: f64,
        audio_s: f64,
        layers: &Layers,
        range: std::ops::Range<usize>,
        out: &mut dyn Output,
    ) -> Result<(), StageError> {
        let dim = self.plan.spec.dim as usize;
        let mut columns = window.origin.columns(1);
        columns.extend([
            Arc::new(UInt32Array::from(vec![window.crop_ix])) as ArrayRef,
            Arc::new(Float64Array::from(vec![start_s])),
            Arc::new(Float64Array::from(vec![audio_s])),
        ]);
        let part =
            |hidden: &Hidden| Embeddings::vectors_column(dim, &[&hidden.frames[range.start * dim..range.end * dim]]);
        columns.extend(layers.iter().map(part));
        self.emitted = true;
        out.emit(RecordBatch::try_new(self.plan.schema.clone(), columns)?);
        Ok(())
    }
}

/// The middle of what two crops share; `None` when they share nothing.
fn cut(earlier: &Window, later: &Window) -> Option<f64> {
    (later.start_s < earlier.end_s()).then(|| f64::midpoint(later.start_s, earlier.end_s()))
}

/// One vector for a crop: what stands for all of it, and the mean of its positions.
fn mean(hidden: &Hidden, dim: usize) -> Hidden {
    let mut sums = vec![0.0f64; dim];
    for vector in hidden.frames.chunks_exact(dim) {
        sums.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let count = (hidden.frames.len() / dim).max(1) as f64;
    let means = sums.into_iter().map(|sum| (sum / count) as f32);
    Hidden { frames: hidden.summary.iter().copied().chain(means).collect(), summary: Vec::new() }
}
