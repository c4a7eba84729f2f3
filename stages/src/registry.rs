//! The stage kinds that a graph can name.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::BindError;
use crate::stage::{Inputs, Scope, Stage, StageKind};

/// All stage kinds, by name. [`crate::ops::registry`] builds the one that the program uses; add your own with
/// [`Registry::with`].
#[derive(Debug, Default)]
pub struct Registry {
    kinds: Vec<Registered>,
    by_name: BTreeMap<&'static str, usize>,
}

/// One stage kind.
#[derive(Debug, Clone)]
pub struct Registered {
    /// As written after `stage:`.
    pub name: &'static str,
    /// See [`StageKind::VERSION`].
    pub version: u32,
    /// One line for people.
    pub summary: &'static str,
    /// A node that uses it, in YAML.
    pub example: &'static str,
    /// How batches arrive.
    pub scope: Scope,
    /// Port names.
    pub inputs: &'static [&'static str],
    /// JSON Schema of the parameters.
    pub params: fn() -> schemars::Schema,
    /// Reads parameters and gives them back with every default filled in, for checks that need no inputs.
    pub read: fn(Value) -> Result<Value, ParamsError>,
    /// Reads parameters and binds.
    pub bind: fn(Value, &Inputs<'_>) -> Result<Bound, ParamsError>,
}

/// A stage bound to a node.
pub struct Bound {
    /// The stage.
    pub stage: Box<dyn Stage>,
    /// Its parameters with every default filled in: what the fingerprint covers.
    pub params: Value,
}

/// Why binding failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ParamsError {
    /// The parameters are not of the right form.
    #[error("{message}")]
    Form {
        /// Path of the value that could not be read: `views.mel.hop_len`; empty for the parameters as a whole.
        path: String,
        /// What serde says.
        message: String,
    },
    /// The parameters do not fit the inputs or each other.
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl Registry {
    /// Adds a kind.
    ///
    /// # Panics
    /// When the name is taken.
    #[must_use]
    pub fn with<S: StageKind>(mut self) -> Self {
        let taken = self.by_name.insert(S::NAME, self.kinds.len());
        assert!(taken.is_none(), "two stages are called `{}`", S::NAME);
        self.kinds.push(Registered {
            name: S::NAME,
            version: S::VERSION,
            summary: S::SUMMARY,
            example: S::EXAMPLE,
            scope: S::SCOPE,
            inputs: S::INPUTS,
            params: || schemars::schema_for!(S::Params),
            read: |params| read::<S>(params).map(|(_, canonical)| canonical),
            bind: bind::<S>,
        });
        self
    }

    /// A kind by name.
    pub fn get(&self, name: &str) -> Option<&Registered> {
        self.by_name.get(name).map(|&index| &self.kinds[index])
    }

    /// All kinds, in the order of the pipeline.
    pub fn iter(&self) -> impl Iterator<Item = &Registered> {
        self.kinds.iter()
    }
}

fn bind<S: StageKind>(params: Value, inputs: &Inputs<'_>) -> Result<Bound, ParamsError> {
    let (params, canonical) = read::<S>(params)?;
    Ok(Bound { stage: Box::new(S::bind(params, inputs)?), params: canonical })
}

fn read<S: StageKind>(params: Value) -> Result<(S::Params, Value), ParamsError> {
    let params: S::Params = serde_path_to_error::deserialize(params).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        ParamsError::Form { path, message: error.into_inner().to_string() }
    })?;
    let canonical = serde_json::to_value(&params)
        .map_err(|error| ParamsError::Form { path: String::new(), message: error.to_string() })?;
    Ok((params, canonical))
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bound").field("params", &self.params).finish_non_exhaustive()
    }
}
