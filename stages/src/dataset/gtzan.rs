//! GTZAN: 1,000 excerpts of ten genres, with the beats of `gtzan_tempo_beat`.
//!
//! The excerpt `blues.00000.wav` is annotated as `gtzan_blues_00000`. Beats are `time position`, or only times; 999 of
//! the excerpts have them. Genres are in the names.
//!
//! Tzanetakis and Cook 2002; beats: Marchand and Peeters 2015, and corrections at TempoBeatDownbeat/gtzan_tempo_beat.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use omar_schemas::Split;

use super::audio::{AudioIndex, slashed, stem};
use super::error::{DatasetError, Problem, ProblemKind};
use super::kinds::Task;
use super::open::Reading;
use super::params::DatasetParams;
use super::track::{Label, Track};
use super::{find, text};

/// The genres.
pub const GENRES: [&str; 10] =
    ["blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock"];

/// `blues.00000`, of `blues.00000.au`, `gtzan_blues_00000.beats` and the like.
pub(super) fn key(name: &str) -> Option<String> {
    let stem = stem(name);
    let (genre, number) = stem.strip_prefix("gtzan_").unwrap_or(&stem).split_once(['.', '_'])?;
    let digits = number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit());
    (GENRES.contains(&genre) && digits).then(|| format!("{genre}.{number}"))
}

fn label_files(annotations: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let folder = find::subfolder(annotations, &["beats"]);
    find::files(&folder, &["*.beats", "*.txt"], "`beats/gtzan_blues_00000.beats`", |path| key(&slashed(path)).is_some())
}

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    if params.task == Task::Tagging { Ok(Vec::new()) } else { label_files(&params.annotations()) }
}

pub(super) fn read(params: &DatasetParams, audio: &AudioIndex, reading: &mut Reading) -> Result<(), DatasetError> {
    if params.task == Task::Tagging {
        reading.classes = Some(GENRES.map(str::to_owned).to_vec());
        let mut keys: Vec<&str> = audio.files().filter_map(|(_, key)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let genre = key.split('.').next().unwrap_or_default();
            let labels = vec![Label::whole(genre, 1)];
            reading.push(key, Track { labels, ..Track::new(key, format!("{genre}/{key}.wav"), Vec::new()) });
        }
        return Ok(());
    }
    for path in label_files(&params.annotations())? {
        let Some(key) = key(&slashed(&path)) else { continue };
        let labels = text::beats(&path, &mut reading.problems)?;
        let audio = format!("{}/{key}.wav", key.split('.').next().unwrap_or_default());
        let track = Track { labels, split: Some(Split::Test), ..Track::new(key.clone(), audio, vec![path]) };
        reading.push(key, track);
    }
    Ok(())
}

/// The tempi of `gtzan_tempo_beat`, in beats per minute by track id (`tempo/gtzan_blues_00000.bpm`, one number each),
/// and what is wrong with them.
///
/// # Errors
/// When the folder cannot be read or has none.
pub fn tempi(annotations: &Path) -> Result<(BTreeMap<String, f64>, Vec<Problem>), DatasetError> {
    let folder = find::subfolder(annotations, &["tempo"]);
    let name = |path: &Path| key(&slashed(&path.with_extension("")));
    let mut tempi = BTreeMap::new();
    let mut problems = Vec::new();
    for path in find::files(&folder, &["*.bpm"], "`tempo/gtzan_blues_00000.bpm`", |path| name(path).is_some())? {
        let text = text::read(&path, &mut problems)?;
        let value = text.trim();
        match (name(&path), text::seconds(value).filter(|&tempo| tempo > 0.0)) {
            (Some(id), Some(tempo)) => drop(tempi.insert(id, tempo)),
            _ => {
                let message = format!("expected a tempo in beats per minute, found `{value}`");
                problems.push(Problem::new(ProblemKind::MalformedLine, &path, 1, message));
            }
        }
    }
    Ok((tempi, problems))
}

#[cfg(test)]
mod tests {
    use super::super::kinds::{Draw, Layout};
    use super::super::sample::Folder;
    use super::*;

    fn folder() -> Folder {
        Folder::new(&[
            ("gt/beats/gtzan_jazz_00003.beats", b"0.29\n1.08\n1.854\n"),
            ("gt/beats/gtzan_jazz_00004.beats", b"0.619\t3\n1.501\t1\n"),
            ("gt/beats/gtzan_jazz_00004_noposition.beats", b"0.619\n1.501\n"),
            ("gt/tempo/gtzan_jazz_00003.bpm", b"6.257000000000000028e+01\n"),
            ("gt/tempo/gtzan_jazz_00004.bpm", b"fast\n"),
            ("audio/jazz/jazz.00003.au", b""),
            ("audio/jazz/jazz.00004.wav", b""),
            ("audio/reggae/reggae.00086.wav", b""),
        ])
    }

    #[test]
    fn beats_are_joined_by_genre_and_number() {
        let folder = folder();
        let dataset = folder.params(Layout::Gtzan, Task::Beats, "gt").open().expect("a data set");
        let names: Vec<_> = dataset.tracks.iter().map(|track| (track.id.as_str(), track.audio.as_str())).collect();
        assert_eq!(names, [("jazz.00003", "jazz/jazz.00003.au"), ("jazz.00004", "jazz/jazz.00004.wav")]);
        assert_eq!(dataset.tracks[0].labels[1], Label::at(1.08, "", 2));
        assert_eq!(dataset.tracks[1].labels, [Label::at(0.619, "3", 1), Label::at(1.501, "1", 2)]);
        assert!(dataset.tracks.iter().all(|track| track.split == Some(Split::Test)));
        assert_eq!(dataset.problems.len(), 1);
        assert!(folder.shorten(&dataset.problems[0]).starts_with("`audio/reggae/reggae.00086.wav`: nothing is said"));
        assert_eq!(dataset.problems[0].kind, ProblemKind::MissingLabels);
    }

    #[test]
    fn genres_are_in_the_names() {
        let folder = folder();
        let mut params = DatasetParams::new(Layout::Gtzan, Task::Tagging, folder.text("audio"));
        params.draw = Some(Draw { valid: 0.0, test: 0.0, seed: 0 });
        let dataset = params.open().expect("a data set");
        let genres: Vec<_> = dataset.tracks.iter().map(|track| track.labels[0].value.as_str()).collect();
        assert_eq!(genres, ["jazz", "jazz", "reggae"]);
        assert_eq!(dataset.classes.expect("genres").len(), 10);
        assert!(dataset.problems.is_empty());
    }

    #[test]
    fn tempi_are_numbers() {
        let folder = folder();
        let (tempi, problems) = super::tempi(&folder.path("gt")).expect("tempi");
        assert_eq!(tempi, BTreeMap::from([("jazz.00003".to_owned(), 62.57)]));
        assert_eq!(
            folder.shorten(&problems[0]),
            "`gt/tempo/gtzan_jazz_00004.bpm`, line 1: expected a tempo in beats per minute, found `fast`"
        );
    }
}
