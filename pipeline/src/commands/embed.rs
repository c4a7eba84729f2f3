//! `embed MODEL AUDIO`: builds the graph that embeds a folder of recordings, and runs it.

mod npy;

use std::path::{Path, PathBuf};

use omar_schemas::units::Duration;
use omar_schemas::{Edge, Embeddings, EmbeddingsSpec, Pooling};
use omar_stages::Registry;
use omar_stages::corpus::{address::Address, archive, folder::AUDIO_EXTENSIONS, manifest::FORMATS};
use omar_stages::encoder::{EncoderFolder, Facts};
use serde_json::{Value, json};

use super::run::{RUNS, failed};
use super::{write_json, write_message, write_report, write_result};
use crate::cli::{EmbedArgs, EmbedFormat, Exit, Pool};
use crate::diagnostic::Report;
use crate::exec::RunError;
use crate::exec::lane::install_panic_hook;
use crate::graph::Graph;
use crate::plan::Plan;
use crate::progress::Reporter;
use crate::run::{self, RunOptions};
use crate::run_folder;
use crate::stop::Stop;
use crate::summary::Summary;

/// Name of the graph, and of its last node.
const NAME: &str = "embed";

/// Embeds recordings.
pub fn embed(args: &EmbedArgs, registry: &Registry) -> Exit {
    let prepared = match prepare(args) {
        Ok(prepared) => prepared,
        Err(message) => {
            write_message(&format!("error: {message}\n"));
            return Exit::Usage;
        }
    };
    if args.graph {
        write_result(&prepared.text);
        return Exit::Done;
    }
    let mut report = Report::default();
    let graph = Graph::parse(NAME, &prepared.text, &[], &|_| None, &mut report);
    let mut plan = match Plan::finish(graph.as_ref(), registry, report) {
        Ok(plan) => plan,
        Err(report) => {
            write_report(Path::new(NAME), &report);
            return Exit::Invalid;
        }
    };
    if let Some(threads) = args.threads {
        plan.resources.threads = Some(usize::from(threads));
    }
    let stop = match Stop::on_signals() {
        Ok(stop) => stop,
        Err(error) => return failed(&format!("signal handlers cannot be installed: {error}"), args.json),
    };
    install_panic_hook();
    let options = RunOptions {
        folder: Some(run_folder::fresh(Path::new(RUNS), NAME)),
        limit: args.limit,
        reporter: Reporter::for_stderr(),
        ..RunOptions::default()
    };
    match run::run(&plan, &options, &stop) {
        Ok(summary) => ended(args, &plan, &summary),
        Err(error @ RunError::Device(_)) => {
            failed(&error.to_string(), args.json);
            Exit::Device
        }
        Err(error) => failed(&error.to_string(), args.json),
    }
}

/// A graph, as text.
struct Prepared {
    text: String,
}

fn prepare(args: &EmbedArgs) -> Result<Prepared, String> {
    let encoder = EncoderFolder::open(&args.model).map_err(|error| error.to_string())?;
    let manifest = &encoder.manifest;
    let out = args.out.clone().unwrap_or_else(|| Path::new("embeddings").join(&manifest.name));
    let facts = manifest.facts();
    let (window, hop) = window_and_hop(args, &facts)?;
    let shortest = facts.min_samples as f64 / f64::from(facts.sample_rate);
    let mut embed = json!({
        "model": text(&args.model)?,
        "layers": args.layers,
        "pool": match args.pool {
            Pool::Frames => "frames",
            Pool::Window => "window",
            Pool::Track => "track",
        },
    });
    if let Some(batch) = args.batch {
        embed["batch"] = json!(batch);
    }
    if let Some(encodec) = &args.encodec {
        embed["encodec"] = json!(text(encodec)?);
    }
    // Anything that holds a position is worth keeping: what is padded is not computed.
    let crop = json!({
        "duration": format!("{window}s"),
        "hop": format!("{hop}s"),
        "min_duration": format!("{}s", shortest.min(window)),
    });
    let graph = json!({
        "omar": 1,
        "name": NAME,
        "resources": {"device": args.device},
        "nodes": {
            "tracks": {"stage": "files", "params": files(&args.audio)?},
            "audio": {"stage": "decode", "from": "tracks"},
            "mono": {"stage": "resample", "from": "audio", "params": {"sample_rate": manifest.sample_rate}},
            "windows": {"stage": "crop", "from": "mono", "params": crop},
            NAME: {"stage": "embed", "from": "windows", "params": embed, "cache": text(&out)?},
        },
    });
    let text = serde_yaml::to_string(&graph).map_err(|error| error.to_string())?;
    Ok(Prepared { text })
}

