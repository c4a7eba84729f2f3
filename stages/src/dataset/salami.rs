//! Sections from the transcriptions of the McGill Billboard (`salami_chords.txt`).
//!
//! A line is `time<TAB>content`: `silence`, `end`, `Z` (not music), or `letter, name, | bar | bar |, (instrument`, where
//! letter and name are only written where a section starts. Headers (`# title: ...`) recur.

use std::collections::HashMap;
use std::path::Path;

use super::error::{DatasetError, Problem, ProblemKind};
use super::harmonix;
use super::kinds::Sections;
use super::text;
use super::track::Label;

/// Sections as intervals, closed by an instant `end`.
pub(super) fn sections(path: &Path, names: Sections, problems: &mut Vec<Problem>) -> Result<Vec<Label>, DatasetError> {
    let text = text::read(path, problems)?;
    let mut boundaries = Vec::new();
    let mut names_of_letters: HashMap<String, String> = HashMap::new();
    for (line, row) in text::rows(&text) {
        let (time, content) = row.split_once('\t').unwrap_or((row, ""));
        let (Some(time), false) = (text::seconds(time.trim()), content.trim().is_empty()) else {
            let message = format!("expected a time, a tab and bars or a section, found `{row}`; the line is left out");
            problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            continue;
        };
        let Some(mut section) = Section::parse(content) else { continue };
        if let (Some(letter), Some(name)) = (&section.letter, &section.name) {
            names_of_letters.insert(letter.clone(), name.clone());
        } else if let Some(letter) = &section.letter {
            section.name = names_of_letters.get(letter).cloned();
        }
        let value = match (section.letter, section.name, names) {
            (Some(letter), _, Sections::Functions) if letter == "Z" => "silence".to_owned(),
            (_, Some(name), _) => name,
            (Some(letter), None, _) if letter == "Z" => letter,
            (letter, None, _) => {
                let letter = letter.unwrap_or_default();
                let message = format!("expected a name beside the letter `{letter}`, found none; it counts as `inst`");
                problems.push(Problem::new(ProblemKind::MissingLabels, path, line, message));
                letter
            }
        };
        boundaries.push(Label::at(time, value, line));
    }
    text::sort(path, &mut boundaries, problems);
    Ok(harmonix::sections(path, boundaries, None, names, problems))
}

/// What a line says about the section that starts there.
struct Section {
    letter: Option<String>,
    name: Option<String>,
}

impl Section {
    /// `None` where a section goes on.
    fn parse(content: &str) -> Option<Self> {
        let words = content.split('|').next().unwrap_or_default().split(',').map(str::trim);
        // What is in brackets is an instrument, unless a name goes on after them: `(secondary) theme`.
        let instrument = |word: &str| match (word.find('('), word.find(')')) {
            (Some(0), None) => true,
            (None | Some(0), Some(end)) => end + 1 == word.len(),
            _ => false,
        };
        let words: Vec<&str> = words.filter(|word| !word.is_empty() && !instrument(word)).collect();
        let is_letter = |word: &str| {
            let letter = word.trim_end_matches('\'');
            letter.len() == 1 && letter.bytes().all(|byte| byte.is_ascii_uppercase())
        };
        let letter = words.first().filter(|word| is_letter(word)).map(|word| word.trim_end_matches('\'').to_owned());
        let names = &words[usize::from(letter.is_some())..];
        let name = (!names.is_empty()).then(|| names.join(", "));
        (letter.is_some() || name.is_some()).then_some(Self { letter, name })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Folder;
    use super::*;

    const TEXT: &str = "# title: T\n# metre: 6/8\n\n0.0\tsilence\n7.3469387e-2\tA, intro, | A:min | . | x2\n\
        8.7\t| A:min | &pause |, (voice\n# tonic: D\n15.5\tB', (secondary) theme, | F:maj | * | ->\n22.0\tZ, fadeout\n\
        25.0\tB, | (2/4) G:maj |, voice), fadeout\n26.0\tvoice), (guitar), | C |\n30.0\tfadeout, | C |\n31.0\tE, | C |\n32.0\tC, chorus, fadeout, | C |\n\
        x\t| C |\n33.0\t(voice, guitar)\n40.0\tsilence\n41.5\tend\n";

    #[test]
    fn sections_start_where_they_are_named() {
        let folder = Folder::new(&[("s.txt", TEXT.as_bytes())]);
        let mut problems = Vec::new();
        let labels = sections(&folder.path("s.txt"), Sections::Raw, &mut problems).expect("sections");
        let found: Vec<_> = labels.iter().map(|label| (label.start.unwrap_or(-1.0), label.value.as_str())).collect();
        let expected = [
            (0.0, "silence"),
            (0.073469387, "intro"),
            (15.5, "(secondary) theme"),
            (22.0, "fadeout"),
            (25.0, "(secondary) theme"),
            (30.0, "fadeout"),
            (31.0, "E"),
            (32.0, "chorus, fadeout"),
            (40.0, "silence"),
            (41.5, "end"),
        ];
        assert_eq!(found, expected);
        assert_eq!(labels[1].end, Some(15.5));
        assert_eq!((labels[9].end, labels[9].line), (None, 18));
        let problems: Vec<_> = problems.iter().map(|problem| folder.shorten(problem)).collect();
        assert_eq!(
            problems,
            [
                "`s.txt`, line 13: expected a name beside the letter `E`, found none; it counts as `inst`",
                "`s.txt`, line 15: expected a time, a tab and bars or a section, found `x\t| C |`; the line is left out",
            ]
        );
        let labels = sections(&folder.path("s.txt"), Sections::Functions, &mut Vec::new()).expect("sections");
        let found: Vec<_> = labels.iter().map(|label| label.value.as_str()).collect();
        let expected = ["silence", "intro", "chorus", "silence", "chorus", "outro", "inst", "chorus", "silence", "end"];
        assert_eq!(found, expected);
    }
}
