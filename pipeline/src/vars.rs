//! `${...}` in the values of a graph.
//!
//! | written | means |
//! |---|---|
//! | `${vars.name}` | the value of `name` in `vars:`, above |
//! | `${NAME}` | an environment variable, which must be set |
//! | `${NAME:-text}` | the same, or `text` when it is not set or empty |
//! | `${NAME:?message}` | the same, or an error with the message when it is not set or empty |
//! | `$${` | the two characters `${` |
//!
//! Replacement happens after parsing and in values only, so a variable can never change the structure of the file. A
//! value that is one `${...}` and nothing else becomes a number or a boolean when it reads like one.

use std::ops::Range;

use serde_json::Value;

use crate::diagnostic::{closest, did_you_mean};

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of the process.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// What `${...}` can stand for, and what it stood for so far.
pub(crate) struct Variables<'a> {
    environment: Environment<'a>,
    /// Values of `vars:`; `None` for one that could not be worked out, which was reported there.
    known: Vec<(String, Option<Value>)>,
    pub(crate) secrets: Secrets,
}

/// Why a `${...}` cannot be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VariableError {
    /// The `${...}` as written.
    pub(crate) written: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// What became of a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Expanded {
    /// Nothing to replace.
    Same,
    /// The new value.
    Value(Value),
    /// It depends on something that was reported before.
    Poisoned,
}

impl<'a> Variables<'a> {
    pub(crate) fn new(environment: Environment<'a>) -> Self {
        Self { environment, known: Vec::new(), secrets: Secrets::default() }
    }

    /// Makes a value of `vars:` known to what follows.
    pub(crate) fn define(&mut self, name: &str, value: Option<Value>) {
        self.known.push((name.to_owned(), value));
    }

    /// Replaces every `${...}` of a text.
    pub(crate) fn expand(&mut self, text: &str) -> Result<Expanded, Vec<VariableError>> {
        let parts = split(text).map_err(|error| vec![error])?;
        if let [Part::Text(same)] = &parts[..]
            && same == text
        {
            return Ok(Expanded::Same);
        }
        let whole = parts.len() == 1;
        let (mut errors, mut poisoned, mut joined) = (Vec::new(), false, String::new());
        for part in parts {
            match part {
                Part::Text(plain) => joined.push_str(&plain),
                Part::Variable(range) => match self.value_of(&text[range]) {
                    Ok(Some(value)) if whole => return Ok(Expanded::Value(value)),
                    Ok(Some(Value::String(value))) => joined.push_str(&value),
                    Ok(Some(value)) => joined.push_str(&value.to_string()),
                    Ok(None) => poisoned = true,
                    Err(error) => errors.push(error),
                },
            }
        }
        match (errors.is_empty(), poisoned) {
            (false, _) => Err(errors),
            (true, true) => Ok(Expanded::Poisoned),
            (true, false) => Ok(Expanded::Value(Value::String(joined))),
        }
    }

    fn value_of(&mut self, written: &str) -> Result<Option<Value>, VariableError> {
        let inner = &written[2..written.len() - 1];
        if let Some(name) = inner.strip_prefix("vars.") {
            return self.var(written, name);
        }
        let (name, rest) = inner.find(':').map_or((inner, ""), |colon| inner.split_at(colon));
        let error =
            |message: String, hint: Option<String>| VariableError { written: written.to_owned(), message, hint };
        if !is_name(name) || !(rest.is_empty() || rest.starts_with(":-") || rest.starts_with(":?")) {
            let hint =
                "write `${vars.NAME}`, `${NAME}`, `${NAME:-default}` or `${NAME:?message}`; `$${` is a plain `${`";
            return Err(error(format!("`{written}` is not a variable"), Some(hint.to_owned())));
        }
        let set = (self.environment)(name).filter(|value| rest.is_empty() || !value.is_empty());
        match (set, rest.get(..2)) {
            (Some(value), _) => {
                self.secrets.add(&value, name);
                Ok(Some(scalar(&value)))
            }
            (None, Some(":-")) => Ok(Some(scalar(&rest[2..]))),
            (None, Some(_)) if rest.len() > 2 => {
                Err(error(format!("environment variable `{name}` is not set: {}", &rest[2..]), None))
            }
            (None, _) => {
                let vars = self.known.iter().map(|known| known.0.as_str());
                let meant = closest(name, vars).map(|var| format!("did you mean `${{vars.{var}}}`?"));
                let set = format!("set it (`{name}=... omar-flow ...`), or give a default: `${{{name}:-default}}`");
                Err(error(format!("environment variable `{name}` is not set"), Some(meant.unwrap_or(set))))
            }
        }
    }

