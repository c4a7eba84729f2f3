//! The `omar-flow` program.

use std::process::ExitCode;

use clap::Parser;
use omar_flow::cli::{Cli, Command};
use omar_flow::commands;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let registry = omar_stages::ops::registry();
    let exit = match &cli.command {
        Command::Validate(args) => commands::validate::validate(args, &registry),
        Command::Plan(args) => commands::plan::plan(args, &registry, &|_| None),
        Command::Graph(args) => commands::graph::graph(args, &registry),
        Command::Stages(args) => commands::stages::stages(args, &registry),
        Command::Schema => commands::schema::schema(&registry),
    };
    exit.into()
}
