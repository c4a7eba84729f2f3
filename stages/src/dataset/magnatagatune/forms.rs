//! The three forms of the annotations.

use std::collections::HashMap;
use std::path::Path;

use super::super::error::{DatasetError, Problem, ProblemKind};
use super::super::npy::{self, Data};
use super::super::open::Reading;
use super::super::params::DatasetParams;
use super::super::split;
use super::super::track::Label;
use super::super::{find, table as tables, text};
use super::{INDEX, MATRIX, push, tags};

/// A row of `annotations_final.csv`: which tags it has, by column.
struct Row {
    line: u64,
    id: String,
    mp3: String,
    tags: Vec<usize>,
}

/// `annotations_final.csv`.
pub(super) fn table(path: &Path, given: Option<Vec<String>>, reading: &mut Reading) -> Result<(), DatasetError> {
    let (mut reader, header, late) = tables::open(path)?;
    let names: Vec<&str> = header.iter().collect();
    let column = |name: &str| {
        names.iter().position(|column| *column == name).ok_or_else(|| {
            let found = names.iter().take(4).copied().collect::<Vec<_>>().join("`, `");
            DatasetError::file(path, 1, format!("expected a column `{name}`, found `{found}` and so on"))
        })
    };
    let (of_id, of_mp3) = (column("clip_id")?, column("mp3_path")?);
    let mut rows = Vec::new();
    let mut counts = vec![0; names.len()];
    let mut record = csv::StringRecord::new();
    while tables::next(path, &mut reader, late, &mut record, &mut reading.problems)? {
        let line = record.position().map_or(0, csv::Position::line) + late;
        if record.len() != names.len() {
            reading.problems.push(tables::unequal(path, line, names.len(), record.len()));
            continue;
        }
        let mut row = Row { line, id: record[of_id].to_owned(), mp3: record[of_mp3].to_owned(), tags: Vec::new() };
        for (column, cell) in record.iter().enumerate().filter(|&(column, _)| column != of_id && column != of_mp3) {
            match cell {
                "0" => {}
                "1" => row.tags.push(column),
                other => {
                    let message = format!("`{}`: expected 0 or 1, found `{other}`; it counts as 0", names[column]);
                    reading.problem(ProblemKind::MalformedLine, path, line, message);
                }
            }
        }
        row.tags.iter().for_each(|&column| counts[column] += 1);
        rows.push(row);
    }
    let classes = match given {
        Some(tags) => tags,
        None => {
            let tags: Vec<usize> = (0..names.len()).filter(|&column| column != of_id && column != of_mp3).collect();
            let of = |tags: &[usize]| tags.iter().map(|&column| counts[column]).collect::<Vec<u64>>();
            super::tags::top(&tags.iter().map(|&column| names[column]).collect::<Vec<_>>(), &of(&tags))
        }
    };
    let columns = classes.iter().map(|tag| column(tag)).collect::<Result<Vec<_>, _>>()?;
    for Row { line, id, mp3, tags } in rows {
        let of_row = columns.iter().zip(&classes).filter(|(column, _)| tags.contains(column));
        let labels = of_row.map(|(_, tag)| Label::whole(tag, line)).collect();
        push(reading, &id, &mp3, Some(labels), path);
    }
    reading.classes = Some(classes);
    Ok(())
}

