//! What Symphonia leaves out of MP4: the edit list, iTunes' gapless tag, and whether the media data is all there.
//!
//! An AAC encoder puts about 1,024 to 2,112 samples of delay in front of the audio. MP4 tells the player to skip them
//! with an edit list; without it, everything is 23 to 48 ms late, a third of the tolerance of a beat metric.
//!
//! Sources: ISO/IEC 14496-12 sections 8.6.6 (edit list), 8.6.1.2 (time to sample), 8.2.2 and 8.4.2 (time scales); the
//! layout of the `iTunSMPB` value as written by iTunes and Apple's `afconvert`.

use symphonia::core::io::MediaSource;

use super::DecodeError;
use super::window::read_at;

/// What the boxes of a file say about its tracks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    movie_timescale: u32,
    tracks: Vec<TrackBox>,
    /// Priming, padding and length in samples, from `iTunSMPB`.
    gapless: Option<[u64; 3]>,
    /// One past the last byte that a box claims: beyond the end of the file by no more than what is forgiven.
    pub(super) end: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct TrackBox {
    id: u32,
    timescale: u32,
    /// Sum of the packets' durations, in `timescale`; 0 in a fragmented file.
    media_len: u64,
    /// Whether the last packet is marked as shorter than the others, so that `media_len` is exact.
    short_end: bool,
    /// (duration in the movie's time scale, start in the media's time scale or -1 for silence).
    edits: Vec<(u64, i64)>,
}

/// Samples to cut from the start, and samples to keep, at the audio's own rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trim {
    pub(super) lead: u64,
    pub(super) keep: Option<u64>,
}

/// An index bigger than this is refused: 64 MiB describe weeks of audio.
const MOST_INDEX_BYTES: u64 = 64 * 1024 * 1024;
const MOST_BOXES: usize = 100_000;

/// Reads the boxes of the file at `start..end`.
///
/// # Errors
/// [`DecodeError::Truncated`] where the media data runs past the end of the file by more than half a percent, or where
/// the index is missing.
pub(super) fn layout(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<Layout, DecodeError> {
    let mut at = start;
    let mut index = None;
    for _ in 0..MOST_BOXES {
        if at >= end {
            break;
        }
        let head = read_at(source, at, 16)?;
        let Some((kind, header_len, size)) = box_header(&head) else { break };
        let size = if size == 0 { end - at } else { size };
        let missing = at.saturating_add(size).saturating_sub(end);
        if &kind == b"mdat" && missing > size / 200 {
            let share = 100.0 * missing as f64 / size as f64;
            return Err(DecodeError::Truncated(format!("{share:.0} % of the media data is missing")));
        }
        if &kind == b"moov" {
            if missing > 0 {
                return Err(DecodeError::Truncated("the index (`moov`) is incomplete".into()));
            }
            if size > MOST_INDEX_BYTES {
                return Err(DecodeError::TooLarge(format!("an index of {size} bytes")));
            }
            index = Some(read_at(source, at + header_len, (size.saturating_sub(header_len)) as usize)?);
        }
        if size < header_len {
            break;
        }
        at = at.saturating_add(size);
    }
    let index = index.ok_or_else(|| DecodeError::Truncated("the index (`moov`) is missing".into()))?;
    Ok(Layout { end: at.max(end), ..read_index(&index) })
}

impl Layout {
    /// Whether an edit list says where track `id` starts.
    pub(super) fn has_edits(&self, id: u32) -> bool {
        self.tracks.iter().any(|track| track.id == id && !track.edits.is_empty())
    }

    /// The trim of track `id` for audio at `sample_rate` Hz.
    pub(super) fn trim(&self, id: u32, sample_rate: u32) -> Trim {
        let Some(track) = self.tracks.iter().find(|track| track.id == id) else { return Trim::default() };
        let media = |units: u64| rescale(units, sample_rate, track.timescale);
        let total = media(track.media_len);
        let played: Vec<_> = track.edits.iter().filter(|(_, start)| *start >= 0).collect();
        let edit_lead = played.first().map(|(_, start)| media(start.unsigned_abs()));

        if let Some([priming, _, len]) = self.gapless {
            // Trust it only where it fits the media: some taggers copy it from file to file.
            let agrees = edit_lead.is_none_or(|lead| lead == priming);
            if agrees && len > 0 && (total == 0 || priming + len <= total) {
                return Trim { lead: priming, keep: Some(len) };
            }
        }
        let Some(lead) = edit_lead.filter(|lead| total == 0 || *lead < total) else {
            return Trim { lead: 0, keep: track.short_end.then_some(total) };
        };
        let rest = total.saturating_sub(lead);
        let keep = match played.as_slice() {
            [(units, _)] if *units > 0 && self.movie_timescale > 0 => {
                // The movie's time scale is often 1/1000 s: its duration can't tell samples apart, the media's can.
                let edit = rescale(*units, sample_rate, self.movie_timescale);
                let tick = u64::from(sample_rate.div_ceil(self.movie_timescale));
                if rest == 0 || edit + tick < rest { edit } else { rest }
            }
            _ => rest,
        };
        Trim { lead, keep: (keep > 0).then_some(keep) }
    }
}

/// `units` of `1 / timescale` s in samples, rounded to the nearest.
fn rescale(units: u64, sample_rate: u32, timescale: u32) -> u64 {
    let timescale = u128::from(timescale.max(1));
    ((u128::from(units) * u128::from(sample_rate) + timescale / 2) / timescale) as u64
}

/// (kind, header length, box length); a length of 0 means to the end of the file.
fn box_header(bytes: &[u8]) -> Option<([u8; 4], u64, u64)> {
    let kind = *bytes.get(4..)?.first_chunk()?;
    match be_u32(bytes, 0)? {
        1 => Some((kind, 16, be_u64(bytes, 8)?)),
        size => Some((kind, 8, u64::from(size))),
    }
}

/// The boxes directly inside `bytes`, as (kind, body).
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, header_len, size) = box_header(bytes)?;
        let size = if size == 0 { bytes.len() as u64 } else { size.min(bytes.len() as u64) };
        if size < header_len {
            return None;
        }
        let (this, rest) = bytes.split_at(size as usize);
        bytes = rest;
        Some((kind, &this[header_len as usize..]))
    })
}

