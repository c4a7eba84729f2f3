//! The decoding loop: packets in, blocks of mono samples out, and a verdict on what the packets were worth.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::Path;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::{AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::{FormatReader, Track};
use symphonia::core::io::MediaSource;
use symphonia::core::packet::Packet;

use super::DecodeError;
use super::container::{self, Extent, audio_track};
use super::error::is_end;
use super::sniff::{Container, sniff};

/// How the channels of a file become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Downmix {
    /// The mean of all channels.
    #[default]
    Mean,
    /// The first channel.
    Left,
    /// The second channel; the only one where there is only one.
    Right,
}

/// What a file may ask for before it is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest recording, in seconds.
    pub max_duration_s: f64,
    /// Largest file, in bytes.
    pub max_file_len: u64,
    /// Most channels.
    pub max_channels: usize,
    /// Sample rates that make sense, in Hz.
    pub sample_rates: RangeInclusive<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_duration_s: 6.0 * 3600.0, max_file_len: 8 << 30, max_channels: 16, sample_rates: 4_000..=384_000 }
    }
}

/// How to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodeOptions {
    /// What a file may ask for.
    pub limits: Limits,
    /// How its channels become one.
    pub downmix: Downmix,
    /// Samples in a block; the last one may be shorter. 65,536 are 1.5 s at 44.1 kHz.
    pub block_len: usize,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self { limits: Limits::default(), downmix: Downmix::Mean, block_len: 1 << 16 }
    }
}

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
/// Longest gap between two packets that is bridged with silence, in seconds.
const LONGEST_GAP_S: f64 = 10.0;

