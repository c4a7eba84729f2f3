//! `files`: the recordings of a folder, or of a list.
//!
//! Output: [`Track`], one row per file. Files are named by their path below the root, so the same corpus has the same
//! track ids on every machine, wherever it is mounted.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Edge, Origin, Split, Track, TrackId, TrackSpec, column};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::corpus::archive::{self, Place, Section};
use crate::corpus::folder::{AUDIO_EXTENSIONS, Selection};
use crate::corpus::manifest::{self, Entry, FORMATS, ManifestError};
use crate::error::{BindError, Rejection, StageError};
use crate::seed;
use crate::stage::{
    Inputs, Operator, Output, Port, Progress, Recording, Scope, Source, Stage, StageContext, StageKind,
};

/// Parameters of [`Files`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesParams {
    /// Folder to search (tar archives in it count as folders), and folder that the paths in `manifest` start from (default then: the folder of the
    /// manifest). A relative path starts from the working directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// A list of the files instead of a search: CSV, TSV, JSON lines or parquet with a column `path` and optionally
    /// `id` (names the track instead of its path), `split` (`train`, `valid` or `test`), `hash` (any hash of the content:
    /// where it stands, the file itself is not looked at to see whether it has changed) and `bytes` (its size).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Patterns of the files to take, such as `["*.flac", "live/**/*.mp3"]`; by default all files with an audio
    /// extension. A pattern without `/` is matched against the file name, one with `/` against the path below
    /// `root`; upper and lower case are the same; names that start with a dot are never taken.
    #[serde(default)]
    pub include: Patterns,
    /// Patterns of files and folders to leave out.
    #[serde(default)]
    pub exclude: Patterns,
    /// Share of the tracks, 0..1, that become split `valid`, unless the manifest says otherwise. Drawn by a hash of
    /// the path, so that a track stays where it is when others come and go.
    #[serde(default)]
    pub valid_fraction: f64,
    /// Share of the tracks, 0..1, that become split `test`.
    #[serde(default)]
    pub test_fraction: f64,
    /// When a file counts as changed.
    #[serde(default)]
    pub identity: Identity,
    /// What becomes of recordings whose content another one has, too. Known with `identity: content`, or where the
    /// manifest has a `hash`.
    #[serde(default)]
    pub duplicates: Duplicates,
}

/// Glob patterns: one, or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(extend("type" = ["array", "string"]))]
pub struct Patterns(pub Vec<String>);

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> de::Visitor<'de> for OneOrMany {
            type Value = Patterns;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a pattern such as `*.flac`, or a list of patterns")
            }
            fn visit_str<E: de::Error>(self, pattern: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![pattern.to_owned()]))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, list: A) -> Result<Patterns, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(list)).map(Patterns)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// When a file counts as changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// When its size or modification time changes.
    #[default]
    Stat,
    /// When its content changes. Every run reads every file, but copies of a corpus share their caches.
    Content,
}

/// What becomes of recordings with one content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// All are used, and the run says that there are some.
    #[default]
    Report,
    /// One of them is used.
    Drop,
}

/// What a list says about a recording besides its path.
#[derive(Debug, Default)]
struct Known {
    split: Option<Split>,
    hash: Option<String>,
    bytes: Option<u64>,
    /// In the archive that it is a member of.
    place: Option<Place>,
}

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

impl Files {
    fn list_folder(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        let root = &self.root;
        if !root.is_dir() {
            let working = std::env::current_dir().map_or(String::new(), |folder| folder.display().to_string());
            let what = if root.exists() { "is not a folder" } else { "does not exist" };
            return Err(StageError::Failed(format!("`{}` {what} (working directory: `{working}`)", root.display())));
        }
        let mut count = 0;
        let mut unreadable: HashMap<String, u64> = HashMap::new();
        let passed = self.selection.search(root, &mut |path, place| {
            count += 1;
            let name = name(path);
            let mut repeat = 0;
            if path.to_str().is_none() {
                let seen = unreadable.entry(name.clone()).or_default();
                repeat = *seen;
                *seen += 1;
            }
            found(self.recording(TrackId::of(&name, repeat), name, &Known { place, ..Known::default() }));
        });
        let passed = passed.map_err(|error| StageError::io(error.path, error.source))?;
        if count > 0 {
            return Ok(());
        }
        let wanted = match self.params.include.0.as_slice() {
            [] => format!("files that end in .{}", AUDIO_EXTENSIONS.join(", .")),
            patterns => format!("files like `{}`", patterns.join("`, `")),
        };
        let seen = if passed.extensions.is_empty() { "no files at all".to_owned() } else { passed.describe() };
        Err(StageError::Failed(format!("no recordings in `{}`: looked for {wanted}; found {seen}", root.display())))
    }

