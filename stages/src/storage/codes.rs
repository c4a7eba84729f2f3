//! How often each code occurs in the rows of a shard, kept beside its commit so that nobody has to read all tokens of a
//! corpus to know how its codebooks are used.

use std::path::{Path, PathBuf};

use arrow::array::{Float64Array, RecordBatch};
use arrow::datatypes::{Schema, UInt16Type};
use omar_schemas::{Edge, Tokens, TokensSpec, column, fixed_values};

use super::commit::{COMMITS, Commit};
use super::{StorageError, TrackFile};
use crate::StageError;
use crate::quantize::CodeUsage;

/// Begins every file of counts.
const MAGIC: &[u8; 8] = b"omarcod2";
/// Bytes of the hash that ends it.
const HASH: usize = 16;

/// The counts of a tokens edge: one [`CodeUsage`] per view and codebook. Positions that look at padding alone do not
/// count: its one code would hide how music is spread over the others.
///
/// As a file, in this order: 8 bytes of name and version; the hash of the rows' file, as its [`Commit`] has it; the
/// counts of all codes of all codebooks of all views, as LEB128 integers, where a 0 is followed by how many zeros there
/// are; 16 bytes of BLAKE3 over all of that. What does not fit its commit, or its hash, is as good as nothing: the rows
/// are counted again.
#[derive(Debug, Clone, PartialEq)]
pub struct CodeCounts {
    spec: TokensSpec,
    views: Vec<(String, Vec<CodeUsage>)>,
}

impl CodeCounts {
    /// Nothing seen yet of an edge.
    pub fn new(spec: &TokensSpec) -> Self {
        let view = |stream: &omar_schemas::StreamSpec| {
            let usage = CodeUsage::new(stream.codebook_size as usize);
            (stream.view.clone(), vec![usage; stream.codebooks as usize])
        };
        Self { spec: spec.clone(), views: spec.streams.iter().map(view).collect() }
    }

    /// The same from a schema; `None` when it is not that of a tokens edge.
    pub fn of(schema: &Schema) -> Option<Self> {
        Tokens::spec(schema).ok().map(|spec| Self::new(&spec))
    }

    /// By view, in the order of the edge, and by codebook.
    pub fn views(&self) -> impl Iterator<Item = (&str, &[CodeUsage])> {
        self.views.iter().map(|(view, usages)| (view.as_str(), usages.as_slice()))
    }

    /// Counts the tokens of a batch.
    ///
    /// # Errors
    /// When it lacks the column of a view, or a token is not below the codebook size.
    pub fn add(&mut self, batch: &RecordBatch) -> Result<(), StageError> {
        let audio_s = column::<Float64Array>(batch, "audio_s")?;
        for (view, usages) in &mut self.views {
            let codebooks = usages.len();
            for row in 0..batch.num_rows() {
                let tokens = fixed_values::<UInt16Type>(batch, view, row)?;
                let audible = self.spec.audible(audio_s.value(row)) * codebooks;
                for (codebook, usage) in usages.iter_mut().enumerate() {
                    let added = usage.add(tokens[..audible.min(tokens.len())].iter().skip(codebook).step_by(codebooks));
                    added.map_err(|error| StageError::Failed(format!("view `{view}`: {error}")))?;
                }
            }
        }
        Ok(())
    }

