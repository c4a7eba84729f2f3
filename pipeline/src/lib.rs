//! From a YAML file to a run.
//!
//! What was written is a [`graph::Graph`], what it means is a [`plan::Plan`], and mistakes in either are a
//! [`diagnostic::Report`].

mod binding;
pub mod cli;
pub mod commands;
pub mod diagnostic;
mod document;
pub mod edges;
pub mod explain;
pub mod fingerprint;
mod grammar;
pub mod graph;
mod overrides;
mod params;
pub mod plan;
mod reader;
mod repair;
pub mod resources;
pub mod spans;
pub mod vars;
mod wiring;
mod yaml;