/// Both in seconds: the window no longer than the encoder can hear at once, the hop in whole positions unless it was
/// given.
fn window_and_hop(args: &EmbedArgs, facts: &Facts) -> Result<(f64, f64), String> {
    let (rate, patch) = (f64::from(facts.sample_rate), facts.hop as f64);
    let parse = |option: &str, text: &str| Duration::parse(text).map_err(|message| format!("--{option}: {message}"));
    let asked = parse("window", &args.window)?.seconds();
    if asked * rate < facts.min_samples as f64 {
        let position = facts.min_samples as f64 / rate;
        return Err(format!("--window: a position of the encoder is {position}s, found `{}`", args.window));
    }
    let window = facts.max_samples.map_or(asked, |most| asked.min(most as f64 / rate));
    let hop = match &args.hop {
        Some(hop) => parse("hop", hop)?.seconds(),
        None => ((window * rate / 2.0 / patch).floor().max(1.0) * patch) / rate,
    };
    if hop > window {
        return Err(format!("--hop: expected a window ({window}s) at most, or audio is left out; found `{hop}s`"));
    }
    Ok((window, hop))
}

/// Parameters of `files` for a folder, a file or a list.
fn files(audio: &Path) -> Result<Value, String> {
    let extension = audio.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default();
    if let Some(address) = audio.to_str().filter(|audio| Address::is_one(audio)) {
        let is_list = FORMATS.contains(&extension.as_str());
        let is_file = AUDIO_EXTENSIONS.contains(&extension.as_str()) || extension == archive::EXTENSION;
        return Ok(match (is_list, is_file) {
            (true, _) => json!({"manifest": address}),
            (_, true) => json!({"paths": [address]}),
            (false, false) => json!({"root": address}),
        });
    }
    if !audio.exists() {
        return Err(format!("there is no file or folder `{}`", audio.display()));
    }
    if audio.is_dir() {
        return Ok(json!({"root": text(audio)?}));
    }
    if ["csv", "tsv", "jsonl", "parquet"].contains(&extension.as_str()) {
        return Ok(json!({"manifest": text(audio)?}));
    }
    let folder = audio.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = audio.file_name().unwrap_or_default().to_string_lossy();
    // The name is a pattern: what means something in one is taken literally.
    let escaped: String =
        name.chars().map(|c| if "*?[]{}!\\".contains(c) { format!("[{c}]") } else { c.to_string() }).collect();
    Ok(json!({"root": text(folder)?, "include": [escaped]}))
}

fn text(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("`{}` is not UTF-8", path.display()))
}

/// What came of it.
fn ended(args: &EmbedArgs, plan: &Plan, summary: &Summary) -> Exit {
    if summary.interrupted {
        write_message("stopped; the same command goes on where it was\n");
        return Exit::Interrupted;
    }
    let rows = summary.nodes.iter().find(|node| node.node == NAME).and_then(|node| node.cache.clone());
    let mut written: Vec<PathBuf> = rows.iter().cloned().collect();
    if let (EmbedFormat::Npy, Some(rows)) = (args.format, &rows) {
        let folder = rows.parent().unwrap_or(Path::new(".")).join("npy");
        match npy::write(rows, &folder) {
            Ok(()) => written.push(folder),
            Err(error) => return failed(&error.to_string(), args.json),
        }
    }
    let spec = plan.node(NAME).and_then(|node| Embeddings::spec(&node.schema).ok());
    if args.json {
        write_json(&json!({"summary": summary, "written": written, "embeddings": spec}));
    } else {
        write_result(&summary.to_table());
        if let Some(spec) = spec {
            write_result(&in_words(&spec, &written));
        }
    }
    if summary.too_many_rejects() {
        let (rejected, tracks) = (summary.rejected, summary.tracks);
        write_message(&format!("error: {rejected} of {tracks} recordings were rejected; see the classes above\n"));
        return Exit::Rejects;
    }
    Exit::Done
}

fn in_words(spec: &EmbeddingsSpec, written: &[PathBuf]) -> String {
    let layers = spec.layers.iter().map(|layer| Embeddings::column(*layer)).collect::<Vec<_>>().join(", ");
    let each = match (spec.pooling, spec.rate) {
        (Pooling::Window, _) => "one per window".to_owned(),
        (Pooling::Track, _) => "one per recording".to_owned(),
        (Pooling::Frames, rate) => format!("{} per second", rate.unwrap_or_default()),
    };
    let places: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
    let model = &spec.model;
    format!(
        "{layers}: vectors of {}, {each}, of `{}` ({}; licence {})\nwritten to {}\n",
        spec.dim,
        model.name,
        model.fingerprint,
        model.licence,
        places.join(" and ")
    )
}
