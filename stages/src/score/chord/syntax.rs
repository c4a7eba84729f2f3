//! `A:min7(*5,b9)/b3`: root, quality, degrees that are added or left out, bass.

use crate::score::ScoreError;

/// Qualities, with the semitones above the root that they have.
const QUALITIES: [(&str, &[usize]); 24] = [
    ("maj", &[0, 4, 7]),
    ("min", &[0, 3, 7]),
    ("aug", &[0, 4, 8]),
    ("dim", &[0, 3, 6]),
    ("sus4", &[0, 5, 7]),
    ("sus2", &[0, 2, 7]),
    ("7", &[0, 4, 7, 10]),
    ("maj7", &[0, 4, 7, 11]),
    ("min7", &[0, 3, 7, 10]),
    ("minmaj7", &[0, 3, 7, 11]),
    ("maj6", &[0, 4, 7, 9]),
    ("min6", &[0, 3, 7, 9]),
    ("dim7", &[0, 3, 6, 9]),
    ("hdim7", &[0, 3, 6, 10]),
    ("maj9", &[0, 4, 7, 11]),
    ("min9", &[0, 3, 7, 10]),
    ("9", &[0, 4, 7, 10]),
    ("min11", &[0, 3, 7, 10]),
    ("11", &[0, 4, 7, 10]),
    ("maj13", &[0, 4, 7, 11]),
    ("min13", &[0, 3, 7, 10]),
    ("13", &[0, 4, 7, 10]),
    ("1", &[0]),
    ("5", &[0, 7]),
];
/// Qualities that the syntax knows and nobody says what they have.
const UNDEFINED: [&str; 2] = ["aug7", "maj11"];
/// Qualities beyond the octave, as a quality with degrees.
const EXTENDED: [(&str, &str, &[&str]); 13] = [
    ("minmaj7", "min", &["7"]),
    ("maj9", "maj7", &["9"]),
    ("min9", "min7", &["9"]),
    ("9", "7", &["9"]),
    ("b9", "7", &["b9"]),
    ("#9", "7", &["#9"]),
    ("11", "7", &["9", "11"]),
    ("#11", "7", &["9", "#11"]),
    ("13", "7", &["9", "11", "13"]),
    ("b13", "7", &["9", "11", "b13"]),
    ("min11", "min7", &["9", "11"]),
    ("maj13", "maj7", &["9", "11", "13"]),
    ("min13", "min7", &["9", "11", "13"]),
];
/// Semitones of the degrees 1 to 13 of the major scale.
const DEGREES: [i32; 13] = [0, 2, 4, 5, 7, 9, 11, 12, 14, 16, 17, 19, 21];
const ROOTS: [&str; 12] = ["C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"];

/// A chord in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chord {
    /// Pitch class of the root, C being 0; -1 for no chord and for what is not known.
    pub root: i32,
    /// Which semitones above the root it has: 1 or 0; all -1 for what is not known (`X`).
    pub semitones: [i8; 12],
    /// Semitones of the bass above the root; -1 without a root.
    pub bass: i32,
}

impl Chord {
    /// No chord, `N`.
    pub const NONE: Self = Self { root: -1, semitones: [0; 12], bass: -1 };
    /// A chord that is not known, `X`.
    pub const UNKNOWN: Self = Self { root: -1, semitones: [-1; 12], bass: -1 };

    /// Reads a label.
    ///
    /// # Errors
    /// When it is no chord in Harte's syntax, or its quality has no notes (`aug7`, `maj11`).
    pub fn parse(label: &str) -> Result<Self, ScoreError> {
        Self::read(label, false)
    }

    /// The same with qualities beyond the octave as degrees, those wrapped into one octave being left out all the same.
    ///
    /// # Errors
    /// As [`Chord::parse`].
    pub fn parse_reduced(label: &str) -> Result<Self, ScoreError> {
        Self::read(label, true)
    }

