//! Event files that TensorBoard reads: `tensorboard --logdir runs`.
//!
//! A file is a sequence of TFRecords (length, its checksum, bytes, their checksum; checksums are CRC-32C, masked), each
//! of them an `Event` of `tensorflow/core/util/event.proto`: few fields of protocol buffers, written here by hand. Every
//! event is one write, so what has been logged is in the file even if the process is killed; a half-written last
//! record is skipped by its readers.
//!
//! A run that goes on writes another file into the same folder. It begins with a session start, which makes TensorBoard
//! drop the steps after the checkpoint that were logged before.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use omar_schemas::MetricsSpec;
use omar_stages::StageError;

use super::Row;

/// Writes one event file.
#[derive(Debug)]
pub(crate) struct EventWriter {
    path: PathBuf,
    file: File,
    begun: bool,
    /// Crops and seconds of the last training row.
    last: Option<(u64, f64)>,
}

impl EventWriter {
    /// Begins a file in `folder`, which is made if need be.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn create(folder: &Path) -> Result<Self, StageError> {
        std::fs::create_dir_all(folder).map_err(|source| StageError::io(folder, source))?;
        let now = unix_time();
        // TensorBoard reads the files of a folder in the order of their names: seconds first, then what tells apart
        // two of one second.
        let name = format!("events.out.tfevents.{:010}.omar-flow.{}.{:09}", now as u64, std::process::id(), nanos(now));
        let path = folder.join(name);
        let file = OpenOptions::new().create_new(true).append(true).open(&path);
        let file = file.map_err(|source| StageError::io(&path, source))?;
        let mut writer = Self { path, file, begun: false, last: None };
        let mut version = Message::default();
        version.double(1, now).bytes(3, b"brain.Event:2");
        writer.record(&version.0)?;
        Ok(writer)
    }

    /// Logs a row.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn log(&mut self, spec: &MetricsSpec, training: bool, row: &Row) -> Result<(), StageError> {
        if !self.begun {
            // SessionLog with status START: steps from here on replace those of earlier files.
            self.begun = true;
            let mut start = Message::default();
            start.varint(1, 1);
            let mut event = Message::default();
            event.double(1, unix_time()).varint(2, row.step).bytes(7, &start.0);
            self.record(&event.0)?;
        }
        let mut summary = Message::default();
        for (tag, value) in self.scalars(spec, training, row) {
            let mut scalar = Message::default();
            scalar.bytes(1, tag.as_bytes()).float(2, value as f32);
            summary.bytes(1, &scalar.0);
        }
        let mut event = Message::default();
        event.double(1, unix_time()).varint(2, row.step).bytes(5, &summary.0);
        self.record(&event.0)
    }

    /// The tags and values of a row.
    fn scalars(&mut self, spec: &MetricsSpec, training: bool, row: &Row) -> Vec<(String, f64)> {
        let split = if training { "train" } else { "valid" };
        let tag = |name: &str| format!("{split}/{name}");
        let mut scalars = vec![(tag("loss"), row.loss), (tag("accuracy"), row.accuracy)];
        if spec.streams.len() > 1 {
            let streams = spec.streams.iter().zip(&row.streams);
            scalars.extend(streams.map(|(name, value)| (tag(&format!("stream_accuracy/{name}")), f64::from(*value))));
        }
        scalars.extend(row.unigram.map(|unigram| (tag("unigram_accuracy"), unigram)));
        if training {
            scalars.push((tag("lr"), row.lr));
            scalars.extend(row.grad_norm.map(|norm| (tag("grad_norm"), norm)));
            if let Some((crops, seconds)) = self.last.replace((row.crops, row.elapsed_s))
                && row.elapsed_s > seconds
            {
                scalars.push(("crops_per_s".to_owned(), (row.crops - crops) as f64 / (row.elapsed_s - seconds)));
            }
        }
        scalars
    }

    fn record(&mut self, data: &[u8]) -> Result<(), StageError> {
        self.file.write_all(&framed(data)).map_err(|source| StageError::io(&self.path, source))
    }
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn nanos(time: f64) -> u32 {
    (time.fract() * 1e9) as u32
}

/// A TFRecord.
fn framed(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(data.len() + 16);
    record.extend(length);
    record.extend(masked(crc32c(&length)).to_le_bytes());
    record.extend(data);
    record.extend(masked(crc32c(data)).to_le_bytes());
    record
}

