//! `cache ls|gc|verify`: looking after what runs have kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use omar_schemas::units::Bytes;
use omar_stages::Registry;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use serde_json::{Value, json};

use super::run::RUNS;
use super::{load, write_json, write_message, write_result};
use crate::cache::verify::{self, Fault};
use crate::cache::{self, CacheError, NodeFolder};
use crate::cli::Exit;
use crate::live::observe::unix_now;
use crate::live::table::columns;

/// `cache`
#[derive(Debug, Clone, Subcommand)]
pub enum CacheCommand {
    /// List the caches of a graph, or below a folder: nodes, fingerprints, sizes, ages.
    Ls(CacheArgs),
    /// Remove the rows of nodes that none of the given graphs has. Says what it would remove; `--yes` does it.
    Gc(GcArgs),
    /// Read every byte of every shard and compare it with its commit record. Exit status 1 if anything is corrupt.
    Verify(VerifyArgs),
}

/// Which caches are meant.
#[derive(Debug, Clone, Args)]
pub struct CacheArgs {
    /// Graphs, whose caches are meant, and folders with caches in them; by default `runs`.
    #[arg(value_name = "GRAPH|FOLDER")]
    pub targets: Vec<PathBuf>,
    /// Change a value of the graphs, e.g. `vars.corpus=/music`. Can be given several times.
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `cache gc`
#[derive(Debug, Clone, Args)]
pub struct GcArgs {
    /// The graphs whose nodes are kept, and folders with caches in which to look besides those of the graphs.
    #[command(flatten)]
    pub caches: CacheArgs,
    /// Remove, instead of saying what would be removed.
    #[arg(long)]
    pub yes: bool,
}

/// `cache verify`
#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// What to verify.
    #[command(flatten)]
    pub caches: CacheArgs,
    /// Remove the commit records of corrupt shards, so that the next run computes them again.
    #[arg(long)]
    pub repair: bool,
}

/// Looks after caches.
pub fn cache(command: &CacheCommand, registry: &Registry) -> Exit {
    let outcome = match command {
        CacheCommand::Ls(args) => ls(args, registry),
        CacheCommand::Gc(args) => gc(args, registry),
        CacheCommand::Verify(args) => verify(args, registry),
    };
    outcome.unwrap_or_else(|exit| exit)
}

/// The caches that are meant.
struct Caches {
    folders: Vec<NodeFolder>,
    /// Graph and node by whole fingerprint.
    used: BTreeMap<String, String>,
    graphs: usize,
}

impl Caches {
    fn find(args: &CacheArgs, registry: &Registry) -> Result<Self, Exit> {
        let mut targets = args.targets.clone();
        if targets.is_empty() {
            targets.push(PathBuf::from(RUNS));
        }
        let mut roots = BTreeSet::new();
        let (mut used, mut graphs) = (BTreeMap::new(), 0);
        for target in &targets {
            if target.is_dir() {
                roots.insert(target.clone());
                continue;
            }
            if !target.exists() && target.extension().is_none() {
                write_message(&format!("error: `{}` does not exist: expected a graph or a folder\n", target.display()));
                return Err(Exit::Usage);
            }
            let plan = load(target, &args.set, args.json, registry)?;
            graphs += 1;
            for node in plan.nodes.iter().filter(|node| node.cache.is_some()) {
                let name = format!("{}: {}", plan.name, node.id);
                used.entry(node.fingerprint.to_hex())
                    .and_modify(|names: &mut String| *names += &format!(", {name}"))
                    .or_insert(name);
                roots.extend(node.cache.iter().filter(|folder| folder.is_dir()).cloned());
            }
        }
        let mut folders: Vec<NodeFolder> = Vec::new();
        for root in &roots {
            let found = cache::survey(root).map_err(|error| failed(&error))?;
            folders.extend(found);
        }
        // Folders may be named twice, once by a graph and once as they are.
        let mut seen = BTreeSet::new();
        folders.retain(|folder| seen.insert(folder.path.canonicalize().unwrap_or_else(|_| folder.path.clone())));
        Ok(Self { folders, used, graphs })
    }

    fn used_by(&self, folder: &NodeFolder) -> Option<&str> {
        self.used.get(&folder.node.fingerprint).map(String::as_str)
    }
}

fn failed(error: &CacheError) -> Exit {
    write_message(&format!("error: {error}\n"));
    Exit::Failed
}

