//! Opus, which Symphonia demuxes and doesn't decode: its decoder interface around libopus in Rust.
//!
//! The codec is `unsafe-libopus`, libopus 1.3.1 translated by machine: no C compiler, and the same samples as `opusdec`
//! to 3e-7. Like libopus it is one block of memory behind a pointer; everything `unsafe` about it is in [`Streams`].
//!
//! Sources: RFC 6716 (Opus), RFC 7845 section 5.1 (identification header, pre-skip, output gain, channel mapping),
//! "Encapsulation of Opus in ISO Base Media File Format" 0.8.1 section 4.3.2 (the same header, big-endian).

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::CODEC_ID_OPUS;
use symphonia::core::formats::Track;

use super::{Container, DecodeError};

/// Opus is decoded at this rate whatever went into the encoder, in Hz.
pub(super) const SAMPLE_RATE: u32 = 48_000;

/// The identification header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    channels: u8,
    /// Samples to drop from the start of the decoded stream.
    pub(super) pre_skip: u16,
    /// Gain to apply, in 1/256 dB.
    gain: i16,
    streams: u8,
    /// Streams that hold two channels; they come first.
    coupled: u8,
    /// Of each channel the stream that it is in, or 255 for silence.
    mapping: [u8; Self::MOST_CHANNELS],
}

impl Head {
    const MOST_CHANNELS: usize = 8;

    /// Reads the header, which opens with its magic.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`] for channels that stand for something else than loudspeakers, and for a version of
    /// the format that doesn't exist yet; [`DecodeError::Corrupt`] for a header that contradicts itself.
    pub(super) fn read(header: &[u8], container: Container) -> Result<Self, DecodeError> {
        let corrupt = |what: &str| DecodeError::Corrupt(format!("Opus header: {what}"));
        let Some((&[_, _, _, _, _, _, _, _, version, channels, s0, s1, _, _, _, _, g0, g1, family], table)) =
            header.split_first_chunk::<19>()
        else {
            return Err(corrupt("too short"));
        };
        let number = if container == Container::Mp4 { u16::from_be_bytes } else { u16::from_le_bytes };
        if version > 15 {
            return Err(DecodeError::Unsupported(format!("Opus of version {version} ({container} file)")));
        }
        let mut mapping = [u8::MAX; Self::MOST_CHANNELS];
        let (streams, coupled) = match (family, channels) {
            (0, 1 | 2) => {
                mapping[..2].copy_from_slice(&[0, 1]);
                (1, channels - 1)
            }
            (1, 1..=8) => {
                let &[streams, coupled, ref of_channels @ ..] = table else { return Err(corrupt("no channel table")) };
                let of_channels = of_channels.get(..usize::from(channels));
                mapping[..usize::from(channels)].copy_from_slice(of_channels.ok_or_else(|| corrupt("too short"))?);
                (streams, coupled)
            }
            (0 | 1, _) => return Err(corrupt(&format!("{channels} channels of mapping family {family}"))),
            _ => {
                let what = format!("Opus of channel mapping family {family} ({container} file)");
                return Err(DecodeError::Unsupported(what));
            }
        };
        let (pre_skip, gain) = (number([s0, s1]), number([g0, g1]) as i16);
        Ok(Self { channels, pre_skip, gain, streams, coupled, mapping })
    }

    /// The header of `track`, if that is an Opus track.
    pub(super) fn of_track(track: &Track, container: Container) -> Option<Self> {
        let Some(CodecParameters::Audio(params)) = &track.codec_params else { return None };
        let header = params.extra_data.as_deref().filter(|_| params.codec == CODEC_ID_OPUS)?;
        Self::read(header, container).ok()
    }
}

#[cfg(feature = "opus")]
pub(super) use codec::OpusDecoder;

