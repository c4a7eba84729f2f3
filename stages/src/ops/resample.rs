//! `resample`: every track to one sample rate.
//!
//! Input edge `audio` (any rates), output edge `audio` (one rate). See [`crate::dsp::resample`] for what it does to the
//! signal: no delay, exact lengths, the same samples however a track was cut into blocks.

use std::path::PathBuf;

use arrow::array::{Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Audio, AudioSpec, Edge, Origin, column, list_values};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::decode::Block;
use crate::dsp::resample::{Cascade, Method, ResampleError};
use crate::encoder::EncoderFolder;
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Rates that music is worked on at, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=384_000;

/// Parameters of `resample`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResampleParams {
    /// Rate that every track gets, in Hz: 24000 for the published models, 16000 for the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// The rate is that which this encoder hears instead: a folder as in `embed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// How to compute the samples between the samples.
    #[serde(default)]
    pub method: Method,
    /// Rate in Hz, below `sample_rate`, that every track goes through on the way, so that nothing above half of it is
    /// left. `bandlimit: 16000` with `sample_rate: 24000` is how the published 24 kHz models were trained: by `method` to
    /// 16 kHz, and from there always by `windowed_sinc`. (They also rounded to float16 in between, which is left out.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandlimit: Option<u32>,
}

/// The bound stage.
#[derive(Debug)]
pub struct Resample {
    params: ResampleParams,
    rate: u32,
    schema: SchemaRef,
}

impl StageKind for Resample {
    const NAME: &'static str = "resample";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "every track at one sample rate";
    const EXAMPLE: &'static str = "{stage: resample, from: audio, params: {sample_rate: 24000}}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = ResampleParams;

    fn bind(params: ResampleParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        inputs.spec::<Audio>("in")?;
        let rate = rate(&params)?;
        if !RATES.contains(&rate) {
            let error = BindError::param("sample_rate", format!("expected a rate in Hz, found {rate}"));
            return Err(if rate < 400 { error.hint(format!("{rate} kHz is `{}`", rate * 1000)) } else { error });
        }
        if let Some(limit) = params.bandlimit.filter(|limit| !(*RATES.start()..rate).contains(limit)) {
            let expected = format!("expected a rate in Hz below the {rate} of `sample_rate`, found {limit}");
            let error = BindError::param("bandlimit", expected);
            return Err(if limit < 400 { error.hint(format!("{limit} kHz is `{}`", limit * 1000)) } else { error });
        }
        let schema = Audio::schema(&AudioSpec { sample_rate: Some(rate) });
        Ok(Self { params, rate, schema })
    }
}

/// The rate that is asked for, in Hz.
fn rate(params: &ResampleParams) -> Result<u32, BindError> {
    match (params.sample_rate, &params.encoder) {
        (Some(rate), None) => Ok(rate),
        (None, Some(encoder)) => match EncoderFolder::open(encoder) {
            Ok(found) => Ok(found.manifest.sample_rate),
            Err(error) => Err(BindError::param("encoder", error.to_string())),
        },
        (Some(_), Some(_)) => {
            Err(BindError::param("encoder", "expected either `sample_rate` or `encoder`, found both"))
        }
        (None, None) => Err(BindError::node("expected `sample_rate`, found none").hint("write `sample_rate: 24000`")),
    }
}

impl Stage for Resample {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        Ok(Box::new(ResampleOperator {
            params: self.params.clone(),
            rate: self.rate,
            schema: self.schema.clone(),
            plan: None,
            track: None,
        }))
    }
}

struct ResampleOperator {
    params: ResampleParams,
    rate: u32,
    schema: SchemaRef,
    /// The filter of the last input rate, kept from track to track.
    plan: Option<(u32, Cascade)>,
    track: Option<Current>,
}

/// The track being resampled.
struct Current {
    origin: Origin,
    start: u64,
    declared_len: Option<u64>,
}

impl ResampleOperator {
    fn plan(&mut self, input_rate: u32) -> Result<&mut Cascade, ResampleError> {
        let (sample_rate, ResampleParams { method, bandlimit, .. }) = (self.rate, self.params.clone());
        let planned = self.plan.take().filter(|(rate, _)| *rate == input_rate);
        let plan = match planned {
            Some(plan) => plan,
            None => (input_rate, Cascade::new(input_rate, sample_rate, method, bandlimit)?),
        };
        Ok(&mut self.plan.insert(plan).1)
    }

