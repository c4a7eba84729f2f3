//! Recordings in tar archives, such as the shards of WebDataset: an archive counts as a folder, and its members are read
//! where they lie, without unpacking.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::location::{Content, Handle, Location, Place, Stat};
use super::objects::Stores;
use crate::seed;

/// The extension of archives.
pub const EXTENSION: &str = "tar";

/// The members of an archive, by name. The last one of a name counts, as it does when tar unpacks.
#[derive(Debug)]
pub struct Index {
    members: BTreeMap<String, Place>,
    archive: Handle,
    /// Of the archive.
    stat: Stat,
}

impl Index {
    /// Reads the headers of an archive; what lies between them is skipped.
    ///
    /// # Errors
    /// When it cannot be read, is cut short, or is no plain tar (a compressed one, say).
    pub fn read(location: &Location, stores: &Stores) -> io::Result<Self> {
        let mut archive = location.handle(stores)?;
        let content = archive.open()?;
        let stat = match &archive {
            Handle::File(_) => location.stat(stores)?,
            Handle::Object(reader) => reader.stat(),
        };
        let fault = content.fault();
        let members = headers(content);
        if let Some(error) = fault.and_then(|fault| fault.error()) {
            return Err(error.into());
        }
        archive.forget();
        Ok(Self { members: members?, archive, stat })
    }

    /// The members in the order of their names.
    pub fn members(&self) -> impl Iterator<Item = (&str, Place)> {
        self.members.iter().map(|(name, place)| (name.as_str(), *place))
    }

    /// Where a member lies.
    pub fn place(&self, name: &str) -> Option<Place> {
        self.members.get(name).copied()
    }

    /// What is known of a member without reading it. It counts as changed when the archive does, or its place in it.
    pub fn stat(&self, place: Place) -> Stat {
        Stat { len: place.len, identity: seed::derive(self.stat.identity, &[place.start, place.len]) }
    }

    /// Opens a member.
    ///
    /// # Errors
    /// When there is none of that name, or the archive cannot be read.
    pub fn open(&self, member: &str) -> io::Result<Content> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("the archive has no member `{member}`"));
        self.archive.open_part(self.place(member).ok_or_else(missing)?)
    }
}

fn headers(content: Content) -> io::Result<BTreeMap<String, Place>> {
    let whole = content.len();
    let mut archive = tar::Archive::new(content);
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let place = Place { start: entry.raw_file_position(), len: entry.size() };
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        if place.start.saturating_add(place.len) > whole {
            let message = format!("the archive is cut short in `{name}`");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        members.insert(name, place);
    }
    Ok(members)
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
pub struct Archives(Mutex<HashMap<Location, Arc<Index>>>);

impl Archives {
    /// The index of an archive, read when it is asked for first or its file has changed.
    ///
    /// # Errors
    /// As [`Index::read`].
    pub fn index(&self, archive: &Location, stores: &Stores) -> io::Result<Arc<Index>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(archive).cloned();
        let is_current = |index: &Arc<Index>| match archive {
            Location::File(_) => archive.stat(stores).is_ok_and(|stat| stat == index.stat),
            // Every read asks for the version that the index is of.
            Location::Object(_) => true,
        };
        if let Some(index) = known.filter(is_current) {
            return Ok(index);
        }
        let index = Arc::new(Index::read(archive, stores)?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(archive.clone(), index.clone());
        Ok(index)
    }

    /// Drops what is known of an archive that has turned out to be another one.
    pub fn forget(&self, archive: &Location) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(archive);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, SeekFrom};

    use symphonia::core::io::MediaSource;

    use super::*;

    fn index(path: &Path) -> io::Result<Arc<Index>> {
        Archives::default().index(&Location::File(path.to_owned()), Stores::shared())
    }

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
        let index = index(&path).expect("an archive");
        assert_eq!(
            index.members().map(|(name, place)| (name, place.len)).collect::<Vec<_>>(),
            [("a.flac", 4), (long.as_str(), 10)]
        );
        let mut section = index.open(&long).expect("a member");
        let mut text = String::new();
        section.read_to_string(&mut text).expect("text");
        assert_eq!((text.as_str(), section.byte_len()), ("second one", Some(10)));
        assert_eq!(section.seek(SeekFrom::End(-3)).expect("seek"), 7);
        text.clear();
        section.read_to_string(&mut text).expect("text");
        assert_eq!(text, "one");
        assert!(section.seek(SeekFrom::Current(-11)).is_err());
        assert_eq!(index.open("b.flac").expect_err("none").kind(), io::ErrorKind::NotFound);
        assert_eq!(split(&path.join("a.flac")), Some((path.clone(), "a.flac".to_owned())));
        assert_eq!(split(&path.with_extension("tgz").join("a.flac")), None);
    }

    #[test]
    fn an_archive_that_is_written_anew_is_looked_into_anew() {
        let (_folder, path) = archive(&[("a.flac", b"first")]);
        let (archives, location) = (Archives::default(), Location::File(path.clone()));
        let members = || {
            let index = archives.index(&location, Stores::shared()).expect("an archive");
            index.members().map(|(name, _)| name.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(members(), ["a.flac"]);
        let (_other, other) = archive(&[("b.flac", b"another"), ("c.flac", b"and one")]);
        std::fs::copy(other, &path).expect("a copy");
        assert_eq!(members(), ["b.flac", "c.flac"]);
    }

    #[test]
    fn what_is_cut_short_or_compressed_is_an_error() {
        let (_folder, path) = archive(&[("a.flac", &[7; 4000])]);
        let whole = std::fs::read(&path).expect("bytes");
        std::fs::write(&path, &whole[..2000]).expect("write");
        assert!(index(&path).expect_err("cut").to_string().contains("cut short in `a.flac`"));
        std::fs::write(&path, [&b"\x1f\x8b\x08"[..], &[9; 2000]].concat()).expect("write");
        assert!(index(&path).is_err());
    }
}