#[cfg(feature = "opus")]
mod codec {
    use symphonia::core::audio::{
        AsGenericAudioBufferRef, Audio, AudioBuffer, AudioMut, AudioSpec, Channels, GenericAudioBufferRef,
    };
    use symphonia::core::codecs::CodecInfo;
    use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, FinalizeResult};
    use symphonia::core::errors::{Error, Result};
    use symphonia::core::packet::PacketRef;

    use super::{Container, DecodeError, Head, SAMPLE_RATE, streams::Streams};

    /// Longest packet, in samples: 120 ms.
    const LONGEST_PACKET: usize = 5760;

    /// Decodes the packets of one Opus track. Pre-skip is left in: the container's extent cuts it.
    pub(crate) struct OpusDecoder {
        params: AudioCodecParameters,
        streams: Streams,
        gain: f32,
        interleaved: Vec<f32>,
        buffer: AudioBuffer<f32>,
    }

    impl OpusDecoder {
        pub(crate) fn new(
            params: &AudioCodecParameters,
            container: Container,
        ) -> std::result::Result<Self, DecodeError> {
            let header = params.extra_data.as_deref().unwrap_or_default();
            let head = Head::read(header, container)?;
            let streams = Streams::new(&head)
                .ok_or_else(|| DecodeError::Corrupt("Opus header: a channel table that makes no sense".into()))?;
            let channels = Channels::Discrete(u16::from(head.channels));
            let mut params = params.clone();
            params.with_sample_rate(SAMPLE_RATE).with_channels(channels.clone());
            Ok(Self {
                params,
                streams,
                gain: 10f32.powf(f32::from(head.gain) / (20.0 * 256.0)),
                interleaved: vec![0.0; LONGEST_PACKET * usize::from(head.channels)],
                buffer: AudioBuffer::new(AudioSpec::new(SAMPLE_RATE, channels), LONGEST_PACKET),
            })
        }

        fn decode_packet(&mut self, packet: &PacketRef<'_>) -> Result<()> {
            let len = self.streams.decode(packet.data, &mut self.interleaved).map_err(Error::DecodeError)?;
            self.buffer.render_uninit(Some(len));
            let channels = self.buffer.num_planes();
            for (channel, plane) in self.buffer.iter_planes_mut().enumerate() {
                for (sample, frame) in plane.iter_mut().zip(self.interleaved.chunks_exact(channels)) {
                    *sample = frame[channel] * self.gain;
                }
            }
            self.buffer.trim(packet.trim_start.get() as usize, packet.trim_end.get() as usize);
            Ok(())
        }
    }

    impl AudioDecoder for OpusDecoder {
        fn reset(&mut self) {
            self.streams.reset();
        }

        fn codec_info(&self) -> &CodecInfo {
            &CodecInfo { short_name: "opus", long_name: "Opus", profiles: &[] }
        }

        fn codec_params(&self) -> &AudioCodecParameters {
            &self.params
        }

        fn decode_ref(&mut self, packet: &PacketRef<'_>) -> Result<GenericAudioBufferRef<'_>> {
            self.buffer.clear();
            self.decode_packet(packet)?;
            Ok(self.buffer.as_generic_audio_buffer_ref())
        }

        fn finalize(&mut self) -> FinalizeResult {
            FinalizeResult::default()
        }

        fn last_decoded(&self) -> GenericAudioBufferRef<'_> {
            self.buffer.as_generic_audio_buffer_ref()
        }
    }
}

#[cfg(feature = "opus")]
#[allow(unsafe_code, reason = "the codec's interface is that of a C library")]
mod streams {
    use std::ptr::NonNull;

    use unsafe_libopus::{
        OPUS_OK, OpusMSDecoder, opus_multistream_decode_float, opus_multistream_decoder_create,
        opus_multistream_decoder_destroy,
    };

    use super::{Head, SAMPLE_RATE};

    /// The state of the decoders of one file: one per pair of channels or single channel.
    pub(super) struct Streams {
        state: NonNull<OpusMSDecoder>,
        head: Head,
    }

    // SAFETY: the state is one block of memory that nothing else points to; what it points to itself are constants.
    unsafe impl Send for Streams {}
    // SAFETY: every access needs `&mut self`.
    unsafe impl Sync for Streams {}

