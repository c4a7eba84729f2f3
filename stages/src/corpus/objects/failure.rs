//! What stores refuse.

use std::io;
use std::sync::{Arc, OnceLock};

use crate::corpus::address::Address;
#[cfg(feature = "objects")]
use crate::corpus::address::Scheme;

/// A store has not given what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{address}`: {message}")]
pub struct StoreError {
    /// What was asked for.
    pub address: Address,
    /// What kind of failure it is.
    pub problem: Problem,
    /// What the store said, and what may help.
    pub message: String,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// There is no such object (404).
    Missing,
    /// It is not for us (401, 403), or there are no credentials.
    Denied,
    /// It is not the object any more that it was when it was opened.
    Changed,
    /// The store or the way to it has failed, however often it was asked.
    Unavailable,
    /// The store refuses for a reason that does not go away by asking again.
    Refused,
}

impl StoreError {
    pub(super) fn new(address: &Address, problem: Problem, message: impl Into<String>) -> Self {
        Self { address: address.clone(), problem, message: message.into() }
    }

    #[cfg(feature = "objects")]
    pub(super) fn missing(address: &Address) -> Self {
        Self::new(address, Problem::Missing, "404 Not Found: there is no such object")
    }

    #[cfg(feature = "objects")]
    pub(super) fn denied(address: &Address, status: &str) -> Self {
        Self::new(address, Problem::Denied, format!("{status} ({})", credentials(address.scheme())))
    }

    #[cfg(feature = "objects")]
    pub(super) fn changed(address: &Address) -> Self {
        Self::new(address, Problem::Changed, "the object has changed while it was read")
    }
}

/// Which variables of the environment let a store know us.
#[cfg(feature = "objects")]
pub(super) fn credentials(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::S3 => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_REGION or AWS_ENDPOINT; \
             AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Scheme::Gs => {
            "set GOOGLE_SERVICE_ACCOUNT to the file of a service account's key; GOOGLE_SKIP_SIGNATURE=true for a public \
             bucket"
        }
        Scheme::Az => {
            "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_KEY; \
             AZURE_SKIP_SIGNATURE=true for a public container"
        }
        Scheme::Http | Scheme::Https => "only what the web server gives to everyone can be read",
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        let kind = match error.problem {
            Problem::Missing => io::ErrorKind::NotFound,
            Problem::Denied => io::ErrorKind::PermissionDenied,
            Problem::Changed | Problem::Unavailable | Problem::Refused => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// Whether a store has failed while an object was read. Codecs take a failed read for the end of a file or for damage;
/// this knows better.
#[derive(Debug, Clone, Default)]
pub struct Fault(Arc<OnceLock<StoreError>>);

impl Fault {
    /// The first failure.
    pub fn error(&self) -> Option<StoreError> {
        self.0.get().cloned()
    }

    #[cfg(feature = "objects")]
    pub(super) fn note(&self, error: &StoreError) {
        let _later = self.0.set(error.clone());
    }
}
