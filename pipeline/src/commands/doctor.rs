//! `doctor [GRAPH]`: what a run on this machine could use, what is missing, and what to do about it.

use std::fmt::Write as _;
use std::path::Path;

use omar_schemas::units::Bytes;
use omar_stages::{Reach, Registry, Source, device};
use serde::Serialize;
use serde_json::json;

use super::{load, write_json, write_result};
use crate::cli::{DoctorArgs, Exit};
use crate::machine;
use crate::plan::Plan;
use crate::resources::Device;

/// Fewer open files than this end a run: every decoder, cache and shard has some.
const FEW_FILES: u64 = 1024;
/// Less free disk than this is worth a word: one checkpoint of a base model takes half of it.
const LITTLE_DISK: u64 = 2 << 30;
/// Less free memory than this is worth a word.
const LITTLE_MEMORY: u64 = 2 << 30;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there and will do.
    Ok,
    /// It is not there, and only needed for more than runs on the CPU.
    Absent,
    /// It is not there or will not do.
    Missing,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
struct Check {
    /// What was looked at.
    name: String,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(name: &str, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state: State::Ok, found: found.into(), advice: None }
    }

    fn absent(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Absent, advice: Some(advice.into()), ..Self::ok(name, found) }
    }

    fn missing(name: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { state: State::Missing, ..Self::absent(name, found, advice) }
    }
}

/// Looks at the machine, and at what a graph needs if one is given.
pub fn doctor(args: &DoctorArgs, registry: &Registry) -> Exit {
    let plan = match &args.graph {
        None => None,
        Some(graph) => match load(graph, &args.set, args.json, registry) {
            Ok(plan) => Some(plan),
            Err(exit) => return exit,
        },
    };
    let mut checks = vec![build(), processor(), memory(plan.as_ref()), files(), runs_disk()];
    checks.extend([driver(), toolkit()]);
    checks.extend(gpus());
    let (device, usable) = chosen_device(args.device, plan.as_ref());
    checks.push(device);
    if let Some(plan) = &plan {
        checks.extend(needs(plan));
    }
    let all_there = checks.iter().all(|check| check.state != State::Missing);
    if args.json {
        write_json(&json!({ "ok": all_there, "checks": checks }));
    } else {
        write_result(&table(&checks));
    }
    match (usable, all_there || plan.is_none()) {
        (false, _) => Exit::Device,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Done,
    }
}

fn table(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    checks.iter().fold(String::new(), |mut out, check| {
        let state = match check.state {
            State::Ok => "ok     ",
            State::Absent => "-      ",
            State::Missing => "missing",
        };
        let _ = writeln!(out, "{state}  {:width$}  {}", check.name, check.found);
        if let Some(advice) = &check.advice {
            let _ = writeln!(out, "{:9}{:width$}  = {advice}", "", "");
        }
        out
    })
}

fn build() -> Check {
    let features = [
        ("opus", cfg!(feature = "opus")),
        ("objects", cfg!(feature = "objects")),
        ("cuda", cfg!(feature = "cuda")),
        ("nccl", cfg!(feature = "nccl")),
    ];
    let with: Vec<&str> = features.iter().filter(|feature| feature.1).map(|feature| feature.0).collect();
    let with = if with.is_empty() { "no features".to_owned() } else { format!("features {}", with.join(", ")) };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    Check::ok("build", format!("omar-flow {} for {os} {arch}, {with}", env!("CARGO_PKG_VERSION")))
}

fn processor() -> Check {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let units = machine::vector_units();
    let name = machine::processor().unwrap_or_else(|| "unknown".to_owned());
    let names: Vec<&str> = units.iter().map(|unit| unit.0).collect();
    let found = format!("{name}: {cores} cores, {}", names.join(" "));
    let unused: Vec<&str> = units.iter().filter(|unit| !unit.1).map(|unit| unit.0).collect();
    if unused.is_empty() {
        return Check::ok("processor", found);
    }
    let advice = format!(
        "this program was not compiled for {}, and trains slower than it could: build it on this machine \
         (.cargo/config.toml asks for its processor; RUSTFLAGS would override that)",
        unused.join(", ")
    );
    Check::absent("processor", found, advice)
}

fn memory(plan: Option<&Plan>) -> Check {
    let Some((all, free)) = machine::memory() else { return Check::ok("memory", "unknown") };
    let found = format!("{} of {} free", Bytes(free), Bytes(all));
    let wanted = plan.map_or(LITTLE_MEMORY, |plan| plan.resources.memory.0);
    if free < wanted {
        let advice = format!("expected {} for batches under way: lower `resources.memory`", Bytes(wanted));
        return Check::missing("memory", found, advice);
    }
    Check::ok("memory", found)
}

