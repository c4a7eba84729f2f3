//! `decode`: recordings to mono samples at the rate of each file, block by block.
//!
//! Input edge `track`, output edge `audio`. A file that cannot be used is rejected with the class and the sentence of
//! its [`DecodeError`]; so is a file that makes a codec panic. At most a few blocks of a recording exist at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, SchemaRef};
use omar_schemas::units::{Bytes, Duration};
use omar_schemas::{Audio, AudioSpec, Edge, Origin, Track};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, DecodeOptions, Decoder, Downmix, Limits};
use crate::corpus::archive::Archives;
use crate::corpus::location::{Content, Location, store_error};
use crate::corpus::objects::{Fault, Problem, StoreError, Stores};
use crate::error::{BindError, Rejection, StageError};
use crate::stage::{Inputs, Operator, Output, Port, Progress, Scope, Stage, StageContext, StageKind};

/// Blocks emitted before the operator lets others work: about 6 s of audio.
const BLOCKS_AT_A_TIME: usize = 4;

/// Parameters of `decode`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecodeParams {
    /// How the channels of a file become one.
    #[serde(default)]
    pub downmix: Mix,
    /// Longest recording that is accepted, with its unit. Longer ones are rejected as `too_long`.
    #[serde(default = "default_max_duration")]
    pub max_duration: Duration,
    /// Largest file that is accepted, with its unit. Larger ones are rejected as `too_large`.
    #[serde(default = "default_max_file")]
    pub max_file: Bytes,
}

/// How the channels of a file become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mix {
    /// The mean of all channels.
    #[default]
    Mean,
    /// The first channel.
    Left,
    /// The second channel; the only one of a mono file.
    Right,
}

fn default_max_duration() -> Duration {
    Duration::from_secs(Limits::default().max_duration_s)
}

fn default_max_file() -> Bytes {
    Bytes(Limits::default().max_file_len)
}

/// The bound stage.
#[derive(Debug)]
pub struct Decode {
    root: Location,
    options: DecodeOptions,
    schema: SchemaRef,
    archives: Arc<Archives>,
}

impl StageKind for Decode {
    const NAME: &'static str = "decode";
    const VERSION: u32 = 1;
    const SUMMARY: &'static str =
        "the samples of audio files, mixed to mono (WAV, FLAC, MP3, Vorbis, Opus, AAC, ALAC, AIFF, CAF, Matroska)";
    const EXAMPLE: &'static str = "{stage: decode, from: tracks, params: {downmix: mean, max_duration: 2h}}";
    const SCOPE: Scope = Scope::Track;
    const INPUTS: &'static [&'static str] = &["in"];
    type Params = DecodeParams;

    fn bind(params: DecodeParams, inputs: &Inputs<'_>) -> Result<Self, BindError> {
        let root =
            Location::parse(&inputs.spec::<Track>("in")?.root).map_err(|error| BindError::node(error.to_string()))?;
        if params.max_duration.seconds() <= 0.0 {
            return Err(BindError::param("max_duration", "no recording is shorter than nothing"));
        }
        let limits = Limits {
            max_duration_s: params.max_duration.seconds(),
            max_file_len: params.max_file.0,
            ..Limits::default()
        };
        let downmix = match params.downmix {
            Mix::Mean => Downmix::Mean,
            Mix::Left => Downmix::Left,
            Mix::Right => Downmix::Right,
        };
        let options = DecodeOptions { limits, downmix, ..DecodeOptions::default() };
        let schema = Audio::schema(&AudioSpec { sample_rate: None });
        Ok(Self { root, options, schema, archives: Arc::default() })
    }
}

