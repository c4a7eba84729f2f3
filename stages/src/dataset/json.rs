//! Large JSON objects, one entry at a time, with the line that each stands on.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::marker::PhantomData;
use std::path::Path;
use std::rc::Rc;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, MapAccess, Visitor};

use super::error::DatasetError;

/// Called with the keys that lead to a value, the value, and the line of the last key.
type Found<'a, T> = &'a mut dyn FnMut(&[String], T, u64);

/// Calls `found` for every value that lies `depth` keys deep. Keys that repeat are given again.
pub(super) fn entries<T: DeserializeOwned>(path: &Path, depth: usize, found: Found<'_, T>) -> Result<(), DatasetError> {
    let file = File::open(path).map_err(|error| DatasetError::io(path, &error))?;
    let line = Rc::new(Cell::new(1));
    let reader = CountLines { inner: BufReader::with_capacity(1 << 16, file), line: line.clone() };
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let mut keys = Vec::with_capacity(depth);
    let level = Level { depth, keys: &mut keys, line: &line, found, value: PhantomData };
    let read = level.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    read.map_err(|error| DatasetError::file(path, error.line() as u64, format!("column {}: {error}", error.column())))
}

/// serde_json asks for one byte at a time, so the lines counted are those of the text it has seen.
struct CountLines {
    inner: BufReader<File>,
    line: Rc<Cell<u64>>,
}

impl Read for CountLines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let lines = buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
        self.line.set(self.line.get() + lines as u64);
        Ok(count)
    }
}

struct Level<'a, 'f, T> {
    depth: usize,
    keys: &'a mut Vec<String>,
    line: &'a Cell<u64>,
    found: &'a mut (dyn FnMut(&[String], T, u64) + 'f),
    value: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> DeserializeSeed<'de> for Level<'_, '_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.depth > 0 {
            return deserializer.deserialize_map(self);
        }
        let line = self.line.get();
        let value = T::deserialize(deserializer).map_err(|error| {
            let keys = self.keys.join("`, `");
            D::Error::custom(format!("of `{keys}`: {error}"))
        })?;
        (self.found)(self.keys, value, line);
        Ok(())
    }
}

impl<'de, T: DeserializeOwned> Visitor<'de> for Level<'_, '_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            self.keys.push(key);
            let (depth, line) = (self.depth - 1, self.line);
            map.next_value_seed(Level { depth, keys: self.keys, line, found: self.found, value: PhantomData })?;
            self.keys.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Folder;
    use super::*;

    fn read(text: &str, depth: usize) -> Result<Vec<(String, i64, u64)>, String> {
        let folder = Folder::new(&[("a.json", text.as_bytes())]);
        let mut entries_found = Vec::new();
        let read = entries(&folder.path("a.json"), depth, &mut |keys, value: i64, line| {
            entries_found.push((keys.join("/"), value, line));
        });
        read.map(|()| entries_found).map_err(|error| folder.shorten(error))
    }

    #[test]
    fn entries_come_with_their_keys_and_lines() {
        let text = "{\n \"0\": {\n  \"train\": {\n   \"é\": 1,\n   \"b\": 2},\n  \"val\": {}}}\n";
        let expected = vec![("0/train/é".to_owned(), 1, 4), ("0/train/b".to_owned(), 2, 5)];
        assert_eq!(read(text, 3), Ok(expected));
    }

    #[test]
    fn what_is_wrong_is_placed() {
        let error = read("{\n \"a\": 1,\n \"b\": \"x\"}", 1).expect_err("not a number");
        assert!(error.starts_with("`a.json`, line 3: column"), "{error}");
        assert!(error.contains("of `b`: invalid type: string"), "{error}");
        assert!(read("[1]", 1).expect_err("no object").contains("expected an object"));
        assert!(read("{\"a\": 1", 1).expect_err("cut").contains("EOF"));
        assert!(read("{\"a\": 1} x", 1).expect_err("more").contains("trailing characters"));
    }
}
