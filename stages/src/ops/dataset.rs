//! `dataset`: what is said about recordings, from data sets as their authors publish them.
//!
//! Output edge `label`: a row per statement. Layouts and their parameters are those of [`crate::dataset`]. Recordings are
//! named by the path of their audio below `root`, as the `files` node that lists the audio names them: there the two
//! meet. So embeddings know nothing of labels and splits, and one cache of them serves every task; and where an annotation
//! changes, labels alone do.
//!
//! Several data sets may stand in one node, to train on one and test on another. Where a set is split several times,
//! `fold: all` gives every recording its split in each of the folds, and a probe runs them one after the other. What is wrong with them (audio that is
//! missing, lines that say nothing, recordings in two splits) is written to `dataset.json` in the folder of the node.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Float64Array, RecordBatch, StringArray};
use arrow::datatypes::SchemaRef;
use omar_schemas::{Edge, Labels, LabelsSpec, Origin, Split, TrackId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::files::name;
use crate::dataset::{self, DatasetParams, Folded, Leak, Problem, ProblemKind, Shared, Task, Track};
use crate::error::{BindError, StageError};
use crate::score::chord::Chord;
use crate::stage::{
    Inputs, Operator, Output, Port, Progress, Recording, Scope, Source, Stage, StageContext, StageKind,
};
use crate::storage::durable::write_durably;

/// Name of the description in the folder of a node.
pub const DATASET_FILE: &str = "dataset.json";
/// Problems that are listed there in full.
const LISTED: usize = 1000;

/// Parameters of `dataset`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatasetStageParams {
    /// Folder that the paths of recordings start from: the `root` of the `files` node that lists their audio.
    pub root: PathBuf,
    /// The data sets.
    pub sets: Vec<DatasetParams>,
}

/// Labels of data sets.
#[derive(Debug)]
pub struct Dataset {
    params: DatasetStageParams,
    schema: SchemaRef,
    /// Folds, where there are several.
    folds: Option<u32>,
    opened: Mutex<Option<Arc<Opened>>>,
}

/// The data sets, read.
#[derive(Debug)]
struct Opened {
    /// With their splits in every fold.
    tracks: HashMap<TrackId, (Track, Vec<Option<Split>>)>,
    listed: Vec<Recording>,
    description: serde_json::Value,
}

impl StageKind for Dataset {
    const NAME: &'static str = "dataset";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "what is said about recordings, from MagnaTagATune, NSynth, Harmonix, GTZAN, chord labs and others";
    const EXAMPLE: &'static str = "{stage: dataset, params: {root: data/nsynth, sets: [{layout: nsynth, task: pitch, audio: data/nsynth, annotations: data/nsynth}]}}";
    const SCOPE: Scope = Scope::Source;
    const INPUTS: &'static [&'static str] = &[];
    type Params = DatasetStageParams;

    fn bind(params: DatasetStageParams, _: &Inputs<'_>) -> Result<Self, BindError> {
        let Some(first) = params.sets.first() else {
            return Err(BindError::param("sets", "expected at least one data set, found none"));
        };
        for (index, set) in params.sets.iter().enumerate() {
            set.check().map_err(|error| BindError::param(format!("sets.{index}"), error.to_string()))?;
            if set.task != first.task {
                let [first, found] = [first.task, set.task].map(Task::as_str);
                let message = format!("expected `{first}` as in the first data set, found `{found}`");
                return Err(BindError::param(format!("sets.{index}.task"), message));
            }
        }
        let mut layouts: Vec<&str> = params.sets.iter().map(|set| set.layout.as_str()).collect();
        layouts.dedup();
        // The tags and their order are constants of the edge: they are what the annotations list.
        let classes = if first.task == Task::Tagging { tags(&params.sets)? } else { None };
        let folds = folds(&params.sets)?;
        let spec = LabelsSpec { task: first.task.as_str().to_owned(), dataset: layouts.join("+"), classes, folds };
        Ok(Self { schema: Labels::schema(&spec), params, folds, opened: Mutex::default() })
    }
}

