//! Where bytes come from: a file, an object of a store, or a member of an archive that is one of them.
//!
//! A [`Location`] says where; a [`Handle`] is what was found there, one version of it; [`Content`] reads it.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use symphonia::core::io::MediaSource;

use super::address::{Address, AddressError};
use super::archive;
use super::objects::{Fault, ObjectReader, StoreError, Stores};
use crate::seed;

/// A file, or an object of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Location {
    /// On a disk of this machine.
    File(PathBuf),
    /// In an object store, or on the web.
    Object(Address),
}

/// What is known without reading.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub len: u64,
    /// Changes when the content does: of size and modification time of a file, of size and `ETag` of an object.
    pub identity: u64,
}

/// Something that can be read from its beginning any number of times, always the same version where the store can tell.
#[derive(Debug, Clone)]
pub enum Handle {
    /// A file.
    File(PathBuf),
    /// An object; its copies share what was read when it was opened.
    Object(ObjectReader),
}

/// Where a member lies in its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of its first byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The bytes of a file or an object, or of a part of one.
#[derive(Debug)]
pub struct Content {
    whole: Whole,
    place: Place,
    at: u64,
}

#[derive(Debug)]
enum Whole {
    File(File),
    Object(ObjectReader),
}

impl Location {
    /// From a path or an address.
    ///
    /// # Errors
    /// When it has a scheme and is no address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        if Address::is_one(text) { Address::parse(text).map(Self::Object) } else { Ok(Self::File(PathBuf::from(text))) }
    }

    /// What is called `name` below this one; `name` alone if it is an address or an absolute path.
    ///
    /// # Errors
    /// As [`Location::parse`].
    pub fn join(&self, name: &str) -> Result<Self, AddressError> {
        match self {
            _ if Address::is_one(name) => Self::parse(name),
            Self::File(folder) => Ok(Self::File(folder.join(name))),
            Self::Object(_) if Path::new(name).is_absolute() => Ok(Self::File(PathBuf::from(name))),
            Self::Object(folder) => folder.join(name).map(Self::Object),
        }
    }

    /// Without the last part.
    #[must_use]
    pub fn parent(&self) -> Self {
        match self {
            Self::File(path) => Self::File(path.parent().map(Path::to_owned).unwrap_or_default()),
            Self::Object(address) => Self::Object(address.parent()),
        }
    }

    /// The part after the last dot of the name.
    pub fn extension(&self) -> Option<&str> {
        match self {
            Self::File(path) => path.extension().and_then(|extension| extension.to_str()),
            Self::Object(address) => address.extension(),
        }
    }

    /// The archive that it is in, and the name of the member.
    pub fn in_archive(&self) -> Option<(Self, String)> {
        match self {
            Self::File(path) => archive::split(path).map(|(archive, member)| (Self::File(archive), member)),
            Self::Object(address) => {
                let text = address.to_string();
                let ends =
                    text.match_indices('/').map(|(at, _)| at).filter(|&at| archive::is_archive(Path::new(&text[..at])));
                let end = ends.into_iter().next()?;
                let archive = Address::parse(&text[..end]).ok()?;
                Some((Self::Object(archive), text[end + 1..].to_owned()))
            }
        }
    }

    /// What is known without reading.
    ///
    /// # Errors
    /// When there is no such file or object, or it cannot be looked at.
    pub fn stat(&self, stores: &Stores) -> io::Result<Stat> {
        match self {
            Self::File(path) => {
                let metadata = path.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
                }
                Ok(Stat { len: metadata.len(), identity: stat_identity(&metadata) })
            }
            Self::Object(address) => Ok(stores.stat(address)?),
        }
    }

    /// Opens it.
    ///
    /// # Errors
    /// When an object cannot be read; a file says so when it is read.
    pub fn handle(&self, stores: &Stores) -> io::Result<Handle> {
        Ok(match self {
            Self::File(path) => Handle::File(path.clone()),
            Self::Object(address) => Handle::Object(stores.open(address)?),
        })
    }
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Object(address) => write!(f, "{address}"),
        }
    }
}

impl Handle {
    /// Reads from the beginning.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open(&self) -> io::Result<Content> {
        match self {
            Self::File(path) => Content::of_file(File::open(path)?),
            Self::Object(reader) => {
                let place = Place { start: 0, len: reader.len() };
                Ok(Content { whole: Whole::Object(reader.clone()), place, at: 0 })
            }
        }
    }

    /// Reads a part.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn open_part(&self, place: Place) -> io::Result<Content> {
        let mut content = self.open()?;
        content.place = place;
        if let Whole::Object(reader) = &mut content.whole {
            reader.read_no_further_than(place.start + place.len);
        }
        content.seek(SeekFrom::Start(0))?;
        Ok(content)
    }

    /// Drops what was read when it was opened: for those that are kept for long.
    pub fn forget(&mut self) {
        if let Self::Object(reader) = self {
            reader.forget();
        }
    }
}

impl Content {
    fn of_file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { whole: Whole::File(file), place: Place { start: 0, len }, at: 0 })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.place.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What tells whether a store has failed while this was read: codecs take a failure for the end, or for damage.
    pub fn fault(&self) -> Option<Fault> {
        match &self.whole {
            Whole::File(_) => None,
            Whole::Object(reader) => Some(reader.fault()),
        }
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.place.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = match &mut self.whole {
            Whole::File(file) => file.read(&mut buffer[..wanted])?,
            Whole::Object(reader) => reader.read(&mut buffer[..wanted])?,
        };
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.place.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the beginning");
        let at = at.ok_or_else(before)?;
        let in_whole = SeekFrom::Start(self.place.start.saturating_add(at));
        match &mut self.whole {
            Whole::File(file) => file.seek(in_whole)?,
            Whole::Object(reader) => reader.seek(in_whole)?,
        };
        self.at = at;
        Ok(at)
    }
}

impl MediaSource for Content {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.place.len)
    }
}

/// Of size and modification time.
fn stat_identity(metadata: &Metadata) -> u64 {
    let (sign, age) = match metadata.modified().map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => (0, after),
        Ok(Err(before)) => (1, before.duration()),
        Err(_) => (2, Duration::ZERO),
    };
    seed::derive(metadata.len(), &[sign, age.as_secs(), u64::from(age.subsec_nanos())])
}

/// What a store said, if an error of reading comes from one.
pub fn store_error(error: &io::Error) -> Option<&StoreError> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_below_files_and_objects() {
        let join =
            |root: &str, name: &str| Location::parse(root).expect("a place").join(name).expect("a name").to_string();
        assert_eq!(join("music", "a.wav"), "music/a.wav");
        assert_eq!(join("s3://b/music", "x/a.wav"), "s3://b/music/x/a.wav");
        assert_eq!(join("music", "s3://b/a.wav"), "s3://b/a.wav");
        assert_eq!(join("s3://b/music", "/data/a.wav"), "/data/a.wav");
    }

    #[test]
    fn members_of_archives_in_stores_are_known_by_their_names() {
        let split = |text: &str| Location::parse(text).expect("a place").in_archive();
        let (archive, member) = split("s3://b/shards/000.tar/x/a.flac").expect("a member");
        assert_eq!((archive.to_string().as_str(), member.as_str()), ("s3://b/shards/000.tar", "x/a.flac"));
        assert_eq!(split("s3://b/shards/000.tar"), None);
        assert_eq!(split("s3://b/a.flac"), None);
    }
}
