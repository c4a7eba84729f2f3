//! NSynth: 305,979 single notes.
//!
//! `nsynth-{train,valid,test}/examples.json` is an object by note name, `bass_synthetic_033-022-050` (instrument, MIDI
//! pitch, velocity); recordings are `nsynth-train/audio/NAME.wav`.
//!
//! Engel et al., "Neural audio synthesis of musical notes with WaveNet autoencoders", ICML 2017.

use std::path::{Path, PathBuf};

use omar_schemas::Split;
use serde::Deserialize;

use super::audio::stem;
use super::error::{DatasetError, ProblemKind};
use super::json;
use super::kinds::Task;
use super::open::Reading;
use super::params::DatasetParams;
use super::track::{Label, Track};

/// Instrument families, in the order of their numbers.
const FAMILIES: [&str; 11] =
    ["bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal"];
/// MIDI pitches.
const PITCHES: i64 = 128;
const FOLDERS: [(&str, Split); 3] =
    [("nsynth-train", Split::Train), ("nsynth-valid", Split::Valid), ("nsynth-test", Split::Test)];
const EXAMPLES: &str = "examples.json";

/// What is said about a note; the rest of its entry is skipped.
#[derive(Deserialize)]
struct Note {
    pitch: i64,
    instrument_family_str: String,
    instrument_str: String,
}

/// The name of the note: three parts separated by `-`.
pub(super) fn key(name: &str) -> Option<String> {
    let stem = stem(name);
    (stem.split('-').count() == 3).then_some(stem)
}

