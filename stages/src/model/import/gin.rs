//! `config.gin`: the text that says what a published model is.
//!
//! One binding a line, `module.Class.parameter = value`; `name = value` is a macro, which values quote as `%name`; `@Class`
//! refers to a class; values are Python literals, and inside brackets they may go on over lines. Later bindings win.

mod value;

use std::collections::HashMap;
use std::path::Path;

use value::Scanner;
pub use value::Value;

use super::ImportError;

/// How deep files may include one another.
const INCLUDES: usize = 8;

/// One line of a configuration: what it binds, and to what.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// Module and class, `nets.conformer.Conformer`; empty for a macro.
    pub configurable: String,
    /// What is bound.
    pub parameter: String,
    /// As written: macros and references are not followed.
    pub value: Value,
    /// The file, as it was named.
    pub file: String,
    /// Line in the file, from 1.
    pub line: usize,
}

impl Binding {
    /// The last part of the configurable's name: `Conformer`.
    pub fn class(&self) -> &str {
        self.configurable.rsplit('.').next().unwrap_or_default()
    }

    /// `nets.conformer.Conformer.depth`
    pub fn name(&self) -> String {
        if self.configurable.is_empty() {
            self.parameter.clone()
        } else {
            format!("{}.{}", self.configurable, self.parameter)
        }
    }

    /// An error about this line.
    pub fn error(&self, message: impl Into<String>) -> ImportError {
        ImportError::Config { file: self.file.clone(), line: self.line, message: message.into() }
    }
}

/// A configuration: bindings in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    bindings: Vec<Binding>,
    macros: HashMap<String, Value>,
    /// Lines that load Python modules: there is nothing to load here.
    imports: Vec<String>,
}

impl Config {
    /// Reads a file and those that it includes.
    ///
    /// # Errors
    /// [`ImportError::Io`], or [`ImportError::Config`] with the line that cannot be read.
    pub fn read(path: &Path) -> Result<Self, ImportError> {
        let mut config = Self::default();
        config.include(path, INCLUDES)?;
        Ok(config)
    }

    /// Reads a text; `file` names it in messages.
    ///
    /// # Errors
    /// [`ImportError::Config`] with the line that cannot be read. A text includes no files.
    pub fn parse(file: &str, text: &str) -> Result<Self, ImportError> {
        let mut config = Self::default();
        config.add(file, text, &mut |_, _| Err("a text cannot include files".to_owned()))?;
        Ok(config)
    }

