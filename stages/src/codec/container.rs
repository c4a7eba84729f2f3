//! From recognised bytes to a demuxer, with what the demuxer needs to be told and what it can't tell.

use std::cmp::Ordering;

use symphonia::core::formats::{FormatOptions, FormatReader, Track};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions, ReadBytes};
use symphonia::default::formats::{
    AdtsReader, AiffReader, CafReader, FlacReader, IsoMp4Reader, MkvReader, MpaReader, OggReader, WavReader,
};

use super::DecodeError;
use super::mp4::{self, Trim};
use super::mpeg::encoder_tag;
use super::opus::Head;
use super::sniff::{Container, Sniffed};
use super::window::{Budget, Window, read_at};
use super::{matroska, ogg, riff};

/// A demuxer, and what is known about the length of what it will give.
pub(super) struct Opened {
    pub(super) reader: Box<dyn FormatReader>,
    pub(super) budget: Budget,
    hints: Hints,
}

/// What the container says beyond what its demuxer reports.
enum Hints {
    /// The demuxer's own count of samples is to be believed.
    Demuxer(Stated),
    /// A stream of Ogg, whose pages count samples.
    Ogg,
    /// The demuxer's count is a guess or a placeholder.
    Unknown,
    /// Samples per channel in all frames of an MPEG stream, with the cut that its encoder asks for.
    Mpeg { frames: Option<u64>, trim: Trim },
    /// The boxes of an MP4 file.
    Mp4(mp4::Layout),
}

/// Where a file states the exact number of samples, beyond which there is only filling.
enum Stated {
    Nowhere,
    Len(u64),
    /// In the number that the demuxer reports for the track.
    ByTrack,
    /// There, too, if the demuxer also reports padding.
    ByPadding,
}

/// Which decoded samples are audio, and how many there ought to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Samples to drop from the start of the decoded stream.
    pub(super) lead: u64,
    /// Samples to keep after that; `None` for all.
    pub(super) keep: Option<u64>,
    /// Samples that the headers promise after both cuts.
    pub(super) promised: Option<u64>,
}

impl Opened {
    /// The extent of `track`, whose decoder runs at `sample_rate` Hz.
    pub(super) fn extent(&self, track: &Track, sample_rate: u32) -> Extent {
        match &self.hints {
            Hints::Unknown => Extent::default(),
            Hints::Mpeg { frames, trim } => {
                let promised = trim.keep.or_else(|| frames.map(|frames| frames.saturating_sub(trim.lead)));
                Extent { lead: trim.lead, keep: trim.keep, promised }
            }
            Hints::Ogg => stream_extent(track, Container::Ogg),
            Hints::Mp4(layout) => {
                let mut trim = layout.trim(track.id, sample_rate);
                if !layout.has_edits(track.id) {
                    trim.lead = trim.lead.max(pre_skip(track, Container::Mp4));
                }
                let all = demuxer_len(track, &*self.reader, sample_rate).map(|len| len.saturating_sub(trim.lead));
                Extent { lead: trim.lead, keep: trim.keep, promised: trim.keep.or(all) }
            }
            Hints::Demuxer(stated) => {
                let len = demuxer_len(track, &*self.reader, sample_rate);
                let stated = match stated {
                    Stated::Len(stated) => Some(*stated),
                    Stated::ByTrack => track.num_frames.filter(|len| *len > 0),
                    Stated::ByPadding => track.padding.and(track.num_frames),
                    Stated::Nowhere => None,
                };
                let stated = stated.filter(|stated| len.is_none_or(|len| *stated <= len));
                let lead = pre_skip(track, Container::Matroska);
                Extent { lead, keep: stated, promised: stated.or(len.map(|len| len.saturating_sub(lead))) }
            }
        }
    }
}

/// The extent of a stream of an Ogg file. Its last page tells the position of its end, which counts from the first
/// sample to be played in Vorbis, and from the first sample decoded in Opus. Source: RFC 7845 section 4.
pub(super) fn stream_extent(track: &Track, container: Container) -> Extent {
    let lead = pre_skip(track, container);
    let start = track.start_ts.get().max(0).unsigned_abs(); // a recording of a broadcast begins late
    let len = track.num_frames.map(|end| end.saturating_sub(start + lead));
    Extent { lead, keep: None, promised: len.filter(|len| *len > 0) }
}

/// Samples that the header of an Opus track tells to drop from its start.
fn pre_skip(track: &Track, container: Container) -> u64 {
    Head::of_track(track, container).map_or(0, |head| u64::from(head.pre_skip))
}

/// The length of `track` in samples as its demuxer reports it; 0 counts as not said.
fn demuxer_len(track: &Track, reader: &dyn FormatReader, sample_rate: u32) -> Option<u64> {
    let from_time = || {
        let media = reader.media_info();
        let own = track.time_base.zip(track.duration);
        let (base, duration) = own.or_else(|| media.time_base.zip(media.duration))?;
        let seconds = base.calc_duration(duration)?.as_secs_f64();
        Some((seconds * f64::from(sample_rate)).round() as u64)
    };
    track.num_frames.or_else(from_time).filter(|len| *len > 0)
}