/// `binary.npy`, with lists of its rows; clips are named by their paths.
pub(super) fn matrix(
    params: &DatasetParams,
    folder: &Path,
    given: Option<Vec<String>>,
    reading: &mut Reading,
) -> Result<(), DatasetError> {
    let path = folder.join(MATRIX);
    let classes = given.map_or_else(|| tags::read(&folder.join(tags::ARRAY)), Ok)?;
    let array = npy::read(&path)?;
    let (rows, values) = match (array.shape.as_slice(), array.data) {
        (&[rows, tags], Data::Numbers(values)) if tags == classes.len() => (rows, values),
        (shape, _) => {
            let message = format!("expected numbers of shape (clips, {}), found the shape {shape:?}", classes.len());
            return Err(DatasetError::file(&path, None, message));
        }
    };
    let lists = params.splits.as_ref().map_or(folder, Path::new);
    for listed in split::read(lists, None, &mut reading.problems)? {
        let row = listed.row.split('\t').next().and_then(|row| row.trim().parse::<usize>().ok());
        let Some(row) = row.filter(|&row| row < rows && listed.name.contains('/')) else {
            let message = format!(
                "expected a row below {rows} and a path, separated by a tab, found `{}`; it is left out",
                listed.row
            );
            reading.problem(ProblemKind::MalformedLine, &listed.path, listed.line, message);
            continue;
        };
        let values = &values[row * classes.len()..][..classes.len()];
        let of_row = classes.iter().zip(values).filter(|&(_, &value)| value > 0.5);
        let labels = of_row.map(|(tag, _)| Label::whole(tag, row as u64 + 1)).collect();
        let count = reading.entries.len();
        push(reading, &listed.name, &listed.name, Some(labels), &path);
        if let Some(entry) = reading.entries.get_mut(count) {
            entry.track.split = Some(listed.split);
            entry.track.sources.insert(0, listed.path);
        }
    }
    reading.classes = Some(classes);
    Ok(())
}

/// `index_mtt.tsv`, with tags in `*_gt_mtt.tsv`.
pub(super) fn index(folder: &Path, given: Option<Vec<String>>, reading: &mut Reading) -> Result<(), DatasetError> {
    let classes = given.map_or_else(|| tags::read(&folder.join(tags::LIST)), Ok)?;
    let mut said = HashMap::new();
    for path in find::search(folder, &["*_gt_mtt.tsv"])?.0 {
        let text = text::read(&path, &mut reading.problems)?;
        for (line, row) in text::rows(&text) {
            match vector(row, classes.len()) {
                Ok((id, values)) => {
                    let of_row = classes.iter().zip(values).filter(|&(_, value)| value > 0.5);
                    let labels: Vec<Label> = of_row.map(|(tag, _)| Label::whole(tag, line)).collect();
                    said.insert(id.to_owned(), (labels, path.clone()));
                }
                Err(message) => reading.problems.push(Problem::new(ProblemKind::MalformedLine, &path, line, message)),
            }
        }
    }
    let path = folder.join(INDEX);
    let text = text::read(&path, &mut reading.problems)?;
    for (line, row) in text::rows(&text) {
        let Some((id, mp3)) = row.split_once('\t') else {
            let message = format!("expected an id and a path, separated by a tab, found `{row}`; the line is left out");
            reading.problem(ProblemKind::MalformedLine, &path, line, message);
            continue;
        };
        let (labels, source) = said.remove(id).map_or((None, path.clone()), |(labels, path)| (Some(labels), path));
        push(reading, id, mp3.trim(), labels, &source);
    }
    let mut unknown: Vec<_> = said.into_iter().collect();
    unknown.sort_by(|a, b| a.0.cmp(&b.0));
    for (id, (labels, path)) in unknown {
        let message = format!("expected a clip of `{INDEX}`, found `{id}`");
        reading.problem(ProblemKind::UnknownTrack, &path, labels.first().map(|label| label.line), message);
    }
    reading.classes = Some(classes);
    Ok(())
}

/// An id and its row of the matrix.
fn vector(row: &str, tags: usize) -> Result<(&str, Vec<f64>), String> {
    let found = row.split_once('\t').and_then(|(id, list)| Some((id, serde_json::from_str(list).ok()?)));
    let (id, values): (&str, Vec<f64>) = found.ok_or_else(|| {
        let start: String = row.chars().take(40).collect();
        format!("expected an id and a list of numbers, separated by a tab, found `{start}`; the line is left out")
    })?;
    if values.len() != tags {
        return Err(format!("expected {tags} numbers, one per tag, found {}; the line is left out", values.len()));
    }
    Ok((id, values))
}

#[cfg(test)]
mod tests {
    use omar_schemas::Split;

    use super::super::super::kinds::{Layout, Task};
    use super::super::super::sample::Folder;
    use super::*;

