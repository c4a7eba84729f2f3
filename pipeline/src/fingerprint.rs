//! A name for what a node computes: equal when the output would be equal, different when it might differ.
//!
//! It covers the stage and its version, the output edge and its version, all parameters with their defaults, the seed,
//! the files that the stage reads (weights) and what feeds the node. It does not cover names of nodes, the order of
//! keys, comments, threads or devices.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;

use arrow::datatypes::Schema;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// A fingerprint. Shown as 12 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// All 64 hexadecimal digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a fingerprint covers, besides what feeds the node.
pub(crate) struct Stage<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: u32,
    pub(crate) schema: &'a Schema,
    pub(crate) params: &'a Value,
    pub(crate) seed: u64,
    pub(crate) files: &'a [PathBuf],
}

/// The fingerprint of a stage that reads `upstream`, in port order. Fails with the file that cannot be read.
pub(crate) fn of(stage: &Stage<'_>, upstream: &[Fingerprint]) -> Result<Fingerprint, (PathBuf, std::io::Error)> {
    let mut hasher = blake3::Hasher::new_derive_key("omar-flow node fingerprint 1");
    // Every part is preceded by its length, so that no two lists of parts look alike.
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    part(stage.name.as_bytes());
    part(&stage.version.to_le_bytes());
    let mut metadata: Vec<(&String, &String)> = stage.schema.metadata().iter().collect();
    metadata.sort();
    for (key, value) in metadata {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    part(canonical(stage.params).as_bytes());
    part(&stage.seed.to_le_bytes());
    for file in stage.files {
        let mut content = blake3::Hasher::new();
        let read = File::open(file).and_then(|open| content.update_reader(open).map(drop));
        read.map_err(|error| (file.clone(), error))?;
        part(content.finalize().as_bytes());
    }
    upstream.iter().for_each(|fingerprint| part(&fingerprint.0));
    Ok(Fingerprint(*hasher.finalize().as_bytes()))
}

/// JSON with sorted keys and no blanks.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            pairs.sort_by_key(|pair| pair.0);
            let pairs: Vec<String> = pairs
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", items.join(","))
        }
        scalar => scalar.to_string(),
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn canonical_json_ignores_the_order_of_keys() {
        let a = serde_json::json!({"b": [1, {"y": "q\"", "x": null}], "a": 1.5});
        assert_eq!(canonical(&a), r#"{"a":1.5,"b":[1,{"x":null,"y":"q\""}]}"#);
    }
}