    /// Adds other counts of the same edge.
    ///
    /// # Panics
    /// When they are of an edge with other views or codebooks.
    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.views.len(), other.views.len(), "counts of one edge have the same views");
        for (usage, more) in self.usages_mut().zip(other.usages()) {
            usage.merge(more).expect("counts of one edge have codebooks of the same size");
        }
    }

    /// Forgets what was seen.
    pub fn clear(&mut self) {
        self.usages_mut().for_each(CodeUsage::clear);
    }

    /// Counts the rows of a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds tokens outside their codebook.
    pub fn count(file: &TrackFile) -> Result<Option<Self>, StorageError> {
        let Some(mut counts) = Self::of(file.schema()) else { return Ok(None) };
        let views: Vec<String> = counts.views.iter().map(|(view, _)| view.clone()).collect();
        let columns: Vec<&str> = views.iter().map(String::as_str).chain(["audio_s"]).collect();
        for batch in file.scan(Some(&columns), None)? {
            counts.add(&batch?).map_err(|error| StorageError::content(file.path(), error.to_string()))?;
        }
        Ok(Some(counts))
    }

    /// Where the counts of a shard are kept.
    pub fn path(folder: &Path, commit: &Commit) -> PathBuf {
        folder.join(COMMITS).join(Path::new(&commit.file).with_extension("codes"))
    }

    /// Reads the counts of a shard. `None` when there are none, or none that fit the commit and the edge.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn read(folder: &Path, commit: &Commit, schema: &Schema) -> Result<Option<Self>, StorageError> {
        let path = Self::path(folder, commit);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self::of(schema).and_then(|counts| counts.decode(&bytes, &commit.blake3))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io(path, error)),
        }
    }

    /// The content of the file for rows with this hash.
    pub fn encode(&self, rows: &str) -> Vec<u8> {
        let mut bytes = [MAGIC, rows.as_bytes()].concat();
        let mut counts = self.usages().flat_map(CodeUsage::counts).copied().peekable();
        while let Some(count) = counts.next() {
            put(&mut bytes, count);
            if count == 0 {
                let mut zeros = 1;
                while counts.next_if_eq(&0).is_some() {
                    zeros += 1;
                }
                put(&mut bytes, zeros);
            }
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(&hash.as_bytes()[..HASH]);
        bytes
    }

    /// Fills empty counts from the content of a file.
    fn decode(mut self, bytes: &[u8], rows: &str) -> Option<Self> {
        let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH)?)?;
        if blake3::hash(content).as_bytes()[..HASH] != *hash {
            return None;
        }
        let mut rest = content.strip_prefix(MAGIC)?.strip_prefix(rows.as_bytes())?;
        let mut zeros = 0;
        for usage in self.usages_mut() {
            let mut counts = Vec::with_capacity(usage.counts().len());
            while counts.len() < usage.counts().len() {
                let count = if zeros > 0 { 0 } else { take(&mut rest)? };
                if count == 0 {
                    zeros = if zeros > 0 { zeros } else { take(&mut rest)? }.checked_sub(1)?;
                }
                counts.push(count);
            }
            *usage = CodeUsage::from_counts(counts);
        }
        (rest.is_empty() && zeros == 0).then_some(self)
    }

    fn usages(&self) -> impl Iterator<Item = &CodeUsage> {
        self.views.iter().flat_map(|(_, usages)| usages)
    }

    fn usages_mut(&mut self) -> impl Iterator<Item = &mut CodeUsage> {
        self.views.iter_mut().flat_map(|(_, usages)| usages)
    }
}

/// Appends a LEB128 integer.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Reads a LEB128 integer and moves on.
fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use omar_schemas::StreamSpec;
    use proptest::prelude::*;

    fn counts(of: &[u64]) -> CodeCounts {
        let stream = |view: &str, codebooks| StreamSpec {
            view: view.to_owned(),
            codebooks,
            codebook_size: 5,
            quantizer: String::new(),
        };
        let mut counts = CodeCounts::new(&TokensSpec {
            sample_rate: 24_000,
            crop_samples: 3840,
            patch_samples: 960,
            positions: 4,
            streams: vec![stream("mel", 2), stream("waveform", 1)],
        });
        for (usage, of) in counts.usages_mut().zip(of.chunks(5)) {
            *usage = CodeUsage::from_counts(of.to_vec());
        }
        counts
    }

    proptest! {
        #[test]
        fn counts_survive_their_file(of in prop::collection::vec(prop_oneof![3 => Just(0), 1 => any::<u64>()], 15)) {
            let bytes = counts(&of).encode("abc");
            prop_assert_eq!(counts(&[]).decode(&bytes, "abc"), Some(counts(&of)));
        }

        #[test]
        fn a_damaged_file_is_no_file(at in 0usize..1000, bit in 0u8..8, cut in 0usize..1000) {
            let mut bytes = counts(&[0, 3, 0, 0, 900, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0]).encode("abc");
            prop_assert_eq!(counts(&[]).decode(&bytes[..cut % bytes.len()], "abc"), None);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(counts(&[]).decode(&bytes, "abc"), None);
        }
    }

    #[test]
    fn counts_belong_to_their_rows() {
        let bytes = counts(&[1; 15]).encode("abc");
        assert_eq!(counts(&[]).decode(&bytes, "abd"), None);
        assert_eq!(counts(&[]).decode(&[], "abc"), None);
        assert!(counts(&[0; 15]).encode("").len() < 30, "what is not used takes no room");
    }
}
