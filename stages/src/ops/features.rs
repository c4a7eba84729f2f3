//! `features`: crops to representations.
//!
//! Input edge `crop`, output edge `features`: one column per view. Any subset of the views can be computed in one node.
//! The transforms are in [`crate::dsp`] and [`crate::encodec`]; the settings of the published models are the presets
//! `mel_16k`, `mel_24k`, `cqt_16k` and `cqt_24k`.

mod normalize;
mod params;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{Float32Type, SchemaRef};
use omar_schemas::{
    Crop, CropSpec, Edge, Features as FeaturesEdge, FeaturesSpec, Origin, Standardized, ViewSpec, fixed_tensor,
    fixed_values,
};

use crate::dsp::DspError;
use crate::dsp::view::{View, ViewConfig};
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

pub use normalize::{Grain, Normalize};
pub use params::{CqtParams, CqtPreset, EncodecParams, FeaturesParams, MelParams, MelPreset, Views, WaveformParams};

/// The stage.
pub struct Features {
    spec: FeaturesSpec,
    views: Vec<ViewConfig>,
    files: Vec<PathBuf>,
    schema: SchemaRef,
    /// The views, planned by the first thread that starts; the others share what is large.
    planned: Mutex<Vec<Box<dyn View>>>,
}

impl StageKind for Features {
    const NAME: &'static str = "features";
    const VERSION: u32 = 2;
    const SUMMARY: &'static str = "representations of crops: mel, constant-Q, EnCodec, waveform";
    const EXAMPLE: &'static str = "{stage: features, from: crops, params: {views: {mel: {}, cqt: {}, waveform: {}}}}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = FeaturesParams;

    fn bind(params: FeaturesParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let crops = inputs.spec::<Crop>("in")?;
        let asked = params.views.asked(&crops)?;
        if asked.is_empty() {
            return Err(
                BindError::param("views", "expected at least one view, found none").hint("write `views: {mel: {}}`")
            );
        }
        let views = params.normalize.apply(params.standardize, asked)?;
        let standardized = params.normalize.words(params.standardize);
        let spec = |view: &ViewConfig| view_spec(view, &crops, standardized).map_err(|error| refused(view, &error));
        let specs = views.iter().map(spec).collect::<Result<_, _>>()?;
        let CropSpec { sample_rate, samples: crop_samples, .. } = crops;
        let spec = FeaturesSpec { sample_rate, crop_samples, views: specs };
        let schema = FeaturesEdge::schema(&spec);
        let files = views.iter().flat_map(ViewConfig::files).chain(params.normalize.file()).collect();
        Ok(Self { spec, views, files, schema, planned: Mutex::default() })
    }
}

fn view_spec(view: &ViewConfig, crops: &CropSpec, standardized: Standardized) -> Result<ViewSpec, DspError> {
    view.check()?;
    let (frames, bins) = (view.frames(crops.samples as usize), view.bins());
    // Lengths of fixed-size lists are 31 bits.
    if i32::try_from(frames as u64 * bins as u64).is_err() {
        let param = if bins > 1 { "hop_len" } else { "samples" };
        return Err(DspError::param(param, view.hop_len(), "few enough frames for 2^31 values a crop"));
    }
    let [bins, frames, hop_len] = [bins, frames, view.hop_len()].map(|value| value as u32);
    let parameters = view.parameters().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let (mean, std) = view.standardize().constants();
    Ok(ViewSpec { parameters, standardized, mean, std, ..ViewSpec::new(view.name(), bins, frames, hop_len) })
}

/// Points at the parameter that a transform refuses.
fn refused(view: &ViewConfig, error: &DspError) -> BindError {
    let param = match error {
        DspError::Param { param, .. } => format!("views.{}.{param}", view.name()),
        _ => format!("views.{}", view.name()),
    };
    BindError::param(param, error.to_string())
}

impl Stage for Features {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn uses_device(&self) -> bool {
        self.views.iter().any(|view| matches!(view, ViewConfig::Encodec(_)))
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if planned.is_empty() {
            let device = context.device()?;
            let build = |view: &ViewConfig| {
                view.build(&device).map_err(|error| StageError::Failed(format!("view `{}`: {error}", view.name())))
            };
            *planned = self.views.iter().map(build).collect::<Result<_, _>>()?;
        }
        let views: Vec<_> = planned.iter().map(|view| view.another()).collect();
        let batch = views.iter().map(|view| view.batch()).max().unwrap_or(1);
        let (spec, schema) = (self.spec.clone(), self.schema.clone());
        Ok(Box::new(FeaturesOperator { spec, views, schema, batch, waiting: Vec::new() }))
    }

    fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }
}

struct FeaturesOperator {
    spec: FeaturesSpec,
    views: Vec<Box<dyn View>>,
    schema: SchemaRef,
    /// Crops that are worth computing together.
    batch: usize,
    /// Fewer crops than that.
    waiting: Vec<RecordBatch>,
}

impl FeaturesOperator {
    /// Computes what is waiting, all crops at once.
    fn compute(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let waiting = std::mem::take(&mut self.waiting);
        let Some(first) = waiting.first() else { return Ok(()) };
        let mut crops = Vec::new();
        for batch in &waiting {
            for row in 0..batch.num_rows() {
                crops.push(fixed_values::<Float32Type>(batch, "samples", row)?);
            }
        }
        let mut columns = key_columns(&waiting)?;
        for (view, spec) in self.views.iter_mut().zip(&self.spec.views) {
            let len = spec.frames as usize * spec.bins as usize;
            let mut values = vec![0.0; crops.len() * len];
            let computed = view.forward_batch_into(&crops, &mut values);
            if computed.is_err() || !values.iter().all(|value| value.is_finite()) {
                let reason = computed.err().map_or("values that are not finite".to_owned(), |error| error.to_string());
                let reason = Rejection::new("numeric", format!("view `{}`: {reason}", spec.name));
                // The rows are all of one recording.
                out.reject(Origin::read(first, 0)?.track_id, reason);
                return Ok(());
            }
            columns.push(fixed_tensor::<Float32Type>(len, values));
        }
        out.emit(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        Ok(())
    }
}

/// The columns that name the crops.
fn key_columns(batches: &[RecordBatch]) -> Result<Vec<ArrayRef>, StageError> {
    if let [only] = batches {
        return Ok(only.columns()[..Crop::KEY_COLUMNS].to_vec());
    }
    let column = |index: usize| {
        let parts: Vec<_> = batches.iter().map(|batch| batch.column(index).as_ref()).collect();
        Ok(concat(&parts)?)
    };
    (0..Crop::KEY_COLUMNS).map(column).collect()
}

impl Operator for FeaturesOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        self.waiting.push(batch.clone());
        if self.waiting.iter().map(RecordBatch::num_rows).sum::<usize>() >= self.batch {
            self.compute(out)?;
        }
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        self.compute(out)
    }
}

#[cfg(test)]
mod tests;
