//! Arrays in NumPy's NPY format, versions 1 to 3: text and numbers. Pickled objects are refused.
//!
//! Format: numpy.lib.format.

use std::path::Path;

use super::error::DatasetError;

/// An array, in C order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) data: Data,
}

/// What an array holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Text(Vec<String>),
    Numbers(Vec<f64>),
}

const MAGIC: &[u8] = b"\x93NUMPY";

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Array, DatasetError> {
    let bytes = std::fs::read(path).map_err(|error| DatasetError::io(path, &error))?;
    parse(&bytes).map_err(|message| DatasetError::file(path, None, message))
}

/// Reads a list of text.
pub(super) fn read_text(path: &Path) -> Result<Vec<String>, DatasetError> {
    match read(path)? {
        Array { shape, data: Data::Text(items) } if shape.len() == 1 => Ok(items),
        Array { shape, data } => {
            let what = if matches!(data, Data::Text(_)) { "text" } else { "numbers" };
            let message = format!("expected a list of text (one dimension), found {what} of shape {shape:?}");
            Err(DatasetError::file(path, None, message))
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Array, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("expected a NumPy array (.npy), found something else")?;
    let cut = || "the file ends in its header".to_owned();
    let (start, length): (usize, usize) = match rest.first_chunk::<2>().ok_or_else(cut)? {
        [1, _] => {
            let length = rest.get(2..4).ok_or_else(cut)?;
            (4, usize::from(u16::from_le_bytes([length[0], length[1]])))
        }
        [2 | 3, _] => {
            let length = rest.get(2..6).ok_or_else(cut)?;
            (6, u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize)
        }
        [version, _] => return Err(format!("expected NPY version 1, 2 or 3, found {version}")),
    };
    let end = start.checked_add(length).filter(|&end| end <= rest.len()).ok_or_else(cut)?;
    let (header, data) = (String::from_utf8_lossy(&rest[start..end]), &rest[end..]);
    let header = Header::parse(&header).ok_or_else(|| format!("cannot read the header `{}`", header.trim()))?;
    header.array(data)
}

struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

impl Header {
    /// A Python dictionary such as `{'descr': '<U12', 'fortran_order': False, 'shape': (50,), }`.
    fn parse(text: &str) -> Option<Self> {
        let after = |key: &str| {
            let rest = text.split_once(&format!("'{key}'"))?.1.trim_start().strip_prefix(':')?;
            Some(rest.trim_start())
        };
        let descr = after("descr")?;
        let descr = match descr.strip_prefix('\'') {
            Some(rest) => rest.split_once('\'')?.0.to_owned(),
            None => "record".to_owned(),
        };
        let (shape, _) = after("shape")?.strip_prefix('(')?.split_once(')')?;
        let shape = shape.split(',').map(str::trim).filter(|size| !size.is_empty()).map(str::parse);
        Some(Self {
            descr,
            fortran: after("fortran_order")?.starts_with("True"),
            shape: shape.collect::<Result<_, _>>().ok()?,
        })
    }

    fn array(self, data: &[u8]) -> Result<Array, String> {
        let (order, kind) = match self.descr.as_bytes().first() {
            Some(b'<' | b'|' | b'=') => (Order::Little, &self.descr[1..]),
            Some(b'>') => (Order::Big, &self.descr[1..]),
            _ => (Order::Little, self.descr.as_str()),
        };
        if kind.starts_with('O') {
            let hint = "hint: save it again as text, numpy.save(path, array.astype(str))";
            return Err(format!("holds pickled Python objects, which can run any code when they are read; {hint}"));
        }
        let refuse = || format!("expected text (`<U`), numbers or booleans, found the type `{}`", self.descr);
        let width: Option<usize> = kind.get(1..).and_then(|width| width.parse().ok()).filter(|&width| width > 0);
        let width = width.ok_or_else(refuse)?;
        let count = self.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let size = if kind.starts_with('U') { width.checked_mul(4) } else { Some(width) };
        let expected = count.zip(size).and_then(|(count, size)| count.checked_mul(size));
        let (Some(count), Some(size)) = (count, size) else { return Err(refuse()) };
        if expected != Some(data.len()) {
            let shape = &self.shape;
            return Err(format!(
                "expected {count} items of {size} bytes (shape {shape:?}), found {} bytes",
                data.len()
            ));
        }
        let items = (0..count).map(|index| &data[index * size..][..size]);
        let data = match kind.as_bytes()[0] {
            b'U' => Data::Text(self.reorder(items.map(|item| unicode(item, order)).collect::<Result<_, _>>()?)),
            b'S' => Data::Text(self.reorder(items.map(bytes_text).collect::<Result<_, _>>()?)),
            kind => {
                let number = |item: &[u8]| number(item, kind, order).ok_or_else(refuse);
                Data::Numbers(self.reorder(items.map(number).collect::<Result<_, _>>()?))
            }
        };
        Ok(Array { shape: self.shape, data })
    }

    /// From Fortran to C order.
    fn reorder<T: Clone>(&self, items: Vec<T>) -> Vec<T> {
        if !self.fortran || self.shape.len() < 2 {
            return items;
        }
        (0..items.len())
            .map(|mut index| {
                // The last index of the shape moves fastest in C order, the first in Fortran order.
                let mut place = vec![0; self.shape.len()];
                for (place, &size) in place.iter_mut().zip(&self.shape).rev() {
                    *place = index % size;
                    index /= size;
                }
                let stored = place.iter().zip(&self.shape).rev().fold(0, |stored, (&at, &size)| stored * size + at);
                items[stored].clone()
            })
            .collect()
    }
}

#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

/// UCS-4, padded with zeros.
fn unicode(item: &[u8], order: Order) -> Result<String, String> {
    let points = item.chunks_exact(4).map(|point| {
        let point = [point[0], point[1], point[2], point[3]];
        match order {
            Order::Little => u32::from_le_bytes(point),
            Order::Big => u32::from_be_bytes(point),
        }
    });
    let mut text: String = points
        .map(|point| char::from_u32(point).ok_or_else(|| format!("expected Unicode, found the code point {point:#x}")))
        .collect::<Result<_, _>>()?;
    text.truncate(text.trim_end_matches('\0').len());
    Ok(text)
}

fn bytes_text(item: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(item).map_err(|_| "expected ASCII or UTF-8 text, found other bytes".to_owned())?;
    Ok(text.trim_end_matches('\0').to_owned())
}

fn number(item: &[u8], kind: u8, order: Order) -> Option<f64> {
    let mut item = item.to_vec();
    if matches!(order, Order::Big) {
        item.reverse();
    }
    let bytes = item.as_slice();
    Some(match (kind, bytes.len()) {
        (b'f', 4) => f64::from(f32::from_le_bytes(bytes.try_into().ok()?)),
        (b'f', 8) => f64::from_le_bytes(bytes.try_into().ok()?),
        (b'b' | b'u', 1) => f64::from(bytes[0]),
        (b'i', 1) => f64::from(bytes[0] as i8),
        (b'i', 2) => f64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
        (b'i', 4) => f64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
        (b'i', 8) => i64::from_le_bytes(bytes.try_into().ok()?) as f64,
        (b'u', 2) => f64::from(u16::from_le_bytes(bytes.try_into().ok()?)),
        (b'u', 4) => f64::from(u32::from_le_bytes(bytes.try_into().ok()?)),
        (b'u', 8) => u64::from_le_bytes(bytes.try_into().ok()?) as f64,
        _ => return None,
    })
}

/// A file of version 1, for tests.
#[cfg(test)]
pub(super) fn file(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let fortran = if fortran { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({shape}), }}");
    header.push_str(&" ".repeat(63 - (header.len() + 10) % 64));
    header.push('\n');
    [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes(), data].concat()
}

/// UCS-4 text as NumPy stores it, for tests.
#[cfg(test)]
pub(super) fn text(items: &[&str]) -> Vec<u8> {
    let width = items.iter().map(|item| item.chars().count()).max().unwrap_or(1);
    let pad = |item: &str| item.chars().chain(std::iter::repeat('\0')).take(width).collect::<Vec<_>>();
    let data: Vec<u8> = items.iter().flat_map(|item| pad(item)).flat_map(|c| u32::from(c).to_le_bytes()).collect();
    file(&format!("<U{width}"), false, &format!("{},", items.len()), &data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_without_its_padding() {
        let expected = Data::Text(vec!["guitar".to_owned(), "hé 𝄞".to_owned(), String::new()]);
        assert_eq!(parse(&text(&["guitar", "hé 𝄞", ""])), Ok(Array { shape: vec![3], data: expected }));
    }

    #[test]
    fn numbers_are_read_in_both_orders() {
        let floats: Vec<u8> = [1f32, 2., 3., 4., 5., 6.].iter().flat_map(|x| x.to_le_bytes()).collect();
        let numbers = |fortran| parse(&file("<f4", fortran, "2, 3", &floats)).expect("an array").data;
        assert_eq!(numbers(false), Data::Numbers(vec![1., 2., 3., 4., 5., 6.]));
        assert_eq!(numbers(true), Data::Numbers(vec![1., 3., 5., 2., 4., 6.]));
        let big: Vec<u8> = [1i16, -2].iter().flat_map(|x| x.to_be_bytes()).collect();
        let big = parse(&file(">i2", false, "2,", &big)).expect("an array");
        assert_eq!(big.data, Data::Numbers(vec![1., -2.]));
        let bools = parse(&file("|b1", false, "2,", &[1, 0])).expect("an array");
        assert_eq!(bools.data, Data::Numbers(vec![1., 0.]));
    }

    /// Written by NumPy 2.4 in the forms that splits and tags of MagnaTagATune are passed around in:
    /// `numpy.save(name, array)` of texts, of objects (`dtype=object`), of a matrix in either order.
    macro_rules! written {
        ($name:literal) => {
            include_bytes!(concat!("numpy/", $name, ".npy"))
        };
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let rows = [
            "0\tf/american_bach_soloists-j_s__bach_solo_cantatas-01-aria-30-59.mp3".to_owned(),
            "12\t2/h\u{e9}-x-0-29.mp3".to_owned(),
        ];
        let read = |bytes: &[u8]| parse(bytes).expect("an array");
        assert_eq!(read(written!("split_unicode")), Array { shape: vec![2], data: Data::Text(rows.to_vec()) });
        let tags = ["guitar", "female voice", "metal"].map(str::to_owned).to_vec();
        assert_eq!(read(written!("tags")), Array { shape: vec![3], data: Data::Text(tags) });
        let matrix = Array { shape: vec![2, 3], data: Data::Numbers(vec![1., 0., 0., 0., 1., 1.]) };
        assert_eq!((read(written!("binary")), read(written!("binary_fortran"))), (matrix.clone(), matrix));
        assert_eq!(read(written!("scalar")), Array { shape: vec![], data: Data::Text(vec!["guitar".to_owned()]) });
    }

    #[test]
    fn objects_that_numpy_pickled_are_refused_with_the_way_out() {
        for bytes in [&written!("split_objects")[..], written!("split_pairs_objects")] {
            let message = parse(bytes).expect_err("it is refused");
            assert_eq!(
                message,
                "holds pickled Python objects, which can run any code when they are read; hint: save it again as text, \
                 numpy.save(path, array.astype(str))"
            );
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let message = |bytes: &[u8]| parse(bytes).expect_err("it is refused");
        assert!(message(b"PK\x03\x04").starts_with("expected a NumPy array"));
        assert!(message(&file("|O", false, "3,", b"")).starts_with("holds pickled Python objects"));
        assert_eq!(
            message(&file("<f4", false, "2, 2", &[0; 12])),
            "expected 4 items of 4 bytes (shape [2, 2]), found 12 bytes"
        );
        assert!(message(&file("<c8", false, "1,", &[0; 8])).contains("found the type `<c8`"));
        assert!(message(&file("<f8", false, &format!("{0}, {0}", usize::MAX), &[])).contains("expected text"));
        assert!(message(&file("<U0", false, &format!("{},", usize::MAX), &[])).contains("found the type `<U0`"));
        assert!(message(&file("<U1", false, "1,", &[0, 0, 0x11, 0])).contains("0x110000"));
        assert_eq!(message(b"\x93NUMPY\x01\x00\xff"), "the file ends in its header");
        assert_eq!(message(b"\x93NUMPY\x01\x00\xff\x00{}"), "the file ends in its header");
        assert_eq!(message(b"\x93NUMPY\x01\x00\x02\x00{}"), "cannot read the header `{}`");
    }
}
