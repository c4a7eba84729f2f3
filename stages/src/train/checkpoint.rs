//! Checkpoints: a folder `step-000001000` with weights, moments and state, there as a whole or not at all.

use super::error::TrainError;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Weights and running statistics, under the published names.
const MODEL: &str = "model.safetensors";
/// The optimiser's moments, `opt.m.*` and `opt.v.*`.
const OPTIMIZER: &str = "optimizer.safetensors";
/// Averaged weights under the published names, where there are any.
const AVERAGE: &str = "average.safetensors";
/// Everything else.
const STATE: &str = "state.json";
/// What this version writes; another number cannot be resumed from.
const FORMAT: u32 = 1;

/// What a checkpoint holds beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Layout of the checkpoint.
    format: u32,
    /// Version of the program that wrote it.
    written_by: String,
    /// Completed steps.
    pub step: u64,
    /// Seed of weights, masks and dropout.
    pub seed: u64,
    /// Configuration of the trainer.
    pub config: serde_json::Value,
    /// Where the data stream stands; its meaning is the caller's.
    pub cursor: serde_json::Value,
}

impl State {
    /// The state after `step` steps.
    pub fn new(step: u64, seed: u64, config: serde_json::Value, cursor: serde_json::Value) -> Self {
        Self { format: FORMAT, written_by: env!("CARGO_PKG_VERSION").to_owned(), step, seed, config, cursor }
    }
}

/// A checkpoint in memory.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Weights and running statistics by published name.
    pub model: HashMap<String, Tensor>,
    /// The optimiser's moments by name.
    pub optimizer: HashMap<String, Tensor>,
    /// Moving averages of the weights by published name, where the run keeps them.
    pub average: Option<HashMap<String, Tensor>>,
    /// Everything else.
    pub state: State,
}

impl Checkpoint {
    /// Writes the checkpoint under `dir` and gives its folder, `dir/step-000001000`.
    ///
    /// The files go to a temporary folder beside it and reach the disk before that is renamed, so a folder with the final
    /// name is always complete. One that is there already is replaced.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, TrainError> {
        let path = dir.join(format!("step-{:09}", self.state.step));
        let temporary = dir.join(format!(".step-{:09}.tmp", self.state.step));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| TrainError::Io { path, source }
        };
        remove(&temporary)?;
        fs::create_dir_all(&temporary).map_err(at(&temporary))?;
        let average = self.average.as_ref().map(|average| (AVERAGE, average));
        let files: Vec<_> = [(MODEL, &self.model), (OPTIMIZER, &self.optimizer)].into_iter().chain(average).collect();
        for (name, tensors) in &files {
            candle_core::safetensors::save(tensors, temporary.join(name)).map_err(|error| {
                // What was there before still is; half of a new one is of use to nobody.
                let _gone = fs::remove_dir_all(&temporary);
                TrainError::Checkpoint { path: path.clone(), reason: format!("`{name}` cannot be written: {error}") }
            })?;
        }
        let json = serde_json::to_string_pretty(&self.state).map_err(|error| TrainError::Checkpoint {
            path: path.clone(),
            reason: format!("its state cannot be written: {error}"),
        })?;
        fs::write(temporary.join(STATE), json + "\n").map_err(at(&temporary))?;
        for name in files.iter().map(|(name, _)| *name).chain([STATE]) {
            let file = temporary.join(name);
            File::open(&file).and_then(|f| f.sync_all()).map_err(at(&file))?;
        }
        File::open(&temporary).and_then(|f| f.sync_all()).map_err(at(&temporary))?;
        remove(&path)?;
        fs::rename(&temporary, &path).map_err(at(&path))?;
        File::open(dir).and_then(|f| f.sync_all()).map_err(at(dir))?;
        Ok(path)
    }

    /// Reads the checkpoint in folder `path`.
    ///
    /// # Errors
    /// When a file is missing, damaged, or of another format.
    pub fn read(path: &Path, device: &Device) -> Result<Self, TrainError> {
        let fail = |reason: String| TrainError::Checkpoint { path: path.to_owned(), reason };
        let file = path.join(STATE);
        let json = fs::read_to_string(&file).map_err(|source| TrainError::Io { path: file, source })?;
        let state: State =
            serde_json::from_str(&json).map_err(|error| fail(format!("`{STATE}` cannot be read: {error}")))?;
        if state.format != FORMAT {
            return Err(fail(format!("format {}, expected {FORMAT}", state.format)));
        }
        let load = |name: &str| {
            candle_core::safetensors::load(path.join(name), device)
                .map_err(|error| fail(format!("`{name}` cannot be read: {error}")))
        };
        let average = path.join(AVERAGE).exists().then(|| load(AVERAGE)).transpose()?;
        Ok(Self { model: load(MODEL)?, optimizer: load(OPTIMIZER)?, average, state })
    }
}

