//! `include:`: a graph in several files.
//!
//! An included file gives variables, templates and nodes, nothing else, and may include others. All of them are put
//! together as if they stood in one file, those of included files first. Nothing is ever overridden: a name that two
//! files define is an error that shows both places. A file that is included on two ways counts once.
//!
//! Anchors end with their file, in YAML. So that templates are of use elsewhere, the including file is parsed with
//! one line more (see [`Text::import`]) in which every template of the included files has an anchor, named like its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Place, Report, Source, did_you_mean};
use crate::document::nearby;
use crate::graph::{FORMAT, GRAPH_KEYS};
use crate::spans::{Entry, Includes, KeyPath, Kind, Tree};
use crate::text::{Files, Template, Text};
use crate::yaml::{self, describe};

/// The keys of a graph that included files add to.
pub(crate) const SECTIONS: [&str; 3] = ["vars", "templates", "nodes"];

/// Keys of an included file.
pub(crate) const PART_KEYS: [&str; 5] = ["omar", "include", "vars", "templates", "nodes"];

/// A graph with all that it includes.
pub(crate) struct Loaded {
    pub(crate) value: Map<String, Value>,
    pub(crate) tree: Option<Tree>,
    pub(crate) files: Files,
}

/// Reads a graph and what it includes. `None` when there is nothing to check further; mistakes go to the report.
pub(crate) fn load(source: &Arc<Source>, report: &mut Report) -> Option<Loaded> {
    let path = PathBuf::from(&source.name);
    let open = vec![Open { path: path.canonicalize().unwrap_or(path), name: source.name.clone(), included_at: None }];
    let mut loader = Loader { files: Files::default(), open, done: Vec::new(), sections: Default::default() };
    let errors = report.errors();
    let mut part = loader.read(source, report)?;
    if loader.done.is_empty() {
        return Some(Loaded { value: part.value, tree: part.tree, files: loader.files });
    }
    loader.add(&part, report);
    if report.errors() > errors {
        return None;
    }
    for (section, name) in loader.sections.into_iter().zip(SECTIONS) {
        let written = part.value.get(name);
        if !section.values.is_empty() && written.is_none_or(|value| value.is_object() || value.is_null()) {
            part.value.insert(name.to_owned(), Value::Object(section.values));
            replace(part.tree.as_mut(), name, section.entries);
        }
    }
    Some(Loaded { value: part.value, tree: part.tree, files: loader.files })
}

/// Makes these the entries of a section of the graph.
fn replace(tree: Option<&mut Tree>, name: &str, merged: Vec<Entry>) {
    let Some(Tree { kind: Kind::Map(entries), .. }) = tree else { return };
    let key = |entries: &[Entry], name: &str| {
        let entry = entries.iter().find(|entry| entry.key == name);
        entry.map(|entry| (entry.key_range.clone(), entry.value.range.clone()))
    };
    let Some((key_range, range)) = key(entries, name).or_else(|| key(entries, "include")) else { return };
    entries.retain(|entry| entry.key != name);
    let value = Arc::new(Tree { range, kind: Kind::Map(merged) });
    entries.push(Entry { key: name.to_owned(), key_range, value });
}

/// A file as it was read.
struct Part {
    value: Map<String, Value>,
    tree: Option<Tree>,
    /// Templates that it and the files it includes define.
    templates: Vec<Template>,
}

/// A file that is being read.
struct Open {
    path: PathBuf,
    name: String,
    included_at: Option<Place>,
}

/// What all included files have under one key.
#[derive(Default)]
struct Section {
    values: Map<String, Value>,
    entries: Vec<Entry>,
}

struct Loader {
    files: Files,
    /// From the graph to the file that is being read.
    open: Vec<Open>,
    /// Included files, with the templates that they bring.
    done: Vec<(PathBuf, Vec<Template>)>,
    sections: [Section; SECTIONS.len()],
}

