//! Whether two chords are the same, in the vocabularies of MIREX.

use super::Chord;

/// What has to agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Roots.
    Root,
    /// Roots and thirds.
    Thirds,
    /// The same, and basses.
    ThirdsInv,
    /// Roots and notes up to the fifth.
    Triads,
    /// The same, and basses.
    TriadsInv,
    /// Roots and all notes.
    Tetrads,
    /// The same, and basses.
    TetradsInv,
    /// Three notes.
    Mirex,
    /// Major and minor triads, and none; other references are not compared.
    Majmin,
    /// The same, and basses.
    MajminInv,
    /// Major, minor, their sevenths, the dominant, and none; other references are not compared.
    Sevenths,
    /// The same, and basses.
    SeventhsInv,
}

/// The notes of the chords that [`Comparison::Sevenths`] compares; the last is none.
const SEVENTHS: [[i8; 12]; 6] = [
    [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0],
    [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0],
    [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1],
    [1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
    [1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0],
    [0; 12],
];

/// Whether `found` is right; `None` where `reference` is outside the vocabulary.
pub fn compare(how: Comparison, reference: &Chord, found: &Chord) -> Option<bool> {
    use Comparison as C;
    let root = reference.root == found.root;
    let bass = reference.bass == found.bass;
    let triad = reference.semitones[..8] == found.semitones[..8];
    let all = reference.semitones == found.semitones;
    let known = reference.is_known();
    let majmin = super::majmin_class(reference).is_some();
    let seventh = SEVENTHS.contains(&reference.semitones);
    // The bass of a reference must be one of its notes, which it always is once it is read.
    let (compared, right) = match how {
        C::Root => (known, root),
        C::Thirds => (known, root && reference.semitones[3] == found.semitones[3]),
        C::ThirdsInv => (known, root && bass && reference.semitones[3] == found.semitones[3]),
        C::Triads => (known, root && triad),
        C::TriadsInv => (known, root && bass && triad),
        C::Tetrads => (known, root && all),
        C::TetradsInv => (known, root && bass && all),
        C::Majmin => (majmin, root && triad),
        C::MajminInv => (majmin, root && bass && triad),
        C::Sevenths => (seventh, root && all),
        C::SeventhsInv => (seventh, root && bass && all),
        C::Mirex => {
            let notes = reference.semitones.iter().filter(|semitone| **semitone > 0).count();
            let compared = known && !(1..3).contains(&notes);
            (compared, reference.root == -1 && found.root == -1 || common(reference, found) >= 3)
        }
    };
    compared.then_some(right)
}

/// Pitch classes that both have.
fn common(a: &Chord, b: &Chord) -> usize {
    let has = |chord: &Chord, pitch: i32| chord.semitones[(pitch - chord.root).rem_euclid(12) as usize] != 0;
    (0..12).filter(|pitch| has(a, *pitch) && has(b, *pitch)).count()
}
