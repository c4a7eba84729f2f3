//! Values of a configuration, and how they are scanned.

use std::fmt;

/// A value: a Python literal, a reference to a class, or a macro.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`
    None,
    /// `True`, `False`
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f64),
    /// A text in quotes.
    Text(String),
    /// `[...]`
    List(Vec<Self>),
    /// `(..., ...)`
    Tuple(Vec<Self>),
    /// `{key: value}`
    Dict(Vec<(Self, Self)>),
    /// `@module.Class`, without its scope, with or without `()`.
    Reference(String),
    /// `%name`
    Macro(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |items: &[Self]| items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::None => f.write_str("None"),
            Self::Bool(value) => f.write_str(if *value { "True" } else { "False" }),
            Self::Int(value) => value.fmt(f),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(items) => write!(f, "[{}]", list(items)),
            Self::Tuple(items) if items.len() == 1 => write!(f, "({},)", list(items)),
            Self::Tuple(items) => write!(f, "({})", list(items)),
            Self::Dict(pairs) => {
                let pairs: Vec<String> = pairs
                    .iter()
                    .map(|(key, value)| match key {
                        Self::Text(key) => format!("'{key}': {value}"),
                        key => format!("{key}: {value}"),
                    })
                    .collect();
                write!(f, "{{{}}}", pairs.join(", "))
            }
            Self::Reference(name) => write!(f, "@{name}"),
            Self::Macro(name) => write!(f, "%{name}"),
        }
    }
}

/// How deep brackets may be nested.
const DEPTH: usize = 64;