    fn read(label: &str, reduce: bool) -> Result<Self, ScoreError> {
        match label {
            "N" => return Ok(Self::NONE),
            "X" => return Ok(Self::UNKNOWN),
            _ => {}
        }
        let refused = |reason| ScoreError::Chord { label: label.to_owned(), reason };
        let parts = split(label).map_err(refused)?;
        let reduced = EXTENDED.iter().find(|extended| reduce && extended.0 == parts.quality);
        let (quality, more) = reduced.map_or((parts.quality, &[][..]), |extended| (extended.1, extended.2));
        if UNDEFINED.contains(&quality) {
            return Err(refused("nobody says which notes this quality has"));
        }
        let mut counts = [0i32; 12];
        let notes = QUALITIES.iter().find(|(name, _)| *name == quality).map_or(&[][..], |(_, notes)| notes);
        notes.iter().for_each(|note| counts[*note] = 1);
        counts[0] = 1;
        // A set: the same degree twice is once.
        let mut degrees: Vec<&str> = parts.degrees.into_iter().chain(more.iter().copied()).collect();
        degrees.sort_unstable();
        degrees.dedup();
        for written in degrees {
            let (sign, name) = written.strip_prefix('*').map_or((1, written), |name| (-1, name));
            let semitone = degree(name).ok_or_else(|| refused("a degree is 1 to 13, with accidentals before it"))?;
            // Below the root counts from the end, as indices do in numpy.
            let place = match semitone {
                below if below < 0 && reduce => below.rem_euclid(12),
                below if below < 0 => below + 12,
                above if above < 12 || reduce => above % 12,
                _ => continue,
            };
            if let Ok(place) = usize::try_from(place) {
                counts[place] += sign;
            }
        }
        let mut semitones = counts.map(|count| i8::from(count > 0));
        let bass = degree(parts.bass).ok_or_else(|| refused("a bass is a degree, with accidentals before it"))?;
        let bass = bass.rem_euclid(12);
        semitones[bass as usize] = 1;
        Ok(Self { root: parts.root, semitones, bass })
    }

    /// Whether all is known about it that there is.
    pub fn is_known(&self) -> bool {
        self.semitones.iter().all(|semitone| *semitone >= 0)
    }
}

/// The parts of a label.
struct Parts<'a> {
    root: i32,
    quality: &'a str,
    degrees: Vec<&'a str>,
    bass: &'a str,
}

fn split(label: &str) -> Result<Parts<'_>, &'static str> {
    let letter = label.chars().next().ok_or("it is empty")?;
    let natural = "C D EF G A B".find(letter).filter(|_| letter != ' ').ok_or("a root is one of A to G")? as i32;
    let rest = &label[1..];
    let sharps = rest.len() - rest.trim_start_matches('#').len();
    let flats = rest.len() - rest.trim_start_matches('b').len();
    let rest = &rest[sharps.max(flats)..];
    let root = (natural + sharps as i32 - flats as i32).rem_euclid(12);
    let (chord, bass) = rest.split_once('/').map_or((rest, "1"), |(chord, bass)| (chord, bass));
    if chord.is_empty() {
        // A slash without a bass is in the syntax; `mir_eval` then fails on the degree.
        return Ok(Parts { root, quality: "maj", degrees: Vec::new(), bass: whole_degree(bass)? });
    }
    let body = chord.strip_prefix(':').ok_or("after the root come `:` and a quality, or `/` and a bass")?;
    let (quality, degrees) = match body.split_once('(') {
        None => (body, Vec::new()),
        Some((quality, listed)) => {
            let listed = listed.strip_suffix(')').ok_or("degrees stand in brackets")?;
            (quality, listed.split(',').map(checked_degree).collect::<Result<_, _>>()?)
        }
    };
    let known = QUALITIES.iter().any(|(name, _)| *name == quality) || UNDEFINED.contains(&quality);
    if !(known || quality.is_empty() && !degrees.is_empty()) {
        return Err("its quality is unknown");
    }
    Ok(Parts { root, quality, degrees, bass: whole_degree(bass)? })
}

