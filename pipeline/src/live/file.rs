//! `live-I.jsonl` in the folder of a run: what process `I` does, a [`Record`] per line.
//!
//! A line is written at once and ends with a line feed; readers take whole lines of their version and skip the rest, so
//! that neither a killed process nor a reader that comes at the wrong moment matters. The file stays small: when it has
//! grown to [`LIMIT`], every other line goes, so that the newest hour is there second by second and what lies further
//! back is ever thinner.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use omar_stages::storage::durable::temporary_for;

use super::record::{Record, VERSION};

/// Bytes after which the file is thinned.
const LIMIT: u64 = 8 << 20;

/// How much of the end of a file is looked at for the newest records.
const TAIL: u64 = 256 << 10;

/// The file of one process.
#[derive(Debug)]
pub(crate) struct LiveFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    limit: u64,
}

impl LiveFile {
    /// Opens or goes on with the file of a process.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn open(folder: &Path, process: usize) -> io::Result<Self> {
        Self::with_limit(&folder.join(format!("live-{process}.jsonl")), LIMIT)
    }

    fn with_limit(path: &Path, limit: u64) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display()));
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path).map_err(named)?;
        let bytes = file.metadata().map_err(named)?.len();
        let mut live = Self { path: path.to_owned(), file: file.try_clone().map_err(named)?, bytes, limit };
        // A process that was killed may have left half a line.
        let mut last = [b'\n'];
        if bytes > 0 {
            file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).map_err(named)?;
        }
        if last != *b"\n" {
            live.write(b"\n").map_err(named)?;
        }
        Ok(live)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn append(&mut self, record: &Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let named = |error: io::Error| io::Error::new(error.kind(), format!("`{}`: {error}", self.path.display()));
        if self.bytes + line.len() as u64 > self.limit {
            thin(&self.path).map_err(named)?;
            self.file = OpenOptions::new().append(true).open(&self.path).map_err(named)?;
            self.bytes = self.file.metadata().map_err(named)?.len();
        }
        self.write(&line).map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", self.path.display())))
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        self.bytes += line.len() as u64;
        self.file.write_all(line)
    }
}

/// Drops every other line, and keeps the last of every part of the run that went on in the same folder.
fn thin(path: &Path) -> io::Result<()> {
    let text = std::fs::read(path)?;
    let lines: Vec<&[u8]> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let records: Vec<Option<Record>> = lines.iter().map(|line| parse(line)).collect();
    let ends = |at: usize| match (&records[at], records.get(at + 1)) {
        (Some(this), Some(Some(next))) => this.started != next.started,
        (this, _) => this.is_some(),
    };
    let kept = (0..lines.len()).filter(|&at| records[at].is_some() && (at % 2 == 1 || ends(at)));
    let kept: Vec<u8> = kept.flat_map(|at| lines[at].iter().copied()).collect();
    let temporary = temporary_for(path);
    std::fs::write(&temporary, kept).and_then(|()| std::fs::rename(&temporary, path))
}

fn parse(line: &[u8]) -> Option<Record> {
    let line = line.strip_suffix(b"\n")?;
    serde_json::from_slice(line).ok().filter(|record: &Record| record.v == VERSION)
}

/// The files of all processes of a run, in their order. Empty when there are none.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn files(run: &Path) -> io::Result<Vec<PathBuf>> {
    let number = |path: &Path| -> Option<usize> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("live-")?.strip_suffix(".jsonl")?.parse().ok()
    };
    let paths = run.read_dir()?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<(usize, PathBuf)> = paths.into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
    files.sort();
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// The newest records of a file, oldest first: those of the process that wrote last, as far as they are near the end.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn newest(path: &Path) -> io::Result<Vec<Record>> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let start = bytes.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(TAIL).read_to_end(&mut text)?;
    let skip = usize::from(start > 0);
    let mut records: Vec<Record> = text.split_inclusive(|&byte| byte == b'\n').skip(skip).filter_map(parse).collect();
    let Some(last) = records.last().map(|record| record.started) else { return Ok(records) };
    records.retain(|record| record.started == last);
    Ok(records)
}

/// All records of a file, oldest first.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn all(path: &Path) -> io::Result<Vec<Record>> {
    let text = std::fs::read(path)?;
    Ok(text.split_inclusive(|&byte| byte == b'\n').filter_map(parse).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(started: f64, elapsed_s: f64) -> Record {
        Record { v: VERSION, started, elapsed_s, ..Record::default() }
    }

    #[test]
    fn half_a_line_and_other_versions_are_skipped() {
        let folder = tempfile::tempdir().expect("folder");
        let mut file = LiveFile::open(folder.path(), 3).expect("opens");
        file.append(&record(1.0, 1.0)).expect("written");
        file.append(&Record { v: VERSION + 1, ..record(1.0, 2.0) }).expect("written");
        file.write(br#"{"v":1,"started":1.0,"elap"#).expect("written");
        let path = folder.path().join("live-3.jsonl");
        assert_eq!(newest(&path).expect("read"), [record(1.0, 1.0)]);
        // The next process of the run comes after half a line.
        LiveFile::open(folder.path(), 3).expect("opens").append(&record(9.0, 1.0)).expect("written");
        assert_eq!(newest(&path).expect("read"), [record(9.0, 1.0)]);
        assert_eq!(all(&path).expect("read"), [record(1.0, 1.0), record(9.0, 1.0)]);
        std::fs::write(folder.path().join("live-x.jsonl"), "").expect("written");
        assert_eq!(files(folder.path()).expect("read"), [path]);
    }

    #[test]
    fn a_file_stays_small_and_keeps_beginnings_and_ends() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("live-0.jsonl");
        let limit = 40_000;
        for part in 0..3 {
            let mut file = LiveFile::with_limit(&path, limit).expect("opens");
            for second in 0..200 {
                file.append(&record(f64::from(part), f64::from(second))).expect("written");
                assert!(path.metadata().expect("there").len() <= limit);
            }
        }
        let found = all(&path).expect("read");
        let last = |part: f64| found.iter().rfind(|record| record.started == part).map(|record| record.elapsed_s);
        assert_eq!([0.0, 1.0, 2.0].map(last), [Some(199.0); 3]);
        let times: Vec<(f64, f64)> = found.iter().map(|record| (record.started, record.elapsed_s)).collect();
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1, "no temporary is left");
    }
}
