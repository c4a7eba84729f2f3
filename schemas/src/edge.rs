//! The [`Edge`] trait: a schema that carries its own constants.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Serialize, de::DeserializeOwned};

/// Metadata keys under which an edge describes itself.
const KEY_EDGE: &str = "omar.edge";
const KEY_VERSION: &str = "omar.edge_version";
const KEY_SPEC: &str = "omar.spec";

/// A kind of edge: named columns, and constants that hold for every row.
pub trait Edge {
    /// Name in messages and in the metadata.
    const NAME: &'static str;
    /// Bump when the meaning or type of a column changes: caches of the old version are then not read.
    const VERSION: u16;
    /// What is constant along the edge.
    type Spec: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug;

    /// The columns for a spec.
    fn fields(spec: &Self::Spec) -> Vec<Field>;

    /// The Arrow schema, with edge name, version and spec in its metadata.
    fn schema(spec: &Self::Spec) -> SchemaRef {
        let json = serde_json::to_string(spec).expect("a spec is plain data and always serialises");
        let metadata = HashMap::from([
            (KEY_EDGE.to_owned(), Self::NAME.to_owned()),
            (KEY_VERSION.to_owned(), Self::VERSION.to_string()),
            (KEY_SPEC.to_owned(), json),
        ]);
        Arc::new(Schema::new_with_metadata(Self::fields(spec), metadata))
    }

    /// Reads the spec back.
    ///
    /// # Errors
    /// When the schema is of another edge or version, or its columns are not those of the spec.
    fn spec(schema: &Schema) -> Result<Self::Spec, SchemaError> {
        let found = edge_name(schema).unwrap_or("no omar-flow edge");
        if found != Self::NAME {
            return Err(SchemaError::Edge { expected: Self::NAME, found: found.to_owned() });
        }
        let version = schema.metadata().get(KEY_VERSION).map_or("none", String::as_str);
        if version != Self::VERSION.to_string() {
            return Err(SchemaError::Version { edge: Self::NAME, expected: Self::VERSION, found: version.to_owned() });
        }
        let json = schema.metadata().get(KEY_SPEC).map_or("", String::as_str);
        let spec = serde_json::from_str(json)
            .map_err(|source| SchemaError::Spec { edge: Self::NAME, reason: source.to_string() })?;
        for field in Self::fields(&spec) {
            match schema.field_with_name(field.name()) {
                Ok(found) if found.data_type() == field.data_type() => {}
                found => {
                    return Err(SchemaError::Column {
                        column: field.name().clone(),
                        expected: field.data_type().to_string(),
                        found: found.map_or("no such column".to_owned(), |f| f.data_type().to_string()),
                    });
                }
            }
        }
        Ok(spec)
    }
}

/// The name of the edge that a schema belongs to, if it is one of ours.
pub fn edge_name(schema: &Schema) -> Option<&str> {
    schema.metadata().get(KEY_EDGE).map(String::as_str)
}

/// The constants of the edge that a schema belongs to, as JSON: for those who look at any edge. Readers of a certain one
/// use [`Edge::spec`].
pub fn edge_spec(schema: &Schema) -> Option<serde_json::Value> {
    serde_json::from_str(schema.metadata().get(KEY_SPEC)?).ok()
}

/// A column that is never null.
pub(crate) fn required(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, false)
}

/// A schema is not what its reader needs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Another edge.
    #[error("expected edge `{expected}`, found `{found}`")]
    Edge {
        /// Edge the reader takes.
        expected: &'static str,
        /// Edge that is there.
        found: String,
    },
    /// The right edge, as another version of omar-flow wrote it.
    #[error("edge `{edge}` is of version {found}, expected version {expected}")]
    Version {
        /// Edge name.
        edge: &'static str,
        /// Version this build reads.
        expected: u16,
        /// Version in the metadata.
        found: String,
    },
    /// The constants cannot be read.
    #[error("the spec of edge `{edge}` cannot be read: {reason}")]
    Spec {
        /// Edge name.
        edge: &'static str,
        /// What the JSON reader says.
        reason: String,
    },
    /// A column is missing or has another type.
    #[error("column `{column}`: expected {expected}, found {found}")]
    Column {
        /// Column name.
        column: String,
        /// Type the reader takes.
        expected: String,
        /// Type that is there.
        found: String,
    },
}
