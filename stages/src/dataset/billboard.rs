//! McGill Billboard: chords and sections of 890 chart slots, 739 of them different songs.
//!
//! Chords: `0003/full.lab` (or `majmin.lab`, ...) or, in copies, `0003full.lab`; rows `start<TAB>end<TAB>chord`, one per
//! beat, many in a row with the same chord. Sections: `0003/salami_chords.txt` or `0003.txt`. Titles: an index with the
//! columns `id`, `title` and `artist`.
//!
//! Burgoyne, Wild, Fujinaga, "An expert ground truth set for audio chord recognition and music analysis", ISMIR 2011.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::audio::{slashed, stem, without_extension};
use super::error::DatasetError;
use super::functions::FUNCTIONS;
use super::kinds::{Sections, Task};
use super::open::Reading;
use super::params::DatasetParams;
use super::table::{self, Columns};
use super::track::Track;
use super::{find, lab, salami, text};

/// The name under which the index was published.
const INDEX: &str = "billboard-2.0-index.csv";

/// The slot as four digits: of a number, of a name that starts with four digits, or of a folder that is a number.
/// Fewer digits before other words are more likely a title or the number of a track than a slot.
pub(super) fn key(name: &str) -> Option<String> {
    let name = without_extension(name);
    let mut parts = name.rsplit('/');
    let stem = parts.next()?;
    let digits = stem.bytes().take_while(u8::is_ascii_digit).count();
    let ends = !stem[digits..].starts_with(char::is_alphanumeric);
    if digits == 4 && ends { slot(&stem[..4]) } else { slot(stem).or_else(|| parts.next().and_then(slot)) }
}

/// The slot of a number.
fn slot(number: &str) -> Option<String> {
    let digits = (1..=4).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| format!("{number:0>4}"))
}

/// The label files with their slots.
fn label_files(params: &DatasetParams) -> Result<Vec<(PathBuf, String)>, DatasetError> {
    let wanted = match params.task {
        Task::Chords => params.variant.unwrap_or_default().as_str(),
        _ => "salami_chords",
    };
    let slot_of = |path: &Path| -> Option<String> {
        let path = slashed(path);
        let stem = stem(&path);
        let (number, rest) = stem.split_at(stem.bytes().take_while(u8::is_ascii_digit).count());
        let plain = params.task == Task::Structure && rest.is_empty();
        match number {
            _ if rest != wanted && !plain => None,
            "" => path.rsplit('/').nth(1).and_then(slot),
            number => slot(number),
        }
    };
    let (patterns, such_as): (&[&str], _) = match params.task {
        Task::Chords => (&["*.lab"], format!("`0003/{wanted}.lab` or `0003{wanted}.lab`")),
        _ => (&["*.txt"], "`0003/salami_chords.txt` or `0003.txt`".to_owned()),
    };
    let found = find::files(&params.annotations(), patterns, &such_as, |path| slot_of(path).is_some())?;
    let mut slots: Vec<(PathBuf, String)> =
        found.into_iter().filter_map(|path| slot_of(&path).map(|slot| (path, slot))).collect();
    slots.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(slots)
}

