//! From recognised bytes to a demuxer, with what the demuxer needs to be told and what it can't tell.

use symphonia::core::codecs::CodecParameters;
use symphonia::core::formats::{FormatOptions, FormatReader, Track};
use symphonia::core::io::{MediaSource, MediaSourceStream, MediaSourceStreamOptions, ReadBytes};
use symphonia::default::formats::{
    AdtsReader, AiffReader, CafReader, FlacReader, IsoMp4Reader, MkvReader, MpaReader, OggReader, WavReader,
};

use super::DecodeError;
use super::mp4::{self, Trim};
use super::mpeg::encoder_tag;
use super::riff;
use super::sniff::{Container, Sniffed};
use super::window::{Window, read_at};

/// A demuxer, and what is known about the length of what it will give.
pub(super) struct Opened {
    pub(super) reader: Box<dyn FormatReader>,
    hints: Hints,
}

/// What the container says beyond what its demuxer reports.
enum Hints {
    /// The demuxer's own count of samples is to be believed.
    Demuxer,
    /// The demuxer's count is a guess or a placeholder.
    Unknown,
    /// Samples per channel in all frames of an MPEG stream, with the cut that its encoder asks for.
    Mpeg { frames: Option<u64>, trim: Trim },
    /// The boxes of an MP4 file.
    Mp4(mp4::Layout),
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
            Hints::Mp4(layout) => {
                let trim = layout.trim(track.id, sample_rate);
                let all = demuxer_len(track, &*self.reader, sample_rate).map(|len| len.saturating_sub(trim.lead));
                Extent { lead: trim.lead, keep: trim.keep, promised: trim.keep.or(all) }
            }
            Hints::Demuxer => {
                let keep = track.padding.and(track.num_frames).filter(|_| track.delay.is_some());
                Extent { lead: 0, keep, promised: demuxer_len(track, &*self.reader, sample_rate) }
            }
        }
    }
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
    let mut range = start..end;
    let mut hints = Hints::Demuxer;
    match container {
        Container::Wav => {
            if let Some(samples) = riff::wave_samples(&mut *source, start, end)? {
                // Sizes in the outer header are often wrong or, in RF64, elsewhere: "unknown" is always right.
                prefix = b"RIFF\xff\xff\xff\xffWAVE".to_vec();
                range = start + 12..samples.end;
                if samples.open_ended {
                    hints = Hints::Unknown;
                }
            }
        }
        Container::Aiff => {
            riff::aiff_samples(&mut *source, start, end)?;
        }
        Container::Flac => {
            if let Some((stream_info, frames)) = flac_frames(&mut *source, start)? {
                prefix = stream_info;
                range = frames..end;
            }
        }
        Container::Ogg => check_last_page(&mut *source, start, end)?,
        Container::Mp4 => hints = Hints::Mp4(mp4::layout(&mut *source, start, end)?),
        Container::Mpeg => hints = mpeg_hints(&mut *source, start, end)?,
        Container::Adts => hints = Hints::Unknown,
        Container::Caf | Container::Matroska => {}
    }
    let window = Window::new(source, prefix, range.start, range.end)?;
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
    Ok(Opened { reader: reader.map_err(DecodeError::while_opening)?, hints })
}

/// The first audio track that names a codec.
pub(super) fn audio_track(reader: &dyn FormatReader) -> Result<&Track, DecodeError> {
    let is_audio = |track: &&Track| matches!(track.codec_params, Some(CodecParameters::Audio(_)));
    match reader.tracks() {
        [] => Err(DecodeError::Unsupported("no stream in a format that is known".into())),
        tracks => tracks
            .iter()
            .find(is_audio)
            .ok_or_else(|| DecodeError::Unsupported("no audio stream in a format that is known".into())),
    }
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

/// Refuses an Ogg file that ends in the middle of a page: its header promises no length that could be checked instead.
/// Source: RFC 3533 section 6.
fn check_last_page(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<(), DecodeError> {
    const LONGEST_PAGE: u64 = 27 + 255 + 255 * 255;
    let at = end.saturating_sub(2 * LONGEST_PAGE).max(start);
    let tail = read_at(source, at, (end - at) as usize)?;
    let Some(last) = tail.windows(4).rposition(|bytes| bytes == b"OggS") else { return Ok(()) };
    let page = &tail[last..];
    let complete = page.get(26).is_some_and(|&segments| {
        let lacing = page.get(27..27 + usize::from(segments));
        lacing.is_some_and(|sizes| {
            let body: usize = sizes.iter().map(|&size| usize::from(size)).sum();
            27 + sizes.len() + body <= page.len()
        })
    });
    if complete { Ok(()) } else { Err(DecodeError::Truncated("its last Ogg page is incomplete".into())) }
}

/// Reads the encoder's tag in the first frame of an MPEG stream.
fn mpeg_hints(source: &mut dyn MediaSource, start: u64, end: u64) -> Result<Hints, DecodeError> {
    const LONGEST_FRAME: usize = 2881;
    let head = read_at(source, start, LONGEST_FRAME)?;
    let (Some(tag), Some(header)) = (encoder_tag(&head), super::mpeg::mpeg_header(&head)) else {
        return Ok(Hints::Unknown);
    };
    let present = end - start;
    if let Some(bytes) = tag.bytes.map(u64::from) {
        if present + (bytes / 100).max(8 * LONGEST_FRAME as u64) < bytes {
            return Err(DecodeError::Truncated(format!("its tag announces {bytes} bytes and {present} are there")));
        }
    }
    // A tag that covers less than the file is left over from before something was appended.
    let covers_all = tag.bytes.is_none_or(|bytes| present <= u64::from(bytes) + 2 * LONGEST_FRAME as u64);
    let frames = tag.frames.filter(|_| covers_all).map(|frames| u64::from(frames) * u64::from(header.samples));
    let (lead, padding) = tag.trim.unwrap_or_default();
    let kept = |frames: u64| frames.checked_sub(u64::from(lead) + u64::from(padding));
    let keep = tag.trim.and(frames).and_then(kept);
    Ok(Hints::Mpeg { frames, trim: Trim { lead: u64::from(lead), keep } })
}