    fn list_manifest(&self, manifest: &Path, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        // The only thing that is held for every line of the list.
        let mut seen: HashMap<TrackId, u32> = HashMap::new();
        let listed = manifest::read(manifest, &mut |entry| {
            let path = Path::new(&entry.path);
            let path = name(path.strip_prefix(&self.root).unwrap_or(path));
            let track_id = match &entry.id {
                Some(id) => TrackId::of(id, 0),
                None => {
                    let first = TrackId::of(&path, 0);
                    match seen.get_mut(&first) {
                        Some(repeats) => {
                            *repeats += 1;
                            TrackId::of(&path, u64::from(*repeats))
                        }
                        None => first,
                    }
                }
            };
            if seen.insert(track_id, 0).is_some() {
                let id = entry.id.as_ref().unwrap_or(&path);
                let first = self.first_line(manifest, track_id, entry.line);
                let message = format!("`{id}` names a track that line {first} names already");
                return Err(ManifestError { path: manifest.to_owned(), line: Some(entry.line), message });
            }
            let Entry { split, hash, bytes, .. } = entry;
            found(self.recording(track_id, path, &Known { split, hash, bytes, place: None }));
            Ok(())
        });
        listed.map_err(|error| StageError::Failed(error.to_string()))?;
        if seen.is_empty() {
            return Err(StageError::Failed(format!("`{}` lists no recordings", manifest.display())));
        }
        Ok(())
    }

    /// The line before `last` that names a track: looked up only where there is something to complain about.
    fn first_line(&self, manifest: &Path, track_id: TrackId, last: u64) -> u64 {
        let mut first = last;
        // It could be read as far as here a moment ago.
        let _read = manifest::read(manifest, &mut |entry| {
            let path = Path::new(&entry.path);
            let path = name(path.strip_prefix(&self.root).unwrap_or(path));
            if TrackId::of(entry.id.as_ref().unwrap_or(&path), 0) == track_id {
                first = first.min(entry.line);
            }
            Ok(())
        });
        first
    }

    /// A file that cannot be looked at has size and identity 0; what is wrong with it is for its reader to say.
    fn recording(&self, track_id: TrackId, path: String, known: &Known) -> Recording {
        let split = known.split.unwrap_or_else(|| self.draw_split(&path));
        if let Some(hash) = &known.hash {
            let (identity, bytes) = (TrackId::of(hash, 0).0, known.bytes.unwrap_or(0));
            return Recording { track_id, path, split, bytes, identity, content: true };
        }
        let file = self.root.join(&path);
        if let Some((archive, member)) = archive::split(&file) {
            return self.member(track_id, path, split, (&archive, &member), known.place);
        }
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
        let bytes = metadata.as_ref().map_or(0, std::fs::Metadata::len);
        let identity = metadata.and_then(|metadata| match self.params.identity {
            Identity::Stat => Some(stat_identity(&metadata)),
            Identity::Content => content_identity(&file).ok(),
        });
        let content = self.params.identity == Identity::Content;
        Recording { track_id, path, split, bytes, identity: identity.unwrap_or(0), content }
    }

    /// A member of an archive. It counts as changed when the archive does, or its place in it.
    fn member(
        &self,
        track_id: TrackId,
        path: String,
        split: Split,
        (archive, member): (&Path, &str),
        place: Option<Place>,
    ) -> Recording {
        let place = place.or_else(|| archive::Index::read(archive).ok()?.place(member));
        let identity = place.and_then(|place| match self.params.identity {
            Identity::Stat => {
                let whole = stat_identity(&archive.metadata().ok()?);
                Some(seed::derive(whole, &[place.start, place.len]))
            }
            Identity::Content => hash_identity(Section::new(File::open(archive).ok()?, place).ok()?).ok(),
        });
        let (bytes, content) = (place.map_or(0, |place| place.len), self.params.identity == Identity::Content);
        Recording { track_id, path, split, bytes, identity: identity.unwrap_or(0), content }
    }