    const TABLE: &str = "\"clip_id\"\t\"no voice\"\t\"metal\"\t\"harp\"\t\"mp3_path\"\n\
        \"2\"\t\"0\"\t\"1\"\t\"0\"\t\"f/a-b-01-c-30-59.mp3\"\n\
        \"6\"\t\"1\"\t\"1\"\t\"0\"\t\"0/a-b-02-d-0-29.mp3\"\n\
        \"7\"\t\"0\"\t\"0\"\t\"0\"\t\"c/a-b-02-d-29-58.mp3\"\n\
        \"35644\"\t\"0\"\t\"1\"\t\"0\"\t\"d/x-0-29.mp3\"\n\
        \"8\"\t\"0\"\t\"2\"\t\"1\"\t\"c/a-b-02-e-0-29.mp3\"\n\
        \"9\"\t\"0\"\t\"1\"\n";

    fn summary(dataset: &super::super::super::Dataset) -> Vec<(&str, Option<Split>, String)> {
        let tags = |labels: &[Label]| labels.iter().map(|label| label.value.clone()).collect::<Vec<_>>().join("+");
        dataset.tracks.iter().map(|track| (track.id.as_str(), track.split, tags(&track.labels))).collect()
    }

    #[test]
    fn the_table_has_tabs_whatever_its_name() {
        let folder = Folder::new(&[
            ("m/annotations_final.csv", TABLE.as_bytes()),
            ("tags.txt", b"harp\nmetal\n"),
            ("audio/f/a-b-01-c-30-59.wav", b""),
            ("audio/c/a-b-02-d-29-58.mp3", b""),
            ("audio/c/other-0-29.mp3", b""),
        ]);
        let mut params = folder.params(Layout::Magnatagatune, Task::Tagging, "m");
        let dataset = params.open().expect("a data set");
        let expected = [
            ("2", Some(Split::Test), "metal".to_owned()),
            ("6", Some(Split::Train), "metal+no voice".to_owned()),
            ("8", Some(Split::Valid), "harp".to_owned()),
        ];
        assert_eq!(summary(&dataset), expected);
        assert_eq!(dataset.classes.as_deref(), Some(["metal", "no voice", "harp"].map(str::to_owned).as_slice()));
        assert_eq!(dataset.tracks[1].group.as_deref(), Some("0/a-b-02-d"));
        assert_eq!((dataset.coverage.listed, dataset.coverage.left_out["has none of the tags"]), (5, 1));
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        let expected = [
            "`m/annotations_final.csv`, line 6: `metal`: expected 0 or 1, found `2`; it counts as 0",
            "`m/annotations_final.csv`, line 7: expected 5 fields as in the header, found 3; the row is left out",
            "`audio/0/a-b-02-d-0-29.mp3`: expected the recording of `6` here (any audio extension), found none",
            "`audio/c/a-b-02-e-0-29.mp3`: expected the recording of `8` here (any audio extension), found none",
            "`audio/c/other-0-29.mp3`: nothing is said about this recording in `m`",
        ];
        let problems: Vec<_> = problems.iter().map(|text| text.replace(&folder.text(""), "")).collect();
        assert_eq!(problems, expected);
        params.tags = Some(folder.text("tags.txt"));
        let dataset = params.open().expect("a data set");
        assert_eq!(summary(&dataset)[0].2, "metal");
        assert_eq!(dataset.classes.expect("tags"), ["harp", "metal"]);
        folder.write("tags.txt", b"harp\nmtal\n");
        let error = folder.shorten(params.open().expect_err("no such tag"));
        assert!(error.contains("line 1: expected a column `mtal`, found `clip_id`, `no voice`"), "{error}");
    }

    #[test]
    fn lists_name_clips_by_id_row_or_path() {
        let folder = Folder::new(&[
            ("m/annotations_final.csv", TABLE.as_bytes()),
            ("s/train.npy", &npy::text(&["5\tf/a-b-01-c-30-59.mp3"])),
            ("s/val.tsv", b"6\n7\n"),
            ("s/test.txt", b"0\tc/a-b-02-e-0-29.mp3\nx\n"),
            ("audio/a.wav", b""),
        ]);
        let mut params = folder.params(Layout::Magnatagatune, Task::Tagging, "m");
        params.splits = Some(folder.text("s"));
        let dataset = params.read().expect("a data set");
        let splits: Vec<_> = summary(&dataset).into_iter().map(|(_, split, _)| split).collect();
        assert_eq!(splits, [Some(Split::Train), Some(Split::Valid), Some(Split::Test)]);
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        assert!(problems.contains(&"`s/test.txt`, line 2: expected the name of a track, found `x`".to_owned()));
        assert!(params.open().expect_err("no audio").to_string().starts_with("no recording of `magnatagatune` is in"));
        folder.write("s/train.npy", &npy::file("|O", false, "1, 2", b"\x80\x03"));
        assert!(params.open().expect_err("pickled").to_string().contains("train.npy`: holds pickled Python objects"));
    }

