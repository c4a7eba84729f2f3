//! Saving a trainer, and continuing from what was saved.

use super::super::checkpoint::{Checkpoint, State};
use super::super::error::TrainError;
use super::average::Average;
use super::{Trainer, TrainerConfig};
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

impl Trainer {
    /// Writes a checkpoint under `dir` and gives its folder. `cursor` says where the data stream stands; it comes back
    /// from [`Trainer::resume`] as it is.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path, cursor: serde_json::Value) -> Result<PathBuf, TrainError> {
        let config = serde_json::to_value(&self.config).expect("a configuration is plain data and always serialises");
        let state = State::new(self.step, self.seed, config, cursor);
        let average = self.average.as_ref().map(Average::tensors);
        let (model, optimizer) = (self.model.weights().tensors(), self.optimizer.tensors()?);
        let checkpoint = Checkpoint { model, optimizer, average, state };
        checkpoint.write(dir)
    }

    /// Takes over the weights of an encoder, by published name, before the first step; the head keeps its fresh ones.
    ///
    /// # Errors
    /// The first tensor that is missing or has another shape; nothing is changed then.
    pub fn start_from(&mut self, encoder: &HashMap<String, Tensor>) -> Result<(), TrainError> {
        let weights = self.model.weights();
        weights.assign_part(encoder, |name| !name.starts_with("linear."))?;
        self.average = self.config.optimizer.average.map(|decay| Average::new(decay, weights)).transpose()?;
        Ok(())
    }

    /// Continues from the checkpoint in folder `path`, and gives its cursor. The trainer must have been made with the
    /// configuration and seed that the checkpoint was written with: continuing differently would be another run.
    ///
    /// # Errors
    /// What is different, missing, or of another shape; the trainer is then not to be used.
    pub fn resume(&mut self, path: &Path) -> Result<serde_json::Value, TrainError> {
        let checkpoint = Checkpoint::read(path, &self.device)?;
        let fail = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
        let (found, expected) = (&checkpoint.state.config, as_read(&self.config));
        if let Some((at, found, expected)) = difference(found, &expected, "") {
            return Err(fail(format!("it was written with `{at}` = {found}, this run has {expected}")));
        }
        if checkpoint.state.seed != self.seed {
            return Err(fail(format!("its seed is {}, this run's is {}", checkpoint.state.seed, self.seed)));
        }
        self.model.weights().assign(&checkpoint.model).map_err(|error| fail(error.to_string()))?;
        let steps = checkpoint.state.step;
        self.optimizer.restore(&checkpoint.optimizer, steps).map_err(|error| fail(error.to_string()))?;
        if let (Some(average), Some(tensors)) = (&mut self.average, &checkpoint.average) {
            average.restore(tensors).map_err(|error| fail(error.to_string()))?;
        }
        self.step = steps;
        Ok(checkpoint.state.cursor)
    }
}

/// The configuration as it comes back from a file: serde_json may read a float one bit off what was written.
fn as_read(config: &TrainerConfig) -> serde_json::Value {
    let json = serde_json::to_string(config).expect("a configuration is plain data and always serialises");
    serde_json::from_str(&json).expect("what serialises is JSON")
}

/// The first value in which two configurations differ: its path, and both values.
fn difference(a: &serde_json::Value, b: &serde_json::Value, at: &str) -> Option<(String, String, String)> {
    use serde_json::Value;
    match (a, b) {
        (Value::Object(left), Value::Object(right)) => {
            let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let get = |side: &serde_json::Map<String, Value>| side.get(key).cloned().unwrap_or(Value::Null);
                difference(&get(left), &get(right), &at)
            })
        }
        _ => (a != b).then(|| (at.to_owned(), a.to_string(), b.to_string())),
    }
}
