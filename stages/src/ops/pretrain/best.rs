//! Which evaluation was the best so far.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::StageError;
use crate::storage::durable::write_durably;

/// File in the node's folder, so that a continued run knows.
const FILE: &str = "best.json";

/// The lowest held-out loss.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Best {
    /// The step after which it was found.
    pub(super) step: Option<u64>,
    /// Held-out loss in nats.
    loss: Option<f64>,
    /// Evaluations since.
    pub(super) stale: u64,
}

impl Best {
    /// Takes note of an evaluation, and says whether it is the best.
    pub(super) fn offer(&mut self, step: u64, loss: f64) -> bool {
        let better = self.loss.is_none_or(|best| loss < best);
        if better {
            *self = Self { step: Some(step), loss: Some(loss), stale: 0 };
        } else {
            self.stale += 1;
        }
        better
    }

    /// Writes it beside the checkpoints.
    pub(super) fn save(&self, dir: &Path) -> Result<(), StageError> {
        let json = serde_json::to_vec_pretty(self).map_err(|error| StageError::Failed(error.to_string()))?;
        let path = dir.join(FILE);
        write_durably(&path, &json).map_err(|error| StageError::Failed(error.to_string()))
    }

    /// Reads it, if it was written.
    pub(super) fn load(dir: &Path) -> Result<Self, StageError> {
        let path = dir.join(FILE);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(StageError::io(&path, source)),
        };
        serde_json::from_slice(&json)
            .map_err(|error| StageError::Failed(format!("`{}` cannot be read: {error}", path.display())))
    }
}