impl Loader {
    /// Reads a file, after the files that it includes.
    fn read(&mut self, source: &Arc<Source>, report: &mut Report) -> Option<Part> {
        let mut text = Text::new(source.clone(), self.files.add(source.clone()));
        let mut templates: Vec<Template> = Vec::new();
        if let Some(includes) = Includes::find(&source.text) {
            let mut sound = true;
            for (item, range) in includes.items {
                let place = Place { source: source.clone(), range };
                match self.include(item.as_deref(), place, report) {
                    Some(brought) => templates.extend(brought),
                    None => sound = false,
                }
            }
            // What is missing would only be complained about where it is used.
            if !sound {
                return None;
            }
            templates.sort_by(|a, b| a.name.cmp(&b.name));
            templates.dedup_by(|a, b| a.name == b.name);
            text.import(includes.at, &templates);
        }
        let tree = Tree::scan_file(&text);
        let value = yaml::parse(&text, tree.as_ref(), &self.files, report)?;
        let path = |key: &str| KeyPath::new([key]);
        if let Some(written) = value.get("include").filter(|written| !is_list_of_texts(written)) {
            let message = format!("`include` must be a list of files, found {}", describe(written));
            let place = self.place(tree.as_ref(), &path("include"));
            report.push(Diagnostic::error(message).at(place, "").hint("write `include: [parts/features.yaml]`"));
            return None;
        }
        if let (Some(Value::Object(own)), Some(tree)) = (value.get("templates"), &tree) {
            let own = own.iter().filter(|(name, _)| is_name(name));
            templates.extend(own.filter_map(|(name, value)| {
                let found = tree.find(&path("templates").child(name.as_str()).0)?.1;
                Some(Template { name: name.clone(), value: value.clone(), tree: Arc::new(found.clone()) })
            }));
        }
        Some(Part { value, tree, templates })
    }