/// Decodes one file to mono, block by block.
///
/// Samples are as the codec gives them: nominally in [-1, 1], beyond it where the file overshoots. Encoder delay and
/// padding are removed wherever the container states them. Damaged packets become silence of the same length, so that
/// what follows stays in its place; when more than 2 % of a file is lost that way, it is refused.
pub struct Decoder {
    info: AudioInfo,
    options: DecodeOptions,
    reader: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track_id: u32,
    extent: Extent,
    faults: Faults,
    /// Samples decoded so far, before any cut.
    decoded: u64,
    /// Samples kept so far.
    kept: u64,
    /// Time stamp at which the next packet should start, where the container counts samples.
    next_pts: Option<i64>,
    /// Samples in the last good packet: the size of a broken one that doesn't say.
    packet_len: u64,
    idle_packets: u32,
    demux_failures: u32,
    planes: Vec<Vec<f32>>,
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
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(DecodeError::Unsupported("not a regular file".into()));
        }
        Self::new(Box::new(file), extension, options)
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
        let channels = params.channels.as_ref().map_or(0, |channels| channels.count());
        let extent = opened.extent(&track, sample_rate);
        let info = AudioInfo {
            sample_rate,
            channels,
            container: found.container,
            codec: decoder.codec_info().short_name,
            declared_len: extent.promised,
        };
        check_limits(&info, &options.limits)?;
        Ok(Self {
            info,
            options: options.clone(),
            reader: opened.reader,
            decoder,
            track_id: track.id,
            extent,
            faults: Faults::default(),
            decoded: 0,
            kept: 0,
            next_pts: None,
            packet_len: 0,
            idle_packets: 0,
            demux_failures: 0,
            planes: Vec::new(),
            mono: Vec::new(),
            pending: Vec::new(),
            finished: false,
        })
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
                let channels = buffer.num_planes();
                mix_down(&buffer, self.options.downmix, &mut self.planes, &mut self.mono);
                self.packet_len = self.mono.len() as u64;
                if channels != self.info.channels && !self.mono.is_empty() {
                    let was = self.info.channels;
                    return Err(DecodeError::Unsupported(format!("it changes from {was} to {channels} channels")));
                }
                self.drop_before_zero(&packet);
                self.keep_mono()
            }
            Err(SymphoniaError::Unsupported(what)) => Err(DecodeError::Unsupported(what.into())),
            Err(SymphoniaError::LimitError(what)) => Err(DecodeError::Corrupt(what.into())),
            Err(error) => {
                let len = if packet.block_dur().is_zero() { self.packet_len } else { self.packet_samples(&packet) };
                self.conceal(len, &error.to_string())
            }
        }
    }

    /// Samples that `packet` says it holds.
    fn packet_samples(&self, packet: &Packet) -> u64 {
        let track = self.reader.tracks().iter().find(|track| track.id == self.track_id);
        let seconds = track.and_then(|track| track.time_base).and_then(|base| base.calc_duration(packet.block_dur()));
        let samples = seconds.map_or(0.0, |s| s.as_secs_f64() * f64::from(self.info.sample_rate));
        (samples.round() as u64).min(self.packet_len.max(1 << 16))
    }

    /// Puts silence where packets are missing, in containers whose time stamps count samples.
    fn bridge_gap(&mut self, packet: &Packet) -> Result<(), DecodeError> {
        if !matches!(self.info.container, Container::Flac | Container::Ogg) {
            return Ok(());
        }
        let start = packet.pts.get();
        let gap = self.next_pts.map_or(0, |expected| start.saturating_sub(expected));
        self.next_pts = Some(start.saturating_add_unsigned(packet.block_dur().get()));
        if gap <= 0 {
            return Ok(());
        }
        if gap as f64 > LONGEST_GAP_S * f64::from(self.info.sample_rate) {
            return Err(DecodeError::Corrupt(format!("{gap} samples are missing at sample {}", self.kept)));
        }
        self.conceal(gap.unsigned_abs(), "packets are missing")
    }

    /// Cuts what lies before time zero: Ogg and CAF state the delay of their encoders that way.
    fn drop_before_zero(&mut self, packet: &Packet) {
        if matches!(self.info.container, Container::Ogg | Container::Caf) {
            let negative = packet.pts.get().min(0).unsigned_abs().saturating_sub(packet.trim_start.get());
            let count = negative.min(self.mono.len() as u64) as usize;
            self.mono.drain(..count);
        }
    }

    /// Adds `len` samples of silence in place of damage.
    fn conceal(&mut self, len: u64, what: &str) -> Result<(), DecodeError> {
        self.faults.count += 1;
        self.faults.samples += len;
        let allowed = MOST_LOST * self.decoded as f64 + f64::from(self.info.sample_rate);
        if self.faults.samples as f64 > allowed || self.faults.count > 64 + self.decoded / 4096 {
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
        if let Some(at) = self.mono.iter().position(|sample| !sample.is_finite()) {
            return Err(DecodeError::Numeric(self.decoded + at as u64));
        }
        let Extent { lead, keep, .. } = self.extent;
        let from = lead.saturating_sub(self.decoded).min(len);
        let to = keep.map_or(len, |keep| (lead + keep).saturating_sub(self.decoded).min(len)).max(from);
        self.pending.extend_from_slice(&self.mono[from as usize..to as usize]);
        self.decoded += len;
        self.kept += to - from;
        let seconds = self.kept as f64 / f64::from(self.info.sample_rate);
        if seconds > self.options.limits.max_duration_s {
            return Err(too_long(seconds, &self.options.limits));
        }
        if keep.is_some_and(|keep| self.kept >= keep) { self.finish() } else { Ok(()) }
    }

    /// Goes on with the next stream of a chained Ogg file.
    fn next_link(&mut self) -> Result<(), DecodeError> {
        let track = audio_track(&*self.reader)?.clone();
        let decoder = make_decoder(&track, self.info.container)?;
        let params = decoder.codec_params();
        let channels = params.channels.as_ref().map_or(0, |channels| channels.count());
        if params.sample_rate != Some(self.info.sample_rate) || channels != self.info.channels {
            return Err(DecodeError::Unsupported("the streams chained in it differ in rate or channels".into()));
        }
        self.demux_failures += 1; // a chain of empty links must end, too
        if self.demux_failures > MOST_DEMUX_FAILURES {
            return Err(DecodeError::Corrupt("too many empty streams in a chain".into()));
        }
        self.extent.promised = self.extent.promised.zip(track.num_frames).map(|(all, this)| all + this);
        self.decoder = decoder;
        self.track_id = track.id;
        self.next_pts = None;
        Ok(())
    }

    /// Judges the file after its last packet.
    fn finish(&mut self) -> Result<(), DecodeError> {
        self.finished = true;
        let lost = self.faults.samples as f64;
        if self.faults.count > 1 && lost > MOST_LOST * self.decoded as f64 {
            return Err(self.too_damaged("end of the file"));
        }
        if self.kept == 0 {
            let what = if self.faults.count > 0 { "no packet could be decoded" } else { "no samples in the file" };
            return Err(DecodeError::Empty(what.into()));
        }
        if let Some(promised) = self.extent.promised {
            let missing = promised.saturating_sub(self.kept) as f64;
            let rate = f64::from(self.info.sample_rate);
            if missing > (MISSING_FORGIVEN_S * rate).max(MOST_MISSING * promised as f64) {
                let (have, want) = (self.kept as f64 / rate, promised as f64 / rate);
                return Err(DecodeError::Truncated(format!("{have:.2} s of the {want:.2} s that its header promises")));
            }
        }
        Ok(())
    }
}