/// Opens what [`super::sniff::sniff`] has found.
pub(super) fn open(mut source: Box<dyn MediaSource>, found: &Sniffed) -> Result<Opened, DecodeError> {
    let &Sniffed { container, start, end } = found;
    let mut prefix = Vec::new();
    // Chunks that run a little past the end of the file are an error to most demuxers. A read that comes back short is
    // not, so the window is made to reach as far as they claim; how much audio is there is checked at the end.
    let mut range = start..end;
    let mut hints = Hints::Demuxer(Stated::Nowhere);
    match container {
        Container::Wav => {
            if let Some(samples) = riff::wave_samples(&mut *source, start, end)? {
                // Sizes in the outer header are often wrong or, in RF64, elsewhere: "unknown" is always right.
                prefix = b"RIFF\xff\xff\xff\xffWAVE".to_vec();
                range = start + 12..samples.end;
                let stated = samples.stated_len.map_or(Stated::Nowhere, Stated::Len);
                hints = if samples.open_ended { Hints::Unknown } else { Hints::Demuxer(stated) };
            }
        }
        Container::Aiff => {
            let samples = riff::aiff_samples(&mut *source, start, end)?;
            range.end = samples.map_or(end, |samples| samples.claimed_end.max(end));
        }
        Container::Flac => {
            if let Some((stream_info, frames)) = flac_frames(&mut *source, start)? {
                match frames.cmp(&end) {
                    Ordering::Less => {}
                    Ordering::Equal => return Err(DecodeError::Empty("no frames follow the header".into())),
                    Ordering::Greater => return Err(DecodeError::Truncated("it ends inside its headers".into())),
                }
                prefix = stream_info;
                range = frames..end;
                hints = Hints::Demuxer(Stated::ByTrack);
            }
        }
        Container::Ogg => {
            ogg::check(&mut *source, start, end)?;
            hints = Hints::Ogg;
        }
        Container::Matroska => range.end = matroska::claimed_end(&mut *source, start, end)?.max(end),
        Container::Mp4 => {
            let layout = mp4::layout(&mut *source, start, end)?;
            range.end = layout.end;
            hints = Hints::Mp4(layout);
        }
        Container::Mpeg => hints = mpeg_hints(&mut *source, start, end)?,
        Container::Adts => hints = Hints::Unknown,
        Container::Caf => hints = Hints::Demuxer(Stated::ByPadding),
    }
    let window = Window::new(source, prefix, range.start, range.end)?;
    let budget = window.budget();
    let mut stream = MediaSourceStream::new(Box::new(window), MediaSourceStreamOptions::default());
    let options = FormatOptions::default();
    let reader: Result<Box<dyn FormatReader>, _> = match container {
        Container::Wav => WavReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Aiff => AiffReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Caf => CafReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Flac => FlacReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Ogg => OggReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Matroska => MkvReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Mpeg => MpaReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Adts => AdtsReader::try_new(stream, options).map(|r| Box::new(r) as _),
        Container::Mp4 => {
            // This demuxer expects to be called behind the size of the first box, where its marker is.
            stream.read_quad_bytes()?;
            IsoMp4Reader::try_new(stream, options).map(|r| Box::new(r) as _)
        }
    };
    Ok(Opened { reader: reader.map_err(DecodeError::while_opening)?, budget, hints })
}

/// A FLAC header reduced to its STREAMINFO block, and where the frames begin. Pictures, cue sheets and other metadata
/// are skipped: they cost memory, and their faults aren't faults of the audio. Source: RFC 9639 section 8.
fn flac_frames(source: &mut dyn MediaSource, start: u64) -> Result<Option<(Vec<u8>, u64)>, DecodeError> {
    const MOST_BLOCKS: usize = 10_000;
    const STREAM_INFO_LEN: usize = 34;
    let mut header = read_at(source, start, 8 + STREAM_INFO_LEN)?;
    if header.len() < 8 + STREAM_INFO_LEN || header[4] & 0x7f != 0 || header[5..8] != [0, 0, STREAM_INFO_LEN as u8] {
        return Ok(None); // not as the specification has it: let the demuxer say so
    }
    let mut is_last = header[4] & 0x80 != 0;
    let mut at = start + header.len() as u64;
    for _ in 0..MOST_BLOCKS {
        if is_last {
            break;
        }
        let block = read_at(source, at, 4)?;
        let Some(&[kind, a, b, c]) = block.first_chunk::<4>() else { return Ok(None) };
        is_last = kind & 0x80 != 0;
        at += 4 + u64::from(u32::from_be_bytes([0, a, b, c]));
    }
    header[4] |= 0x80;
    Ok(is_last.then_some((header, at)))
}

/// Reads the encoder's tag in the first frame of an MPEG stream.
fn mpeg_hints(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<Hints, DecodeError> {
    const LONGEST_FRAME: usize = 2881;
    let head = read_at(source, start, LONGEST_FRAME)?;
    let (Some(tag), Some(header)) = (encoder_tag(&head), super::mpeg::mpeg_header(&head)) else {
        return Ok(Hints::Unknown);
    };
    let present = end - start;
    let announced = tag.bytes.map_or(0, u64::from);
    if present + (announced / 100).max(8 * LONGEST_FRAME as u64) < announced {
        return Err(DecodeError::Truncated(format!("its tag announces {announced} bytes and {present} are there")));
    }
    // A tag that covers less than the file is left over from before something was appended.
    let covers_all = tag.bytes.is_none_or(|bytes| present <= u64::from(bytes) + 2 * LONGEST_FRAME as u64);
    // No frame is shorter than 24 bytes (8 kbit/s at 24 kHz): a count beyond that is made up.
    let plausible = |frames: &u32| *frames > 0 && u64::from(*frames) * 24 <= present;
    let frames = tag.frames.filter(|_| covers_all).filter(plausible);
    let frames = frames.map(|frames| u64::from(frames) * u64::from(header.samples));
    let (lead, padding) = tag.trim.unwrap_or_default();
    let kept = |frames: u64| frames.checked_sub(u64::from(lead) + u64::from(padding));
    let keep = tag.trim.and(frames).and_then(kept);
    Ok(Hints::Mpeg { frames, trim: Trim { lead: u64::from(lead), keep } })
}
