//! Protocols: how thoroughly the cells of a table are evaluated, from a minute's look to the paper's training.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::spec::{Changes, changes, needed, text};
use crate::diagnostic::{Diagnostic, one_of};
use crate::reader::Reader;
use crate::spans::KeyPath;
use crate::yaml::describe;

pub(super) const PROTOCOL: [&str; 3] = ["about", "set", "columns"];

/// What the cells of a table have in common.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Protocol {
    pub(crate) name: String,
    /// A sentence that says what it is good for, shown with the table.
    pub(crate) about: String,
    /// Changes to all graphs.
    #[serde(skip)]
    set: Changes,
    /// Further changes to the graph of a task.
    #[serde(skip)]
    columns: Vec<(String, Changes)>,
}

impl Protocol {
    /// What differs from the graph of a task.
    pub(super) fn changes(&self, task: &str) -> Changes {
        let own = self.columns.iter().filter(|(name, _)| name == task).flat_map(|(_, changes)| changes);
        self.set.iter().chain(own).cloned().collect()
    }
}

/// The protocol that is asked for, with all of them checked.
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &KeyPath,
    map: &Map<String, Value>,
    tasks: &[&str],
) -> Option<Protocol> {
    let protocols = match map.get("protocols") {
        None => Vec::new(),
        Some(Value::Object(protocols)) => {
            let path = root.child("protocols");
            let each = protocols.iter();
            each.filter_map(|(name, value)| one(reader, &path.child(name.as_str()), value, tasks)).collect()
        }
        Some(other) => {
            let message = format!("`protocols` must be names with what each changes, found {}", describe(other));
            reader.refuse(&root.child("protocols"), Diagnostic::error(message));
            return None;
        }
    };
    let wanted = text(reader, root, map, "protocol", "the name of one of `protocols`");
    let names = one_of(protocols.iter().map(|protocol: &Protocol| protocol.name.as_str()));
    match wanted {
        Some(wanted) => {
            let found = protocols.into_iter().find(|protocol| protocol.name == wanted);
            if found.is_none() {
                let message = format!("there is no protocol `{wanted}`");
                let known = if names.is_empty() { "`protocols` has none".into() } else { format!("it is {names}") };
                reader.refuse(&root.child("protocol"), Diagnostic::error(message).hint(known));
            }
            found
        }
        None if !names.is_empty() && !map.contains_key("protocol") => {
            let diagnostic = Diagnostic::error("there are `protocols`, and none is chosen");
            let hint = format!("write `protocol: NAME`: it is {names}");
            reader.refuse(&root.child("protocols"), diagnostic.hint(hint));
            None
        }
        None => None,
    }
}

fn one(reader: &mut Reader<'_>, path: &KeyPath, value: &Value, tasks: &[&str]) -> Option<Protocol> {
    let Value::Object(map) = value else {
        let message = format!("expected keys and values, found {}", describe(value));
        reader.refuse(path, Diagnostic::error(message));
        return None;
    };
    reader.unknown_keys(path, map, &PROTOCOL, "a protocol");
    let about = needed(reader, path, map, "about", "a sentence that says what figures made so are good for");
    let set = changes(reader, path, map, "set");
    let mut columns = Vec::new();
    if let Some(Value::Object(of)) = map.get("columns") {
        let path = path.child("columns");
        reader.unknown_keys(&path, of, tasks, "`columns` of a protocol, which has tasks of the columns");
        columns.extend(of.keys().map(|task| (task.clone(), changes(reader, &path, of, task))));
    } else if let Some(other) = map.get("columns") {
        let message = format!("`columns` must be tasks with their changes, found {}", describe(other));
        reader.refuse(&path.child("columns"), Diagnostic::error(message));
    }
    Some(Protocol { name: path.last().to_owned(), about: about?, set, columns })
}
