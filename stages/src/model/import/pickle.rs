//! The pickle of a state dict, interpreted as a description.
//!
//! Pickle (PEP 3154 and before) is a stack machine whose programs may call any function of Python. The programs that
//! `torch.save` writes for a state dict use a corner of it: containers, numbers, texts, references to storages, and calls
//! of `torch._utils._rebuild_tensor_v2`. That corner is what this machine has; it calls nothing, it only notes down.
//!
//! Values live in an arena and refer to one another by index, so that neither cycles nor depth can hurt.

mod description;

use std::collections::HashMap;

pub use self::description::{ElementType, TensorDescription};

use self::description::Global;

/// Operations in a pickle, at most: a state dict takes about thirty per tensor.
const OPERATIONS: usize = 20_000_000;

/// Why a pickle is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickleError {
    /// It names something else than tensors.
    #[error("it refers to `{0}`")]
    Foreign(String),
    /// It is damaged, or does something that a state dict does not.
    #[error("byte {at} of the pickle: {reason}")]
    Damaged {
        /// Position of the operation.
        at: usize,
        /// What is wrong.
        reason: String,
    },
}

/// A value; containers are indices into the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A number, bytes or object that no tensor needs.
    Opaque,
    Text(usize),
    Tuple(usize),
    List(usize),
    Dict(usize),
    Global(Global),
    Storage(usize),
    Tensor(usize),
    Mark,
}

#[derive(Debug, Default)]
struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u64, Value>,
    texts: Vec<String>,
    /// Tuples and lists.
    sequences: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<(String, ElementType, usize)>,
    tensors: Vec<TensorDescription>,
}

/// The tensors of a state dict, in its order. A dict with an entry `state_dict`, as training frameworks save it, gives
/// those of that entry; entries that are no tensors are left out.
///
/// # Errors
/// [`PickleError::Foreign`] when it names anything but tensors, their storages and dicts; [`PickleError::Damaged`] when it
/// is cut off or no state dict.
pub fn read_state_dict(code: &[u8]) -> Result<Vec<(String, TensorDescription)>, PickleError> {
    let mut machine = Machine { code, ..Machine::default() };
    let root = machine.run()?;
    let Value::Dict(mut dict) = root else { return Err(machine.damaged("expected a dict of tensors")) };
    let inner = machine.dicts[dict].iter().find_map(|(key, value)| match (key, value) {
        (Value::Text(key), Value::Dict(inner)) if machine.texts[*key] == "state_dict" => Some(*inner),
        _ => None,
    });
    dict = inner.unwrap_or(dict);
    let named = machine.dicts[dict].iter().filter_map(|(key, value)| match (key, value) {
        (Value::Text(key), Value::Tensor(tensor)) => {
            Some((machine.texts[*key].clone(), machine.tensors[*tensor].clone()))
        }
        _ => None,
    });
    Ok(named.collect())
}