    #[test]
    fn a_matrix_has_its_rows_in_lists() {
        let values: Vec<u8> = [0., 1., 1., 1., 0., 0.].iter().flat_map(|x: &f32| x.to_le_bytes()).collect();
        let folder = Folder::new(&[
            ("m/binary.npy", &npy::file("<f4", false, "3, 2", &values)),
            ("m/tags.npy", &npy::text(&["female voice", "metal"])),
            ("m/train.npy", &npy::text(&["1\t0/x-0-29.mp3", "9\t0/y-0-29.mp3"])),
            ("m/test.npy", &npy::text(&["0\tf/z-0-29.mp3", "2\tf/w-0-29.mp3"])),
            ("audio/0/x-0-29.mp3", b""),
        ]);
        let params = folder.params(Layout::Magnatagatune, Task::Tagging, "m");
        let dataset = params.open().expect("a data set");
        let expected = [
            ("f/z-0-29.mp3", Some(Split::Test), "metal".to_owned()),
            ("0/x-0-29.mp3", Some(Split::Train), "female voice+metal".to_owned()),
        ];
        assert_eq!(summary(&dataset), expected);
        assert_eq!(dataset.coverage.left_out["has none of the tags"], 1);
        assert_eq!(
            folder.shorten(&dataset.problems[0]),
            "`m/train.npy`, line 2: expected a row below 3 and a path, separated by a tab, found `9\t0/y-0-29.mp3`; it is \
             left out"
        );
        assert_eq!(params.files().expect("files").len(), 4);
        folder.write("m/tags.npy", &npy::text(&["metal"]));
        let error = folder.shorten(params.open().expect_err("too few tags"));
        assert_eq!(error, "`m/binary.npy`: expected numbers of shape (clips, 1), found the shape [3, 2]");
    }

    #[test]
    fn an_index_has_its_tags_in_other_files() {
        let folder = Folder::new(&[
            ("m/index_mtt.tsv", b"2\tf/a-0-29.mp3\n6\tc/b-0-29.mp3\n7\t0/c-0-29.mp3\nx\n"),
            ("m/output_labels_mtt.txt", b"L = ['metal', 'harp']"),
            ("m/test_gt_mtt.tsv", b"2\t[0.0, 1.0]\n5\t[0.0, 1.0]\n"),
            ("m/val_gt_mtt.tsv", b"6\t[0.0, 0.0]\n8\t[1.0]\n9 [1.0, 0.0]\n"),
            ("audio/f/a-0-29.ogg", b""),
        ]);
        let params = folder.params(Layout::Magnatagatune, Task::Tagging, "m");
        let dataset = params.open().expect("a data set");
        let expected = [("2", Some(Split::Test), "harp".to_owned()), ("7", Some(Split::Train), String::new())];
        assert_eq!(summary(&dataset), expected);
        let problems: Vec<_> = dataset.problems.iter().map(|problem| folder.shorten(problem)).collect();
        for expected in [
            "`m/val_gt_mtt.tsv`, line 2: expected 2 numbers, one per tag, found 1; the line is left out",
            "`m/val_gt_mtt.tsv`, line 3: expected an id and a list of numbers, separated by a tab, found `9 [1.0, 0.0]`; \
             the line is left out",
            "`m/index_mtt.tsv`, line 4: expected an id and a path, separated by a tab, found `x`; the line is left out",
            "`m/test_gt_mtt.tsv`, line 2: expected a clip of `index_mtt.tsv`, found `5`",
            "`m/index_mtt.tsv`: expected tagging of `7`, found none",
        ] {
            assert!(problems.iter().any(|problem| problem == expected), "{expected}: {problems:#?}");
        }
    }
}