/// The MIDI pitch in the name of a note.
fn pitch(name: &str) -> Option<i64> {
    let mut parts = name.split('-');
    let (_, pitch, velocity, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
    velocity.parse::<u32>().ok()?;
    pitch.parse().ok()
}

/// The lists of notes with their folders.
fn lists(annotations: &Path) -> Result<Vec<(PathBuf, &'static str, Split)>, DatasetError> {
    let own = annotations.file_name().and_then(|name| FOLDERS.iter().find(|(folder, _)| *folder == name));
    if let (Some(&(folder, split)), true) = (own, annotations.join(EXAMPLES).is_file()) {
        return Ok(vec![(annotations.join(EXAMPLES), folder, split)]);
    }
    let list = |&(folder, split)| (annotations.join(folder).join(EXAMPLES), folder, split);
    let found: Vec<_> = FOLDERS.iter().map(list).filter(|(path, ..)| path.is_file()).collect();
    if found.is_empty() {
        let message = "expected `nsynth-train/examples.json`, `nsynth-valid/examples.json` or `nsynth-test/examples.json`, \
                       found none of them; hint: unpack the archives there";
        return Err(DatasetError::file(annotations, None, message));
    }
    Ok(found)
}

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    Ok(lists(&params.annotations())?.into_iter().map(|(path, ..)| path).collect())
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    reading.classes = Some(match params.task {
        Task::Pitch => (0..PITCHES).map(|pitch| pitch.to_string()).collect(),
        _ => FAMILIES.map(str::to_owned).to_vec(),
    });
    for (path, folder, split) in lists(&params.annotations())? {
        json::entries(&path, 1, &mut |keys, note: Note, line| {
            let name = &keys[0];
            let label = match (params.task, &note) {
                (Task::Pitch, Note { pitch, .. }) if (0..PITCHES).contains(pitch) => pitch.to_string(),
                (Task::Pitch, Note { pitch, .. }) => {
                    let message = format!("expected a MIDI pitch from 0 to 127, found {pitch}; `{name}` is left out");
                    return reading.problem(ProblemKind::MalformedLine, &path, line, message);
                }
                (_, Note { instrument_family_str: family, .. }) if FAMILIES.contains(&family.as_str()) => {
                    family.clone()
                }
                (_, Note { instrument_family_str: family, .. }) => {
                    let families = FAMILIES.join(", ");
                    let message = format!("expected a family ({families}), found `{family}`; `{name}` is left out");
                    return reading.problem(ProblemKind::MalformedLine, &path, line, message);
                }
            };
            if pitch(name) != Some(note.pitch) {
                let message =
                    format!("expected the pitch {} in the name, found `{name}`; the pitch counts", note.pitch);
                reading.problem(ProblemKind::Conflict, &path, line, message);
            }
            let track = Track {
                labels: vec![Label::whole(label, line)],
                split: Some(split),
                group: Some(note.instrument_str),
                ..Track::new(name, format!("{folder}/audio/{name}.wav"), vec![path.clone()])
            };
            reading.push(super::audio::composed(name), track);
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::kinds::Layout;
    use super::super::sample::Folder;
    use super::*;

    fn note(name: &str, pitch: i64, family: &str) -> String {
        let instrument = name.split('-').next().unwrap_or_default();
        format!(
            r#"    "{name}": {{"note": 1, "pitch": {pitch}, "instrument_str": "{instrument}", "velocity": 50,
        "qualities": [0, 1], "instrument_family_str": "{family}"}}"#
        )
    }

    fn folder() -> Folder {
        let train = [
            note("bass_synthetic_033-022-050", 22, "bass"),
            note("vocal_acoustic_000-128-100", 128, "vocal"),
            note("organ_electronic_001-060-127", 61, "pipe"),
        ];
        let folder = Folder::new(&[
            ("ns/nsynth-train/examples.json", format!("{{\n{}\n}}", train.join(",\n")).as_bytes()),
            (
                "ns/nsynth-test/examples.json",
                format!("{{{}}}", note("reed_acoustic_001-000-025", 0, "reed")).as_bytes(),
            ),
            ("audio/nsynth-train/audio/bass_synthetic_033-022-050.flac", b""),
            ("audio/nsynth-train/audio/unknown_acoustic_033-022-050.flac", b""),
        ]);
        folder.write("ns/README.txt", b"");
        folder
    }

    #[test]
    fn notes_have_pitches_and_families() {
        let folder = folder();
        let dataset = folder.params(Layout::Nsynth, Task::Pitch, "ns").open().expect("a data set");
        let pitches: Vec<_> =
            dataset.tracks.iter().map(|track| (track.labels[0].clone(), track.split.expect("one"))).collect();
        assert_eq!(
            pitches,
            [
                (Label::whole("22", 2), Split::Train),
                (Label::whole("61", 6), Split::Train),
                (Label::whole("0", 1), Split::Test)
            ]
        );
        assert_eq!(dataset.tracks[0].audio, "nsynth-train/audio/bass_synthetic_033-022-050.flac");
        assert_eq!(dataset.tracks[2].audio, "nsynth-test/audio/reed_acoustic_001-000-025.wav");
        assert_eq!(dataset.tracks[0].group.as_deref(), Some("bass_synthetic_033"));
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        assert_eq!(
            problems[..2],
            [
                "`ns/nsynth-train/examples.json`, line 4: expected a MIDI pitch from 0 to 127, found 128; \
                 `vocal_acoustic_000-128-100` is left out",
                "`ns/nsynth-train/examples.json`, line 6: expected the pitch 61 in the name, found \
                 `organ_electronic_001-060-127`; the pitch counts",
            ]
        );
        assert_eq!(dataset.coverage.problems[&ProblemKind::MissingAudio], 2);
        assert!(problems.last().expect("one").contains("unknown_acoustic_033-022-050.flac`: nothing is said"));
        assert_eq!(dataset.classes.expect("pitches").len(), 128);

        let params = folder.params(Layout::Nsynth, Task::Tagging, "ns");
        let dataset = params.open().expect("a data set");
        assert_eq!(dataset.tracks[0].labels[0].value, "bass");
        assert!(folder.shorten(&dataset.problems[0]).contains("found `pipe`"));
        assert_eq!(params.files().expect("files").len(), 2);
    }

    /// An entry with everything that the published file has, indented as it is there.
    const WHOLE: &str = r#"{
    "bass_synthetic_033-022-050": {
        "note": 201034,
        "sample_rate": 16000,
        "instrument_family": 0,
        "qualities": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        "instrument_source_str": "synthetic",
        "note_str": "bass_synthetic_033-022-050",
        "instrument_family_str": "bass",
        "instrument_str": "bass_synthetic_033",
        "pitch": 22,
        "instrument": 417,
        "velocity": 50,
        "instrument_source": 2,
        "qualities_str": ["dark"]
    },
    "synth_lead_synthetic_003-108-127": {
        "qualities_str": [],
        "note": 1,
        "pitch": 108,
        "instrument_str": "synth_lead_synthetic_003",
        "instrument_family_str": "synth_lead",
        "instrument_source_str": "synthetic"
    }
}
"#;

    #[test]
    fn an_entry_as_published_is_read() {
        let folder = Folder::new(&[
            ("nsynth-valid/examples.json", WHOLE.as_bytes()),
            ("audio/nsynth-valid/audio/bass_synthetic_033-022-050.wav", b""),
            ("audio/nsynth-valid/audio/synth_lead_synthetic_003-108-127.wav", b""),
        ]);
        for (task, expected) in [(Task::Pitch, ["22", "108"]), (Task::Tagging, ["bass", "synth_lead"])] {
            let dataset = folder.params(Layout::Nsynth, task, "nsynth-valid").open().expect("a data set");
            let found: Vec<&str> = dataset.tracks.iter().map(|track| track.labels[0].value.as_str()).collect();
            assert_eq!((found, dataset.problems), (expected.to_vec(), Vec::new()));
            assert_eq!(dataset.tracks.iter().filter(|track| track.split == Some(Split::Valid)).count(), 2);
            assert_eq!(dataset.tracks[1].group.as_deref(), Some("synth_lead_synthetic_003"));
        }
    }

    #[test]
    fn one_part_is_enough_and_none_is_not() {
        let folder = folder();
        let part = folder.params(Layout::Nsynth, Task::Pitch, "ns/nsynth-train").open().expect("a data set");
        assert_eq!(part.tracks.len(), 2);
        let error = folder.shorten(folder.params(Layout::Nsynth, Task::Pitch, "audio").open().expect_err("no lists"));
        assert!(error.starts_with("`audio`: expected `nsynth-train/examples.json`"), "{error}");
        folder.write("ns/nsynth-valid/examples.json", b"{\"a-1-2\": {\"pitch\": \"x\"}}");
        let error = folder.shorten(folder.params(Layout::Nsynth, Task::Pitch, "ns").open().expect_err("no number"));
        assert!(error.contains("line 1: column") && error.contains("of `a-1-2`: invalid type"), "{error}");
    }
}
