//! Label files in folders as the recordings are: Isophonics, RWC-Pop and USpop chords.
//!
//! Chords and sections are `start end label`, separated by tabs or spaces; sections of Isophonics have an empty third
//! column. Beats are `time position`. A track is named by the path of its label file without the extension, and its
//! recording is searched under the same path.

use std::path::PathBuf;

use super::audio::{composed, slashed, without_extension};
use super::error::DatasetError;
use super::functions::{FUNCTIONS, function};
use super::kinds::{Sections, Task};
use super::open::Reading;
use super::params::DatasetParams;
use super::track::Track;
use super::{find, text};

/// The path without its extension.
pub(super) fn key(name: &str) -> Option<String> {
    Some(composed(without_extension(name.strip_prefix("./").unwrap_or(name))))
}

/// The folder that names start from: that of the task, in the layout of Isophonics.
fn root(params: &DatasetParams) -> PathBuf {
    let folders: &[&str] = match params.task {
        Task::Chords => &["chordlab", "annotations/chordlab"],
        Task::Structure => &["seglab", "annotations/seglab"],
        _ => &["beat", "beats", "annotations/beat"],
    };
    find::subfolder(&params.annotations(), folders)
}

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    let patterns: &[&str] = if params.task == Task::Beats { &["*.txt", "*.beats", "*.lab"] } else { &["*.lab"] };
    let such_as = format!("`artist/album/01-Title{}`", patterns[0].trim_start_matches('*'));
    find::files(&root(params), patterns, &such_as, |_| true)
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let root = root(params);
    let sections = params.sections.unwrap_or_default();
    if params.task == Task::Structure && sections == Sections::Functions {
        reading.classes = Some(FUNCTIONS.map(str::to_owned).to_vec());
    }
    for path in files(params)? {
        let problems = &mut reading.problems;
        let mut labels = match params.task {
            Task::Chords => text::intervals(&path, Some(text::UNKNOWN_CHORD), problems)?,
            Task::Structure => text::intervals(&path, None, problems)?,
            _ => text::beats(&path, problems)?,
        };
        if params.task == Task::Structure && sections == Sections::Functions {
            labels.iter_mut().for_each(|label| label.value = function_of_interval(&label.value));
        }
        let Some(id) = key(&slashed(path.strip_prefix(&root).unwrap_or(&path))) else { continue };
        let group = song(&id);
        let audio = format!("{id}.mp3");
        reading.push(id.clone(), Track { labels, group, ..Track::new(id, audio, vec![path]) });
    }
    Ok(())
}

/// The function of a section that lasts: a lasting `end` is silence.
pub(super) fn function_of_interval(name: &str) -> String {
    match function(name) {
        super::functions::END => "silence".to_owned(),
        function => function.to_owned(),
    }
}

/// The song of `artist/album/01-Title`: live and studio versions, and the same song in other sets, are one.
fn song(id: &str) -> Option<String> {
    let parts: Vec<&str> = id.split('/').collect();
    let [.., artist, _, title] = parts.as_slice() else { return None };
    let numbered = title.trim_start_matches(|c: char| c.is_ascii_digit());
    let after = numbered.trim_start_matches(|c: char| !c.is_alphanumeric());
    let numbered = numbered.len() < title.len() && after.len() < numbered.len() && !after.is_empty();
    song_of(artist, if numbered { after } else { title })
}

/// The name of a song for comparison: letters and digits of the artist (without `the`) and the title.
pub(super) fn song_of(artist: &str, title: &str) -> Option<String> {
    let plain = |text: &str| -> String {
        composed(text).chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let lower = artist.to_lowercase();
    let artist = lower.strip_prefix("the").filter(|rest| rest.starts_with([' ', '_'])).unwrap_or(&lower);
    let (artist, title) = (plain(artist), plain(title));
    (!artist.is_empty() && !title.is_empty()).then(|| format!("{artist}/{title}"))
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{All, Layout};
    use super::super::sample::Folder;
    use super::super::track::Label;
    use super::*;

    fn open(folder: &Folder, task: Task, annotations: &str) -> Vec<Track> {
        let mut params = folder.params(Layout::Lab, task, annotations);
        params.all = Some(All::Test);
        let dataset = params.read().expect("a data set");
        assert!(dataset.problems.iter().all(|problem| problem.kind.as_str().starts_with("missing")));
        dataset.tracks
    }

    #[test]
    fn isophonics_are_read_for_three_tasks() {
        let folder = Folder::new(&[
            ("b/chordlab/The Beatles/01_-_PPM/11_-_Do You.lab", b"0.000000 0.497838 N\n4.586464 6.98973 E:min\n"),
            (
                "b/seglab/The Beatles/01_-_PPM/11_-_Do You.lab",
                b"0.000\t0.465\t\tsilence\n0.465\t14.931\t\tverse (solo)\n",
            ),
            ("b/beat/The Beatles/01_-_PPM/11_-_Do You.txt", b"13.249  2\n13.959  3\n"),
            ("audio/The Beatles/01_-_PPM/11_-_Do You.wav", b""),
        ]);
        let chords = &open(&folder, Task::Chords, "b")[0];
        assert_eq!(chords.id, "The Beatles/01_-_PPM/11_-_Do You");
        assert_eq!((chords.audio.as_str(), chords.present), ("The Beatles/01_-_PPM/11_-_Do You.wav", true));
        assert_eq!(chords.labels[1], Label::between(4.586464, 6.98973, "E:min", 2));
        assert_eq!(chords.group.as_deref(), Some("beatles/doyou"));
        let sections = &open(&folder, Task::Structure, "b")[0].labels;
        assert_eq!(*sections, [Label::between(0.0, 0.465, "silence", 1), Label::between(0.465, 14.931, "verse", 2)]);
        assert_eq!(open(&folder, Task::Beats, "b")[0].labels[0], Label::at(13.249, "2", 1));
    }

    #[test]
    fn names_may_be_written_with_other_accents_and_dots() {
        let folder = Folder::new(&[
            ("u/beyonce\u{301}/B.Day/05-D\u{e9}ja_Vu.lab", b"0.000\t1.5\tC#:min7/b3\n"),
            ("u/N001-M01-T01.lab", b"0.000\t1.5\tN\n"),
            ("audio/beyonc\u{e9}/B.Day/05-De\u{301}ja_Vu.mp3", b""),
        ]);
        let tracks = open(&folder, Task::Chords, "u");
        assert_eq!(tracks.iter().filter(|track| track.present).count(), 1);
        let track = tracks.iter().find(|track| track.present).expect("one");
        assert_eq!(track.group.as_deref(), Some("beyoncé/déjavu"));
    }

    #[test]
    fn songs_are_named_by_letters() {
        assert_eq!(song("u2/The_Joshua_Tree/03-With_or_Without_You"), song_of("U2", "With Or Without You!"));
        assert_eq!(song("x/the_doors/L_A_Woman/1979"), song_of("Doors", "1979"));
        assert_eq!(song("nena/99/01-99_Luftballons"), song_of("Nena", "99 Luftballons"));
        assert_eq!(song("therapy/a/01 x").as_deref(), Some("therapy/x"));
        assert_eq!(song("N001-M01-T01"), None);
    }
}
