//! From a track to its codec, and from a codec's buffers to mono.

use symphonia::core::audio::conv::IntoSample;
use symphonia::core::audio::sample::Sample;
use symphonia::core::audio::{Audio, AudioBuffer, GenericAudioBufferRef};
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_AC3, CODEC_ID_DCA, CODEC_ID_EAC3, CODEC_ID_OPUS, CODEC_ID_PCM_ALAW, CODEC_ID_PCM_MULAW,
    CODEC_ID_SPEEX, CODEC_ID_TRUEHD, CODEC_ID_WAVPACK, CODEC_ID_WMA,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioDecoder, AudioDecoderOptions};
use symphonia::core::formats::{FormatReader, Track};

#[cfg(feature = "opus")]
use super::opus::OpusDecoder;
use super::{Container, DecodeError, Downmix, aac};

/// The first audio track that names a codec.
pub(super) fn audio_track(reader: &dyn FormatReader) -> Result<&Track, DecodeError> {
    let is_audio = |track: &&Track| matches!(track.codec_params, Some(CodecParameters::Audio(_)));
    match reader.tracks() {
        [] => Err(DecodeError::Empty("no streams in the file".into())),
        tracks => tracks
            .iter()
            .find(is_audio)
            .ok_or_else(|| DecodeError::Unsupported("no audio stream in a format that is known".into())),
    }
}

/// The codec of `track`.
pub(super) fn make_decoder(track: &Track, container: Container) -> Result<Box<dyn AudioDecoder>, DecodeError> {
    let Some(CodecParameters::Audio(params)) = &track.codec_params else {
        return Err(DecodeError::Unsupported(format!("no audio codec that is known ({container} file)")));
    };
    let mut params = params.clone();
    match params.codec {
        CODEC_ID_AAC => {
            if let Some(plain) = params.extra_data.as_deref().map(aac::plain_config).transpose()?.flatten() {
                params.extra_data = Some(plain);
            }
        }
        // One byte codes 13 or 14 bits: containers that say 8 confuse the decoder.
        CODEC_ID_PCM_ALAW | CODEC_ID_PCM_MULAW => {
            (params.bits_per_sample, params.bits_per_coded_sample) = (None, None);
        }
        #[cfg(feature = "opus")]
        CODEC_ID_OPUS => return Ok(Box::new(OpusDecoder::new(&params, container)?)),
        codec => {
            if let Some((_, name)) = KNOWN_UNSUPPORTED.iter().find(|(id, _)| *id == codec) {
                return Err(DecodeError::Unsupported(format!("{name} ({container} file)")));
            }
        }
    }
    // The MPEG demuxer cuts at a length that it may only have estimated; that cut is made here instead.
    let options = AudioDecoderOptions::default().gapless(container != Container::Mpeg);
    let made = symphonia::default::get_codecs().make_audio_decoder(&params, &options);
    made.map_err(|error| match DecodeError::while_opening(error) {
        DecodeError::Unsupported(what) => DecodeError::Unsupported(format!("{what} ({container} file)")),
        other => other,
    })
}

/// Codecs that containers name and nothing here decodes.
const KNOWN_UNSUPPORTED: &[(AudioCodecId, &str)] = &[
    (CODEC_ID_OPUS, "Opus, for which the program was built without the feature `opus`"),
    (CODEC_ID_SPEEX, "Speex"),
    (CODEC_ID_AC3, "AC-3"),
    (CODEC_ID_EAC3, "E-AC-3"),
    (CODEC_ID_DCA, "DTS"),
    (CODEC_ID_WAVPACK, "WavPack"),
    (CODEC_ID_TRUEHD, "TrueHD"),
    (CODEC_ID_WMA, "Windows Media Audio"),
];

/// Replaces `mono` with the downmix of `buffer`.
pub(super) fn mix_down(buffer: &GenericAudioBufferRef<'_>, downmix: Downmix, mono: &mut Vec<f32>) {
    match buffer {
        GenericAudioBufferRef::U8(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::U16(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::U24(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::U32(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::S8(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::S16(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::S24(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::S32(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::F32(buffer) => mix(buffer, downmix, mono),
        GenericAudioBufferRef::F64(buffer) => mix(buffer, downmix, mono),
    }
}

/// Converts and adds in one pass over the planes.
fn mix<S: Sample + IntoSample<f32>>(buffer: &AudioBuffer<S>, downmix: Downmix, mono: &mut Vec<f32>) {
    mono.clear();
    let last = buffer.num_planes().saturating_sub(1);
    let only = match downmix {
        Downmix::Mean if last == 1 => {
            let Some((left, right)) = buffer.plane_pair(0, 1) else { return };
            mono.extend(left.iter().zip(right).map(|(&left, &right)| (as_f32(left) + as_f32(right)) * 0.5));
            return;
        }
        Downmix::Mean | Downmix::Left => 0,
        Downmix::Right => last.min(1),
    };
    let Some(plane) = buffer.plane(only) else { return };
    mono.extend(plane.iter().map(|&sample| as_f32(sample)));
    if downmix == Downmix::Mean && last > 0 {
        for plane in buffer.iter_planes().skip(1) {
            mono.iter_mut().zip(plane).for_each(|(sum, &sample)| *sum += as_f32(sample));
        }
        let scale = 1.0 / (last + 1) as f32;
        mono.iter_mut().for_each(|sample| *sample *= scale);
    }
}

fn as_f32<S: IntoSample<f32>>(sample: S) -> f32 {
    sample.into_sample()
}
