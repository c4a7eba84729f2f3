//! What a folder of rows says about where they come from.

use std::path::Path;

use arrow::datatypes::Schema;
use omar_schemas::edge_name;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::StorageError;

/// Name of the file that describes the node.
pub const NODE_FILE: &str = "_node.json";

/// The key under which every parquet file carries the same description.
pub const PROVENANCE_KEY: &str = "omar.node";

/// The node that made the rows, and all that decided what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name in the graph that made it.
    pub node: String,
    /// Its stage.
    pub stage: String,
    /// Version of the stage.
    pub version: u32,
    /// Parameters, with every default filled in.
    pub params: Value,
    /// Seed of the graph.
    pub seed: u64,
    /// Fingerprint in hexadecimal: changes with everything above and everything upstream.
    pub fingerprint: String,
    /// The nodes that lead to it, sources first.
    pub upstream: Vec<Upstream>,
    /// What the rows are. Filled in when stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<EdgeDescription>,
    /// Version of the program.
    pub omar_flow: String,
}

/// A node on the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Upstream {
    /// Its name.
    pub node: String,
    /// Its stage.
    pub stage: String,
    /// Version of the stage.
    pub version: u32,
    /// Parameters, with every default filled in.
    pub params: Value,
}

/// The kind of rows and what is constant along them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EdgeDescription {
    /// Name of the edge.
    pub name: String,
    /// Its version.
    pub version: u16,
    /// Its constants.
    pub spec: Value,
}

impl Node {
    /// Reads the description of a folder. `None` when it has none that this version can read.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn read(folder: &Path) -> Result<Option<Self>, StorageError> {
        let path = folder.join(NODE_FILE);
        match std::fs::read(&path) {
            Ok(json) => Ok(serde_json::from_slice(&json).ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io(path, error)),
        }
    }
}

impl EdgeDescription {
    /// From the metadata of a schema, if it is one of ours.
    pub fn of(schema: &Schema) -> Option<Self> {
        let metadata = schema.metadata();
        Some(Self {
            name: edge_name(schema)?.to_owned(),
            version: metadata.get("omar.edge_version")?.parse().ok()?,
            spec: serde_json::from_str(metadata.get("omar.spec")?).ok()?,
        })
    }
}
