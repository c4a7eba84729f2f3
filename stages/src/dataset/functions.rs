//! Functions of sections: verse, chorus and so on, from the many names that annotators give them.
//!
//! Algorithm 1 of Wang, Hung and Smith, "To catch a chorus, verse, intro, or anything else: analyzing a song with
//! structural functions", arXiv 2205.14700.

/// The functions, in the order of their class ids.
pub const FUNCTIONS: [&str; 7] = ["intro", "verse", "chorus", "bridge", "outro", "inst", "silence"];

/// What a section is called when it closes the annotation.
pub(super) const END: &str = "end";

/// Parts of names and what they stand for. The first hit counts, so the order matters: `introverse` is a verse,
/// `instbridge` a bridge, `breakdown` an instrumental, `postchorus` a chorus.
const RULES: [(&str, &str); 26] = [
    ("silence", "silence"),
    ("pre-chorus", "verse"),
    ("prechorus", "verse"),
    ("refrain", "chorus"),
    ("chorus", "chorus"),
    ("theme", "chorus"),
    ("stutter", "chorus"),
    ("verse", "verse"),
    ("rap", "verse"),
    ("section", "verse"),
    ("slow", "verse"),
    ("build", "verse"),
    ("dialog", "verse"),
    ("intro", "intro"),
    ("fadein", "intro"),
    ("opening", "intro"),
    ("bridge", "bridge"),
    ("trans", "bridge"),
    ("out", "outro"),
    ("coda", "outro"),
    ("ending", "outro"),
    ("break", "inst"),
    ("inst", "inst"),
    ("interlude", "inst"),
    ("impro", "inst"),
    ("solo", "inst"),
];

/// The function of a section, one of [`FUNCTIONS`], or `end` for exactly `end`. A name without a hit is `inst`.
pub fn function(name: &str) -> &'static str {
    if name == END {
        return END;
    }
    let name = name.to_lowercase();
    RULES.iter().find(|(part, _)| name.contains(part)).map_or("inst", |&(_, function)| function)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_part_that_is_found_decides() {
        for (name, expected) in [
            ("end", "end"),
            ("End", "inst"),
            ("ending", "outro"),
            ("Verse2", "verse"),
            ("introverse", "verse"),
            ("prechorus", "verse"),
            ("pre-chorus", "verse"),
            ("postchorus", "chorus"),
            ("instchorus", "chorus"),
            ("instbridge", "bridge"),
            ("transition", "bridge"),
            ("mainriff", "inst"),
            ("drumroll", "inst"),
            ("breakdown", "inst"),
            ("fadeout", "outro"),
            ("silence", "silence"),
            ("gtr", "inst"),
        ] {
            assert_eq!(function(name), expected, "{name}");
        }
    }
}
