//! Where the mean and deviation of a view come from.

use std::path::{Path, PathBuf};

use omar_schemas::Standardized;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::params::Asked;
use crate::dsp::compress::Standardize;
use crate::dsp::view::ViewConfig;
use crate::error::BindError;
use crate::ops::statistics::{StatisticsFile, ViewStatistics};

/// Where means and deviations come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Normalize {
    /// From the preset of a view, or its `mean` and `std`.
    #[default]
    Preset,
    /// Nowhere: values stay as the transform gives them.
    None,
    /// From the folder that a `statistics` stage wrote.
    From(PathBuf),
}

/// How finely values are standardised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grain {
    /// One mean and one deviation for a view.
    #[default]
    Global,
    /// A mean and a deviation for every bin of a view.
    PerBin,
}

/// What a graph says about the mean and deviation of a view.
pub(super) struct Constants {
    pub(super) mean: Option<f64>,
    pub(super) std: Option<f64>,
    /// Those of the preset that applies.
    pub(super) preset: Option<(f64, f64)>,
}

/// Bins that hardly vary (silence above the band limit of the corpus) are not blown up: no deviation counts as smaller
/// than this share of that of the view.
const SMALLEST_BIN_STD: f64 = 1e-3;

impl Normalize {
    /// The file with the statistics, if there is to be one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::From(path) => Some(StatisticsFile::path(path)),
            Self::Preset | Self::None => None,
        }
    }

    /// Standardises the views as asked.
    pub(super) fn apply(&self, grain: Grain, views: Vec<Asked>) -> Result<Vec<ViewConfig>, BindError> {
        if grain == Grain::PerBin && !matches!(self, Self::From(_)) {
            let message = "`per_bin` needs a mean and a deviation for every bin, which presets do not have";
            let hint = "run a graph with a `statistics` stage (configs/statistics.yaml) and name what it wrote: \
                        `normalize: {from: runs/statistics}`";
            return Err(BindError::param("standardize", message).hint(hint));
        }
        let statistics = self.file().map(|path| self.read(&path)).transpose()?;
        let standardized = |asked: Asked| {
            let Asked { view, constants } = asked;
            let standardize = match (&statistics, self) {
                (Some(file), _) => {
                    constants.refuse(&view)?;
                    from_statistics(file, grain, &view)?
                }
                (None, Self::None) => {
                    constants.refuse(&view)?;
                    Standardize::NONE
                }
                (None, _) => constants.standardize(&view)?,
            };
            Ok(view.with_standardize(standardize))
        };
        views.into_iter().map(standardized).collect()
    }

    fn read(&self, path: &Path) -> Result<StatisticsFile, BindError> {
        StatisticsFile::read(path).map_err(|message| {
            let hint = "a graph with a `statistics` stage writes it: `omar-flow run configs/statistics.yaml`";
            BindError::param("normalize.from", message).hint(hint)
        })
    }

    /// What it does to values, as the edge says it.
    pub(super) fn words(&self, grain: Grain) -> Standardized {
        match (self, grain) {
            (Self::None, _) => Standardized::No,
            (_, Grain::Global) => Standardized::Global,
            (_, Grain::PerBin) => Standardized::PerBin,
        }
    }
}

impl Constants {
    /// The mean and deviation of the view's own parameters or of its preset.
    fn standardize(&self, view: &ViewConfig) -> Result<Standardize, BindError> {
        let mean = self.mean.or(self.preset.map(|preset| preset.0));
        let std = self.std.or(self.preset.map(|preset| preset.1));
        match (mean, std) {
            (Some(mean), Some(std)) => Ok(Standardize::Global { mean, std }),
            _ => {
                let message = "there is no preset for this sample rate, so its mean and deviation are not known";
                let hint = "give `mean` and `std`, or measure them with a `statistics` stage (configs/statistics.yaml) and \
                            write `normalize: {from: runs/statistics}`, or leave values as they are with `normalize: none`";
                Err(BindError::param(format!("views.{}", view.name()), message).hint(hint))
            }
        }
    }

    /// Two sources of one number would leave the reader guessing.
    fn refuse(&self, view: &ViewConfig) -> Result<(), BindError> {
        let given = [("mean", self.mean), ("std", self.std)].into_iter().find(|(_, value)| value.is_some());
        match given {
            Some((name, _)) => {
                let message = format!("`{name}` is given here, and `normalize` says something else");
                let hint = "leave one of them out";
                Err(BindError::param(format!("views.{}.{name}", view.name()), message).hint(hint))
            }
            None => Ok(()),
        }
    }
}

/// The mean and deviation that a corpus has, if they were measured of the very same view.
fn from_statistics(file: &StatisticsFile, grain: Grain, view: &ViewConfig) -> Result<Standardize, BindError> {
    let refused = |message: String| BindError::param("normalize.from", message);
    let Some(found) = file.views.get(view.name()) else {
        let names: Vec<&str> = file.views.keys().map(String::as_str).collect();
        let message = format!("`{}` holds statistics of {}, not of `{}`", file, names.join(", "), view.name());
        return Err(refused(message).hint("add the view to the graph that makes the statistics"));
    };
    if let Some((name, here, there)) = difference(found, view) {
        let message = format!(
            "the statistics of `{}` in `{file}` were made with {name} {there}, here it is {here}: they do not apply",
            view.name()
        );
        return Err(refused(message).hint("make them again with the parameters of this graph"));
    }
    Ok(match grain {
        Grain::Global => Standardize::Global { mean: found.mean, std: found.std },
        Grain::PerBin => {
            let std = found.bin_std.iter().map(|std| std.max(SMALLEST_BIN_STD * found.std)).collect();
            Standardize::PerBin { mean: found.bin_mean.clone(), std }
        }
    })
}

/// The first parameter in which a view differs from the one whose statistics these are: name, value here, value there.
fn difference(found: &ViewStatistics, view: &ViewConfig) -> Option<(&'static str, String, String)> {
    view.parameters().into_iter().find_map(|(name, here)| {
        let there = found.parameters.get(name).cloned().unwrap_or_else(|| "unknown".to_owned());
        (there != here).then_some((name, here, there))
    })
}
