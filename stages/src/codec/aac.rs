//! The configuration of AAC in MP4, Matroska and CAF, reduced to what the decoder understands.
//!
//! Source: ISO/IEC 14496-3 section 1.6.2.1 (AudioSpecificConfig), section 1.6.5 (signalling of SBR).

use super::DecodeError;

const LOW_COMPLEXITY: u8 = 2;
const SBR: u8 = 5;
const PARAMETRIC_STEREO: u8 = 29;
/// Marks an extension behind the configuration.
const SYNC_EXTENSION: u32 = 0x2b7;

/// The configuration with optional parts removed, or `None` to use it as it is.
///
/// # Errors
/// [`DecodeError::Unsupported`] for the AAC profiles that can't be decoded. HE-AAC is one of them: its core alone would
/// decode, to music without its upper half.
pub(super) fn plain_config(config: &[u8]) -> Result<Option<Box<[u8]>>, DecodeError> {
    let unsupported = |what: &str| Err(DecodeError::Unsupported(what.into()));
    let &[first, second, ref rest @ ..] = config else { return Ok(None) };
    let object_type = first >> 3;
    let rate_index = (first & 7) << 1 | second >> 7;
    match object_type {
        LOW_COMPLEXITY => {}
        SBR | PARAMETRIC_STEREO => return unsupported(HE_AAC),
        1 => return unsupported("the Main profile of AAC"),
        3 => return unsupported("the SSR profile of AAC"),
        4 => return unsupported("the LTP profile of AAC"),
        23 | 39 => return unsupported("low-delay AAC"),
        42 => return unsupported("xHE-AAC"),
        _ => return Ok(None),
    }
    let channels = (second >> 3) & 15;
    if rate_index == 15 || channels == 0 {
        return Ok(None); // the rate or the channels are spelled out: rare, left to the decoder
    }
    if channels > 2 {
        return unsupported("AAC with more than two channels");
    }
    if second & 4 != 0 {
        return unsupported("AAC with frames of 960 samples");
    }
    // 11 bits of sync, 5 of object type, 1 that says whether SBR is there
    if let &[a, b, c, ..] = rest {
        let word = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
        if word >> 13 == SYNC_EXTENSION && (word >> 8) & 31 == u32::from(SBR) && word & 0x80 != 0 {
            return unsupported(HE_AAC);
        }
    }
    // The flags in the last three bits are zero in AAC that is played on its own; some files set them all the same.
    Ok(Some([first, second & 0xf8].into()))
}

const HE_AAC: &str = "HE-AAC (spectral band replication); re-encode it, for example to FLAC with ffmpeg";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_complexity_passes_and_sbr_does_not() {
        assert_eq!(plain_config(&[0x12, 0x10]).expect("it is valid").as_deref(), Some(&[0x12, 0x10][..]));
        assert_eq!(plain_config(&[0x12, 0x12]).expect("it is valid").as_deref(), Some(&[0x12, 0x10][..]), "stray flag");
        let no_sbr = plain_config(&[0x12, 0x10, 0x56, 0xe5, 0x00]).expect("it is valid");
        assert_eq!(no_sbr.as_deref(), Some(&[0x12, 0x10][..]));
        assert!(plain_config(&[0x13, 0x90, 0x56, 0xe5, 0xa0]).is_err(), "SBR, signalled behind");
        assert!(plain_config(&[0x2b, 0x92, 0x08, 0x00]).is_err(), "SBR, signalled in front");
        assert!(plain_config(&[0x0a, 0x10]).is_err(), "Main profile");
        assert_eq!(plain_config(&[0x12]).expect("it is valid"), None);
    }
}
