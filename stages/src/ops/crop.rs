//! `crop`: tracks to windows of fixed length.
//!
//! Input edge `audio` (one rate), output edge `crop`. Two policies:
//!
//! - `grid`: a window every `hop`, from the start of the track to its end.
//! - `seeded`: `per_track` windows at random places. Candidates lie one `hop` apart, each moved by a random part of
//!   `hop`; each has a random rank, and the lowest ranks are taken. Places and ranks are functions of (seed, track,
//!   candidate), so nothing depends on what ran before, and since a candidate is judged when its last sample has
//!   arrived, the length of a track need not be known beforehand.
//!
//! Neither policy holds a whole track: `grid` keeps about two windows of samples, `seeded` also those it has chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{Float32Type, SchemaRef};
use omar_schemas::units::Duration;
use omar_schemas::{Audio, Crop as CropEdge, CropSpec, Edge, Origin, fixed_tensor, list_values};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{BindError, Rejection, StageError};
use crate::seed::Random;
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Crops emitted before the operator lets others work.
const CROPS_AT_A_TIME: usize = 2;
/// Longest crop: rows are fixed-size lists, whose lengths are 31 bits, and downstream holds several.
const LONGEST: u64 = 1 << 28;

/// Parameters of `crop`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CropParams {
    /// Length of a crop, with its unit. A whole number of samples.
    #[serde(default = "default_duration")]
    pub duration: Duration,
    /// Which windows of a track become crops.
    #[serde(default)]
    pub policy: Policy,
    /// Time from the start of one window to the next, with its unit. `grid`: by default `duration`, so that windows
    /// touch. `seeded`: how far candidates lie apart, by default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<Duration>,
    /// `seeded` only: crops of a track; fewer where a track has no more candidates. By default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_track: Option<u32>,
    /// What becomes of audio that doesn't fill a window.
    #[serde(default)]
    pub pad: Pad,
    /// Least audio in a padded crop, with its unit; by default 1s. Less at the end of a track is left out, and a track
    /// that has less is rejected as `too_short`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_duration: Option<Duration>,
}

/// Which windows of a track become crops.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// One every `hop`.
    #[default]
    Grid,
    /// `per_track` at places that the seed and the track decide.
    Seeded,
}

/// What becomes of audio that doesn't fill a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pad {
    /// Zeros follow it; `audio_s` says how much is audio.
    #[default]
    Zero,
    /// It is left out.
    Drop,
}

fn default_duration() -> Duration {
    Duration::from_secs(30.0)
}

/// The bound stage.
#[derive(Debug)]
pub struct Crop {
    plan: Plan,
    schema: SchemaRef,
}

/// Everything in samples.
#[derive(Debug, Clone)]
struct Plan {
    sample_rate: u32,
    len: u64,
    hop: u64,
    /// Crops to choose from a track; `None` for all.
    choose: Option<usize>,
    pad: Pad,
    min_len: u64,
}

impl StageKind for Crop {
    const NAME: &'static str = "crop";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "windows of fixed length, on a grid or at seeded random places";
    const EXAMPLE: &'static str = "{stage: crop, from: mono, params: {duration: 30s, policy: grid}}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = CropParams;

    fn bind(params: CropParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let Some(sample_rate) = inputs.spec::<Audio>("in")?.sample_rate else {
            let error = BindError::input_spec("in", "the tracks still have the sample rates of their files");
            return Err(error.hint("put a `resample` node in front of `crop`"));
        };
        let plan = Plan::new(&params, sample_rate)?;
        let policy = match params.policy {
            Policy::Grid => "grid",
            Policy::Seeded => "seeded",
        };
        let spec = CropSpec { sample_rate, samples: plan.len as u32, policy: policy.to_owned() };
        Ok(Self { plan, schema: CropEdge::schema(&spec) })
    }
}

