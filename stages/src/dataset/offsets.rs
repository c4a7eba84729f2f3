//! Annotations that belong to another master than the recording.

use std::path::{Path, PathBuf};

use super::error::{DatasetError, Problem, ProblemKind};
use super::open::{Entry, Named, Names, Reading, unknown};
use super::params::DatasetParams;
use super::table::{self, Columns};
use super::text;
use super::track::Track;

/// Moves the labels of the tracks that the table of offsets names, and cuts off what lies before the recordings.
pub(super) fn apply(params: &DatasetParams, names: &Names, reading: &mut Reading) -> Result<(), DatasetError> {
    if let Some(path) = params.offsets.as_ref().map(Path::new) {
        let mut rows = Vec::new();
        let columns = Columns { required: &["id", "offset"], optional: &["stretch"] };
        table::read(path, columns, &mut reading.problems, &mut |line, cells| {
            rows.push((line, [0, 1, 2].map(|cell| cells[cell].join(""))));
        })?;
        let mut moved = vec![false; reading.entries.len()];
        for (line, [id, offset, stretch]) in rows {
            let stretch = if stretch.is_empty() { "1" } else { stretch.as_str() };
            let (Some(offset), Some(stretch)) = (text::seconds(&offset), text::seconds(stretch).filter(|&by| by > 0.0))
            else {
                let message = format!(
                    "expected an offset in seconds and a stretch above 0, found `{offset}` and `{stretch}`; the row is \
                     left out"
                );
                reading.problem(ProblemKind::MalformedLine, path, line, message);
                continue;
            };
            match names.find(&id) {
                Some(Named::Track(index)) if moved[index] => {
                    let message = format!("`{id}` has an offset above, which counts");
                    reading.problem(ProblemKind::Duplicate, path, line, message);
                }
                Some(Named::Track(index)) => {
                    moved[index] = true;
                    shift(&mut reading.entries[index].track, offset, stretch, path);
                }
                Some(Named::LeftOut) => {}
                None => reading.problem(ProblemKind::UnknownTrack, path, line, unknown(&id)),
            }
        }
    }
    let mut problems = Vec::new();
    reading.entries.iter_mut().for_each(|Entry { track, .. }| problems.extend(cut(track)));
    reading.problems.append(&mut problems);
    Ok(())
}

fn shift(track: &mut Track, offset: f64, stretch: f64, path: &Path) {
    for time in track.labels.iter_mut().flat_map(|label| [&mut label.start, &mut label.end]).flatten() {
        *time = offset + stretch * *time;
    }
    track.sources.insert(0, path.to_owned());
}

fn cut(track: &mut Track) -> Option<Problem> {
    let line = track.labels.iter().find(|label| label.start.is_some_and(|start| start < 0.0))?.line;
    let count = track.crop(0.0, f64::INFINITY);
    let path = track.sources.last().cloned().unwrap_or_else(|| PathBuf::from(&track.audio));
    let message = format!("{count} labels of `{}` start before its recording; they are cut off", track.id);
    Some(Problem::new(ProblemKind::BeforeStart, path, line, message))
}
