//! `fit_codebook`: k-means codebooks for the patches of a corpus.
//!
//! Input edge `features`; output edge `codebook_fit`, a row per codebook. The centroids are written to
//! `codebook.safetensors`, from where `tokenize` of any graph reads them: `quantizer: {k_means: {weights: FOLDER}}`.
//!
//! A sample of the patches of the `train` split is kept in memory and fitted in the end. Which patches are sampled
//! depends on the seed and on track, crop and position, not on the order in which they come.

mod sample;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use arrow::datatypes::{Float32Type, SchemaRef};
use omar_schemas::{CodebookFit, CodebookFitSpec, Crop, Edge, Features, Origin, Split, ViewSpec, column, fixed_values};
use safetensors::tensor::{Dtype, TensorView};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::sample::Sample;
use super::tokenize::patch_samples;
use crate::dsp::patch::PatchShape;
use crate::error::{BindError, StageError};
use crate::quantize::k_means::fit::{Fit, FitConfig, fit};
use crate::quantize::k_means::tensor_name;
use crate::quantize::{KMeansConfig, QuantizeError};
use crate::seed;
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};
use crate::storage::durable::write_durably;

/// Name of the file in its folder.
const FILE: &str = "codebook.safetensors";

/// An iteration that lowers the distortion by less than this share is the last.
const TOLERANCE: f64 = 1e-4;

/// Parameters of `fit_codebook`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FitCodebookParams {
    /// Folder that `codebook.safetensors` is written to.
    pub to: PathBuf,
    /// Patches per second, in Hz, as in the `tokenize` node that is to use the codebooks.
    pub patch_rate: f64,
    /// Codebooks per view, 1 to 16; they differ in where they start.
    #[serde(default = "default_codebooks")]
    pub codebooks: usize,
    /// Centroids of a codebook, 2 to 65536.
    #[serde(default = "default_codebook_size")]
    pub codebook_size: usize,
    /// Patches per view that are kept in memory and fitted; at least 32 per centroid are worth having.
    #[serde(default = "default_patches")]
    pub patches: usize,
    /// Most iterations; fitting ends before when it stands still.
    #[serde(default = "default_iterations")]
    pub iterations: usize,
}

fn default_codebooks() -> usize {
    1
}

fn default_codebook_size() -> usize {
    1024
}

fn default_patches() -> usize {
    100_000
}

fn default_iterations() -> usize {
    50
}

/// The file with codebooks that a graph means: the path itself if it is a `.safetensors`, else the file in that folder.
pub fn codebook_file(path: &Path) -> PathBuf {
    let file = path.extension().is_some_and(|extension| extension == "safetensors");
    if file { path.to_owned() } else { path.join(FILE) }
}

/// The stage.
pub struct FitCodebook {
    params: FitCodebookParams,
    views: Vec<(ViewSpec, PatchShape)>,
    schema: SchemaRef,
}

impl StageKind for FitCodebook {
    const NAME: &'static str = "fit_codebook";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "k-means codebooks for the patches of a corpus, for `tokenize` to use";
    const EXAMPLE: &'static str =
        "{stage: fit_codebook, from: mel, params: {codebook_size: 1024, patch_rate: 25, to: runs/codebook}}";
    const SCOPE: Scope = Scope::Corpus { repeats: false };
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = FitCodebookParams;

    fn bind(params: FitCodebookParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let spec = inputs.spec::<Features>("in")?;
        let FitCodebookParams { codebooks, codebook_size, patches, iterations, .. } = params;
        KMeansConfig { input_len: 1, codebooks, codebook_size }.check().map_err(|error| refused(&error))?;
        if patches < codebook_size {
            let message = format!("expected at least `codebook_size` = {codebook_size} patches, found {patches}");
            return Err(BindError::param("patches", message));
        }
        if iterations == 0 {
            return Err(BindError::param("iterations", "expected 1 or more, found 0"));
        }
        let samples = patch_samples(&spec, params.patch_rate)?;
        let views = spec.views.into_iter().map(|view| {
            let shape = PatchShape { frames: (samples / view.hop_len) as usize, bins: view.bins as usize };
            (view, shape)
        });
        let schema = CodebookFit::schema(&CodebookFitSpec { patch_rate: params.patch_rate });
        Ok(Self { views: views.collect(), params, schema })
    }
}

fn refused(error: &QuantizeError) -> BindError {
    match error {
        QuantizeError::Param { param, .. } => BindError::param(*param, error.to_string()),
        _ => BindError::node(error.to_string()),
    }
}

impl Stage for FitCodebook {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let view = |(view, shape): &(ViewSpec, PatchShape)| {
            let seed = seed::derive_named(context.seed, &view.name);
            ViewPatches {
                name: view.name.clone(),
                shape: *shape,
                sample: Sample::new(shape.values(), self.params.patches, seed),
                cut: Vec::new(),
            }
        };
        Ok(Box::new(FitOperator {
            views: self.views.iter().map(view).collect(),
            params: self.params.clone(),
            seed: context.seed,
            // Without a run folder nothing is to be written anywhere.
            to: context.run_dir.as_ref().map(|_| codebook_file(&self.params.to)),
            schema: self.schema.clone(),
        }))
    }

    fn writes(&self) -> Vec<PathBuf> {
        vec![codebook_file(&self.params.to)]
    }
}

