//! From a YAML file to results.
//!
//! What was written is a [`graph::Graph`], what it means is a [`plan::Plan`], and mistakes in either are a
//! [`diagnostic::Report`]. A plan is run by [`run::run`]: by the dataflow in `render/`, or by the plain loop in `exec/`
//! that is its oracle.

mod binding;
pub mod cache;
pub mod catalogue;
pub mod cli;
pub mod cluster;
pub mod codebooks;
pub mod commands;
mod comparison;
pub mod corpus;
pub mod diagnostic;
mod document;
pub mod edges;
mod evaluation;
pub mod exec;
mod expectations;
pub mod explain;
mod files;
pub mod fingerprint;
pub mod forecast;
mod grammar;
pub mod graph;
pub mod graph_tests;
pub mod hub;
mod include;
pub mod live;
mod machine;
pub mod metrics;
mod overrides;
mod params;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod quarantine;
mod reader;
mod render;
mod repair;
pub mod report;
pub mod resources;
mod results;
pub mod run;
mod run_folder;
pub mod spans;
pub mod stop;
pub mod summary;
mod svg;
mod terminal;
mod text;
mod training;
pub mod vars;
mod wiring;
mod yaml;

pub use exec::RunError;
pub use plan::Plan;
