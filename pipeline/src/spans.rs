//! Where in a YAML text every key and value stands.
//!
//! `serde_yaml` reads the values but forgets their lines, so the text is read a second time, by `saphyr-parser`, into a
//! [`Tree`] of byte ranges. A [`KeyPath`] leads from the top of a file to a value.

mod includes;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

pub(crate) use self::includes::Includes;
use crate::text::{IMPORTED, Text};

/// Deeper nesting is refused; `serde_yaml` draws the line at 128 itself.
const MAX_DEPTH: usize = 200;

/// The way to a value: keys, and positions in lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyPath(pub Vec<String>);

impl KeyPath {
    /// Parses `nodes.model.params.steps` or `include[0]`.
    pub fn parse(text: &str) -> Self {
        let keys = text.split(['.', '[']).map(|key| key.trim_end_matches(']'));
        Self(keys.filter(|key| !key.is_empty()).map(str::to_owned).collect())
    }

    /// From keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(str::to_owned).collect())
    }

    /// One level deeper.
    #[must_use]
    pub fn child(&self, key: impl Into<String>) -> Self {
        let mut keys = self.0.clone();
        keys.push(key.into());
        Self(keys)
    }

    /// One level up.
    #[must_use]
    pub fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    /// Several levels deeper.
    #[must_use]
    pub fn join(&self, below: &Self) -> Self {
        Self(self.0.iter().chain(&below.0).cloned().collect())
    }

    /// The last key, empty at the top.
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// Whether this is `other` or below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, key) in self.0.iter().enumerate() {
            let number = index > 0 && key.bytes().all(|byte| byte.is_ascii_digit());
            match (index, number) {
                (0, _) => write!(f, "{key}")?,
                (_, true) => write!(f, "[{key}]")?,
                (_, false) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// The ranges of a value and of what it holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tree {
    pub(crate) range: Range<usize>,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Scalar,
    List(Vec<Arc<Tree>>),
    Map(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_range: Range<usize>,
    pub(crate) value: Arc<Tree>,
}

/// A key that stands twice in one map.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Duplicate {
    pub(crate) key: String,
    pub(crate) first: Range<usize>,
    pub(crate) second: Range<usize>,
}

impl Tree {
    /// Reads the ranges of a text; `None` when it cannot be parsed, which is for `serde_yaml` to explain.
    pub(crate) fn scan(text: &str) -> Option<Self> {
        Scan::new(text).tree()
    }

    /// Reads the ranges of a file of a graph, as addresses among all its files.
    pub(crate) fn scan_file(file: &Text) -> Option<Self> {
        let imported = file.imported.iter().cloned().collect();
        Scan { file: Some(file), imported, ..Scan::new(&file.text) }.tree()
    }

    /// The value at a path and the range of its key. Merged maps (`<<`) are looked into.
    pub(crate) fn find(&self, path: &[String]) -> Option<(Option<Range<usize>>, &Self)> {
        let mut found = (None, self);
        for key in path {
            found = found.1.child(key)?;
        }
        Some(found)
    }

    fn child(&self, key: &str) -> Option<(Option<Range<usize>>, &Self)> {
        match &self.kind {
            Kind::Scalar => None,
            Kind::List(items) => Some((None, items.get(key.parse::<usize>().ok()?)?)),
            Kind::Map(entries) => {
                let own = entries.iter().find(|entry| entry.key == key);
                let own = own.map(|entry| (Some(entry.key_range.clone()), &*entry.value));
                own.or_else(|| {
                    let merged = entries.iter().filter(|entry| entry.key == "<<").map(|entry| &*entry.value);
                    merged.flat_map(Self::merged_maps).find_map(|map| map.child(key))
                })
            }
        }
    }

    fn merged_maps(&self) -> Vec<&Self> {
        match &self.kind {
            Kind::List(items) => items.iter().map(|item| &**item).collect(),
            _ => vec![self],
        }
    }

    /// Keys that stand twice in one map, anywhere below.
    pub(crate) fn duplicates(&self) -> Vec<Duplicate> {
        let mut found = Vec::new();
        self.collect_duplicates(&mut found);
        found
    }

