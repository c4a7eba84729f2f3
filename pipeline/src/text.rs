//! The files of a graph, side by side in one row of bytes.
//!
//! A graph may be spread over several files (`include:`), and a value may stand in another file than the key that
//! leads to it, because anchors of included templates work in the including file. So that one number says where
//! something stands, the files lie in one address space: a range of a [`crate::spans::Tree`] counts from the start of
//! the first file, and [`Files`] knows which file that is.

use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use crate::diagnostic::{Place, Source};
use crate::spans::Tree;

/// The key under which templates of included files are put into a text; nobody writes that.
pub(crate) const IMPORTED: &str = "templates of included files";

/// All files of a graph, each with the address of its first byte. The first one is the graph itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files(Vec<(usize, Arc<Source>)>);

impl Files {
    /// Adds a file; returns its address.
    pub(crate) fn add(&mut self, source: Arc<Source>) -> usize {
        // A byte in between, so that the end of a file is not the start of the next.
        let base = self.0.last().map_or(0, |(base, last)| base + last.text.len() + 1);
        self.0.push((base, source));
        base
    }

    /// The file of a range, and where in it. There must be a file.
    pub(crate) fn place(&self, range: Range<usize>) -> Place {
        let index = self.0.partition_point(|file| file.0 <= range.start).saturating_sub(1);
        let (base, source) = &self.0[index];
        Place { source: source.clone(), range: range.start - base..range.end - base }
    }

    /// The files that the graph includes.
    pub(crate) fn included(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.0.iter().skip(1).map(|file| &file.1)
    }
}

/// A template of an included file.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    /// Its key, and the name of its anchor in including files.
    pub(crate) name: String,
    pub(crate) value: Value,
    pub(crate) tree: Arc<Tree>,
}

/// A file as it is parsed: one line longer than it is, if it includes templates, which stand in that line.
#[derive(Debug)]
pub(crate) struct Text {
    pub(crate) source: Arc<Source>,
    /// What is parsed.
    pub(crate) text: String,
    /// The bytes that are not in the file.
    pub(crate) inserted: Range<usize>,
    /// Where the templates of the inserted line really stand, in order.
    pub(crate) imported: Vec<Arc<Tree>>,
    base: usize,
}

impl Text {
    /// A file at an address.
    pub(crate) fn new(source: Arc<Source>, base: usize) -> Self {
        let text = source.text.clone();
        Self { source, text, inserted: 0..0, imported: Vec::new(), base }
    }

    /// Puts templates before the line of a key of the top-level map, which starts at byte `at`. JSON is YAML, so they
    /// are one line, whatever they hold. Nothing happens where the map is written as `{...}`.
    pub(crate) fn import(&mut self, at: usize, templates: &[Template]) {
        let start = self.source.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let indentation = &self.source.text[start..at];
        if templates.is_empty() || !indentation.chars().all(|c| c == ' ') {
            return;
        }
        let entry = |template: &Template| format!("{:?}: &{} {}", template.name, template.name, template.value);
        let entries: Vec<String> = templates.iter().map(entry).collect();
        let line = format!("{indentation}{IMPORTED:?}: {{{}}}\n", entries.join(", "));
        self.inserted = start..start + line.len();
        self.text.insert_str(start, &line);
        self.imported = templates.iter().map(|template| template.tree.clone()).collect();
    }

    /// The address of a byte of the parsed text.
    pub(crate) fn address(&self, byte: usize) -> usize {
        let behind = if byte >= self.inserted.end { self.inserted.len() } else { 0 };
        self.base + byte - behind
    }

    /// The line of the file that a line of the parsed text is, both from 0.
    pub(crate) fn line(&self, line: usize) -> usize {
        let first = self.text[..self.inserted.start].matches('\n').count();
        if self.inserted.is_empty() || line <= first { line } else { line - 1 }
    }
}
