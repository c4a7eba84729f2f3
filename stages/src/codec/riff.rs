//! The chunk lists of WAVE and AIFF: where the samples are, and whether the file has room for as many as it announces.
//!
//! Sources: EBU Tech 3306 (RF64 and BW64), Apple's Audio Interchange File Format 1.3.

use symphonia::core::io::MediaSource;

use super::DecodeError;
use super::window::read_at;

/// Where the sample chunk of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SampleChunk {
    /// First byte of its body.
    pub(super) start: u64,
    /// One past the last byte of its body, within the file.
    pub(super) end: u64,
    /// Whether the header leaves the size open, as recorders and pipes do.
    pub(super) open_ended: bool,
}

/// Chunks that are looked at before giving up.
const MOST_CHUNKS: usize = 4096;
/// Sizes from here on are placeholders written by programs that couldn't go back to fill them in.
const PLACEHOLDER: u64 = 0x7fff_0000;
/// Missing bytes that are forgiven: the count of decoded samples is checked at the end, too.
const SLACK: u64 = 64 * 1024;

/// Finds the `data` chunk of the WAVE file at `start..end`.
pub(super) fn wave_samples(
    source: &mut dyn MediaSource,
    start: u64,
    end: u64,
) -> Result<Option<SampleChunk>, DecodeError> {
    find(source, start, end, b"data", u32::from_le_bytes)
}

/// Finds the `SSND` chunk of the AIFF file at `start..end`.
pub(super) fn aiff_samples(
    source: &mut dyn MediaSource,
    start: u64,
    end: u64,
) -> Result<Option<SampleChunk>, DecodeError> {
    find(source, start, end, b"SSND", u32::from_be_bytes)
}

fn find(
    source: &mut dyn MediaSource,
    start: u64,
    end: u64,
    wanted: &[u8; 4],
    number: fn([u8; 4]) -> u32,
) -> Result<Option<SampleChunk>, DecodeError> {
    let mut at = start + 12; // behind the outer chunk's identifier, size and form
    let mut long_size = None;
    for _ in 0..MOST_CHUNKS {
        let head = read_at(source, at, 8)?;
        let Some(&[a, b, c, d, s0, s1, s2, s3]) = head.first_chunk::<8>() else { break };
        let mut size = u64::from(number([s0, s1, s2, s3]));
        let body = at + 8;
        if [a, b, c, d] == *b"ds64" {
            let sizes = read_at(source, body, 16)?;
            long_size = sizes.get(8..16).and_then(|s| s.first_chunk()).map(|s| u64::from_le_bytes(*s));
        }
        if [a, b, c, d] == *wanted {
            if let Some(long) = long_size.filter(|_| size == u64::from(u32::MAX)) {
                size = long;
            }
            let available = end.saturating_sub(body);
            let open_ended = long_size.is_none() && size >= PLACEHOLDER && size > available;
            if !open_ended && size > available && size - available > SLACK.max(size / 1000) {
                let (announced, present) = (megabytes(size), megabytes(available));
                return Err(DecodeError::Truncated(format!(
                    "the header announces {announced} MB of samples and {present} MB are there"
                )));
            }
            let end = if open_ended { end } else { body.saturating_add(size).min(end) };
            return Ok(Some(SampleChunk { start: body, end: end.max(body), open_ended }));
        }
        at = body.saturating_add(size).saturating_add(size & 1);
        if at >= end {
            break;
        }
    }
    Ok(None)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn wave(data_size: u32, present: usize) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0data".to_vec();
        bytes.extend(data_size.to_le_bytes());
        bytes.resize(bytes.len() + present, 0);
        bytes
    }

    fn samples(bytes: Vec<u8>) -> Result<Option<SampleChunk>, DecodeError> {
        let len = bytes.len() as u64;
        wave_samples(&mut Cursor::new(bytes), 0, len)
    }

    #[test]
    fn an_odd_chunk_is_padded_and_the_size_is_held_against_the_file() {
        let chunk = samples(wave(100, 100)).unwrap().unwrap();
        assert_eq!(chunk, SampleChunk { start: 32, end: 132, open_ended: false });
        let longer = samples(wave(100, 150)).unwrap().unwrap();
        assert_eq!(longer.end, 132, "what follows the chunk isn't audio");
        assert!(matches!(samples(wave(1_000_000, 500_000)), Err(DecodeError::Truncated(_))));
        assert!(samples(wave(u32::MAX, 100)).unwrap().unwrap().open_ended);
        assert_eq!(samples(b"RIFF\0\0\0\0WAVE".to_vec()).unwrap(), None);
    }
}
