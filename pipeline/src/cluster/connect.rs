//! A connection between every two processes, one for each purpose.

use std::io;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};

use super::{ClusterError, Group, Hello};
use crate::stop::Stop;

/// How long one attempt may take, and the exchange of hellos after it.
const ATTEMPT: Duration = Duration::from_secs(5);

/// How long until the next attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// What a thread found: a connection to a process for a purpose, why such a one is refused, or why there is none yet.
enum Found {
    Connected(usize, usize, TcpStream),
    Refused(String),
    NotYet(usize, io::Error),
}

/// What all threads share.
struct Search {
    group: Group,
    hello: Hello,
    purposes: Vec<&'static str>,
    found: Sender<Found>,
    over: AtomicBool,
}

/// Connects this process to all others. Process i listens to those after it and calls on those before it.
pub(super) fn connect<const N: usize>(
    group: &Group,
    hello: &Hello,
    purposes: [&'static str; N],
    stop: &Stop,
) -> Result<[Vec<Option<TcpStream>>; N], ClusterError> {
    let (me, size) = (group.process, group.size());
    let hello = Hello { process: me, processes: size, ..hello.clone() };
    let (found, finds) = unbounded();
    let search = Search { group: group.clone(), hello, purposes: purposes.to_vec(), found, over: false.into() };
    let search = Arc::new(search);
    if me + 1 < size {
        let listener = listen(group)?;
        let search = search.clone();
        thread::spawn(move || search.accept(&listener));
    }
    for process in 0..me {
        let search = search.clone();
        thread::spawn(move || search.call(process));
    }
    let started = Instant::now();
    let mut streams: [Vec<Option<TcpStream>>; N] = std::array::from_fn(|_| (0..size).map(|_| None).collect());
    let mut reasons: Vec<Option<io::Error>> = (0..size).map(|_| None).collect();
    let is_missing = |streams: &[Vec<Option<TcpStream>>; N], process: usize| {
        process != me && streams.iter().any(|by_process| by_process[process].is_none())
    };
    let outcome = loop {
        match finds.recv_timeout(Duration::from_millis(50)) {
            Ok(Found::Connected(purpose, process, stream)) => streams[purpose][process] = Some(stream),
            Ok(Found::Refused(reason)) => break Err(ClusterError::Refused(reason)),
            Ok(Found::NotYet(process, error)) => reasons[process] = Some(error),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        let missing: Vec<usize> = (0..size).filter(|process| is_missing(&streams, *process)).collect();
        if missing.is_empty() {
            break Ok(());
        }
        let gone = missing.iter().find_map(|process| Some((*process, group.describe.as_ref()?(*process)?)));
        if let Some((process, how)) = gone {
            break Err(ClusterError::Refused(format!("{} {how}", group.name(process))));
        }
        if stop.is_requested() {
            break Err(ClusterError::Interrupted);
        }
        if started.elapsed() > group.deadline {
            let name = |process: usize| match &reasons[process] {
                Some(reason) => format!("{}: {reason}", group.name(process)),
                None => group.name(process),
            };
            let missing = missing.into_iter().map(name).collect();
            break Err(ClusterError::Missing { waited: group.deadline, missing });
        }
    };
    search.over.store(true, Ordering::Release);
    outcome.map(|()| streams)
}

fn listen(group: &Group) -> Result<TcpListener, ClusterError> {
    let address = &group.hosts.addresses[group.process];
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let process = group.process;
    listener.map_err(|source| ClusterError::Listen { process, address: address.clone(), source })
}

impl Search {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn tell(&self, found: Found) {
        // Nobody listens any more when the search is over.
        let _over = self.found.send(found);
    }

    /// Takes calls of later processes until the search is over.
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.is_over() {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let search = self.clone();
            thread::spawn(move || search.answer(stream));
        }
    }

    /// One call: who is it, and for what? Callers that do not speak our language are hung up on.
    fn answer(&self, mut stream: TcpStream) {
        let Ok(other) = prepare(&stream).and_then(|()| self.hello.exchange(&mut stream)) else { return };
        let purpose = self.purposes.iter().position(|purpose| *purpose == other.purpose);
        let known = self.group.process < other.process && other.process < self.group.size();
        let peer = if known { self.group.name(other.process) } else { format!("process {}", other.process) };
        if let Some(difference) = self.hello.difference(&other, &peer) {
            self.tell(Found::Refused(difference));
        } else if let (Some(purpose), true) = (purpose, known) {
            self.tell(settle(&stream).map_or_else(
                |error| Found::NotYet(other.process, error),
                |()| Found::Connected(purpose, other.process, stream),
            ));
        } else {
            let reason = format!("process {} calls process {}: two processes have one number", other.process, self.group.process);
            self.tell(Found::Refused(reason));
        }
    }

    /// Calls on an earlier process until it answers, or the search is over.
    fn call(&self, process: usize) {
        let mut purpose = 0;
        while purpose < self.purposes.len() && !self.is_over() {
            let hello = Hello { purpose: self.purposes[purpose].to_owned(), ..self.hello.clone() };
            match self.attempt(process, &hello) {
                Ok((stream, other)) => {
                    let name = self.group.name(process);
                    let difference = self.hello.difference(&other, &name);
                    let difference = difference.or_else(|| {
                        let wrong = other.process != process;
                        wrong.then(|| format!("at the address of {name} there is process {}", other.process))
                    });
                    if let Some(difference) = difference {
                        return self.tell(Found::Refused(difference));
                    }
                    self.tell(Found::Connected(purpose, process, stream));
                    purpose += 1;
                }
                Err(error) => {
                    self.tell(Found::NotYet(process, error));
                    thread::sleep(PAUSE);
                }
            }
        }
    }

    fn attempt(&self, process: usize, hello: &Hello) -> io::Result<(TcpStream, Hello)> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in self.group.hosts.addresses[process].to_socket_addrs()? {
            let hail = |mut stream: TcpStream| {
                prepare(&stream)?;
                let other = hello.exchange(&mut stream)?;
                settle(&stream)?;
                Ok((stream, other))
            };
            match TcpStream::connect_timeout(&address, ATTEMPT).and_then(hail) {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))
}

/// Whoever takes over the connection waits as long as it likes.
fn settle(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)
}
