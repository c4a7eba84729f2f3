//! Finding recordings: [`folder`] searches a folder tree, [`archive`] looks into tar archives, [`manifest`] reads a list of
//! files.
//!
//! Both only name files. What a file is called in the corpus, which split it belongs to and when it counts as changed
//! is decided by the `files` stage.

pub mod archive;
pub mod folder;
pub mod manifest;