/// Removes a folder that may be absent.
fn remove(path: &Path) -> Result<(), TrainError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(TrainError::Io { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Complete checkpoints under `dir`, oldest step first; none if there is no such folder.
fn list(dir: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(TrainError::Io { path: dir.to_owned(), source }),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| TrainError::Io { path: dir.to_owned(), source })?.path();
        if let Some(step) = step_of(&path) {
            steps.push((step, path));
        }
    }
    steps.sort();
    Ok(steps.into_iter().map(|(_, path)| path).collect())
}

/// The checkpoint of the latest step under `dir`, if there is one.
///
/// # Errors
/// When the folder cannot be listed.
pub fn latest(dir: &Path) -> Result<Option<PathBuf>, TrainError> {
    Ok(list(dir)?.pop())
}

/// Removes all but the `keep` latest checkpoints under `dir` and those whose step `spared` names.
///
/// # Errors
/// When one cannot be removed.
pub fn prune(dir: &Path, keep: usize, spared: impl Fn(u64) -> bool) -> Result<(), TrainError> {
    let checkpoints = list(dir)?;
    let surplus = checkpoints.len().saturating_sub(keep);
    checkpoints[..surplus].iter().filter(|path| !step_of(path).is_some_and(&spared)).try_for_each(|path| remove(path))
}

/// The step in the name of a checkpoint's folder.
fn step_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(step: u64) -> Checkpoint {
        let tensor = Tensor::new(&[1.5f32, -2.0], &Device::Cpu).expect("two values make a tensor");
        Checkpoint {
            model: HashMap::from([("net.x".to_owned(), tensor.clone())]),
            optimizer: HashMap::from([("opt.m.net.x".to_owned(), tensor)]),
            average: None,
            state: State::new(step, u64::MAX, serde_json::json!({"lr": 0.1}), serde_json::json!([1, 2])),
        }
    }

    #[test]
    fn what_was_written_is_read_and_the_latest_is_found() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(latest(&dir.path().join("absent")).expect("absent is no error"), None);
        for step in [900, 1000, 1100] {
            checkpoint(step).write(dir.path()).expect("it is written");
        }
        // Writing a step again replaces it; an unfinished folder is not taken for a checkpoint.
        checkpoint(1000).write(dir.path()).expect("it is written");
        fs::create_dir(dir.path().join(".step-000002000.tmp")).expect("a folder");
        let path = latest(dir.path()).expect("the folder is listed").expect("there are checkpoints");
        assert!(path.ends_with("step-000001100"));
        let read = Checkpoint::read(&path, &Device::Cpu).expect("it is read");
        assert_eq!(read.state, checkpoint(1100).state);
        assert_eq!(read.model["net.x"].to_vec1::<f32>().expect("values"), [1.5, -2.0]);
        prune(dir.path(), 1, |step| step == 900).expect("old ones go");
        assert_eq!(list(dir.path()).expect("the folder is listed"), [dir.path().join("step-000000900"), path]);
    }

    #[test]
    fn a_damaged_checkpoint_says_which_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = checkpoint(1).write(dir.path()).expect("it is written");
        fs::write(path.join(OPTIMIZER), b"nonsense").expect("a file");
        let error = Checkpoint::read(&path, &Device::Cpu).expect_err("it is damaged").to_string();
        assert!(error.contains("`optimizer.safetensors` cannot be read"), "{error}");
    }
}
