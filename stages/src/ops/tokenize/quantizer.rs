//! What a graph says about quantizers.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::StageError;
use crate::ops::fit_codebook::codebook_file;
use crate::quantize::finite_scalar::Bound;
use crate::quantize::weights::WeightsFile;
use crate::quantize::{
    FiniteScalar, FiniteScalarConfig, KMeans, KMeansConfig, QuantizeError, Quantizer, RandomProjection,
    RandomProjectionConfig,
};

/// The quantizers that exist.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum QuantizerParams {
    /// BEST-RQ: the nearest row of a random codebook to a random projection of the patch.
    RandomProjection(RandomProjectionParams),
    /// FSQ: every value of a random projection rounded to one of a few levels.
    FiniteScalar(FiniteScalarParams),
    /// The nearest of centroids that a `fit_codebook` stage fitted.
    KMeans(KMeansParams),
}

/// Parameters of random projection.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RandomProjectionParams {
    /// Codes per position, 1 to 16.
    pub codebooks: usize,
    /// Codes of a codebook, 2 to 65536.
    pub codebook_size: usize,
    /// Values that a patch is projected to.
    pub codebook_dim: usize,
    /// Where the weights come from.
    pub weights: WeightsParams,
}

/// Parameters of finite scalar quantization.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FiniteScalarParams {
    /// Levels of each value; their product is the number of codes.
    pub levels: Vec<usize>,
    /// Whether rounding keeps the symmetry of the levels, as the published model does.
    pub preserve_symmetry: bool,
    /// Where the weights come from.
    pub weights: WeightsParams,
}

/// Parameters of k-means.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KMeansParams {
    /// Codes per position, 1 to 16.
    #[serde(default = "default_codebooks")]
    pub codebooks: usize,
    /// Codes of a codebook, 2 to 65536.
    #[serde(default = "default_codebook_size")]
    pub codebook_size: usize,
    /// Folder that a `fit_codebook` stage wrote, or a safetensors file with `{view}.kmeans{i}.centroids`.
    pub weights: PathBuf,
}

fn default_codebooks() -> usize {
    1
}

fn default_codebook_size() -> usize {
    1024
}

/// Where frozen weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum WeightsParams {
    /// Drawn from the seed of the graph.
    #[default]
    Graph,
    /// Drawn from this seed.
    Seed(u64),
    /// As PyTorch draws them after `torch.manual_seed` of this; the published models used 0.
    TorchSeed(u64),
    /// Read from this safetensors file.
    File(PathBuf),
}

impl Default for RandomProjectionParams {
    fn default() -> Self {
        Self { codebooks: 1, codebook_size: 8192, codebook_dim: 16, weights: WeightsParams::Graph }
    }
}

impl Default for FiniteScalarParams {
    fn default() -> Self {
        Self { levels: vec![6; 5], preserve_symmetry: true, weights: WeightsParams::Graph }
    }
}