    fn collect_duplicates(&self, found: &mut Vec<Duplicate>) {
        match &self.kind {
            Kind::Scalar => {}
            Kind::List(items) => items.iter().for_each(|item| item.collect_duplicates(found)),
            Kind::Map(entries) => {
                for (index, entry) in entries.iter().enumerate() {
                    if let Some(first) = entries[..index].iter().find(|earlier| earlier.key == entry.key) {
                        let (key, first, second) = (&entry.key, &first.key_range, &entry.key_range);
                        found.push(Duplicate { key: key.clone(), first: first.clone(), second: second.clone() });
                    }
                    if !entry.value.is_alias() {
                        entry.value.collect_duplicates(found);
                    }
                }
            }
        }
    }

    /// Whether it stands for something that is defined further up.
    fn is_alias(&self) -> bool {
        let first = match &self.kind {
            Kind::Scalar => None,
            Kind::List(items) => items.first().map(|item| item.range.start),
            Kind::Map(entries) => entries.first().map(|entry| entry.key_range.start),
        };
        first.is_some_and(|first| first < self.range.start)
    }

    /// Moves all ranges, for a text that is part of another.
    pub(crate) fn shift(&self, offset: usize) -> Self {
        let moved = |range: &Range<usize>| range.start + offset..range.end + offset;
        let kind = match &self.kind {
            Kind::Scalar => Kind::Scalar,
            Kind::List(items) => Kind::List(items.iter().map(|item| Arc::new(item.shift(offset))).collect()),
            Kind::Map(entries) => Kind::Map(
                entries
                    .iter()
                    .map(|entry| Entry {
                        key: entry.key.clone(),
                        key_range: moved(&entry.key_range),
                        value: Arc::new(entry.value.shift(offset)),
                    })
                    .collect(),
            ),
        };
        Self { range: moved(&self.range), kind }
    }
}

/// The events of a text.
struct Scan<'a> {
    text: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Byte offset of every character; the parser counts characters.
    bytes: Vec<usize>,
    anchors: HashMap<usize, Arc<Tree>>,
    /// The file that the text is, if it is one.
    file: Option<&'a Text>,
    /// Where the anchors of the inserted line really stand.
    imported: VecDeque<Arc<Tree>>,
}

impl<'a> Scan<'a> {
    fn new(text: &'a str) -> Self {
        let bytes: Vec<usize> = text.char_indices().map(|(byte, _)| byte).chain([text.len()]).collect();
        let (parser, imported) = (Parser::new_from_str(text), VecDeque::new());
        Self { text, parser, bytes, anchors: HashMap::new(), file: None, imported }
    }

