//! `files`: the recordings of a folder, or of a list.
//!
//! Output: [`Track`], one row per file. Files are named by their path below the root, so the same corpus has the same
//! track ids on every machine, wherever it is mounted.

mod identity;
mod listing;
mod params;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Edge, Origin, Track, TrackSpec, column};

use crate::corpus::folder::Selection;
use crate::corpus::manifest::FORMATS;
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{
    Inputs, Operator, Output, Port, Progress, Recording, Scope, Source, Stage, StageContext, StageKind,
};

pub(super) use listing::name;
pub use params::{Duplicates, FilesParams, Identity, Patterns};

/// The recordings of a folder, or of a list.
#[derive(Debug)]
pub struct Files {
    params: FilesParams,
    root: PathBuf,
    selection: Selection,
    schema: SchemaRef,
}

impl StageKind for Files {
    const NAME: &'static str = "files";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "the audio files of a folder, of tar archives, or of a list (CSV, TSV, JSON lines, parquet)";
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
        if let Some(manifest) = &params.manifest {
            let extension = Path::new(manifest).extension().and_then(|extension| extension.to_str());
            if !extension.is_some_and(|extension| FORMATS.contains(&extension)) {
                let message = format!("expected a list that ends in .{}, found `{manifest}`", FORMATS.join(", ."));
                return Err(BindError::param("manifest", message));
            }
            if !(params.include.0.is_empty() && params.exclude.0.is_empty()) {
                let at = if params.include.0.is_empty() { "exclude" } else { "include" };
                let error = BindError::param(at, "a manifest lists the files itself: patterns have no effect on it");
                return Err(error.hint("remove the patterns, or the manifest"));
            }
        }
        let root = match (&params.root, &params.manifest) {
            (Some(root), _) => PathBuf::from(root),
            (None, Some(manifest)) => Path::new(manifest).parent().map(Path::to_owned).unwrap_or_default(),
            (None, None) => return Err(BindError::node("expected `root` or `manifest`, found neither")),
        };
        let root = if root.as_os_str().is_empty() { PathBuf::from(".") } else { root };
        for (name, patterns) in [("include", &params.include), ("exclude", &params.exclude)] {
            Selection::new(&patterns.0, &[]).map_err(|error| BindError::param(name, error.to_string()))?;
        }
        let selection = Selection::new(&params.include.0, &params.exclude.0)
            .map_err(|error| BindError::param("exclude", error.to_string()))?;
        let schema = Track::schema(&TrackSpec { root: root.to_string_lossy().into_owned() });
        Ok(Self { params, root, selection, schema })
    }
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
        match &self.params.manifest {
            Some(manifest) => self.list_manifest(Path::new(manifest), found),
            None => self.list_folder(found),
        }
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