/// How many folds the sets have, which must be equally many in all that are to be run in all folds.
fn folds(sets: &[DatasetParams]) -> Result<Option<u32>, BindError> {
    let mut folds = None;
    for (index, set) in sets.iter().enumerate() {
        let refused = |message: String| BindError::param(format!("sets.{index}.fold"), message);
        let own = set.folds().map_err(|error| refused(error.to_string()))?;
        match (folds, own) {
            (Some(folds), Some(own)) if folds != own => {
                return Err(refused(format!("expected {folds} folds as in the data sets before it, found {own}")));
            }
            _ => folds = folds.or(own),
        }
    }
    Ok(folds)
}

/// The tags of all sets, in the order in which they list them.
fn tags(sets: &[DatasetParams]) -> Result<Option<Vec<String>>, BindError> {
    let mut tags: Vec<String> = Vec::new();
    for (index, set) in sets.iter().enumerate() {
        let read = set.open().map_err(|error| BindError::param(format!("sets.{index}"), error.to_string()))?;
        let Some(classes) = read.classes else { return Ok(None) };
        classes.into_iter().for_each(|tag| {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        });
    }
    Ok(Some(tags))
}

impl Stage for Dataset {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, context: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let opened = self.opened()?;
        if let Some(folder) = &context.run_dir {
            std::fs::create_dir_all(folder).map_err(|error| StageError::io(folder, error))?;
            write_durably(&folder.join(DATASET_FILE), format!("{:#}\n", opened.description).as_bytes())?;
        }
        Ok(Box::new(ReadLabels { opened, schema: self.schema.clone(), folds: self.folds.is_some() }))
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }
}

impl Source for Dataset {
    fn list(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.opened()?.listed.iter().cloned().for_each(found);
        Ok(())
    }
}

impl Dataset {
    fn opened(&self) -> Result<Arc<Opened>, StageError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        match &*opened {
            Some(opened) => Ok(opened.clone()),
            None => Ok(opened.insert(Arc::new(Opened::read(&self.params, self.folds)?)).clone()),
        }
    }
}

impl Opened {
    fn read(params: &DatasetStageParams, folds: Option<u32>) -> Result<Self, StageError> {
        let (mut tracks, mut listed) = (HashMap::new(), Vec::new());
        let (mut described, mut all, mut all_splits) = (Vec::new(), Vec::new(), Vec::new());
        for set in &params.sets {
            let opened = set.open_folds(folds.unwrap_or(1)).map_err(|error| StageError::Failed(error.to_string()))?;
            let Folded { dataset: mut read, splits } = opened;
            check_chords(set, &mut read)?;
            described.push(json!({
                "layout": set.layout, "coverage": read.coverage, "classes": read.classes,
                "problems": read.problems.len(), "first_problems": &read.problems[..read.problems.len().min(LISTED)],
                "leaks": described_leaks(&leaks(&read.tracks, &splits)),
            }));
            all.extend(read.tracks.iter().cloned());
            all_splits.extend(splits.iter().cloned());
            for (track, splits) in read.tracks.into_iter().zip(splits).filter(|(track, _)| !track.labels.is_empty()) {
                let Some(split) = track.split else { continue };
                let path = below(&params.root, &Path::new(&set.audio).join(&track.audio));
                let (track_id, identity) = (TrackId::of(&path, 0), identity(&track, folds.map(|_| &splits[..])));
                if let Some((other, _)) = tracks.get(&track_id) {
                    let other: &Track = other;
                    let message = format!("`{path}` is annotated twice: as `{}` and as `{}`", other.id, track.id);
                    return Err(StageError::Failed(message));
                }
                listed.push(Recording { track_id, path, split, bytes: 0, identity, content: false });
                tracks.insert(track_id, (track, splits));
            }
        }
        if tracks.is_empty() {
            return Err(StageError::Failed(format!(
                "no recording of the data sets has labels and a split: {described:?}"
            )));
        }
        // Of several data sets only songs have names in common.
        let mut songs = leaks(&all, &all_splits);
        songs.retain(|leak| leak.shared == Shared::Group);
        let description = json!({"sets": described, "songs_in_two_splits": described_leaks(&songs)});
        Ok(Self { tracks, listed, description })
    }
}

