//! MagnaTagATune: 25,863 clips of 29 s with 188 tags, of which the 50 most frequent are used.
//!
//! Three forms are in use. The original: `annotations_final.csv`, tabs and quotes despite its name, with the columns
//! `clip_id`, the tags as `0` and `1`, and `mp3_path`. Minz Won's: `binary.npy` (clips by tags), `tags.npy`, and
//! `train.npy`, `valid.npy`, `test.npy` with `row<TAB>path` each. That of musicnn: `index_mtt.tsv` with `id<TAB>path`, and
//! `train_gt_mtt.tsv`, `val_gt_mtt.tsv`, `test_gt_mtt.tsv` with `id<TAB>[0.0, 1.0, ...]`.
//!
//! Law et al., "Evaluation of algorithms using games: the case of music tagging", ISMIR 2009.

mod forms;
mod tags;

use std::path::{Path, PathBuf};

use omar_schemas::Split;

use super::audio::{composed, without_extension};
use super::error::DatasetError;
use super::find;
use super::open::Reading;
use super::params::DatasetParams;
use super::track::{Label, Track};

/// Clips that cannot be decoded, or are not there.
const UNUSABLE: [&str; 3] = ["35644", "55753", "57881"];

const TABLE: &str = "annotations_final.csv";
const MATRIX: &str = "binary.npy";
const INDEX: &str = "index_mtt.tsv";

/// The last two parts of the path, without the extension.
pub(super) fn key(name: &str) -> Option<String> {
    let name = without_extension(name);
    let mut parts = name.rsplitn(3, '/');
    let (stem, folder) = (parts.next()?, parts.next()?);
    Some(composed(&format!("{folder}/{stem}")))
}

/// How the annotations are written.
enum Form {
    /// `annotations_final.csv`.
    Table(PathBuf),
    /// The folder of `binary.npy`.
    Matrix(PathBuf),
    /// The folder of `index_mtt.tsv`.
    Index(PathBuf),
}

fn form(params: &DatasetParams) -> Result<Form, DatasetError> {
    let path = params.annotations();
    let metadata = path.metadata().map_err(|error| DatasetError::io(&path, &error))?;
    if metadata.is_file() {
        return Ok(Form::Table(path));
    }
    if path.join(TABLE).is_file() {
        Ok(Form::Table(path.join(TABLE)))
    } else if path.join(MATRIX).is_file() {
        Ok(Form::Matrix(path))
    } else if path.join(INDEX).is_file() {
        Ok(Form::Index(path))
    } else {
        let message = format!("expected `{TABLE}`, `{MATRIX}` or `{INDEX}` in it, found none of them");
        Err(DatasetError::file(&path, None, message))
    }
}

/// The files that decide the result.
pub(super) fn files(params: &DatasetParams) -> Result<Vec<PathBuf>, DatasetError> {
    Ok(match form(params)? {
        Form::Table(path) => vec![path],
        Form::Matrix(folder) => {
            let mut files = vec![folder.join(MATRIX)];
            files.extend(params.tags.is_none().then(|| folder.join(tags::ARRAY)));
            files.extend(
                params.splits.is_none().then(|| super::split::files(&folder)).transpose()?.into_iter().flatten(),
            );
            files
        }
        Form::Index(folder) => {
            let mut files = vec![folder.join(INDEX)];
            files.extend(params.tags.is_none().then(|| folder.join(tags::LIST)));
            files.extend(find::search(&folder, &["*_gt_mtt.tsv"])?.0);
            files
        }
    })
}

pub(super) fn read(params: &DatasetParams, reading: &mut Reading) -> Result<(), DatasetError> {
    let given = params.tags.as_ref().map(|path| tags::read(Path::new(path))).transpose()?;
    match form(params)? {
        Form::Table(path) => forms::table(&path, given, reading),
        Form::Matrix(folder) => forms::matrix(params, &folder, given, reading),
        Form::Index(folder) => forms::index(&folder, given, reading),
    }
}

/// Tags of a list, for other layouts.
pub(super) fn read_tags(path: &Path) -> Result<Vec<String>, DatasetError> {
    tags::read(path)
}

/// The split of a folder, by its hexadecimal digit: 12 to 1 to 3.
fn split(mp3: &str) -> Option<Split> {
    let (folder, _) = mp3.split_once('/')?;
    match (folder.len(), u8::from_str_radix(folder, 16).ok()?) {
        (1, ..12) => Some(Split::Train),
        (1, 12) => Some(Split::Valid),
        (1, _) => Some(Split::Test),
        _ => None,
    }
}

/// A clip, unless it is one of those that are not used; `labels` is `None` where nothing is said about it.
fn push(reading: &mut Reading, id: &str, mp3: &str, labels: Option<Vec<Label>>, source: &Path) {
    let key = key(mp3).unwrap_or_else(|| composed(mp3));
    if UNUSABLE.contains(&id) {
        return reading.leave_out("cannot be decoded", id, key);
    }
    if labels.as_ref().is_some_and(Vec::is_empty) {
        return reading.leave_out("has none of the tags", id, key);
    }
    let track = Track {
        labels: labels.unwrap_or_default(),
        split: split(mp3),
        group: song(mp3),
        ..Track::new(id, mp3, vec![source.to_owned()])
    };
    reading.push(key, track);
}

/// What remains of `artist-album-number-title-start-end.mp3` without the times.
fn song(mp3: &str) -> Option<String> {
    let mut parts = without_extension(mp3).rsplitn(3, '-');
    let (end, start, song) = (parts.next()?, parts.next()?, parts.next()?);
    [start, end].iter().all(|time| time.parse::<u32>().is_ok()).then(|| song.to_owned())
}
