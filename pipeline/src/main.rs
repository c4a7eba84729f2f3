//! The `omar-flow` program.

use std::process::ExitCode;

use clap::Parser;
use omar_flow::cli::{Cli, Command};
use omar_flow::commands;
use omar_stages::allocator::{self, MiMalloc};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    allocator::keep_freed_memory();
    let cli = Cli::parse();
    let registry = omar_stages::ops::registry();
    let exit = match &cli.command {
        Command::Run(args) => commands::run::run(args, &registry),
        Command::Validate(args) => commands::validate::validate(args, &registry),
        Command::Plan(args) => commands::plan::plan(args, &registry),
        Command::Test(args) => commands::test::test(args, &registry),
        Command::Graph(args) => commands::graph::graph(args, &registry),
        Command::Inspect(args) => commands::inspect::inspect(args, &registry),
        Command::Import(args) => commands::import::import(args),
        Command::Embed(args) => commands::embed::embed(args, &registry),
        Command::Report(args) => commands::report::report(args),
        Command::Top(args) => commands::top::top(args),
        Command::Explain(args) => commands::explain::explain(args),
        Command::Cache(command) => commands::cache::cache(command, &registry),
        Command::Compare(args) => commands::compare::compare(args),
        Command::Stages(args) => commands::stages::stages(args, &registry),
        Command::Doctor(args) => commands::doctor::doctor(args, &registry),
        Command::Schema(args) => commands::schema::schema(args, &registry),
    };
    exit.into()
}
