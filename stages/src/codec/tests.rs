//! Decoding whole files: made here byte by byte, or read from `tests/audio` (see its README) and damaged.

use std::fs;
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use super::*;

/// Where the clicks of the files in `tests/audio` are, in samples at 44.1 kHz.
const CLICKS: [u64; 7] = [1000, 11_025, 33_075, 44_100, 77_175, 99_225, 131_299];

const FILES: &[&str] = &[
    "lame_v4.mp3",
    "22050_cbr32_xing.mp3",
    "aac.m4a",
    "aac_itunsmpb.m4a",
    "alac.m4a",
    "alac.caf",
    "flac.flac",
    "flac.oga",
    "vorbis.ogg",
    "oggenc.ogg",
    "vorbis.mka",
    #[cfg(feature = "opus")]
    "opusenc.opus",
    #[cfg(feature = "opus")]
    "opus.webm",
];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/audio").join(name)
}

fn bytes_of(name: &str) -> Vec<u8> {
    fs::read(path(name)).expect("the file is in the repository")
}

fn decode_with(bytes: Vec<u8>, name: &str, options: &DecodeOptions) -> Result<(Decoder, Vec<f32>), DecodeError> {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    let mut decoder = Decoder::new(Box::new(Cursor::new(bytes)), extension, options)?;
    let (mut samples, mut block) = (Vec::new(), Vec::new());
    while decoder.next_block(&mut block)? {
        assert!(block.len() <= options.block_len, "blocks are bounded");
        samples.extend_from_slice(&block);
    }
    Ok((decoder, samples))
}

fn decode(bytes: Vec<u8>, name: &str) -> Result<Vec<f32>, DecodeError> {
    decode_with(bytes, name, &DecodeOptions::default()).map(|(_, samples)| samples)
}

/// The class that `bytes` called `name` are refused with.
fn refused(bytes: &[u8], name: &str) -> ErrorClass {
    decode(bytes.to_vec(), name).expect_err("it is refused").class()
}

/// A WAVE file.
fn wave(tag: u16, channels: u16, sample_rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let frame = channels.wrapping_mul(bits / 8);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0");
    bytes.extend(tag.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(sample_rate.to_le_bytes());
    bytes.extend((sample_rate * u32::from(frame)).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

/// One second of silence, 16 bits, stereo.
fn silence() -> Vec<u8> {
    wave(1, 2, 44_100, 16, &[0; 4 * 44_100])
}

/// Numbers that look random and are the same every time.
fn noise(len: usize, seed: u32) -> Vec<u8> {
    let step = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 24) as u8)
    };
    std::iter::repeat_with(|| ()).scan(seed, |state, ()| step(state)).take(len).collect()
}

#[test]
fn delay_and_padding_are_cut_to_the_sample() {
    for name in FILES.iter().filter(|name| !matches!(**name, "vorbis.mka" | "opus.webm")) {
        let (decoder, samples) =
            decode_with(bytes_of(name), name, &DecodeOptions::default()).expect("it can be decoded");
        let rate = u64::from(decoder.info().sample_rate);
        assert_eq!(samples.len() as u64, 132_300 * rate / 44_100, "{name}");
        for click in CLICKS {
            let at = (click * rate / 44_100) as usize;
            let around = at.saturating_sub(800)..(at + 800).min(samples.len());
            let peak = around.max_by(|&a, &b| samples[a].abs().total_cmp(&samples[b].abs())).expect("samples");
            // At another rate a click may fall between two samples.
            let off = peak.abs_diff(at);
            assert!(off <= usize::from(rate != 44_100), "{name}: the click at {at} is at {peak}");
        }
        assert_eq!(decoder.faults(), Faults::default(), "{name}");
    }
}

#[test]
fn matroska_gives_at_least_the_audio() {
    // Its padding is stated in blocks that the demuxer doesn't read; the start must be right all the same.
    let samples = decode(bytes_of("vorbis.mka"), "vorbis.mka").expect("it can be decoded");
    assert!((132_300..132_300 + 2048).contains(&samples.len()));
    assert!(samples[11_025] > 0.5);
    #[cfg(feature = "opus")]
    {
        let samples = decode(bytes_of("opus.webm"), "opus.webm").expect("it can be decoded");
        assert!((144_000..144_000 + 960).contains(&samples.len()));
        assert!(samples[12_000] > 0.5, "the pre-skip is cut to the sample, though Matroska counts milliseconds");
    }
}

