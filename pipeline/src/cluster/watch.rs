//! Are the others still there?
//!
//! Every process sends a heartbeat to every other over a connection of its own, and listens to theirs. A process that
//! dies closes its connections, which is seen at once; one that is frozen, or whose machine or network is gone, is
//! missed after [`PATIENCE`].

use std::fmt;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, Sender, bounded};
use serde::{Deserialize, Serialize};

use super::Describe;

/// From one heartbeat to the next.
const BEAT: Duration = Duration::from_secs(2);

/// Silence after which a process is given up on.
pub(super) const PATIENCE: Duration = Duration::from_secs(9);

/// How long those that end in good order wait for each other's farewell.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a process may take to end once it knows that it must.
const GRACE: Duration = Duration::from_secs(60);

/// No message is longer.
const LONGEST: u64 = 1 << 16;

/// A message between two processes, a line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// Still here.
    Beat,
    /// All is done.
    Done,
    /// This process cannot go on, for a reason of its own.
    Failed(String),
    /// All cannot go on.
    Lost(String),
}

/// Why the processes cannot go on: the first reason, and who wants to be told.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Inner>);

#[derive(Default)]
struct Inner {
    set: AtomicBool,
    state: Mutex<State>,
}

/// Is told the reason.
type Hook = Box<dyn Fn(&str) + Send>;

#[derive(Default)]
struct State {
    reason: Option<String>,
    hooks: Vec<Hook>,
}

impl Failure {
    /// Notes a reason, unless there is one, and tells all who asked before anybody else can see it.
    pub(crate) fn set(&self, reason: &str) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.reason.is_none() {
            state.hooks.iter().for_each(|hook| hook(reason));
            state.reason = Some(reason.to_owned());
            self.0.set.store(true, Ordering::Release);
        }
    }

    /// Calls `hook` with the reason, now or when there is one.
    pub(crate) fn on_set(&self, hook: impl Fn(&str) + Send + 'static) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.reason {
            Some(reason) => hook(reason),
            None => state.hooks.push(Box::new(hook)),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.set.load(Ordering::Acquire)
    }

    pub(crate) fn text(&self) -> Option<String> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).reason.clone()
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Failure").field(&self.text()).finish()
    }
}

/// The heartbeat of this process, and its ear for those of the others.
#[derive(Debug)]
pub(super) struct Watch {
    farewell: Sender<Message>,
    sender: thread::JoinHandle<()>,
    ears: Vec<thread::JoinHandle<()>>,
}

impl Watch {
    /// Starts to send and to listen. `streams` and `names` are by process; the place of this one is empty. The others may
    /// take as long as `first` before they send their first beat: they may wait for somebody else.
    pub(super) fn start(
        streams: Vec<Option<TcpStream>>,
        names: Vec<String>,
        failure: Failure,
        describe: Option<Describe>,
        first: Duration,
    ) -> Self {
        let (farewell, words) = bounded(1);
        let (mut mouths, mut ears) = (Vec::new(), Vec::new());
        for (process, (stream, name)) in streams.into_iter().zip(names).enumerate() {
            let Some(stream) = stream else { continue };
            let ear = Ear { process, name, failure: failure.clone(), describe: describe.clone(), first };
            match stream.try_clone() {
                Ok(mouth) => mouths.push(mouth),
                Err(error) => failure.set(&format!("the connection to {} cannot be used: {error}", ear.name)),
            }
            ears.push(thread::spawn(move || ear.listen(stream)));
        }
        let sender = thread::spawn(move || {
            let _short = mouths.iter().try_for_each(|mouth| mouth.set_write_timeout(Some(BEAT)));
            mouths.iter_mut().for_each(|mouth| say(mouth, &Message::Beat));
            let mut failed: Option<Instant> = None;
            loop {
                let word = match words.recv_timeout(BEAT) {
                    Ok(word) => Some(word),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let message = word.as_ref().unwrap_or(&Message::Beat);
                mouths.iter_mut().for_each(|mouth| say(mouth, message));
                if word.is_some() {
                    mouths.iter().for_each(|mouth| drop(mouth.shutdown(Shutdown::Write)));
                    return;
                }
                if failure.is_set() && failed.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    let reason = failure.text().unwrap_or_default();
                    crate::commands::write_message(&format!("error: {reason}\n"));
                    std::process::exit(1);
                }
            }
        });
        Self { farewell, sender, ears }
    }

