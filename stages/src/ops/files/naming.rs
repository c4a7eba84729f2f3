//! What a recording is called, what it is used for, and when it counts as changed.

use std::io;
use std::path::{Component, Path, PathBuf};

use omar_schemas::{Split, TrackId};

use super::identity::hash_identity;
use super::{Files, Identity};
use crate::corpus::address::Address;
use crate::corpus::location::{Location, Stat};
use crate::corpus::objects::Stores;
use crate::seed;
use crate::stage::Recording;

/// What is known about a recording besides its path.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) split: Option<Split>,
    pub(super) hash: Option<String>,
    pub(super) bytes: Option<u64>,
    /// What a listing has said.
    pub(super) stat: Option<Stat>,
}

impl Files {
    /// What a path or an address is called in the corpus: its path below the root, or itself.
    pub(super) fn name_of(&self, path: &str) -> String {
        if Address::is_one(path) {
            let Ok(address) = Address::parse(path) else { return path.to_owned() };
            return match &self.root {
                Location::Object(root) => root.below(&address).unwrap_or_else(|| address.to_string()),
                Location::File(_) => address.to_string(),
            };
        }
        let path = Path::new(path);
        match &self.root {
            Location::File(root) => name(path.strip_prefix(root).unwrap_or(path)),
            Location::Object(_) => name(path),
        }
    }

    /// A file that cannot be looked at has size and identity 0; what is wrong with it is for its reader to say.
    pub(super) fn recording(&self, track_id: TrackId, path: String, known: &Known) -> Recording {
        let split = known.split.unwrap_or_else(|| self.draw_split(&path));
        if let Some(hash) = &known.hash {
            let (identity, bytes) = (TrackId::of(hash, 0).0, known.bytes.unwrap_or(0));
            return Recording { track_id, path, split, bytes, identity, content: true };
        }
        let content = self.params.identity == Identity::Content;
        let seen = known.stat.map_or_else(|| self.look(&path), Ok);
        let seen = seen.map(|stat| {
            let identity = if content { self.hash(&path).unwrap_or(0) } else { stat.identity };
            Stat { identity, ..stat }
        });
        let Stat { len: bytes, identity } = seen.unwrap_or_default();
        Recording { track_id, path, split, bytes, identity, content }
    }

    /// What is known of a recording without reading it.
    fn look(&self, path: &str) -> io::Result<Stat> {
        let location = self.root.join(path).map_err(io::Error::other)?;
        let stores = Stores::shared();
        let Some((archive, member)) = location.in_archive() else { return location.stat(stores) };
        let index = self.archives.index(&archive, stores)?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        Ok(index.stat(index.place(&member).ok_or_else(missing)?))
    }

    fn hash(&self, path: &str) -> io::Result<u64> {
        let location = self.root.join(path).map_err(io::Error::other)?;
        let stores = Stores::shared();
        match location.in_archive() {
            Some((archive, member)) => hash_identity(self.archives.index(&archive, stores)?.open(&member)?),
            None => hash_identity(location.handle(stores)?.open()?),
        }
    }

    /// By path, not by id: repeats of a file must not end up on both sides of a split.
    pub(super) fn draw_split(&self, path: &str) -> Split {
        if self.params.test_fraction + self.params.valid_fraction == 0.0 {
            return Split::Train;
        }
        let draw = seed::Random::new(seed::derive_named(TrackId::of(path, 0).0, "split"), &[]).uniform();
        if draw < self.params.test_fraction {
            Split::Test
        } else if draw < self.params.test_fraction + self.params.valid_fraction {
            Split::Valid
        } else {
            Split::Train
        }
    }
}

/// The path with `/` between its parts and nothing superfluous.
pub(in crate::ops) fn name(path: &Path) -> String {
    let clean: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    clean.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
}
