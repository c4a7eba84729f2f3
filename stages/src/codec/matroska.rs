//! Whether a Matroska file has room for the segment that it announces: its demuxer refuses a cut file without a word
//! on why.
//!
//! Source: RFC 8794 section 4 (variable-size integers), RFC 9559 section 5.1 (Segment).

use symphonia::core::io::MediaSource;

use super::DecodeError;
use super::window::read_at;

const SEGMENT: u64 = 0x1853_8067;
const MOST_ELEMENTS: usize = 64;

/// One past the last byte that the segment claims.
///
/// # Errors
/// [`DecodeError::Truncated`] if more than half a percent of that lies behind the end of the file.
pub(super) fn claimed_end(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<u64, DecodeError> {
    let mut at = start;
    for _ in 0..MOST_ELEMENTS {
        let head = read_at(source, at, 20)?;
        let Some((id, id_len)) = integer(&head, false) else { break };
        let Some((size, size_len)) = integer(&head[id_len..], true) else { break };
        let unknown = size == (1 << (7 * size_len)) - 1;
        let body = at + (id_len + size_len) as u64;
        if id == SEGMENT {
            let claimed = if unknown { end } else { body.saturating_add(size) };
            if claimed.saturating_sub(end) > size / 200 {
                let present = end.saturating_sub(body);
                return Err(DecodeError::Truncated(format!("it announces {size} bytes and {present} are there")));
            }
            return Ok(claimed);
        }
        at = body.saturating_add(size);
        if unknown || at >= end {
            break;
        }
    }
    Err(DecodeError::Truncated("it ends inside its headers".into()))
}

/// A variable-size integer and its length; `strip` removes the length marker, which identifiers keep.
fn integer(bytes: &[u8], strip: bool) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = first.leading_zeros() as usize + 1;
    let rest = bytes.get(1..len).filter(|_| len <= 8)?;
    let first = if strip { u64::from(first) & (0xff >> len) } else { u64::from(first) };
    Some((rest.iter().fold(first, |value, &byte| value << 8 | u64::from(byte)), len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read() {
        assert_eq!(integer(&[0x18, 0x53, 0x80, 0x67], false), Some((SEGMENT, 4)));
        assert_eq!(integer(&[0x40, 0x02], true), Some((2, 2)));
        assert_eq!(integer(&[0x01, 0, 0, 0, 0, 0, 1, 0], true), Some((256, 8)));
        assert_eq!(integer(&[0x00, 0, 0], true), None);
        assert_eq!(integer(&[0x40], true), None);
    }
}
