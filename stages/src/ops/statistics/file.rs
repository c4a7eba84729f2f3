//! The file that a `statistics` stage writes and other graphs read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dsp::moments::Summary;
use crate::error::StageError;
use crate::storage::durable::write_durably;

/// Name of the file in its folder.
const FILE: &str = "statistics.json";

/// Statistics of views over a corpus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatisticsFile {
    /// Version of this format.
    omar_statistics: u32,
    /// By view.
    pub views: BTreeMap<String, ViewStatistics>,
    /// Where it was read from or written to.
    #[serde(skip)]
    path: PathBuf,
}

/// Statistics of a view.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewStatistics {
    /// Mean over crops of a crop's mean.
    pub mean: f64,
    /// Mean over crops of a crop's standard deviation.
    pub std: f64,
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Crops that were seen.
    pub crops: u64,
    /// Frames that were seen.
    pub frames: u64,
    /// The parameters of the transform: statistics of another one do not apply.
    pub parameters: BTreeMap<String, String>,
    /// Mean of each bin over all frames.
    pub bin_mean: Vec<f64>,
    /// Standard deviation of each bin over all frames.
    pub bin_std: Vec<f64>,
}

impl ViewStatistics {
    /// What was seen of a view with these parameters.
    pub fn new(summary: &Summary, parameters: BTreeMap<String, String>) -> Self {
        let Summary { crops, frames, mean, std, min, max, bin_mean, bin_std } = summary.clone();
        Self { mean, std, min, max, crops, frames, parameters, bin_mean, bin_std }
    }
}

impl StatisticsFile {
    const VERSION: u32 = 1;

    /// Statistics of these views.
    pub fn new(views: BTreeMap<String, ViewStatistics>) -> Self {
        Self { omar_statistics: Self::VERSION, views, path: PathBuf::new() }
    }

    /// The file that a graph means: the path itself if it is a `.json`, else the file in that folder.
    pub fn path(path: &Path) -> PathBuf {
        if path.extension().is_some_and(|extension| extension == "json") { path.to_owned() } else { path.join(FILE) }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => format!("there are no statistics at `{}`", path.display()),
            _ => format!("`{}`: {error}", path.display()),
        })?;
        let file: Self = serde_json::from_slice(&bytes).map_err(|error| format!("`{}`: {error}", path.display()))?;
        if file.omar_statistics != Self::VERSION {
            let (found, expected) = (file.omar_statistics, Self::VERSION);
            return Err(format!("`{}` is of version {found}, expected version {expected}", path.display()));
        }
        Ok(Self { path: path.to_owned(), ..file })
    }

    /// Writes a file, whole or not at all, and its folder if need be.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write(&self, path: &Path) -> Result<(), StageError> {
        let mut json = serde_json::to_vec_pretty(self).map_err(|error| StageError::Failed(error.to_string()))?;
        json.push(b'\n');
        Ok(write_durably(path, &json)?)
    }
}

impl fmt::Display for StatisticsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}
