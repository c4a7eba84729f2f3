//! An object as something that can be read and searched: by ranges, a few of which are kept.
//!
//! Where reading jumps, a small block is fetched. Where it goes on behind a block, the next one is twice as large, up to
//! a bound, and the one behind it is asked for while this one is worked on. So the header of a file costs 64 KiB, and a
//! file that is decoded to its end is read in 1 MiB at a time, with at most 5 MiB of it in memory.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use object_store::path::Path as Key;
use object_store::{Error, GetOptions, ObjectMeta};
use tokio::task::JoinHandle;

use super::clients::Client;
use super::stores::{begin, wait};
use super::{Fault, Patience, Problem, StoreError};
use crate::corpus::address::Address;
use crate::corpus::location::Stat;

/// Bytes that are read when an object is opened, and where reading jumps. Blocks start at multiples of it.
pub(super) const FIRST: u64 = 64 << 10;
/// The largest block.
const LARGEST: u64 = 1 << 20;
/// Blocks that are kept: codecs go back to headers, and forward to tags.
const KEPT: usize = 4;
/// Files up to this size are held as a whole where a server does not give parts of them.
pub(super) const WHOLE: u64 = 64 << 20;

/// An object, in the version that was found when it was opened.
pub(super) struct Object {
    pub(super) client: Client,
    pub(super) key: Key,
    pub(super) address: Address,
    pub(super) patience: Patience,
    pub(super) version: Version,
    pub(super) stat: Stat,
}

/// What tells one version of an object from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    tag: Option<String>,
    size: u64,
    /// In microseconds; where there is no tag.
    modified: i64,
}

impl From<&ObjectMeta> for Version {
    fn from(meta: &ObjectMeta) -> Self {
        let modified = if meta.e_tag.is_some() { 0 } else { meta.last_modified.timestamp_micros() };
        Self { tag: meta.e_tag.clone(), size: meta.size, modified }
    }
}

impl Object {
    /// Fetches a range. A store that looks at `If-Match` refuses where the object has changed; of one that does not, the
    /// answer tells.
    async fn fetch(self: Arc<Self>, start: u64, end: u64) -> Result<Vec<u8>, StoreError> {
        let strong = self.version.tag.clone().filter(|tag| !tag.starts_with("W/"));
        let ask = || {
            let options =
                GetOptions { range: Some((start..end).into()), if_match: strong.clone(), ..GetOptions::default() };
            let object = self.clone();
            async move {
                let answer = object.client.objects.get_opts(&object.key, options).await?;
                if Version::from(&answer.meta) != object.version {
                    let path = object.key.to_string();
                    return Err(Error::Precondition { path, source: "another version".into() });
                }
                Ok(Vec::from(answer.bytes().await?))
            }
        };
        let bytes = self.patience.ask(&self.address, ask).await?;
        if bytes.len() as u64 != end - start {
            let message = format!("asked for {} bytes, the store gave {}", end - start, bytes.len());
            return Err(StoreError::new(&self.address, Problem::Refused, message));
        }
        Ok(bytes)
    }
}

/// Reads an object. Copies have a place of their own in it, and fetch for themselves.
pub struct ObjectReader {
    object: Arc<Object>,
    /// Where the next byte is.
    at: u64,
    /// Nothing is fetched behind this.
    end: u64,
    /// The one that was used last comes last.
    blocks: Vec<Block>,
    ahead: Option<Ahead>,
    fault: Fault,
}

#[derive(Clone)]
struct Block {
    start: u64,
    bytes: Arc<Vec<u8>>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn holds(&self, at: u64) -> bool {
        (self.start..self.end()).contains(&at)
    }
}

/// A block that is on its way.
struct Ahead {
    start: u64,
    end: u64,
    asked: JoinHandle<Result<Vec<u8>, StoreError>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.asked.abort();
    }
}

impl std::fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let address = self.object.address.to_string();
        f.debug_struct("ObjectReader").field("address", &address).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Clone for ObjectReader {
    fn clone(&self) -> Self {
        let (object, blocks) = (self.object.clone(), self.blocks.clone());
        Self { object, at: 0, end: self.end, blocks, ahead: None, fault: Fault::default() }
    }
}