    fn emit(&mut self, samples: Vec<f32>, out: &mut dyn Output) -> Result<(), StageError> {
        let Some(track) = self.track.as_mut().filter(|_| !samples.is_empty()) else { return Ok(()) };
        let (start, declared_len) = (track.start, track.declared_len);
        track.start += samples.len() as u64;
        let block = Block { sample_rate: self.rate, start, declared_len, samples };
        out.emit(block.into_batch(&self.schema, &track.origin)?);
        Ok(())
    }
}

impl Operator for ResampleOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        let rates = column::<UInt32Array>(batch, "sample_rate")?;
        let lengths = column::<UInt64Array>(batch, "declared_len")?;
        for row in 0..batch.num_rows() {
            let samples = list_values(batch, "samples", row)?;
            let resampler = match self.plan(rates.value(row)) {
                Ok(resampler) => resampler,
                Err(error) => {
                    let origin = Origin::read(batch, row)?;
                    out.reject(origin.track_id, Rejection::new("unsupported", error.to_string()));
                    return Ok(Progress::Idle);
                }
            };
            let mut resampled = Vec::with_capacity(resampler.output_len(samples.len() as u64) as usize);
            resampler.push(samples, &mut resampled).map_err(failed)?;
            let declared_len = lengths.is_valid(row).then(|| resampler.output_len(lengths.value(row)));
            if self.track.is_none() {
                self.track = Some(Current { origin: Origin::read(batch, row)?, start: 0, declared_len });
            }
            self.emit(resampled, out)?;
        }
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        if let Some((_, resampler)) = &mut self.plan {
            let mut rest = Vec::new();
            resampler.finish(&mut rest).map_err(failed)?;
            self.emit(rest, out)?;
        }
        self.track = None;
        Ok(())
    }
}

/// The arithmetic fails only when it is used wrongly, which no file can bring about.
fn failed(error: ResampleError) -> StageError {
    StageError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use omar_schemas::column;

    use super::*;
    use crate::collect::{audio, run, start};

    fn bind(sample_rate: u32) -> Result<Resample, BindError> {
        bind_limited(sample_rate, None)
    }

    fn bind_limited(sample_rate: u32, bandlimit: Option<u32>) -> Result<Resample, BindError> {
        let schema = Audio::schema(&AudioSpec { sample_rate: None });
        let params = ResampleParams { sample_rate: Some(sample_rate), encoder: None, method: Method::Fft, bandlimit };
        Resample::bind(params, &Inputs::new(vec![("in", &schema)]))
    }

    fn samples(batches: &[RecordBatch]) -> Vec<f32> {
        batches.iter().flat_map(|batch| list_values(batch, "samples", 0).expect("a column").to_vec()).collect()
    }

    #[test]
    fn tracks_of_any_rate_come_out_at_one_and_do_not_leak_into_each_other() {
        let stage = bind(24_000).expect("it binds");
        let mut operator = start(&stage, 0);
        let tone: Vec<f32> = (0..44_100).map(|i| (i as f32 * 0.05).sin()).collect();
        let mut first = Vec::new();
        for (rate, block_len) in [(44_100, 10_000), (24_000, 7_000), (44_100, 333)] {
            let out = run(&mut *operator, &audio("a", &tone, rate, block_len));
            let resampled = samples(&out.batches);
            assert_eq!(resampled.len(), (44_100 * 24_000usize).div_ceil(rate as usize));
            for batch in &out.batches {
                let declared = column::<UInt64Array>(batch, "declared_len").expect("a column").value(0);
                assert_eq!(declared, resampled.len() as u64);
                assert_eq!(column::<UInt32Array>(batch, "sample_rate").expect("a column").value(0), 24_000);
            }
            match rate {
                24_000 => assert_eq!(resampled, tone),
                _ if first.is_empty() => first = resampled,
                _ => assert!(first == resampled, "the same track again, in other blocks"),
            }
        }
    }

    #[test]
    fn a_band_limit_keeps_lengths_and_rates() {
        let stage = bind_limited(24_000, Some(16_000)).expect("it binds");
        let out = run(&mut *start(&stage, 0), &audio("a", &[0.25; 44_100], 44_100, 10_000));
        assert_eq!(samples(&out.batches).len(), 24_000);
        let declared = column::<UInt64Array>(&out.batches[0], "declared_len").expect("a column").value(0);
        assert_eq!(declared, 24_000);
        for limit in [24_000, 48_000, 16] {
            assert!(bind_limited(24_000, Some(limit)).is_err(), "{limit} Hz");
        }
    }

    #[test]
    fn kilohertz_are_pointed_out() {
        assert_eq!(bind(24).expect_err("too low").hint.as_deref(), Some("24 kHz is `24000`"));
        assert!(bind(0).is_err());
    }
}
