//! What can be said about an Ogg file before it is decoded: whether its first stream is one of those that can't be, and
//! whether its last page is whole.
//!
//! Source: RFC 3533 section 6 (pages and their checksum).

use symphonia::core::io::MediaSource;

use super::opus::Head;
use super::window::read_at;
use super::{Container, DecodeError};

const HEADER_LEN: usize = 27;
const LONGEST_PAGE: usize = HEADER_LEN + 255 + 255 * 255;

/// Refuses codecs by name, and files that end in the middle of a page: nothing in an Ogg file says how long it ought to
/// be, so half a file can be told from a whole one only by its torn edge.
pub(super) fn check(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<(), DecodeError> {
    let head = read_at(source, start, LONGEST_PAGE)?;
    if let Some(first_packet) = body(&head) {
        if first_packet.starts_with(b"OpusHead") {
            Head::read(first_packet, Container::Ogg)?;
        }
        let codecs = [(&b"Speex   "[..], "Speex"), (b"\x80kate", "Kate"), (b"PCM     ", "PCM")];
        if let Some((_, name)) = codecs.iter().find(|(magic, _)| first_packet.starts_with(magic)) {
            return Err(DecodeError::Unsupported(format!("{name} (Ogg file)")));
        }
    }
    let tail_start = end.saturating_sub(2 * LONGEST_PAGE as u64).max(start);
    let tail = read_at(source, tail_start, (end - tail_start) as usize)?;
    let Some(last) = tail.windows(4).rposition(|bytes| bytes == b"OggS") else { return Ok(()) };
    let Some(body) = body(&tail[last..]) else {
        return Err(DecodeError::Truncated("its last Ogg page is incomplete".into()));
    };
    let page_len = tail.len() - last;
    let page = &tail[last..last + page_len.min(header_len(&tail[last..]) + body.len())];
    if checksum(page) != page[22..26] {
        return Err(DecodeError::Corrupt("the checksum of its last Ogg page is wrong".into()));
    }
    Ok(())
}

fn header_len(page: &[u8]) -> usize {
    HEADER_LEN + page.get(26).map_or(0, |&segments| usize::from(segments))
}

/// The body of the page that opens `bytes`, if all of it is there.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    let segments = usize::from(*bytes.get(26)?);
    let sizes = bytes.get(HEADER_LEN..HEADER_LEN + segments)?;
    let len: usize = sizes.iter().map(|&size| usize::from(size)).sum();
    bytes.get(HEADER_LEN + segments..HEADER_LEN + segments + len)
}

/// The CRC-32 of a page with its checksum field taken as zero: polynomial 0x04c11db7, nothing reflected or inverted.
fn checksum(page: &[u8]) -> [u8; 4] {
    let bytes = page.iter().enumerate().map(|(at, &byte)| if (22..26).contains(&at) { 0 } else { byte });
    let crc = bytes.fold(0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte) << 24, |crc, _| (crc << 1) ^ if crc >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    });
    crc.to_le_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn page(payload: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0\x02".to_vec();
        page.resize(26, 0);
        page.push(1);
        page.push(payload.len() as u8);
        page.extend(payload);
        let sum = checksum(&page);
        page[22..26].copy_from_slice(&sum);
        page
    }

    fn check_bytes(bytes: Vec<u8>) -> Result<(), DecodeError> {
        let len = bytes.len() as u64;
        check(&mut Cursor::new(bytes), 0, len)
    }

    #[test]
    fn the_last_page_must_be_whole() {
        let file = [page(b"\x01vorbis"), page(b"last")].concat();
        check_bytes(file.clone()).expect("it is valid");
        assert!(matches!(check_bytes(file[..file.len() - 1].to_vec()), Err(DecodeError::Truncated(_))));
        let mut damaged = file;
        *damaged.last_mut().expect("it is valid") ^= 1;
        assert!(matches!(check_bytes(damaged), Err(DecodeError::Corrupt(_))));
    }

    #[test]
    fn codecs_are_refused_by_name() {
        assert!(check_bytes(page(b"Speex   1.2")).expect_err("it is refused").to_string().contains("Speex"));
        assert!(check_bytes(page(b"OpusHead")).expect_err("it is refused").to_string().contains("Opus"));
    }
}
