//! The decoding loop: packets in, blocks of mono samples out, and a verdict on what the packets were worth.

use std::fs::File;
use std::path::Path;

use symphonia::core::audio::Channels;
use symphonia::core::codecs::audio::AudioDecoder;
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::FormatReader;
use symphonia::core::io::MediaSource;
use symphonia::core::packet::Packet;
use symphonia::core::units::Duration;

use super::container::{self, Extent};
use super::error::is_end;
use super::mpeg::mpeg_header;
use super::setup::{audio_track, make_decoder, mix_down};
use super::sniff::{Container, sniff};
use super::window::Budget;
use super::{DecodeError, DecodeOptions};

/// What the headers say about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AudioInfo {
    /// Sample rate in Hz.
    pub sample_rate: u32,
    /// Channels before the downmix.
    pub channels: usize,
    /// Container format.
    pub container: Container,
    /// Short name of the codec: `mp3`, `flac`, `aac`, ...
    pub codec: &'static str,
    /// Samples per channel that the headers promise; `None` where they don't.
    pub declared_len: Option<u64>,
}

/// Damage that was bridged with silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Places at which packets were broken or missing.
    pub count: u64,
    /// Samples of silence put in their place.
    pub samples: u64,
}

/// Share of samples that may be lost to damage.
const MOST_LOST: f64 = 0.02;
/// Share by which a file may fall short of its promise, and the seconds that are always forgiven.
const MOST_MISSING: f64 = 0.001;
const MISSING_FORGIVEN_S: f64 = 0.25;
/// Packets in a row that give nothing (other streams, empty packets) before the file counts as damaged.
const MOST_IDLE_PACKETS: u32 = 20_000;
/// Failures of the demuxer in a row before the file counts as damaged.
const MOST_DEMUX_FAILURES: u32 = 64;
/// Packets that are read for a sample rate and a number of channels that the header leaves open.
const PACKETS_THAT_MAY_TELL: usize = 16;
/// Longest gap between two packets that is bridged with silence, in seconds.
const LONGEST_GAP_S: f64 = 10.0;
/// Shortest gap in an Ogg stream that counts, in samples: some encoders' page positions are off by a window or so.
const SHORTEST_OGG_GAP: u64 = 8192;
/// Most samples that the position of the last page of an Ogg stream may cut: more than any encoder pads with.
const MOST_TRIMMED: u64 = 1 << 14;
/// Isolated damage that is always forgiven, in samples: one packet of most codecs.
const ONE_PACKET: f64 = 8192.0;
/// Largest sample that can be audio: 120 dB over full scale.
const LOUDEST: f32 = 1e6;
/// Largest sample that a lossy codec gives for an undamaged packet: 30 dB over full scale.
const LOUDEST_LOSSY: f32 = 32.0;

/// Decodes one file to mono, block by block.
///
/// Samples are as the codec gives them: nominally in [-1, 1], beyond it where the file overshoots. Encoder delay and
/// padding are removed wherever the container states them. Damaged packets become silence of the same length, so that
/// what follows stays in its place; when more than 2 % of a file is lost that way, it is refused.
pub struct Decoder {
    info: AudioInfo,
    options: DecodeOptions,
    reader: Box<dyn FormatReader>,
    /// Bytes that the demuxer may read until the next packet.
    budget: Budget,
    decoder: Box<dyn AudioDecoder>,
    track_id: u32,
    extent: Extent,
    faults: Faults,
    /// Samples decoded so far, before any cut.
    decoded: u64,
    /// Samples kept so far.
    kept: u64,
    /// Time stamp of the first decoded sample, where the container counts samples.
    origin_pts: Option<i64>,
    /// Samples cut by the position of a page.
    trimmed: u64,
    /// Packets that could be decoded.
    good_packets: u64,
    /// What frames of an MPEG stream have in common; others are junk.
    mpeg_kind: Option<u16>,
    /// Samples in the last good packet: the size of a broken one that doesn't say.
    packet_len: u64,
    idle_packets: u32,
    demux_failures: u32,
    mono: Vec<f32>,
    pending: Vec<f32>,
    finished: bool,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").field("info", &self.info).field("kept", &self.kept).finish_non_exhaustive()
    }
}

