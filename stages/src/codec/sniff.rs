//! What a file is, decided by its bytes and held against its name.
//!
//! Formats with a magic number are taken at their word whatever the file is called. MPEG audio and ADTS have none, so a
//! row of matching frame headers is asked for, and the name must not claim something else: WavPack called `.wav` and
//! text called `.mp3` are refused here, before a demuxer finds sync words in them.

use std::fmt;

use symphonia::core::io::MediaSource;

use super::DecodeError;
use super::mpeg::{adts_header, is_chain, mpeg_header};
use super::window::read_at;

/// A container format that can be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Container {
    /// RIFF WAVE, RF64 and BW64.
    Wav,
    /// AIFF and AIFF-C.
    Aiff,
    /// Apple's Core Audio Format.
    Caf,
    /// Native FLAC.
    Flac,
    /// Ogg.
    Ogg,
    /// ISO base media: MP4, M4A, MOV.
    Mp4,
    /// Matroska and WebM.
    Matroska,
    /// A row of MPEG audio frames: MP3, MP2, MP1.
    Mpeg,
    /// A row of AAC frames.
    Adts,
}

impl Container {
    /// The name people use: `WAV`, `MP3`, ...
    pub fn name(self) -> &'static str {
        match self {
            Self::Wav => "WAV",
            Self::Aiff => "AIFF",
            Self::Caf => "CAF",
            Self::Flac => "FLAC",
            Self::Ogg => "Ogg",
            Self::Mp4 => "MP4",
            Self::Matroska => "Matroska",
            Self::Mpeg => "MPEG audio",
            Self::Adts => "AAC (ADTS)",
        }
    }

    /// What a file name's extension claims; `None` where it claims nothing that is decoded here.
    pub fn of_extension(extension: &str) -> Option<Self> {
        Some(match extension.to_ascii_lowercase().as_str() {
            "wav" | "wave" | "bwf" | "rf64" => Self::Wav,
            "aif" | "aiff" | "aifc" => Self::Aiff,
            "caf" => Self::Caf,
            "flac" => Self::Flac,
            "ogg" | "oga" | "ogv" | "ogx" | "opus" | "spx" => Self::Ogg,
            "mp4" | "m4a" | "m4b" | "m4p" | "m4r" | "m4v" | "mov" | "3gp" | "3g2" => Self::Mp4,
            "mkv" | "mka" | "webm" => Self::Matroska,
            "mp3" | "mp2" | "mp1" | "mpga" | "mpa" => Self::Mpeg,
            "aac" | "adts" => Self::Adts,
            _ => return None,
        })
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was found, and the bytes it occupies: tags in front of and behind the stream are left out.
#[derive(Debug)]
pub(super) struct Sniffed {
    pub(super) container: Container,
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Formats that are recognised in order to be refused by name. A demuxer that searches for sync words would find
/// "audio" in most of them.
const FOREIGN: &[(usize, &[u8], &str)] = &[
    (0, b"wvpk", "WavPack"),
    (0, b"tBaK", "TAK"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"OFR ", "OptimFROG"),
    (0, b"TTA1", "True Audio"),
    (0, b"TTA2", "True Audio"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"DSD ", "DSD (DSF)"),
    (0, b"FRM8", "DSD (DSDIFF)"),
    (0, &[0x30, 0x26, 0xb2, 0x75, 0x8e, 0x66, 0xcf, 0x11], "Windows Media (ASF)"),
    (0, &[0x0b, 0x77], "AC-3"),
    (0, &[0x7f, 0xfe, 0x80, 0x01], "DTS"),
    (0, b"#!AMR", "AMR"),
    (0, b".snd", "Sun AU"),
    (0, b".RMF", "RealMedia"),
    (0, b".ra\xfd", "RealAudio"),
    (0, b"MThd", "MIDI"),
    (0, b"riff\x2e\x91\xcf\x11", "Sony Wave64"),
    (0, b"Creative Voice File", "a Creative voice file"),
    (0, b"Extended Module: ", "a tracker module"),
    (0, b"IMPM", "a tracker module"),
    (44, b"SCRM", "a tracker module"),
    (1080, b"M.K.", "a tracker module"),
    (0, b"FLV\x01", "Flash video"),
    (0, &[0, 0, 1, 0xba], "an MPEG program stream"),
    (0, b"%PDF", "PDF"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, &[0xff, 0xd8, 0xff], "a JPEG picture"),
    (0, b"GIF8", "a GIF picture"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, &[0x1f, 0x8b], "gzip data"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"APETAGEX", "nothing but an APE tag"),
];

/// Variants of formats that are decoded: a name that claims the format isn't wrong.
const VARIANTS: &[(usize, &[u8], &str, Container)] = &[
    (0, b"RIFX", "WAV of big-endian samples", Container::Wav),
    (4, b"moov", "QuickTime without a file type box", Container::Mp4),
    (4, b"mdat", "QuickTime without a file type box", Container::Mp4),
    (4, b"wide", "QuickTime without a file type box", Container::Mp4),
];

/// Bytes that are looked at: room for the junk that some tools leave in front of the first MP3 frame.
const HEAD_LEN: usize = 64 * 1024;
/// Matching frame headers in a row that are evidence enough where the name or a tag says MPEG or AAC ...
const FRAMES_WHEN_NAMED: usize = 3;
/// ... and where nothing does, or where they don't open the file: programs hold tables that look like a few.
const FRAMES_WHEN_IN_DOUBT: usize = 8;

/// Finds out what `source` of `len` bytes is; `extension` is that of the file's name, without the dot.
pub(super) fn sniff(source: &mut dyn MediaSource, len: u64, extension: Option<&str>) -> Result<Sniffed, DecodeError> {
    if len == 0 {
        return Err(DecodeError::Empty("the file has no bytes".into()));
    }
    let (start, tagged) = skip_id3v2(source, len)?;
    let head = read_at(source, start, HEAD_LEN)?;
    if let Some(container) = magic(&head) {
        return Ok(Sniffed { container, start, end: len });
    }
    if let Some((what, family)) = foreign(&head) {
        return Err(refusal(&what, family, extension));
    }

    let claimed = extension.and_then(Container::of_extension);
    let end = before_trailing_tags(source, start, len)?;
    let start = if claimed == Some(Container::Mpeg) { skip_zeros(source, start, end)? } else { start };
    if start >= end {
        return Err(DecodeError::Empty("nothing but tags and zero bytes".into()));
    }
    let head = read_at(source, start, HEAD_LEN.min((end - start) as usize))?;
    let ends_here = start + head.len() as u64 == end;
    let frames_of = |container| frames(&head, container, claimed.or(tagged.then_some(container)), ends_here);
    let found = [Container::Adts, Container::Mpeg].into_iter().find_map(|c| Some((c, frames_of(c)?)));
    let Some((container, at)) = found else {
        let (what, family) = describe(&head);
        return Err(refusal(what, family, extension));
    };
    let fits = match claimed {
        Some(Container::Mp4) => container == Container::Adts, // the same codec without its box, a common mix-up
        Some(Container::Mpeg | Container::Adts) | None => true,
        Some(_) => false,
    };
    if fits {
        Ok(Sniffed { container, start: start + at as u64, end })
    } else {
        Err(refusal(container.name(), Some(container), extension))
    }
}

/// Where in `head` a row of frames of `container` begins, if the evidence is good enough in the light of what the name
/// or a tag claims. Only MPEG audio that is claimed may have junk in front of it.
fn frames(head: &[u8], container: Container, claimed: Option<Container>, ends_here: bool) -> Option<usize> {
    let header = if container == Container::Adts { adts_header } else { mpeg_header };
    if claimed != Some(container) {
        return is_chain(head, header, FRAMES_WHEN_IN_DOUBT, false).then_some(0);
    }
    if is_chain(head, header, FRAMES_WHEN_NAMED, ends_here) {
        return Some(0);
    }
    let may_search = container == Container::Mpeg;
    let junk = if may_search { 1..head.len() } else { 0..0 };
    junk.into_iter().find(|&at| is_chain(&head[at..], header, FRAMES_WHEN_IN_DOUBT, ends_here))
}

/// The container whose magic number opens `head`.
fn magic(head: &[u8]) -> Option<Container> {
    let at = |offset: usize, bytes: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(bytes));
    Some(match head {
        _ if at(0, b"fLaC") => Container::Flac,
        _ if at(0, b"OggS") => Container::Ogg,
        _ if at(0, b"caff") => Container::Caf,
        _ if at(0, &[0x1a, 0x45, 0xdf, 0xa3]) => Container::Matroska,
        _ if at(8, b"WAVE") && (at(0, b"RIFF") || at(0, b"RF64") || at(0, b"BW64")) => Container::Wav,
        _ if at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) => Container::Aiff,
        _ if at(4, b"ftyp") => Container::Mp4,
        _ => return None,
    })
}