/// The body of the box found by following `path` from `bytes`.
fn descend<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, wanted| boxes(bytes).find(|(kind, _)| kind == *wanted).map(|(_, body)| body))
}

fn read_index(index: &[u8]) -> Layout {
    let movie_timescale = descend(index, &[b"mvhd"]).and_then(timescale).unwrap_or(0);
    let tracks = boxes(index).filter(|(kind, _)| kind == b"trak").map(|(_, body)| read_track(body)).collect();
    let items = descend(index, &[b"udta", b"meta"]).and_then(|meta| descend(meta.get(4..)?, &[b"ilst"]));
    let gapless = items.and_then(|items| boxes(items).find_map(|(kind, body)| gapless_tag(kind, body)));
    Layout { movie_timescale, tracks, gapless, end: 0 }
}

fn read_track(track: &[u8]) -> TrackBox {
    let id = descend(track, &[b"tkhd"]).and_then(|tkhd| be_u32(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 }));
    let timescale = descend(track, &[b"mdia", b"mdhd"]).and_then(timescale);
    let durations = descend(track, &[b"mdia", b"minf", b"stbl", b"stts"]).and_then(|stts| stts.get(8..));
    let (mut media_len, mut usual, mut short_end) = (0u64, 0, false);
    for run in durations.unwrap_or_default().as_chunks::<8>().0 {
        let [c0, c1, c2, c3, d0, d1, d2, d3] = *run;
        let (count, each) = (u32::from_be_bytes([c0, c1, c2, c3]), u32::from_be_bytes([d0, d1, d2, d3]));
        media_len = media_len.saturating_add(u64::from(count) * u64::from(each));
        short_end = count == 1 && each < usual;
        usual = each;
    }
    let edits = descend(track, &[b"edts", b"elst"]).map(edit_list).unwrap_or_default();
    TrackBox { id: id.unwrap_or(0), timescale: timescale.unwrap_or(0), media_len, short_end, edits }
}

/// The time scale of an `mvhd` or `mdhd` box.
fn timescale(body: &[u8]) -> Option<u32> {
    be_u32(body, if *body.first()? == 1 { 20 } else { 12 })
}

