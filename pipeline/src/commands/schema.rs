//! `schema`: the JSON Schema of graph files, for editors.

use omar_stages::Registry;

use super::write_json;
use crate::cli::Exit;
use crate::grammar;

/// Prints the schema.
pub fn schema(registry: &Registry) -> Exit {
    write_json(&grammar::schema(registry));
    Exit::Done
}