    fn tree(mut self) -> Option<Tree> {
        let (event, span) = self.content()?;
        self.value(&event, span, 0)
    }

    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        self.parser.next_event()?.ok()
    }

    /// The next event that is part of the content.
    fn content(&mut self) -> Option<(Event<'a>, Span)> {
        loop {
            let next = self.next()?;
            match next.0 {
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
                Event::StreamEnd | Event::DocumentEnd => return None,
                _ => return Some(next),
            }
        }
    }

    fn range(&self, span: Span) -> Range<usize> {
        let byte = |index: usize| self.bytes[index.min(self.bytes.len() - 1)];
        let range = byte(span.start.index())..byte(span.end.index());
        // Only the first line of a value is pointed at, and not the blanks after it.
        let line = self.text[range.clone()].lines().next().unwrap_or_default().trim_end();
        range.start..range.start + line.len()
    }

    fn value(&mut self, event: &Event<'a>, span: Span, depth: usize) -> Option<Tree> {
        if depth > MAX_DEPTH {
            return None;
        }
        let mut range = self.range(span);
        if let Event::Scalar(text, style, ..) = event {
            range.end = range.start + scalar_len(&self.text[range.clone()], text, *style);
        }
        let inserted = self.file.is_some_and(|file| file.inserted.contains(&range.start));
        let range = self.file.map_or(range.clone(), |file| file.address(range.start)..file.address(range.end));
        let (kind, anchor) = match event {
            Event::Scalar(_, _, anchor, _) => (Kind::Scalar, *anchor),
            Event::SequenceStart(anchor, _) => (self.list(depth)?, *anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, *anchor),
            Event::Alias(anchor) => (self.anchors.get(anchor)?.kind.clone(), 0),
            _ => return None,
        };
        let tree = Tree { range, kind };
        if anchor > 0 {
            let imported = if inserted { self.imported.pop_front() } else { None };
            self.anchors.insert(anchor, imported.unwrap_or_else(|| Arc::new(tree.clone())));
        }
        Some(tree)
    }

    fn list(&mut self, depth: usize) -> Option<Kind> {
        let mut items = Vec::new();
        loop {
            match self.content()? {
                (Event::SequenceEnd, _) => return Some(Kind::List(items)),
                (event, span) => items.push(Arc::new(self.value(&event, span, depth + 1)?)),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<Kind> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.content()?;
            if event == Event::MappingEnd {
                return Some(Kind::Map(entries));
            }
            let key = match &event {
                Event::Scalar(text, ..) => text.to_string(),
                _ => String::new(),
            };
            let key_range = self.value(&event, span, depth + 1)?.range;
            let (event, span) = self.content()?;
            let value = Arc::new(self.value(&event, span, depth + 1)?);
            if depth > 0 || key != IMPORTED {
                entries.push(Entry { key, key_range, value });
            }
        }
    }
}

/// How many bytes of a line a scalar takes; the parser counts blanks and comments after it as well.
fn scalar_len(line: &str, value: &str, style: ScalarStyle) -> usize {
    match style {
        ScalarStyle::DoubleQuoted => {
            let mut escaped = false;
            let end = line.char_indices().skip(1).find(|&(_, c)| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(line.len(), |(at, _)| at + 1)
        }
        ScalarStyle::SingleQuoted => {
            let inner = line.get(1..).unwrap_or_default().replace("''", "  ");
            inner.find('\'').map_or(line.len(), |at| at + 2)
        }
        ScalarStyle::Plain if line.starts_with(value) => value.len(),
        _ => line.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::{KeyPath, Tree};

    fn at(text: &str, path: &str) -> (String, String) {
        let tree = Tree::scan(text).expect("parses");
        let (key, value) = tree.find(&KeyPath::parse(path).0).expect("there");
        (key.map_or(String::new(), |range| text[range].to_owned()), text[value.range.clone()].to_owned())
    }

    #[test]
    fn keys_and_values_are_found_in_every_style() {
        let text =
            "ä: &x {b: 'q', c: [1, 2.5]}\nd:\n  <<: *x\n  e: \"ö ö\"   # note\n  f: >\n    long\n    text\ng: *x\n";
        assert_eq!(at(text, "ä.b"), ("b".to_owned(), "'q'".to_owned()));
        assert_eq!(at(text, "ä.c[1]"), (String::new(), "2.5".to_owned()));
        assert_eq!(at(text, "d.e"), ("e".to_owned(), "\"ö ö\"".to_owned()));
        assert_eq!(at(text, "d.b"), ("b".to_owned(), "'q'".to_owned()));
        assert_eq!(at(text, "g.b"), ("b".to_owned(), "'q'".to_owned()));
        assert_eq!(at(text, "g"), ("g".to_owned(), "*x".to_owned()));
        assert_eq!(at(text, "d.f").0, "f");
    }

    #[test]
    fn duplicate_keys_are_found_once() {
        let tree = Tree::scan("a: &x\n  k: 1\n  k: 2\nb: *x\nb: 3\n").expect("parses");
        let keys: Vec<String> = tree.duplicates().into_iter().map(|duplicate| duplicate.key).collect();
        assert_eq!(keys, ["k", "b"]);
    }

    #[test]
    fn paths_read_as_they_are_written() {
        assert_eq!(KeyPath::parse("nodes.a.include[0].x").to_string(), "nodes.a.include[0].x");
    }
}
