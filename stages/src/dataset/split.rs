//! What recordings are used for: by the layout, by lists, or drawn.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use omar_schemas::Split;

use super::error::{DatasetError, Problem, ProblemKind};
use super::folds::Fold;
use super::kinds::Draw;
use super::open::{Entry, Named, Names, Reading, unknown};
use super::params::DatasetParams;
use super::track::Track;
use super::{find, npy, text};
use crate::seed;

/// One line of a list.
pub(super) struct Listed {
    /// What it calls the track.
    pub(super) name: String,
    /// The whole line.
    pub(super) row: String,
    pub(super) split: Split,
    pub(super) path: PathBuf,
    pub(super) line: u64,
}

/// Gives every track its split, or names it.
pub(super) fn assign(params: &DatasetParams, names: &Names, reading: &mut Reading) -> Result<(), DatasetError> {
    if let Some(all) = params.all {
        reading.entries.iter_mut().for_each(|entry| entry.track.split = Some(all.into()));
        return Ok(());
    }
    if let Some(path) = params.splits.as_ref().map(Path::new) {
        let listed = read(path, params.fold.map(Fold::number), &mut reading.problems)?;
        follow(listed, names, reading);
    }
    if let Some(draw) = params.draw {
        for Entry { track, .. } in reading.entries.iter_mut().filter(|entry| entry.track.split.is_none()) {
            track.split = Some(drawn(draw, track.group.as_deref().unwrap_or(&track.id)));
        }
    }
    let tracks = reading.entries.iter().map(|entry| &entry.track);
    name_those_without(params, tracks, &mut reading.problems);
    Ok(())
}

/// Names the tracks that have no split.
pub(super) fn name_those_without<'a>(
    params: &DatasetParams,
    tracks: impl IntoIterator<Item = &'a Track>,
    problems: &mut Vec<Problem>,
) {
    for track in tracks.into_iter().filter(|track| track.split.is_none()) {
        let path = params.splits.as_ref().map(PathBuf::from).or_else(|| track.sources.first().cloned());
        let message = format!("`{}` is in no split; hint: `draw` gives one to tracks that no list names", track.id);
        problems.push(Problem::new(ProblemKind::NoSplit, path.unwrap_or_default(), None, message));
    }
}

/// The split of a group.
fn drawn(draw: Draw, group: &str) -> Split {
    let uniform = seed::Random::new(seed::derive_named(draw.seed, group), &[]).uniform();
    if uniform < draw.test {
        Split::Test
    } else if uniform < draw.test + draw.valid {
        Split::Valid
    } else {
        Split::Train
    }
}

/// Lists replace what the layout says.
fn follow(listed: Vec<Listed>, names: &Names, reading: &mut Reading) {
    reading.entries.iter_mut().for_each(|entry| entry.track.split = None);
    let mut places: HashMap<usize, (PathBuf, u64)> = HashMap::new();
    for Listed { name, split, path, line, .. } in listed {
        let index = match names.find(&name) {
            Some(Named::Track(index)) => index,
            Some(Named::LeftOut) => continue,
            None => {
                reading.problem(ProblemKind::UnknownTrack, &path, line, unknown(&name));
                continue;
            }
        };
        let track = &mut reading.entries[index].track;
        if let (Some(before), Some((first, at))) = (track.split, places.get(&index)) {
            if before != split {
                let message = format!(
                    "`{name}` is in split `{}`, but in `{}` by `{}`, line {at}, which counts",
                    split.as_str(),
                    before.as_str(),
                    first.display()
                );
                reading.problem(ProblemKind::Conflict, &path, line, message);
            }
            continue;
        }
        track.split = Some(split);
        if !track.sources.contains(&path) {
            // The last source stays the one that holds the labels.
            track.sources.insert(0, path.clone());
        }
        places.insert(index, (path, line));
    }
}

/// The lists at a path.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if path.is_dir() { Ok(lists(path)?.into_iter().map(|(path, _)| path).collect()) } else { Ok(vec![path.to_owned()]) }
}

/// The lists of a folder, one per split, with what they list.
fn lists(folder: &Path) -> Result<Vec<(PathBuf, Split)>, DatasetError> {
    let split = |path: &Path| split_of(path.file_stem()?.to_str()?);
    let such_as = "`train.txt`, `valid.txt` and `test.txt` (or .tsv, .csv, .npy)";
    let patterns = ["*.txt", "*.tsv", "*.csv", "*.npy", "*.lst"];
    let found = find::files(folder, &patterns, such_as, |path| split(path).is_some())?;
    Ok(found.into_iter().filter_map(|path| split(&path).map(|split| (path, split))).collect())
}