    fn var(&self, written: &str, name: &str) -> Result<Option<Value>, VariableError> {
        if let Some(known) = self.known.iter().find(|known| known.0 == name) {
            return Ok(known.1.clone());
        }
        let hint = did_you_mean(name, self.known.iter().map(|known| known.0.as_str())).unwrap_or_else(|| {
            format!("add `{name}: ...` under `vars:` at the top of the file, above where it is used")
        });
        let message = format!("`vars` has no `{name}`");
        Err(VariableError { written: written.to_owned(), message, hint: Some(hint) })
    }
}

enum Part {
    Text(String),
    Variable(Range<usize>),
}

fn split(text: &str) -> Result<Vec<Part>, VariableError> {
    let (mut parts, mut plain, mut at) = (Vec::new(), String::new(), 0);
    while let Some(dollar) = text[at..].find("${").map(|found| at + found) {
        if text[..dollar].ends_with('$') && dollar > at {
            plain.push_str(&text[at..dollar - 1]);
            plain.push_str("${");
            at = dollar + 2;
            continue;
        }
        plain.push_str(&text[at..dollar]);
        let error = |message: &str, hint: &str| VariableError {
            written: "${".to_owned(),
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        };
        let end = text[dollar..]
            .find('}')
            .ok_or_else(|| error("`${` is never closed", "add the missing `}`, or write `$${` for a plain `${`"))?;
        let range = dollar..dollar + end + 1;
        if text[dollar + 2..range.end].contains("${") {
            return Err(error("`${...}` cannot stand inside `${...}`", "give the inner one a name under `vars:`"));
        }
        at = range.end;
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(Part::Variable(range));
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// A number or boolean if the text reads like one, else the text.
fn scalar(text: &str) -> Value {
    match serde_yaml::from_str::<Value>(text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => Value::String(text.to_owned()),
    }
}

/// Values that came from the environment: messages name the variable instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Secrets(Vec<(String, String)>);

impl Secrets {
    fn add(&mut self, value: &str, name: &str) {
        let pair = (value.to_owned(), format!("${{{name}}}"));
        if !value.is_empty() && !self.0.contains(&pair) {
            self.0.push(pair);
        }
        self.0.sort_by_key(|pair| std::cmp::Reverse(pair.0.len()));
    }

    /// The text without the values: short ones are replaced where they stand in quotes, longer ones everywhere.
    pub(crate) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (value, name)| {
            let debug = format!("{value:?}");
            let escaped = &debug[1..debug.len() - 1];
            let long = value.chars().count() >= 4;
            [value.as_str(), escaped].into_iter().fold(text, |text, value| {
                let text = text.replace(&format!("`{value}`"), &format!("`{name}`"));
                let text = text.replace(&format!("\"{value}\""), name);
                if long { text.replace(value, name) } else { text }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<Expanded, Vec<VariableError>> {
        let environment = |name: &str| match name {
            "N" => Some("12".to_owned()),
            "HOME_DIR" => Some("/srv/music".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let mut variables = Variables::new(&environment);
        variables.define("rate", Some(24_000.into()));
        variables.define("broken", None);
        variables.expand(text)
    }

    #[test]
    fn a_whole_variable_keeps_its_type_and_a_part_becomes_text() {
        assert_eq!(expand("${vars.rate}"), Ok(Expanded::Value(24_000.into())));
        assert_eq!(expand("${N}"), Ok(Expanded::Value(12.into())));
        assert_eq!(expand("x${N}"), Ok(Expanded::Value("x12".into())));
        assert_eq!(expand("${HOME_DIR}/${vars.rate}"), Ok(Expanded::Value("/srv/music/24000".into())));
        assert_eq!(expand("plain $5 {}"), Ok(Expanded::Same));
        assert_eq!(expand("a$${N}"), Ok(Expanded::Value("a${N}".into())));
        assert_eq!(expand("${vars.broken}"), Ok(Expanded::Poisoned));
    }

    #[test]
    fn defaults_stand_in_for_unset_and_empty_variables() {
        assert_eq!(expand("${MISSING:-a b}"), Ok(Expanded::Value("a b".into())));
        assert_eq!(expand("${EMPTY:-3}"), Ok(Expanded::Value(3.into())));
        assert_eq!(expand("${EMPTY}"), Ok(Expanded::Value("".into())));
        assert!(expand("${MISSING:?set it}").is_err_and(|errors| errors[0].message.contains("set it")));
        assert!(expand("${MISSING}/${ALSO}").is_err_and(|errors| errors.len() == 2));
    }

    #[test]
    fn mistakes_are_named() {
        for wrong in ["${", "${}", "${a b}", "${A:=b}", "${vars.rte}", "${A:-${B}}"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn messages_never_show_values_of_the_environment() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2", "PASSWORD");
        secrets.add("a", "SHORT");
        assert_eq!(
            secrets.redact("a: found `a`, \"hunter2\" at xhunter2"),
            "a: found `${SHORT}`, ${PASSWORD} at x${PASSWORD}"
        );
    }
}