impl Stage for Decode {
    fn output(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn start(&self, _: &StageContext) -> Result<Box<dyn Operator>, StageError> {
        Ok(Box::new(DecodeOperator {
            root: self.root.clone(),
            options: self.options.clone(),
            schema: self.schema.clone(),
            archives: self.archives.clone(),
            current: None,
        }))
    }
}

struct DecodeOperator {
    root: Location,
    options: DecodeOptions,
    schema: SchemaRef,
    archives: Arc<Archives>,
    current: Option<Current>,
}

/// The recording being decoded.
struct Current {
    origin: Origin,
    decoder: Decoder,
    start: u64,
    /// Of the store that it comes from.
    fault: Option<Fault>,
}

impl Operator for DecodeOperator {
    fn push(&mut self, _: Port, batch: &RecordBatch, out: &mut dyn Output) -> Result<Progress, StageError> {
        if batch.num_rows() != 1 {
            return Err(StageError::Failed(format!("expected one recording at a time, found {}", batch.num_rows())));
        }
        let origin = Origin::read(batch, 0)?;
        match self.open(&origin.path) {
            Ok((decoder, fault)) => self.current = Some(Current { origin, decoder, start: 0, fault }),
            Err(rejection) => self.reject(&origin, rejection, out),
        }
        self.resume(out)
    }

    fn resume(&mut self, out: &mut dyn Output) -> Result<Progress, StageError> {
        for _ in 0..BLOCKS_AT_A_TIME {
            let Some(current) = &mut self.current else { return Ok(Progress::Idle) };
            let mut samples = Vec::with_capacity(self.options.block_len);
            let decoded = guarded(|| current.decoder.next_block(&mut samples));
            match or_fault(decoded, current.fault.as_ref()) {
                Ok(true) => {
                    let block = Block {
                        sample_rate: current.decoder.info().sample_rate,
                        start: current.start,
                        declared_len: current.decoder.info().declared_len,
                        samples,
                    };
                    current.start += block.samples.len() as u64;
                    out.emit(block.into_batch(&self.schema, &current.origin)?);
                }
                Ok(false) => self.current = None,
                Err(rejection) => {
                    if let Some(current) = self.current.take() {
                        self.reject(&current.origin, rejection, out);
                    }
                }
            }
        }
        Ok(Progress::Pending)
    }

    fn flush(&mut self, _: &mut dyn Output) -> Result<(), StageError> {
        self.current = None;
        Ok(())
    }
}

impl DecodeOperator {
    /// Opens a file, an object, or a member of a tar archive.
    fn open(&self, path: &str) -> Result<(Decoder, Option<Fault>), Rejection> {
        let location = self.root.join(path).map_err(|error| Rejection::new("io", error.to_string()))?;
        let archive = location.in_archive();
        let opened = match (&location, &archive) {
            (_, Some((archive, member))) => {
                self.archives.index(archive, Stores::shared()).and_then(|index| index.open(member))
            }
            (Location::Object(_), None) => location.handle(Stores::shared()).and_then(|handle| handle.open()),
            (Location::File(path), None) => return Ok((guarded(|| Decoder::open(path, &self.options))?, None)),
        };
        let content = opened.map_err(|error| match store_error(&error) {
            Some(store) => refused(store),
            None => {
                // What an archive does not have it will not have at once.
                let final_answer = archive.is_some() && error.kind() == std::io::ErrorKind::NotFound;
                Rejection::new("io", DecodeError::from(error).to_string()).settled(final_answer)
            }
        })?;
        self.decoder(content, location.extension())
    }

    /// Gives up on a recording. Where an archive in a store has become another one, the next recording that wants something
    /// of it looks again.
    fn reject(&self, origin: &Origin, rejection: Rejection, out: &mut dyn Output) {
        if let Ok(location @ Location::Object(_)) = self.root.join(&origin.path)
            && let (false, Some((archive, _))) = (rejection.settled, location.in_archive())
        {
            self.archives.forget(&archive);
        }
        out.reject(origin.track_id, rejection);
    }