fn edit_list(body: &[u8]) -> Vec<(u64, i64)> {
    let Some((head, entries)) = body.split_at_checked(8) else { return Vec::new() };
    let short = |e: &[u8]| Some((u64::from(be_u32(e, 0)?), i64::from(be_u32(e, 4)? as i32)));
    let long = |e: &[u8]| Some((be_u64(e, 0)?, be_u64(e, 8)? as i64));
    if head[0] == 1 {
        entries.chunks_exact(20).map_while(long).collect()
    } else {
        entries.chunks_exact(12).map_while(short).collect()
    }
}

/// The numbers of an `iTunSMPB` item: hexadecimal fields "0, priming, padding, length, ...".
fn gapless_tag(kind: [u8; 4], item: &[u8]) -> Option<[u64; 3]> {
    if &kind != b"----" || descend(item, &[b"name"])?.get(4..)? != b"iTunSMPB" {
        return None;
    }
    let text = std::str::from_utf8(descend(item, &[b"data"])?.get(8..)?).ok()?;
    let mut fields = text.split_ascii_whitespace().skip(1).map(|field| u64::from_str_radix(field, 16).ok());
    let mut next = || fields.next().flatten();
    // Nobody primes with more than a second or so; absurd numbers mean a broken tag.
    Some([next()?, next()?, next()?]).filter(|[priming, _, _]| *priming < 100_000)
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(media_len: u64, edits: Vec<(u64, i64)>, gapless: Option<[u64; 3]>) -> Layout {
        let track = TrackBox { id: 1, timescale: 44_100, media_len, short_end: false, edits };
        Layout { movie_timescale: 1000, tracks: vec![track], gapless, end: 0 }
    }

    #[test]
    fn the_edit_list_cuts_the_start_and_the_media_length_the_end() {
        // ffmpeg: 180 s, 1,024 samples of priming, the last packet's duration says where the audio ends.
        let layout = with(7_939_024, vec![(180_000, 1024)], None);
        assert_eq!(layout.trim(1, 44_100), Trim { lead: 1024, keep: Some(7_938_000) });
        assert_eq!(layout.trim(2, 44_100), Trim::default(), "another track");
    }

    #[test]
    fn a_shorter_edit_cuts_the_end_to_the_precision_it_has() {
        let layout = with(44_100 * 10, vec![(500, -1), (5_000, 2112)], None);
        assert_eq!(layout.trim(1, 44_100), Trim { lead: 2112, keep: Some(44_100 * 5) });
    }

    #[test]
    fn an_edit_that_starts_behind_the_media_is_ignored() {
        assert_eq!(with(44_100, vec![(1000, i64::from(i32::MAX))], None).trim(1, 44_100), Trim::default());
    }

    #[test]
    fn the_gapless_tag_is_used_where_it_fits() {
        let tag = Some([2112, 452, 88_200]);
        assert_eq!(with(91_136, vec![], tag).trim(1, 44_100), Trim { lead: 2112, keep: Some(88_200) });
        assert_eq!(with(44_100, vec![], tag).trim(1, 44_100), Trim::default(), "longer than the media");
    }

    #[test]
    fn the_gapless_tag_is_parsed() {
        let text = b" 00000000 00000840 000001C4 00000000000158 00000000";
        let mut item = Vec::new();
        for (kind, body) in [(b"mean", &b"\0\0\0\0com.apple.iTunes"[..]), (b"name", b"\0\0\0\0iTunSMPB")] {
            item.extend((body.len() as u32 + 8).to_be_bytes());
            item.extend(kind);
            item.extend(body);
        }
        item.extend((text.len() as u32 + 16).to_be_bytes());
        item.extend(b"data\0\0\0\x01\0\0\0\0");
        item.extend(text);
        assert_eq!(gapless_tag(*b"----", &item), Some([0x840, 0x1c4, 0x158]));
        assert_eq!(gapless_tag(*b"free", &item), None);
    }

    #[test]
    fn broken_boxes_end_the_walk() {
        assert_eq!(boxes(b"\0\0\0\x04moov").count(), 0, "smaller than its own header");
        assert_eq!(boxes(&[0xff; 64]).count(), 1, "longer than the bytes");
        assert_eq!(read_index(&[0xff; 64]), Layout::default());
    }
}
