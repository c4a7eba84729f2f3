//! Whole annotation sets, where the environment variable `OMAR_ANNOTATIONS` names a folder that has them.
//!
//! The counts were taken with other programs (awk, Python) over the same files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::ProblemKind;
use super::folds::Fold;
use super::functions::function;
use super::kinds::{All, Draw, Layout, Sections, Task, Variant};
use super::params::DatasetParams;
use super::sample::Folder;
use super::track::{Dataset, Label};
use super::{gtzan, leaks};

/// Parameters for the annotations at a path below the folder of real sets, if there are any.
fn params(folder: &Folder, layout: Layout, task: Task, annotations: &str) -> Option<DatasetParams> {
    let path = std::env::var_os("OMAR_ANNOTATIONS").map(|root| PathBuf::from(root).join(annotations));
    match path.filter(|path| path.exists()) {
        Some(path) => {
            let mut params = folder.params(layout, task, "");
            params.annotations = Some(path.display().to_string());
            Some(params)
        }
        None => {
            eprintln!("skipped: OMAR_ANNOTATIONS names no folder with `{annotations}`");
            None
        }
    }
}

fn count(dataset: &Dataset, kind: ProblemKind) -> u64 {
    dataset.coverage.problems.get(&kind).copied().unwrap_or(0)
}

/// Problems of the annotations themselves.
fn wrong(dataset: &Dataset) -> Vec<String> {
    let missing = [ProblemKind::MissingAudio, ProblemKind::NoSplit];
    dataset.problems.iter().filter(|problem| !missing.contains(&problem.kind)).map(ToString::to_string).collect()
}

fn splits(dataset: &Dataset) -> [u64; 4] {
    let found = dataset.coverage.splits;
    [found.train, found.valid, found.test, found.none]
}

#[test]
fn harmonix_beats() {
    let folder = Folder::new(&[("audio/a.wav", b"")]);
    let Some(mut params) = params(&folder, Layout::Harmonix, Task::Beats, "harmonixset") else { return };
    params.draw = Some(Draw { valid: 0.2, test: 0.2, seed: 0 });
    let dataset = params.read().expect("a data set");
    assert_eq!((dataset.coverage.listed, dataset.coverage.labels), (912, 379_065));
    assert_eq!(wrong(&dataset), [""; 0]);
    let at_zero = dataset.tracks.iter().filter(|track| track.labels[0].start == Some(0.0)).count();
    assert_eq!(at_zero, 111);
    let positions = dataset.tracks.iter().flat_map(|track| &track.labels).map(|label| label.value.parse::<u32>());
    assert_eq!(positions.map(|position| position.expect("a number")).max(), Some(14));
    let [train, valid, test, none] = splits(&dataset);
    assert!(train + valid + test == 912 && none == 0 && (140..230).contains(&valid) && (140..230).contains(&test));
    assert_eq!(params.files().expect("files").len(), 912);
    // The names of the audio differ from those of the annotations; the four digits do not.
    for track in &dataset.tracks {
        folder.write(&format!("audio/{}_x.m4a", &track.id[..4]), b"");
    }
    let dataset = params.open().expect("a data set");
    assert_eq!((dataset.coverage.usable, dataset.problems.len()), (912, 0));
}

#[test]
fn harmonix_lists_of_beat_this() {
    let folder = Folder::new(&[("audio/a.wav", b"")]);
    let Some(mut params) = params(&folder, Layout::Harmonix, Task::Beats, "harmonixset") else { return };
    let root = PathBuf::from(params.annotations.clone().expect("a path"));
    let lists = root.with_file_name("beat_this_annotations").join("harmonix");
    params.splits = Some(lists.join("single.split").display().to_string());
    assert_eq!(splits(&params.read().expect("a data set")), [774, 137, 0, 1]);
    params.splits = Some(lists.join("8-folds.split").display().to_string());
    let mut tested = 0;
    for fold in 0..8 {
        params.fold = Some(Fold::One(fold));
        let [train, valid, test, none] = splits(&params.read().expect("a data set"));
        assert_eq!((train + valid + test, none), (911, 1));
        tested += test;
    }
    assert_eq!(tested, 911);
    params.annotations = Some(lists.display().to_string());
    let dataset = params.read().expect("corrected beats");
    assert_eq!((dataset.tracks.len(), dataset.coverage.splits.none), (40, 0));
    assert_eq!(count(&dataset, ProblemKind::UnknownTrack), 871);
}