impl ObjectReader {
    /// Of an object whose beginning is known.
    pub(super) fn new(object: Object, beginning: Vec<u8>) -> Self {
        let blocks = vec![Block { start: 0, bytes: Arc::new(beginning) }];
        let end = object.stat.len;
        Self { object: Arc::new(object), at: 0, end, blocks, ahead: None, fault: Fault::default() }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.object.stat.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of the object.
    pub fn stat(&self) -> Stat {
        self.object.stat
    }

    /// What tells whether the store has failed while this was read.
    pub fn fault(&self) -> Fault {
        self.fault.clone()
    }

    /// Reads as if the object ended there.
    pub fn read_no_further_than(&mut self, end: u64) {
        self.end = self.len().min(end);
    }

    /// Drops the blocks, unless they are the whole object.
    pub fn forget(&mut self) {
        let len = self.len();
        self.blocks.retain(|block| block.start == 0 && block.end() == len);
        self.ahead = None;
    }

    /// The block with the byte at `at`, as the last of the blocks.
    fn block(&mut self) -> Result<&Block, StoreError> {
        let at = self.at;
        match self.blocks.iter().position(|block| block.holds(at)) {
            Some(place) => {
                let block = self.blocks.remove(place);
                self.blocks.push(block);
            }
            None => {
                let block = self.next(at)?;
                if self.blocks.len() >= KEPT {
                    self.blocks.remove(0);
                }
                self.blocks.push(block);
            }
        }
        Ok(self.blocks.last().expect("it was just put there"))
    }

    fn next(&mut self, at: u64) -> Result<Block, StoreError> {
        let before = self.blocks.iter().find(|block| block.end() == at && !block.bytes.is_empty());
        let goes_on = before.map(|block| block.bytes.len() as u64);
        let ahead = self.ahead.take();
        let (start, bytes) = match ahead.filter(|ahead| (ahead.start..ahead.end).contains(&at)) {
            Some(mut ahead) => {
                let asked = wait(&mut ahead.asked);
                (ahead.start, asked.expect("a request does not panic")?)
            }
            None => {
                let start = at - at % FIRST;
                let size = goes_on.map_or(FIRST, |size| (2 * size).clamp(FIRST, LARGEST));
                (start, wait(self.object.clone().fetch(start, self.bound(start, size)))?)
            }
        };
        let block = Block { start, bytes: Arc::new(bytes) };
        if goes_on.is_some() && block.end() < self.end && !self.blocks.iter().any(|other| other.holds(block.end())) {
            let (start, size) = (block.end(), (2 * block.bytes.len() as u64).clamp(FIRST, LARGEST));
            let end = self.bound(start, size);
            self.ahead = Some(Ahead { start, end, asked: begin(self.object.clone().fetch(start, end)) });
        }
        Ok(block)
    }

    /// Where a block ends that begins at `start`: before what is there already.
    fn bound(&self, start: u64, size: u64) -> u64 {
        let known = self.blocks.iter().filter(|block| block.start > start && !block.bytes.is_empty());
        let next = known.map(|block| block.start).min().unwrap_or(u64::MAX);
        (start + size).min(next).min(self.end.max(start + 1)).min(self.len())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at >= self.end || buffer.is_empty() {
            return Ok(0);
        }
        if let Some(error) = self.fault.error() {
            return Err(error.into());
        }
        let (at, end) = (self.at, self.end);
        let count = match self.block() {
            Ok(block) => {
                let from = (at - block.start) as usize;
                let to = block.bytes.len().min((end - block.start) as usize);
                let count = buffer.len().min(to - from);
                buffer[..count].copy_from_slice(&block.bytes[from..from + count]);
                count
            }
            Err(error) => {
                self.fault.note(&error);
                return Err(error.into());
            }
        };
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the beginning");
        self.at = at.ok_or_else(before)?;
        Ok(self.at)
    }
}
