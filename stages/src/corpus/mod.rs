//! Finding recordings and reading them: [`folder`] searches a folder tree, [`archive`] looks into tar archives,
//! [`manifest`] reads a list of files, [`objects`] reads from object stores; [`location`] is where bytes come from,
//! whichever of these it is.
//!
//! They only name files. What a file is called in the corpus, which split it belongs to and when it counts as changed
//! is decided by the `files` stage.

pub mod address;
pub mod archive;
pub mod folder;
pub mod location;
pub mod manifest;
pub mod objects;