/// The patches of a view that were sampled so far.
struct ViewPatches {
    name: String,
    shape: PatchShape,
    sample: Sample,
    /// The patches of one crop.
    cut: Vec<f32>,
}

struct FitOperator {
    views: Vec<ViewPatches>,
    params: FitCodebookParams,
    seed: u64,
    to: Option<PathBuf>,
    schema: SchemaRef,
}

/// One fitted codebook.
struct Fitted {
    view: String,
    codebook: u32,
    input_len: usize,
    patches: u64,
    fit: Fit,
}

impl FitOperator {
    fn fit(&self) -> Result<Vec<Fitted>, StageError> {
        let mut fitted = Vec::new();
        for view in &self.views {
            let patches = view.sample.patches();
            let input_len = view.shape.values();
            for codebook in 0..self.params.codebooks as u32 {
                let FitCodebookParams { codebook_size, iterations, .. } = self.params;
                let seed = seed::derive(self.seed, &[u64::from(codebook)]);
                let config = FitConfig { input_len, codebook_size, iterations, tolerance: TOLERANCE, seed };
                let fit = fit(&patches, &config)
                    .map_err(|error| StageError::Failed(format!("view `{}`: {error}", view.name)))?;
                let patches = (patches.len() / input_len) as u64;
                fitted.push(Fitted { view: view.name.clone(), codebook, input_len, patches, fit });
            }
        }
        Ok(fitted)
    }

    fn write(&self, to: &Path, fitted: &[Fitted]) -> Result<(), StageError> {
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = fitted
            .iter()
            .map(|one| {
                let bytes = one.fit.centroids.iter().flat_map(|value| value.to_le_bytes()).collect();
                let shape = vec![one.fit.centroids.len() / one.input_len, one.input_len];
                (tensor_name(&one.view, one.codebook as usize), shape, bytes)
            })
            .collect();
        let failed = |error: safetensors::SafeTensorError| StageError::Failed(error.to_string());
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(failed)?)));
        let views = views.collect::<Result<Vec<_>, StageError>>()?;
        let metadata = [("patch_rate".to_owned(), self.params.patch_rate.to_string())];
        let bytes = safetensors::serialize(views, Some(metadata.into())).map_err(failed)?;
        Ok(write_durably(to, &bytes)?)
    }

    fn rows(&self, fitted: &[Fitted]) -> Result<RecordBatch, StageError> {
        let text: StringArray = fitted.iter().map(|one| Some(one.view.as_str())).collect();
        let small = |value: fn(&Fitted) -> u32| -> ArrayRef {
            Arc::new(fitted.iter().map(|one| Some(value(one))).collect::<UInt32Array>())
        };
        let number = |value: fn(&Fitted) -> f64| -> ArrayRef {
            Arc::new(fitted.iter().map(|one| Some(value(one))).collect::<Float64Array>())
        };
        let patches: UInt64Array = fitted.iter().map(|one| Some(one.patches)).collect();
        let columns = vec![
            Arc::new(text) as ArrayRef,
            small(|one| one.codebook),
            small(|one| one.fit.usage.counts().len() as u32),
            Arc::new(patches),
            small(|one| one.fit.iterations as u32),
            number(|one| one.fit.distortion.last().copied().unwrap_or_default()),
            number(|one| one.fit.usage.perplexity()),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

impl Operator for FitOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, _: &mut dyn Output) -> Result<Progress, StageError> {
        let crops = column::<UInt32Array>(batch, "crop_ix")?;
        let audio_s = column::<Float64Array>(batch, "audio_s")?;
        for row in 0..batch.num_rows() {
            let origin = Origin::read(batch, row)?;
            if origin.split != Split::Train {
                continue;
            }
            for view in &mut self.views {
                let features = fixed_values::<Float32Type>(batch, &view.name, row)?;
                let positions = view.shape.positions(features.len() / view.shape.bins);
                view.cut.resize(positions * view.shape.values(), 0.0);
                let cut = view.shape.cut_into(features, &mut view.cut);
                cut.map_err(|error| StageError::Failed(error.to_string()))?;
                // Positions that look at padding are not music.
                let audible = Crop::audible(audio_s.value(row), self.params.patch_rate);
                let used = positions.min(audible) * view.shape.values();
                view.sample.offer(&view.cut[..used], &[origin.track_id.0, u64::from(crops.value(row))]);
            }
        }
        Ok(Progress::Idle)
    }

    fn flush(&mut self, out: &mut dyn Output) -> Result<(), StageError> {
        let fitted = self.fit()?;
        if let Some(to) = &self.to {
            self.write(to, &fitted)?;
        }
        out.emit(self.rows(&fitted)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