    /// By path, not by id: repeats of a file must not end up on both sides of a split.
    fn draw_split(&self, path: &str) -> Split {
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
pub(super) fn name(path: &Path) -> String {
    let clean: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    clean.to_string_lossy().replace(std::path::MAIN_SEPARATOR, "/")
}

fn stat_identity(metadata: &std::fs::Metadata) -> u64 {
    let (sign, age) = match metadata.modified().map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => (0, after),
        Ok(Err(before)) => (1, before.duration()),
        Err(_) => (2, std::time::Duration::ZERO),
    };
    seed::derive(metadata.len(), &[sign, age.as_secs(), u64::from(age.subsec_nanos())])
}

fn content_identity(path: &Path) -> std::io::Result<u64> {
    hash_identity(File::open(path)?)
}

fn hash_identity(content: impl std::io::Read) -> std::io::Result<u64> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(content)?;
    let hash = hasher.finalize();
    Ok(u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")))
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn bind(params: Value) -> Result<Files, BindError> {
        Files::bind(serde_json::from_value(params).expect("params"), &Inputs::new(Vec::new()))
    }

    fn list(params: Value) -> Result<Vec<Recording>, String> {
        let mut recordings = Vec::new();
        let listed = bind(params).expect("bind").list(&mut |recording| recordings.push(recording));
        listed.map(|()| recordings).map_err(|error| error.to_string())
    }

    fn corpus(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("folder");
        for (file, content) in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
            std::fs::write(path, content).expect("write");
        }
        folder
    }

    #[test]
    fn the_same_corpus_elsewhere_has_the_same_ids() {
        let (here, there) =
            (corpus(&[("x/a.wav", "1"), ("b.mp3", "22")]), corpus(&[("x/a.wav", "1"), ("b.mp3", "22")]));
        let params = |root: &tempfile::TempDir| json!({"root": root.path(), "identity": "content"});
        let recordings = list(params(&here)).expect("list");
        assert_eq!(recordings, list(params(&there)).expect("list"));
        let summary: Vec<_> = recordings.iter().map(|r| (r.path.as_str(), r.bytes, r.track_id)).collect();
        assert_eq!(summary, [("b.mp3", 2, TrackId::of("b.mp3", 0)), ("x/a.wav", 1, TrackId::of("x/a.wav", 0))]);
        std::fs::write(there.path().join("b.mp3"), "23").expect("write");
        let changed = list(params(&there)).expect("list");
        assert_ne!(changed[0].identity, recordings[0].identity);
        assert_eq!(changed[1], recordings[1]);
    }

    #[test]
    fn splits_come_in_the_asked_shares_and_do_not_move_when_shares_grow() {
        let bound =
            |valid: f64| bind(json!({"root": ".", "valid_fraction": valid, "test_fraction": 0.1})).expect("bind");
        let count =
            |files: &Files, split| (0..10_000).filter(|i| files.draw_split(&format!("{i}.wav")) == split).count();
        let small = bound(0.1);
        assert!((900..1100).contains(&count(&small, Split::Valid)), "{}", count(&small, Split::Valid));
        assert!((900..1100).contains(&count(&small, Split::Test)), "{}", count(&small, Split::Test));
        let large = bound(0.3);
        let valid = |files: &Files, i: u32| files.draw_split(&format!("{i}.wav")) == Split::Valid;
        assert!((0..1000).all(|i| !valid(&small, i) || valid(&large, i)));
    }

    #[test]
    fn a_manifest_names_splits_and_repeats_tracks() {
        let manifest = "path,split,id\n./x//a.wav,test,\nx/a.wav,,\nb.wav,valid,beta\ngone.wav,train,\n";
        let folder = corpus(&[("x/a.wav", "1"), ("b.wav", "22"), ("list.csv", manifest)]);
        let recordings = list(json!({"manifest": folder.path().join("list.csv")})).expect("list");
        let summary: Vec<_> = recordings.iter().map(|r| (r.path.as_str(), r.split, r.bytes)).collect();
        let expected = [
            ("x/a.wav", Split::Test, 1),
            ("x/a.wav", Split::Train, 1),
            ("b.wav", Split::Valid, 2),
            ("gone.wav", Split::Train, 0),
        ];
        assert_eq!(summary, expected);
        assert_eq!(recordings[0].track_id, TrackId::of("x/a.wav", 0));
        assert_eq!(recordings[1].track_id, TrackId::of("x/a.wav", 1));
        assert_eq!(recordings[2].track_id, TrackId::of("beta", 0));
    }