impl QuantizerParams {
    /// The file with its weights, if they come from one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::RandomProjection(params) => params.weights.file(),
            Self::FiniteScalar(params) => params.weights.file(),
            Self::KMeans(params) => Some(codebook_file(&params.weights)),
        }
    }

    /// Its name, as a graph writes it.
    pub(super) fn key(&self) -> &'static str {
        match self {
            Self::RandomProjection(_) => "random_projection",
            Self::FiniteScalar(_) => "finite_scalar",
            Self::KMeans(_) => "k_means",
        }
    }

    pub(super) fn check(&self) -> Result<(), QuantizeError> {
        match self {
            Self::RandomProjection(params) => params.config(1).check(),
            Self::FiniteScalar(params) => params.config(1).check(),
            Self::KMeans(params) => params.config(1).check(),
        }
    }

    /// Codes per position and codes per codebook.
    pub(super) fn sizes(&self) -> (u32, u32) {
        match self {
            Self::RandomProjection(params) => (params.codebooks as u32, params.codebook_size as u32),
            Self::FiniteScalar(params) => (1, params.levels.iter().product::<usize>() as u32),
            Self::KMeans(params) => (params.codebooks as u32, params.codebook_size as u32),
        }
    }

    pub(super) fn words(&self) -> String {
        match self {
            Self::RandomProjection(p) => {
                format!(
                    "random projection to {} values, {} codebooks of {}",
                    p.codebook_dim, p.codebooks, p.codebook_size
                )
            }
            Self::FiniteScalar(p) => format!("finite scalar quantization, levels {:?}", p.levels),
            Self::KMeans(p) => format!("k-means, {} codebooks of {}", p.codebooks, p.codebook_size),
        }
    }

    /// Draws or reads the weights.
    pub(super) fn build(&self, view: &str, input_len: usize, seed: u64) -> Result<Box<dyn Quantizer>, StageError> {
        let bytes = match self.file() {
            Some(path) => std::fs::read(&path).map_err(|error| StageError::io(path, error))?,
            None => Vec::new(),
        };
        let quantizer: Result<Box<dyn Quantizer>, QuantizeError> = match self {
            Self::RandomProjection(params) => params.build(view, input_len, seed, &bytes).map(boxed),
            Self::FiniteScalar(params) => params.build(view, input_len, seed, &bytes).map(boxed),
            Self::KMeans(params) => WeightsFile::new(&bytes)
                .and_then(|file| KMeans::from_file(params.config(input_len), &file, view))
                .map(boxed),
        };
        quantizer.map_err(|error| {
            let file = self.file().map(|path| format!(" in `{}`", path.display())).unwrap_or_default();
            StageError::Failed(format!("quantizer of view `{view}`: {error}{file}"))
        })
    }
}

fn boxed<Q: Quantizer + 'static>(quantizer: Q) -> Box<dyn Quantizer> {
    Box::new(quantizer)
}

impl WeightsParams {
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Graph | Self::Seed(_) | Self::TorchSeed(_) => None,
        }
    }
}

impl KMeansParams {
    fn config(&self, input_len: usize) -> KMeansConfig {
        KMeansConfig { input_len, codebooks: self.codebooks, codebook_size: self.codebook_size }
    }
}

impl RandomProjectionParams {
    fn config(&self, input_len: usize) -> RandomProjectionConfig {
        let Self { codebooks, codebook_size, codebook_dim, .. } = *self;
        RandomProjectionConfig { input_len, codebooks, codebook_size, codebook_dim }
    }

    fn build(&self, view: &str, input_len: usize, seed: u64, bytes: &[u8]) -> Result<RandomProjection, QuantizeError> {
        let config = self.config(input_len);
        match self.weights {
            WeightsParams::Graph => RandomProjection::seeded(config, seed),
            WeightsParams::Seed(seed) => RandomProjection::seeded(config, seed),
            WeightsParams::TorchSeed(seed) => RandomProjection::torch_seeded(config, seed),
            WeightsParams::File(_) => RandomProjection::from_file(config, &WeightsFile::new(bytes)?, view),
        }
    }
}

impl FiniteScalarParams {
    fn config(&self, input_len: usize) -> FiniteScalarConfig {
        let bound = if self.preserve_symmetry { Bound::Symmetric } else { Bound::Standard };
        FiniteScalarConfig { input_len, levels: self.levels.clone(), bound }
    }

    fn build(&self, view: &str, input_len: usize, seed: u64, bytes: &[u8]) -> Result<FiniteScalar, QuantizeError> {
        let config = self.config(input_len);
        match self.weights {
            WeightsParams::Graph => FiniteScalar::seeded(config, seed),
            WeightsParams::Seed(seed) => FiniteScalar::seeded(config, seed),
            WeightsParams::TorchSeed(seed) => FiniteScalar::torch_seeded(config, seed),
            WeightsParams::File(_) => FiniteScalar::from_file(config, &WeightsFile::new(bytes)?, view),
        }
    }
}