/// Walks over the text of a configuration.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Brackets that are open: inside them lines have no meaning.
    depth: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text: text.trim_start_matches('\u{feff}'), at: 0, depth: 0 }
    }

    /// The line of what comes next, from 1.
    pub(super) fn line(&self) -> usize {
        self.text[..self.at].matches('\n').count() + 1
    }

    /// Skips blank lines and remarks. The indentation of the next statement; `None` at the end of the file.
    pub(super) fn next_statement(&mut self) -> Option<usize> {
        self.depth = 0;
        loop {
            let line = self.at;
            self.skip(|c| c == ' ' || c == '\t');
            match self.peek() {
                None => return None,
                Some('#') => self.skip(|c| c != '\n'),
                Some('\n' | '\r') => {}
                Some(_) => return Some(self.at - line),
            }
            self.skip(|c| c == '\r');
            self.take('\n');
        }
    }

    /// A word at the start of a statement, when a blank follows it.
    pub(super) fn keyword(&mut self, word: &str) -> bool {
        let found = self.rest().strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', '\t', '\'', '"']));
        if found {
            self.at += word.len();
        }
        found
    }

    /// `scope/module.Class.parameter`
    pub(super) fn selector(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() || name.ends_with('.') || name.starts_with(|c: char| c.is_ascii_digit()) {
            let found = self.rest_of_line().trim();
            return Err(format!("expected a name such as `module.Class.parameter`, found `{name}{found}`"));
        }
        self.blanks();
        Ok(name.to_owned())
    }

    /// The value that comes next.
    pub(super) fn value(&mut self) -> Result<Value, String> {
        self.blanks();
        match self.peek() {
            Some('\'' | '"') => self.texts(),
            Some('[') => self.items(']').map(|items| Value::List(items.0)),
            Some('(') => self.items(')').map(|(mut items, comma)| match items.len() {
                1 if !comma => items.remove(0),
                _ => Value::Tuple(items),
            }),
            Some('{') => self.pairs(),
            Some('@') => {
                self.at += 1;
                let name = self.name().rsplit('/').next().unwrap_or_default().to_owned();
                if self.take('(') && !self.take(')') {
                    return Err(format!("expected `)` after `@{name}(`"));
                }
                if name.is_empty() {
                    Err("expected the name of a class after `@`".to_owned())
                } else {
                    Ok(Value::Reference(name))
                }
            }
            Some('%') => {
                self.at += 1;
                match self.name() {
                    "" => Err("expected the name of a macro after `%`".to_owned()),
                    name => Ok(Value::Macro(name.to_owned())),
                }
            }
            _ => self.word(),
        }
    }

    /// The statement ends here, but for a remark.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.blanks();
        match self.peek() {
            None | Some('\n' | '\r' | '#') => {
                self.skip(|c| c != '\n');
                Ok(())
            }
            Some(_) => Err(format!("expected the end of the line, found `{}`", self.rest_of_line().trim())),
        }
    }

    /// What is left of the line.
    pub(super) fn rest_of_line(&mut self) -> &'a str {
        let start = self.at;
        self.skip(|c| c != '\n');
        &self.text[start..self.at]
    }

    /// Whether this character comes next; then it is behind us.
    pub(super) fn take(&mut self, expected: char) -> bool {
        let found = self.peek() == Some(expected);
        if found {
            self.at += expected.len_utf8();
        }
        found
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip(&mut self, which: impl Fn(char) -> bool) {
        self.at += self.rest().find(|c| !which(c)).unwrap_or(self.rest().len());
    }

    /// Blanks; inside brackets also lines and remarks; elsewhere also a line break behind a backslash.
    fn blanks(&mut self) {
        loop {
            self.skip(|c| c == ' ' || c == '\t');
            let rest = self.rest();
            if self.depth > 0 && rest.starts_with(['\n', '\r']) {
                self.at += 1;
            } else if self.depth > 0 && rest.starts_with('#') {
                self.skip(|c| c != '\n');
            } else if rest.starts_with("\\\n") || rest.starts_with("\\\r\n") {
                self.skip(|c| c != '\n');
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn name(&mut self) -> &'a str {
        let start = self.at;
        self.skip(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '/'));
        &self.text[start..self.at]
    }

    /// A number, `None`, `True` or `False`.
    fn word(&mut self) -> Result<Value, String> {
        let start = self.at;
        self.skip(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'));
        let word = &self.text[start..self.at];
        let number = word.replace('_', "");
        let number = number.strip_prefix('+').unwrap_or(&number);
        match word {
            "None" => Ok(Value::None),
            "True" => Ok(Value::Bool(true)),
            "False" => Ok(Value::Bool(false)),
            _ if number.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.') => {
                let value = number.parse().map(Value::Int).or_else(|_| number.parse().map(Value::Float));
                value.map_err(|_| format!("`{word}` is no number"))
            }
            _ => {
                let found = format!("{word}{}", self.rest_of_line());
                let found = found.trim();
                let found = if found.is_empty() { "nothing".to_owned() } else { format!("`{found}`") };
                Err(format!("expected a value such as `4`, `\"text\"`, `@Class` or `%macro`, found {found}"))
            }
        }
    }

    /// Texts side by side are one.
    fn texts(&mut self) -> Result<Value, String> {
        let mut text = String::new();
        while let Some(quote @ ('\'' | '"')) = self.peek() {
            let triple: String = [quote; 3].iter().collect();
            let fence = if self.rest().starts_with(&triple) { triple } else { quote.to_string() };
            self.at += fence.len();
            self.text_until(&fence, &mut text)?;
            self.blanks();
        }
        Ok(Value::Text(text))
    }

    fn text_until(&mut self, fence: &str, text: &mut String) -> Result<(), String> {
        loop {
            if self.rest().starts_with(fence) {
                self.at += fence.len();
                return Ok(());
            }
            match self.peek() {
                None => return Err("a text has no closing quote".to_owned()),
                Some('\n') if fence.len() == 1 => return Err("a text has no closing quote".to_owned()),
                Some('\\') => {
                    self.at += 1;
                    let escaped = self.peek().ok_or("a text has no closing quote")?;
                    self.at += escaped.len_utf8();
                    match escaped {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        '\n' => {}
                        '\\' | '\'' | '"' => text.push(escaped),
                        other => text.extend(['\\', other]),
                    }
                }
                Some(c) => {
                    self.at += c.len_utf8();
                    text.push(c);
                }
            }
        }
    }

    /// What is between brackets, and whether it ends with a comma.
    fn items(&mut self, close: char) -> Result<(Vec<Value>, bool), String> {
        let mut items = Vec::new();
        let mut comma = false;
        self.open()?;
        loop {
            self.blanks();
            if self.close(close) {
                return Ok((items, comma));
            }
            if !items.is_empty() && !comma {
                return Err(self.unexpected(close));
            }
            items.push(self.value_before(close)?);
            self.blanks();
            comma = self.take(',');
        }
    }

    fn pairs(&mut self) -> Result<Value, String> {
        let mut pairs = Vec::new();
        let mut comma = true;
        self.open()?;
        loop {
            self.blanks();
            if self.close('}') {
                return Ok(Value::Dict(pairs));
            }
            if !comma {
                return Err(self.unexpected('}'));
            }
            let key = self.value_before('}')?;
            self.blanks();
            if !self.take(':') {
                return Err(format!("expected `:` after the key {key}"));
            }
            pairs.push((key, self.value_before('}')?));
            self.blanks();
            comma = self.take(',');
        }
    }

    fn value_before(&mut self, close: char) -> Result<Value, String> {
        self.blanks();
        if self.peek().is_none() { Err(self.unexpected(close)) } else { self.value() }
    }

    fn open(&mut self) -> Result<(), String> {
        self.at += 1;
        self.depth += 1;
        if self.depth > DEPTH { Err(format!("brackets are nested more than {DEPTH} deep")) } else { Ok(()) }
    }

    fn close(&mut self, close: char) -> bool {
        let closed = self.take(close);
        if closed {
            self.depth -= 1;
        }
        closed
    }

    fn unexpected(&mut self, close: char) -> String {
        match self.peek() {
            None => format!("expected `,` or `{close}`, found the end of the file"),
            Some(_) => format!("expected `,` or `{close}`, found `{}`", self.rest_of_line().trim()),
        }
    }
}
