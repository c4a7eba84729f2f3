//! Objects of S3, Google Cloud Storage, Azure and the web, read like files.
//!
//! [`Stores`] holds the connections of a process, [`ObjectReader`] reads one object by ranges, and [`StoreError`] says
//! what a store has refused. Everything else here works on threads and blocks; the only runtime of tasks is in `stores`.
//!
//! Behind the feature `objects`; without it every address is refused with a sentence that says so.

#[cfg(not(feature = "objects"))]
mod absent;
#[cfg(feature = "objects")]
mod clients;
mod failure;
#[cfg(feature = "objects")]
mod patience;
#[cfg(feature = "objects")]
mod reader;
#[cfg(feature = "objects")]
mod stores;

#[cfg(not(feature = "objects"))]
pub use absent::{ObjectReader, Stores};
pub use failure::{Fault, Problem, StoreError};
#[cfg(feature = "objects")]
pub use patience::Patience;
#[cfg(feature = "objects")]
pub use reader::ObjectReader;
#[cfg(feature = "objects")]
pub use stores::Stores;

/// Whether this program can read from object stores.
pub const AVAILABLE: bool = cfg!(feature = "objects");

/// How to build one that can.
pub const UNAVAILABLE: &str = "this program was built without object stores: rebuild it with `--features objects`";