impl Plan {
    fn new(params: &CropParams, sample_rate: u32) -> Result<Self, BindError> {
        let samples = |name: &str, duration: Duration| match duration.whole_samples(sample_rate) {
            Some(0) => Err(BindError::param(name, format!("`{duration}` is no time at all"))),
            Some(samples) => Ok(samples),
            None => {
                let exact = duration.seconds() * f64::from(sample_rate);
                let near = exact.round().max(1.0) / f64::from(sample_rate);
                let message = format!("`{duration}` is {exact} samples at {sample_rate} Hz, expected a whole number");
                Err(BindError::param(name, message).hint(format!("`{near}s` is the nearest that fits")))
            }
        };
        let len = samples("duration", params.duration)?;
        if len > LONGEST {
            let longest = LONGEST / u64::from(sample_rate);
            return Err(BindError::param(
                "duration",
                format!("expected {longest}s at most, found `{}`", params.duration),
            ));
        }
        let seeded = params.policy == Policy::Seeded;
        let hop = match params.hop {
            Some(hop) => samples("hop", hop)?,
            None if seeded => len.min(u64::from(sample_rate)),
            None => len,
        };
        let choose = match params.per_track {
            Some(_) if !seeded => {
                let error = BindError::param("per_track", "`policy: grid` takes every window of a track");
                return Err(error.hint("choose `policy: seeded`, or a longer `hop`"));
            }
            Some(0) => return Err(BindError::param("per_track", "expected 1 or more, found 0")),
            given => seeded.then_some(given.unwrap_or(1) as usize),
        };
        let min_len = match params.min_duration {
            Some(min) if params.pad == Pad::Drop => {
                let error =
                    BindError::param("min_duration", format!("`pad: drop` leaves nothing to hold against `{min}`"));
                return Err(error.hint("it belongs to `pad: zero`"));
            }
            Some(min) => (min.seconds() * f64::from(sample_rate)).ceil() as u64,
            None if params.pad == Pad::Drop => len,
            None => len.min(u64::from(sample_rate)),
        };
        if min_len > len {
            let message = format!("no crop of `{}` holds that much", params.duration);
            return Err(BindError::param("min_duration", message));
        }
        Ok(Self { sample_rate, len, hop, choose, pad: params.pad, min_len: min_len.max(1) })
    }
}

impl Stage for Crop {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        Ok(Box::new(CropOperator {
            plan: self.plan.clone(),
            schema: self.schema.clone(),
            seed: context.seed,
            track: None,
        }))
    }
}

struct CropOperator {
    plan: Plan,
    schema: SchemaRef,
    seed: u64,
    track: Option<Current>,
}

/// The track being cropped.
struct Current {
    origin: Origin,
    /// The last samples that have arrived, and the index of the first of them.
    buffer: Vec<f32>,
    buffer_start: u64,
    /// Number of the next window (`grid`) or candidate (`seeded`), and where it starts.
    next: u64,
    next_start: u64,
    emitted: u32,
    /// `seeded`: the windows chosen so far by rank, each with its start. Ranks are made unique by the candidate.
    chosen: BTreeMap<(u64, u64), (u64, Vec<f32>)>,
}

impl Current {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            buffer: Vec::new(),
            buffer_start: 0,
            next: 0,
            next_start: 0,
            emitted: 0,
            chosen: BTreeMap::new(),
        }
    }

    fn end(&self) -> u64 {
        self.buffer_start + self.buffer.len() as u64
    }

    /// The samples from `start` on, `len` or as many as there are.
    fn window(&self, start: u64, len: u64) -> &[f32] {
        let from = start.saturating_sub(self.buffer_start).min(self.buffer.len() as u64) as usize;
        let to = (start + len).saturating_sub(self.buffer_start).min(self.buffer.len() as u64) as usize;
        &self.buffer[from..to.max(from)]
    }
}