/// The split that a name stands for: `val`, `validation`, `train_gt_mtt`.
fn split_of(name: &str) -> Option<Split> {
    let name = name.to_lowercase();
    match name.split(['_', '-', '.']).next().unwrap_or_default() {
        "train" | "training" => Some(Split::Train),
        "valid" | "val" | "validation" | "dev" => Some(Split::Valid),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

/// Reads the lists at a path.
pub(super) fn read(path: &Path, fold: Option<u32>, problems: &mut Vec<Problem>) -> Result<Vec<Listed>, DatasetError> {
    if !path.is_dir() {
        return one_list(path, fold, problems);
    }
    if fold.is_some() {
        let message = format!("expected a list of numbered folds, found the folder `{}`", path.display());
        return Err(DatasetError::param("fold", message));
    }
    let mut listed = Vec::new();
    for (path, split) in lists(path)? {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let mut list = |line, row: &str| {
            let (name, row) = (named(row).to_owned(), row.to_owned());
            listed.push(Listed { name, row, split, path: path.clone(), line });
        };
        if extension == "npy" {
            (1..).zip(npy::read_text(&path)?).for_each(|(line, row)| list(line, &row));
        } else {
            text::rows(&text::read(&path, problems)?).for_each(|(line, row)| list(line, row));
        }
    }
    Ok(listed)
}

/// The column that names a track: a path if there is one, otherwise the first.
fn named(row: &str) -> &str {
    let columns = || row.split('\t').map(str::trim);
    columns().find(|column| column.contains('/')).or_else(|| columns().next()).unwrap_or(row)
}

/// How many folds a list numbers; 0 where it names splits.
pub(super) fn folds(path: &Path) -> Result<u32, DatasetError> {
    if path.is_dir() {
        let message = format!("expected a list of numbered folds, found the folder `{}`", path.display());
        return Err(DatasetError::param("fold", message));
    }
    let text = text::read(path, &mut Vec::new())?;
    let last = |(_, row): (u64, &str)| row.rsplit(['\t', ',', ' ']).next()?.trim().trim_matches('"').parse().ok();
    Ok(text::rows(&text).filter_map(last).max().map_or(0, |last: u32| last + 1))
}

/// A list of names with their splits or folds.
fn one_list(path: &Path, fold: Option<u32>, problems: &mut Vec<Problem>) -> Result<Vec<Listed>, DatasetError> {
    let text = text::read(path, problems)?;
    let mut values = Vec::new();
    for (line, row) in text::rows(&text) {
        let separated = row.rsplit_once('\t').or_else(|| row.rsplit_once(',')).or_else(|| row.rsplit_once(' '));
        match separated {
            Some((name, value)) => values.push((line, name.trim().trim_matches('"'), value.trim().trim_matches('"'))),
            None => {
                let message = format!("expected a name and its split or fold, found `{row}`; the line is left out");
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            }
        }
    }
    if matches!(values.first(), Some((_, _, "split" | "fold"))) {
        values.remove(0);
    }
    let numbers = values.iter().filter_map(|(_, _, value)| value.parse::<u32>().ok());
    let folds = numbers.max().map(|last| last + 1);
    if let (Some(folds), None) = (folds, fold) {
        let message =
            format!("expected which of the {folds} folds of `{}` is the test set, found none", path.display());
        return Err(DatasetError::param("fold", message));
    }
    if let (Some(fold), folds) = (fold, folds.unwrap_or(0))
        && fold >= folds
    {
        let message =
            format!("expected one of the {folds} folds of `{}`, counted from 0, found {fold}", path.display());
        return Err(DatasetError::param("fold", message));
    }
    let mut listed = Vec::new();
    for (line, name, value) in values {
        let split = match (value.parse::<u32>().ok(), fold, folds) {
            (Some(value), Some(fold), _) if value == fold => Some(Split::Test),
            (Some(value), Some(fold), Some(folds)) if value == (fold + 1) % folds => Some(Split::Valid),
            (Some(_), ..) => Some(Split::Train),
            (None, ..) => split_of(value),
        };
        match split {
            Some(split) => {
                let (name, row) = (name.to_owned(), format!("{name}\t{value}"));
                listed.push(Listed { name, row, split, path: path.to_owned(), line });
            }
            None => {
                let message =
                    format!("expected a split (train, valid, test) or a fold, found `{value}`; the line is left out");
                problems.push(Problem::new(ProblemKind::MalformedLine, path, line, message));
            }
        }
    }
    Ok(listed)
}
