//! The command line: what can be written, not what it does.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::cache::CacheCommand;
use crate::commands::inspect::Filter;
use crate::live::Patience;
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
    /// Run the tests that a graph brings along.
    Test(TestArgs),
    /// Draw a graph.
    Graph(DrawArgs),
    /// Show what is in a file, a cache or a run.
    Inspect(InspectArgs),
    /// Make an encoder of a published model: `config.gin` and `model.ckpt` in, safetensors and a manifest out.
    Import(ImportArgs),
    /// Embed a folder of recordings with an encoder.
    Embed(EmbedArgs),
    /// Make the page about a run again, or while it is under way: curves, held-out crops, codebooks, rejects.
    Report(ReportArgs),
    /// Watch a run: what every node does, what it waits for, and which one is the bottleneck.
    Top(TopArgs),
    /// Tell what every node of a run did, where its time went, and which one was the bottleneck. `plan` tells what a graph
    /// would do.
    Explain(ExplainArgs),
    /// Look after caches: list them, remove what no graph uses, verify every byte.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Hold what the probes of several runs found side by side, like the paper's table 4.
    Compare(CompareArgs),
    /// List the stages, or describe one.
    Stages(StagesArgs),
    /// Look at this machine: what a run could use, what is missing, and what to do about it.
    Doctor(DoctorArgs),
    /// Print the JSON Schema of graph files, for editors.
    Schema(SchemaArgs),
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
    /// Keep the run in this folder, instead of `runs/NAME-TIME`.
    #[arg(long, value_name = "FOLDER", conflicts_with = "resume")]
    pub run_folder: Option<PathBuf>,
    /// Run only this node and what feeds it.
    #[arg(long, value_name = "NODE")]
    pub until: Option<String>,
    /// Take only the first N recordings.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Try recordings again whose rejection the caches remember; where some can be used now, their shards are made again.
    #[arg(long, conflicts_with = "dry_run")]
    pub retry_quarantined: bool,
    /// Run in a plain loop, without the dataflow. Slower, with the same results.
    #[arg(long)]
    pub direct: bool,
    /// Threads for CPU work, instead of `resources.threads`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// When done, look every SECONDS whether recordings have come, changed or gone, and work on those. Ends with Ctrl-C.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "10", require_equals = true)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    #[arg(conflicts_with_all = ["limit", "processes", "cluster", "dry_run", "retry_quarantined"])]
    pub watch: Option<u64>,
    /// Share the work among N processes on this machine: a training shares every minibatch, other graphs their recordings.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), conflicts_with = "direct")]
    pub processes: Option<u16>,
    /// Share the work with the processes of this file, on several machines: a line `host:port` for each. Every one of
    /// them is started with the same command but for `--process`.
    #[arg(long, value_name = "HOSTS", requires = "process", conflicts_with_all = ["processes", "direct"])]
    pub cluster: Option<PathBuf>,
    /// Which line of the hosts file this process is, from 0. Process 0 has the run folder, and with it the results.
    #[arg(long, value_name = "I")]
    pub process: Option<usize>,
    /// Seconds to wait for the other processes.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub connect_timeout: u64,
    /// Serve metrics for Prometheus at `http://HOST:PORT/metrics` while the run goes on. Further processes on the same
    /// machine take the ports that follow.
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_address: Option<String>,
    /// Say who has the work when nothing has moved for this long, then after twice that, and so on; or `off`.
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub watchdog: Patience,
    /// Addresses of the processes that `--processes` starts.
    #[arg(long, value_name = "ADDRESSES", hide = true, requires = "process", value_delimiter = ',')]
    pub local: Vec<String>,
}

/// `test`
#[derive(Debug, Clone, Args)]
pub struct TestArgs {
    /// The graph, and changes to it.
    #[command(flatten)]
    pub graph: GraphArgs,
    /// Run only the tests whose names contain this.
    #[arg(long, value_name = "NAME")]
    pub filter: Option<String>,
}

/// `schema`
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// The schema of files that graphs include, instead.
    #[arg(long)]
    pub included: bool,
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