/// Chords that cannot be read become `X` and are named: nobody knows what they are. In `strict` data sets they are errors.
fn check_chords(set: &DatasetParams, read: &mut dataset::Dataset) -> Result<(), StageError> {
    if set.task != Task::Chords {
        return Ok(());
    }
    for track in &mut read.tracks {
        for label in &mut track.labels {
            let Err(error) = Chord::parse(&label.value) else { continue };
            let path = track.sources.last().cloned().unwrap_or_default();
            if set.strict {
                let message = format!("`{}`, line {}: {error}", path.display(), label.line);
                return Err(StageError::Failed(message));
            }
            let (kind, line, message) =
                (ProblemKind::MalformedLine, Some(label.line), format!("{error}; it is taken as X"));
            read.problems.push(Problem { kind, path, line, message });
            label.value = "X".to_owned();
        }
    }
    Ok(())
}

/// Leaks in any of the folds, each once.
fn leaks(tracks: &[Track], splits: &[Vec<Option<Split>>]) -> Vec<Leak> {
    let (mut found, mut tracks): (Vec<Leak>, Vec<Track>) = (Vec::new(), tracks.to_vec());
    for fold in 0..splits.first().map_or(0, Vec::len) {
        tracks.iter_mut().zip(splits).for_each(|(track, splits)| track.split = splits[fold]);
        for leak in dataset::leaks(&tracks) {
            if !found.iter().any(|known| (known.shared, &known.key) == (leak.shared, &leak.key)) {
                found.push(leak);
            }
        }
    }
    found
}

/// What several splits have in common: what it is, its name, and the recordings.
fn described_leaks(leaks: &[Leak]) -> Vec<serde_json::Value> {
    let tracks =
        |leak: &Leak| -> Vec<_> { leak.tracks.iter().map(|(id, split)| (id.clone(), split.as_str())).collect() };
    leaks.iter().map(|leak| json!({"shared": leak.shared, "key": leak.key, "tracks": tracks(leak)})).collect()
}

/// A path as `files` names it.
fn below(root: &Path, path: &Path) -> String {
    let clean =
        |path: &Path| path.components().filter(|part| *part != std::path::Component::CurDir).collect::<PathBuf>();
    let (root, path) = (clean(root), clean(path));
    name(path.strip_prefix(&root).unwrap_or(&path))
}

/// Changes with anything that is said about a recording, and with what it is used for in any of several folds.
fn identity(track: &Track, folds: Option<&[Option<Split>]>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for split in folds.into_iter().flatten() {
        hasher.update(split.map_or("-", Split::as_str).as_bytes()).update(b" ");
    }
    for label in &track.labels {
        for time in [label.start, label.end] {
            hasher.update(&time.map_or(u64::MAX, f64::to_bits).to_le_bytes());
        }
        hasher.update(&(label.value.len() as u64).to_le_bytes()).update(label.value.as_bytes());
    }
    let hash = hasher.finalize();
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

/// Emits the labels of recordings.
struct ReadLabels {
    opened: Arc<Opened>,
    schema: SchemaRef,
    /// Whether there is a column with the splits of several folds.
    folds: bool,
}

impl Operator for ReadLabels {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        for row in 0..batch.num_rows() {
            let origin = Origin::read(batch, row)?;
            let Some((track, splits)) = self.opened.tracks.get(&origin.track_id) else { continue };
            let mut columns = origin.columns(track.labels.len());
            columns.push(Arc::new(track.labels.iter().map(|label| label.start).collect::<Float64Array>()));
            columns.push(Arc::new(track.labels.iter().map(|label| label.end).collect::<Float64Array>()));
            columns.push(Arc::new(StringArray::from_iter_values(track.labels.iter().map(|label| &label.value))));
            if self.folds {
                columns.push(Labels::splits_column(splits, track.labels.len()));
            }
            out.emit(RecordBatch::try_new(self.schema.clone(), columns)?);
        }
        Ok(Progress::Idle)
    }
}
