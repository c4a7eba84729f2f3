//! What processes tell each other first, and why they may refuse to work together.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use serde::{Deserialize, Serialize};

use super::TOKEN;
use crate::plan::Plan;

/// How every connection begins. Changes when what follows does.
const MAGIC: &[u8; 16] = b"omar-flow/peer/1";

/// Longer than any real hello.
const LONGEST: u32 = 1 << 24;

/// What a process is about to do. Two of one run differ in nothing but who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Filled in for every connection.
    pub(super) purpose: String,
    pub(super) process: usize,
    pub(super) processes: usize,
    /// Hash of the token.
    token: String,
    version: String,
    /// Hash of the executable file.
    program: String,
    graph: String,
    seed: u64,
    /// Names and fingerprints.
    nodes: Vec<(String, String)>,
    /// Threads of the dataflow in every process.
    workers: usize,
    tracks: usize,
    corpus: String,
    manner: Manner,
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manner {
    /// From the checkpoints of an earlier one.
    pub(crate) resumes: bool,
    /// With recordings that an earlier one has rejected.
    pub(crate) retries: bool,
}

impl Hello {
    /// For a run of `plan` over a corpus with this many recordings and this hash.
    pub(crate) fn new(plan: &Plan, (tracks, corpus): (usize, String), manner: Manner, token: &str) -> Self {
        Self {
            purpose: String::new(),
            process: 0,
            processes: 0,
            token: short(&blake3::derive_key("omar-flow cluster token 1", token.as_bytes())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: program(),
            graph: plan.name.clone(),
            seed: plan.seed,
            nodes: plan.nodes.iter().map(|node| (node.id.clone(), node.fingerprint.to_hex())).collect(),
            workers: plan.resources.workers,
            tracks,
            corpus,
            manner,
        }
    }

    /// The same, said by process `process` of `processes`.
    pub(super) fn of(&self, process: usize, processes: usize) -> Self {
        Self { process, processes, ..self.clone() }
    }

    /// The same, at the beginning of a connection for a purpose.
    pub(super) fn about(&self, purpose: &str) -> Self {
        Self { purpose: purpose.to_owned(), ..self.clone() }
    }

    /// In what another process is not a part of this run. `peer` is its name.
    pub(super) fn difference(&self, other: &Self, peer: &str) -> Option<String> {
        let differs = |what: &str, there: &dyn std::fmt::Display, here: &dyn std::fmt::Display| {
            Some(format!("{peer} {what}: {there} there, {here} here"))
        };
        if self.token != other.token {
            return Some(format!("{peer} belongs to another run: its {TOKEN} is another one"));
        }
        if self.processes != other.processes {
            return differs("counts other processes", &other.processes, &self.processes);
        }
        if self.version != other.version {
            return differs("is another version of omar-flow", &other.version, &self.version);
        }
        if self.program != other.program {
            return differs("is another build of omar-flow: its executable is", &other.program, &self.program);
        }
        if self.graph != other.graph {
            return differs("runs another graph", &other.graph, &self.graph);
        }
        if self.seed != other.seed {
            return differs("has another seed", &other.seed, &self.seed);
        }
        if let Some(text) = nodes(&self.nodes, &other.nodes) {
            return Some(format!("{peer} runs another graph: {text}"));
        }
        if self.workers != other.workers {
            return differs("has another number of `resources.workers`", &other.workers, &self.workers);
        }
        if self.tracks != other.tracks {
            return differs("finds another number of recordings", &other.tracks, &self.tracks);
        }
        if self.corpus != other.corpus {
            return Some(format!("{peer} finds other recordings: their names, sizes or modification times differ"));
        }
        let (here, there) = (self.manner, other.manner);
        if here.resumes != there.resumes {
            let how = |resumes: bool| if resumes { "continues" } else { "begins" };
            return Some(format!(
                "{peer} {} a run, this process {} one: give --resume to all or none",
                how(there.resumes),
                how(here.resumes)
            ));
        }
        if here.retries != there.retries {
            let how = |retries: bool| if retries { "tries rejected recordings again" } else { "leaves them alone" };
            return Some(format!(
                "{peer} {}, this process {}: give --retry-quarantined to all or none",
                how(there.retries),
                how(here.retries)
            ));
        }
        None
    }

    /// Sends this hello and reads the other's.
    pub(super) fn exchange(&self, stream: &mut TcpStream) -> io::Result<Self> {
        let body = serde_json::to_vec(self).map_err(io::Error::other)?;
        let mut message = MAGIC.to_vec();
        message.extend((body.len() as u32).to_le_bytes());
        message.extend(body);
        stream.write_all(&message)?;
        let mut head = [0; 20];
        stream.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[16], head[17], head[18], head[19]]);
        if &head[..16] != MAGIC || length > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what answers is no process of this omar-flow"));
        }
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body)?;
        serde_json::from_slice(&body).map_err(io::Error::other)
    }
}