/// The name of a known format that isn't decoded, and the container it is a variant of.
fn foreign(head: &[u8]) -> Option<(String, Option<Container>)> {
    if head.starts_with(b"RIFF") || head.starts_with(b"FORM") {
        let kind = head.get(8..12).unwrap_or_default();
        return Some((format!("{} of type `{}`", String::from_utf8_lossy(&head[..4]), kind.escape_ascii()), None));
    }
    let opens = |at: usize, bytes: &[u8]| head.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let variant = VARIANTS.iter().find(|(at, bytes, ..)| opens(*at, bytes));
    let variant = variant.map(|(.., name, family)| ((*name).to_owned(), Some(*family)));
    variant.or_else(|| FOREIGN.iter().find(|(at, bytes, _)| opens(*at, bytes)).map(|f| (f.2.to_owned(), None)))
}

/// Words for bytes that no format claims, and the container they are a variant of.
fn describe(head: &[u8]) -> (&'static str, Option<Container>) {
    let sample = &head[..head.len().min(512)];
    let printable = |b: &u8| b.is_ascii_graphic() || b.is_ascii_whitespace() || *b >= 0x80;
    if sample.iter().all(|&b| b == 0) {
        ("zero bytes", None)
    } else if is_free_format(sample) {
        ("MPEG audio of free format", Some(Container::Mpeg))
    } else if sample.iter().all(printable)
        && std::str::from_utf8(sample).map_or_else(|e| e.error_len().is_none(), |_| true)
    {
        ("text", None)
    } else {
        ("no format that is known", None)
    }
}