    /// The bindings, in the order of the file; of those with one name the last holds.
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }

    /// The binding that holds for a class, named by the last part of its name, and a parameter.
    pub fn find(&self, class: &str, parameter: &str) -> Option<&Binding> {
        self.bindings.iter().rev().find(|binding| binding.class() == class && binding.parameter == parameter)
    }

    /// A value with all macros in it replaced.
    ///
    /// # Errors
    /// [`ImportError::Config`] when a macro is not defined, or defined by itself.
    pub fn resolve(&self, binding: &Binding) -> Result<Value, ImportError> {
        self.expand(&binding.value, 0).map_err(|message| binding.error(message))
    }

    fn expand(&self, value: &Value, depth: usize) -> Result<Value, String> {
        let all = |items: &[Value]| items.iter().map(|item| self.expand(item, depth)).collect::<Result<Vec<_>, _>>();
        Ok(match value {
            Value::Macro(name) if depth > 32 => return Err(format!("the macro `%{name}` is defined by itself")),
            Value::Macro(name) => {
                let value = self.macros.get(name).ok_or_else(|| format!("there is no macro `%{name}`"))?;
                self.expand(value, depth + 1)?
            }
            Value::List(items) => Value::List(all(items)?),
            Value::Tuple(items) => Value::Tuple(all(items)?),
            other => other.clone(),
        })
    }

    fn include(&mut self, path: &Path, depth: usize) -> Result<(), ImportError> {
        let text = std::fs::read_to_string(path).map_err(|error| ImportError::io(path, error))?;
        let file = path.display().to_string();
        let mut include = |config: &mut Self, name: &str| {
            let path = path.parent().unwrap_or(Path::new(".")).join(name);
            if depth == 0 {
                return Err(format!("`{}` is included too deep", path.display()));
            }
            config.include(&path, depth - 1).map_err(|error| error.to_string())
        };
        self.add(&file, &text, &mut include)
    }

    fn add(
        &mut self,
        file: &str,
        text: &str,
        include: &mut dyn FnMut(&mut Self, &str) -> Result<(), String>,
    ) -> Result<(), ImportError> {
        let mut scanner = Scanner::new(text);
        // The configurable of a block: `module.Class:` and indented lines.
        let mut block: Option<String> = None;
        while let Some(indent) = scanner.next_statement() {
            let line = scanner.line();
            let error = |message: String| ImportError::Config { file: file.to_owned(), line, message };
            if indent == 0 {
                block = None;
            }
            if scanner.keyword("include") {
                match scanner.value().map_err(error)? {
                    Value::Text(name) => include(self, &name).map_err(error)?,
                    other => return Err(error(format!("expected the name of a file in quotes, found {other}"))),
                }
                scanner.end().map_err(error)?;
                continue;
            }
            if scanner.keyword("import") || scanner.keyword("from") {
                self.imports.push(scanner.rest_of_line().trim().to_owned());
                continue;
            }
            let name = scanner.selector().map_err(error)?;
            if scanner.take(':') {
                scanner.end().map_err(error)?;
                block = Some(name);
                continue;
            }
            if !scanner.take('=') {
                let found = scanner.rest_of_line().trim().to_owned();
                return Err(error(format!("expected `= value` after `{name}`, found `{found}`")));
            }
            let value = scanner.value().map_err(error)?;
            scanner.end().map_err(error)?;
            let name = block.as_ref().map_or(name.clone(), |class| format!("{class}.{name}"));
            // A scope in front, `train/Class.parameter`, narrows where a binding holds; a model has one of each class.
            let name = name.rsplit('/').next().unwrap_or(&name).to_owned();
            match name.rsplit_once('.') {
                Some((configurable, parameter)) => self.bindings.push(Binding {
                    configurable: configurable.to_owned(),
                    parameter: parameter.to_owned(),
                    value,
                    file: file.to_owned(),
                    line,
                }),
                None => drop(self.macros.insert(name, value)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        Config::parse("config.gin", text).unwrap_or_else(|error| panic!("{error}"))
    }

    fn value(text: &str) -> Value {
        let config = parse(&format!("A.b = {text}"));
        config.resolve(config.find("A", "b").unwrap()).unwrap()
    }

    #[test]
    fn values_are_python_literals() {
        assert_eq!(value("1e-4  # comment"), Value::Float(1e-4));
        assert_eq!(value("-3"), Value::Int(-3));
        assert_eq!(value("1_000"), Value::Int(1000));
        assert_eq!(value("4."), Value::Float(4.0));
        assert_eq!(value("None"), Value::None);
        assert_eq!(value("'sla' \"ney\" # two halves"), Value::Text("slaney".into()));
        assert_eq!(value(r"'a\'b#c'"), Value::Text("a'b#c".into()));
        assert_eq!(value("(96, 3)"), Value::Tuple(vec![Value::Int(96), Value::Int(3)]));
        assert_eq!(value("(1,)"), Value::Tuple(vec![Value::Int(1)]));
        assert_eq!(value("(1)"), Value::Int(1));
        assert_eq!(value("[]"), Value::List(vec![]));
        let lines = "[@x.Mel, # first\n  @train/y.Cqt(),\n]";
        assert_eq!(value(lines), Value::List(vec![Value::Reference("x.Mel".into()), Value::Reference("y.Cqt".into())]));
        let dict = value("{'a': 1, 'b': [True]}");
        assert_eq!(dict.to_string(), "{'a': 1, 'b': [True]}");
    }

    #[test]
    fn macros_blocks_scopes_and_later_bindings_hold() {
        let config = parse(
            "import a.b\nfrom c import d\nrate = 16000\nbase = %rate\nx.Mel.sr = %base\nscope/Mel.sr = %rate\ny.Net:\n  depth = 4\n  # remark\n  dim = 64\nZ.w = 1\n",
        );
        let mel = config.find("Mel", "sr").unwrap();
        assert_eq!((mel.line, mel.name()), (6, "Mel.sr".to_owned()));
        assert_eq!(config.resolve(mel).unwrap(), Value::Int(16_000));
        assert_eq!(config.find("Net", "dim").unwrap().name(), "y.Net.dim");
        assert_eq!(config.bindings().len(), 5);
    }

    #[test]
    fn mistakes_name_file_and_line() {
        let message = |text: &str| {
            let config = match Config::parse("config.gin", text) {
                Ok(config) => config,
                Err(error) => return error.to_string(),
            };
            config.resolve(&config.bindings()[0]).unwrap_err().to_string()
        };
        assert_eq!(message("a = 1\nA.b 3"), "config.gin:2: expected `= value` after `A.b`, found `3`");
        assert_eq!(message("A.b = 30 * 16"), "config.gin:1: expected the end of the line, found `* 16`");
        assert_eq!(
            message("A.b = fast"),
            "config.gin:1: expected a value such as `4`, `\"text\"`, `@Class` or `%macro`, found `fast`"
        );
        assert_eq!(message("\n\nA.b = [1,\n2"), "config.gin:3: expected `,` or `]`, found the end of the file");
        assert_eq!(message("A.b = 'x"), "config.gin:1: a text has no closing quote");
        assert_eq!(message("A.b = %no"), "config.gin:1: there is no macro `%no`");
        assert_eq!(message("a = %a\nA.b = %a"), "config.gin:2: the macro `%a` is defined by itself");
        assert_eq!(message("A.b = %a\na = (%a,"), "config.gin:2: expected `,` or `)`, found the end of the file");
    }

    #[test]
    fn files_include_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("base.gin"), "A.b = 1\nrate = 5\n").unwrap();
        std::fs::write(path("config.gin"), "include 'base.gin'\nA.c = %rate\n").unwrap();
        let config = Config::read(&path("config.gin")).unwrap();
        assert_eq!(config.bindings().len(), 2);
        std::fs::write(path("base.gin"), "include \"config.gin\"\n").unwrap();
        assert!(Config::read(&path("config.gin")).unwrap_err().to_string().contains("included too deep"));
        std::fs::write(path("config.gin"), "include 'gone.gin'").unwrap();
        let error = Config::read(&path("config.gin")).unwrap_err().to_string();
        assert!(error.contains("config.gin:1") && error.contains("gone.gin"), "{error}");
    }
}
