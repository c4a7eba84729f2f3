//! A byte range of a file, shown to a demuxer as if it were the whole file.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
    budget: Budget,
}

/// Bytes that may still be read before a packet must have come of it. A demuxer that has lost its way searches the
/// rest of the file in one call; this is what ends the search.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<AtomicU64>);

impl Budget {
    const BYTES: u64 = 256 << 20;

    fn new() -> Self {
        Self(Arc::new(AtomicU64::new(Self::BYTES)))
    }

    /// Grants the whole budget again.
    pub(super) fn renew(&self) {
        self.0.store(Self::BYTES, Ordering::Relaxed);
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        let left = self.0.load(Ordering::Relaxed).checked_sub(bytes as u64);
        let left = left.ok_or_else(|| io::Error::other("no audio found in 256 MiB of the file"))?;
        self.0.store(left, Ordering::Relaxed);
        Ok(())
    }
}

impl Window {
    pub(super) fn new(mut source: Box<dyn MediaSource>, prefix: Vec<u8>, start: u64, end: u64) -> io::Result<Self> {
        source.seek(SeekFrom::Start(start))?;
        Ok(Self { source, prefix, start, end: end.max(start), position: 0, budget: Budget::new() })
    }

    /// The budget of reads from this window.
    pub(super) fn budget(&self) -> Budget {
        self.budget.clone()
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
        self.budget.spend(count)?;
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
        // A position past the end is allowed, as in a file, but not passed on: headers make up positions no file has.
        let in_source = position.min(self.len()).saturating_sub(self.prefix.len() as u64);
        self.source.seek(SeekFrom::Start(self.start + in_source))?;
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
        let mut window = Window::new(source, vec![200, 201, 202], 10, 20).expect("it is valid");
        let mut all = Vec::new();
        window.read_to_end(&mut all).expect("it is valid");
        let expected: Vec<u8> = [200, 201, 202].into_iter().chain(10..20).collect();
        assert_eq!(all, expected);
        for at in 0..=expected.len() {
            assert_eq!(window.seek(SeekFrom::Start(at as u64)).expect("it is valid"), at as u64);
            let mut rest = Vec::new();
            window.read_to_end(&mut rest).expect("it is valid");
            assert_eq!(rest, expected[at..]);
        }
        window.budget.0.store(1, Ordering::Relaxed);
        window.rewind().expect("it is valid");
        assert!(window.read_to_end(&mut all).is_err(), "the budget is spent");
        window.budget().renew();
        assert_eq!(window.seek(SeekFrom::End(-1)).expect("it is valid"), 12);
    }
}
