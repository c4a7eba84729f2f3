//! Answers Prometheus: `GET /metrics`, one request per connection, one after the other.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::observe::View;
use super::prometheus::{self, CONTENT_TYPE};

/// How long a request may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of a request at most.
const REQUEST: usize = 8 << 10;

/// How often it is looked whether anybody calls, or the run is over.
const POLL: Duration = Duration::from_millis(25);

/// A port that is held for a run.
#[derive(Debug, Clone)]
pub struct Listener(Arc<TcpListener>);

impl Listener {
    /// Takes the port of an address, `host:port`; `nth` is added to the port, so that several processes on a machine do
    /// not get into each other's way. Port 0 is any that is free.
    ///
    /// # Errors
    /// A sentence that says why the address cannot be used.
    pub fn bind(address: &str, nth: usize) -> Result<Self, String> {
        let expected = || format!("expected `host:port`, such as `127.0.0.1:9184`, found `{address}`");
        let resolved = address.to_socket_addrs().map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => expected(),
            _ => format!("`{address}`: {error}"),
        })?;
        let mut addresses: Vec<SocketAddr> = resolved.collect();
        for address in &mut addresses {
            let port =
                if address.port() == 0 { Some(0) } else { u16::try_from(usize::from(address.port()) + nth).ok() };
            address.set_port(port.ok_or_else(expected)?);
        }
        let named = addresses.first().map_or(address.to_owned(), ToString::to_string);
        let listener = TcpListener::bind(&addresses[..]).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        listener.map(|listener| Self(Arc::new(listener))).map_err(|error| match error.kind() {
            ErrorKind::AddrInUse => format!(
                "{named} is in use, perhaps by another run: choose another port, or port 0 for any that is free"
            ),
            ErrorKind::AddrNotAvailable => format!("{named} is no address of this machine: {error}"),
            _ => format!("{named} cannot be listened on: {error}"),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.local_addr().ok()
    }
}

/// Answers until it is dropped.
pub(crate) struct Server {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(listener: Listener, view: Arc<View>) -> Self {
        Self::answering(listener, move || prometheus::text(&view.record()))
    }

    fn answering(listener: Listener, metrics: impl Fn() -> String + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let flag = over.clone();
        let serve = move || {
            while !flag.load(Ordering::Acquire) {
                match listener.0.accept() {
                    // What goes wrong in a connection is for its other end.
                    Ok((stream, _)) => drop(answer(stream, &metrics)),
                    Err(_) => std::thread::park_timeout(POLL),
                }
            }
        };
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(serve).ok();
        Self { over, thread }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ended = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, metrics: &impl Fn() -> String) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (status, body) = match request(&mut stream)? {
        Request::Get(path) if path == "/metrics" => ("200 OK", metrics()),
        Request::Get(path) if path == "/" => ("200 OK", "omar-flow: the metrics are at /metrics\n".to_owned()),
        Request::Get(_) => ("404 Not Found", "there is only /metrics\n".to_owned()),
        Request::Other => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
        Request::Nonsense => ("400 Bad Request", "this is no HTTP request\n".to_owned()),
        Request::Large => ("431 Request Header Fields Too Large", "the request is too long\n".to_owned()),
        Request::Slow => ("408 Request Timeout", "the request took too long\n".to_owned()),
    };
    let allow = if status.starts_with("405") { "Allow: GET\r\n" } else { "" };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

#[derive(Debug, PartialEq, Eq)]
enum Request {
    /// With its path, without the query.
    Get(String),
    Other,
    Nonsense,
    Large,
    Slow,
}

fn request(stream: &mut TcpStream) -> io::Result<Request> {
    let until = Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    let mut piece = [0; 1024];
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        if bytes.len() > REQUEST {
            return Ok(Request::Large);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Request::Slow);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece) {
            Ok(0) => return Ok(Request::Nonsense),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(Request::Slow);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(parse(&bytes))
}

fn parse(bytes: &[u8]) -> Request {
    let line = bytes.split(|&byte| byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let words: Vec<&str> = line.unwrap_or_default().split(' ').collect();
    match words[..] {
        [method, target, version] if version.starts_with("HTTP/1.") => match method {
            "GET" => Request::Get(target.split('?').next().unwrap_or_default().to_owned()),
            _ => Request::Other,
        },
        _ => Request::Nonsense,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).expect("connects");
        stream.write_all(request).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut answer = Vec::new();
        // A server that has heard enough may hang up on the rest of a request.
        let _reset = stream.read_to_end(&mut answer);
        String::from_utf8(answer).expect("UTF-8")
    }

    #[test]
    fn only_get_of_metrics_is_answered_with_metrics() {
        let listener = Listener::bind("127.0.0.1:0", 3).expect("a free port");
        let address = listener.address().expect("an address");
        let server = Server::answering(listener, || "omar_flow_pass 1\n".to_owned());
        for (request, status, body) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", "\r\n\r\nomar_flow_pass 1\n"),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "200 OK", "\r\n\r\nomar_flow_pass 1\n"),
            ("GET / HTTP/1.1\r\n\r\n", "200 OK", "at /metrics\n"),
            ("GET /etc/passwd HTTP/1.1\r\n\r\n", "404 Not Found", "only /metrics\n"),
            ("POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", "only GET is answered\n"),
            ("hello\r\n\r\n", "400 Bad Request", "no HTTP request\n"),
            ("GET /met", "400 Bad Request", "no HTTP request\n"),
        ] {
            let answer = ask(address, request.as_bytes());
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}\r\n")) && answer.ends_with(body),
                "{request}: {answer}"
            );
        }
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(REQUEST + 2048));
        let answer = ask(address, long.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(ask(address, b"POST / HTTP/1.1\r\n\r\n").contains("\r\nAllow: GET\r\n"));
        drop(server);
        assert!(TcpStream::connect(address).is_err(), "the port is given back");
    }

    #[test]
    fn an_address_that_cannot_be_used_is_explained() {
        let taken = Listener::bind("127.0.0.1:0", 0).expect("a free port");
        let address = taken.address().expect("an address").to_string();
        let error = Listener::bind(&address, 0).expect_err("it is taken");
        assert!(error.starts_with(&format!("{address} is in use")) && error.contains("port 0"), "{error}");
        let error = Listener::bind("9184", 0).expect_err("no address");
        assert_eq!(error, "expected `host:port`, such as `127.0.0.1:9184`, found `9184`");
        assert!(Listener::bind("127.0.0.1:65535", 1).is_err(), "there is no such port");
    }
}