impl Decoder {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// Any [`DecodeError`] that the headers already justify.
    pub fn open(path: &Path, options: &DecodeOptions) -> Result<Self, DecodeError> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        if !path.metadata()?.is_file() {
            // Opening a pipe would wait for its writer.
            return Err(DecodeError::Unsupported("not a regular file".into()));
        }
        Self::new(Box::new(File::open(path)?), extension, options)
    }

    /// Opens `source`; `extension` is that of its name, without the dot, and is held against the content.
    ///
    /// # Errors
    /// Any [`DecodeError`] that the headers already justify.
    pub fn new(
        mut source: Box<dyn MediaSource>,
        extension: Option<&str>,
        options: &DecodeOptions,
    ) -> Result<Self, DecodeError> {
        let len = source.byte_len().unwrap_or(0);
        let max = options.limits.max_file_len;
        if len > max {
            return Err(DecodeError::TooLarge(format!("{len} bytes, the limit is {max}")));
        }
        let found = sniff(&mut *source, len, extension)?;
        let opened = container::open(source, &found)?;
        let track = audio_track(&*opened.reader)?.clone();
        let decoder = make_decoder(&track, found.container)?;
        let params = decoder.codec_params();
        let sample_rate = params.sample_rate.unwrap_or(0);
        let channels = params.channels.as_ref().map_or(0, Channels::count);
        let extent = opened.extent(&track, sample_rate);
        let info = AudioInfo {
            sample_rate,
            channels,
            container: found.container,
            codec: decoder.codec_info().short_name,
            declared_len: extent.promised,
        };
        let mut this = Self {
            info,
            options: options.clone(),
            reader: opened.reader,
            budget: opened.budget,
            decoder,
            track_id: track.id,
            extent,
            faults: Faults::default(),
            decoded: 0,
            kept: 0,
            origin_pts: None,
            trimmed: 0,
            good_packets: 0,
            mpeg_kind: None,
            packet_len: 0,
            idle_packets: 0,
            demux_failures: 0,
            mono: Vec::new(),
            pending: Vec::new(),
            finished: false,
        };
        // A few containers leave rate or channels to the first packet.
        for _ in 0..PACKETS_THAT_MAY_TELL {
            if this.info.channels > 0 && this.info.sample_rate > 0 || this.finished {
                break;
            }
            this.step()?;
        }
        options.limits.check(&this.info)?;
        Ok(this)
    }

    /// What the headers say.
    pub fn info(&self) -> &AudioInfo {
        &self.info
    }

    /// Damage bridged so far.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Replaces the content of `block` with the next samples; `false` and an empty block at the end.
    ///
    /// Every block but the last has [`DecodeOptions::block_len`] samples. After an error there is nothing more to get.
    ///
    /// # Errors
    /// [`DecodeError`] when the file breaks a limit or turns out to be damaged, cut short or empty; the last two only
    /// with the last block.
    pub fn next_block(&mut self, block: &mut Vec<f32>) -> Result<bool, DecodeError> {
        block.clear();
        let wanted = self.options.block_len.max(1);
        while self.pending.len() < wanted && !self.finished {
            if let Err(error) = self.step() {
                self.finished = true;
                self.pending.clear();
                return Err(error);
            }
        }
        let count = wanted.min(self.pending.len());
        block.extend(self.pending.drain(..count));
        Ok(count > 0)
    }

    /// Decodes one packet.
    fn step(&mut self) -> Result<(), DecodeError> {
        let packet = match self.reader.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => return self.finish(),
            Err(SymphoniaError::IoError(error)) if is_end(&error) => return self.finish(),
            Err(SymphoniaError::ResetRequired) => return self.next_link(),
            Err(SymphoniaError::DecodeError(what)) => {
                self.demux_failures += 1;
                self.faults.count += 1;
                if self.demux_failures > MOST_DEMUX_FAILURES {
                    return Err(DecodeError::Corrupt(what.into()));
                }
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        self.demux_failures = 0;
        self.idle_packets += 1;
        if self.idle_packets > MOST_IDLE_PACKETS {
            return Err(DecodeError::Corrupt(format!("{MOST_IDLE_PACKETS} packets in a row without audio")));
        }
        if packet.track_id != self.track_id {
            return Ok(());
        }
        self.bridge_gap(&packet)?;
        match self.decoder.decode(&packet) {
            Ok(buffer) => {
                let (rate, channels) = (buffer.spec().rate(), buffer.num_planes());
                mix_down(&buffer, self.options.downmix, &mut self.mono);
                self.take_packet(&packet, rate, channels)
            }
            // Damage can look like a feature; a feature that isn't supported shows in the first packets.
            Err(SymphoniaError::Unsupported(what)) if self.good_packets == 0 => {
                Err(DecodeError::Unsupported(what.into()))
            }
            Err(error) => {
                let junk = self.info.container == Container::Mpeg
                    && self.mpeg_kind.is_some_and(|kind| mpeg_header(&packet.data).is_none_or(|h| h.kind != kind));
                let len = match packet.block_dur().is_zero() {
                    _ if junk => 0, // bytes between the frames that look like one
                    true => self.packet_len,
                    false => self.packet_samples(&packet),
                };
                self.conceal(len, &error.to_string())
            }
        }
    }

    /// Takes the samples of a good packet, which are in `mono`.
    fn take_packet(&mut self, packet: &Packet, rate: u32, channels: usize) -> Result<(), DecodeError> {
        if self.mono.is_empty() {
            return Ok(());
        }
        let AudioInfo { sample_rate, channels: known, .. } = &mut self.info;
        if *sample_rate == 0 || *known == 0 {
            (*sample_rate, *known) = (rate, channels);
            self.options.limits.check(&self.info)?;
        } else if (*sample_rate, *known) != (rate, channels) {
            let (was, were) = (*sample_rate, *known);
            let change = format!("it changes from {was} Hz and {were} channels to {rate} Hz and {channels}");
            return Err(DecodeError::Unsupported(change));
        }
        self.budget.renew();
        if is_lossy(self.info.codec) && peak(&self.mono) > LOUDEST_LOSSY {
            return self.conceal(self.mono.len() as u64, "a packet decodes to noise");
        }
        self.good_packets += 1;
        self.packet_len = self.mono.len() as u64;
        if self.info.container == Container::Mpeg && self.mpeg_kind.is_none() {
            self.mpeg_kind = mpeg_header(&packet.data).map(|header| header.kind);
        }
        self.trimmed += packet.trim_end.get();
        if self.trimmed > MOST_TRIMMED && self.info.container == Container::Ogg {
            return Err(DecodeError::Corrupt("its page positions are wrong".into()));
        }
        self.drop_before_zero(packet);
        self.keep_mono()
    }

    /// Samples that `packet` says it holds.
    fn packet_samples(&self, packet: &Packet) -> u64 {
        let samples = self.seconds_of(packet.block_dur()).unwrap_or(0.0) * f64::from(self.info.sample_rate);
        (samples.round() as u64).min(self.packet_len.max(1 << 16))
    }

    /// Puts silence where packets are missing, in containers whose time stamps count samples.
    fn bridge_gap(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        let shortest = match self.info.container {
            Container::Flac => 1,
            Container::Ogg => SHORTEST_OGG_GAP,
            _ => return Ok(()),
        };
        let start = packet.pts.get();
        // An Ogg stream may begin late; what its first page says about an early beginning isn't reliable.
        let origin = *self.origin_pts.get_or_insert(start.max(0).saturating_sub_unsigned(self.decoded));
        let gap = start.saturating_sub(origin).saturating_sub_unsigned(self.decoded).max(0).unsigned_abs();
        if gap < shortest {
            return Ok(());
        }
        if gap as f64 > LONGEST_GAP_S * f64::from(self.info.sample_rate) {
            return Err(DecodeError::Corrupt(format!("{gap} samples are missing at sample {}", self.kept)));
        }
        self.conceal(gap, "packets are missing")
    }

    /// Cuts what lies before time zero: CAF and Matroska state the delay of their encoders that way.
    fn drop_before_zero(&mut self, packet: &Packet) {
        let early = match self.info.container {
            Container::Caf => packet.pts.get().min(0).unsigned_abs(),
            // Opus says it in samples, which the extent knows; Matroska counts milliseconds.
            Container::Matroska if packet.pts.is_negative() && self.info.codec != "opus" => {
                let early = Duration::new(packet.pts.get().unsigned_abs());
                self.seconds_of(early).map_or(0, |s| (s * f64::from(self.info.sample_rate)).round() as u64)
            }
            _ => 0,
        };
        self.mono.drain(..early.min(self.mono.len() as u64) as usize);
    }

    /// A duration in the time base of the track, in seconds.
    fn seconds_of(&self, duration: Duration) -> Option<f64> {
        let track = self.reader.tracks().iter().find(|track| track.id == self.track_id)?;
        Some(track.time_base?.calc_duration(duration)?.as_secs_f64())
    }

    /// Adds `len` samples of silence in place of damage.
    fn conceal(&mut self, len: u64, what: &str) -> Result<(), DecodeError> {
        self.faults.count += 1;
        self.faults.samples += len;
        // More may be lost while little has been heard; the last word is in `finish`.
        let allowed = MOST_LOST * self.decoded as f64 + f64::from(self.info.sample_rate);
        if self.faults.samples as f64 > allowed || self.faults.count > 64 + self.good_packets / 20 {
            return Err(self.too_damaged(what));
        }
        self.mono.clear();
        self.mono.resize(len as usize, 0.0);
        self.keep_mono()
    }

    fn too_damaged(&self, what: &str) -> DecodeError {
        let Faults { count, samples } = self.faults;
        let of = self.decoded + samples;
        DecodeError::Corrupt(format!("{count} faults cost {samples} of {of} samples (the last: {what})"))
    }

    /// Moves what the extent keeps of `mono` to `pending`.
    fn keep_mono(&mut self) -> Result<(), DecodeError> {
        let len = self.mono.len() as u64;
        if len == 0 {
            return Ok(());
        }
        self.idle_packets = 0;
        let is_audio = |sample: &f32| sample.abs() <= LOUDEST;
        if peak(&self.mono) > LOUDEST
            && let Some(at) = self.mono.iter().position(|sample| !is_audio(sample))
        {
            return Err(DecodeError::Numeric { at: self.decoded + at as u64, value: self.mono[at] });
        }
        let Extent { lead, keep, .. } = self.extent;
        let from = lead.saturating_sub(self.decoded).min(len);
        let to = keep.map_or(len, |keep| (lead + keep).saturating_sub(self.decoded).min(len)).max(from);
        self.pending.extend_from_slice(&self.mono[from as usize..to as usize]);
        self.decoded += len;
        self.kept += to - from;
        let seconds = self.kept as f64 / f64::from(self.info.sample_rate);
        self.options.limits.check_duration(seconds)?;
        if keep.is_some_and(|keep| self.kept >= keep) { self.finish() } else { Ok(()) }
    }

    /// Goes on with the next stream of a chained Ogg file.
    fn next_link(&mut self) -> Result<(), DecodeError> {
        let track = audio_track(&*self.reader)?.clone();
        let decoder = make_decoder(&track, self.info.container)?;
        let params = decoder.codec_params();
        let channels = params.channels.as_ref().map_or(0, Channels::count);
        if params.sample_rate != Some(self.info.sample_rate) || channels != self.info.channels {
            return Err(DecodeError::Unsupported("the streams chained in it differ in rate or channels".into()));
        }
        self.demux_failures += 1; // a chain of empty links must end, too
        if self.demux_failures > MOST_DEMUX_FAILURES {
            return Err(DecodeError::Corrupt("too many empty streams in a chain".into()));
        }
        let link = container::stream_extent(&track, self.info.container);
        self.extent.lead = self.decoded + link.lead;
        self.extent.promised = self.extent.promised.zip(link.promised).map(|(all, this)| all + this);
        self.decoder = decoder;
        self.track_id = track.id;
        self.origin_pts = None;
        self.trimmed = 0;
        Ok(())
    }

    /// Judges the file after its last packet.
    fn finish(&mut self) -> Result<(), DecodeError> {
        self.finished = true;
        let Faults { count, samples } = self.faults;
        let too_much = (MOST_LOST * self.decoded as f64).max(if count > 1 { 0.0 } else { ONE_PACKET });
        if samples as f64 > too_much || count > 2 + self.good_packets / 20 {
            return Err(self.too_damaged("end of the file"));
        }
        let rate = f64::from(self.info.sample_rate);
        if let Some(promised) = self.extent.promised {
            let missing = promised.saturating_sub(self.kept) as f64;
            let forgiven = (MISSING_FORGIVEN_S * rate).max(MOST_MISSING * promised as f64);
            if missing > forgiven || self.kept == 0 {
                let (have, want) = (self.kept as f64 / rate, promised as f64 / rate);
                return Err(DecodeError::Truncated(format!("{have:.2} s of the {want:.2} s that its header promises")));
            }
        }
        if self.kept == 0 {
            return Err(DecodeError::Empty("no samples in the file".into()));
        }
        Ok(())
    }
}

/// The largest magnitude in `samples`; infinite if one isn't a number.
fn peak(samples: &[f32]) -> f32 {
    // Without their signs, the bits of floating-point numbers are ordered as they are, NaN above infinity.
    let bits = samples.iter().fold(0, |peak, sample| peak.max((sample.to_bits() & 0x7fff_ffff).cast_signed()));
    let peak = f32::from_bits(bits.cast_unsigned());
    if peak.is_nan() { f32::INFINITY } else { peak }
}

fn is_lossy(codec: &str) -> bool {
    matches!(codec, "aac" | "opus" | "vorbis" | "mp1" | "mp2" | "mp3")
}
