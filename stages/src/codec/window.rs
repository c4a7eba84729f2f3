//! A byte range of a file, shown to a demuxer as if it were the whole file.

use std::io::{self, Read, Seek, SeekFrom};

use symphonia::core::io::MediaSource;

/// The bytes `prefix` followed by `start..end` of a source.
///
/// Cutting tags off both ends keeps their pictures and texts away from demuxers that search for sync words; replacing
/// a header lets a demuxer see only the part of it that matters.
pub(super) struct Window {
    source: Box<dyn MediaSource>,
    prefix: Vec<u8>,
    start: u64,
    end: u64,
    /// Position within the window.
    position: u64,
}

impl Window {
    pub(super) fn new(mut source: Box<dyn MediaSource>, prefix: Vec<u8>, start: u64, end: u64) -> io::Result<Self> {
        source.seek(SeekFrom::Start(start))?;
        Ok(Self { source, prefix, start, end: end.max(start), position: 0 })
    }

    fn len(&self) -> u64 {
        self.prefix.len() as u64 + (self.end - self.start)
    }
}

impl Read for Window {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.len().saturating_sub(self.position);
        let want = left.min(buf.len() as u64) as usize;
        if want == 0 {
            return Ok(0);
        }
        let skipped = self.position.min(self.prefix.len() as u64) as usize;
        let from_prefix = &self.prefix[skipped..];
        let count = if from_prefix.is_empty() {
            self.source.read(&mut buf[..want])?
        } else {
            let count = want.min(from_prefix.len());
            buf[..count].copy_from_slice(&from_prefix[..count]);
            count
        };
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.len().checked_add_signed(by),
        };
        let position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let in_source = position.saturating_sub(self.prefix.len() as u64);
        self.source.seek(SeekFrom::Start(self.start.saturating_add(in_source)))?;
        self.position = position;
        Ok(position)
    }
}

impl MediaSource for Window {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len())
    }
}

/// Reads up to `count` bytes at `at`; fewer only where the source ends.
pub(super) fn read_at(source: &mut dyn MediaSource, at: u64, count: usize) -> io::Result<Vec<u8>> {
    source.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    source.take(count as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_window_reads_as_its_prefix_and_range() {
        let source = Box::new(Cursor::new((0u8..100).collect::<Vec<_>>()));
        let mut window = Window::new(source, vec![200, 201, 202], 10, 20).unwrap();
        let mut all = Vec::new();
        window.read_to_end(&mut all).unwrap();
        let expected: Vec<u8> = [200, 201, 202].into_iter().chain(10..20).collect();
        assert_eq!(all, expected);
        for at in 0..=expected.len() {
            assert_eq!(window.seek(SeekFrom::Start(at as u64)).unwrap(), at as u64);
            let mut rest = Vec::new();
            window.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, expected[at..]);
        }
        assert_eq!(window.seek(SeekFrom::End(-1)).unwrap(), 12);
    }
}