/// The first node in which two graphs differ.
fn nodes(here: &[(String, String)], there: &[(String, String)]) -> Option<String> {
    let find = |nodes: &[(String, String)], id: &str| nodes.iter().find(|node| node.0 == id).cloned();
    for (id, fingerprint) in here {
        match find(there, id) {
            None => return Some(format!("it has no node `{id}`")),
            Some((_, other)) if &other != fingerprint => {
                return Some(format!("node `{id}` has other parameters, inputs or weights"));
            }
            Some(_) => {}
        }
    }
    there.iter().find(|(id, _)| find(here, id).is_none()).map(|(id, _)| format!("it has a node `{id}` more"))
}

/// Hash of the running executable; empty where it cannot be read.
fn program() -> String {
    let mut hasher = blake3::Hasher::new();
    let file = std::env::current_exe().and_then(std::fs::File::open);
    match file.and_then(|file| hasher.update_reader(file).map(drop)) {
        Ok(()) => short(hasher.finalize().as_bytes()),
        Err(_) => String::new(),
    }
}

fn short(hash: &[u8; 32]) -> String {
    hash[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The hello of a small run.
    pub(in super::super) fn example() -> Hello {
        Hello {
            purpose: String::new(),
            process: 0,
            processes: 2,
            token: "t".into(),
            version: "0.1.0".into(),
            program: "00aa".into(),
            graph: "quickstart".into(),
            seed: 142,
            nodes: vec![("tracks".into(), "1".into()), ("model".into(), "2".into())],
            workers: 1,
            tracks: 12,
            corpus: "c".into(),
            manner: Manner { resumes: false, retries: false },
        }
    }

    #[test]
    fn the_difference_is_named() {
        let here = example();
        assert_eq!(here.difference(&here, "process 1"), None);
        type Change = Box<dyn Fn(&mut Hello)>;
        let cases: [(Change, &str); 12] = [
            (Box::new(|h| h.token = "u".into()), "belongs to another run: its OMAR_FLOW_TOKEN is another one"),
            (Box::new(|h| h.processes = 3), "counts other processes: 3 there, 2 here"),
            (Box::new(|h| h.version = "0.2.0".into()), "is another version of omar-flow: 0.2.0 there, 0.1.0 here"),
            (
                Box::new(|h| h.program = "11bb".into()),
                "is another build of omar-flow: its executable is: 11bb there, 00aa here",
            ),
            (Box::new(|h| h.graph = "other".into()), "runs another graph: other there, quickstart here"),
            (Box::new(|h| h.seed = 7), "has another seed: 7 there, 142 here"),
            (
                Box::new(|h| h.nodes[1].1 = "3".into()),
                "runs another graph: node `model` has other parameters, inputs or weights",
            ),
            (Box::new(|h| drop(h.nodes.pop())), "runs another graph: it has no node `model`"),
            (Box::new(|h| h.workers = 2), "has another number of `resources.workers`: 2 there, 1 here"),
            (Box::new(|h| h.tracks = 11), "finds another number of recordings: 11 there, 12 here"),
            (
                Box::new(|h| h.manner.resumes = true),
                "continues a run, this process begins one: give --resume to all or none",
            ),
            (
                Box::new(|h| h.manner.retries = true),
                "tries rejected recordings again, this process leaves them alone: give --retry-quarantined to all or none",
            ),
        ];
        for (change, message) in cases {
            let mut there = example();
            change(&mut there);
            assert_eq!(here.difference(&there, "process 1").as_deref(), Some(&*format!("process 1 {message}")));
        }
    }
}
