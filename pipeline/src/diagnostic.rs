//! Messages about a graph that point at the line to change.
//!
//! A [`Diagnostic`] is one message; a [`Report`] is all of them, so that a graph is mended in one go. A [`Place`] is a
//! range of a [`Source`], which is a file or the `--set` options of the command line.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};

/// A text that messages quote.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Path of the file as it was given, or `command line`.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// A range of a source, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub source: Arc<Source>,
    /// From which byte to which.
    pub range: Range<usize>,
}

impl Place {
    /// Line number, from 1.
    pub fn line(&self) -> usize {
        1 + self.source.text[..self.range.start].matches('\n').count()
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> usize {
        let before = &self.source.text[..self.range.start];
        1 + before.chars().rev().take_while(|&c| c != '\n').count()
    }

    /// Length in characters.
    pub fn len(&self) -> usize {
        self.source.text[self.range.clone()].chars().count()
    }

    /// Whether it only marks a spot.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The graph cannot be run.
    Error,
    /// The graph can be run, but this is probably not meant.
    Warning,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// One sentence: what was expected and what was found.
    pub message: String,
    /// The line to change.
    pub place: Option<Place>,
    /// What is written beside the caret.
    pub label: String,
    /// Other lines that explain it.
    pub related: Vec<(Place, String)>,
    /// How to mend it.
    pub hints: Vec<String>,
}

impl Diagnostic {
    /// An error.
    pub fn error(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            place: None,
            label: String::new(),
            related: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// A warning.
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(message) }
    }

    /// Points at the line to change.
    #[must_use]
    pub fn at(mut self, place: Option<Place>, label: impl Into<String>) -> Self {
        self.place = place;
        self.label = label.into();
        self
    }

    /// Points at another line as well.
    #[must_use]
    pub fn see(mut self, place: Option<Place>, label: impl Into<String>) -> Self {
        self.related.extend(place.map(|place| (place, label.into())));
        self
    }

    /// Adds a way to mend it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a way to mend it, if there is one.
    #[must_use]
    pub fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hints.extend(hint);
        self
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(&self.message));
        for place in self.places_by_source() {
            group = group.element(self.snippet(&place));
        }
        for hint in &self.hints {
            group = group.element(Level::HELP.message(hint));
        }
        renderer.render(&[group])
    }

    /// The first place in each source that is quoted, that of the message first.
    fn places_by_source(&self) -> Vec<Place> {
        let all = self.place.iter().chain(self.related.iter().map(|related| &related.0));
        all.fold(Vec::new(), |mut first, place| {
            if !first.iter().any(|seen: &Place| Arc::ptr_eq(&seen.source, &place.source)) {
                first.push(place.clone());
            }
            first
        })
    }

    fn snippet<'a>(&'a self, first: &Place) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        let place = self.place.iter().map(|place| (AnnotationKind::Primary, place, &self.label));
        let related = self.related.iter().map(|(place, label)| (AnnotationKind::Context, place, label));
        let here: Vec<_> = place.chain(related).filter(|at| Arc::ptr_eq(&at.1.source, &first.source)).collect();
        let source = &here[0].1.source;
        let mut snippet = Snippet::source(&source.text).path(&source.name);
        for (kind, place, label) in here {
            let annotation = kind.span(place.range.clone());
            snippet = snippet.annotation(if label.is_empty() { annotation } else { annotation.label(label) });
        }
        snippet
    }

    fn to_json(&self) -> Value {
        let place = |place: &Place| {
            let (line, column, length) = (place.line(), place.column(), place.len());
            json!({ "file": place.source.name, "line": line, "column": column, "length": length })
        };
        let mut value = self.place.as_ref().map_or_else(|| json!({ "file": null }), place);
        value["severity"] = match self.severity {
            Severity::Error => "error".into(),
            Severity::Warning => "warning".into(),
        };
        value["message"] = self.message.as_str().into();
        value["label"] = self.label.as_str().into();
        value["hint"] = self.hints.join("; ").into();
        let related = self.related.iter().map(|(at, label)| {
            let mut value = place(at);
            value["label"] = label.as_str().into();
            value
        });
        value["related"] = related.collect();
        value
    }
}

/// Everything that is wrong with a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the file once [`Report::sort`] was called.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Adds a message.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// Brings the messages into the order of the lines that they point at, each once: what stands in an anchor is
    /// checked for every node that uses it.
    pub fn sort(&mut self) {
        self.diagnostics.sort_by_key(|diagnostic| {
            let place = diagnostic.place.as_ref();
            place.map(|place| (place.source.name.clone(), place.range.start))
        });
        self.diagnostics.dedup();
    }

    /// For people.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        self.diagnostics.iter().fold(String::new(), |mut text, diagnostic| {
            let _ = writeln!(text, "{}\n", diagnostic.render(&renderer));
            text
        })
    }

    /// For programs: one object with `file`, `line`, `column`, `severity`, `message`, `hint` for every message.
    pub fn to_json(&self) -> Value {
        self.diagnostics.iter().map(Diagnostic::to_json).collect()
    }

    /// Changes all texts, e.g. to hide values.
    pub(crate) fn map_text(&mut self, change: impl Fn(&str) -> String) {
        for diagnostic in &mut self.diagnostics {
            let labels = diagnostic.related.iter_mut().map(|related| &mut related.1);
            let texts = [&mut diagnostic.message, &mut diagnostic.label].into_iter().chain(&mut diagnostic.hints);
            texts.chain(labels).for_each(|text| *text = change(text));
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}

/// `did you mean ...`, if one of the known names is close to what was written.
pub(crate) fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(written, known).map(|name| format!("did you mean `{name}`?"))
}

/// The known name that is closest to what was written, if it is close.
pub(crate) fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace(['-', ' ', '.'], "_");
    let wanted = plain(written);
    let score = |name: &str| {
        let name = plain(name);
        let contains = wanted.len() >= 3 && name.len() >= 3 && (name.contains(&wanted) || wanted.contains(&name));
        strsim::normalized_damerau_levenshtein(&wanted, &name).max(if contains { 0.6 } else { 0.0 })
    };
    let best = known.into_iter().map(|name| (score(name), name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.55).then_some(best.1)
}

/// `a`, `b` or `c`, in backticks.
pub(crate) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// A message about a file as a whole, such as one that cannot be read.
pub(crate) fn about_file(name: &str, message: impl Into<String>) -> Diagnostic {
    let source = Arc::new(Source { name: name.to_owned(), text: String::new() });
    Diagnostic::error(message).at(Some(Place { source, range: 0..0 }), "")
}