fn checked_degree(written: &str) -> Result<&str, &'static str> {
    whole_degree(written.strip_prefix('*').unwrap_or(written)).map(|_| written)
}

fn whole_degree(name: &str) -> Result<&str, &'static str> {
    degree(name).map(|_| name).ok_or("a degree is 1 to 13, with accidentals before it")
}

/// Semitones of a degree over the root, not wrapped.
fn degree(name: &str) -> Option<i32> {
    let sharps = name.len() - name.trim_start_matches('#').len();
    let flats = name.len() - name.trim_start_matches('b').len();
    let number = &name[sharps.max(flats)..];
    let written = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: usize = number.parse().ok().filter(|_| written)?;
    Some(*DEGREES.get(number.checked_sub(1)?)? + sharps as i32 - flats as i32)
}

/// The class of a chord among 24 triads and none: 0..12 major from C, 12..24 minor from C, 24 none; `None` where
/// `mir_eval`'s `majmin` does not compare.
pub fn majmin_class(chord: &Chord) -> Option<usize> {
    const MAJOR: [i8; 8] = [1, 0, 0, 0, 1, 0, 0, 1];
    const MINOR: [i8; 8] = [1, 0, 0, 1, 0, 0, 0, 1];
    if *chord == Chord::NONE {
        return Some(24);
    }
    let root = usize::try_from(chord.root).ok()?;
    match &chord.semitones[..8] {
        triad if *triad == MAJOR => Some(root),
        triad if *triad == MINOR => Some(12 + root),
        _ => None,
    }
}

/// The label of such a class; `X` for others.
pub fn majmin_label(class: usize) -> String {
    match class {
        0..12 => format!("{}:maj", ROOTS[class]),
        12..24 => format!("{}:min", ROOTS[class - 12]),
        24 => "N".to_owned(),
        _ => "X".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_every_form_are_read() {
        let of = |label: &str| Chord::parse(label).map(|chord| (chord.root, chord.semitones, chord.bass)).unwrap();
        assert_eq!(of("G"), (7, [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0], 0));
        assert_eq!(of("Bbb:min/b3"), (9, [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0], 3));
        assert_eq!(of("F#:(1,5,b9)"), (6, [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0], 0));
        assert_eq!(of("C:maj(*3,4)/2"), (0, [1, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 0], 2));
        assert_eq!(of("Cb:1"), (11, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0));
        for wrong in
            ["", "H", "C:", "C:major", "C:maj(0)", "C:maj(14)", "C:maj(", "c:maj", "C:maj7_XXX", "C:aug7", "C:maj11"]
        {
            assert!(Chord::parse(wrong).is_err(), "{wrong}");
        }
        let message = Chord::parse("C:major").unwrap_err().to_string();
        assert_eq!(
            message,
            "expected a chord such as `A:min7/b3`, `F#` or `N`, found `C:major`: its quality is unknown"
        );
    }

    #[test]
    fn classes_are_those_that_majmin_compares() {
        let class = |label: &str| majmin_class(&Chord::parse(label).unwrap());
        for label in ["C", "C:7", "C:maj7", "C:maj6", "C:9", "C:maj(9)", "C:maj/3", "C:7/b7"] {
            assert_eq!(class(label), Some(0), "{label}");
        }
        assert_eq!((class("A:min7"), class("A:minmaj7"), class("N")), (Some(21), Some(21), Some(24)));
        for label in ["C:sus4", "C:dim", "C:aug", "C:5", "C:1", "X", "C:maj/2", "C:maj/9", "C:maj(*3)"] {
            assert_eq!(class(label), None, "{label}");
        }
        assert!((0..25).all(|index| class(&majmin_label(index)) == Some(index)));
    }
}
