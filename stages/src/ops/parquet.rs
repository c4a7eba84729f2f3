//! `parquet`: rows that an earlier graph made.
//!
//! Output: the edge that the files hold, whichever it is. So any cached node can start another graph: tokens that were
//! made once train many models.
//!
//! This is the one stage that looks at files when it is bound: what it puts out is written in their footers and
//! nowhere else. It reads one footer then; the rest is read when the corpus is listed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use omar_schemas::{Origin, TrackId, edge_name, origin};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{BindError, Rejection, StageError};
use crate::stage::{
    Inputs, Operator, Output, Port, Progress, Recording, Scope, Source, Stage, StageContext, StageKind,
};
use crate::storage::{StorageError, TrackFile, locate};

/// Rows per batch, so that what follows can work in small steps.
const BATCH_ROWS: usize = 32;

/// Files kept open. Tracks of a shard are read together, and a shard is one file where it was cached.
const OPEN_FILES: usize = 8;

/// Parameters of [`Parquet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParquetParams {
    /// What to read: a folder that a node was cached in (its committed files), a parquet file, a pattern such as
    /// `tokens/*.parquet`, or a folder of such files. A relative path starts from the working directory.
    pub path: String,
}

/// Rows that an earlier graph made.
#[derive(Debug)]
pub struct Parquet {
    path: PathBuf,
    schema: SchemaRef,
    corpus: Mutex<Option<Arc<Corpus>>>,
}

impl StageKind for Parquet {
    const NAME: &'static str = "parquet";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str = "rows that an earlier graph made: any cached node, or parquet files of one";
    const EXAMPLE: &'static str = "{stage: parquet, params: {path: runs/tokens}}";
    const SCOPE: Scope = Scope::Source;
    const INPUTS: &'static [&'static str] = &[];
    type Params = ParquetParams;

    fn bind(params: ParquetParams, _: &Inputs<'_>) -> Result<Self, BindError> {
        let refused = |message: String| BindError::param("path", message);
        let path = PathBuf::from(params.path);
        let files = locate(&path).map_err(|error| refused(error.to_string()))?;
        let file = TrackFile::open(&files[0].path).map_err(|error| refused(error.to_string()))?;
        check_columns(file.schema()).map_err(|error| {
            let hint = "parquet files that another program has rewritten may have lost their metadata";
            refused(format!("`{}`: {error}", file.path().display())).hint(hint)
        })?;
        Ok(Self { path, schema: file.schema().clone(), corpus: Mutex::new(None) })
    }
}

/// Whether rows of this schema say which edge and which recordings they belong to.
fn check_columns(schema: &Schema) -> Result<(), String> {
    edge_name(schema).ok_or("expected the rows of an edge, found no `omar.edge` in the metadata")?;
    for field in origin::fields() {
        let found = schema.field_with_name(field.name()).map(|found| found.data_type().clone()).ok();
        if found.as_ref() != Some(field.data_type()) {
            let found = found.map_or("none".to_owned(), |found| found.to_string());
            return Err(format!("expected a column `{}` of type {}, found {found}", field.name(), field.data_type()));
        }
    }
    Ok(())
}

impl Stage for Parquet {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        let listed = self.corpus.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let corpus = match listed {
            Some(corpus) => corpus,
            None => self.read_corpus(&mut |_| {})?,
        };
        Ok(Box::new(ReadTracks { corpus, waiting: VecDeque::new() }))
    }

    fn source(&self) -> Option<&dyn Source> {
        Some(self)
    }
}

impl Source for Parquet {
    fn list(&self, found: &mut dyn FnMut(Recording)) -> Result<(), StageError> {
        self.read_corpus(found).map(|_| ())
    }
}

impl Parquet {
    /// Reads which tracks are in which file, and remembers it for the operators.
    fn read_corpus(&self, found: &mut dyn FnMut(Recording)) -> Result<Arc<Corpus>, StageError> {
        let located = locate(&self.path).map_err(|error| StageError::Failed(error.to_string()))?;
        let mut corpus = Corpus { files: Vec::new(), homes: Vec::new(), open: Mutex::new(VecDeque::new()) };
        for (number, file) in (0u32..).zip(located) {
            let tracks = TrackFile::open(&file.path)?;
            if tracks.schema() != &self.schema {
                let message = format!(
                    "`{}` and `{}` hold different rows: {}",
                    corpus.files.first().unwrap_or(&file.path).display(),
                    file.path.display(),
                    difference(&self.schema, tracks.schema())
                );
                return Err(StageError::Failed(message));
            }
            for Origin { track_id, path, split } in tracks.origins()? {
                corpus.homes.push((track_id, number));
                found(Recording { track_id, path, split, bytes: 0, identity: file.identity, content: false });
            }
            corpus.files.push(file.path);
        }
        corpus.homes.sort_unstable();
        if let Some(pair) = corpus.homes.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let [first, second] = [pair[0], pair[1]].map(|home| corpus.files[home.1 as usize].display());
            return Err(StageError::Failed(format!("track {} is both in `{first}` and in `{second}`", pair[0].0)));
        }
        let corpus = Arc::new(corpus);
        *self.corpus.lock().unwrap_or_else(PoisonError::into_inner) = Some(corpus.clone());
        Ok(corpus)
    }
}

