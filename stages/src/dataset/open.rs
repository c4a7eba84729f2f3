//! From parameters to a data set: what all layouts have in common.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::audio::{AudioIndex, composed};
use super::error::{DatasetError, Problem, ProblemKind};
use super::kinds::Layout;
use super::params::DatasetParams;
use super::table::{self, Columns};
use super::track::{Coverage, Dataset, Track};
use super::{billboard, generic, gtzan, harmonix, lab, magnatagatune, nsynth, offsets, pianosyllabus, split};

/// What a layout has read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
    pub(super) classes: Option<Vec<String>>,
    /// Names (ids and keys) of recordings that the protocol leaves out.
    left_out_names: HashSet<String>,
    left_out: BTreeMap<&'static str, u64>,
}

/// A track, and what is stable in its name.
pub(super) struct Entry {
    pub(super) track: Track,
    pub(super) key: String,
}

/// Whose name it is.
pub(super) enum Named {
    /// Of the entry with this index.
    Track(usize),
    /// Of a recording that is left out.
    LeftOut,
}

/// Finds tracks by what lists call them: their id, or anything with the same key.
pub(super) struct Names {
    ids: HashMap<String, usize>,
    keys: HashMap<String, usize>,
    left_out: HashSet<String>,
    layout: Layout,
}

impl Reading {
    pub(super) fn problem(
        &mut self,
        kind: ProblemKind,
        path: &Path,
        line: impl Into<Option<u64>>,
        message: impl Into<String>,
    ) {
        self.problems.push(Problem::new(kind, path, line, message));
    }

    pub(super) fn push(&mut self, key: impl Into<String>, track: Track) {
        self.entries.push(Entry { track, key: key.into() });
    }

    /// Counts a recording that the protocol of the data set does not use.
    pub(super) fn leave_out(&mut self, reason: &'static str, id: &str, key: String) {
        *self.left_out.entry(reason).or_default() += 1;
        self.left_out_names.insert(composed(id));
        self.left_out_names.insert(key);
    }

    /// Keeps the first of tracks with the same id or key.
    fn remove_duplicates(&mut self, layout: Layout) -> Names {
        let mut names = Names {
            ids: HashMap::new(),
            keys: HashMap::new(),
            left_out: std::mem::take(&mut self.left_out_names),
            layout,
        };
        let mut kept: Vec<Entry> = Vec::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            let id = composed(&entry.track.id);
            if let Some(&first) = names.ids.get(&id).or_else(|| names.keys.get(&entry.key)) {
                let path = entry.track.sources.last().cloned().unwrap_or_default();
                let first = &kept[first].track;
                let from = first.sources.last().map_or(String::new(), |path| format!(" from `{}`", path.display()));
                let line = entry.track.labels.first().map(|label| label.line);
                let message = format!("`{}` is the same track as `{}`{from}, which counts", entry.track.id, first.id);
                self.problem(ProblemKind::Duplicate, &path, line, message);
                continue;
            }
            names.ids.insert(id, kept.len());
            names.keys.insert(entry.key.clone(), kept.len());
            kept.push(entry);
        }
        self.entries = kept;
        names
    }
}

impl Names {
    /// Whose name this is.
    pub(super) fn find(&self, name: &str) -> Option<Named> {
        let id = composed(name);
        if let Some(&index) = self.ids.get(&id) {
            return Some(Named::Track(index));
        }
        let key = key(self.layout, name);
        if let Some(&index) = key.as_ref().and_then(|key| self.keys.get(key)) {
            return Some(Named::Track(index));
        }
        let left_out = self.left_out.contains(&id) || key.is_some_and(|key| self.left_out.contains(&key));
        left_out.then_some(Named::LeftOut)
    }
}

/// What is stable in a name.
fn key(layout: Layout, name: &str) -> Option<String> {
    match layout {
        Layout::Magnatagatune => magnatagatune::key(name),
        Layout::Nsynth => nsynth::key(name),
        Layout::Harmonix => harmonix::key(name),
        Layout::Gtzan => gtzan::key(name),
        Layout::Lab => lab::key(name),
        Layout::Billboard => billboard::key(name),
        Layout::Pianosyllabus => pianosyllabus::key(name),
        Layout::Generic => generic::key(name),
    }
}

