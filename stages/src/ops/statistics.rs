//! `statistics`: mean and deviation of every view over a corpus, in one pass.
//!
//! Input edge `features`, not standardised; output edge `statistics`, a row per view. The numbers are also written to
//! `statistics.json`, from where `features` of any graph reads them: `normalize: {from: FOLDER}`.
//!
//! Crops of the `train` split count, without the zeros that short recordings are padded with.

mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, ListArray, RecordBatch, StringArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Float32Type, SchemaRef};
use omar_schemas::{
    Crop, Edge, Features, FeaturesSpec, Origin, Split, Standardized, Statistics as StatisticsEdge, StatisticsSpec,
    column, fixed_values,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dsp::moments::{Moments, Summary};
use crate::error::{BindError, StageError};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

pub use file::{StatisticsFile, ViewStatistics};

/// Parameters of `statistics`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StatisticsParams {
    /// Folder that `statistics.json` is written to.
    pub to: PathBuf,
}

/// The stage.
pub struct Statistics {
    spec: FeaturesSpec,
    to: PathBuf,
    schema: SchemaRef,
}

impl StageKind for Statistics {
    const NAME: &'static str = "statistics";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "mean and deviation of views over a corpus, for `features` to normalize with";
    const EXAMPLE: &'static str = "{stage: statistics, from: views, params: {to: runs/statistics}}";
    const SCOPE: Scope = Scope::Corpus { repeats: false };
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = StatisticsParams;

    fn bind(params: StatisticsParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let spec = inputs.spec::<Features>("in")?;
        if let Some(view) = spec.views.iter().find(|view| view.standardized != Standardized::No) {
            let message = format!("`{}` is standardised already, so its statistics say nothing", view.name);
            let hint = "write `normalize: none` in the `features` node that feeds this one";
            return Err(BindError::input_spec("in", message).hint(hint));
        }
        let schema = StatisticsEdge::schema(&StatisticsSpec { sample_rate: spec.sample_rate });
        Ok(Self { spec, to: params.to, schema })
    }
}

impl Stage for Statistics {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let moments = self.spec.views.iter().map(|view| Moments::new(view.bins as usize)).collect();
        // Without a run folder nothing is to be written anywhere.
        let to = context.run_dir.as_ref().map(|_| StatisticsFile::path(&self.to));
        Ok(Box::new(StatisticsOperator { spec: self.spec.clone(), moments, to, schema: self.schema.clone() }))
    }

    fn writes(&self) -> Vec<PathBuf> {
        vec![StatisticsFile::path(&self.to)]
    }
}

struct StatisticsOperator {
    spec: FeaturesSpec,
    moments: Vec<Moments>,
    to: Option<PathBuf>,
    schema: SchemaRef,
}

impl StatisticsOperator {
    fn row(&self, summaries: &[Summary]) -> Result<RecordBatch, StageError> {
        let number = |value: fn(&Summary) -> f64| -> ArrayRef {
            Arc::new(summaries.iter().map(|summary| Some(value(summary))).collect::<Float64Array>())
        };
        let count = |value: fn(&Summary) -> u64| -> ArrayRef {
            Arc::new(summaries.iter().map(|summary| Some(value(summary))).collect::<UInt64Array>())
        };
        let list = |values: fn(&Summary) -> &Vec<f64>| -> ArrayRef {
            let offsets = OffsetBuffer::from_lengths(summaries.iter().map(|summary| values(summary).len()));
            let values: Vec<f64> = summaries.iter().flat_map(|summary| values(summary).iter().copied()).collect();
            let item = Arc::new(Field::new("item", DataType::Float64, false));
            Arc::new(ListArray::new(item, offsets, Arc::new(Float64Array::from(values)), None))
        };
        let names: StringArray = self.spec.views.iter().map(|view| Some(view.name.as_str())).collect();
        let columns = vec![
            Arc::new(names) as ArrayRef,
            count(|summary| summary.crops),
            count(|summary| summary.frames),
            number(|summary| summary.mean),
            number(|summary| summary.std),
            number(|summary| f64::from(summary.min)),
            number(|summary| f64::from(summary.max)),
            list(|summary| &summary.bin_mean),
            list(|summary| &summary.bin_std),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Operator for StatisticsOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, _: &mut dyn Output) -> Result<Progress, StageError> {
        let audio_s = column::<Float64Array>(batch, "audio_s")?;
        let rate = f64::from(self.spec.sample_rate);
        for row in 0..batch.num_rows() {
            if Origin::read(batch, row)?.split != Split::Train {
                continue;
            }
            for (index, view) in self.spec.views.iter().enumerate() {
                let values = fixed_values::<Float32Type>(batch, &view.name, row)?;
                // The last frame of a full crop is centred on its end.
                let full = audio_s.value(row) * rate >= f64::from(self.spec.crop_samples) - 0.5;
                let audible = Crop::audible(audio_s.value(row), view.frame_rate(self.spec.sample_rate));
                let frames = if full { view.frames as usize } else { audible.min(view.frames as usize) };
                self.moments[index]
                    .add(&values[..frames * view.bins as usize])
                    .map_err(|error| StageError::Failed(error.to_string()))?;
            }
        }
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let summaries: Option<Vec<Summary>> = self.moments.iter().map(Moments::summary).collect();
        let Some(summaries) = summaries else {
            return Err(StageError::Failed("the corpus brought no crop of the `train` split".to_owned()));
        };
        if let Some(to) = &self.to {
            let views = self.spec.views.iter().zip(&summaries);
            let views: BTreeMap<String, ViewStatistics> = views
                .map(|(view, summary)| (view.name.clone(), ViewStatistics::new(summary, view.parameters.clone())))
                .collect();
            StatisticsFile::new(views).write(to)?;
        }
        out.emit(self.row(&summaries)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