fn files() -> Check {
    match machine::open_files() {
        Some(limit) if limit < FEW_FILES => {
            Check::missing("open files", format!("at most {limit}"), format!("raise it: ulimit -n {}", 4 * FEW_FILES))
        }
        Some(limit) => Check::ok("open files", format!("at most {limit}")),
        None => Check::ok("open files", "any number"),
    }
}

fn runs_disk() -> Check {
    disk("run folder", Path::new("runs"))
}

fn disk(name: &str, folder: &Path) -> Check {
    let Some(free) = machine::free_disk(folder) else { return Check::ok(name, format!("`{}`", folder.display())) };
    let found = format!("`{}`, {} free", folder.display(), Bytes(free));
    if free < LITTLE_DISK {
        return Check::missing(name, found, "make room, or name a folder on another disk");
    }
    Check::ok(name, found)
}

fn driver() -> Check {
    let version = machine::cuda_driver_version();
    match (machine::cuda_driver(), version) {
        (Some(path), Some(version)) => Check::ok("nvidia driver", format!("{version}, {}", path.display())),
        (Some(path), None) => Check::absent(
            "nvidia driver",
            format!("{}, without a kernel module", path.display()),
            "load the driver (`nvidia-smi` tells more), or it is a stand-in for linking",
        ),
        (None, _) => Check::absent(
            "nvidia driver",
            "no libcuda.so.1",
            "needed to run on a GPU only: install NVIDIA's driver for your system",
        ),
    }
}

fn toolkit() -> Check {
    match machine::cuda_toolkit() {
        Some((nvcc, version)) => Check::ok("cuda toolkit", format!("{version}, {}", nvcc.display())),
        None => Check::absent(
            "cuda toolkit",
            "no nvcc",
            "needed to build for GPUs only: eval \"$(scripts/cuda_toolkit.sh FOLDER)\" sets it up without root",
        ),
    }
}

fn gpus() -> Vec<Check> {
    match device::gpus() {
        Ok(gpus) => {
            let line = |gpu: device::Gpu| {
                let (major, minor) = gpu.capability;
                let found = format!("{}, {}, compute capability {major}.{minor}", gpu.name, Bytes(gpu.memory));
                Check::ok(&format!("cuda:{}", gpu.index), found)
            };
            gpus.into_iter().map(line).collect()
        }
        Err(error) => {
            let (found, advice) = explain(&error);
            vec![Check::absent("gpu", found, advice)]
        }
    }
}

/// A device error as what was found and what to do.
fn explain(error: &device::DeviceError) -> (String, String) {
    let text = error.to_string();
    text.split_once(": ").map_or_else(|| (text.clone(), String::new()), |(a, b)| (a.to_owned(), b.to_owned()))
}

/// The device that models would run on, and whether the one asked for can be used.
fn chosen_device(asked: Option<Device>, plan: Option<&Plan>) -> (Check, bool) {
    let wanted = asked.unwrap_or_else(|| plan.map_or(Device::Auto, |plan| plan.resources.device));
    if wanted == Device::Auto {
        let (name, _) = device::automatic(0);
        return (Check::ok("models run on", format!("{name} (`device: auto`)")), true);
    }
    match device::open(&wanted.to_string()) {
        Ok(_) => (Check::ok("models run on", wanted.to_string()), true),
        Err(error) => {
            let (found, advice) = explain(&error);
            (Check::missing("models run on", format!("not {wanted}: {found}"), advice), asked.is_none())
        }
    }
}

/// Whether the object stores that a source lists can be reached.
fn stores(node: &str, source: Option<&dyn Source>) -> Vec<Check> {
    let name = format!("{node} lists");
    let reached = source.map_or(Vec::new(), Source::reach);
    let line = |reach: Reach| match reach.found {
        Ok(found) => Check::ok(&name, format!("`{}`: {found}", reach.place)),
        Err(why) => {
            // What may help stands in brackets behind what the store has said.
            let (why, advice) = match why.split_once(" (set ") {
                Some((why, advice)) => (why, format!("set {}", advice.trim_end_matches(')'))),
                None => (&*why, "check the address, and that this machine can reach the store".to_owned()),
            };
            Check::missing(&name, format!("`{}`: {why}", reach.place), advice)
        }
    };
    reached.into_iter().map(line).collect()
}

/// What the nodes of a graph need: stores, files of weights, and room for their caches.
fn needs(plan: &Plan) -> Vec<Check> {
    let mut checks = Vec::new();
    for node in &plan.nodes {
        for path in node.stage.files() {
            let name = format!("{} reads", node.id);
            checks.push(if path.exists() {
                Check::ok(&name, format!("`{}`", path.display()))
            } else {
                Check::missing(&name, format!("no `{}`", path.display()), "see the README on where models come from")
            });
        }
        checks.extend(stores(&node.id, node.stage.source()));
        if let Some(cache) = &node.cache {
            checks.push(disk(&format!("{} cache", node.id), cache));
        }
    }
    checks
}
