//! `--processes N`: the other processes of a run on this machine, started by this one.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Describe, Hosts, TOKEN};

/// How long they may take to end after this one has nothing more to do.
const GRACE: Duration = Duration::from_secs(20);

/// The same, when the run has failed and they know it.
const SHORT_GRACE: Duration = Duration::from_secs(2);

/// Processes 1, 2, ... of a run. Dropping them waits until they have ended, and in the end makes them.
pub(crate) struct Children {
    hosts: Hosts,
    token: String,
    running: Arc<Mutex<Vec<Running>>>,
    grace: Duration,
}

struct Running {
    child: Child,
    ended: Option<ExitStatus>,
    log: PathBuf,
}

impl Running {
    fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }
}

impl Children {
    /// Starts `size - 1` processes of this program, with these arguments and those that say who they are. What they say
    /// goes to `process-N.log` in `folder`.
    pub(crate) fn start(size: usize, arguments: &[OsString], threads: usize, folder: &Path) -> io::Result<Self> {
        let hosts = Hosts::local(addresses(size)?);
        let token = std::env::var(TOKEN).unwrap_or_else(|_| token());
        std::fs::create_dir_all(folder)?;
        let program = std::env::current_exe()?;
        let children = Self { hosts, token, running: Arc::default(), grace: GRACE };
        for process in 1..size {
            let log = folder.join(format!("process-{process}.log"));
            let output = File::create(&log)?;
            let mut command = Command::new(&program);
            command.args(arguments).arg("--local").arg(children.hosts.addresses.join(","));
            command.arg("--process").arg(process.to_string()).arg("--threads").arg(threads.to_string());
            command.env(TOKEN, &children.token).env("RAYON_NUM_THREADS", threads.to_string());
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
            let child = command.spawn()?;
            children.lock().push(Running { child, ended: None, log });
        }
        Ok(children)
    }

    /// What tells this run from all others.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Where all of them listen.
    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// The run has failed: those that are still there are frozen, or about to end.
    pub(crate) fn hurry(&mut self) {
        self.grace = SHORT_GRACE;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How a process ended.
    pub(crate) fn describe(&self) -> Describe {
        let running = self.running.clone();
        Arc::new(move |process| {
            let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
            let child = running.get_mut(process.checked_sub(1)?)?;
            let status = child.ended()?;
            let log = child.log.display();
            Some(match last_line(&child.log) {
                Some(said) => format!("ended ({status}), saying: {said} (more in {log})"),
                None => format!("ended ({status}); its log is {log}"),
            })
        })
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        let started = Instant::now();
        let mut running = self.lock();
        while running.iter_mut().any(|child| child.ended().is_none()) {
            if started.elapsed() > self.grace {
                for child in running.iter_mut().filter(|child| child.ended.is_none()) {
                    let _gone = child.child.kill();
                    let _status = child.child.wait();
                }
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Free ports of this machine, by listening on them for a moment.
fn addresses(size: usize) -> io::Result<Vec<String>> {
    let listeners = (0..size).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<Vec<_>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

/// What tells this run from all others.
fn token() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// The error that a process wrote last.
fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let line = text.lines().rev().find(|line| line.starts_with("error: "))?;
    Some(line.trim_start_matches("error: ").to_owned())
}
