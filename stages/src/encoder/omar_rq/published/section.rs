//! The bindings of one class, read parameter by parameter.

use std::cell::RefCell;
use std::collections::BTreeSet;

use crate::model::import::ImportError;
use crate::model::import::gin::{Binding, Config, Value};

use super::Shapes;

/// The bindings of one class. What is asked for is remembered, so that [`Section::finish`] knows what nobody knows.
pub(super) struct Section<'a, 'b> {
    config: &'a Config,
    class: &'b str,
    ignore: &'b [String],
    known: RefCell<BTreeSet<&'static str>>,
    left: RefCell<BTreeSet<&'static str>>,
}

type Found<'a, T> = Result<Option<(&'a Binding, T)>, ImportError>;

impl<'a, 'b> Section<'a, 'b> {
    pub(super) fn new(config: &'a Config, class: &'b str, ignore: &'b [String]) -> Self {
        Self { config, class, ignore, known: RefCell::default(), left: RefCell::default() }
    }

    /// The value of a parameter; `None` when it is not bound.
    pub(super) fn value(&self, parameter: &'static str) -> Found<'a, Value> {
        self.known.borrow_mut().insert(parameter);
        let Some(binding) = self.config.find(self.class, parameter) else { return Ok(None) };
        Ok(Some((binding, self.config.resolve(binding)?)))
    }

    /// A parameter that the encoder does not depend on.
    pub(super) fn leave(&self, parameter: &'static str) {
        self.left.borrow_mut().insert(parameter);
    }

    /// A number.
    pub(super) fn number(&self, parameter: &'static str) -> Found<'a, f64> {
        self.read(parameter, "a number", |value| match value {
            Value::Int(number) => Some(*number as f64),
            Value::Float(number) if number.is_finite() => Some(*number),
            _ => None,
        })
    }

    /// A whole number above zero.
    pub(super) fn whole(&self, parameter: &'static str) -> Found<'a, usize> {
        self.read(parameter, "a whole number above 0", |value| match value {
            Value::Int(number) if *number > 0 => usize::try_from(*number).ok(),
            Value::Float(number) if *number > 0.0 && number.fract() == 0.0 && *number < 1e9 => Some(*number as usize),
            _ => None,
        })
    }

    /// `True` or `False`.
    pub(super) fn flag(&self, parameter: &'static str) -> Found<'a, bool> {
        self.read(parameter, "True or False", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A text, or `None`.
    pub(super) fn text(&self, parameter: &'static str) -> Found<'a, Option<String>> {
        self.read(parameter, "a text or None", |value| match value {
            Value::Text(text) => Some(Some(text.clone())),
            Value::None => Some(None),
            _ => None,
        })
    }

    /// Two whole numbers above zero; `None` counts as not bound.
    pub(super) fn pair(&self, parameter: &'static str) -> Found<'a, [usize; 2]> {
        let found = self.read(parameter, "a pair such as `(96, 4)`", |value| match value {
            Value::None => Some(None),
            Value::Tuple(items) | Value::List(items) => match items[..] {
                [Value::Int(bins), Value::Int(frames)] if bins > 0 && frames > 0 => {
                    Some(Some([bins as usize, frames as usize]))
                }
                _ => None,
            },
            _ => None,
        })?;
        Ok(found.and_then(|(binding, pair)| Some((binding, pair?))))
    }

    /// What the tensors say, once the configuration does not contradict it.
    pub(super) fn agree(&self, parameter: &'static str, found: usize, words: &str) -> Result<usize, ImportError> {
        match self.whole(parameter)? {
            Some((binding, written)) if written != found => {
                Err(binding.error(format!("`{} = {}`, but {words}", binding.name(), binding.value)))
            }
            _ => Ok(found),
        }
    }

    /// The same for something that is there or not.
    pub(super) fn agree_flag(
        &self,
        parameter: &'static str,
        found: bool,
        shapes: &Shapes<'_>,
        what: &str,
    ) -> Result<bool, ImportError> {
        match self.flag(parameter)? {
            Some((binding, written)) if written != found => {
                let no = if found { "" } else { "no tensors of " };
                Err(shapes.disagrees(binding, &format!("{no}{what}")))
            }
            _ => Ok(found),
        }
    }

    /// Refuses the first parameter of the class that nobody asked for; hands over the names of those that were.
    pub(super) fn finish(self, taken: &mut Vec<String>) -> Result<(), ImportError> {
        let (known, left) = (self.known.into_inner(), self.left.into_inner());
        for binding in self.config.bindings().iter().filter(|binding| binding.class() == self.class) {
            let parameter = binding.parameter.as_str();
            if known.contains(parameter) {
                taken.push(binding.name());
            } else if !left.contains(parameter) && !self.ignore.contains(&binding.name()) {
                let known: Vec<&str> = known.iter().chain(&left).copied().collect();
                return Err(binding.error(format!(
                    "unknown parameter `{}`: `{}` has {}. If it does not change what the encoder computes, import with \
                     `--ignore {}`",
                    binding.name(),
                    self.class,
                    known.join(", "),
                    binding.name()
                )));
            }
        }
        Ok(())
    }

    fn read<T>(&self, parameter: &'static str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Found<'a, T> {
        let Some((binding, value)) = self.value(parameter)? else { return Ok(None) };
        match read(&value) {
            Some(read) => Ok(Some((binding, read))),
            None => Err(binding.error(format!("`{}`: expected {expected}, found {value}", binding.name()))),
        }
    }
}