/// `import`
#[derive(Debug, Clone, Args)]
pub struct ImportArgs {
    /// A folder with the files of a published OMAR-RQ (`config.gin`, `model.ckpt`), MusicFM (`pretrained_*.pt`,
    /// `*_stats.json`), MERT or MAEST (`config.json`, `pytorch_model.bin` or `model.safetensors`), one of these files, or
    /// `hf:OWNER/NAME` for a repository of Hugging Face, with `@REVISION` if need be.
    pub model: String,
    /// Folder to write; by default `models/NAME`.
    #[arg(long, value_name = "FOLDER")]
    pub to: Option<PathBuf>,
    /// Name of the encoder, instead of that of its folder.
    #[arg(long)]
    pub name: Option<String>,
    /// Licence of the weights, where the folder does not state it.
    #[arg(long)]
    pub licence: Option<String>,
    /// Leave aside a binding of the configuration that this program does not know. Can be given several times.
    #[arg(long, value_name = "BINDING")]
    pub ignore: Vec<String>,
    /// Folder with the weights of EnCodec, for models that hear it.
    #[arg(long, value_name = "FOLDER")]
    pub encodec: Option<PathBuf>,
    /// Print the manifest as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `embed`
#[derive(Debug, Clone, Args)]
pub struct EmbedArgs {
    /// The encoder: a folder that `import` wrote, or a run of `pretrain` or one of its checkpoints.
    pub model: PathBuf,
    /// Recordings: a folder, one file, or a list (CSV, TSV, JSON lines or parquet with a column `path`).
    pub audio: PathBuf,
    /// Blocks to take the output of, from 0; negative numbers count from the last.
    #[arg(long, value_name = "N,...", value_delimiter = ',', allow_hyphen_values = true, default_value = "-1")]
    pub layers: Vec<i64>,
    /// What a vector stands for: a position of the encoder, or the mean over a window or a whole recording.
    #[arg(long, value_enum, default_value_t = Pool::Frames)]
    pub pool: Pool,
    /// What the encoder hears at once, or less where it cannot hear so much.
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub window: String,
    /// Time from one window to the next; by default half a window, in whole positions. A whole window halves the work
    /// and leaves the edges of windows with less context.
    #[arg(long, value_name = "TIME")]
    pub hop: Option<String>,
    /// Folder to write; by default `embeddings/NAME`. What is there already is not computed again.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Files to write: parquet, or parquet and NumPy.
    #[arg(long, value_enum, default_value_t = EmbedFormat::Parquet)]
    pub format: EmbedFormat,
    /// Windows that are computed together, at most.
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// Folder with the weights of EnCodec, for encoders that hear it.
    #[arg(long, value_name = "FOLDER")]
    pub encodec: Option<PathBuf>,
    /// Where the encoder runs: `auto`, `cpu` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// Threads for CPU work; by default as many as there are processors.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Take only the first N recordings.
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print the graph that does this, for `omar-flow run`, and stop.
    #[arg(long)]
    pub graph: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// What a vector stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pool {
    /// A position of the encoder.
    Frames,
    /// The mean over a window.
    Window,
    /// The mean over a recording.
    Track,
}

/// Files that `embed` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmbedFormat {
    /// Parquet: all recordings together.
    Parquet,
    /// Also NumPy: for each recording a matrix per layer, and its times.
    Npy,
}

/// `compare`
#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// The folders of runs with `probe` nodes, or of tables.
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Add the rows of the paper.
    #[arg(long)]
    pub paper: bool,
    /// Print Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Write the table to this folder too, as `table.md`, `table.html` and `results.parquet`.
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Print JSON.
    #[arg(long, conflicts_with_all = ["markdown", "paper"])]
    pub json: bool,
}

/// `report`
#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    /// The folder of a run.
    pub run: PathBuf,
}

/// `top`
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// The folder of a run.
    pub run: PathBuf,
    /// Print once and stop, which is also what happens when stdout is no terminal.
    #[arg(long)]
    pub once: bool,
    /// Print once, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `explain`
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The folder of a run.
    pub run: PathBuf,
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
