//! `schema`: the JSON Schema of graph files, for editors.

use omar_stages::Registry;

use super::write_json;
use crate::cli::{Exit, SchemaArgs};
use crate::grammar;

/// Prints the schema.
pub fn schema(args: &SchemaArgs, registry: &Registry) -> Exit {
    write_json(&if args.included { grammar::included(registry) } else { grammar::schema(registry) });
    Exit::Done
}
