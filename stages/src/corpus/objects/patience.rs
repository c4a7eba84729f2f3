//! How often a store is asked, and how long it is waited for.
//!
//! This is the only place that asks again: the client below is told not to. Only failures of the way there are worth
//! it (a connection that is refused, reset or slow, a body that is cut short, 429 and 5xx); what a store has decided
//! (403, 404, a changed object) it has decided.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::failure::credentials;
use super::{Problem, StoreError};
use crate::corpus::address::Address;

/// How often, how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often it is asked, the first time included.
    pub attempts: u32,
    /// The pause after the first failure; each further one is twice as long, and all are varied by a half up and down, so
    /// that a thousand readers do not come back at the same moment.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long one answer may take as a whole.
    pub answer: Duration,
    /// How long all of it may take together.
    pub deadline: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            deadline: Duration::from_secs(120),
        }
    }
}

/// Where programs on machines of a cloud ask for credentials: nobody answers elsewhere.
const METADATA_SERVICES: [&str; 3] = ["169.254.169.254", "metadata.google.internal", "169.254.170.2"];

impl Patience {
    /// Asks until there is an answer, a refusal, or no patience left.
    pub(super) async fn ask<T, F, A>(self, address: &Address, request: F) -> Result<T, StoreError>
    where
        F: Fn() -> A,
        A: Future<Output = Result<T, Error>>,
    {
        let started = Instant::now();
        let mut attempt = 0;
        loop {
            attempt += 1;
            let left = self.deadline.saturating_sub(started.elapsed());
            let failure = match tokio::time::timeout(left, request()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => Failure::of(address, &error),
                Err(_) => Failure::Passing("no answer".to_owned()),
            };
            let said = match failure {
                Failure::Lasting(error) => return Err(error),
                Failure::Passing(said) => said,
            };
            let pause = self.pause_after(attempt);
            if attempt >= self.attempts || started.elapsed() + pause >= self.deadline {
                let times = if attempt == 1 { "once".to_owned() } else { format!("{attempt} times") };
                let seconds = started.elapsed().as_secs_f64();
                let message = format!("{said} (asked {times} in {seconds:.1} s)");
                return Err(StoreError::new(address, Problem::Unavailable, message));
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn pause_after(self, attempt: u32) -> Duration {
        let doubled = self.pause.saturating_mul(1 << (attempt - 1).min(16)).min(self.longest_pause);
        let chance = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        doubled.mul_f64(0.5 + chance)
    }
}

/// What a failure means.
enum Failure {
    /// It may go away.
    Passing(String),
    /// It will not.
    Lasting(StoreError),
}

impl Failure {
    fn of(address: &Address, error: &Error) -> Self {
        let lasting = |problem, message: String| Self::Lasting(StoreError::new(address, problem, message));
        match error {
            Error::NotFound { .. } => Self::Lasting(StoreError::missing(address)),
            Error::PermissionDenied { .. } => Self::Lasting(StoreError::denied(address, "403 Forbidden")),
            Error::Unauthenticated { .. } => Self::Lasting(StoreError::denied(address, "401 Unauthorized")),
            Error::Precondition { .. } => Self::Lasting(StoreError::changed(address)),
            _ => {
                let said = without_queries(&error.to_string());
                if METADATA_SERVICES.iter().any(|service| said.contains(service)) {
                    let message = format!("no credentials: {}", credentials(address.scheme()));
                    return lasting(Problem::Denied, message);
                }
                if http_error(error).is_some_and(is_plain) {
                    let advice = "where that is what you want, set AWS_ALLOW_HTTP=true (GOOGLE_, AZURE_)";
                    return lasting(Problem::Refused, format!("the endpoint is `http://`, unencrypted ({advice})"));
                }
                match (status(&said), http_error(error)) {
                    // A listing says so in this way.
                    (Some(404), _) => Self::Lasting(StoreError::missing(address)),
                    (Some(403), _) => Self::Lasting(StoreError::denied(address, "403 Forbidden")),
                    (Some(401), _) => Self::Lasting(StoreError::denied(address, "401 Unauthorized")),
                    (Some(status), _) if matches!(status, 408 | 429 | 500 | 502..) => {
                        Self::Passing(format!("the store answers {status}"))
                    }
                    (Some(status), _) => {
                        let advice = if status == 400 { " (is AWS_REGION or AWS_ENDPOINT right?)" } else { "" };
                        lasting(Problem::Refused, format!("the store answers {status}{advice}"))
                    }
                    (None, Some(error)) if error.kind() != HttpErrorKind::Unknown => Self::Passing(connection(error)),
                    (None, Some(error)) => Self::Passing(root_cause(error)),
                    (None, None) => lasting(Problem::Refused, said),
                }
            }
        }
    }
}

/// The failure of the connection below an error, if there is one.
fn http_error(error: &Error) -> Option<&HttpError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<HttpError>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Whether the client refuses to speak without encryption.
fn is_plain(error: &HttpError) -> bool {
    root_cause(error).contains("URL scheme is not allowed")
}

fn connection(error: &HttpError) -> String {
    let what = match error.kind() {
        HttpErrorKind::Connect => "cannot connect",
        HttpErrorKind::Timeout => "no answer in time",
        _ => "the connection broke",
    };
    format!("{what}: {}", root_cause(error))
}

/// The innermost cause, which has neither the address nor what is in it.
fn root_cause(error: &HttpError) -> String {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    without_queries(&cause.to_string())
}

/// The status that the text of an error names: the client keeps it to itself.
fn status(said: &str) -> Option<u16> {
    let (_, after) = said.split_once("status code: ")?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Text in which what follows a `?` is left out of all addresses: it may be a signature.
pub(super) fn without_queries(text: &str) -> String {
    let words = text.split(' ').map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => format!("{address}?..."),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_vary() {
        let patience = Patience::default();
        for (attempt, expected) in [(1, 250), (2, 500), (4, 2000), (9, 10_000), (60, 10_000)] {
            let pause = patience.pause_after(attempt).as_millis();
            assert!((expected / 2..=expected * 3 / 2).contains(&pause), "{attempt}: {pause} ms");
        }
        assert!((0..8).any(|_| patience.pause_after(1) != patience.pause_after(1)), "they vary");
    }

    #[test]
    fn signatures_are_not_shown_and_statuses_are_found() {
        let said = "Error performing GET https://a.blob/c/x?sv=1&sig=secret in 3ms - Server returned non-2xx status code: \
                    502 Bad Gateway: what?";
        assert!(!without_queries(said).contains("secret") && without_queries(said).contains("https://a.blob/c/x?..."));
        assert_eq!(status(said), Some(502));
        assert_eq!(status("anything else"), None);
    }
}
