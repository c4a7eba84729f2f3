//! The command line: what can be written, not what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::inspect::Filter;
use crate::resources::Device;

/// Music representation learning as a declarative streaming dataflow.
#[derive(Debug, Parser)]
#[command(name = "omar-flow", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a graph: decode, compute, cache, train.
    Run(RunArgs),
    /// Check a graph without running it.
    Validate(GraphArgs),
    /// Show what a graph means: every node with its edges, sizes, fingerprint and cache.
    Plan(GraphArgs),
    /// Draw a graph.
    Graph(DrawArgs),
    /// Show what is in a file, a cache or a run.
    Inspect(InspectArgs),
    /// List the stages, or describe one.
    Stages(StagesArgs),
    /// Look at this machine: what a run could use, what is missing, and what to do about it.
    Doctor(DoctorArgs),
    /// Print the JSON Schema of graph files, for editors.
    Schema,
}

/// A graph and changes to it.
#[derive(Debug, Clone, Args)]
pub struct GraphArgs {
    /// The graph, a YAML file.
    pub graph: PathBuf,
    /// Change a value of the graph, e.g. `nodes.model.params.steps=100`. Can be given several times.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The graph, and changes to it.
    #[command(flatten)]
    pub graph: GraphArgs,
    /// Continue the run in this folder.
    #[arg(long, value_name = "RUN")]
    pub resume: Option<PathBuf>,
    /// Run only this node and what feeds it.
    #[arg(long, value_name = "NODE")]
    pub until: Option<String>,
    /// Take only the first N recordings.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Run in a plain loop, without the dataflow. Slower, with the same results.
    #[arg(long)]
    pub direct: bool,
    /// Threads for CPU work, instead of `resources.threads`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// `graph`
#[derive(Debug, Clone, Args)]
pub struct DrawArgs {
    /// The graph, a YAML file.
    pub graph: PathBuf,
    /// Change a value of the graph, e.g. `nodes.model.params.steps=100`. Can be given several times.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Language of the drawing.
    #[arg(long, value_enum, default_value_t = DrawFormat::Mermaid)]
    pub format: DrawFormat,
}

/// How a graph is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DrawFormat {
    /// For Markdown files and mermaid.live.
    Mermaid,
    /// For Graphviz.
    Dot,
}

/// `inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// A parquet file, the folder of a cache or of a run, or a graph (then name a node).
    pub target: PathBuf,
    /// A node of the graph: its cached rows.
    pub node: Option<String>,
    /// Show the first N rows.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub head: usize,
    /// Show only the edge and the columns.
    #[arg(long)]
    pub schema: bool,
    /// Read all rows and show what values the columns have, and how codebooks are used.
    #[arg(long)]
    pub stats: bool,
    /// Only rows of a track or split: `track=ID`, `path=PATH` or `split=valid`.
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    pub filter: Option<Filter>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `stages`
#[derive(Debug, Clone, Args)]
pub struct StagesArgs {
    /// The stage to describe.
    pub name: Option<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `doctor`
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// A graph: also look for the files and folders that it needs.
    pub graph: Option<PathBuf>,
    /// Change a value of the graph, e.g. `nodes.model.params.steps=100`. Can be given several times.
    #[arg(long, value_name = "PATH=VALUE", requires = "graph")]
    pub set: Vec<String>,
    /// The device that must be usable: `auto`, `cpu` or `cuda:N`. If it is not, the exit status is 5.
    #[arg(long, value_name = "DEVICE", value_parser = device)]
    pub device: Option<Device>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

fn device(text: &str) -> Result<Device, String> {
    Device::parse(text).ok_or_else(|| "expected `auto`, `cpu` or `cuda:N`; the first GPU is `cuda:0`".to_owned())
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Done,
    /// The run failed.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// The graph is wrong.
    Invalid,
    /// More recordings were rejected than allowed.
    Rejects,
    /// The device is missing or failed.
    Device,
    /// Stopped from outside, after a clean commit.
    Interrupted,
}

impl Exit {
    /// The exit status of the process.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Invalid => 3,
            Self::Rejects => 4,
            Self::Device => 5,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
