//! `resources:` and `flow:` of a graph: what a run may use, and how the corpus is cut.

use std::fmt;

use omar_schemas::units::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::diagnostic::Diagnostic;
use crate::reader::Reader;
use crate::spans::KeyPath;
use crate::yaml::describe;

/// Less than this cannot hold the batches of a pipeline.
const LEAST_MEMORY: Bytes = Bytes(64 << 20);

/// `resources:`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Threads for CPU work; `None` for as many as there are processors.
    pub threads: Option<usize>,
    /// Timely workers in this process.
    pub workers: usize,
    /// Memory for batches that are under way.
    pub memory: Bytes,
    /// Where models run.
    pub device: Device,
}

/// `flow:`
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Recordings of a shard, the unit of commit; `None` to let the program choose.
    pub shard_tracks: Option<usize>,
    /// Shards under way at a time.
    pub window: usize,
}

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU by its number.
    Cuda(usize),
}

impl Default for Resources {
    fn default() -> Self {
        Self { threads: None, workers: 1, memory: Bytes(2 << 30), device: Device::Auto }
    }
}

impl Default for Flow {
    fn default() -> Self {
        Self { shard_tracks: None, window: 4 }
    }
}

impl Resources {
    /// Threads for CPU work, at least 1.
    pub fn thread_count(&self) -> usize {
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(all).max(1)
    }
}

impl Device {
    /// Reads `auto`, `cpu` or `cuda:N`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            _ => text.strip_prefix("cuda:")?.parse().ok().map(Self::Cuda),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl Serialize for Device {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

pub(crate) fn read_resources(reader: &mut Reader<'_>) -> Resources {
    let (path, mut resources) = (KeyPath::new(["resources"]), Resources::default());
    let Some(map) = reader.map(&path, &["threads", "workers", "memory", "device"], "`resources`") else {
        return resources;
    };
    for (key, value) in map {
        let path = path.child(&key);
        match key.as_str() {
            "threads" => resources.threads = auto_or_count(reader, &path, &value, 1024),
            "workers" => resources.workers = reader.count(&path, &value, 1..=256).unwrap_or(1),
            "memory" => resources.memory = memory(reader, &path, &value).unwrap_or(resources.memory),
            "device" => resources.device = read_device(reader, &path, &value).unwrap_or(Device::Auto),
            _ => {}
        }
    }
    resources
}

pub(crate) fn read_flow(reader: &mut Reader<'_>) -> Flow {
    let (path, mut flow) = (KeyPath::new(["flow"]), Flow::default());
    let Some(map) = reader.map(&path, &["shard_tracks", "window"], "`flow`") else {
        return flow;
    };
    for (key, value) in map {
        let path = path.child(&key);
        match key.as_str() {
            "shard_tracks" => flow.shard_tracks = auto_or_count(reader, &path, &value, 1 << 20),
            "window" => flow.window = reader.count(&path, &value, 1..=1024).unwrap_or(flow.window),
            _ => {}
        }
    }
    flow
}

/// `device` of a node or of the graph.
pub(crate) fn read_device(reader: &mut Reader<'_>, path: &KeyPath, value: &Value) -> Option<Device> {
    let device = value.as_str().and_then(Device::parse);
    if device.is_none() {
        let message = format!("`device` must be `auto`, `cpu` or `cuda:N`, found {}", describe(value));
        reader.refuse(path, Diagnostic::error(message).hint("the first GPU is `cuda:0`"));
    }
    device
}

fn auto_or_count(reader: &mut Reader<'_>, path: &KeyPath, value: &Value, most: u64) -> Option<usize> {
    if value.as_str() == Some("auto") {
        return None;
    }
    if value.as_u64().is_some() {
        return reader.count(path, value, 1..=most);
    }
    let message = format!("`{}` must be `auto` or a whole number, found {}", path.last(), describe(value));
    reader.refuse(path, Diagnostic::error(message));
    None
}

fn memory(reader: &mut Reader<'_>, path: &KeyPath, value: &Value) -> Option<Bytes> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let diagnostic = match Bytes::parse(&text) {
        Ok(memory) if memory >= LEAST_MEMORY => return Some(memory),
        Ok(_) => {
            let message = format!("`memory` must be at least {LEAST_MEMORY}, found `{text}`");
            Diagnostic::error(message).hint("2GiB is enough for most graphs")
        }
        Err(message) => Diagnostic::error(format!("`memory`: {message}")),
    };
    reader.refuse(path, diagnostic);
    None
}
