//! MPEG audio and ADTS frame headers, and the tag in the first MP3 frame that says how much the encoder added.
//!
//! Neither format has a file header: a stream is a row of frames, each opening with a sync word that also turns up by
//! chance in any data. What chance doesn't produce is a row of headers that agree with each other and lie exactly one
//! frame length apart, so that is what counts as evidence here.
//!
//! Sources: ISO/IEC 11172-3 section 2.4.2.3 and 13818-3 (frame headers), ISO/IEC 13818-7 section 6.2 (ADTS), the LAME tag
//! revision 1 description by Gabriel Bouvigne (Xing, Info and LAME fields).

/// A frame header, reduced to what must stay the same along a stream and what says where the next frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Frame length in bytes, header included.
    pub(super) len: usize,
    /// Samples per channel in the frame.
    pub(super) samples: u32,
    /// Bytes of side information after the header (Layer III only, else 0).
    side_info: usize,
    /// Version, layer or profile, and sample rate: constant along a stream.
    pub(super) kind: u16,
}

/// Bit rates in kbit/s by (table, index); tables: V1 L1, V1 L2, V1 L3, V2 L1, V2 L2 and L3.
const BIT_RATES: [[u16; 15]; 5] = [
    [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448],
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384],
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
];

/// Parses an MPEG audio header (layers I, II and III; free-format streams aren't accepted).
pub(super) fn mpeg_header(bytes: &[u8]) -> Option<FrameHeader> {
    let word = u32::from_be_bytes(*bytes.first_chunk()?);
    let version = (word >> 19) & 3; // 0: 2.5, 2: 2, 3: 1
    let layer = 4 - ((word >> 17) & 3); // 1, 2, 3; 4 is reserved
    let bit_rate_index = (word >> 12) & 15;
    let rate_index = (word >> 10) & 3;
    if word >> 21 != 0x7ff || version == 1 || layer == 4 || rate_index == 3 {
        return None;
    }
    if bit_rate_index == 0 || bit_rate_index == 15 {
        return None;
    }
    let first_version = version == 3;
    let table = match (first_version, layer) {
        (true, layer) => layer as usize - 1,
        (false, 1) => 3,
        (false, _) => 4,
    };
    let bit_rate = usize::from(BIT_RATES[table][bit_rate_index as usize]) * 1000;
    let sample_rate = [44_100, 48_000, 32_000][rate_index as usize] >> [2, 0, 1, 0][version as usize];
    let padding = ((word >> 9) & 1) as usize;
    let mono = (word >> 6) & 3 == 3;
    let (len, samples) = match (layer, first_version) {
        (1, _) => ((12 * bit_rate / sample_rate + padding) * 4, 384),
        (3, false) => (72 * bit_rate / sample_rate + padding, 576),
        _ => (144 * bit_rate / sample_rate + padding, 1152),
    };
    let side_info = match (layer, first_version, mono) {
        (3, true, false) => 32,
        (3, true, true) | (3, false, false) => 17,
        (3, false, true) => 9,
        _ => 0,
    };
    let kind = (word >> 8) as u16 & 0xfe0c; // sync, version, layer, sample rate
    Some(FrameHeader { len, samples, side_info, kind })
}

/// Parses an ADTS header (AAC in a row of frames).
pub(super) fn adts_header(bytes: &[u8]) -> Option<FrameHeader> {
    let head: [u8; 7] = *bytes.first_chunk()?;
    let rate_index = (head[2] >> 2) & 15;
    if head[0] != 0xff || head[1] & 0xf6 != 0xf0 || rate_index > 12 {
        return None;
    }
    let len = usize::from(head[3] & 3) << 11 | usize::from(head[4]) << 3 | usize::from(head[5]) >> 5;
    let header_len = if head[1] & 1 == 0 { 9 } else { 7 };
    let blocks = u32::from(head[6] & 3) + 1;
    (len > header_len).then_some(FrameHeader {
        len,
        samples: 1024 * blocks,
        side_info: 0,
        kind: u16::from(head[1] & 8) << 8 | u16::from(head[2] & 0xfc),
    })
}

/// Whether a row of at least `frames` frames that agree with each other starts at `bytes[0]`; a shorter row counts if it
/// runs to the very end of the file (`ends_here`: `bytes` reaches it).
pub(super) fn is_chain(bytes: &[u8], header: fn(&[u8]) -> Option<FrameHeader>, frames: usize, ends_here: bool) -> bool {
    let Some(first) = header(bytes) else { return false };
    let mut at = first.len;
    for _ in 1..frames {
        if at >= bytes.len() {
            return ends_here;
        }
        match header(&bytes[at..]) {
            Some(next) if next.kind == first.kind => at += next.len,
            _ => return false,
        }
    }
    true
}

