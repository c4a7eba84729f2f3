//! What stands between a reader and the server: it counts what goes through, and fails as networks and stores do.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a request fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The store answers with this status.
    Status(u16),
    /// The connection ends without an answer.
    Reset,
    /// It ends in the middle of the answer.
    Cut,
    /// The answer takes so long.
    Slow(Duration),
    /// The server knows nothing of ranges.
    NoRanges,
}

/// A request that has come.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method and path.
    pub line: String,
    /// Bytes of the body that were sent.
    pub sent: u64,
}

#[derive(Default)]
struct State {
    requests: Vec<Request>,
    /// What comes next for requests whose line has the text; `usize` times, counted down.
    plan: Vec<(&'static str, Fault, usize)>,
}

/// The proxy. Its threads end with the process.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Before a server.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = proxy.state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = state.clone();
                // Either side may go away at any time.
                std::thread::spawn(move || drop(serve(&client, server, &state)));
            }
        });
        proxy
    }

    /// Its address as the environment has it.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next requests with `text` in their line fail so often; a later word comes before an earlier one.
    pub fn fail(&self, text: &'static str, fault: Fault, times: usize) {
        self.state.lock().unwrap().plan.push((text, fault, times));
    }

    /// Requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }
}

fn serve(client: &TcpStream, server: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    let upstream = TcpStream::connect(server)?;
    let (mut from_client, mut from_server) = (BufReader::new(client), BufReader::new(&upstream));
    loop {
        let mut head = read_head(&mut from_client)?;
        let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
        let (number, fault) = admit(state, &line);
        match fault {
            Some(Fault::Status(status)) => {
                let body = "<Error><Code>Test</Code></Error>";
                let head = format!("HTTP/1.1 {status} Test\r\nContent-Length: {}\r\n\r\n", body.len());
                (&mut &*client).write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
                continue;
            }
            Some(Fault::Reset) => return client.shutdown(Shutdown::Both),
            Some(Fault::Slow(time)) => std::thread::sleep(time),
            Some(Fault::NoRanges) => {
                let kept = head.split_inclusive("\r\n").filter(|line| !line.to_lowercase().starts_with("range:"));
                head = kept.collect();
            }
            Some(Fault::Cut) | None => {}
        }
        (&mut &upstream).write_all(head.as_bytes())?;
        let answer = read_head(&mut from_server)?;
        (&mut &*client).write_all(answer.as_bytes())?;
        let mut left = if line.starts_with("HEAD ") { 0 } else { content_length(&answer) };
        if matches!(fault, Some(Fault::Cut)) {
            left /= 2;
        }
        let mut buffer = vec![0; 1 << 14];
        while left > 0 {
            let wanted = left.min(buffer.len() as u64) as usize;
            let count = from_server.read(&mut buffer[..wanted])?;
            if count == 0 {
                return client.shutdown(Shutdown::Both);
            }
            (&mut &*client).write_all(&buffer[..count])?;
            left -= count as u64;
            state.lock().unwrap().requests.get_mut(number).into_iter().for_each(|request| request.sent += count as u64);
        }
        if matches!(fault, Some(Fault::Cut)) {
            return client.shutdown(Shutdown::Both);
        }
    }
}

fn admit(state: &Mutex<State>, line: &str) -> (usize, Option<Fault>) {
    let mut state = state.lock().unwrap();
    state.requests.push(Request { line: line.to_owned(), sent: 0 });
    let planned = state.plan.iter_mut().rev().find(|(text, _, times)| *times > 0 && line.contains(text));
    let fault = planned.map(|(_, fault, times)| {
        *times -= 1;
        *fault
    });
    (state.requests.len() - 1, fault)
}

fn read_head(from: &mut impl BufRead) -> io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn content_length(head: &str) -> u64 {
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length:"));
    length.expect("the server says how long its answers are").trim().parse().expect("a number")
}
