//! Where the processes listen.

use std::path::{Path, PathBuf};

/// Addresses, `host:port`, by process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// One per process.
    pub addresses: Vec<String>,
    /// The file, for messages.
    source: PathBuf,
}

/// What is wrong with a hosts file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostsError {
    /// It cannot be read.
    #[error("`{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is no address.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// It has too few processes.
    #[error("`{}` lists {found} {}: {expected}", path.display(), if *found == 1 { "process" } else { "processes" })]
    Count {
        /// The file.
        path: PathBuf,
        /// Processes found.
        found: usize,
        /// What was expected.
        expected: String,
    },
}

impl Hosts {
    /// Reads a file with one `host:port` per line and process. Empty lines, and what follows `#`, are ignored.
    ///
    /// # Errors
    /// The line that is no address, or is there twice; a file of fewer than two.
    pub fn read(path: &Path) -> Result<Self, HostsError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| HostsError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, HostsError> {
        let mut found: Vec<(usize, String)> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let address = text.split('#').next().unwrap_or_default().trim();
            if address.is_empty() {
                continue;
            }
            let fail = |reason: String| Err(HostsError::Line { path: path.to_owned(), line, reason });
            if let Err(reason) = check(address) {
                return fail(reason);
            }
            if let Some((first, _)) = found.iter().find(|(_, other)| other == address) {
                return fail(format!("`{address}` is the address of line {first} already: every process has its own"));
            }
            found.push((line, address.to_owned()));
        }
        let count = found.len();
        if count < 2 {
            let expected = "expected at least 2, a line `host:port` for each".to_owned();
            return Err(HostsError::Count { path: path.to_owned(), found: count, expected });
        }
        Ok(Self { addresses: found.into_iter().map(|(_, address)| address).collect(), source: path.to_owned() })
    }

    /// Addresses that were chosen by the program.
    pub(crate) fn local(addresses: Vec<String>) -> Self {
        Self { addresses, source: PathBuf::from("--processes") }
    }

    /// The address of a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn line(&self, process: usize) -> Result<&str, HostsError> {
        self.addresses.get(process).map(String::as_str).ok_or_else(|| HostsError::Count {
            path: self.source.clone(),
            found: self.addresses.len(),
            expected: format!("--process must be below that, found {process} (the first is 0)"),
        })
    }
}

/// Checks that a text is `host:port`.
fn check(address: &str) -> Result<(), String> {
    let expected = format!("expected `host:port`, e.g. `10.0.0.1:7001`, found `{address}`");
    let Some((host, port)) = address.rsplit_once(':') else { return Err(expected) };
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(expected);
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(()),
        _ => Err(format!("`{port}` is no port: expected a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Hosts, String> {
        Hosts::parse(text, Path::new("hosts.txt")).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_processes() {
        let hosts = parse("# two machines\n10.0.0.1:7001\n\n node-b:7001  # the second\n").expect("two addresses");
        assert_eq!(hosts.addresses, ["10.0.0.1:7001", "node-b:7001"]);
        assert_eq!(hosts.line(1).expect("a process"), "node-b:7001");
        let error = hosts.line(2).expect_err("there are two").to_string();
        assert_eq!(error, "`hosts.txt` lists 2 processes: --process must be below that, found 2 (the first is 0)");
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, message) in [
            ("a:1\nb\n", "hosts.txt:2: expected `host:port`, e.g. `10.0.0.1:7001`, found `b`"),
            ("a:1\n\nb:0\n", "hosts.txt:3: `0` is no port: expected a number from 1 to 65535"),
            ("a:1\nb:99999\n", "hosts.txt:2: `99999` is no port: expected a number from 1 to 65535"),
            ("a:1\na:1\n", "hosts.txt:2: `a:1` is the address of line 1 already: every process has its own"),
            (":1\n", "hosts.txt:1: expected `host:port`, e.g. `10.0.0.1:7001`, found `:1`"),
            ("a:1\n", "`hosts.txt` lists 1 process: expected at least 2, a line `host:port` for each"),
        ] {
            assert_eq!(parse(text).expect_err(text), message);
        }
    }
}