/// Whether an MPEG header opens `bytes` whose bit rate is "free": the length of its frames must be found by search.
fn is_free_format(bytes: &[u8]) -> bool {
    let Some(&[a, b, c, d]) = bytes.first_chunk::<4>() else { return false };
    c & 0xf0 == 0 && mpeg_header(&[a, b, c | 0x10, d]).is_some()
}

/// The first byte from `start` on that isn't zero; no search further than 16 MiB.
fn skip_zeros(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<u64, DecodeError> {
    let mut at = start;
    while at < end.min(start + (16 << 20)) {
        let bytes = read_at(source, at, HEAD_LEN)?;
        if let Some(first) = bytes.iter().position(|&byte| byte != 0) {
            return Ok(at + first as u64);
        }
        if bytes.is_empty() {
            break;
        }
        at += bytes.len() as u64;
    }
    Ok(at)
}

/// The right refusal for content `what`, a variant of `family`, under a name with `extension`.
fn refusal(what: &str, family: Option<Container>, extension: Option<&str>) -> DecodeError {
    let claimed = extension.and_then(|extension| Some((extension, Container::of_extension(extension)?)));
    match claimed.filter(|(_, claimed)| Some(*claimed) != family) {
        Some((extension, _)) => DecodeError::Mismatch(format!("`.{extension}` holds {what}")),
        None => DecodeError::Unsupported(format!("the file holds {what}")),
    }
}

/// The first byte behind any ID3v2 tags, and whether there were any. Source: id3.org, ID3v2.4 section 3.1.
fn skip_id3v2(source: &mut dyn MediaSource, len: u64) -> Result<(u64, bool), DecodeError> {
    const MOST_TAGS: usize = 16;
    let mut start = 0;
    for _ in 0..MOST_TAGS {
        let head = read_at(source, start, 10)?;
        let Some(&[b'I', b'D', b'3', major, minor, flags, a, b, c, d]) = head.first_chunk::<10>() else {
            break;
        };
        if major == 0xff || minor == 0xff || (a | b | c | d) & 0x80 != 0 {
            break;
        }
        let size = u64::from(a) << 21 | u64::from(b) << 14 | u64::from(c) << 7 | u64::from(d);
        let footer = if flags & 0x10 != 0 { 10 } else { 0 };
        start = (start + 10 + size + footer).min(len);
    }
    Ok((start, start > 0))
}

/// The end of the stream before ID3v1, Lyrics3v2 and APE tags, whose text may hold sync words.
fn before_trailing_tags(source: &mut dyn MediaSource, start: u64, len: u64) -> Result<u64, DecodeError> {
    const MOST_TAGS: usize = 8;
    let mut end = len;
    for _ in 0..MOST_TAGS {
        let tail_start = end.saturating_sub(128).max(start);
        let tail = read_at(source, tail_start, (end - tail_start) as usize)?;
        let tag_len = if tail.len() == 128 && tail.starts_with(b"TAG") {
            128
        } else if let Some(footer) = tail.last_chunk::<32>().filter(|footer| footer.starts_with(b"APETAGEX")) {
            let size = u32::from_le_bytes([footer[12], footer[13], footer[14], footer[15]]);
            let has_header = footer[23] & 0x80 != 0;
            u64::from(size) + if has_header { 32 } else { 0 }
        } else if let Some(footer) = tail.last_chunk::<15>().filter(|footer| footer.ends_with(b"LYRICS200")) {
            let digits = std::str::from_utf8(&footer[..6]).ok().and_then(|digits| digits.parse::<u64>().ok());
            digits.map_or(0, |size| size + 15)
        } else {
            0
        };
        if tag_len == 0 || tag_len > end - start {
            break;
        }
        end -= tag_len;
    }
    Ok(end)
}