/// The first thing in which two schemas differ.
fn difference(expected: &Schema, found: &Schema) -> String {
    let mut keys: Vec<&String> = expected.metadata().keys().chain(found.metadata().keys()).collect();
    keys.sort();
    match keys.into_iter().find(|key| expected.metadata().get(key) != found.metadata().get(key)) {
        Some(key) => format!("`{key}` is {:?} and {:?}", expected.metadata().get(key), found.metadata().get(key)),
        None => format!("{expected} and {found}"),
    }
}

/// Where the rows of each track are.
#[derive(Debug)]
struct Corpus {
    files: Vec<PathBuf>,
    /// Track and index of its file, in the order of the tracks.
    homes: Vec<(TrackId, u32)>,
    /// The most recently used first.
    open: Mutex<VecDeque<(u32, Arc<TrackFile>)>>,
}

impl Corpus {
    fn read_track(&self, track: TrackId) -> Result<Vec<RecordBatch>, StorageError> {
        match self.homes.binary_search_by_key(&track, |home| home.0) {
            Ok(at) => self.file(self.homes[at].1)?.read_track(track),
            Err(_) => Ok(Vec::new()),
        }
    }

    fn file(&self, number: u32) -> Result<Arc<TrackFile>, StorageError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match open.iter().position(|file| file.0 == number).and_then(|at| open.remove(at)) {
            Some(file) => file.1,
            None => Arc::new(TrackFile::open(Path::new(&self.files[number as usize]))?),
        };
        open.push_front((number, file.clone()));
        open.truncate(OPEN_FILES);
        Ok(file)
    }
}

/// Puts out the rows of the tracks it is handed.
struct ReadTracks {
    corpus: Arc<Corpus>,
    waiting: VecDeque<RecordBatch>,
}