#[test]
fn the_size_of_blocks_does_not_change_the_samples() {
    for name in FILES {
        let small = DecodeOptions { block_len: 1000, ..DecodeOptions::default() };
        let (_, pieces) = decode_with(bytes_of(name), name, &small).expect("it can be decoded");
        assert!(decode(bytes_of(name), name).expect("it can be decoded") == pieces, "{name}");
    }
}

/// `aac.m4a` with another AudioSpecificConfig of the same five bytes.
fn with_aac_config(config: [u8; 5]) -> Vec<u8> {
    let mut bytes = bytes_of("aac.m4a");
    let plain = [0x12, 0x08, 0x56, 0xe5, 0x00];
    let at = bytes.windows(5).position(|window| window == plain).expect("ffmpeg's configuration");
    bytes[at..at + 5].copy_from_slice(&config);
    bytes
}

#[test]
fn he_aac_is_refused_with_a_way_out() {
    let explicit = [0x2b, 0x8a, 0x08, 0x00, 0x00]; // SBR in front: 22.05 kHz, mono, played at 44.1 kHz
    let parametric = [0xeb, 0x8a, 0x08, 0x00, 0x00]; // the same with parametric stereo
    let implicit = [0x13, 0x88, 0x56, 0xe5, 0xa0]; // low complexity, with SBR signalled behind
    for config in [explicit, parametric, implicit] {
        let error = decode(with_aac_config(config), "a.m4a").expect_err("it is refused");
        assert_eq!(error.class(), ErrorClass::Unsupported);
        let message = error.to_string();
        assert!(message.contains("HE-AAC") && message.contains("ffmpeg"), "{message}");
    }
}

#[test]
#[cfg(feature = "opus")]
fn a_chain_of_opus_streams_is_one_recording() {
    let opus = bytes_of("opusenc.opus");
    let once = decode(opus.clone(), "a.opus").expect("it can be decoded");
    let twice = decode([opus.clone(), opus].concat(), "a.opus").expect("it can be decoded");
    assert!(twice == [once.clone(), once].concat(), "each link drops its own pre-skip");
}

#[test]
fn lossless_formats_agree() {
    let reference = decode(bytes_of("flac.flac"), "flac.flac").expect("it can be decoded");
    for name in ["flac.oga", "alac.m4a", "alac.caf"] {
        assert!(decode(bytes_of(name), name).expect("it can be decoded") == reference, "{name}");
    }
}

#[test]
fn every_form_of_pcm_is_scaled_to_one() {
    let half = |tag, bits, bytes: &[u8]| decode(wave(tag, 1, 8000, bits, bytes), "a.wav").expect("it can be decoded");
    assert_eq!(half(1, 8, &[192, 128, 64]), [0.5, 0.0, -0.5]);
    assert_eq!(half(1, 16, &[0, 64, 0, 0, 0, 192]), [0.5, 0.0, -0.5]);
    assert_eq!(half(1, 24, &[0, 0, 64, 0, 0, 192]), [0.5, -0.5]);
    assert_eq!(half(1, 32, &[0, 0, 0, 64, 0, 0, 0, 192]), [0.5, -0.5]);
    assert_eq!(half(3, 32, &[0.5f32.to_le_bytes(), 2.0f32.to_le_bytes()].concat()), [0.5, 2.0]);
    assert_eq!(half(3, 64, &0.5f64.to_le_bytes()), [0.5]);
}

#[test]
fn channels_become_one_as_asked() {
    let stereo = wave(1, 2, 8000, 16, &[0, 64, 0, 0, 0, 64, 0, 192]); // left 0.5 0.5, right 0.0 -0.5
    let mix = |downmix| {
        let options = DecodeOptions { downmix, ..DecodeOptions::default() };
        decode_with(stereo.clone(), "a.wav", &options).expect("it can be decoded").1
    };
    assert_eq!(mix(Downmix::Mean), [0.25, 0.0]);
    assert_eq!(mix(Downmix::Left), [0.5, 0.5]);
    assert_eq!(mix(Downmix::Right), [0.0, -0.5]);
}

#[test]
fn half_a_file_is_not_a_file() {
    for name in FILES {
        let bytes = bytes_of(name);
        assert_eq!(refused(&bytes[..bytes.len() / 2], name), ErrorClass::Truncated, "{name}");
    }
    assert_eq!(refused(&silence()[..100_000], "a.wav"), ErrorClass::Truncated);
}