fn make_decoder(track: &Track, container: Container) -> Result<Box<dyn AudioDecoder>, DecodeError> {
    let Some(CodecParameters::Audio(params)) = &track.codec_params else {
        return Err(DecodeError::Unsupported("no audio stream in a format that is known".into()));
    };
    // The MPEG demuxer cuts at a length that it may only have estimated; that cut is made here instead.
    let gapless = container != Container::Mpeg;
    let options = AudioDecoderOptions::default().gapless(gapless);
    let made = symphonia::default::get_codecs().make_audio_decoder(params, &options);
    made.map_err(|error| match DecodeError::while_opening(error) {
        DecodeError::Unsupported(what) => {
            DecodeError::Unsupported(format!("the codec in this {container} file ({what})"))
        }
        other => other,
    })
}

fn check_limits(info: &AudioInfo, limits: &Limits) -> Result<(), DecodeError> {
    let AudioInfo { sample_rate, channels, .. } = *info;
    if !limits.sample_rates.contains(&sample_rate) {
        let (low, high) = (limits.sample_rates.start(), limits.sample_rates.end());
        return Err(DecodeError::TooLarge(format!("{sample_rate} Hz, expected {low} to {high} Hz")));
    }
    if channels == 0 {
        return Err(DecodeError::Unsupported("the channel layout is unknown".into()));
    }
    if channels > limits.max_channels {
        let max = limits.max_channels;
        return Err(DecodeError::TooLarge(format!("{channels} channels, the limit is {max}")));
    }
    match info.declared_len.map(|len| len as f64 / f64::from(sample_rate)) {
        Some(seconds) if seconds > limits.max_duration_s => Err(too_long(seconds, limits)),
        _ => Ok(()),
    }
}

fn too_long(seconds: f64, limits: &Limits) -> DecodeError {
    let max = limits.max_duration_s;
    DecodeError::TooLong(format!("{seconds:.0} s, the limit is {max:.0} s"))
}

/// Replaces `mono` with the downmix of `buffer`; `planes` is scratch.
fn mix_down(buffer: &GenericAudioBufferRef<'_>, downmix: Downmix, planes: &mut Vec<Vec<f32>>, mono: &mut Vec<f32>) {
    buffer.copy_to_vecs_planar(planes);
    mono.clear();
    let chosen = match downmix {
        Downmix::Mean if planes.len() > 1 => None,
        Downmix::Right if planes.len() > 1 => planes.get(1),
        _ => planes.first(),
    };
    if let Some(plane) = chosen {
        mono.extend_from_slice(plane);
        return;
    }
    let Some((first, rest)) = planes.split_first() else { return };
    mono.extend_from_slice(first);
    for plane in rest {
        for (sum, sample) in mono.iter_mut().zip(plane) {
            *sum += sample;
        }
    }
    let scale = 1.0 / planes.len() as f32;
    mono.iter_mut().for_each(|sample| *sample *= scale);
}