#[test]
fn harmonix_structure() {
    let folder = Folder::new(&[("audio/a.wav", b"")]);
    let Some(mut params) = params(&folder, Layout::Harmonix, Task::Structure, "harmonixset") else { return };
    params.draw = Some(Draw { valid: 0.2, test: 0.2, seed: 0 });
    params.sections = Some(Sections::Raw);
    let raw = params.read().expect("a data set");
    assert_eq!((raw.coverage.listed, raw.coverage.labels), (912, 10_589));
    assert_eq!(wrong(&raw), [""; 0]);
    let names: BTreeMap<&str, u64> = counts(&raw, |label| &label.value);
    assert_eq!(names.len(), 126);
    let functions = [
        ("bridge", 773),
        ("chorus", 3622),
        ("end", 914),
        ("inst", 716),
        ("intro", 874),
        ("outro", 425),
        ("silence", 221),
        ("verse", 3044),
    ];
    assert_eq!(counts(&raw, |label| function(&label.value)), BTreeMap::from(functions));
    assert_eq!(raw.tracks.iter().filter(|track| track.labels[0].start != Some(0.0)).count(), 591);
    params.sections = None;
    let dataset = params.read().expect("a data set");
    let classes = dataset.classes.clone().expect("functions");
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    for label in dataset.tracks.iter().flat_map(|track| &track.labels) {
        match (label.start, label.end) {
            (Some(start), Some(end)) => {
                assert!(classes.contains(&label.value), "{}", label.value);
                *seconds.entry(&label.value).or_default() += end - start;
            }
            _ => assert_eq!(label.value, "end"),
        }
    }
    let total: f64 = seconds.values().sum();
    for (function, share) in
        [("chorus", 0.388), ("verse", 0.334), ("bridge", 0.089), ("inst", 0.075), ("intro", 0.069), ("outro", 0.040)]
    {
        assert!((seconds[function] / total - share).abs() < 1e-3, "{function}: {}", seconds[function] / total);
    }
    assert!((seconds["silence"] / total - 0.0045).abs() < 5e-4, "silence: {}", seconds["silence"] / total);
}

fn counts<'a>(dataset: &'a Dataset, of: impl Fn(&'a Label) -> &'a str) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    let labels = dataset.tracks.iter().flat_map(|track| &track.labels);
    labels.for_each(|label| *counts.entry(of(label)).or_default() += 1);
    counts
}

#[test]
fn gtzan_beats_and_tempi() {
    let folder = Folder::new(&[("audio/reggae/reggae.00086.wav", b"")]);
    let Some(params) = params(&folder, Layout::Gtzan, Task::Beats, "gtzan_tempo_beat") else { return };
    let dataset = params.read().expect("a data set");
    assert_eq!((dataset.coverage.listed, splits(&dataset)), (999, [0, 0, 999, 0]));
    assert_eq!(wrong(&dataset).len(), 1);
    assert_eq!(count(&dataset, ProblemKind::MissingLabels), 1);
    let single: Vec<&str> = dataset
        .tracks
        .iter()
        .filter(|track| track.labels.iter().all(|label| label.value.is_empty()))
        .map(|track| track.id.as_str())
        .collect();
    let expected = ["jazz.00003", "jazz.00009", "jazz.00010", "jazz.00014", "jazz.00018", "jazz.00020"];
    assert_eq!(single, expected);
    let (tempi, problems) = gtzan::tempi(&params.annotations()).expect("tempi");
    assert_eq!((tempi.len(), problems.len()), (999, 0));
}

#[test]
fn chord_labs() {
    let folder = Folder::new(&[]);
    let Some(mut params) = params(&folder, Layout::Lab, Task::Chords, "chord_annotations_tmc323") else { return };
    params.all = Some(All::Test);
    let dataset = params.read().expect("a data set");
    assert_eq!((dataset.coverage.listed, dataset.coverage.labels), (295, 13_467 + 24_947));
    assert_eq!(wrong(&dataset), [""; 0]);
    for (root, rows, labels) in [("RWC", 13_467, 445), ("usp", 24_947, 662)] {
        let of: Vec<&str> = dataset
            .tracks
            .iter()
            .filter(|track| track.id.starts_with(root))
            .flat_map(|track| &track.labels)
            .map(|label| label.value.as_str())
            .collect();
        assert_eq!(of.len(), rows);
        assert_eq!(of.into_iter().collect::<std::collections::BTreeSet<_>>().len(), labels);
    }
    assert!(dataset.tracks.iter().all(|track| track.labels[0].start == Some(0.0)));
}

#[test]
fn billboard() {
    let folder = Folder::new(&[]);
    let Some(mut params) = params(&folder, Layout::Billboard, Task::Chords, "mcgill_billboard/mirex") else { return };
    params.draw = Some(Draw { valid: 0.2, test: 0.2, seed: 0 });
    let rows = |params: &DatasetParams| -> u64 {
        let text = |path: &PathBuf| std::fs::read_to_string(path).expect("text");
        let files = params.files().expect("files");
        let labs = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "lab"));
        labs.map(|path| text(path).lines().filter(|line| !line.trim().is_empty()).count() as u64).sum()
    };
    for variant in [Variant::Full, Variant::Majmin, Variant::Majmin7inv] {
        params.variant = Some(variant);
        let dataset = params.read().expect("a data set");
        assert_eq!(dataset.coverage.listed, 29);
        let empty = count(&dataset, ProblemKind::EmptyInterval);
        let left_out = dataset.problems.iter().filter(|problem| {
            problem.kind == ProblemKind::MalformedLine && problem.message.ends_with("the line is left out")
        });
        assert_eq!(dataset.coverage.labels + empty + left_out.count() as u64, rows(&params), "{variant:?}");
        let malformed = if variant == Variant::Full { 52 } else { 0 };
        assert_eq!(count(&dataset, ProblemKind::MalformedLine), malformed, "{variant:?}");
        assert_eq!(wrong(&dataset).len() as u64, malformed, "{variant:?}");
        assert!(dataset.tracks.iter().all(|track| track.group.is_some()));
    }
    params.variant = None;
    params.task = Task::Structure;
    params.annotations = Some(params.annotations().with_file_name("salami").display().to_string());
    let dataset = params.read().expect("a data set");
    assert_eq!(dataset.coverage.with_labels, 29);
    assert_eq!(wrong(&dataset), [""; 0]);
    let silences = dataset.tracks.iter().flat_map(|track| &track.labels).filter(|label| label.value == "silence");
    // 54 lines of silence and five of `Z`.
    assert_eq!(silences.count(), 59);
}