#[test]
fn a_size_left_open_by_a_recorder_is_no_promise() {
    let mut bytes = silence();
    bytes[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    let (decoder, samples) = decode_with(bytes, "a.wav", &DecodeOptions::default()).expect("it can be decoded");
    assert_eq!((samples.len(), decoder.info().declared_len), (44_100, None));
}

#[test]
fn content_must_not_contradict_the_name() {
    let mp3 = bytes_of("lame_v4.mp3");
    assert_eq!(refused(&mp3, "a.wav"), ErrorClass::Mismatch, "MP3 has no magic number: its name must fit");
    assert_eq!(refused(b"wvpk\x20\0\0\0 and so on", "organ.wav"), ErrorClass::Mismatch);
    assert_eq!(refused(b"Dear reader, this is a text.\n", "song.mp3"), ErrorClass::Mismatch);
    assert_eq!(refused(&noise(100_000, 1), "song.mp3"), ErrorClass::Mismatch);
    assert_eq!(refused(&[0; 10_000], "song.flac"), ErrorClass::Mismatch);
    for magic in [&b"tBaK"[..], b"MAC \x96\x0f", b"OFR \x0c", b"wvpk", b"TTA1", b"MPCK"] {
        let disguised = [magic, &mp3].concat();
        assert_eq!(refused(&disguised, "a.tak"), ErrorClass::Unsupported, "{}", magic.escape_ascii());
    }
    let flac = decode(bytes_of("flac.flac"), "called.mp3").expect("a magic number is to be believed");
    assert_eq!(flac.len(), 132_300);
}

#[test]
fn an_mp3_is_found_behind_tags_and_junk() {
    let mp3 = bytes_of("lame_v4.mp3");
    let tag = b"ID3\x04\0\0\0\0\x01\x48".to_vec(); // 200 bytes follow
    let expected = decode(mp3.clone(), "a.mp3").expect("it can be decoded");
    for front in [[tag.clone(), noise(200, 2)].concat(), noise(300, 3), vec![0; 100_000]] {
        let found = decode([front, mp3.clone()].concat(), "a.mp3").expect("it can be decoded");
        assert!(found == expected);
    }
    let id3v1 = [&b"TAG"[..], &[0xff; 125]].concat();
    assert!(decode([mp3, id3v1].concat(), "a.mp3").expect("it can be decoded") == expected);
}

#[test]
fn nothing_and_nonsense_are_refused() {
    assert_eq!(refused(&[], "a.wav"), ErrorClass::Empty);
    assert_eq!(refused(&wave(1, 1, 8000, 16, &[]), "a.wav"), ErrorClass::Empty);
    let with = |sample: f32| wave(3, 1, 8000, 32, &[0.0f32.to_le_bytes(), sample.to_le_bytes()].concat());
    for sample in [f32::NAN, f32::INFINITY, 1e30] {
        assert_eq!(refused(&with(sample), "a.wav"), ErrorClass::Numeric);
    }
    assert_eq!(refused(&wave(1, 65_535, 8000, 16, &[0; 100]), "a.wav"), ErrorClass::Corrupt);
    assert_eq!(refused(&wave(1, 1, 0, 16, &[0; 100]), "a.wav"), ErrorClass::TooLarge);
    assert_eq!(refused(&wave(0x55, 1, 8000, 16, &[0; 100]), "a.wav"), ErrorClass::Unsupported);
}

#[test]
fn odd_but_valid_files_are_used() {
    let len = |channels: u16, rate, frames: usize| {
        let data: Vec<u8> = vec![0x10; 2 * usize::from(channels) * frames];
        decode(wave(1, channels, rate, 16, &data), "a.wav").expect("it can be decoded").len()
    };
    assert_eq!(len(1, 44_100, 1), 1, "one sample");
    assert_eq!(len(1, 8_000, 8_000), 8_000);
    assert_eq!(len(2, 192_000, 19_200), 19_200);
    assert_eq!(len(6, 48_000, 4_800), 4_800);
}

#[test]
fn limits_hold() {
    let class = |limits: Limits| {
        let options = DecodeOptions { limits, ..DecodeOptions::default() };
        decode_with(silence(), "a.wav", &options).map(|_| ()).expect_err("it is refused").class()
    };
    assert_eq!(class(Limits { max_duration_s: 0.9, ..Limits::default() }), ErrorClass::TooLong);
    assert_eq!(class(Limits { max_file_len: 1000, ..Limits::default() }), ErrorClass::TooLarge);
    assert_eq!(class(Limits { max_channels: 1, ..Limits::default() }), ErrorClass::TooLarge);
    assert_eq!(class(Limits { sample_rates: 48_000..=96_000, ..Limits::default() }), ErrorClass::TooLarge);

    let mut open_ended = silence();
    open_ended[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    let limits = Limits { max_duration_s: 0.9, ..Limits::default() };
    let options = DecodeOptions { limits, block_len: 1000, ..DecodeOptions::default() };
    let error = decode_with(open_ended, "a.wav", &options).map(|_| ()).expect_err("it is refused");
    assert_eq!(error.class(), ErrorClass::TooLong, "also where the header doesn't say");
}

#[test]
fn damage_becomes_silence_and_the_rest_stays_in_place() {
    let mut bytes = bytes_of("flac.flac");
    let at = bytes.len() - 1500;
    bytes[at..at + 20].copy_from_slice(&noise(20, 5));
    let reference = decode(bytes_of("flac.flac"), "a.flac").expect("it can be decoded");
    let (decoder, damaged) = decode_with(bytes, "a.flac", &DecodeOptions::default()).expect("one frame is forgiven");
    assert_eq!(decoder.faults().count, 1);
    assert_eq!(damaged.len(), reference.len());
    let lost = damaged.iter().zip(&reference).filter(|(a, b)| a != b).count() as u64;
    assert!(lost <= decoder.faults().samples, "{lost} samples differ");
}

#[test]
fn too_much_damage_is_refused() {
    let mut bytes = bytes_of("flac.flac");
    let len = bytes.len();
    for at in (len - 4500..len - 100).step_by(300) {
        bytes[at..at + 20].copy_from_slice(&noise(20, at as u32));
    }
    let class = refused(&bytes, "a.flac");
    assert!(matches!(class, ErrorClass::Corrupt | ErrorClass::Truncated), "{class}");
}

#[test]
fn metadata_of_a_flac_file_is_not_looked_at() {
    let bytes = bytes_of("flac.flac");
    let expected = decode(bytes.clone(), "a.flac").expect("it can be decoded");
    // A cue sheet block full of nonsense behind the stream information.
    let cue_sheet = [&[5, 0, 0, 100][..], &noise(100, 6)].concat();
    let with = [&bytes[..42], &cue_sheet, &bytes[42..]].concat();
    assert!(decode(with, "a.flac").expect("it can be decoded") == expected);
}

#[test]
fn a_chain_of_ogg_streams_is_one_recording() {
    let ogg = bytes_of("oggenc.ogg");
    let once = decode(ogg.clone(), "a.ogg").expect("it can be decoded");
    let twice = decode([ogg.clone(), ogg].concat(), "a.ogg").expect("it can be decoded");
    assert!(twice == [once.clone(), once].concat());
}

#[test]
fn mutilated_files_end_in_a_verdict() {
    // Panics inside a codec are caught by the stage and count as damage; here, what counts is that every file ends.
    let mut verdicts = 0;
    for name in FILES {
        let original = bytes_of(name);
        for round in 0..30u32 {
            let mut bytes = original.clone();
            let seeds = noise(64, round);
            let place = |i: usize| usize::from(seeds[i]) << 8 | usize::from(seeds[i + 1]);
            match round % 3 {
                0 => (0..8).for_each(|i| {
                    let at = place(2 * i) % bytes.len().min(400);
                    bytes[at] = seeds[40 + i];
                }),
                1 => (0..8).for_each(|i| {
                    let at = place(2 * i) * 7 % bytes.len();
                    bytes[at] ^= 1 << (seeds[40 + i] & 7);
                }),
                _ => bytes.truncate(place(0) * 7 % bytes.len()),
            }
            let verdict = catch_unwind(AssertUnwindSafe(|| decode(bytes, name)));
            if let Ok(Ok(samples)) = verdict {
                assert!(samples.len() < 10 * 132_300, "{name}, round {round}: {} samples", samples.len());
            }
            verdicts += 1;
        }
    }
    assert_eq!(verdicts, 30 * FILES.len());
}
