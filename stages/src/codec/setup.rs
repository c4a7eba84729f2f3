//! From a track to its codec, and from a codec's buffers to mono.

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{
    CODEC_ID_AAC, CODEC_ID_AC3, CODEC_ID_DCA, CODEC_ID_EAC3, CODEC_ID_OPUS, CODEC_ID_PCM_ALAW, CODEC_ID_PCM_MULAW,
    CODEC_ID_SPEEX, CODEC_ID_TRUEHD, CODEC_ID_WAVPACK, CODEC_ID_WMA,
};
use symphonia::core::codecs::audio::{AudioCodecId, AudioDecoder, AudioDecoderOptions};
use symphonia::core::formats::{FormatReader, Track};

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
    (CODEC_ID_OPUS, "Opus"),
    (CODEC_ID_SPEEX, "Speex"),
    (CODEC_ID_AC3, "AC-3"),
    (CODEC_ID_EAC3, "E-AC-3"),
    (CODEC_ID_DCA, "DTS"),
    (CODEC_ID_WAVPACK, "WavPack"),
    (CODEC_ID_TRUEHD, "TrueHD"),
    (CODEC_ID_WMA, "Windows Media Audio"),
];

/// Replaces `mono` with the downmix of `buffer`; `planes` is scratch.
pub(super) fn mix_down(
    buffer: &GenericAudioBufferRef<'_>,
    downmix: Downmix,
    planes: &mut Vec<Vec<f32>>,
    mono: &mut Vec<f32>,
) {
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