/// A checksum made unlike one, since checksums of data that hold checksums are weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), bit by bit: events are small.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

/// A protocol buffer message under construction.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn key(&mut self, field: u64, wire: u64) {
        self.raw(field << 3 | wire);
    }

    fn raw(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn varint(&mut self, field: u64, value: u64) -> &mut Self {
        self.key(field, 0);
        self.raw(value);
        self
    }

    fn double(&mut self, field: u64, value: f64) -> &mut Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u64, value: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.raw(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn float(&mut self, field: u64, value: f32) -> &mut Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{row, spec};
    use super::*;

    #[test]
    fn checksums_are_those_of_the_specification() {
        // RFC 3720, appendix B.4; and the mask of the TFRecord format.
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(masked(0), 0xa282_ead8);
        assert_eq!(masked(0x8000), 0xa282_ead9);
    }

    /// Fields of a message: number and raw value.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn varint(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (byte, rest) = bytes.split_first().expect("a varint ends");
                *bytes = rest;
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => varint(&mut bytes) as usize,
                5 => 4,
                wire => panic!("wire type {wire}"),
            };
            let (value, rest) = bytes.split_at(length);
            found.push((key >> 3, value.to_vec()));
            bytes = rest;
        }
        found
    }

    /// The events of a file: step, and tags with values.
    fn events(bytes: &[u8]) -> Vec<(u64, Vec<(String, f32)>)> {
        let mut rest = bytes;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().expect("8 bytes")) as usize;
            let check = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("4 bytes"));
            assert_eq!(check(8), masked(crc32c(&rest[..8])));
            let data = &rest[12..12 + length];
            assert_eq!(check(12 + length), masked(crc32c(data)));
            rest = &rest[16 + length..];
            let event = fields(data);
            let step = event
                .iter()
                .find(|(field, _)| *field == 2)
                .map_or(0, |(_, value)| u64::from_le_bytes(value[..].try_into().expect("8 bytes")));
            let mut scalars = Vec::new();
            for (_, summary) in event.iter().filter(|(field, _)| *field == 5) {
                for (_, scalar) in fields(summary) {
                    let scalar = fields(&scalar);
                    let tag = String::from_utf8(scalar[0].1.clone()).expect("a tag");
                    scalars.push((tag, f32::from_le_bytes(scalar[1].1[..].try_into().expect("4 bytes"))));
                }
            }
            found.push((step, scalars));
        }
        found
    }

    #[test]
    fn rows_are_read_back_and_a_second_file_begins_a_session() {
        let folder = tempfile::tempdir().expect("folder");
        for (first, last) in [(1, 3), (3, 4)] {
            let mut writer = EventWriter::create(folder.path()).expect("a file");
            for step in first..=last {
                writer.log(&spec(9), true, &row(step, step as f64 / 2.0)).expect("written");
            }
            let valid = Row { unigram: Some(0.25), grad_norm: None, ..row(last, 9.0) };
            writer.log(&spec(9), false, &valid).expect("written");
        }
        let mut paths: Vec<PathBuf> =
            folder.path().read_dir().expect("folder").map(|entry| entry.expect("entry").path()).collect();
        paths.sort();
        assert_eq!(paths.len(), 2);
        let first = events(&std::fs::read(&paths[0]).expect("readable"));
        // Version, session start, three steps, one evaluation.
        assert_eq!(first.iter().map(|event| event.0).collect::<Vec<_>>(), [0, 1, 1, 2, 3, 3]);
        let value =
            |event: usize, tag: &str| first[event].1.iter().find(|scalar| scalar.0 == tag).map(|scalar| scalar.1);
        assert_eq!(value(2, "train/loss"), Some(row(1, 0.0).loss as f32));
        assert_eq!(value(2, "train/stream_accuracy/mel/1"), Some(row(1, 0.0).streams[1]));
        assert_eq!((value(2, "crops_per_s"), value(3, "crops_per_s")), (None, Some(8.0)));
        assert_eq!((value(5, "valid/unigram_accuracy"), value(5, "valid/grad_norm")), (Some(0.25), None));
        let second = events(&std::fs::read(&paths[1]).expect("readable"));
        assert_eq!(second.iter().map(|event| event.0).collect::<Vec<_>>(), [0, 3, 3, 4, 4]);
    }
}
