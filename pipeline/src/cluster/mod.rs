//! Several processes that run one graph together, on one machine or on many.
//!
//! Every process knows all of them, by the lines of a [`Hosts`] file, and which of them it is. They connect in pairs
//! ([`connect`]), refuse each other unless they are the same program with the same graph ([`hello`]), and from then on
//! listen to each other's heartbeat ([`watch`]): when one is lost or fails, all end, each with the one reason. What
//! else they exchange goes over sockets of its own, one pair for each purpose, which the dataflow is handed.
//!
//! The connections are neither encrypted nor secret: they belong in a network that is trusted. The token (environment
//! variable `OMAR_FLOW_TOKEN`) tells runs apart.

mod children;
mod connect;
mod hello;
mod hosts;
mod watch;

use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use children::Children;
pub(crate) use hello::{Hello, Manner};
pub use hosts::{Hosts, HostsError};
pub(crate) use watch::Failure;

use crate::stop::Stop;
use watch::Watch;

/// Environment variable with the token that all processes of a run share.
pub(crate) const TOKEN: &str = "OMAR_FLOW_TOKEN";

/// Connections to all processes for one purpose; the place of this process is empty.
pub(crate) type Sockets = Vec<Option<TcpStream>>;

/// How a process ended, if it has and this one knows.
pub(crate) type Describe = Arc<dyn Fn(usize) -> Option<String> + Send + Sync>;

/// The processes of a run, seen from one of them, before they are connected.
#[derive(Clone)]
pub struct Group {
    /// Where each process listens.
    pub hosts: Hosts,
    /// Which of them this one is.
    pub process: usize,
    /// How long to wait until all are connected.
    pub deadline: Duration,
    /// What tells this run from others; all of its processes have the same.
    pub(crate) token: String,
    /// What this process knows of the end of others, beside what the network says.
    pub(crate) describe: Option<Describe>,
}

impl Group {
    /// Process `process` of those in `hosts`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn new(hosts: Hosts, process: usize, deadline: Duration) -> Result<Self, HostsError> {
        hosts.line(process)?;
        let token = std::env::var(TOKEN).unwrap_or_default();
        Ok(Self { hosts, process, deadline, token, describe: None })
    }

    /// How many processes before this one have the same host.
    pub(crate) fn nth_on_machine(&self) -> usize {
        let host = |address: &String| address.rsplit_once(':').map(|(host, _)| host.to_owned());
        let own = host(&self.hosts.addresses[self.process]);
        self.hosts.addresses[..self.process].iter().filter(|address| host(address) == own).count()
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.hosts.addresses.len()
    }

    /// As people are told of a process.
    fn name(&self, process: usize) -> String {
        format!("process {process} ({})", self.hosts.addresses[process])
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("hosts", &self.hosts).field("process", &self.process).finish_non_exhaustive()
    }
}

/// Why processes did not come together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// This process cannot listen on its own address.
    #[error(
        "process {process} cannot listen on {address}: {source}; is the address this machine's, and the port free?"
    )]
    Listen {
        /// Which process.
        process: usize,
        /// Its address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Somebody is not there.
    #[error("after {} s there is no connection to {}", waited.as_secs(), missing.join(", "))]
    Missing {
        /// How long this process has waited.
        waited: Duration,
        /// Names of the processes, with the reason where one is known.
        missing: Vec<String>,
    },
    /// Another process is there, but is not a part of this run.
    #[error("{0}")]
    Refused(String),
    /// Ctrl-C, before all were connected.
    #[error("interrupted while waiting for the other processes")]
    Interrupted,
}

/// Processes that are connected.
#[derive(Debug)]
pub(crate) struct Cluster {
    process: usize,
    size: usize,
    failure: Failure,
    watch: Watch,
    sums: Mutex<[Sockets; 2]>,
    rows: Mutex<Sockets>,
}

impl Cluster {
    /// Waits until all processes of the group are connected and have agreed that they are about to do the same.
    ///
    /// # Errors
    /// Who is missing at the deadline, or who differs, and in what.
    pub(crate) fn connect(group: &Group, hello: &Hello, stop: &Stop) -> Result<Self, ClusterError> {
        let purposes = ["control", "small sums", "large sums", "rows"];
        let [control, small, large, rows] = connect::connect(group, hello, purposes, stop)?;
        let failure = Failure::default();
        let names = (0..group.size()).map(|process| group.name(process)).collect();
        let watch = Watch::start(control, names, failure.clone(), group.describe.clone(), group.deadline);
        let (sums, rows) = (Mutex::new([small, large]), Mutex::new(rows));
        Ok(Self { process: group.process, size: group.size(), failure, watch, sums, rows })
    }

    /// Which of the processes this is.
    pub(crate) fn process(&self) -> usize {
        self.process
    }

    /// How many processes there are.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Why they cannot go on.
    pub(crate) fn failure(&self) -> &Failure {
        &self.failure
    }

    /// The sockets over which small and large sums go, once: small ones do not queue behind large ones.
    pub(crate) fn take_sums(&self) -> [Sockets; 2] {
        std::mem::take(&mut *self.sums.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The sockets over which rows, counts and errors go, once.
    pub(crate) fn take_rows(&self) -> Sockets {
        std::mem::take(&mut *self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes leave of the others: all is done, or it failed for a reason of this process.
    pub(crate) fn finish(self, outcome: Result<(), String>) {
        self.watch.finish(outcome, &self.failure);
    }
}
