//! Recordings in tar archives, such as the shards of WebDataset: an archive counts as a folder, and its members are read
//! where they lie, without unpacking.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use symphonia::core::io::MediaSource;

/// The extension of archives.
pub const EXTENSION: &str = "tar";

/// Where a member lies in its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of its first byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The members of an archive, by name. The last one of a name counts, as it does when tar unpacks.
#[derive(Debug, Default)]
pub struct Index(BTreeMap<String, Place>);

impl Index {
    /// Reads the headers of an archive; what lies between them is skipped.
    ///
    /// # Errors
    /// When it cannot be read, is cut short, or is no plain tar (a compressed one, say).
    pub fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let whole = file.metadata()?.len();
        let mut archive = tar::Archive::new(file);
        let mut members = BTreeMap::new();
        for entry in archive.entries_with_seek()? {
            let entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let place = Place { start: entry.raw_file_position(), len: entry.size() };
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
            if place.start + place.len > whole {
                let message = format!("the archive is cut short in `{name}`");
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
            }
            members.insert(name, place);
        }
        Ok(Self(members))
    }

    /// The members in the order of their names.
    pub fn members(&self) -> impl Iterator<Item = (&str, Place)> {
        self.0.iter().map(|(name, place)| (name.as_str(), *place))
    }

    /// Where a member lies.
    pub fn place(&self, name: &str) -> Option<Place> {
        self.0.get(name).copied()
    }
}

/// Splits `shards/a.tar/songs/b.flac` into the archive and the name of the member, if the former is a file.
pub fn split(path: &Path) -> Option<(PathBuf, String)> {
    let archive = path.ancestors().skip(1).find(|folder| is_archive(folder) && folder.is_file())?;
    let member = path.strip_prefix(archive).ok()?.to_str()?.replace(std::path::MAIN_SEPARATOR, "/");
    Some((archive.to_owned(), member))
}

/// Whether a file is an archive by its name.
pub fn is_archive(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(EXTENSION))
}

/// The indices of archives that members were read from.
#[derive(Debug, Default)]
pub struct Archives(Mutex<HashMap<PathBuf, Arc<Index>>>);

impl Archives {
    /// Opens a member of an archive.
    ///
    /// # Errors
    /// When the archive cannot be read, or has no such member.
    pub fn open(&self, archive: &Path, member: &str) -> io::Result<Section> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(archive).cloned();
        let index = match known {
            Some(index) => index,
            None => {
                let index = Arc::new(Index::read(archive)?);
                self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(archive.to_owned(), index.clone());
                index
            }
        };
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the archive has no member `{member}`"));
        Section::new(File::open(archive)?, index.place(member).ok_or_else(missing)?)
    }
}

/// A part of a file, as if it were one.
#[derive(Debug)]
pub struct Section {
    file: File,
    place: Place,
    at: u64,
}

impl Section {
    /// The part of a file that lies there.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn new(mut file: File, place: Place) -> io::Result<Self> {
        file.seek(SeekFrom::Start(place.start))?;
        Ok(Self { file, place, at: 0 })
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.place.len.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = self.file.read(&mut buffer[..wanted])?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.place.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "a place before the beginning");
        let at = at.ok_or_else(before)?;
        self.file.seek(SeekFrom::Start(self.place.start + at))?;
        self.at = at;
        Ok(at)
    }
}

impl MediaSource for Section {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.place.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("x.tar");
        let mut builder = tar::Builder::new(File::create(&path).expect("file"));
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *content).expect("append");
        }
        builder.into_inner().expect("finish");
        (folder, path)
    }

    #[test]
    fn members_are_read_where_they_lie() {
        let long = format!("{}/deep.wav", "folder".repeat(30));
        let (_folder, path) = archive(&[("a.flac", b"first"), (&long, b"second one"), ("a.flac", b"last")]);
        let index = Index::read(&path).expect("an archive");
        assert_eq!(
            index.members().map(|(name, place)| (name, place.len)).collect::<Vec<_>>(),
            [("a.flac", 4), (long.as_str(), 10)]
        );
        let archives = Archives::default();
        let mut section = archives.open(&path, &long).expect("a member");
        let mut text = String::new();
        section.read_to_string(&mut text).expect("text");
        assert_eq!((text.as_str(), section.byte_len()), ("second one", Some(10)));
        assert_eq!(section.seek(SeekFrom::End(-3)).expect("seek"), 7);
        text.clear();
        section.read_to_string(&mut text).expect("text");
        assert_eq!(text, "one");
        assert!(section.seek(SeekFrom::Current(-11)).is_err());
        assert_eq!(archives.open(&path, "b.flac").expect_err("none").kind(), io::ErrorKind::NotFound);
        assert_eq!(split(&path.join("a.flac")), Some((path.clone(), "a.flac".to_owned())));
        assert_eq!(split(&path.with_extension("tgz").join("a.flac")), None);
    }

    #[test]
    fn what_is_cut_short_or_compressed_is_an_error() {
        let (_folder, path) = archive(&[("a.flac", &[7; 4000])]);
        let whole = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, &whole[..2000]).expect("write");
        assert!(Index::read(&path).expect_err("cut").to_string().contains("cut short in `a.flac`"));
        std::fs::write(&path, [&b"\x1f\x8b\x08"[..], &[9; 2000]].concat()).expect("write");
        assert!(Index::read(&path).is_err());
    }
}