    /// Takes in a file. Returns the templates that it brings, or `None` if something is wrong with it.
    fn include(&mut self, item: Option<&str>, place: Place, report: &mut Report) -> Option<Vec<Template>> {
        let Some(item) = item.filter(|item| !item.is_empty()) else {
            report.push(Diagnostic::error("expected the path of a file").at(Some(place), ""));
            return None;
        };
        if item.contains("${") {
            let diagnostic = Diagnostic::error("`${...}` has no meaning in `include`: files are read before variables");
            report.push(diagnostic.at(Some(place), "").hint("write the path out, from the folder of this file"));
            return None;
        }
        let path = Path::new(&place.source.name).parent().unwrap_or(Path::new("")).join(item);
        let canonical = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some(first) = self.open.iter().position(|open| open.path == canonical) {
            report.push(self.circle(first, place));
            return None;
        }
        if let Some(done) = self.done.iter().find(|done| done.0 == canonical) {
            return Some(done.1.clone());
        }
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim_start_matches('\u{feff}').to_owned(),
            Err(error) => {
                let diagnostic = Diagnostic::error(format!("cannot read `{}`: {error}", path.display()));
                let hint = nearby(&path).unwrap_or_else(|| "paths start from the folder of this file".to_owned());
                report.push(diagnostic.at(Some(place), "").hint(hint));
                return None;
            }
        };
        let source = Arc::new(Source { name: path.display().to_string(), text });
        self.open.push(Open { path: canonical.clone(), name: source.name.clone(), included_at: Some(place) });
        let part = self.read(&source, report);
        if let Some(part) = &part {
            self.check_keys(part, report);
            self.add(part, report);
        }
        self.open.pop();
        let part = part?;
        self.done.push((canonical, part.templates.clone()));
        Some(part.templates)
    }

    /// The file that is included at `place` is being read: it is the `first` of those that are open.
    fn circle(&self, first: usize, place: Place) -> Diagnostic {
        let names: Vec<&str> = self.open[first..].iter().map(|open| open.name.as_str()).collect();
        let chain = names.iter().chain(names.first()).copied().collect::<Vec<_>>().join(" -> ");
        let message = format!("a file cannot include itself: {chain}");
        let mut diagnostic = Diagnostic::error(message).at(Some(place), "and so on, without end");
        for open in &self.open[first + 1..] {
            diagnostic = diagnostic.see(open.included_at.clone(), format!("includes `{}`", open.name));
        }
        diagnostic.hint("take one of these includes out")
    }

    /// Reports keys that an included file cannot have.
    fn check_keys(&self, part: &Part, report: &mut Report) {
        for (key, value) in &part.value {
            let path = KeyPath::new([key.as_str()]);
            let tree = part.tree.as_ref();
            if key == "omar" && value.as_u64() != Some(FORMAT) {
                let message = format!("this program reads graphs of format {FORMAT}, found format {}", describe(value));
                report.push(Diagnostic::error(message).at(self.place(tree, &path), ""));
            }
            if PART_KEYS.contains(&key.as_str()) {
                continue;
            }
            let (message, hint) = if GRAPH_KEYS.contains(&key.as_str()) {
                let hint = format!("an included file has {}", SECTIONS.map(|name| format!("`{name}`")).join(", "));
                (format!("`{key}` stands in the graph itself, not in a file that it includes"), hint)
            } else {
                let hint = did_you_mean(key, PART_KEYS);
                let all = || format!("the keys are {}", PART_KEYS.join(", "));
                (format!("unknown key `{key}` in an included file"), hint.unwrap_or_else(all))
            };
            report.push(Diagnostic::error(message).at(self.key_place(tree, &path), "").hint(hint));
        }
    }

    /// Adds the sections of a file to those of the others.
    fn add(&mut self, part: &Part, report: &mut Report) {
        for (index, name) in SECTIONS.into_iter().enumerate() {
            let path = KeyPath::new([name]);
            let values = match part.value.get(name) {
                Some(Value::Object(values)) => values,
                // What the graph itself has is for its own checks to refuse.
                None | Some(Value::Null) => continue,
                Some(_) if self.open.len() == 1 => continue,
                Some(other) => {
                    let message = format!("expected names and values under `{name}`, found {}", describe(other));
                    report.push(Diagnostic::error(message).at(self.place(part.tree.as_ref(), &path), ""));
                    continue;
                }
            };
            for (key, value) in values {
                let found = part.tree.as_ref().and_then(|tree| tree.find(&path.child(key.as_str()).0));
                let found = found.map(|(at, tree)| (at.unwrap_or(tree.range.clone()), Arc::new(tree.clone())));
                let section = &mut self.sections[index];
                if section.values.contains_key(key) {
                    let first = section.entries.iter().find(|entry| entry.key == *key);
                    let first = first.map(|entry| self.files.place(entry.key_range.clone()));
                    let again = found.map(|found| self.files.place(found.0));
                    let diagnostic = Diagnostic::error(format!("two files define `{key}` under `{name}`"));
                    let diagnostic = diagnostic.at(again, "again here").see(first, "first here");
                    report.push(diagnostic.hint("files never override each other: rename one of them"));
                    continue;
                }
                section.values.insert(key.clone(), value.clone());
                section.entries.extend(found.map(|(key_range, value)| Entry { key: key.clone(), key_range, value }));
            }
        }
    }

    fn place(&self, tree: Option<&Tree>, path: &KeyPath) -> Option<Place> {
        Some(self.files.place(tree?.find(&path.0)?.1.range.clone()))
    }

    fn key_place(&self, tree: Option<&Tree>, path: &KeyPath) -> Option<Place> {
        let (key, value) = tree?.find(&path.0)?;
        Some(self.files.place(key.unwrap_or(value.range.clone())))
    }
}

/// Whether a template can be an anchor.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_list_of_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().all(Value::is_string)) || value.is_null()
}
