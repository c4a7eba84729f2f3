//! `files`: the recordings of a folder, of an object store, or of a list.
//!
//! Output: [`Track`], one row per file. Files are named by their path below the root, so the same corpus has the same
//! track ids on every machine, wherever it is mounted, and in a store. `places` searches folders and stores, `lists` reads
//! lists, and `naming` makes a recording of what they find.

mod identity;
mod lists;
mod naming;
mod params;
mod places;

#[cfg(test)]
mod tests;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Edge, Origin, Track, TrackSpec, column};

use crate::corpus::address::Address;
use crate::corpus::archive::Archives;
use crate::corpus::folder::Selection;
use crate::corpus::location::Location;
use crate::corpus::manifest::FORMATS;
use crate::corpus::objects::{AVAILABLE, Stores, UNAVAILABLE};
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{
    Inputs, Operator, Output, Port, Progress, Reach, Recording, Scope, Source, Stage, StageContext, StageKind,
};

pub(super) use naming::name;
pub use params::{Duplicates, FilesParams, Identity, Patterns};

/// The recordings of a folder, of an object store, or of a list.
#[derive(Debug)]
pub struct Files {
    params: FilesParams,
    root: Location,
    manifest: Option<Location>,
    selection: Selection,
    schema: SchemaRef,
    archives: Archives,
}

impl StageKind for Files {
    const NAME: &'static str = "files";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "the audio files of a folder, of tar archives, of an object store, or of a list (CSV, TSV, JSON lines, parquet)";
    const EXAMPLE: &'static str = "{stage: files, params: {root: music, valid_fraction: 0.1}}";
    const SCOPE: Scope = Scope::Source;
    const INPUTS: &'static [&'static str] = &[];
    type Params = FilesParams;

    fn bind(params: FilesParams, _: &Inputs<'_>) -> Result<Self, BindError> {
        for (name, fraction) in [("valid_fraction", params.valid_fraction), ("test_fraction", params.test_fraction)] {
            if !(0.0..=1.0).contains(&fraction) {
                return Err(BindError::param(name, format!("expected a share between 0 and 1, found {fraction}")));
            }
        }
        if params.valid_fraction + params.test_fraction > 1.0 {
            let sum = params.valid_fraction + params.test_fraction;
            return Err(BindError::param("test_fraction", format!("the shares for valid and test add up to {sum}")));
        }
        let manifest = params.manifest.as_deref().map(|manifest| place("manifest", manifest)).transpose()?;
        if let Some(manifest) = &manifest {
            if !manifest.extension().is_some_and(|extension| FORMATS.contains(&extension)) {
                let message = format!("expected a list that ends in .{}, found `{manifest}`", FORMATS.join(", ."));
                return Err(BindError::param("manifest", message));
            }
            if !params.paths.is_empty() {
                let error = BindError::param("paths", "a manifest lists the files itself: there is nothing to search");
                return Err(error.hint("remove the paths, or the manifest"));
            }
            if !(params.include.0.is_empty() && params.exclude.0.is_empty()) {
                let at = if params.include.0.is_empty() { "exclude" } else { "include" };
                let error = BindError::param(at, "a manifest lists the files itself: patterns have no effect on it");
                return Err(error.hint("remove the patterns, or the manifest"));
            }
        }
        for (index, path) in params.paths.iter().enumerate() {
            if path.is_empty() {
                return Err(BindError::param("paths", "expected a path or an address, found an empty one"));
            }
            place(&format!("paths.{index}"), path)?;
        }
        let root = match (&params.root, &manifest) {
            (Some(root), _) => place("root", root)?,
            (None, Some(manifest)) => manifest.parent(),
            (None, None) if !params.paths.is_empty() => Location::File(".".into()),
            (None, None) => return Err(BindError::node("expected `root`, `paths` or `manifest`, found none of them")),
        };
        let root = if root == Location::File("".into()) { Location::File(".".into()) } else { root };
        if let (Location::Object(address), true) = (&root, manifest.is_none() && params.paths.is_empty())
            && !address.scheme().lists()
        {
            let error = BindError::param("root", format!("`{address}`: the web has no listing"));
            return Err(error.hint("name single addresses (`paths: [...]`), or a list of them (`manifest: ...`)"));
        }
        for (name, patterns) in [("include", &params.include), ("exclude", &params.exclude)] {
            Selection::new(&patterns.0, &[]).map_err(|error| BindError::param(name, error.to_string()))?;
        }
        let selection = Selection::new(&params.include.0, &params.exclude.0)
            .map_err(|error| BindError::param("exclude", error.to_string()))?;
        let schema = Track::schema(&TrackSpec { root: root.to_string() });
        Ok(Self { params, root, manifest, selection, schema, archives: Archives::default() })
    }
}

/// What a parameter names.
fn place(param: &str, text: &str) -> Result<Location, BindError> {
    let place = Location::parse(text).map_err(|error| BindError::param(param, error.to_string()))?;
    if matches!(place, Location::Object(_)) && !AVAILABLE {
        let (message, hint) = UNAVAILABLE.split_once(": ").unwrap_or((UNAVAILABLE, ""));
        return Err(BindError::param(param, format!("`{place}`: {message}")).hint(hint));
    }
    Ok(place)
}

impl Stage for Files {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        Ok(Box::new(PassOn))
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }
}

impl Source for Files {
    fn list(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        match &self.manifest {
            Some(manifest) => self.list_manifest(manifest, found),
            None => self.list_places(found),
        }
    }

    fn reach(&self) -> Vec<Reach> {
        let paths = self.params.paths.iter().filter_map(|path| self.root.join(path).ok());
        let named: Vec<Location> = self.manifest.iter().cloned().chain(paths).collect();
        let mut places = if named.is_empty() { vec![self.root.clone()] } else { named };
        // A thousand single addresses tell no more than the first of each store.
        let mut stores: Vec<(_, String)> = Vec::new();
        places.retain(|place| match place {
            Location::File(_) => false,
            Location::Object(address) => {
                let store = (address.scheme(), address.authority().to_owned());
                let is_new = !stores.contains(&store);
                stores.push(store);
                is_new
            }
        });
        let addresses = places.iter().filter_map(|place| Address::parse(&place.to_string()).ok());
        let reach = |address: Address| Reach {
            place: address.to_string(),
            found: Stores::shared().reach(&address).map_err(|error| error.message),
        };
        addresses.map(reach).collect()
    }

    fn drops_duplicates(&self) -> bool {
        self.params.duplicates == Duplicates::Drop
    }
}

/// Hands track rows on.
struct PassOn;

impl Operator for PassOn {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        for row in 0..batch.num_rows() {
            let origin = Origin::read(batch, row)?;
            let bytes = column::<UInt64Array>(batch, "bytes")?.value(row);
            if bytes == 0 && origin.path.contains(char::REPLACEMENT_CHARACTER) {
                let message = "its name is not valid UTF-8: rename it";
                out.reject(origin.track_id, Rejection::new("io", message));
                return Ok(Progress::Idle);
            }
        }
        out.emit(batch.clone());
        Ok(Progress::Idle)
    }
}