    fn decoder(&self, content: Content, extension: Option<&str>) -> Result<(Decoder, Option<Fault>), Rejection> {
        let fault = content.fault();
        let decoder = guarded(|| Decoder::new(Box::new(content), extension, &self.options));
        Ok((or_fault(decoder, fault.as_ref())?, fault))
    }
}

/// What a codec has made of an object, unless the store has failed under it: a codec takes that for the end of the file, or
/// for damage, and may even go on.
fn or_fault<T>(decoded: Result<T, Rejection>, fault: Option<&Fault>) -> Result<T, Rejection> {
    match fault.and_then(Fault::error) {
        Some(error) => Err(refused(&error)),
        None => decoded,
    }
}

/// A rejection by a store. It has asked as often as is good already, except where the object has changed: a second try reads
/// the new one.
fn refused(error: &StoreError) -> Rejection {
    Rejection::new("io", format!("cannot read {error}")).settled(error.problem != Problem::Changed)
}

/// Runs a codec; a panic in it is a fault of the file.
fn guarded<T>(work: impl FnOnce() -> Result<T, DecodeError>) -> Result<T, Rejection> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(Rejection::new(error.class().as_str(), error.to_string())),
        Err(_) => Err(Rejection::new("corrupt", "the audio is damaged: it makes the codec panic")),
    }
}

/// A row of an [`Audio`] edge.
pub(crate) struct Block {
    pub(crate) sample_rate: u32,
    pub(crate) start: u64,
    pub(crate) declared_len: Option<u64>,
    pub(crate) samples: Vec<f32>,
}

impl Block {
    /// Packs the block into a batch of one row, without copying the samples.
    pub(crate) fn into_batch(self, schema: &SchemaRef, origin: &Origin) -> Result<RecordBatch, StageError> {
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        let offsets = OffsetBuffer::from_lengths([self.samples.len()]);
        let samples = ListArray::try_new(item, offsets, Arc::new(Float32Array::from(self.samples)), None)?;
        let mut columns = origin.columns(1);
        columns.extend([
            Arc::new(UInt32Array::from(vec![self.sample_rate])) as ArrayRef,
            Arc::new(UInt64Array::from(vec![self.start])),
            Arc::new(UInt64Array::from(vec![self.declared_len])),
            Arc::new(samples),
        ]);
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

#[cfg(test)]
mod tests {
    use omar_schemas::{TrackSpec, column, list_values};

    use super::*;
    use crate::collect::{Collect, run, start, track};

    const AUDIO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/audio");

    fn decode(root: &str, path: &str) -> Collect {
        let schema = Track::schema(&TrackSpec { root: root.to_owned() });
        let params = serde_json::from_str("{}").expect("every parameter has a default");
        let stage = Decode::bind(params, &Inputs::new(vec![("in", &schema)])).expect("it binds");
        run(&mut *start(&stage, 0), &[track(root, path)])
    }

    #[test]
    fn a_recording_comes_out_in_blocks_without_gaps() {
        let out = decode(AUDIO, "lame_v4.mp3");
        assert!(out.rejections.is_empty() && out.batches.len() > 1);
        let mut end = 0;
        for batch in &out.batches {
            assert_eq!(column::<UInt64Array>(batch, "start").expect("a column").value(0), end);
            assert_eq!(column::<UInt64Array>(batch, "declared_len").expect("a column").value(0), 132_300);
            assert_eq!(column::<UInt32Array>(batch, "sample_rate").expect("a column").value(0), 44_100);
            end += list_values(batch, "samples", 0).expect("a column").len() as u64;
        }
        assert_eq!(end, 132_300);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_rejected_and_the_run_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_str().expect("its name is text");
        std::fs::write(folder.path().join("text.mp3"), "not music").expect("written");
        let class = |name: &str| decode(root, name).rejections.first().map(|rejection| rejection.class);
        assert_eq!(class("text.mp3"), Some("mismatch"));
        assert_eq!(class("missing.wav"), Some("io"));
        assert_eq!(class("."), Some("unsupported"));
    }

    #[test]
    fn a_panic_in_a_codec_is_a_fault_of_the_file() {
        let rejection = guarded(|| -> Result<(), DecodeError> { panic!("as codecs do") }).expect_err("it is caught");
        assert_eq!(rejection.class, "corrupt");
    }
}