    impl Streams {
        /// `None` for a channel table that the codec refuses.
        pub(super) fn new(head: &Head) -> Option<Self> {
            let (channels, streams, coupled) = (head.channels.into(), head.streams.into(), head.coupled.into());
            let mut error = OPUS_OK;
            // SAFETY: the table has room for all of the channels, and the function checks what is in it.
            let state = unsafe {
                let table = head.mapping.as_ptr();
                opus_multistream_decoder_create(SAMPLE_RATE as i32, channels, streams, coupled, table, &mut error)
            };
            Some(Self { state: NonNull::new(state).filter(|_| error == OPUS_OK)?, head: *head })
        }

        /// Decodes `packet` to interleaved samples and gives their number per channel.
        pub(super) fn decode(&mut self, packet: &[u8], out: &mut [f32]) -> Result<usize, &'static str> {
            let room = out.len() / usize::from(self.head.channels);
            let (Ok(len), Ok(room)) = (i32::try_from(packet.len()), i32::try_from(room)) else {
                return Err("opus: a packet too long");
            };
            if packet.is_empty() {
                return Err("opus: an empty packet"); // which would ask for the concealment of a lost one
            }
            // SAFETY: both lengths are those of the slices, the second in samples per channel.
            let decoded = unsafe {
                let (from, to) = (packet.as_ptr(), out.as_mut_ptr());
                opus_multistream_decode_float(self.state.as_mut(), from, len, to, room, 0)
            };
            usize::try_from(decoded).map_err(|_| "opus: a damaged packet")
        }

        /// Forgets what was decoded.
        pub(super) fn reset(&mut self) {
            if let Some(fresh) = Self::new(&self.head) {
                *self = fresh;
            }
        }
    }

    impl Drop for Streams {
        fn drop(&mut self) {
            // SAFETY: it was created in `new` and is not used after this.
            unsafe { opus_multistream_decoder_destroy(self.state.as_ptr()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version: u8, channels: u8, family: u8, table: &[u8]) -> Vec<u8> {
        let fixed = [version, channels, 0x38, 0x01, 0x44, 0xac, 0, 0, 0x00, 0xfe, family];
        [&b"OpusHead"[..], &fixed, table].concat()
    }

    #[test]
    fn the_header_is_read() {
        let head = Head::read(&header(1, 2, 0, &[]), Container::Ogg).expect("it is valid");
        assert_eq!((head.channels, head.pre_skip, head.gain), (2, 312, -512));
        assert_eq!((head.streams, head.coupled, &head.mapping[..2]), (1, 1, &[0, 1][..]));
        let mp4 = Head::read(&header(0, 1, 0, &[]), Container::Mp4).expect("it is valid");
        assert_eq!((mp4.pre_skip, mp4.gain), (0x3801, 0xfe));
        let surround = Head::read(&header(1, 6, 1, &[4, 2, 0, 4, 1, 2, 3, 5]), Container::Ogg).expect("it is valid");
        assert_eq!((surround.streams, surround.coupled, surround.mapping[5]), (4, 2, 5));
    }

    #[test]
    fn headers_that_cannot_be_followed_are_refused() {
        let message = |header: &[u8]| Head::read(header, Container::Ogg).expect_err("it is refused").to_string();
        assert!(message(b"OpusHead").contains("too short"));
        assert!(message(&header(1, 3, 0, &[])).contains("3 channels"));
        assert!(message(&header(1, 6, 1, &[4, 2, 0])).contains("too short"));
        assert!(message(&header(1, 4, 3, &[])).contains("channel mapping family 3"), "ambisonics");
        assert!(message(&header(16, 2, 0, &[])).contains("version 16"));
    }

    #[test]
    #[cfg(feature = "opus")]
    fn a_channel_table_without_its_streams_is_refused() {
        let head = Head::read(&header(1, 2, 1, &[1, 0, 0, 7]), Container::Ogg).expect("it can be read");
        assert!(streams::Streams::new(&head).is_none());
    }
}