/// `3 caches`
fn count(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn ls(args: &CacheArgs, registry: &Registry) -> Result<Exit, Exit> {
    let caches = Caches::find(args, registry)?;
    if args.json {
        write_json(&caches.folders.iter().map(|folder| entry(folder, &caches)).collect());
        return Ok(Exit::Done);
    }
    let mut header = vec!["node", "stage", "fingerprint", "shards", "rows", "size", "age"];
    header.extend((caches.graphs > 0).then_some("used by"));
    header.push("folder");
    let mut rows = vec![header.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()];
    for folder in &caches.folders {
        let mut row = vec![
            folder.node.node.clone(),
            folder.node.stage.clone(),
            folder.fingerprint().to_owned(),
            folder.commits.len().to_string(),
            folder.rows().to_string(),
            Bytes(folder.bytes).to_string(),
            age(folder),
        ];
        row.extend((caches.graphs > 0).then(|| caches.used_by(folder).unwrap_or("-").to_owned()));
        row.push(folder.path.display().to_string());
        rows.push(row);
    }
    if caches.folders.is_empty() {
        write_result("no caches\n");
        return Ok(Exit::Done);
    }
    write_result(&(columns(&rows, &[0, 1, 2, 7, 8]).join("\n") + "\n"));
    let bytes = |folders: &[&NodeFolder]| Bytes(folders.iter().map(|folder| folder.bytes).sum());
    let all: Vec<&NodeFolder> = caches.folders.iter().collect();
    let shards: usize = all.iter().map(|folder| folder.commits.len()).sum();
    let mut text = format!("\n{}, {}, {}", count(all.len(), "cache"), count(shards, "shard"), bytes(&all));
    let unused: Vec<&NodeFolder> = all.into_iter().filter(|folder| caches.used_by(folder).is_none()).collect();
    if caches.graphs > 0 && !unused.is_empty() {
        text += &format!("; {} of them ({}) in no graph named here", unused.len(), bytes(&unused));
    }
    write_result(&(text + "\n"));
    for folder in caches.folders.iter().filter(|folder| !folder.broken.is_empty()) {
        let records = count(folder.broken.len(), "broken commit record");
        write_message(&format!("note: `{}` has {records}: see `omar-flow cache verify`\n", folder.path.display()));
    }
    Ok(Exit::Done)
}

fn entry(folder: &NodeFolder, caches: &Caches) -> Value {
    json!({
        "folder": folder.path,
        "node": folder.node.node,
        "stage": folder.node.stage,
        "fingerprint": folder.fingerprint(),
        "shards": folder.commits.len(),
        "rows": folder.rows(),
        "bytes": folder.bytes,
        "newest_unix_s": folder.newest_unix_s(),
        "used_by": caches.used_by(folder),
        "broken": folder.broken,
        "leftovers": folder.leftovers,
    })
}

/// Since its newest shard: `3 min`.
fn age(folder: &NodeFolder) -> String {
    let Some(newest) = folder.newest_unix_s() else { return "-".to_owned() };
    match (unix_now() - newest as f64).max(0.0) {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

fn gc(args: &GcArgs, registry: &Registry) -> Result<Exit, Exit> {
    let caches = Caches::find(&args.caches, registry)?;
    if caches.graphs == 0 {
        write_message(
            "error: `cache gc` keeps what the graphs named here use, and none is named: `omar-flow cache gc g.yaml`\n",
        );
        return Err(Exit::Usage);
    }
    let mut report = Report { yes: args.yes, json: args.caches.json, ..Report::default() };
    for folder in &caches.folders {
        match (caches.used_by(folder), cache::holder(&folder.path)) {
            (_, Err(error)) => report.kept(folder, &error.to_string()),
            (None, Ok(Some(owner))) => report.kept(folder, &format!("held by {owner}")),
            (None, Ok(None)) => report.remove(folder),
            (Some(_), Ok(None)) if !folder.leftovers.is_empty() => report.tidy(folder),
            (Some(_), Ok(_)) => {}
        }
    }
    Ok(report.end())
}

/// What `gc` does, told as it does it.
#[derive(Default)]
struct Report {
    yes: bool,
    json: bool,
    removed: Vec<Value>,
    bytes: u64,
    failed: bool,
}

impl Report {
    fn remove(&mut self, folder: &NodeFolder) {
        let left = if self.yes { cache::remove(&folder.path) } else { Ok(folder.foreign.clone()) };
        match left {
            Ok(foreign) => {
                let (path, node, size) = (folder.path.display(), &folder.node.node, Bytes(folder.bytes));
                self.line(&format!("{path}  {node}, {}, {size}", count(folder.commits.len(), "shard")));
                if let Some((first, others)) = foreign.split_first() {
                    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
                    self.line(&format!("  stays for what is not ours: {}{more}", first.display()));
                }
                self.done(&folder.path, "remove", folder.bytes);
            }
            Err(error) => self.kept(folder, &error.to_string()),
        }
    }

    fn tidy(&mut self, folder: &NodeFolder) {
        let files = if self.yes { cache::tidy(&folder.path) } else { Ok(folder.leftovers.len()) };
        match files {
            Ok(files) => {
                let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
                let bytes = if self.yes { 0 } else { folder.leftovers.iter().map(size).sum() };
                self.line(&format!("{}  {} that no shard needs", folder.path.display(), count(files, "file")));
                self.done(&folder.path, "tidy", bytes);
            }
            Err(error) => self.kept(folder, &error.to_string()),
        }
    }

    fn kept(&mut self, folder: &NodeFolder, reason: &str) {
        self.failed = true;
        write_message(&format!("note: {} is left as it is: {reason}\n", folder.path.display()));
    }

    fn line(&self, text: &str) {
        if !self.json {
            write_result(&format!("{text}\n"));
        }
    }

    fn done(&mut self, folder: &Path, what: &str, bytes: u64) {
        self.removed.push(json!({ "folder": folder, "action": what, "bytes": bytes }));
        self.bytes += bytes;
    }

    fn end(self) -> Exit {
        if self.json {
            write_json(&json!({ "done": self.yes, "folders": self.removed, "bytes": self.bytes }));
        } else if self.removed.is_empty() {
            write_result("nothing to remove\n");
        } else {
            let (folders, size) = (count(self.removed.len(), "folder"), Bytes(self.bytes));
            let hint = if self.yes { "removed" } else { "would be removed; `--yes` does it" };
            write_result(&format!("\n{folders}, {size}: {hint}\n"));
        }
        if self.failed && self.yes { Exit::Failed } else { Exit::Done }
    }
}

fn verify(args: &VerifyArgs, registry: &Registry) -> Result<Exit, Exit> {
    let caches = Caches::find(&args.caches, registry)?;
    let bytes = caches.folders.iter().flat_map(|folder| &folder.commits).map(|commit| commit.bytes).sum();
    let bar = ProgressBar::new(bytes);
    if let Ok(style) = ProgressStyle::with_template("{bytes}/{total_bytes} verified, {bytes_per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let (mut shards, mut faults, mut left) = (0, Vec::new(), 0);
    for folder in &caches.folders {
        let read = folder.commits.par_iter().filter_map(|commit| {
            let fault = verify::check(folder, commit);
            bar.inc(commit.bytes);
            fault
        });
        let found: Vec<Fault> = verify::broken(folder).into_iter().chain(read.collect::<Vec<_>>()).collect();
        shards += folder.commits.len() + folder.broken.len();
        let mut repaired = false;
        if args.repair && !found.is_empty() {
            match verify::repair(folder, &found) {
                Ok(()) => repaired = true,
                Err(error) => write_message(&format!("note: not repaired: {error}\n")),
            }
        }
        left += if repaired { 0 } else { found.len() };
        faults.extend(found.into_iter().map(|fault| (folder, fault, repaired)));
    }
    bar.finish_and_clear();
    let size = Bytes(bytes);
    if args.caches.json {
        let list: Vec<Value> = faults.iter().map(|(folder, fault, repaired)| {
            json!({ "node": folder.node.node, "record": fault.record, "file": fault.file, "reason": fault.reason, "repaired": repaired })
        }).collect();
        write_json(&json!({ "shards": shards, "bytes": bytes, "corrupt": list }));
    } else {
        for (folder, fault, repaired) in &faults {
            let file = fault.file.as_ref().unwrap_or(&fault.record).display();
            let after = if *repaired { "; the next run computes it again" } else { "" };
            write_result(&format!("corrupt: {file} ({}): {}{after}\n", folder.node.node, fault.reason));
        }
        let (caches, shards) = (count(caches.folders.len(), "cache"), count(shards, "shard"));
        match faults.len() {
            0 => write_result(&format!("{caches}, {shards}, {size}: every byte is what was committed\n")),
            corrupt => {
                let hint = if left > 0 { "; `--repair` makes the next run compute them again" } else { "" };
                write_result(&format!("{caches}, {shards}, {size}: {corrupt} corrupt{hint}\n"));
            }
        }
    }
    Ok(if left > 0 { Exit::Failed } else { Exit::Done })
}