    /// Says farewell, and waits a moment for that of the others.
    pub(super) fn finish(self, outcome: Result<(), String>, failure: &Failure) {
        let message = match (outcome, failure.text()) {
            (Ok(()), None) => Message::Done,
            (_, Some(reason)) => Message::Lost(reason),
            (Err(reason), None) => Message::Failed(reason),
        };
        let _gone = self.farewell.send(message);
        let _joined = self.sender.join();
        let started = Instant::now();
        while started.elapsed() < FAREWELL && self.ears.iter().any(|ear| !ear.is_finished()) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn say(mouth: &mut TcpStream, message: &Message) {
    let mut line = serde_json::to_vec(message).expect("a message is plain data and always serialises");
    line.push(b'\n');
    // Whether anybody hears is the business of the ear.
    let _unheard = mouth.write_all(&line);
}

/// Listens to one process.
struct Ear {
    process: usize,
    name: String,
    failure: Failure,
    describe: Option<Describe>,
    first: Duration,
}

impl Ear {
    fn listen(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut line, mut patience) = (Vec::new(), PATIENCE + self.first);
        loop {
            line.clear();
            let _set = reader.get_ref().set_read_timeout(Some(patience));
            let read = reader.by_ref().take(LONGEST).read_until(b'\n', &mut line);
            let reason = match read.map(|_| serde_json::from_slice::<Message>(&line)) {
                Ok(Ok(Message::Beat)) => {
                    patience = PATIENCE;
                    continue;
                }
                Ok(Ok(Message::Done)) => return,
                Ok(Ok(Message::Failed(reason))) => format!("{} failed: {reason}", self.name),
                Ok(Ok(Message::Lost(reason))) => reason,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    let silence = patience.as_secs();
                    format!(
                        "{} has given no sign of life for {silence} s: it is frozen or cannot be reached",
                        self.name
                    )
                }
                Ok(Err(_)) | Err(_) => self.ended(),
            };
            return self.failure.set(&reason);
        }
    }

    /// The connection broke without a farewell.
    fn ended(&self) -> String {
        let started = Instant::now();
        while let Some(describe) = self.describe.as_ref().filter(|_| started.elapsed() < Duration::from_secs(1)) {
            if let Some(how) = describe(self.process) {
                return format!("{} {how}", self.name);
            }
            thread::sleep(Duration::from_millis(20));
        }
        format!("{} has ended without a word: it was killed, or its machine or network went down", self.name)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let here = TcpStream::connect(listener.local_addr().expect("bound")).expect("somebody listens");
        (here, listener.accept().expect("a call").0)
    }

    fn watch(stream: TcpStream, failure: &Failure) -> Watch {
        Watch::start(vec![Some(stream)], vec!["process 1 (there)".to_owned()], failure.clone(), None, Duration::ZERO)
    }

    fn wait(failure: &Failure) -> String {
        while !failure.is_set() {
            thread::sleep(Duration::from_millis(5));
        }
        failure.text().expect("it is set")
    }

    #[test]
    fn farewells_are_told_from_deaths() {
        let (failure, theirs) = (Failure::default(), Failure::default());
        let (here, there) = pair();
        let (a, b) = (watch(here, &failure), watch(there, &theirs));
        let other = thread::spawn(move || b.finish(Ok(()), &theirs));
        a.finish(Ok(()), &failure);
        other.join().expect("both end");
        assert!(!failure.is_set());

        let (here, there) = pair();
        let _watch = watch(here, &failure);
        drop(there);
        let expected = "process 1 (there) has ended without a word: it was killed, or its machine or network went down";
        assert_eq!(wait(&failure), expected);
    }

    #[test]
    fn a_reason_goes_round_as_it_is() {
        for (says, hears) in [
            (Message::Failed("no disk".into()), "process 1 (there) failed: no disk"),
            (Message::Lost("process 2 is gone".into()), "process 2 is gone"),
        ] {
            let failure = Failure::default();
            let (heard, hooked) = (Arc::new(Mutex::new(String::new())), Failure::default());
            let copy = heard.clone();
            failure.on_set(move |reason| copy.lock().expect("no panic").push_str(reason));
            let (here, mut there) = pair();
            let _watch = watch(here, &failure);
            say(&mut there, &Message::Beat);
            say(&mut there, &says);
            assert_eq!(wait(&failure), hears);
            assert_eq!(*heard.lock().expect("no panic"), hears);
            failure.set("later");
            assert_eq!(failure.text().as_deref(), Some(hears));
            drop(hooked);
        }
    }
}