/// Where the index is, if it is.
fn index(params: &DatasetParams) -> Option<PathBuf> {
    let annotations = params.annotations();
    let places = [Some(annotations.as_path()), annotations.parent()];
    let usual = || places.into_iter().flatten().map(|folder| folder.join(INDEX)).find(|path| path.is_file());
    params.index.as_ref().map(PathBuf::from).or_else(usual)
}

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    Ok(label_files(params)?.into_iter().map(|(path, _)| path).chain(index(params)).collect())
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let mut songs = HashMap::new();
    if let Some(path) = index(params) {
        let columns = Columns { required: &["id", "title", "artist"], optional: &[] };
        table::read(&path, columns, &mut reading.problems, &mut |_, cells| {
            // Slots that were not annotated have neither title nor artist.
            let [id, title, artist] = [0, 1, 2].map(|cell| cells[cell].join(""));
            if let (Some(slot), Some(song)) = (key(&id), lab::song_of(&artist, &title)) {
                songs.insert(slot, song);
            }
        })?;
    }
    let sections = params.sections.unwrap_or_default();
    if params.task == Task::Structure && sections == Sections::Functions {
        reading.classes = Some(FUNCTIONS.map(str::to_owned).to_vec());
    }
    for (path, slot) in label_files(params)? {
        let labels = match params.task {
            Task::Chords => text::intervals(&path, Some(text::UNKNOWN_CHORD), &mut reading.problems)?,
            _ => salami::sections(&path, sections, &mut reading.problems)?,
        };
        let group = songs.get(&slot).cloned();
        let track = Track { labels, group, ..Track::new(slot.clone(), format!("{slot}.mp3"), vec![path]) };
        reading.push(slot, track);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{Draw, Layout, Variant};
    use super::super::leak::{Shared, leaks};
    use super::super::sample::Folder;
    use super::super::track::Label;
    use super::*;

    const FULL: &[u8] = b"0.0\t7.3469387e-2\tN\nX7.3469387e-2\t1.5\tC:maj_XXX\n1.5\t2.5\tA:min\n2.5\t2.5\tA:min\n\n";

    fn folder() -> Folder {
        Folder::new(&[
            ("mirex/0003full.lab", FULL),
            ("mirex/0003majmin.lab", b"0.0\t7.3469387e-2\tN\n7.3469387e-2\t1.5\tX\n\n"),
            ("mirex/0003majmin7inv.lab", b"0.0\t1.0\tN\n"),
            ("mirex/0010full.lab", b"0.0\t1.0\tN\n"),
            ("tree/0003/full.lab", FULL),
            ("tree/0003/salami_chords.txt", b"# title: x\n0.0\tA, verse, | C |\n5.0\tend\n"),
            ("tree/0010/full.lab", b"0.0\t1.0\tN\n"),
            ("salami/0003.txt", b"0.0\tA, verse, | C |\n5.0\tend\n"),
            ("billboard-2.0-index.csv", b"id\ttitle\tartist\n1\t\t\n3\tMy Song\tThe X\n10\tMy song!\tX\n"),
            ("audio/0003 - My Song.mp3", b""),
            ("audio/99 Luftballons.mp3", b""),
            ("audio/0010/audio.flac", b""),
        ])
    }

    fn params(folder: &Folder, task: Task, annotations: &str) -> DatasetParams {
        let mut params = folder.params(Layout::Billboard, task, annotations);
        params.draw = Some(Draw { valid: 0.5, test: 0.0, seed: 3 });
        params
    }

    #[test]
    fn slots_are_not_guessed_from_titles() {
        for (name, expected) in [
            ("3", Some("0003")),
            ("0003_x.mp3", Some("0003")),
            ("a/0003/audio.flac", Some("0003")),
            ("0003/01 song.mp3", Some("0003")),
            ("99 Luftballons.mp3", None),
            ("02-b.mp3", None),
            ("0003full", None),
        ] {
            assert_eq!(key(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn both_layouts_say_the_same() {
        let folder = folder();
        let tree = params(&folder, Task::Chords, "tree").open().expect("a data set");
        let mut flat_params = params(&folder, Task::Chords, "mirex");
        let flat = flat_params.open().expect("a data set");
        let labels = |dataset: &super::super::Dataset| -> Vec<_> {
            dataset.tracks.iter().map(|track| (track.id.clone(), track.labels.clone(), track.present)).collect()
        };
        assert_eq!(labels(&tree), labels(&flat));
        let expected = [
            Label::between(0.0, 7.3469387e-2, "N", 1),
            Label::between(7.3469387e-2, 1.5, "X", 2),
            Label::between(1.5, 2.5, "A:min", 3),
        ];
        assert_eq!(flat.tracks[0].labels, expected);
        assert_eq!(flat.tracks[1].audio, "0010/audio.flac");
        assert_eq!(flat.problems.len(), 2);
        flat_params.variant = Some(Variant::Majmin);
        let majmin = flat_params.read().expect("a data set");
        assert_eq!((majmin.tracks.len(), majmin.tracks[0].labels.len()), (1, 2));
        flat_params.variant = Some(Variant::Majmin7);
        let error = folder.shorten(flat_params.read().expect_err("none"));
        assert_eq!(
            error,
            "`mirex`: expected files such as `0003/majmin7.lab` or `0003majmin7.lab`, found `0003full.lab`"
        );
    }

    #[test]
    fn a_song_that_was_annotated_twice_is_in_one_split() {
        let folder = folder();
        let dataset = params(&folder, Task::Chords, "mirex").open().expect("a data set");
        assert_eq!(dataset.tracks[0].group.as_deref(), Some("x/mysong"));
        assert_eq!(dataset.tracks[0].group, dataset.tracks[1].group);
        assert_eq!(dataset.tracks[0].split, dataset.tracks[1].split);
        assert!(leaks(&dataset.tracks).is_empty());
        folder.write("s/train.txt", b"0003\n");
        folder.write("s/test.txt", b"10\n");
        let mut listed = folder.params(Layout::Billboard, Task::Chords, "mirex");
        listed.splits = Some(folder.text("s"));
        let leaks = leaks(&listed.open().expect("a data set").tracks);
        assert_eq!((leaks.len(), leaks[0].shared, leaks[0].key.as_str()), (1, Shared::Group, "x/mysong"));
    }

    #[test]
    fn sections_come_from_the_transcriptions() {
        let folder = folder();
        for annotations in ["tree", "salami"] {
            let dataset = params(&folder, Task::Structure, annotations).open().expect("a data set");
            let last = dataset.tracks[0].labels.last().expect("labels");
            assert_eq!((dataset.tracks[0].labels.len(), last.value.as_str()), (2, "end"));
            assert_eq!(dataset.tracks[0].labels[0].value, "verse");
        }
    }
}