impl Operator for ReadTracks {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        for row in 0..batch.num_rows() {
            let track = Origin::read(batch, row)?.track_id;
            match self.corpus.read_track(track) {
                Ok(batches) if batches.is_empty() => {
                    out.reject(track, Rejection::new("io", "its rows are not there any more"));
                }
                Ok(batches) => self.waiting.extend(batches),
                Err(error @ StorageError::Io { .. }) => out.reject(track, Rejection::new("io", error.to_string())),
                Err(error) => out.reject(track, Rejection::new("corrupt", error.to_string())),
            }
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, StageError> {
        if let Some(batch) = self.waiting.pop_front() {
            if batch.num_rows() > BATCH_ROWS {
                self.waiting.push_front(batch.slice(BATCH_ROWS, batch.num_rows() - BATCH_ROWS));
            }
            out.emit(batch.slice(0, batch.num_rows().min(BATCH_ROWS)));
        }
        Ok(if self.waiting.is_empty() { Progress::Idle } else { Progress::Pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::arrow::ArrowWriter;
    use arrow::array::{ArrayRef, Float64Array, UInt32Array};
    use arrow::datatypes::UInt16Type;
    use omar_schemas::{Edge, Split, StreamSpec, Tokens, TokensSpec, Track, TrackSpec, column, fixed_tensor};

    fn schema(codebook_size: u32) -> SchemaRef {
        let (sample_rate, crop_samples, patch_samples, positions) = (24_000, 3840, 960, 4);
        let quantizer = "random projection".to_owned();
        let streams = vec![StreamSpec { view: "mel".to_owned(), codebooks: 1, codebook_size, quantizer }];
        Tokens::schema(&TokensSpec { sample_rate, crop_samples, patch_samples, positions, streams })
    }

    fn rows(schema: &SchemaRef, track: u64, crops: std::ops::Range<u32>) -> RecordBatch {
        let n = crops.len();
        let origin = Origin { track_id: TrackId(track), path: format!("{track}.wav"), split: Split::Valid };
        let mut columns: Vec<ArrayRef> = origin.columns(n);
        columns.push(Arc::new(UInt32Array::from_iter_values(crops.clone())));
        columns.push(Arc::new(Float64Array::from_iter_values(crops.clone().map(f64::from))));
        columns.push(Arc::new(Float64Array::from_iter_values(crops.clone().map(f64::from))));
        let tokens = crops.flat_map(|crop| (0..4).map(move |position| (crop * 4 + position) as u16)).collect();
        columns.push(fixed_tensor::<UInt16Type>(4, tokens));
        RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
    }

    fn write(path: &Path, batches: &[RecordBatch], rows_per_group: usize) {
        let file = std::fs::File::create(path).expect("create");
        let properties = ::parquet::file::properties::WriterProperties::builder()
            .set_max_row_group_row_count(Some(rows_per_group))
            .build();
        let mut writer = ArrowWriter::try_new(file, batches[0].schema(), Some(properties)).expect("writer");
        batches.iter().for_each(|batch| writer.write(batch).expect("write"));
        writer.close().expect("close");
    }

    fn bind(path: &Path) -> Result<Parquet, BindError> {
        Parquet::bind(ParquetParams { path: path.display().to_string() }, &Inputs::new(Vec::new()))
    }

    #[derive(Default)]
    struct Collect(Vec<RecordBatch>, Vec<(TrackId, Rejection)>);

    impl Output for Collect {
        fn emit(&mut self, batch: RecordBatch) {
            self.0.push(batch);
        }
        fn reject(&mut self, track: TrackId, reason: Rejection) {
            self.1.push((track, reason));
        }
    }

    fn read(stage: &Parquet, track: u64) -> Collect {
        let origin = Origin { track_id: TrackId(track), path: String::new(), split: Split::Valid };
        let mut columns = origin.columns(1);
        columns.push(Arc::new(arrow::array::UInt64Array::from(vec![0])));
        let row = RecordBatch::try_new(Track::schema(&TrackSpec { root: String::new() }), columns).expect("row");
        let mut out = Collect::default();
        let mut operator = stage.start(&StageContext::detached("tokens")).expect("start");
        let mut progress = operator.push(0, &row, &mut out).expect("push");
        while progress == Progress::Pending {
            progress = operator.resume(&mut out).expect("resume");
        }
        out
    }

    #[test]
    fn rows_come_back_track_by_track_with_their_schema() {
        let folder = tempfile::tempdir().expect("folder");
        let schema = schema(8192);
        let long = rows(&schema, 2, 0..100);
        write(&folder.path().join("a.parquet"), &[rows(&schema, 1, 0..3), long.clone(), rows(&schema, 3, 0..2)], 40);
        write(&folder.path().join("b.parquet"), &[rows(&schema, 4, 0..1)], 40);
        let stage = bind(folder.path()).expect("bind");
        assert_eq!(stage.output(), schema);
        assert_eq!(Tokens::spec(&stage.output()).expect("spec").streams[0].codebook_size, 8192);
        let mut recordings = Vec::new();
        stage.source().expect("source").list(&mut |recording| recordings.push(recording)).expect("list");
        let ids: Vec<u64> = recordings.iter().map(|recording| recording.track_id.0).collect();
        assert_eq!(ids, [1, 2, 3, 4]);
        assert_eq!((recordings[1].path.as_str(), recordings[1].split), ("2.wav", Split::Valid));

        let out = read(&stage, 2);
        assert!(out.0.iter().all(|batch| batch.num_rows() <= BATCH_ROWS && batch.schema() == schema));
        assert_eq!(arrow::compute::concat_batches(&schema, &out.0).expect("same schema"), long);
        assert_eq!(read(&stage, 4).0, [rows(&schema, 4, 0..1)]);
        let rejects = read(&stage, 5).1;
        assert_eq!((rejects[0].0, rejects[0].1.class), (TrackId(5), "io"));
    }

    #[test]
    fn interleaved_tracks_are_put_together() {
        let folder = tempfile::tempdir().expect("folder");
        let schema = schema(8192);
        let file = folder.path().join("a.parquet");
        write(&file, &[rows(&schema, 1, 0..2), rows(&schema, 2, 0..2), rows(&schema, 1, 2..4)], 3);
        let out = read(&bind(&file).expect("bind"), 1);
        let whole = arrow::compute::concat_batches(&schema, &out.0).expect("same schema");
        assert_eq!(column::<UInt32Array>(&whole, "crop_ix").expect("column").values(), &[0, 1, 2, 3]);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let error = |path: &Path| bind(path).expect_err("refused").message;
        assert!(error(&folder.path().join("gone")).contains("no such file or folder"));
        std::fs::write(folder.path().join("song.parquet"), b"ID3, and then an mp3").expect("write");
        assert!(error(folder.path()).contains("song.parquet`: "), "{}", error(folder.path()));
        let plain =
            Arc::new(Schema::new(vec![arrow::datatypes::Field::new("x", arrow::datatypes::DataType::UInt64, false)]));
        let batch =
            RecordBatch::try_new(plain, vec![Arc::new(arrow::array::UInt64Array::from(vec![1]))]).expect("batch");
        write(&folder.path().join("song.parquet"), &[batch], 10);
        assert!(error(folder.path()).contains("found no `omar.edge` in the metadata"));
    }

    #[test]
    fn files_that_do_not_belong_together_are_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let (one, other) = (schema(8192), schema(1024));
        write(&folder.path().join("a.parquet"), &[rows(&one, 1, 0..1)], 10);
        write(&folder.path().join("b.parquet"), &[rows(&other, 2, 0..1)], 10);
        let list =
            |stage: &Parquet| stage.source().expect("source").list(&mut |_| {}).map_err(|error| error.to_string());
        let error = list(&bind(folder.path()).expect("bind")).expect_err("two codebooks");
        assert!(error.contains("b.parquet` hold different rows: `omar.spec` is"), "{error}");
        write(&folder.path().join("b.parquet"), &[rows(&one, 1, 0..1)], 10);
        let error = list(&bind(folder.path()).expect("bind")).expect_err("twice");
        assert!(error.starts_with("track 0000000000000001 is both in"), "{error}");
    }
}