    #[test]
    fn absolute_entries_below_the_root_are_named_as_relative_ones() {
        let folder = corpus(&[("x/a.wav", "1")]);
        let manifest = folder.path().join("list.tsv");
        std::fs::write(&manifest, format!("path\n{}\n", folder.path().join("x/a.wav").display())).expect("write");
        let recordings = list(json!({"manifest": manifest})).expect("list");
        assert_eq!((recordings[0].path.as_str(), recordings[0].bytes), ("x/a.wav", 1));
    }

    #[test]
    fn a_repeated_id_is_refused_with_both_lines() {
        let folder = corpus(&[("list.csv", "path,id\na.wav,1\nb.wav,2\nc.wav,1\n")]);
        let error = list(json!({"manifest": folder.path().join("list.csv")})).expect_err("repeat");
        assert!(error.ends_with("list.csv`, line 4: `1` names a track that line 2 names already"), "{error}");
    }

    #[test]
    fn an_empty_result_says_what_was_looked_for_and_what_was_found() {
        let folder = corpus(&[("a.txt", ""), ("b.txt", ""), ("c.jpg", ""), ("README", "")]);
        let error = list(json!({"root": folder.path()})).expect_err("no audio");
        assert!(error.contains(".flac,") && error.ends_with("found 2 .txt, 1 without extension, 1 .jpg"), "{error}");
        let error = list(json!({"root": folder.path(), "include": "*.wav"})).expect_err("no audio");
        assert!(error.contains("looked for files like `*.wav`"), "{error}");
        let error = list(json!({"root": folder.path().join("nowhere")})).expect_err("no folder");
        assert!(error.contains("does not exist (working directory: `/"), "{error}");
    }

    #[test]
    fn what_cannot_work_is_refused_when_bound() {
        let error = |params| bind(params).expect_err("refused").message;
        assert_eq!(error(json!({})), "expected `root` or `manifest`, found neither");
        assert!(error(json!({"root": "x", "valid_fraction": 1.5})).contains("between 0 and 1, found 1.5"));
        assert!(error(json!({"root": "x", "valid_fraction": 0.6, "test_fraction": 0.6})).contains("add up to 1.2"));
        assert!(error(json!({"root": "x", "include": ["a[.wav"]})).contains("a[.wav"));
        assert!(error(json!({"manifest": "list.xlsx"})).contains("expected a list that ends in .csv"));
        assert!(error(json!({"manifest": "list.csv", "exclude": "x"})).contains("patterns have no effect"));
    }

    #[cfg(unix)]
    #[test]
    fn names_that_are_not_utf8_become_rejects() {
        use std::os::unix::ffi::OsStrExt;
        struct Rejects(Vec<(TrackId, Rejection)>);
        impl Output for Rejects {
            fn emit(&mut self, _: RecordBatch) {}
            fn reject(&mut self, track: TrackId, reason: Rejection) {
                self.0.push((track, reason));
            }
        }
        let folder = corpus(&[]);
        for name in [b"\xff.wav", b"\xfe.wav"] {
            std::fs::write(folder.path().join(std::ffi::OsStr::from_bytes(name)), "1").expect("write");
        }
        let recordings = list(json!({"root": folder.path()})).expect("list");
        assert_eq!(recordings.len(), 2);
        assert_ne!(recordings[0].track_id, recordings[1].track_id);
        let files = bind(json!({"root": folder.path()})).expect("bind");
        let origin = Origin { track_id: recordings[0].track_id, path: recordings[0].path.clone(), split: Split::Train };
        let mut columns = origin.columns(1);
        columns.push(std::sync::Arc::new(UInt64Array::from(vec![recordings[0].bytes])));
        let batch = RecordBatch::try_new(files.output(), columns).expect("batch");
        let mut rejects = Rejects(Vec::new());
        let mut operator = files.start(&StageContext::detached("tracks")).expect("start");
        assert_eq!(operator.push(0, &batch, &mut rejects).expect("push"), Progress::Idle);
        assert_eq!(rejects.0[0].1.class, "io");
    }
}
