//! A graph file as data: values with `--set` applied and `${...}` replaced, and the place where each was written.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::diagnostic::{Diagnostic, Place, Report, Source, about_file};
use crate::include::{self, Loaded};
use crate::overrides::{self, Override};
use crate::spans::{KeyPath, Tree};
use crate::text::Files;
use crate::vars::{Environment, Expanded, Secrets, VariableError, Variables};

/// Keys whose values are used up when the file is read.
const READ_BEFORE: [&str; 2] = ["include", "templates"];

/// A parsed file.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// The file as it was given.
    pub(crate) source: Arc<Source>,
    /// What it and the files that it includes say once merge keys, `--set` and `${...}` are worked out.
    pub(crate) value: Map<String, Value>,
    pub(crate) files: Files,
    tree: Option<Tree>,
    overrides: Vec<Override>,
    /// Values that were reported and must not be complained about again.
    poisoned: Vec<KeyPath>,
    pub(crate) secrets: Secrets,
}

impl Document {
    /// Reads a file. `None` when there is nothing to check further; mistakes go to the report.
    pub(crate) fn load(
        path: &Path,
        sets: &[String],
        environment: Environment<'_>,
        report: &mut Report,
    ) -> Option<Self> {
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&name, &text, sets, environment, report),
            Err(error) => {
                let diagnostic = about_file(&name, format!("cannot read the graph `{name}`: {error}"));
                report.push(diagnostic.maybe_hint(nearby(path)));
                None
            }
        }
    }

    /// Reads a text; `name` is shown in messages.
    pub(crate) fn parse(
        name: &str,
        text: &str,
        sets: &[String],
        environment: Environment<'_>,
        report: &mut Report,
    ) -> Option<Self> {
        let text = text.trim_start_matches('\u{feff}').to_owned();
        let source = Arc::new(Source { name: name.to_owned(), text });
        let Loaded { value, tree, files } = include::load(&source, report)?;
        let (overrides, poisoned, secrets) = (Vec::new(), Vec::new(), Secrets::default());
        let mut document = Self { source, value, files, tree, overrides, poisoned, secrets };
        document.overrides = overrides::apply(&mut document.value, sets, report);
        document.interpolate(environment, report);
        Some(document)
    }

    /// Where a value was written: the value itself if it is a scalar, else its key. Climbs to what is there when the
    /// path leads nowhere, such as for a default.
    pub(crate) fn place(&self, path: &KeyPath) -> Option<Place> {
        self.nearest(path, |key, tree| match (&tree.kind, key) {
            (crate::spans::Kind::Scalar, _) if !tree.range.is_empty() => tree.range.clone(),
            (_, Some(key)) => key,
            (_, None) => tree.range.clone(),
        })
    }

    /// Where a key was written.
    pub(crate) fn key_place(&self, path: &KeyPath) -> Option<Place> {
        self.nearest(path, |key, tree| key.unwrap_or(tree.range.clone()))
    }

    fn nearest(
        &self,
        path: &KeyPath,
        range: impl Fn(Option<std::ops::Range<usize>>, &Tree) -> std::ops::Range<usize>,
    ) -> Option<Place> {
        for len in (1..=path.0.len()).rev() {
            let path = KeyPath(path.0[..len].to_vec());
            let set = self.overrides.iter().rev().find_map(|set| set.find(&path));
            let set = set.map(|(source, key, tree)| Place { source, range: range(key, &tree) });
            let written = || {
                let (key, tree) = self.tree.as_ref()?.find(&path.0)?;
                Some(self.files.place(range(key, tree)))
            };
            let created = || self.overrides.iter().rev().find_map(|set| set.created(&path));
            if let Some(place) = set.or_else(written).or_else(created) {
                return Some(place);
            }
        }
        None
    }

    /// Whether something at or below a path was reported already.
    pub(crate) fn is_poisoned(&self, path: &KeyPath) -> bool {
        self.poisoned.iter().any(|poisoned| poisoned.starts_with(path) || path.starts_with(poisoned))
    }

    fn interpolate(&mut self, environment: Environment<'_>, report: &mut Report) {
        let mut value = std::mem::take(&mut self.value);
        let mut variables = Variables::new(environment);
        if let Some(Value::Object(vars)) = value.get_mut("vars") {
            for (name, value) in vars {
                let path = KeyPath::new(["vars", name]);
                self.expand(&path, value, &mut variables, report);
                let known = (!self.is_poisoned(&path)).then(|| value.clone());
                variables.define(name, known);
            }
        }
        for (key, value) in value.iter_mut() {
            if key == "vars" || READ_BEFORE.contains(&key.as_str()) {
                continue;
            }
            self.expand(&KeyPath::new([key.as_str()]), value, &mut variables, report);
        }
        self.value = value;
        self.secrets = variables.secrets;
    }

    fn expand(&mut self, path: &KeyPath, value: &mut Value, variables: &mut Variables<'_>, report: &mut Report) {
        match value {
            Value::String(text) => match variables.expand(text) {
                Ok(Expanded::Same) => {}
                Ok(Expanded::Value(new)) => *value = new,
                Ok(Expanded::Poisoned) => self.poisoned.push(path.clone()),
                Err(errors) => {
                    errors.into_iter().for_each(|error| report.push(self.variable_error(path, error)));
                    self.poisoned.push(path.clone());
                }
            },
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.expand(&path.child(index.to_string()), item, variables, report);
                }
            }
            Value::Object(map) => {
                for (key, item) in map {
                    self.expand(&path.child(key.as_str()), item, variables, report);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Points at the `${...}` inside the value.
    fn variable_error(&self, path: &KeyPath, error: VariableError) -> Diagnostic {
        let place = self.place(path).map(|place| {
            let found = place.source.text[place.range.clone()].find(&error.written);
            let start = found.map(|offset| place.range.start + offset);
            let range = start.map_or(place.range.clone(), |start| start..start + error.written.len());
            Place { source: place.source, range }
        });
        Diagnostic::error(error.message).at(place, "").maybe_hint(error.hint)
    }
}

/// Names a file that may have been meant.
pub(crate) fn nearby(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> = std::fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let wanted = path.file_name()?.to_string_lossy().into_owned();
    let meant = crate::diagnostic::closest(&wanted, names.iter().map(String::as_str))?;
    Some(format!("did you mean `{}`?", path.with_file_name(meant).display()))
}
