//! The chunk lists of WAVE and AIFF: where the samples are, whether the file has room for as many as it announces, and
//! formats that the demuxer would misread or choke on.
//!
//! Sources: Microsoft's Multimedia Programming Interface 1.0 (WAVE), EBU Tech 3306 (RF64 and BW64), Apple's Audio
//! Interchange File Format 1.3.

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
    /// One past the last byte that the header claims, in the file or not.
    pub(super) claimed_end: u64,
    /// Whether the header leaves the size open, as recorders and pipes do.
    pub(super) open_ended: bool,
    /// Samples per channel that a compressed WAVE file states; the rest of its last block is filling.
    pub(super) stated_len: Option<u64>,
}

/// Chunks that are looked at before giving up.
const MOST_CHUNKS: usize = 4096;
/// Sizes from here on are placeholders written by programs that couldn't go back to fill them in.
const PLACEHOLDER: u64 = 0x7fff_0000;
/// Missing bytes that are forgiven: the count of decoded samples is checked at the end, too.
const SLACK: u64 = 64 * 1024;

/// Finds the `data` chunk of the WAVE file at `start..end` and checks the `fmt ` chunk in front of it.
pub(super) fn wave_samples(
    source: &mut dyn MediaSource,
    start: u64,
    end: u64,
) -> Result<Option<SampleChunk>, DecodeError> {
    let (mut long_size, mut format, mut stated_len) = (None, None, None);
    let mut found = None;
    walk(source, start, end, u32::from_le_bytes, |source, kind, body, mut size| {
        match &kind {
            b"ds64" => long_size = le_u64(&read_at(source, body, 16)?, 8),
            b"fmt " if format.is_some() => {
                return Err(DecodeError::Corrupt("it has two format chunks".into()));
            }
            b"fmt " => format = Some(check_format(&read_at(source, body, size.min(40) as usize)?)?),
            b"fact" => stated_len = read_at(source, body, 4)?.first_chunk().map(|b| u64::from(u32::from_le_bytes(*b))),
            b"data" => {
                if let Some(long) = long_size.filter(|_| size == u64::from(u32::MAX)) {
                    size = long;
                }
                let mut chunk = sample_chunk(body, size, end, long_size.is_none())?;
                chunk.stated_len = stated_len.filter(|len| *len > 0 && format == Some(Coding::Blocks));
                found = Some(chunk);
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Finds the `SSND` chunk of the AIFF file at `start..end`.
pub(super) fn aiff_samples(
    source: &mut dyn MediaSource,
    start: u64,
    end: u64,
) -> Result<Option<SampleChunk>, DecodeError> {
    let mut found = None;
    walk(source, start, end, u32::from_be_bytes, |_, kind, body, size| {
        if &kind == b"SSND" {
            found = Some(sample_chunk(body, size, end, true)?);
        }
        Ok(found.is_none())
    })?;
    Ok(found)
}

/// How the samples of a WAVE file are coded, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// One by one.
    Samples,
    /// In blocks of fixed size (ADPCM).
    Blocks,
}

/// Refuses formats that can't be decoded, by name.
fn check_format(format: &[u8]) -> Result<Coding, DecodeError> {
    let field = |at: usize| format.get(at..).and_then(|f| f.first_chunk()).map(|b| u16::from_le_bytes(*b));
    let (Some(mut tag), Some(channels), Some(bits)) = (field(0), field(2), field(14)) else {
        return Err(DecodeError::Corrupt("its format chunk is too short".into()));
    };
    if tag == 0xfffe {
        tag = field(24).unwrap_or(tag); // "extensible": the old tag opens the identifier
    }
    // Symphonia multiplies the two in 16 bits.
    if channels == 0 || u32::from(channels) * u32::from(bits / 8) > u32::from(u16::MAX) {
        return Err(DecodeError::Corrupt(format!("{channels} channels of {bits} bits")));
    }
    let unsupported = |what: String| Err(DecodeError::Unsupported(format!("WAV with {what}")));
    match (tag, bits) {
        (1, 8 | 16 | 24 | 32) | (3, 32 | 64) | (6 | 7, 8) => Ok(Coding::Samples),
        (2 | 0x11, 4) => Ok(Coding::Blocks),
        (1, _) => unsupported(format!("integer samples of {bits} bits")),
        (3, _) => unsupported(format!("floating-point samples of {bits} bits")),
        (0x50, _) => unsupported("MPEG audio inside".into()),
        (0x55, _) => unsupported("MP3 inside".into()),
        (0xff | 0x1600 | 0x1601, _) => unsupported("AAC inside".into()),
        _ => unsupported(format!("format tag {tag:#06x}")),
    }
}

/// Calls `visit` with (kind, start of the body, size) of each chunk until it answers `false`.
fn walk(
    source: &mut dyn MediaSource,
    start: u64,
    end: u64,
    number: fn([u8; 4]) -> u32,
    mut visit: impl FnMut(&mut dyn MediaSource, [u8; 4], u64, u64) -> Result<bool, DecodeError>,
) -> Result<(), DecodeError> {
    let mut at = start + 12; // behind the outer chunk's identifier, size and form
    for _ in 0..MOST_CHUNKS {
        let head = read_at(source, at, 8)?;
        let Some(&[a, b, c, d, s0, s1, s2, s3]) = head.first_chunk::<8>() else { break };
        let (body, size) = (at + 8, u64::from(number([s0, s1, s2, s3])));
        if !visit(source, [a, b, c, d], body, size)? {
            break;
        }
        at = body + size + (size & 1);
        if at >= end {
            break;
        }
    }
    Ok(())
}

fn sample_chunk(body: u64, size: u64, end: u64, may_be_open: bool) -> Result<SampleChunk, DecodeError> {
    let available = end.saturating_sub(body);
    let open_ended = may_be_open && size >= PLACEHOLDER && size > available;
    if !open_ended && size > available && size - available > SLACK.max(size / 1000) {
        let (announced, present) = (size as f64 / 1e6, available as f64 / 1e6);
        return Err(DecodeError::Truncated(format!(
            "the header announces {announced:.1} MB of samples and {present:.1} MB are there"
        )));
    }
    let claimed_end = if open_ended { end } else { body.saturating_add(size) };
    Ok(SampleChunk { start: body, end: claimed_end.min(end).max(body), claimed_end, open_ended, stated_len: None })
}

fn le_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
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
        let chunk = samples(wave(100, 100)).expect("no refusal").expect("found");
        assert_eq!(chunk, SampleChunk { start: 32, end: 132, claimed_end: 132, open_ended: false, stated_len: None });
        let longer = samples(wave(100, 150)).expect("no refusal").expect("found");
        assert_eq!(longer.end, 132, "what follows the chunk isn't audio");
        assert!(matches!(samples(wave(1_000_000, 500_000)), Err(DecodeError::Truncated(_))));
        assert!(samples(wave(u32::MAX, 100)).expect("no refusal").expect("found").open_ended);
        assert_eq!(samples(b"RIFF\0\0\0\0WAVE".to_vec()).expect("it is valid"), None);
    }

    #[test]
    fn formats_are_refused_by_name() {
        let format = |tag: u16, channels: u16, bits: u16| {
            let [t0, t1] = tag.to_le_bytes();
            let [c0, c1] = channels.to_le_bytes();
            let [b0, b1] = bits.to_le_bytes();
            check_format(&[t0, t1, c0, c1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b0, b1]).map_err(|e| e.to_string())
        };
        assert_eq!(format(1, 2, 16), Ok(Coding::Samples));
        assert_eq!(format(0x11, 1, 4), Ok(Coding::Blocks));
        assert!(format(1, 65_535, 16).expect_err("it is refused").contains("65535 channels"));
        assert!(format(1, 2, 12).expect_err("it is refused").contains("12 bits"));
        assert!(format(0x55, 2, 16).expect_err("it is refused").contains("MP3"));
    }
}