/// What the tag in the first MP3 frame says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EncoderTag {
    /// Frames in the stream, without the tag's own.
    pub(super) frames: Option<u32>,
    /// Bytes in the stream, the tag's own frame included.
    pub(super) bytes: Option<u32>,
    /// Samples to cut at the start and at the end; `None` where no known encoder has written them.
    pub(super) trim: Option<(u32, u32)>,
}

/// Samples by which a Layer III decoder lags behind its input: 528 of the filter bank and 1 of the overlap.
const DECODER_DELAY: u32 = 529;

/// Reads the Xing, Info or VBRI tag of the frame at `bytes[0]`; `None` if the frame is audio.
pub(super) fn encoder_tag(bytes: &[u8]) -> Option<EncoderTag> {
    let header = mpeg_header(bytes)?;
    let frame = &bytes[..header.len.min(bytes.len())];
    if header.side_info == 0 {
        return None;
    }
    if frame.get(36..40) == Some(b"VBRI") {
        return Some(EncoderTag { bytes: be_u32(frame, 46), frames: be_u32(frame, 50), trim: None });
    }
    let at = 4 + header.side_info;
    if !matches!(frame.get(at..at + 4)?, b"Xing" | b"Info") {
        return None;
    }
    let flags = be_u32(frame, at + 4)?;
    let mut at = at + 8;
    let mut field = |bit: u32, len: usize| {
        let value = (flags & bit != 0).then(|| be_u32(frame, at)).flatten();
        at += if flags & bit != 0 { len } else { 0 };
        value
    };
    let frames = field(1, 4);
    let bytes = field(2, 4);
    field(4, 100);
    field(8, 4);
    Some(EncoderTag { frames, bytes, trim: lame_trim(frame.get(at..).unwrap_or_default()) })
}

/// The delay and padding fields of the LAME extension, at byte 21, turned into samples to cut from the decoded stream.
fn lame_trim(extension: &[u8]) -> Option<(u32, u32)> {
    if !matches!(extension.get(..4)?, b"LAME" | b"Lavf" | b"Lavc") {
        return None;
    }
    let packed = be_u32(extension, 20)? & 0x00ff_ffff;
    let (delay, padding) = (packed >> 12, packed & 0xfff);
    Some((delay + DECODER_DELAY, padding.saturating_sub(DECODER_DELAY)))
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MPEG 1 Layer III, 128 kbit/s, 44.1 kHz, joint stereo.
    const HEADER: [u8; 4] = [0xff, 0xfb, 0x90, 0x64];

    #[test]
    fn a_header_gives_length_and_samples() {
        let header = mpeg_header(&HEADER).expect("it is valid");
        assert_eq!((header.len, header.samples, header.side_info), (417, 1152, 32));
        let low = mpeg_header(&[0xff, 0xf3, 0x40, 0xc4]).expect("it is valid"); // MPEG 2, 32 kbit/s, 22.05 kHz, mono
        assert_eq!((low.len, low.samples, low.side_info), (104, 576, 9));
        assert_eq!(mpeg_header(&[0xff, 0xfb, 0xf0, 0x64]), None, "bit rate index 15");
        assert_eq!(mpeg_header(&[0xff, 0xfb, 0x00, 0x64]), None, "free format");
        assert_eq!(mpeg_header(b"text"), None);
    }

    #[test]
    fn a_chain_needs_headers_that_agree() {
        let mut frame = HEADER.to_vec();
        frame.resize(417, 0);
        let three = frame.repeat(3);
        assert!(is_chain(&three, mpeg_header, 3, false));
        assert!(!is_chain(&three, mpeg_header, 4, false));
        assert!(is_chain(&three, mpeg_header, 4, true), "a short file may end early");
        let mut broken = three.clone();
        broken[417 + 2] = 0x94; // another sample rate
        assert!(!is_chain(&broken, mpeg_header, 3, true));
    }

    #[test]
    fn the_lame_tag_gives_the_trim() {
        let mut frame = HEADER.to_vec();
        frame.resize(417, 0);
        frame[36..40].copy_from_slice(b"Info");
        frame[43] = 0x0f;
        frame[44..48].copy_from_slice(&1000u32.to_be_bytes());
        frame[48..52].copy_from_slice(&418_000u32.to_be_bytes());
        frame[156..160].copy_from_slice(b"LAME");
        let packed: u32 = 576 << 12 | 1105;
        frame[177..180].copy_from_slice(&packed.to_be_bytes()[1..]);
        let tag = encoder_tag(&frame).expect("it is valid");
        assert_eq!(tag.frames, Some(1000));
        assert_eq!(tag.bytes, Some(418_000));
        assert_eq!(tag.trim, Some((576 + 529, 1105 - 529)));
        assert_eq!(encoder_tag(&frame[..50]).expect("it is valid").trim, None, "cut in the tag");
    }
}