#[test]
fn no_row_of_a_label_file_is_lost() {
    let folder = Folder::new(&[]);
    for (task, annotations, extension) in [
        (Task::Chords, "mirdata_samples/beatles/annotations", "lab"),
        (Task::Structure, "mirdata_samples/beatles/annotations", "lab"),
        (Task::Beats, "mirdata_samples/beatles/annotations", "txt"),
        (Task::Chords, "mirdata_samples/queen/annotations", "lab"),
        (Task::Structure, "mirdata_samples/queen/annotations", "lab"),
        (Task::Chords, "mirdata_samples/rwc_popular/annotations/AIST.RWC-MDB-P-2001.CHORD", "lab"),
        (Task::Chords, "mir_eval_fixtures/chord", "lab"),
        (Task::Structure, "mir_eval_fixtures/segment", "lab"),
        (Task::Beats, "mir_eval_fixtures/beat", "txt"),
    ] {
        let Some(mut params) = params(&folder, Layout::Lab, task, annotations) else { return };
        params.all = Some(All::Test);
        let dataset = params.read().expect("a data set");
        let rows = params.files().expect("files").into_iter().map(|path| {
            assert!(path.extension().is_some_and(|found| found == extension), "{}", path.display());
            let text = std::fs::read_to_string(path).expect("text");
            text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count() as u64
        });
        assert_eq!(dataset.coverage.labels, rows.sum::<u64>(), "{annotations}: {:#?}", wrong(&dataset));
        assert_eq!(wrong(&dataset), [""; 0], "{annotations}");
    }
}

#[test]
fn magnatagatune() {
    let folder = Folder::new(&[]);
    let Some(params) = params(&folder, Layout::Magnatagatune, Task::Tagging, "magnatagatune") else { return };
    let dataset = params.read().expect("a data set");
    assert_eq!(dataset.coverage.listed, 25_863);
    assert_eq!(dataset.coverage.left_out["cannot be decoded"], 3);
    assert_eq!(dataset.coverage.left_out["has none of the tags"], 5_329 + 1_825 - 4_332 - 1_529);
    // The tags of the training clips are not in this folder.
    assert_eq!(splits(&dataset), [18_706, 1_529, 4_332, 0]);
    assert_eq!(count(&dataset, ProblemKind::MissingLabels), 18_706);
    assert_eq!(leaks(&dataset.tracks), []);
    let classes = dataset.classes.expect("tags");
    assert_eq!((classes.len(), classes[46].as_str(), classes[49].as_str()), (50, "country", "choral"));
}

#[test]
fn magnatagatune_table() {
    let folder = Folder::new(&[]);
    // Is not among the published fixtures: a table in the original form, made from another list of the same tags.
    let path = "magnatagatune/annotations_final.csv";
    let Some(params) = params(&folder, Layout::Magnatagatune, Task::Tagging, path) else { return };
    let dataset = params.read().expect("a data set");
    assert_eq!((dataset.coverage.listed, splits(&dataset)), (25_863, [15_247, 1_529, 4_332, 0]));
    assert_eq!(wrong(&dataset), [""; 0]);
    let classes = dataset.classes.as_deref().expect("tags");
    assert_eq!(classes[..4], ["guitar", "classical", "slow", "techno"]);
}

#[test]
fn pianosyllabus() {
    let folder = Folder::new(&[]);
    let path = "pianosyllabus/split_audio.json";
    let Some(mut params) = params(&folder, Layout::Pianosyllabus, Task::Difficulty, path) else { return };
    for fold in 0..5 {
        params.fold = Some(Fold::One(fold));
        let dataset = params.read().expect("a data set");
        assert_eq!((dataset.coverage.listed, splits(&dataset)), (7_901, [4_736, 1_576, 1_589, 0]));
        assert_eq!(wrong(&dataset), [""; 0]);
        let grades = counts(&dataset, |label| &label.value);
        let expected = [224, 581, 589, 792, 796, 887, 842, 858, 795, 586, 951];
        for (grade, count) in expected.into_iter().enumerate() {
            assert_eq!(grades[grade.to_string().as_str()], count, "grade {grade}");
        }
    }
}