impl DatasetParams {
    /// Reads the data set, and makes sure that it can be worked with.
    ///
    /// # Errors
    /// As [`DatasetParams::read`]; when there is audio for none of the tracks, which is a wrong path rather than a gap;
    /// or labels for none; and when there is any problem and the parameters are `strict`.
    pub fn open(&self) -> Result<Dataset, DatasetError> {
        let dataset = self.read()?;
        if self.strict
            && let Some(first) = dataset.problems.first()
        {
            let (first, rest) = (Box::new(first.clone()), dataset.problems.len() - 1);
            return Err(DatasetError::Strict { first, rest });
        }
        if dataset.coverage.with_audio == 0 {
            return Err(DatasetError::Empty(format!(
                "no recording of `{}` is in `{}`: expected files such as `{}` with any audio extension; hint: `names` \
                 tells where recordings with other names are",
                self.layout.as_str(),
                self.audio,
                dataset.tracks[0].audio
            )));
        }
        if dataset.coverage.with_labels == 0 {
            let reason = dataset.problems.iter().find(|problem| problem.kind != ProblemKind::MissingAudio);
            let reason = reason.map_or(String::new(), |problem| format!("; {problem}"));
            let (task, layout) = (self.task.as_str(), self.layout.as_str());
            return Err(DatasetError::Empty(format!("no track of `{layout}` has {task}{reason}")));
        }
        Ok(dataset)
    }

    /// Reads the data set, whatever is missing from it.
    ///
    /// # Errors
    /// When the parameters do not fit each other, a file or folder that they name cannot be read, or there are no
    /// tracks.
    pub fn read(&self) -> Result<Dataset, DatasetError> {
        self.check()?;
        let audio = AudioIndex::search(Path::new(&self.audio), |path| key(self.layout, path))?;
        let mut reading = Reading::default();
        match self.layout {
            Layout::Magnatagatune => magnatagatune::read(self, &mut reading),
            Layout::Nsynth => nsynth::read(self, &mut reading),
            Layout::Harmonix => harmonix::read(self, &mut reading),
            Layout::Gtzan => gtzan::read(self, &audio, &mut reading),
            Layout::Lab => lab::read(self, &mut reading),
            Layout::Billboard => billboard::read(self, &mut reading),
            Layout::Pianosyllabus => pianosyllabus::read(self, &mut reading),
            Layout::Generic => generic::read(self, &mut reading),
        }?;
        let names = reading.remove_duplicates(self.layout);
        if reading.entries.is_empty() {
            let place = self.annotations.as_deref().unwrap_or(&self.audio);
            return Err(DatasetError::Empty(match reading.problems.first() {
                Some(first) => format!("`{place}` has no tracks; {first}"),
                None => format!("`{place}` has no tracks"),
            }));
        }
        self.find_audio(&audio, &names, &mut reading)?;
        split::assign(self, &names, &mut reading)?;
        offsets::apply(self, &names, &mut reading)?;
        report_missing_labels(self, &audio, &names, &mut reading);
        let tracks: Vec<Track> = reading.entries.into_iter().map(|entry| entry.track).collect();
        let coverage = Coverage::of(&tracks, &reading.problems, &reading.left_out);
        Ok(Dataset { tracks, problems: reading.problems, coverage, classes: reading.classes })
    }