type Outcome<T> = Result<T, PickleError>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Outcome<Value> {
        for _ in 0..OPERATIONS {
            let operation = self.bytes(1)?[0];
            if operation == b'.' {
                return self.pop();
            }
            self.step(operation)?;
        }
        Err(self.damaged("too many operations for a state dict"))
    }

    fn step(&mut self, operation: u8) -> Outcome<()> {
        match operation {
            // Protocol, frame: nothing to do but to skip their arguments.
            0x80 => self.bytes(1).map(drop),
            0x95 => self.bytes(8).map(drop),
            b'(' => self.push(Value::Mark),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'2' => self.top().and_then(|top| self.push(top)),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => self.integer(4),
            b'K' => self.unsigned(1).and_then(|n| self.push(Value::Int(n as i64))),
            b'M' => self.unsigned(2).and_then(|n| self.push(Value::Int(n as i64))),
            0x8a => self.unsigned(1).and_then(|len| self.integer(len)),
            0x8b => self.unsigned(4).and_then(|len| self.integer(len)),
            b'I' | b'L' => self.decimal(),
            b'G' => self.bytes(8).map(drop).and_then(|()| self.push(Value::Opaque)),
            b'F' => self.line().map(drop).and_then(|()| self.push(Value::Opaque)),
            b'X' | b'T' => self.unsigned(4).and_then(|len| self.text(len)),
            0x8c | b'U' => self.unsigned(1).and_then(|len| self.text(len)),
            0x8d => self.unsigned(8).and_then(|len| self.text(len)),
            b'V' => self.line().map(str::to_owned).and_then(|line| self.push_text(line)),
            b'B' => self.unsigned(4).and_then(|len| self.blob(len)),
            b'C' => self.unsigned(1).and_then(|len| self.blob(len)),
            0x8e => self.unsigned(8).and_then(|len| self.blob(len)),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'R' => self.reduce(),
            b'Q' => self.persistent(),
            // The state of an object: of an OrderedDict, remarks that no tensor needs.
            b'b' => self.pop().map(drop),
            _ => self.container(operation),
        }
    }

    /// Operations on containers and the memo.
    fn container(&mut self, operation: u8) -> Outcome<()> {
        match operation {
            b')' => self.push_tuple(Vec::new()),
            b't' => self.pop_mark().and_then(|items| self.push_tuple(items)),
            0x85..=0x87 => {
                let mut items: Vec<Value> = (0..=operation - 0x85).map(|_| self.pop()).collect::<Outcome<_>>()?;
                items.reverse();
                self.push_tuple(items)
            }
            b']' => self.push_list(Vec::new()),
            b'l' => self.pop_mark().and_then(|items| self.push_list(items)),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            b'e' => self.pop_mark().and_then(|items| self.append(items)),
            b'}' => self.push_dict(),
            b'd' => {
                let items = self.pop_mark()?;
                self.push_dict()?;
                self.set(&items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])
            }
            b'u' => self.pop_mark().and_then(|items| self.set(&items)),
            b'q' => self.unsigned(1).and_then(|slot| self.memorize(slot as u64)),
            b'r' => self.unsigned(4).and_then(|slot| self.memorize(slot as u64)),
            b'p' => self.slot().and_then(|slot| self.memorize(slot)),
            0x94 => self.memorize(self.memo.len() as u64),
            b'h' => self.unsigned(1).and_then(|slot| self.recall(slot as u64)),
            b'j' => self.unsigned(4).and_then(|slot| self.recall(slot as u64)),
            b'g' => self.slot().and_then(|slot| self.recall(slot)),
            other => Err(self.damaged(format!("operation {other:#04x} has no place in a state dict"))),
        }
    }

    fn damaged(&self, reason: impl Into<String>) -> PickleError {
        PickleError::Damaged { at: self.at, reason: reason.into() }
    }

    fn bytes(&mut self, len: usize) -> Outcome<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.code.len());
        let end = end.ok_or_else(|| self.damaged("the pickle ends too early: the file is truncated"))?;
        let bytes = &self.code[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn line(&mut self) -> Outcome<&'a str> {
        let rest = &self.code[self.at..];
        let len = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = self.bytes(len)?;
        self.bytes(1)?;
        std::str::from_utf8(line).map_err(|_| self.damaged("a name is not UTF-8"))
    }

    fn unsigned(&mut self, len: usize) -> Outcome<usize> {
        let bytes = self.bytes(len)?;
        let number = bytes.iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        usize::try_from(number).map_err(|_| self.damaged("a length is too large"))
    }

    /// A little-endian two's complement number of `len` bytes.
    fn integer(&mut self, len: usize) -> Outcome<()> {
        let bytes = self.bytes(len)?;
        if len > 8 {
            return self.push(Value::Opaque);
        }
        let sign = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let start = if sign { -1i64 } else { 0 };
        let number = bytes.iter().rev().fold(start, |number, byte| number << 8 | i64::from(*byte));
        self.push(Value::Int(number))
    }

    /// A number written in digits; `00` and `01` were booleans once.
    fn decimal(&mut self) -> Outcome<()> {
        let line = self.line()?.trim_end_matches('L');
        let number = line.parse().map_err(|_| self.damaged(format!("`{line}` is no number")))?;
        self.push(Value::Int(number))
    }

    fn slot(&mut self) -> Outcome<u64> {
        let line = self.line()?;
        line.parse().map_err(|_| self.damaged(format!("`{line}` is no place in the memo")))
    }

    fn text(&mut self, len: usize) -> Outcome<()> {
        let bytes = self.bytes(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("a text is not UTF-8"))?.to_owned();
        self.push_text(text)
    }

    fn blob(&mut self, len: usize) -> Outcome<()> {
        self.bytes(len)?;
        self.push(Value::Opaque)
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.stack.push(value);
        Ok(())
    }

    fn push_text(&mut self, text: String) -> Outcome<()> {
        self.texts.push(text);
        self.push(Value::Text(self.texts.len() - 1))
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.sequences.push(items);
        self.push(Value::Tuple(self.sequences.len() - 1))
    }

    fn push_list(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.sequences.push(items);
        self.push(Value::List(self.sequences.len() - 1))
    }

    fn push_dict(&mut self) -> Outcome<()> {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    fn top(&self) -> Outcome<Value> {
        self.stack.last().copied().ok_or_else(|| self.damaged("the stack is empty"))
    }

    fn pop(&mut self) -> Outcome<Value> {
        self.stack.pop().ok_or_else(|| self.damaged("the stack is empty"))
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Value>> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Mark);
        let mark = mark.ok_or_else(|| self.damaged("the stack has no mark"))?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn memorize(&mut self, slot: u64) -> Outcome<()> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u64) -> Outcome<()> {
        let value = self.memo.get(&slot).copied();
        let value = value.ok_or_else(|| self.damaged(format!("nothing is in place {slot} of the memo")))?;
        self.push(value)
    }

    fn append(&mut self, items: Vec<Value>) -> Outcome<()> {
        let Value::List(list) = self.top()? else { return Err(self.damaged("expected a list to append to")) };
        self.sequences[list].extend(items);
        Ok(())
    }

    fn set(&mut self, items: &[Value]) -> Outcome<()> {
        let Value::Dict(dict) = self.top()? else { return Err(self.damaged("expected a dict to put entries into")) };
        self.dicts[dict].extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        Ok(())
    }

    fn global(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.push_global(module, name)
    }

    fn stack_global(&mut self) -> Outcome<()> {
        let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else {
            return Err(self.damaged("expected the names of a module and of something in it"));
        };
        let (module, name) = (self.texts[module].clone(), self.texts[name].clone());
        self.push_global(&module, &name)
    }

    fn push_global(&mut self, module: &str, name: &str) -> Outcome<()> {
        let global = Global::of(module, name).ok_or_else(|| PickleError::Foreign(format!("{module}.{name}")))?;
        self.push(Value::Global(global))
    }

    /// What calling a global would give, as a description.
    fn reduce(&mut self) -> Outcome<()> {
        let (Value::Tuple(arguments), Value::Global(global)) = (self.pop()?, self.pop()?) else {
            return Err(self.damaged("expected a known function and its arguments"));
        };
        match global {
            Global::OrderedDict => {
                if !self.sequences[arguments].is_empty() {
                    return Err(self.damaged("an OrderedDict is expected to start empty"));
                }
                self.push_dict()
            }
            Global::RebuildTensor => self.tensor(arguments),
            Global::RebuildParameter => match self.sequences[arguments].first() {
                Some(tensor @ Value::Tensor(_)) => self.push(*tensor),
                _ => Err(self.damaged("a parameter is expected to hold a tensor")),
            },
            Global::Beside => self.push(Value::Opaque),
            Global::Storage(_) => Err(self.damaged("a storage is not called")),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`
    fn tensor(&mut self, arguments: usize) -> Outcome<()> {
        let arguments = self.sequences[arguments].clone();
        let (
            Some(Value::Storage(storage)),
            Some(Value::Int(offset)),
            Some(Value::Tuple(shape)),
            Some(Value::Tuple(strides)),
        ) = (arguments.first(), arguments.get(1), arguments.get(2), arguments.get(3))
        else {
            return Err(self.damaged("a tensor is expected to have a storage, an offset, a shape and strides"));
        };
        let (key, element, storage_len) = self.storages[*storage].clone();
        let offset = usize::try_from(*offset).map_err(|_| self.damaged("a tensor starts before its storage"))?;
        let (shape, strides) = (self.lengths(*shape)?, self.lengths(*strides)?);
        if shape.len() != strides.len() {
            return Err(self.damaged("a tensor has other dimensions than strides"));
        }
        self.tensors.push(TensorDescription { storage: key, element, storage_len, offset, shape, strides });
        self.push(Value::Tensor(self.tensors.len() - 1))
    }

    fn lengths(&self, tuple: usize) -> Outcome<Vec<usize>> {
        let length = |value: &Value| match value {
            Value::Int(length) => usize::try_from(*length).ok(),
            _ => None,
        };
        let lengths = self.sequences[tuple].iter().map(length).collect::<Option<_>>();
        lengths.ok_or_else(|| self.damaged("a shape or stride is no number, or below zero"))
    }

    /// A reference to a storage: `("storage", type, key, device, values)`.
    fn persistent(&mut self) -> Outcome<()> {
        let Value::Tuple(id) = self.pop()? else { return Err(self.damaged("expected a reference to a storage")) };
        let id = self.sequences[id].clone();
        let (
            Some(Value::Text(what)),
            Some(Value::Global(Global::Storage(element))),
            Some(Value::Text(key)),
            Some(Value::Int(len)),
        ) = (id.first(), id.get(1), id.get(2), id.get(4))
        else {
            return Err(self.damaged("expected a reference to a storage of floats or 64-bit integers"));
        };
        if self.texts[*what] != "storage" {
            return Err(self.damaged("expected a reference to a storage"));
        }
        let len = usize::try_from(*len).map_err(|_| self.damaged("a storage has a length below zero"))?;
        self.storages.push((self.texts[*key].clone(), *element, len));
        self.push(Value::Storage(self.storages.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_foreign_is_refused_by_name_and_not_called() {
        // What `pickle.dumps(os.system)`-like attacks look like: GLOBAL posix.system, a command, REDUCE.
        let code = b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.";
        assert_eq!(read_state_dict(code), Err(PickleError::Foreign("posix.system".into())));
        let code = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.";
        assert_eq!(read_state_dict(code), Err(PickleError::Foreign("builtins.eval".into())));
    }

    #[test]
    fn shapes_and_sets_beside_a_state_dict_are_passed_over() {
        let code =
            b"\x80\x02}(X\x01\x00\x00\x00actorch\nSize\nK\x40\x85\x85RX\x01\x00\x00\x00bc__builtin__\nset\n]\x85Ru.";
        assert_eq!(read_state_dict(code), Ok(Vec::new()));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for code in [
            &b""[..],
            b"\x80",
            b"\x80\x02}q",
            b"\x80\x02(.",
            b"\x80\x02R.",
            b"\x80\x02u.",
            b"\x80\x02}\x8b\xff\xff\xff\xff.",
            b"h\x00.",
            b"\x80\x02N.",
        ] {
            assert!(matches!(read_state_dict(code), Err(PickleError::Damaged { .. })), "{code:?}");
        }
        // A list that holds itself.
        assert!(read_state_dict(b"\x80\x02]q\x00h\x00a.").is_err());
    }

    #[test]
    fn numbers_have_their_sign() {
        let mut machine = Machine { code: b"\xff\xff\xff\xff\x00\x01", ..Machine::default() };
        machine.integer(4).unwrap();
        machine.integer(2).unwrap();
        assert_eq!(machine.stack, [Value::Int(-1), Value::Int(256)]);
    }
}