impl Operator for CropOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        for row in 0..batch.num_rows() {
            let samples = list_values(batch, "samples", row)?;
            if self.track.is_none() {
                let mut track = Current::new(Origin::read(batch, row)?);
                track.next_start = self.start_of(&track, 0);
                self.track = Some(track);
            }
            if let Some(track) = &mut self.track {
                track.buffer.extend_from_slice(samples);
            }
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, StageError> {
        let Some(mut track) = self.track.take() else { return Ok(Progress::Idle) };
        let mut progress = Progress::Idle;
        let mut emitted = 0;
        while track.next_start + self.plan.len <= track.end() {
            if emitted == CROPS_AT_A_TIME {
                progress = Progress::Pending;
                break;
            }
            if self.plan.choose.is_some() {
                self.judge(&mut track);
            } else {
                let samples = track.window(track.next_start, self.plan.len).to_vec();
                self.emit(&mut track, self.plan.len, samples, out)?;
                emitted += 1;
            }
            track.next += 1;
            track.next_start = self.start_of(&track, track.next);
        }
        self.forget(&mut track);
        self.track = Some(track);
        Ok(progress)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let Some(mut track) = self.track.take() else { return Ok(()) };
        let Plan { len, min_len, pad, .. } = self.plan;
        let end = track.end();
        if self.plan.choose.is_some() {
            let mut chosen: Vec<_> = std::mem::take(&mut track.chosen).into_values().collect();
            chosen.sort_by_key(|(start, _)| *start);
            for (start, samples) in chosen {
                track.next_start = start;
                self.emit(&mut track, len, samples, out)?;
            }
            // Candidates may all have been moved past the end of a short track.
            track.next_start = end.saturating_sub(len);
        }
        let last_reaches_end = track.next > 0 && track.next_start - self.plan.hop + len >= end;
        let reached = self.plan.choose.is_some() || last_reaches_end;
        let rest = end.saturating_sub(track.next_start);
        let fits = rest >= min_len && (pad == Pad::Zero || rest >= len);
        if fits && (track.emitted == 0 || !reached) {
            let mut samples = track.window(track.next_start, len).to_vec();
            samples.resize(len as usize, 0.0);
            self.emit(&mut track, rest, samples, out)?;
        }
        if track.emitted == 0 {
            let seconds = |samples: u64| samples as f64 / f64::from(self.plan.sample_rate);
            let (has, needs) = (seconds(end), seconds(min_len));
            let message = format!("{has:.2} s of audio, a crop needs {needs:.2} s");
            out.reject(track.origin.track_id, Rejection::new("too_short", message));
        }
        Ok(())
    }
}

impl CropOperator {
    /// Where window or candidate `index` starts.
    fn start_of(&self, track: &Current, index: u64) -> u64 {
        let place = index.saturating_mul(self.plan.hop);
        match self.plan.choose {
            Some(_) => place + Random::new(self.seed, &[track.origin.track_id.0, index, 0]).below(self.plan.hop),
            None => place,
        }
    }

    /// Keeps the complete candidate `track.next` if its rank is among the lowest.
    fn judge(&self, track: &mut Current) {
        let rank = Random::new(self.seed, &[track.origin.track_id.0, track.next, 1]).bits();
        let full = self.plan.choose.is_some_and(|choose| track.chosen.len() >= choose);
        if full {
            match track.chosen.last_entry() {
                Some(worst) if *worst.key() > (rank, track.next) => drop(worst.remove()),
                _ => return,
            }
        }
        let samples = track.window(track.next_start, self.plan.len).to_vec();
        track.chosen.insert((rank, track.next), (track.next_start, samples));
    }

    /// Drops samples that no window needs any more, when there are enough of them to be worth the move.
    fn forget(&self, track: &mut Current) {
        let needed = track.next_start.min(track.end().saturating_sub(self.plan.len));
        let dead = needed.saturating_sub(track.buffer_start);
        if dead >= self.plan.len.max(1 << 16) {
            track.buffer.drain(..dead as usize);
            track.buffer_start += dead;
        }
    }

    fn emit(
        &self,
        track: &mut Current,
        audio_len: u64,
        samples: Vec<f32>,
        out: &mut dyn Output,
    ) -> Result<(), StageError> {
        let seconds = |samples: u64| samples as f64 / f64::from(self.plan.sample_rate);
        let mut columns = track.origin.columns(1);
        columns.extend([
            Arc::new(UInt32Array::from(vec![track.emitted])) as ArrayRef,
            Arc::new(Float64Array::from(vec![seconds(track.next_start)])),
            Arc::new(Float64Array::from(vec![seconds(audio_len)])),
            fixed_tensor::<Float32Type>(self.plan.len as usize, samples),
        ]);
        track.emitted += 1;
        out.emit(RecordBatch::try_new(self.schema.clone(), columns)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