    /// The annotation files that decide what [`DatasetParams::read`] gives, sorted: with their content and the names of
    /// the audio files, it is always the same.
    ///
    /// # Errors
    /// When a folder cannot be searched, or a file that names others cannot be read.
    pub fn files(&self) -> Result<Vec<PathBuf>, DatasetError> {
        self.check()?;
        let mut files = match self.layout {
            Layout::Magnatagatune => magnatagatune::files(self),
            Layout::Nsynth => nsynth::files(self),
            Layout::Harmonix => harmonix::files(self),
            Layout::Gtzan => gtzan::files(self),
            Layout::Lab => lab::files(self),
            Layout::Billboard => billboard::files(self),
            Layout::Pianosyllabus => Ok(vec![self.annotations()]),
            Layout::Generic => generic::files(self),
        }?;
        if let Some(splits) = &self.splits {
            files.extend(split::files(Path::new(splits))?);
        }
        files.extend([&self.names, &self.offsets, &self.tags].into_iter().flatten().map(PathBuf::from));
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// Looks for the recording of every track.
    fn find_audio(&self, audio: &AudioIndex, names: &Names, reading: &mut Reading) -> Result<(), DatasetError> {
        let elsewhere = self.elsewhere(names, reading)?;
        let root = Path::new(&self.audio);
        let mut problems = Vec::new();
        for (index, Entry { track, key }) in reading.entries.iter_mut().enumerate() {
            if let Some(path) = elsewhere.get(&index) {
                track.audio.clone_from(path);
                track.present = root.join(path).is_file();
            } else if let [first, others @ ..] = audio.find(key) {
                // The one that is named exactly as the data set names it, if there is a choice.
                let exact = others.iter().find(|path| **path == track.audio);
                if !others.is_empty() && exact.is_none() && *first != track.audio {
                    let others = others.join("`, `");
                    let message = format!("`{}` has several recordings: this one counts, not `{others}`", track.id);
                    problems.push(Problem::new(ProblemKind::AmbiguousAudio, root.join(first), None, message));
                }
                track.audio.clone_from(exact.unwrap_or(first));
                track.present = true;
            }
            if !track.present {
                let message =
                    format!("expected the recording of `{}` here (any audio extension), found none", track.id);
                problems.push(Problem::new(ProblemKind::MissingAudio, root.join(&track.audio), None, message));
            }
        }
        reading.problems.append(&mut problems);
        Ok(())
    }

    /// Recordings whose place is said by a table, by the index of their entries.
    fn elsewhere(&self, names: &Names, reading: &mut Reading) -> Result<HashMap<usize, String>, DatasetError> {
        let mut elsewhere = HashMap::new();
        let Some(path) = self.names.as_ref().map(Path::new) else { return Ok(elsewhere) };
        let mut rows = Vec::new();
        let columns = Columns { required: &["id", "audio"], optional: &[] };
        table::read(path, columns, &mut reading.problems, &mut |line, cells| {
            rows.push((line, cells[0].join(""), cells[1].join("")));
        })?;
        for (line, id, audio) in rows {
            match names.find(&id) {
                _ if audio.is_empty() => {
                    let message = format!("expected where the recording of `{id}` is, found nothing");
                    reading.problem(ProblemKind::MalformedLine, path, line, message);
                }
                Some(Named::Track(index)) => drop(elsewhere.insert(index, audio)),
                Some(Named::LeftOut) => {}
                None => reading.problem(ProblemKind::UnknownTrack, path, line, unknown(&id)),
            }
        }
        Ok(elsewhere)
    }
}

/// Of a name that no track has.
pub(super) fn unknown(name: &str) -> String {
    format!("expected the name of a track, found `{name}`")
}

/// Names tracks without labels, and recordings that are no track.
fn report_missing_labels(params: &DatasetParams, audio: &AudioIndex, names: &Names, reading: &mut Reading) {
    let mut problems = Vec::new();
    for Entry { track, .. } in reading.entries.iter().filter(|entry| entry.track.labels.is_empty()) {
        let path = track.sources.last().cloned().unwrap_or_else(|| Path::new(&params.audio).join(&track.audio));
        let message = format!("expected {} of `{}`, found none", params.task.as_str(), track.id);
        problems.push(Problem::new(ProblemKind::MissingLabels, path, None, message));
    }
    if params.layout != Layout::Generic {
        let used: HashSet<&str> = reading.entries.iter().map(|entry| entry.track.audio.as_str()).collect();
        for (path, key) in audio.files() {
            let known = |key| names.keys.contains_key(key) || names.left_out.contains(key);
            if key.is_some_and(|key| !known(key)) && !used.contains(path) {
                let message = format!("nothing is said about this recording in `{}`", params.annotations().display());
                let path = Path::new(&params.audio).join(path);
                problems.push(Problem::new(ProblemKind::MissingLabels, path, None, message));
            }
        }
    }
    reading.problems.append(&mut problems);
}
